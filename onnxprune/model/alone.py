"""Shapes of what operators give that ONNX has no inference for, each node run alone: the rest of the model need not be.

A node is fed ones of the shapes that are known. Contents decide shapes at times (lengths of sequences, sizes): what is computed from
inputs and small tensors alone is fed as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TypeProto, ValueInfoProto, helper, numpy_helper

from onnxprune.errors import ModelError
from onnxprune.model.graph import Graph, Node, leave_what_makes
from onnxprune.model.model import Model
from onnxprune.model.runtime import MAPPED, session

CHEAP = 1 << 20  # bytes: values that are computed from no larger tensors are computed
MOST_FED = 1 << 28  # bytes of one operand

TypeAndShape = tuple[int, tuple[int, ...]]  # element type and shape


class Alone:
    """Runs nodes of a model by themselves; ``feeds``: the inputs of the model; ``opaque``: of which nodes nothing is known before."""

    def __init__(self, model: Model, graph: Graph, feeds: Mapping[str, np.ndarray], opaque: Callable[[Node], bool]):
        self._model, self._graph, self._feeds, self._opaque = model, graph, feeds, opaque
        self._known: dict[tuple, list[TypeAndShape | None]] = {}

    def outputs(self, node: Node, inputs: Sequence[TypeAndShape | None]) -> list[TypeAndShape | None]:
        """Return element type and shape of each output; nothing where the node cannot be run alone.

        ``inputs``: of its operands in their order (None: absent).
        """
        if node.bodies or not self._opaque(node) or node.owner is not self._graph.model.graph:
            return []
        arrays = [None if one is None else self._fed(n, *one) for n, one in zip(node.inputs, inputs, strict=True)]
        if any(one is not None and array is None for one, array in zip(inputs, arrays, strict=True)):
            return []
        key = (_anonymous(node.proto).SerializeToString(deterministic=True), *map(_key, arrays))
        if key not in self._known:
            self._known[key] = _run(self._graph, node, arrays)
        return self._known[key]

    def _fed(self, name: str, dtype: int, shape: tuple[int, ...]) -> np.ndarray | None:
        """Return what an operand is fed: its content where that is cheap to tell, else ones; None where that says nothing."""
        if name in self._contents:
            return self._contents[name]
        kind = helper.tensor_dtype_to_np_dtype(dtype) if dtype in MAPPED else None
        if kind is None or kind.itemsize * np.prod(shape, dtype=float) > MOST_FED:
            return None
        if kind.kind == "i":  # sizes, places, lengths: not anything will do
            return self._model.array(self._graph.tensors[name]) if name in self._graph.tensors else None
        return np.ones(shape, kind)

    @cached_property
    def _contents(self) -> Mapping[str, np.ndarray]:
        """What opaque nodes read that is computed from inputs and small tensors alone; inputs only where that cannot be run."""
        tensors, weights, cheap = self._graph.tensors, self._model.weights, set(self._feeds)
        cheap.update(name for name in tensors if name not in weights or weights[name].nbytes <= CHEAP)
        wanted: dict[str, None] = {}
        for node in self._graph.top:
            if self._opaque(node):
                wanted.update(dict.fromkeys(name for name in node.inputs if name in cheap and name not in tensors))
            elif not node.bodies and all(name in cheap for name in node.inputs if name):
                cheap.update(name for name in node.outputs if name)
        known = {name: self._feeds[name] for name in wanted if name in self._feeds}
        computed = [name for name in wanted if name not in known]
        if not computed:
            return known
        proto = self._model.draft()
        leave_what_makes(proto, computed)
        try:
            return known | session(self._model.derived(proto), optimise=False).run(self._feeds)
        except ModelError:
            return known


def _anonymous(proto: NodeProto) -> NodeProto:
    """Return a node without what it is called; its operands and results are called by their places."""
    result = NodeProto(op_type=proto.op_type, domain=proto.domain, attribute=proto.attribute)
    result.input.extend(f"in{place}" if name else "" for place, name in enumerate(proto.input))
    result.output.extend(f"out{place}" if name else "" for place, name in enumerate(proto.output))
    return result


def _key(array: np.ndarray | None) -> Any:
    return (
        None if array is None else (array.dtype.str, array.shape, array.tobytes() if array.dtype.kind == "i" else b"")
    )


def _run(graph: Graph, node: Node, arrays: Sequence[np.ndarray | None]) -> list[TypeAndShape | None]:
    """Return what a model of the node alone gives; what the model stores is stored there too."""
    single = _anonymous(node.proto)
    own = helper.make_graph([single], "alone", [], [ValueInfoProto(name=name) for name in single.output if name])
    feeds = {}
    for place, (name, array) in enumerate(zip(node.inputs, arrays, strict=True)):
        if array is not None and name in graph.tensors:
            own.initializer.append(numpy_helper.from_array(array, f"in{place}"))
        elif array is not None:
            feeds[f"in{place}"] = array
            element = TypeProto.Tensor(elem_type=helper.np_dtype_to_tensor_dtype(array.dtype))
            own.input.append(ValueInfoProto(name=f"in{place}", type=TypeProto(tensor_type=element)))
    proto = ModelProto(ir_version=graph.model.ir_version, graph=own, opset_import=graph.model.opset_import)
    try:
        found = session(proto, optimise=False).run(feeds)
    except ModelError:
        return []
    given = [found.get(name) if name else None for name in single.output]
    return [(helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) if isinstance(a, np.ndarray) else None for a in given]
