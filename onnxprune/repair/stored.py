"""What stored tensors mean to the nodes that read them: floats, floats of another width, or integers on a grid, as floats all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass

import numpy as np
from onnx import AttributeProto, TensorProto

from onnxprune.model.graph import Graph, Node
from onnxprune.model.model import Model
from onnxprune.model.scratch import kept
from onnxprune.model.segmented import loaded_bytes
from onnxprune.model.tensors import FLOATS

_T = TensorProto
HELD = 1 << 30  # bytes of weights, as float32, of a model whose tensors are read once
INTEGERS = frozenset({_T.INT4, _T.UINT4, _T.INT8, _T.UINT8, _T.INT16, _T.UINT16, _T.INT32, _T.INT64})
DEQUANTISE = frozenset({"DequantizeLinear", "com.microsoft::DequantizeLinear"})
RESHAPE = frozenset({"Reshape", "Unsqueeze", "Identity"})  # what keeps the order of the elements


@dataclass(frozen=True, eq=False)
class IntegerGrid:
    """Integers q that stand for ``(q - zero) * scale``; each has one value for all, or as many axes as the tensor.

    Along an axis there is one value for each position, or for each run of them.
    """

    scale: np.ndarray
    zero: np.ndarray

    @classmethod
    def of(cls, scale: np.ndarray, zero: np.ndarray | None, rank: int, axis: int) -> IntegerGrid:
        """Put a scale and a zero point (None: zero) as operators take them along ``axis`` of a tensor of ``rank`` axes."""
        return cls(_along(scale, rank, axis), _along(np.zeros(1) if zero is None else zero, rank, axis))

    def read(self, stored: np.ndarray) -> np.ndarray:
        """Return float64 of the same shape."""
        scale, zero = self.spread(stored.shape)
        return (stored.astype(np.float64) - zero) * scale

    def spread(self, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Return views of ``shape``: the scale and the zero point of every position."""
        return np.broadcast_to(_spread(self.scale, shape), shape), np.broadcast_to(_spread(self.zero, shape), shape)

    def along(self, axis: int, places: np.ndarray) -> IntegerGrid:
        """Return the grid of some positions of an axis; both parts are spread over all axes already."""
        return IntegerGrid(self.scale.take(places, axis), self.zero.take(places, axis))

    def nearest(self, values: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """Return the integers nearest to ``values`` that the type holds; the zero point where the scale is zero."""
        scale, zero = self.spread(values.shape)
        steps = np.divide(values, scale, out=np.zeros(values.shape), where=scale != 0)
        return np.clip(np.rint(steps + zero), *limits(dtype)).astype(dtype)


def _along(operand: np.ndarray, rank: int, axis: int) -> np.ndarray:
    operand = operand.astype(np.float64)
    if operand.size == 1 or (operand.ndim == rank and rank > 1):
        return operand.reshape(()) if operand.size == 1 else operand
    return operand.reshape([-1 if a == axis % rank else 1 for a in range(rank)])


def _spread(operand: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Repeat what stands for runs of positions, so that an operand broadcasts to ``shape``."""
    for axis, (size, whole) in enumerate(zip(operand.shape, shape, strict=False)):
        if 1 < size < whole:
            operand = operand.take(np.arange(whole) // -(-whole // size), axis=axis)
    return operand


def limits(dtype: np.dtype) -> tuple[int, int]:
    """Return the least and the largest number of an integer type, of those that share bytes too."""
    bits = int(dtype.name.lstrip("uint"))
    return (0, 2**bits - 1) if dtype.name.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


@dataclass(frozen=True, eq=False)
class Encoding:
    """How the stored tensor ``name`` holds a constant: its floats themselves, rounded to its type, or a ``grid``'s integers."""

    name: str
    grid: IntegerGrid | None = None

    def read(self, stored: np.ndarray) -> np.ndarray:
        """Return float64, in the stored tensor's shape."""
        return stored.astype(np.float64) if self.grid is None else self.grid.read(stored)

    def write(self, values: np.ndarray, like: np.ndarray) -> np.ndarray:
        """Return what is to be stored, of the type of ``like``."""
        if self.grid is None:
            return np.ascontiguousarray(values.astype(like.dtype))
        return np.ascontiguousarray(self.grid.nearest(values, like.dtype))

    def coarse(self, like: np.ndarray) -> bool:
        """Whether what is written differs from what was to be written by more than float32 does."""
        return self.grid is not None or like.dtype.itemsize < np.dtype(np.float32).itemsize


class Contents(MutableMapping[str, np.ndarray]):
    """Arrays by name: ``fresh`` ones that were put in, and others as they are ``read`` when somebody asks.

    ``held``: whether what was read stays in memory.
    """

    def __init__(
        self, tensors: Mapping[str, TensorProto], read: Callable[[TensorProto], np.ndarray], held: bool = True
    ):
        self._tensors, self._read, self._held = dict(tensors), read, held
        self._known: dict[str, np.ndarray] = {}
        self.fresh: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        found = self.fresh.get(name, self._known.get(name))
        if found is None:
            found = self._read(self._tensors[name])
            if self._held:
                self._known[name] = found
        return found

    def __setitem__(self, name: str, array: np.ndarray) -> None:
        self.fresh[name] = kept(array)

    def __delitem__(self, name: str) -> None:
        del self._tensors[name]
        self.fresh.pop(name, None)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


@dataclass(frozen=True)
class Stored:
    """Content of stored tensors of a model, by name, as they are stored; ``sharing``: a weight may have several readers."""

    graph: Graph
    arrays: Contents
    sharing: bool = False

    @classmethod
    def of(cls, model: Model, graph: Graph) -> Stored:
        """Return all tensors that can be replaced and hold floats or integers that may stand for floats; lists in attributes cannot."""
        names = [name for name, tensor in graph.tensors.items() if tensor.data_type in FLOATS | INTEGERS]
        plain = [name for name in names if _is_tensor(graph.producer.get(name))]
        held = loaded_bytes(model) <= HELD
        return cls(graph, Contents({name: graph.tensors[name] for name in plain}, model.array, held))

    def content(self, name: str) -> np.ndarray | None:
        """Return the floats that a name stands for where these are stored, in whatever way; None where they are not."""
        array, maker = self.arrays.get(name), self.graph.producer.get(name)
        if array is not None or maker is None:
            return array if array is not None and is_float(array) else None
        if maker.op in DEQUANTISE:
            grid = self._grid(maker)
            return None if grid is None else grid.read(self.arrays[maker.inputs[0]])
        if maker.op in RESHAPE or maker.op == "Cast":
            inner = self.content(maker.inputs[0])
            return None if inner is None else self._reshaped(maker, inner)
        return None

    def encoding(self, name: str, reshaped: bool = False, alone: bool = True) -> Encoding | None:
        """Return how what a name stands for is stored; None where it is not, or something else would change with it.

        ``reshaped``: the stored tensor may be of another shape, with the elements in the same order. ``alone``: nothing else may.
        """
        if not name or (alone and not self.belongs_to_one(name)):
            return None
        array, maker = self.arrays.get(name), self.graph.producer.get(name)
        if array is not None or maker is None:
            return Encoding(name) if array is not None and is_float(array) else None
        if maker.op in DEQUANTISE:
            grid = None if alone and not self.belongs_to_one(maker.inputs[0]) else self._grid(maker)
            return None if grid is None else Encoding(maker.inputs[0], grid)
        if maker.op == "Cast" or (reshaped and maker.op in RESHAPE):
            return self.encoding(maker.inputs[0], reshaped, alone)
        return None

    def _grid(self, node: Node) -> IntegerGrid | None:
        """Return the grid of a DequantizeLinear whose operands are all stored."""
        operands = [self.arrays.get(name) for name in node.inputs if name]
        if any(array is None for array in operands):
            return None
        array, scale, *zero = (array for array in operands if array is not None)
        if is_float(array):
            return None
        return IntegerGrid.of(scale, zero[0] if zero else None, array.ndim, node.attribute("axis", 1))

    def _reshaped(self, node: Node, array: np.ndarray) -> np.ndarray | None:
        """Return what a node that keeps the order of the elements makes of a constant; None where its sizes are not stored."""
        if node.op not in ("Reshape", "Unsqueeze"):
            return array
        told = self.arrays.get(node.input(1), node.attribute("axes"))
        if told is None or node.attribute("allowzero", 0):
            return None
        numbers = [int(n) for n in told]
        if node.op == "Unsqueeze":
            return np.expand_dims(array, tuple(numbers))
        return array.reshape([size or array.shape[place] for place, size in enumerate(numbers)])

    def vector(self, name: str, channels: int, axis: int, rank: int) -> np.ndarray | None:
        """Return a stored tensor as float64[channels] if it is one value per channel (or one for all)."""
        array = self.content(name)
        if array is None:
            return None
        if array.size == 1:
            return np.full(channels, float(array.reshape(-1)[0]))
        shape = (1,) * (rank - array.ndim) + array.shape
        per_channel = array.size == channels and len(shape) == rank and shape[axis] == channels
        return array.reshape(-1).astype(np.float64) if per_channel else None

    def number(self, name: str) -> float | None:
        """Return a stored tensor of one element, floats or not; None where it is no such."""
        array = self.arrays.get(name)
        return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None

    def factors(self, name: str) -> list[str]:
        """Return the names of what a value is the product of: itself, where no Mul makes it."""
        maker = self.graph.producer.get(name)
        return [f for part in maker.inputs for f in self.factors(part)] if maker and maker.op == "Mul" else [name]

    def belongs_to_one(self, name: str) -> bool:
        """Whether one node alone reads a stored tensor, and the model does not give it out."""
        return (self.sharing or len(self.graph.consumers[name]) == 1) and name not in self.graph.outputs

    def sole_user(self, value: str) -> tuple[Node, int] | None:
        """Return the one node that reads a value, and at which input; None where several do or the model gives it out."""
        users = self.graph.consumers.get(value, [])
        return users[0] if len(users) == 1 and value not in self.graph.outputs else None

    def rounds_to(self, node: Node) -> str:
        """Return the value that a QuantizeLinear gives once DequantizeLinear has undone it, where nothing else reads its integers."""
        use = self.sole_user(node.outputs[0]) if node.op == "QuantizeLinear" else None
        same = use is not None and use[0].op in DEQUANTISE and use[0].inputs[1:] == node.inputs[1:]
        return use[0].outputs[0] if use is not None and same else ""

    def rectifies(self, node: Node) -> bool:
        """Whether nothing below zero passes a node: a Relu, or a QuantizeLinear whose zero point is its least number."""
        if node.op != "QuantizeLinear":
            return node.op == "Relu"
        zero = self.arrays.get(node.input(2))
        if zero is None:
            return not node.input(2) and not node.attribute("output_dtype", 0)
        return not is_float(zero) and bool((zero.astype(np.int64) == limits(zero.dtype)[0]).all())


def _is_tensor(producer: Node | None) -> bool:
    return producer is None or producer.proto.attribute[0].type == AttributeProto.TENSOR


def is_float(array: np.ndarray) -> bool:
    """Whether an array holds floats, bfloat16 too."""
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"
