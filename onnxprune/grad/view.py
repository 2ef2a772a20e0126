"""What a vector-Jacobian rule sees of one forward node, and the table the rules are in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from onnx import TensorProto

from onnxprune.grad.emitter import Emitter, Unsupported, Value
from onnxprune.model.facts import Fact
from onnxprune.model.graph import Node
from onnxprune.registry import Registry

Gradients = Sequence[Value | None]


@dataclass(frozen=True)
class ForwardNode:
    """One forward node with its operands as values; ``x`` and ``y`` are the first input and output."""

    node: Node
    emit: Emitter

    @property
    def x(self) -> Value:
        return self.emit.value(self.node.inputs[0])

    @property
    def y(self) -> Value:
        return self.emit.value(self.node.outputs[0])

    @property
    def inputs(self) -> list[Value]:
        """All inputs; an absent one has an empty name (use ``input`` to ask for it)."""
        return [self.emit.value(name) for name in self.node.inputs]

    def input(self, index: int) -> Value | None:
        """Return an input, or None where it is absent."""
        name = self.node.input(index)
        return self.emit.value(name) if name else None

    def indices(self) -> Value:
        """Return the second output, int64 and shaped like the first, switched on where the node did not ask for it."""
        name = self.node.outputs[1] if len(self.node.outputs) > 1 else ""
        name = name or f"{self.emit.prefix}{self.y.name}.indices"
        self.emit.extra_outputs[self.y.name] = name
        for facts in (self.emit.first, self.emit.second):
            facts[name] = Fact(TensorProto.INT64, facts[self.y.name].shape)
        return self.emit.value(name)

    def attribute(self, name: str, default: Any = None) -> Any:
        return self.node.attribute(name, default)

    def array(self, index: int, what: str) -> np.ndarray:
        """Return the content of an input that must be constant; raises Unsupported where it is not."""
        content = self.inputs[index].array
        if content is None:
            raise Unsupported(f"its {what} are computed at run time")
        return content

    def axis(self, default: int) -> int:
        """Return the attribute ``axis`` as a number from 0."""
        return self.attribute("axis", default) % self.x.rank

    def axes(self, index: int = 1) -> list[int]:
        """Return the axes given as an input, all where there are none, as numbers from 0."""
        if self.input(index) is None:
            return [] if self.attribute("noop_with_empty_axes", 0) else list(range(self.x.rank))
        return sorted(int(axis) % self.x.rank for axis in self.array(index, "axes").reshape(-1))

    def refuse_unless(self, fits: bool, reason: str) -> None:
        """Raise Unsupported with a reason."""
        if not fits:
            raise Unsupported(reason)


Vjp = Callable[..., Gradients]
FloatMap = Callable[[Emitter, ForwardNode, Value], Value]


class VjpRule(NamedTuple):
    """``vjp(emit, node, g)`` -> a gradient or None per input; with ``all_outputs`` it takes one per output."""

    vjp: Vjp
    all_outputs: bool


VJPS: Registry[VjpRule] = Registry("gradient rule")


def vjp(*ops: str, all_outputs: bool = False) -> Callable[[Vjp], Vjp]:
    """Register a rule under the names of its operators."""

    def decorate(rule: Vjp) -> Vjp:
        for op in ops:
            VJPS.add(op, VjpRule(rule, all_outputs))
        return rule

    return decorate
