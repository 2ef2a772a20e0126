"""Units that carry nothing go without loss: networks as slimming and group sparsity leave them, and what must stay."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support.networks import network

import onnxprune
from onnxprune.errors import PlanError, UsageError
from onnxprune.model.runtime import session

CONVNET = """
h = Conv<pads=[1,1,1,1], kernel_shape=[3,3]>(x, a)
n = BatchNormalization(h, gamma, beta, mean, var)
r = Relu(n)
s = Conv<kernel_shape=[1,1]>(r, b, b0)
t = Relu(s)
u = Conv<pads=[1,1,1,1], kernel_shape=[3,3]>(t, c)
p = GlobalAveragePool(u)
f = Flatten(p)
y = Gemm<transB=1>(f, d, d0)
"""
SHAPES = {
    "a": (8, 3, 3, 3),
    **dict.fromkeys(["gamma", "beta", "mean", "var"], (8,)),
    **{"b": (6, 8, 1, 1), "b0": (6,), "c": (5, 6, 3, 3), "d": (4, 5), "d0": (4,)},
}


def convnet(edit=lambda w: None) -> onnx.ModelProto:
    """Return the network with random weights changed by ``edit`` (name -> array, in place)."""
    tensors = "".join(f"{name} = %+{'x'.join(map(str, shape))}\n" for name, shape in SHAPES.items())
    model = network(tensors + CONVNET, "float[2,3,5,5] x", "float[2,4] y")
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    arrays["var"] = np.abs(arrays["var"]) + 0.5
    edit(arrays)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name], tensor.name))
    return model


def shrunk(model: onnx.ModelProto, **settings) -> tuple[onnxprune.Result, dict[str, int]]:
    """Return the result and the widths of all groups that became narrower; outputs must be equal."""
    result = onnxprune.prune(model, lossless=True, latency=False, **settings)
    x = np.random.default_rng(7).standard_normal((2, 3, 5, 5)).astype(np.float32)
    feeds = {
        model.graph.input[0].name: x.reshape([d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim])
    }
    want, have = (session(m).run(feeds)["y"] for m in (model, result.model))
    np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())
    groups = result.report["groups"]
    return result, {g["name"]: g["width_after"] for g in groups if g["width_after"] < g["width_before"]}


def removed(result: onnxprune.Result) -> dict[str, int]:
    return {name: n for name, n in result.report["lossless"].items() if n and name != "max_relative_error"}


# --- laws -----------------------------------------------------------------------------------------------------------


def test_a_network_without_redundancy_stays_whole():
    result, widths = shrunk(convnet())
    assert not widths and not removed(result)
    assert "the result is the original" in result.report["warnings"][0]


def test_the_smaller_network_holds_nothing_more():
    def edit(w):
        w["gamma"][[1, 4]] = 0.0
        w["c"][:, 2] = 0.0

    result, _ = shrunk(convnet(edit))
    assert not shrunk(result.model)[1]


@pytest.mark.parametrize("seed", range(4))
def test_random_zeroed_groups_go_without_loss(seed):
    """What group sparsity leaves: all that writes a unit is zero, its shift too."""
    rng = np.random.default_rng(seed)
    first, second = rng.random(8) < 0.4, rng.random(6) < 0.4

    def edit(w):
        for name in ("a", "beta", "mean"):
            w[name][first] = 0.0
        w["b"][second], w["b0"][second] = 0.0, 0.0

    _, widths = shrunk(convnet(edit), seed=seed)
    want = {"a": 8 - first.sum(), "b": 6 - second.sum()}
    assert widths == {name: max(n, 1) for name, n in want.items() if n < SHAPES[name][0]}


# --- one by one -----------------------------------------------------------------------------------------------------


def test_slimmed_channels_leave_their_constant_in_the_bias_behind():
    """gamma = 0: the unit is relu(beta), which a pointwise convolution takes into its bias."""

    def edit(w):
        w["gamma"][[0, 3, 5]] = 0.0
        w["beta"][[0, 3, 5]] = [0.7, -0.2, 1.5]

    result, widths = shrunk(convnet(edit))
    assert widths == {"a": 5} and removed(result) == {"constant": 2, "zero": 1}
    model = {t.name: numpy_helper.to_array(t) for t in result.model.graph.initializer}
    original = {t.name: numpy_helper.to_array(t) for t in convnet(edit).graph.initializer}
    want = original["b0"] + original["b"][:, [0, 5], 0, 0] @ np.float32([0.7, 1.5])
    np.testing.assert_allclose(model["b0"], want, rtol=1e-6)


def test_a_constant_read_through_zero_padding_stays():
    """The 3x3 convolution sees zeros beside the constant at its borders, which no bias gives."""

    def edit(w):
        w["b"][1] = 0.0
        w["b0"][1] = 0.5

    assert not shrunk(convnet(edit))[1]


def test_of_several_constants_read_through_padding_one_stays():
    """All are multiples of one another, at the borders too: the first takes the others' weights, in proportion."""

    def edit(w):
        w["b"][[1, 3, 4]], w["b0"][[1, 3, 4]] = 0.0, [0.5, 2.0, 0.25]

    result, widths = shrunk(convnet(edit))
    assert widths == {"b": 4} and removed(result) == {"constant": 2}
    model = {t.name: numpy_helper.to_array(t) for t in result.model.graph.initializer}
    original = {t.name: numpy_helper.to_array(t) for t in convnet(edit).graph.initializer}["c"]
    np.testing.assert_allclose(model["c"][:, 1], original[:, 1] + 4 * original[:, 3] + 0.5 * original[:, 4], rtol=1e-5)


def test_unread_channels_go():
    def edit(w):
        w["c"][:, [0, 2]] = 0.0

    result, widths = shrunk(convnet(edit))
    assert widths == {"b": 4} and removed(result) == {"unread": 2}


def test_duplicates_go_and_their_readers_add_up():
    def edit(w):
        w["b"][4], w["b0"][4] = w["b"][1], w["b0"][1]

    result, widths = shrunk(convnet(edit))
    assert widths == {"b": 5} and removed(result) == {"duplicate": 1}
    model = {t.name: numpy_helper.to_array(t) for t in result.model.graph.initializer}
    original = {t.name: numpy_helper.to_array(t) for t in convnet(edit).graph.initializer}
    np.testing.assert_allclose(model["c"][:, 1], original["c"][:, 1] + original["c"][:, 4], rtol=1e-6)


def test_what_only_a_redundant_unit_reads_goes_with_it():
    """Unit 2 of the second layer is unread; once it is gone nobody reads unit 6 of the first."""

    def edit(w):
        w["c"][:, 2] = 0.0
        w["b"][[0, 1, 3, 4, 5], 6] = 0.0

    result, widths = shrunk(convnet(edit))
    assert widths == {"a": 7, "b": 5} and removed(result) == {"unread": 2}


def test_equal_filters_on_different_inputs_are_no_duplicates():
    """Output channels of two groups with equal weights read different channels."""
    body = "h = Relu(x)\ng = Conv<group=2, kernel_shape=[1,1]>(h, w)\nr = Relu(g)\ny = Conv<kernel_shape=[1,1]>(r, %3x4x1x1)"
    weight = "w = @[[1., 2.], [2., -1.], [1., 2.], [2., -1.]]"
    model = network(f"{weight}\n{body}", "float[1,4,5,3] x", "float[1,3,5,3] y")
    tensor = next(t for t in model.graph.initializer if t.name == "w")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).reshape(4, 2, 1, 1), "w"))
    assert not _widths(model)


def _widths(model: onnx.ModelProto) -> list[tuple[int, int]]:
    groups = onnxprune.prune(model, lossless=True, latency=False).report["groups"]
    return [(g["width_before"], g["width_after"]) for g in groups if g["width_after"] != g["width_before"]]


def test_factors_with_a_gate_of_zero_lose_their_inner_units():
    """Factorised low-rank pruning leaves p diag(z) q with zeros in z."""
    body = "h = MatMul(x, %4x6); g = Mul(h, @[1., 0., 0.5, 0., -2., 1.]); y = MatMul(g, %6x3)"
    assert _widths(network(body, "float[5,4] x", "float[5,3] y")) == [(6, 4)]


def test_a_gate_that_moves_is_no_constant():
    """Zero writing weights and a bias make a constant, times a sigmoid of the input they do not."""
    body = """
    a = @[[1., 0., 2.], [0., 0., 1.]]
    h = MatMul(x, a); b = Add(h, @[0.1, 0.5, 0.2])
    k = MatMul(x, %2x3); g = Sigmoid(k)
    m = Mul(b, g); y = Gemm(m, %3x2, %2)
    """
    assert not _widths(network(body, "float[4,2] x", "float[4,2] y"))


def test_heads_without_a_reader_go():
    """Two heads of width two; what the projection reads of the second one is zero."""
    body = """
    q = MatMul(x, %4x4); k = MatMul(x, %4x4); v = MatMul(x, %4x4)
    q1 = Reshape(q, @[1, 3, 2, 2]); k1 = Reshape(k, @[1, 3, 2, 2]); v1 = Reshape(v, @[1, 3, 2, 2])
    q2 = Transpose<perm=[0,2,1,3]>(q1); k2 = Transpose<perm=[0,2,3,1]>(k1); v2 = Transpose<perm=[0,2,1,3]>(v1)
    s = MatMul(q2, k2); p = Softmax(s); o = MatMul(p, v2)
    o1 = Transpose<perm=[0,2,1,3]>(o); o2 = Reshape(o1, @[1, 3, 4])
    w = @[[1., 2.], [0.5, -1.], [0., 0.], [0., 0.]]
    y = MatMul(o2, w)
    """
    assert _widths(network(body, "float[1,3,4] x", "float[1,3,2] y")) == [(2, 1)]


# --- settings, plans ------------------------------------------------------------------------------------------------


def _slim(w):
    w["gamma"][[1, 2, 6]] = 0.0


@pytest.mark.parametrize("name, value", [("ratio", 0.5), ("criterion", "l1"), ("repair", "bias"), ("search", 5.0)])
def test_options_that_decide_on_more_are_refused(name, value):
    with pytest.raises(UsageError, match="does not go with lossless"):
        onnxprune.prune(convnet(), lossless=True, **{name: value})


def test_widths_stay_multiples_where_that_is_asked_for():
    assert shrunk(convnet(_slim), round_to=2)[1] == {"a": 6}


def test_excluded_groups_stay():
    assert not shrunk(convnet(_slim), exclude=("a",))[1]


def test_a_plan_replays_to_the_same_bytes():
    model = convnet(_slim)
    plan = onnxprune.plan(model, lossless=True, latency=False)
    once, again = onnxprune.prune(model, lossless=True, latency=False), onnxprune.apply(plan, model, latency=False)
    assert once.model.SerializeToString() == again.model.SerializeToString()


def test_a_plan_that_removes_more_is_refused():
    model = convnet(_slim)
    plan = onnxprune.plan(model, ratio=0.5, round_to=1)
    with pytest.raises(PlanError, match="carry something"):
        onnxprune.apply(plan, model, lossless=True, latency=False)
