"""Runs a model piece by piece over a fixed set of batches, so that a node's weights can be changed just before it runs.

Every node runs once per batch, whatever the number of pieces. Only the values that nodes still to run need are kept, in
memory up to a limit and in a temporary file beyond it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, ValueInfoProto

from onnxprune.means import Means
from onnxprune.model.graph import names_read
from onnxprune.model.memory import room
from onnxprune.model.read import Model
from onnxprune.model.runtime import owned, session
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
        self._store: dict[str, _Kept] = {}
        self._bytes, self._limit = 0, room(means, MEMORY_LIMIT)
        for batch in batches:
            for name, array in batch.items():
                self._bytes += self._store.setdefault(name, _Kept(self._limit)).append(array, self._bytes)
        self.count = len(next(iter(self._store.values())))

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
        for name in [name for name in self._store if name not in live]:
            self._bytes -= self._store.pop(name).nbytes

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
        kept = {name: _Kept(self._limit) for name in outputs}
        for number in range(self.count):
            found = opened.run({name: self._store[name][number] for name in inputs})
            for name in outputs:
                self._bytes += kept[name].append(found[name], self._bytes)
        self._store.update(kept)


class _Kept:
    """A value on all batches: arrays in memory, or in a temporary file once ``limit`` bytes are kept, read anew each time.

    Sequences and strings stay in memory.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._arrays: list[Any] = []
        self._file: BinaryIO | None = None
        self.nbytes = 0

    def append(self, array: Any, used: int) -> int:
        """Add a batch and return how many bytes of memory it takes."""
        storable = isinstance(array, np.ndarray) and not array.dtype.hasobject and array.size > 0
        size = array.nbytes if storable else 0
        if used + size <= self._limit or not storable:
            self._arrays.append(owned(array))
            self.nbytes += size
            return size
        file = self._file = self._file or tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as its values
        offset = file.seek(0, 2)
        file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        self._arrays.append(_Filed(file, offset, array.dtype, array.shape))
        return 0

    @property
    def described(self) -> list[Any]:
        """What has the types and shapes of all batches, without their content where it is in a file."""
        return self._arrays

    def __len__(self) -> int:
        return len(self._arrays)

    def __getitem__(self, index: int) -> Any:
        kept = self._arrays[index]
        return kept.read() if isinstance(kept, _Filed) else kept

    def __iter__(self) -> Iterator[Any]:
        return (self[number] for number in range(len(self)))


class _Filed(NamedTuple):
    """An array in a file; a mapping of it would count as memory of the process."""

    file: BinaryIO
    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]

    def read(self) -> np.ndarray:
        self.file.seek(self.offset)
        array = np.empty(self.shape, self.dtype)
        self.file.readinto(array.reshape(-1).view(np.uint8).data)  # type: ignore[attr-defined]
        return array


def _declared(name: str, values: Sequence[Any]) -> ValueInfoProto:
    """Describe a value by what it holds on all batches: a tensor with the sizes that are always the same, or a sequence of tensors."""
    sample = values[0]
    if isinstance(sample, np.ndarray | _Filed):
        dtype = onnx.helper.np_dtype_to_tensor_dtype(sample.dtype)
        shapes = {value.shape for value in values}
        alike = len({len(shape) for shape in shapes}) == 1
        sizes = zip(*shapes, strict=True) if alike else [range(2)] * len(sample.shape)
        return onnx.helper.make_tensor_value_info(name, dtype, [n[0] if len(set(n)) == 1 else None for n in sizes])
    dtype = onnx.helper.np_dtype_to_tensor_dtype(sample[0].dtype if sample else np.dtype(np.float32))
    return onnx.helper.make_tensor_sequence_value_info(name, dtype, None)
