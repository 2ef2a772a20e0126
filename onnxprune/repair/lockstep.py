"""Runs a model piece by piece over a fixed set of batches, so that a node's weights can be changed just before it runs.

Every node runs once per batch, whatever the number of pieces. Only the values that nodes still to run need are kept, in
memory up to a limit and in a temporary file beyond it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, ValueInfoProto

from onnxprune.means import Means
from onnxprune.model.batched import BatchedValues, FiledArray
from onnxprune.model.graph import names_read
from onnxprune.model.memory import room
from onnxprune.model.read import Model
from onnxprune.model.runtime import session
from onnxprune.model.weights import Weights

MEMORY_LIMIT = 1 << 27  # bytes of kept values per model before they go to a file


class Lockstep:
    """The state of a model that has run up to some values on all batches; tensors no node has read yet may still change."""

    def __init__(self, model: Model, batches: Iterable[Mapping[str, np.ndarray]], means: Means = Means()):
        self.model, self.means = model, means
        graph = model.structure.graph
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._pending: list[NodeProto] = list(graph.node)
        self._producer = {name: node for node in graph.node for name in node.output if name}
        self._store = BatchedValues(room(means, MEMORY_LIMIT))
        for batch in batches:
            for name, array in batch.items():
                self._store.add(name, array)
        self.count = len(self._store[next(iter(self._store))])

    def use(self, weights: Weights) -> None:
        """Go on with other weights."""
        self.model = replace(self.model, weights=weights)

    def values(self, name: str) -> Iterator[np.ndarray]:
        """Yield a computed value batch by batch."""
        return iter(self._store[name])

    def advance(self, names: Iterable[str], keep: Iterable[str] = ()) -> None:
        """Run what ``names`` need; values in ``names`` and ``keep``, and those that pending nodes read, stay available."""
        wanted = [name for name in names if name not in self._store and name not in self._tensors]
        nodes = self._needed(wanted)
        if nodes:
            chosen = {id(node) for node in nodes}
            self._pending = [node for node in self._pending if id(node) not in chosen]
        live = {name for node in self._pending for name in names_read(node)} | set(names) | set(keep)
        if nodes:
            self._run(nodes, live)
        self._store.drop([name for name in self._store if name not in live])

    def _needed(self, names: Sequence[str]) -> list[NodeProto]:
        needed: set[int] = set()
        stack = list(names)
        pending = {id(node) for node in self._pending}
        while stack:
            name = stack.pop()
            node = self._producer.get(name)
            if node is None or name in self._store or id(node) in needed or id(node) not in pending:
                continue
            needed.add(id(node))
            stack.extend(names_read(node))
        return [node for node in self._pending if id(node) in needed]

    def _run(self, nodes: Sequence[NodeProto], live: set[str]) -> None:
        made = {name for node in nodes for name in node.output if name}
        read = {name for node in nodes for name in names_read(node)}
        whole = self.model.structure
        piece = ModelProto(ir_version=max(whole.ir_version, 4), opset_import=whole.opset_import)
        piece.functions.extend(whole.functions)
        piece.graph.name = "piece"
        piece.graph.node.extend(nodes)
        piece.graph.initializer.extend(self._tensors[name] for name in sorted(read & set(self._tensors)))
        inputs = sorted(name for name in read - made if name in self._store)
        piece.graph.input.extend(_declared(name, self._store[name].described) for name in inputs)
        outputs = sorted(made & live)
        piece.graph.output.extend(ValueInfoProto(name=name) for name in outputs)
        if not outputs:
            return
        opened = session(self.model.derived(piece), threads=self.means.threads)
        for number in range(self.count):
            found = opened.run({name: self._store[name][number] for name in inputs})
            for name in outputs:
                self._store.add(name, found[name])


def _declared(name: str, values: Sequence[Any]) -> ValueInfoProto:
    """Describe a value by what it holds on all batches: a tensor with the sizes that are always the same, or a sequence of tensors."""
    sample = values[0]
    if isinstance(sample, np.ndarray | FiledArray):
        dtype = onnx.helper.np_dtype_to_tensor_dtype(sample.dtype)
        shapes = {value.shape for value in values}
        alike = len({len(shape) for shape in shapes}) == 1
        sizes = zip(*shapes, strict=True) if alike else [range(2)] * len(sample.shape)
        return onnx.helper.make_tensor_value_info(name, dtype, [n[0] if len(set(n)) == 1 else None for n in sizes])
    dtype = onnx.helper.np_dtype_to_tensor_dtype(sample[0].dtype if sample else np.dtype(np.float32))
    return onnx.helper.make_tensor_sequence_value_info(name, dtype, None)
