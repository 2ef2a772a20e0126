"""Which form a tensor takes: the smallest of those that the setting allows, that hold its numbers, and that its file's opset has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from onnx import TensorProto

from onnxprune.changes.storage.forms import CODES, PLAIN, Packing, TensorNumbers, plain_size
from onnxprune.changes.storage.rounding import Rounded
from onnxprune.model.facts import Facts
from onnxprune.model.graph import Graph

MOST_CODES = 256
EXACT = ("fp16", "float32", *CODES)
EVERYWHERE = ("whole", "bitmap", "gaps")
QUANTISERS = frozenset({"QuantizeLinear", "DequantizeLinear"})
LEAST = 0.95
"""A form has to come to less than this share of the plain bytes."""


class Storage(NamedTuple):
    """``layouts`` and ``coders`` of the forms; ``colours``: numbers that a tensor is snapped to (0: it is rounded to float16)."""

    layouts: tuple[str, ...]
    coders: tuple[str, ...]
    colours: int = 0


STORAGES: Mapping[str, Storage] = {
    "plain": Storage((), ()),
    "fp16": Storage(("whole",), ("fp16",)),
    "codebook": Storage(("whole",), tuple(CODES), 256),
    "codebook:16": Storage(("whole",), tuple(CODES), 16),
    "codebook:256": Storage(("whole",), tuple(CODES), 256),
    "packed": Storage(EVERYWHERE, ("fp16", "float32")),
    "packed:16": Storage(EVERYWHERE, tuple(CODES), 16),
    "packed:256": Storage(EVERYWHERE, tuple(CODES), 256),
    "auto": Storage(EVERYWHERE, EXACT),
}
"""Setting -> what it allows."""


class TensorForm(NamedTuple):
    """The form of a tensor, what it then takes and took, and the share of its values that are zero; ``reason``: why it stays as it is."""

    form: Packing
    bytes: int
    before: int
    zeros: float
    error: float
    reason: str = ""


def best_form(storage: Storage, array: np.ndarray, rounded: Rounded, opset: int) -> TensorForm:
    """Return the smallest form for what a tensor is to hold; ``array``: what it held."""
    numbers, before = TensorNumbers.of(rounded.array, MOST_CODES), plain_size(array)
    forms = [Packing(layout, coder) for layout in storage.layouts for coder in storage.coders]
    able = [form for form in forms if form != PLAIN and form.fits(numbers)]
    sizes = {form: form.size(numbers) for form in able if form.opset <= opset}
    best = min(sizes, key=lambda form: sizes[form], default=PLAIN)
    if best != PLAIN and sizes[best] < LEAST * before:
        return TensorForm(best, sizes[best], before, numbers.zeros, rounded.error)
    smaller = [form for form in able if form.opset > opset and form.size(numbers) < LEAST * before]
    lost = not numbers.half and not storage.colours
    reason = "float16 cannot hold its values" if lost else "no form is smaller"
    if smaller:
        needed = min(form.opset for form in smaller)
        reason = f"its smaller forms need opset {needed}, and the file is of opset {opset}"
    return TensorForm(PLAIN, before, before, numbers.zeros, 0.0, reason)


def without_loss(storage: Storage, array: np.ndarray) -> bool:
    """Whether a tensor may have a smaller form with all its numbers as they are: they are few, and none is to be rounded."""
    codes = not storage.colours and any(coder in storage.coders for coder in CODES)
    return codes and TensorNumbers.of(array + array.dtype.type(0), MOST_CODES).table is not None


def stays(facts: Facts, name: str) -> str:
    """Return why a tensor is not stored in another form, whatever it holds ("": it may be)."""
    graph, tensor = facts.graph, facts.graph.tensors[name]
    for refuses, reason in (
        (lambda: tensor.data_type not in (TensorProto.FLOAT, TensorProto.FLOAT16), f"stored as {_called(tensor)}"),
        (lambda: not _of_main_graph(graph, name), "stored in the body of a node"),
        (lambda: name in declared(graph), "declared as an input, so that a caller may replace it"),
        (lambda: not graph.consumers.get(name) and name not in graph.outputs, "no node reads it"),
        (lambda: any(node.op in QUANTISERS for node, _ in graph.consumers[name]), "a scale of quantised values"),
    ):
        if refuses():
            return reason
    return ""


def candidates(facts: Facts) -> list[str]:
    """Return the stored tensors that are worth a look: numbers in two axes or more."""
    graph = facts.graph
    return [
        n for n, t in graph.tensors.items() if len(t.dims) > 1 and t.data_type != TensorProto.STRING and all(t.dims)
    ]


def declared(graph: Graph) -> set[str]:
    return {value.name for value in graph.model.graph.input}


def _called(tensor: TensorProto) -> str:
    return TensorProto.DataType.Name(tensor.data_type).lower()


def _of_main_graph(graph: Graph, name: str) -> bool:
    """Whether an initializer, or a Constant whose attribute is a tensor, is of the main graph."""
    maker = graph.producer.get(name)
    if maker is None:
        return any(tensor.name == name for tensor in graph.model.graph.initializer)
    return maker in graph.top and maker.proto.attribute[0].name == "value"
