"""A copy of a model that also hands out inner values, reduced to per-channel sums where that is all that is wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxprune.errors import UsageError
from onnxprune.evidence.needs import Need
from onnxprune.evidence.stats import Moments
from onnxprune.model.facts import Facts
from onnxprune.model.graph import Names, give_out
from onnxprune.model.read import FLOATS

REDUCE_AXES_AS_INPUT = {"ReduceMean": 18, "ReduceSum": 13}


@dataclass
class Probe:
    """``proto``: a structure of the model; ``whole``: values handed out as they are.

    ``reduced``: need -> names of the element count, the mean and the sum of squares.
    """

    proto: ModelProto
    whole: tuple[str, ...]
    reduced: dict[Need, tuple[str, str, str]] = field(default_factory=dict)

    @property
    def outputs(self) -> list[str]:
        return list(dict.fromkeys([*self.whole, *(name for names in self.reduced.values() for name in names)]))


def build_probe(facts: Facts, needs: Sequence[Need], masked: bool) -> Probe:
    """Return the model with everything the needs read as outputs; raise UsageError for values that cannot be observed.

    Moments are reduced to float64 sums inside the graph, unless padding has to be left out.
    """
    inner = observable(facts) - set(facts.graph.inputs)
    known = inner | set(facts.graph.inputs)
    for name in sorted({name for need in needs for name in need.values} - known):
        raise UsageError(f"{name!r} is no value of the model that can be observed")
    reducible = [
        n for n in needs if n.kind == "moments" and not masked and n.value in inner and facts.dtype(n.value) in FLOATS
    ]
    shared = {name for n in needs if n not in reducible for name in n.values} & inner
    reducible = [n for n in reducible if n.value not in shared and "" in facts.graph.versions]
    proto = facts.model.draft()
    probe = Probe(proto, tuple(sorted(shared)))
    names = Names(proto.graph)
    for number, need in enumerate(reducible):
        probe.reduced[need] = _reduce(proto, need, facts, names, f"evidence_{number}")
    give_out(proto, probe.outputs)
    return probe


def observable(facts: Facts) -> set[str]:
    """Values that can be graph outputs: tensors made by the nodes of the main graph, and the inputs."""
    made = {name for node in facts.graph.top for name in node.outputs if name and name not in facts.constants}
    return {name for name in (*made, *facts.graph.inputs) if facts.dtype(name) and facts.shape(name) is not None}


def _reduce(proto: ModelProto, need: Need, facts: Facts, names: Names, prefix: str) -> tuple[str, str, str]:
    """Add nodes for the element count, the mean and the sum of squared deviations per channel, in float64.

    They stand right behind what makes the value, so that it is not carried on for them where a model runs by segments.
    """
    rank = len(facts.shape(need.value) or ())
    axes = [axis for axis in range(rank) if axis != need.axis % rank]
    wide, mean, gap, power, squares, size = (
        names.fresh(f"{prefix}_{part}") for part in ("x", "mean", "gap", "power", "sum", "size")
    )
    nodes = [
        helper.make_node("Cast", [need.value], [wide], to=TensorProto.DOUBLE),
        _reduction(proto, "ReduceMean", wide, mean, axes, facts, names),
        helper.make_node("Sub", [wide, mean], [gap]),
        helper.make_node("Mul", [gap, gap], [power]),
        _reduction(proto, "ReduceSum", power, squares, axes, facts, names),
        helper.make_node("Size", [need.value], [size]),
    ]
    place = 1 + next(number for number, node in enumerate(proto.graph.node) if need.value in node.output)
    for node in reversed(nodes):
        proto.graph.node.insert(place, node)
    return size, mean, squares


def _reduction(
    proto: ModelProto, op: str, source: str, target: str, axes: list[int], facts: Facts, names: Names
) -> onnx.NodeProto:
    if not axes:
        return helper.make_node("Identity", [source], [target])
    if facts.graph.versions[""] < REDUCE_AXES_AS_INPUT[op]:
        return helper.make_node(op, [source], [target], axes=axes, keepdims=1)
    listed = names.fresh(f"{target}_axes")
    proto.graph.initializer.append(numpy_helper.from_array(np.array(axes, np.int64), listed))
    return helper.make_node(op, [source, listed], [target], keepdims=1)


def reduced_moments(size: np.ndarray, mean: np.ndarray, squares: np.ndarray) -> Moments:
    """Return the moments of one batch from what the reducing nodes gave."""
    channels = max(mean.size, 1)
    return Moments(np.asarray(size / channels), mean.reshape(-1), squares.reshape(-1))
