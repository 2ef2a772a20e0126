"""The nodes that decode a stored tensor, built with onnx-graphsurgeon; what several tensors need is made once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper, numpy_helper

from onnxprune.model.graph import Graph, Names
from onnxprune.model.surgeon import Splicer

PREFIX = "p"  # of the names of what is added, which are many: they take a good part of what decoding adds to a file


def digits(count: int) -> np.ndarray:
    """Return uint8[256, count]: the numbers in a byte that holds so many of equal width, the first in the highest bits."""
    width = 8 // count
    shifts = np.arange(8 - width, -1, -width, dtype=np.uint8)
    return (np.arange(256, dtype=np.uint8)[:, None] >> shifts) & np.uint8((1 << width) - 1)


def in_bytes(numbers: np.ndarray, count: int) -> np.ndarray:
    """Return uint8[ceil(n / count)] that hold ``count`` numbers each, the first in the highest bits, zeros behind the last."""
    width = 8 // count
    rows = np.zeros(-(-numbers.size // count) * count, np.uint8)
    rows[: numbers.size] = numbers.reshape(-1)
    shifts = np.arange(8 - width, -1, -width, dtype=np.uint8)
    return np.bitwise_or.reduce(rows.reshape(-1, count) << shifts, axis=1).astype(np.uint8)


class Shared:
    """What the decoders of a model share: tables that take bytes apart, and numbers. Tables are made before the first node."""

    def __init__(self, graph: Graph, splicer: Splicer, names: Names):
        self.graph, self.splicer, self.names = graph, splicer, names
        self._made: dict[str, str] = {}

    def constant(self, what: str, array: np.ndarray) -> gs.Variable:
        if what not in self._made:
            self._made[what] = self.names.fresh(f"{PREFIX}/{what}")
            self.splicer.store(numpy_helper.from_array(array, self._made[what]))
        return gs.Variable(self._made[what])

    def digits(self, count: int) -> gs.Variable:
        """Return int32[256, count]: see ``digits``; stored in bytes."""
        what = str(count)
        if what not in self._made:
            self._made[what] = self.names.fresh(f"{PREFIX}/{what}")
            table, made = gs.Constant(f"{PREFIX}/bytes{count}", digits(count)), gs.Variable(self._made[what])
            cast = gs.Node("Cast", attrs={"to": int(TensorProto.INT32)}, inputs=[table], outputs=[made])
            self.splicer.before(self.graph.top[0], gs.Graph([cast], outputs=[made]))
        return gs.Variable(self._made[what])


class Decoder:
    """Collects the nodes that make one tensor."""

    def __init__(self, number: int, shared: Shared):
        self.prefix, self.shared, self.nodes = f"{PREFIX}{number}", shared, list[gs.Node]()

    def constant(self, what: str, array: np.ndarray) -> gs.Constant:
        return gs.Constant(f"{self.prefix}/{what}", array)

    def node(self, op: str, *inputs: gs.Tensor, **attributes: Any) -> gs.Variable:
        made = gs.Variable(f"{self.prefix}/{len(self.nodes)}")
        self.nodes.append(gs.Node(op, attrs=attributes, inputs=list(inputs), outputs=[made]))
        return made

    def cast(self, value: gs.Tensor, dtype: np.dtype) -> gs.Variable:
        return self.node("Cast", value, to=int(helper.np_dtype_to_tensor_dtype(dtype)))

    def index(self, codes: gs.Tensor) -> gs.Variable:
        return self.node("Cast", codes, to=int(TensorProto.INT32))

    def apart(self, packed: np.ndarray, count: int, what: str) -> gs.Variable:
        """Return int32[bytes, count]: what bytes hold."""
        return self.node("Gather", self.shared.digits(count), self.index(self.constant(what, packed)))

    def row(self, value: gs.Tensor, whole: int, count: int) -> gs.Variable:
        """Return the first ``count`` of ``whole`` elements as a vector."""
        row = self.node("Reshape", value, self.shared.constant("row", np.array([-1], np.int64)))
        if whole == count:
            return row
        start, end = (
            self.shared.constant("start", np.zeros(1, np.int64)),
            self.constant("end", np.array([count], np.int64)),
        )
        return self.node("Slice", row, start, end)

    def shaped(self, value: gs.Tensor, shape: tuple[int, ...]) -> gs.Variable:
        what = f"{'x'.join(map(str, shape))}"
        return self.node("Reshape", value, self.shared.constant(what, np.array(shape, np.int64)))

    def summed(self, value: gs.Tensor) -> gs.Variable:
        """Return the running sums of a vector."""
        return self.node("CumSum", value, self.shared.constant("axis", np.array(0, np.int32)))

    def parted(self, value: gs.Tensor, sizes: Sequence[int]) -> list[gs.Variable]:
        """Return the parts of a vector."""
        numbers, added = np.array(sizes, np.int64), {}
        inputs = [value, self.constant("sizes", numbers)]
        if self.shared.graph.versions.get("", 1) < 13:  # where sizes were an attribute
            inputs, added = [value], {"split": numbers.tolist()}
        made = [gs.Variable(f"{self.prefix}/s{number}") for number in range(len(sizes))]
        self.nodes.append(gs.Node("Split", attrs={"axis": 0, **added}, inputs=inputs, outputs=made))
        return made

    def graph(self, results: Mapping[str, gs.Variable]) -> gs.Graph:
        """Return the nodes; ``results``: tensor -> what is to have its name."""
        for name, value in results.items():
            value.name = name
        return gs.Graph(self.nodes, outputs=list(results.values()))
