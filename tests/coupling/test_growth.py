"""Growth: work grows with the nodes of a model and the widths of its groups, not with their squares; depth has no limit."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper
from support.networks import network
from support.oracles import analysed, halves

import onnxprune
from onnxprune.allocate.account import frozen_stakes
from onnxprune.allocate.hull import lower_hull
from onnxprune.coupling.cut import cut
from onnxprune.coupling.silence import silenced
from onnxprune.proof.check import check_cut
from onnxprune.search.widths import _hull


def deep(layers: int) -> ModelProto:
    """Layers of MatMul, Add and Relu, ten units each."""
    rng = np.random.default_rng(0)
    nodes, tensors, value = [], [], "x"
    for i in range(layers):
        tensors += [
            numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32) / 3, name)
            for name, shape in ((f"w{i}", (10, 10)), (f"b{i}", (10,)))
        ]
        nodes += [
            helper.make_node("MatMul", [value, f"w{i}"], [f"m{i}"]),
            helper.make_node("Add", [f"m{i}", f"b{i}"], [f"a{i}"]),
            helper.make_node("Relu", [f"a{i}"], [f"r{i}"]),
        ]
        value = f"r{i}"
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 10]) for name in ("x", value)]
    graph = helper.make_graph(nodes, "deep", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def steps(work: Callable[[], object]) -> int:
    """Return how many lines and calls of Python a piece of work takes, which is the same on every machine."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Callable:
        nonlocal count
        count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def work_of(layers: int) -> int:
    """What cutting and silencing take."""
    analysis = analysed(deep(layers))
    kept = halves(analysis)
    return steps(lambda: (cut(analysis, kept), silenced(analysis, kept)))


def test_cutting_and_silencing_grow_with_the_nodes() -> None:
    few, many = work_of(40), work_of(400)
    assert many < 12 * few  # ten times the nodes; it was a hundred times the work


def hull_by_trying(points: list[tuple[float, float]]) -> list[int]:
    """The next point is always the one of the least slope, the first of several."""
    hull = [0]
    while hull[-1] < len(points) - 1:
        at, rest = hull[-1], range(hull[-1] + 1, len(points))
        hull.append(min(rest, key=lambda to: (points[to][1] - points[at][1]) / (points[at][0] - points[to][0])))
    return hull


def test_one_pass_finds_the_hull() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        costs = np.sort(rng.permutation(100)[:20])[::-1].tolist()
        damages = rng.integers(0, 30, 20).tolist()
        assert lower_hull(costs, damages) == hull_by_trying(list(zip(costs, damages, strict=True)))


def test_the_hull_of_a_wide_layer_is_found_in_one_pass() -> None:
    width = 11_008
    error = np.cumsum(np.random.default_rng(0).exponential(size=width + 1))
    found: dict = {}
    taken = steps(lambda: found.update(_hull(range(1, width + 1), error)))
    assert len(found) == width - 1
    assert taken < 50 * width  # every pair: 60 million


def test_long_chains_behind_an_input_have_no_limit() -> None:
    """The numbers of an embedding go through two thousand nodes."""
    steps = "; ".join(f"e{i + 1} = Identity(e{i})" for i in range(2000))
    text = f"e0 = Identity(x); {steps}; h = Gather(%9x6, e2000); y = MatMul(h, %6x3)"
    analysis = analysed(network(text, "int64[2] x", "float[2,3] y"))
    kept = halves(analysis)
    assert check_cut(analysis, kept, cut(analysis, kept)).exact


def test_long_chains_of_constants_have_no_limit() -> None:
    steps = "; ".join(f"c{i + 1} = Neg(c{i})" for i in range(2000))
    text = f"c0 = %6x8; {steps}; h = MatMul(x, %6x6); g = MatMul(h, c2000); y = MatMul(g, %8x3)"
    analysis = analysed(network(text, "float[2,6] x", "float[2,3] y"))
    assert [group.width for group in analysis.groups] == [6, 8]
    assert frozen_stakes(analysis)
    kept = halves(analysis)
    assert check_cut(analysis, kept, cut(analysis, kept)).exact
    assert onnxprune.plan(analysis)
