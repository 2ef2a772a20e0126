"""Values that emit a node for every operation done with them, the facts about each inferred on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np
from onnx import TensorProto, ValueInfoProto, helper, numpy_helper

from onnxprune.model.facts import UNKNOWN, Fact, Facts, Shape, infer
from onnxprune.model.graph import Node

FLOATING = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE})
"""Element types that gradients flow through (16-bit floats are widened before)."""


END = np.iinfo(np.int64).max
"""The end of a slice that goes on to the last position; negated, of one that goes back to the first."""

STOP = "onnxprune.stop_gradient"
"""Metadata key of the nodes that no gradient goes through."""


def _binary(op: str) -> Callable[[Value, Argument], Value]:
    return lambda self, other: self.emit(op, self, other)


def _reflected(op: str) -> Callable[[Value, Argument], Value]:
    return lambda self, other: self.emit(op, other, self)


@dataclass(frozen=True)
class Value:
    """A value by name; arithmetic on it emits nodes. Python numbers take the element type of the value beside them."""

    name: str
    emit: Emitter = field(repr=False, compare=False)

    __add__, __radd__ = _binary("Add"), _reflected("Add")
    __sub__, __rsub__ = _binary("Sub"), _reflected("Sub")
    __mul__, __rmul__ = _binary("Mul"), _reflected("Mul")
    __truediv__, __rtruediv__ = _binary("Div"), _reflected("Div")
    __pow__, __matmul__ = _binary("Pow"), _binary("MatMul")
    __gt__, __lt__ = _binary("Greater"), _binary("Less")
    __ge__, __le__ = _binary("GreaterOrEqual"), _binary("LessOrEqual")

    def __neg__(self) -> Value:
        return self.emit("Neg", self)

    @property
    def dtype(self) -> int:
        return self.emit.first.get(self.name, UNKNOWN).dtype

    @property
    def numpy_type(self) -> np.dtype:
        """Element type as numpy has it; raises Unsupported where it is unknown."""
        if not self.dtype:
            raise Unsupported(f"the type of {self.name!r} could not be inferred")
        return helper.tensor_dtype_to_np_dtype(self.dtype)

    @property
    def known_shape(self) -> Shape | None:
        """Concrete shape under the first assignment of the free sizes; None where inference could not tell."""
        return self.emit.first.get(self.name, UNKNOWN).shape

    @property
    def shape(self) -> Shape:
        """Like ``known_shape``; raises Unsupported where it is unknown."""
        if self.known_shape is None:
            raise Unsupported(f"the shape of {self.name!r} could not be inferred")
        return self.known_shape

    @property
    def sizes(self) -> tuple[int | None, ...]:
        """Size of each axis; None where it depends on the inputs."""
        second = self.emit.second.get(self.name, UNKNOWN).shape or ()
        return tuple(a if a == b else None for a, b in zip_longest(self.shape, second))

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def array(self) -> np.ndarray | None:
        """Content, where it is small, known and the same whatever the inputs are."""
        one, two = (facts.get(self.name, UNKNOWN).array for facts in (self.emit.first, self.emit.second))
        return one if one is not None and two is not None and np.array_equal(one, two) else None

    def fixed(self, axis: int, what: str) -> int:
        """Return a size that ``what`` needs to know; raises Unsupported where it depends on the inputs."""
        size = self.sizes[axis]
        if size is None:
            raise Unsupported(f"{what} on an axis of free size is not supported; give fixed input shapes")
        return size

    def dim(self, axis: int) -> Dim:
        """Size of an axis: an int, or an int64[1] value where it depends on the inputs."""
        axis %= self.rank
        size = self.sizes[axis]
        return self.emit("Shape", self, start=axis, end=axis + 1) if size is None else size

    def dims(self) -> list[Dim]:
        return [self.dim(axis) for axis in range(self.rank)]


Dim = int | Value
Argument = Value | float | Sequence[int] | np.ndarray | None


class Unsupported(Exception):
    """Raised by a rule that cannot handle this node; the driver adds operator and name."""


class Emitter:
    """Collects nodes, constants and inputs; equal nodes are emitted once, known integer results become constants.

    ``first`` and ``second`` hold the facts of all values, emitted ones too, under two assignments of the free sizes.
    """

    def __init__(self, facts: Facts):
        self.first, self.second = dict(facts.first), dict(facts.second)
        self.one_assignment = facts.first is facts.second
        self.versions: Mapping[str, int] = facts.graph.versions
        self.owner = facts.graph.model.graph
        self.nodes: list[Node] = []
        self.made: dict[str, Node] = {}  # emitted value -> its node
        self.tensors: dict[str, TensorProto] = {}
        self.inputs: list[ValueInfoProto] = []
        self.aliases: dict[str, str] = {}  # input that shares its name with a value of the model -> its name inside
        self.extra_outputs: dict[str, str] = {}  # first output -> name of the second, to be switched on
        self.prefix = "grad/"
        while any(name.startswith(self.prefix) for name in self.first):
            self.prefix += "grad/"
        self._emitted: dict[tuple, list[str]] = {}

    # --- nodes and values -------------------------------------------------------------------------------------------

    def value(self, name: str) -> Value:
        return Value(name, self)

    def __call__(self, op: str, *inputs: Argument, **attributes: Any) -> Value:
        """Emit a node and return its first output."""
        return self.many(op, inputs, 1, **attributes)[0]

    def many(self, op: str, inputs: Sequence[Argument], outputs: int, **attributes: Any) -> list[Value]:
        """Emit a node with several outputs."""
        like = next((value for value in inputs if isinstance(value, Value)), None)
        names = [self._operand(operand, like) for operand in inputs]
        key = (op, tuple(names), outputs, repr(sorted(attributes.items())))
        if key not in self._emitted:
            self._emitted[key] = self._append(op, names, outputs, attributes)
        return [self.value(name) for name in self._emitted[key]]

    def _operand(self, operand: Argument, like: Value | None) -> str:
        if operand is None:
            return ""
        if isinstance(operand, Value):
            return operand.name
        if isinstance(operand, int | float):
            return self.constant(np.asarray(operand, like.numpy_type if like else np.float32)).name
        return self.constant(np.asarray(operand, None if isinstance(operand, np.ndarray) else np.int64)).name

    def _append(self, op: str, inputs: list[str], outputs: int, attributes: dict[str, Any]) -> list[str]:
        names = [f"{self.prefix}{op}_{len(self.nodes)}" + (f".{k}" if k else "") for k in range(outputs)]
        proto = helper.make_node(op, inputs, names, name=names[0], **attributes)
        node = Node(proto, op, self.versions[""], tuple(inputs), tuple(names), self.owner)
        first = self._infer(node, self.first)
        second = first if self.one_assignment else self._infer(node, self.second)
        if outputs == 1 and (folded := _folded(first[0], second[0])) is not None:
            return [self.constant(folded).name]
        self.first.update(zip(names, first, strict=True))
        self.second.update(zip(names, second, strict=True))
        self.nodes.append(node)
        self.made.update(dict.fromkeys(names, node))
        return names

    def _infer(self, node: Node, facts: dict[str, Fact]) -> list[Fact]:
        return infer(node, [facts.get(name, UNKNOWN) if name else None for name in node.inputs], self.versions)

    def constant(self, array: np.ndarray) -> Value:
        """Return a stored tensor; equal ones are stored once."""
        array = np.ascontiguousarray(array).reshape(np.shape(array))
        key = ("", array.dtype.str, array.shape, array.tobytes())
        if key not in self._emitted:
            name = f"{self.prefix}constant_{len(self.tensors)}"
            self.tensors[name] = numpy_helper.from_array(array, name)
            fact = Fact(self.tensors[name].data_type, array.shape, array)
            self.first[name] = self.second[name] = fact
            self._emitted[key] = [name]
        return self.value(self._emitted[key][0])

    def input(self, name: str, like: Value, dtype: int | None = None, axes: Sequence[int] | None = None) -> Value:
        """Return a new graph input shaped like a value, or like the named axes of it.

        Where the model has a value of that name, the input goes by another one inside (``aliases``).
        """
        kept = range(like.rank) if axes is None else [axis % like.rank for axis in axes]
        inside = self.aliases.setdefault(name, f"{self.prefix}{name}") if name in self.first else name
        for facts in (self.first, self.second):
            shape = facts[like.name].shape or ()
            facts[inside] = Fact(dtype or like.dtype, tuple(shape[axis] for axis in kept))
        sizes = [like.sizes[axis] for axis in kept]
        self.inputs.append(helper.make_tensor_value_info(name, dtype or like.dtype, sizes))
        return self.value(inside)

    def stop(self, value: Value) -> Value:
        """Return the value as a constant to differentiation, also to a later one of the graph this becomes part of."""
        stopped = self._append("Identity", [value.name], 1, {})[0]
        self.nodes[-1].proto.metadata_props.add(key=STOP, value="true")
        return self.value(stopped)

    # --- shapes -----------------------------------------------------------------------------------------------------

    def vector(self, parts: Sequence[Dim]) -> Value:
        """Join ints and int64[1] values to one int64 vector."""
        if all(isinstance(part, int) for part in parts):
            return self.constant(np.asarray(parts, np.int64))
        return self(
            "Concat", *(p if isinstance(p, Value) else self.constant(np.asarray([p], np.int64)) for p in parts), axis=0
        )

    def reshape(self, x: Value, parts: Sequence[Dim]) -> Value:
        """Reshape; a single size that depends on the inputs is left to the operator as -1."""
        free = [i for i, part in enumerate(parts) if isinstance(part, Value)]
        if len(free) == 1 and all(isinstance(p, Value) or p > 0 for p in parts):
            parts = [-1 if isinstance(part, Value) else part for part in parts]
        return self("Reshape", x, self.vector(parts))

    def reshape_like(self, x: Value, like: Value) -> Value:
        return self.reshape(x, like.dims())

    def expand_like(self, x: Value, like: Value) -> Value:
        return self("Expand", x, self.vector(like.dims()))

    def filled(self, dims: Sequence[Dim], fill: float, like: Value) -> Value:
        content = np.asarray([fill], like.numpy_type)
        return self("ConstantOfShape", self.vector(dims), value=numpy_helper.from_array(content))

    def filled_like(self, x: Value, fill: float) -> Value:
        return self.filled(x.dims(), fill, x)

    def zeros_like(self, x: Value) -> Value:
        return self.filled_like(x, 0.0)

    # --- shorthand --------------------------------------------------------------------------------------------------

    def sum(self, x: Value, axes: Sequence[int], keepdims: bool = True) -> Value:
        """Sum over axes; over none where ``axes`` is empty."""
        return self("ReduceSum", x, list(axes), keepdims=int(keepdims)) if axes else x

    def mean(self, x: Value, axes: Sequence[int]) -> Value:
        return self("ReduceMean", x, list(axes), keepdims=1)

    def where(self, condition: Value, x: Argument, y: Argument) -> Value:
        """Choose elementwise; a number takes the element type of the value opposite."""
        like = next(v for v in (x, y) if isinstance(v, Value))
        one, two = (self.value(self._operand(v, like)) for v in (x, y))
        return self("Where", condition, one, two)

    def cast(self, x: Value, like: Value) -> Value:
        return x if x.dtype == like.dtype else self("Cast", x, to=like.dtype)

    def transpose(self, x: Value, perm: Sequence[int]) -> Value:
        return x if list(perm) == list(range(len(perm))) else self("Transpose", x, perm=list(perm))

    def swap(self, x: Value, one: int = -1, two: int = -2) -> Value:
        """Exchange two axes, by default the last two."""
        perm = list(range(x.rank))
        perm[one], perm[two] = perm[two], perm[one]
        return self.transpose(x, perm)

    def slice(self, x: Value, axis: int, start: Dim, end: Dim, step: int = 1) -> Value:
        return self("Slice", x, self.vector([start]), self.vector([end]), [axis], [step])

    def split(self, x: Value, axis: int, parts: Sequence[Dim]) -> list[Value]:
        return self.many("Split", [x, self.vector(parts)], len(parts), axis=axis)


def _folded(first: Fact, second: Fact) -> np.ndarray | None:
    """Return a result that is known, integer and the same under both assignments."""
    one, two = first.array, second.array
    if one is None or two is None or one.dtype.kind not in "iub":
        return None
    return one if one.shape == two.shape and np.array_equal(one, two) else None
