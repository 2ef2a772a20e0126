"""Model-local functions are inlined, computations on stored tensors folded, and nothing is computed otherwise."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from support.networks import feeds, network
from support.oracles import analysed, assert_sound, golden_lines, random_plan, run, same

from onnxprune.coupling.prepare import prepare
from onnxprune.model.read import load

DOMAINS = {"local": 1}
FUNCTIONS = """
<domain: "local", opset_import: ["" : 21, "local" : 1]>
dense <slope> (a, w, b) => (c) {
  m = MatMul(a, w)
  s = Add(m, b)
  c = local.leak <alpha: float = @slope> (s)
}
<domain: "local", opset_import: ["" : 21]>
leak <alpha> (a) => (c) {
  zero = Constant <value_float = 0.0> ()
  all = ReduceSum <keepdims = 0> (a)
  up = Greater (all, zero)
  c = If (up) <then_branch = one () => (d) { d = LeakyRelu <alpha: float = @alpha> (a) },
               else_branch = two () => (d) { d = LeakyRelu <alpha: float = @alpha> (a) }>
}
"""
BODY = """
w1 = %3x6; b1 = %6; p = local.dense<slope = 0.1>(x, w1, b1)
w2 = %6x5; b2 = %5; q = local.dense<slope = 0.2>(p, w2, b2)
w3 = %5x4; y = MatMul(q, w3)
"""


def nested() -> onnx.ModelProto:
    return network(BODY, "float[2,3] x", "float[2,4] y", domains=DOMAINS, functions=FUNCTIONS)


def test_nested_functions_are_inlined_and_compute_the_same() -> None:
    model = nested()
    inlined = prepare(load(model)).proto
    assert not inlined.functions
    assert {node.domain for node in inlined.graph.node} == {""}
    inputs = feeds(model)
    same(run(model, inputs), run(inlined, inputs))


def test_each_call_is_cut_on_its_own() -> None:
    analysis = analysed(prepare(load(nested())).proto)
    assert golden_lines(analysis) == [
        "w1 6: w1.1 writes, b1.0 shifts, w2.0 reads",
        "w2 5: w2.1 writes, b2.0 shifts, w3.0 reads",
    ]
    assert_sound(analysis, random_plan(analysis, np.random.default_rng(3)))


def test_functions_of_another_compatible_opset_are_inlined() -> None:
    model = network(
        "w1 = %3x6; p = local.project(x, w1)\nw2 = %6x4; y = MatMul(p, w2)",
        "float[2,3] x",
        "float[2,4] y",
        domains=DOMAINS,
        functions=(
            '<domain: "local", opset_import: ["" : 15]>\nproject (a, w) => (c) { m = MatMul(a, w)\nc = Softplus(m) }'
        ),
    )
    analysis = analysed(prepare(load(model)).proto)
    assert golden_lines(analysis) == ["w1 6: w1.1 writes, w2.0 reads"]
    assert_sound(analysis, random_plan(analysis, np.random.default_rng(4)))


def test_a_model_without_functions_is_returned_as_it_is() -> None:
    model = load(network("w = %3x4; y = MatMul(x, w)", "float[2,3] x", "float[2,4] y"))
    assert prepare(model) is model


def test_bodies_of_nodes_with_equal_names_are_told_apart() -> None:
    analysis = analysed(prepare(load(nested())).proto)
    names = [name for node in analysis.facts.graph.nodes for name in node.outputs if name]
    assert len(names) == len(set(names))


# --- computations on stored tensors alone ---------------------------------------------------------------------------

STANDARDISED = """
w = %6x3x1x1; m = ReduceMean<keepdims=1>(w, @[1, 2, 3]); d = Sub(w, m)
g = %6x1x1x1; s = Mul(d, g); p = Conv(x, s); y = Conv(p, %4x6x1x1)
"""


def test_a_reduction_of_a_stored_tensor_is_stored_itself() -> None:
    """The mean of w becomes a tensor; w, used beside it, and what follows pointwise stay as they are."""
    model = network(STANDARDISED)
    folded = prepare(load(model)).proto
    assert [node.op_type for node in folded.graph.node] == ["Sub", "Mul", "Conv", "Conv"]
    assert {"w", "m", "g"} <= {tensor.name for tensor in folded.graph.initializer}
    inputs = feeds(model)
    same(run(model, inputs), run(folded, inputs))


def test_standardised_weights_are_cut() -> None:
    analysis = analysed(prepare(load(network(STANDARDISED))).proto)
    assert [(group.name, group.width) for group in analysis.groups] == [("w", 6)]
    assert_sound(analysis, random_plan(analysis, np.random.default_rng(5)))


def test_what_only_the_folded_computation_used_goes() -> None:
    model = network("v = %3x2; f = MatMul(v, @[[1., 2., 3.], [0., 1., 0.]]); y = MatMul(x, f)", "float[2,3] x")
    folded = prepare(load(model)).proto
    assert [node.op_type for node in folded.graph.node] == ["MatMul"]
    assert [tensor.name for tensor in folded.graph.initializer] == ["f"]


def test_a_bias_with_a_part_set_to_zero_is_cut() -> None:
    """Positions written by number into a stored tensor would keep it whole."""
    text = "b = %6; s = ScatterND(b, @[[2], [3]], @[0., 0.]); w = %3x6; m = MatMul(x, w); p = Add(m, s); y = MatMul(p, %6x4)"
    analysis = analysed(prepare(load(network(text, "float[2,3] x"))).proto)
    assert golden_lines(analysis) == ["w 6: w.1 writes, t5.0 reads, s.0 shifts"]
    assert_sound(analysis, random_plan(analysis, np.random.default_rng(6)))


@pytest.mark.parametrize(
    "body",
    [
        "w = %6x3:int8; f = DequantizeLinear(w, @0.1); t = Transpose(f); y = MatMul(x, t)",
        "w = %3x6; g = %6; f = Mul(w, g); r = Reshape(f, @[3, 6]); y = MatMul(x, r)",
        "w = %3x6; s = ReduceSum<keepdims=0>(x, @[1]); p = MatMul(x, w); y = Add(p, @0.5)",
    ],
)
def test_what_a_cut_can_follow_is_left_alone(body: str) -> None:
    model = load(network(body, "float[2,3] x"))
    assert prepare(model) is model


def test_a_large_tensor_made_of_small_ones_stays_computed() -> None:
    """600 x 600 floats from two vectors would be 1.4 MB to store."""
    model = load(network("c = %600x1; r = %1x600; f = MatMul(c, r); y = Add(x, f)", "float[600,600] x"))
    assert "MatMul" in [node.op_type for node in prepare(model).proto.graph.node]


# --- sequences -------------------------------------------------------------------------------------------------------

SEQUENCES = {
    "joined": ("s = SequenceConstruct(a, b); h = ConcatFromSequence<axis = 1>(s); y = Conv(h, %5x14x1x1)", [6, 8]),
    "joined from the back": ("s = SequenceConstruct(a, b); h = ConcatFromSequence<axis = -3>(s); y = Conv(h, %5x14x1x1)", [6, 8]),
    "stacked": (
        "c = Conv(x, %6x3x1x1); s = SequenceConstruct(a, c); h = ConcatFromSequence<axis = 0, new_axis = 1>(s); "
        "r = ReduceSum<keepdims = 0>(h, @[0]); g = Conv(r, %5x6x1x1); k = Conv(b, %5x8x1x1); y = Add(g, k)",
        [6, 8],
    ),
    "taken": ("s = SequenceConstruct(a, b); h = SequenceAt(s, @-1); g = SequenceAt(s, @0); k = Conv(h, %5x8x1x1); l = Conv(g, %5x6x1x1); y = Add(k, l)", [6, 8]),
}  # fmt: skip


@pytest.mark.parametrize(("text", "widths"), SEQUENCES.values(), ids=SEQUENCES)
@pytest.mark.parametrize("opset", [11, 21])
def test_sequences_of_known_elements_are_cut_through(text: str, widths: list[int], opset: int) -> None:
    if opset < 13:
        text = text.replace("ReduceSum<keepdims = 0>(h, @[0])", "ReduceSum<keepdims = 0, axes = [0]>(h)")
    model = network(f"a = Conv(x, %6x3x1x1); b = Conv(x, %8x3x1x1); {text}", "float[2,3,4,4] x", opset=opset)
    analysis = analysed(prepare(load(model)).proto)
    assert sorted(group.width for group in analysis.groups) == widths
    assert_sound(analysis, [np.arange(group.width) % 2 == 0 for group in analysis.groups])
    same(run(model, feeds(model)), run(analysis.facts.model.proto, feeds(model)))


def test_sequences_that_are_read_otherwise_are_left_alone() -> None:
    model = load(
        network("s = SequenceConstruct(x, x); n = SequenceLength(s); y = Cast<to = 1>(n)", "float[2,3] x", "float y")
    )
    assert prepare(model) is model
