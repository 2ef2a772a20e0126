"""What a gate looks at: the values that the last layers of the fast pass read, pooled, and how sure that pass is of its classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from onnxprune.changes.dynamic.joining import Joining, of_samples
from onnxprune.coupling.channels import last_layers
from onnxprune.coupling.links import Links
from onnxprune.measure.outputs import CLASSES, PROBABILITIES, Outputs
from onnxprune.model.facts import Facts
from onnxprune.model.tensors import FLOATS

MOST_FEATURES = 2048
"""Channels that a gate reads at most: what is trained on few rows, and runs for every sample, stays small."""
AXES_AS_INPUT = 18
"""The opset from which reductions take their axes as an input (sums since 13, of which there is none here)."""
LEAST_PROBABILITY = 1e-12


@dataclass(frozen=True)
class Pooled:
    """A value [samples, ..] of so many axes, all of which but the samples' and that of its ``width`` channels are averaged."""

    name: str
    rank: int
    axis: int
    width: int


@dataclass(frozen=True)
class Certain:
    """An output of classes along ``axis``, as ``probabilities`` or as scores."""

    name: str
    rank: int
    axis: int
    probabilities: bool


@dataclass(frozen=True)
class GateView:
    """What a gate looks at: ``pooled`` values, and how sure ``certain`` outputs are, two features each."""

    pooled: tuple[Pooled, ...]
    certain: tuple[Certain, ...]

    @property
    def width(self) -> int:
        return sum(one.width for one in self.pooled) + 2 * len(self.certain)

    def written(self, into: Joining, opset: int) -> str:
        """Add the nodes that compute the features, and return the name of these: float32[samples, width]."""
        parts = [_pooled(one, into, opset) for one in self.pooled]
        for one in self.certain:
            parts += _certainty(one, into, opset)
        return parts[0] if len(parts) == 1 else into.add("Concat", parts, "gate_features", axis=1)


def _pooled(one: Pooled, into: Joining, opset: int) -> str:
    wide = into.add("Cast", [into.called(one.name)], "gate_read", to=TensorProto.FLOAT)
    axes = [axis for axis in range(1, one.rank) if axis != one.axis]
    return _reduced("ReduceMean", wide, axes, into, opset, keep=False) if axes else wide


def _certainty(one: Certain, into: Joining, opset: int) -> Iterator[str]:
    """Yield, as means over positions, the logarithm of the likeliest class and that of the sum of the squared probabilities."""
    last = one.rank - 1
    scores = into.add("Cast", [into.called(one.name)], "gate_scores", to=TensorProto.FLOAT)
    if one.axis != last:
        order = [axis for axis in range(one.rank) if axis != one.axis]
        scores = into.add("Transpose", [scores], "gate_turned", perm=[*order, one.axis])
    if one.probabilities:
        least = into.store("gate_least", np.array(LEAST_PROBABILITY, np.float32))
        logs = into.add("Log", [into.add("Max", [scores, least], "gate_clipped")], "gate_logs")
    else:
        logs = into.add("LogSoftmax", [scores], "gate_logs", axis=last)
    two = into.store("gate_two", np.array(2, np.float32))
    twice = into.add("Mul", [logs, two], "gate_twice")
    for op, value in (("ReduceMax", logs), ("ReduceLogSumExp", twice)):
        found = _reduced(op, value, [last], into, opset, keep=True)
        places = list(range(1, last))
        yield _reduced("ReduceMean", found, places, into, opset, keep=False) if places else found


def _reduced(op: str, value: str, axes: Sequence[int], into: Joining, opset: int, *, keep: bool) -> str:
    name = f"gate_{op.lower()}"
    if opset < AXES_AS_INPUT:
        return into.add(op, [value], name, axes=list(axes), keepdims=int(keep))
    return into.add(op, [value, into.store("gate_axes", np.array(axes, np.int64))], name, keepdims=int(keep))


def gate_view(facts: Facts, links: Links, outputs: Outputs) -> GateView:
    """Return what there is to look at in a model: how sure it is of its classes, where classes are all that it gives, else what the layers read
    that make its outputs too; at least the outputs.

    On inputs that are harder than those that taught the gate, certainty still tells what it told; single channels do so less.
    """
    judged = [output for output in outputs.judged if output.name in facts.graph.outputs]
    certain = [
        Certain(output.name, len(shape), output.channel_axis, output.kind == PROBABILITIES)
        for output in judged
        if output.kind in CLASSES and output.channel_axis and of_samples(facts, output.name)
        if (shape := facts.shape(output.name)) is not None
    ]
    if certain and len(certain) == len(judged):
        return GateView((), tuple(certain))
    names = [output.name for output in judged]
    pooled = _read_at_last(facts, links, names)
    if not pooled and not certain:
        pooled = [one for name in names if (one := _channels(facts, name, len(facts.shape(name) or ()) - 1))]
    return GateView(tuple(pooled), tuple(certain))


def _read_at_last(facts: Facts, links: Links, names: Sequence[str]) -> list[Pooled]:
    """Return what the layers read that make some outputs, MOST_FEATURES channels at most."""
    found, width = dict[str, Pooled](), 0
    for node, _ in last_layers(links, names):
        value = next((name for name in node.inputs if name and name not in facts.constants), "")
        axis = 1 if node.op.endswith("Conv") else len(facts.shape(value) or ()) - 1
        one = _channels(facts, value, axis)
        if one is not None and value not in found and width + one.width <= MOST_FEATURES:
            found[value], width = one, width + one.width
    return list(found.values())


def _channels(facts: Facts, value: str, axis: int) -> Pooled | None:
    shape = facts.shape(value)
    if shape is None or axis < 1 or facts.dtype(value) not in FLOATS or not of_samples(facts, value):
        return None
    return Pooled(value, len(shape), axis, shape[axis]) if facts.static(value, axis) else None
