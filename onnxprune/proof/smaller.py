"""Smaller pictures for a proof: what a cut changes is seen on them as well, and a run costs as many times less.

A cut takes positions out of channels, heads and neurons, and never out of the axes along which windows slide. What a node does with
its channels is the same at every size of the picture, so that equal operands and equal results at every changed node prove as
much on a small one, if the graph takes it and every weight is still used: see ``is_enough``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from onnx import ModelProto

from onnxprune.model.facts import Fact, Facts, Sizes, interpret
from onnxprune.model.graph import Node
from onnxprune.model.model import Model

WORTH = 1 << 23  # elements of all values together, from which on smaller inputs are looked for
LARGE = 128  # positions of an axis of an input that may become fewer
SHARES = (1 / 4, 1 / 2)
STEP = 32  # what is left is a multiple of it, and twice as much at least: windows and strides halve it again and again
WINDOWED = ("Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "FusedConv")


def smaller_sizes(facts: Facts) -> tuple[Sizes, ...]:
    """Return smaller sizes of the inputs that show all that the sizes of the analysis do, of both assignments of free sizes; () for none."""
    top = [node for node in facts.graph.top if not all(name in facts.constants for name in node.outputs if name)]
    elements = sum(math.prod(facts.shape(name) or ()) for node in top for name in node.outputs if name)
    if elements < WORTH or any(node.bodies for node in facts.graph.top):
        return ()
    for share in SHARES:
        found = [_shrunk(facts, values, share) for values in _assignments(facts)]
        if found and all(is_enough(facts, values, sizes) for values, sizes in found):
            return tuple(sizes for _, sizes in found)
    return ()


def _assignments(facts: Facts) -> Iterator[Mapping[str, Fact]]:
    yield facts.first
    if facts.second is not facts.first:
        yield facts.second


def _shrunk(facts: Facts, values: Mapping[str, Fact], share: float) -> tuple[Mapping[str, Fact], Sizes]:
    """Return an assignment and its sizes with every large axis of floats and bytes shortened, but the first of an input."""
    sizes = {}
    for name in facts.graph.inputs:
        shape = values[name].shape or ()
        numbers = facts.dtype(name) in (1, 2, 3, 10, 11)  # floats and bytes, not indices
        sizes[name] = tuple(
            _shorter(size, share) if numbers and axis and size >= LARGE else size for axis, size in enumerate(shape)
        )
    return values, sizes


def _shorter(size: int, share: float) -> int:
    return min(size, max(2, round(size * share / STEP)) * STEP)


def is_enough(facts: Facts, values: Mapping[str, Fact], sizes: Sizes) -> bool:
    """Whether a graph runs at these sizes, no axis shrinks to a single position, and every tap of every window meets a number.

    ``values``: what is inferred at the sizes of the analysis. Axes that nodes look at as channels keep their sizes, since what is
    stored has them.
    """
    if all(values[name].shape == shape for name, shape in sizes.items()):
        return False
    small = interpret(facts.graph, facts.model, sizes)
    for node in facts.graph.top:
        for name in node.outputs:
            now, then = small.get(name), values.get(name)
            if not name or then is None or then.shape is None:
                continue
            if now is None or now.shape is None or len(now.shape) != len(then.shape) or now.dtype != then.dtype:
                return False
            if any(few != many and few < 2 for few, many in zip(now.shape, then.shape, strict=True)):
                return False
        if node.op in WINDOWED and not _meets_all_taps(node, values, small):
            return False
    return True


def _meets_all_taps(node: Node, values: Mapping[str, Fact], small: Mapping[str, Fact]) -> bool:
    """Whether each tap of a window lies on the picture somewhere, as far as it does at the sizes of the analysis."""
    weight, then, now = (
        values[node.inputs[_WEIGHT.get(node.op, 1)]].shape,
        *(v[node.inputs[0]].shape for v in (values, small)),
    )
    if weight is None or then is None or now is None or len(then) != len(weight):
        return False
    kernel = weight[2:]
    dilations = node.attribute("dilations", [1] * len(kernel))
    reaches = [dilation * (size - 1) // 2 + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    return all(few >= min(many, reach) for few, many, reach in zip(now[2:], then[2:], reaches, strict=True))


_WEIGHT = {"QLinearConv": 3}  # the place of the weight among the inputs, where it is not the second


def with_free_inputs(model: Model, names: Mapping[str, object]) -> Model:
    """Return a model whose inputs of these names take any size, and which declares no size of what follows from them."""
    proto: ModelProto = model.draft()
    for value in proto.graph.input:
        if value.name in names:
            for dim in value.type.tensor_type.shape.dim:
                dim.Clear()
    for value in proto.graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    del proto.graph.value_info[:]
    return model.derived(proto)
