"""Closed-form repair: the solver against brute force, what each node is asked for, and models that come back."""

from __future__ import annotations

import gc
import weakref
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, numpy_helper
from support.networks import feeds, network

import onnxprune
from onnxprune.coupling.cut import cut
from onnxprune.coupling.groups import Analysis
from onnxprune.data import open_dataset
from onnxprune.data.inputs import input_specs
from onnxprune.data.repeated import Batches, Remembered, held_out
from onnxprune.evidence.rows import Sampler
from onnxprune.means import Means
from onnxprune.measure.divergence import Reference
from onnxprune.model import read
from onnxprune.model.facts import gather_facts
from onnxprune.model.graph import Graph
from onnxprune.model.memory import DEFAULT_LIMIT
from onnxprune.model.read import Model
from onnxprune.model.runtime import session
from onnxprune.repair import Effort, Sequential, lockstep, moments, repair, wide
from onnxprune.repair.few import solve_among_rows
from onnxprune.repair.fit import NodeFit
from onnxprune.repair.linear import Linear, as_linear
from onnxprune.repair.lockstep import Lockstep
from onnxprune.repair.moments import CrossMoments, in_blocks, match_moments, shift_only, solve, squared_error
from onnxprune.repair.order import last_sites
from onnxprune.repair.stored import Stored
from onnxprune.repair.targets import FitTarget, target_of
from onnxprune.repair.teacher import MEMORY, Sought, Teacher

MODELS = Path(__file__).parents[2] / "models"
FLOAT32 = 2e-4  # sums of some thousand float32 products, against numbers of order 1


def _rows(seed: int, rows: int = 60, inputs: int = 5, outputs: int = 3, groups: int = 2) -> tuple[np.ndarray, ...]:
    """Return (x float32[groups, rows, inputs], t [groups, rows, outputs], old float64[groups, outputs, inputs])."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0.3, 1, (groups, rows, inputs)).astype(np.float32)
    old = rng.standard_normal((groups, outputs, inputs))
    t = x @ old.swapaxes(1, 2) + rng.normal(0.5, 1, (groups, rows, outputs))
    return x, t.astype(np.float32), old


def _moments(x: np.ndarray, t: np.ndarray, like: tuple[np.ndarray, np.ndarray] | None = None) -> CrossMoments:
    """``like``: rows whose means are the origins."""
    result = CrossMoments.around(*(like or (x, t)))
    result.update(x, t)
    return result


# --- the solver -----------------------------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 59))
def test_moments_of_parts_add_up_to_those_of_the_whole(seed, at):
    x, t, _ = _rows(seed)
    like = x[:, :5], t[:, :5]
    parts = _moments(x[:, :at], t[:, :at], like) + _moments(x[:, at:], t[:, at:], like)
    for part, whole in zip(vars(parts).values(), vars(_moments(x, t, like)).values(), strict=True):
        np.testing.assert_allclose(part, whole, rtol=1e-4, atol=1e-4)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([1e-3, 0.1, 1.0]), st.booleans())
def test_solve_is_ridge_regression_towards_the_old_weights(seed, damping, intercept):
    x, t, old = _rows(seed)
    weights, bias = solve(_moments(x, t), old, damping, intercept)
    for g in range(len(x)):
        rows, target = x[g].astype(float), t[g].astype(float)
        centred = rows - rows.mean(0) * intercept
        strength = np.sqrt(damping * np.square(centred).sum() / x.shape[2])
        system = np.vstack([centred, strength * np.eye(x.shape[2])])
        wanted = np.vstack([target - target.mean(0) * intercept, strength * old[g].T])
        expected = np.linalg.lstsq(system, wanted, rcond=None)[0].T
        np.testing.assert_allclose(weights[g], expected, rtol=0, atol=FLOAT32)
        shift = target.mean(0) - expected @ rows.mean(0)
        np.testing.assert_allclose(bias[g], shift if intercept else 0, rtol=0, atol=FLOAT32)


@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("intercept", [False, True])
def test_solving_among_rows_is_solving_among_inputs(intercept, weighed):
    """Fewer rows than inputs: both forms of the regression have one answer."""
    x, t, old = _rows(5, rows=7, inputs=12)
    often = np.random.default_rng(1).integers(1, 4, 7).astype(np.float32) if weighed else None
    moments = CrossMoments.around(x, t)
    centred = x - moments.origin_x.astype(np.float32)[:, None]
    moments.add_inputs(centred, often)
    moments.add_targets(centred, t, often)
    for a, b in zip(
        solve(moments, old, 0.1, intercept), solve_among_rows(x, t, old, 0.1, intercept, often), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=0, atol=FLOAT32)


def test_strong_damping_keeps_the_old_weights():
    x, t, old = _rows(1)
    weights, _ = solve(_moments(x, t), old, 1e9, True)
    np.testing.assert_allclose(weights, old, rtol=0, atol=1e-6)


def test_squared_error_is_that_of_the_rows():
    x, t, old = _rows(2)
    bias = np.ones((2, 3))
    direct = np.square(x @ old.swapaxes(1, 2) + bias[:, None] - t).sum(1)
    np.testing.assert_allclose(squared_error(_moments(x, t), old, bias), direct, rtol=1e-4)


def test_bias_only_brings_the_mean_back_by_hand():
    x, t = np.float32([[[1.0], [3.0]]]), np.float32([[[10.0], [20.0]]])
    weights, bias = shift_only(_moments(x, t), np.array([[[2.0]]]), 0.0, True)
    assert weights == 2.0 and bias == 11.0  # mean of t 15, minus 2 * mean of x 2


def test_batchnorm_brings_mean_and_spread_back_by_hand():
    x, t = np.float32([[[1.0], [3.0]]]), np.float32([[[10.0], [20.0]]])
    weights, bias = match_moments(_moments(x, t), np.array([[[2.0]]]), 0.0, True)
    assert weights == pytest.approx(5.0) and bias == pytest.approx(5.0)  # deviations 5 and 2, so 2 * 5 / 2; 15 - 5 * 2


def test_batchnorm_keeps_the_scale_of_a_channel_that_became_constant():
    x, t = np.zeros((1, 4, 1), np.float32), np.float32([[[1], [2], [3], [4]]])
    weights, bias = match_moments(_moments(x, t), np.array([[[2.0]]]), 0.0, True)
    assert weights == 2.0 and bias == 2.5


# --- nodes seen as rows times a matrix ------------------------------------------------------------------------------

LINEAR = {
    "conv": ("y = Conv<pads=[1,1,1,1]>(x, %6x4x3x3, %6)", [2, 4, 5, 5]),
    "strided, dilated": ("y = Conv<strides=[2,2], dilations=[2,1], pads=[2,0,1,1]>(x, %6x4x3x3)", [2, 4, 8, 8]),
    "same lower": ('y = Conv<auto_pad="SAME_LOWER", strides=[2,2]>(x, %6x4x2x2)', [2, 4, 5, 5]),
    "grouped": ("y = Conv<group=2, pads=[1,1,1,1]>(x, %6x2x3x3, %6)", [2, 4, 5, 5]),
    "depthwise": ("y = Conv<group=4>(x, %8x1x3x3)", [2, 4, 5, 5]),
    "one dimension": ("y = Conv<pads=[1,1]>(x, %6x4x3)", [2, 4, 9]),
    "gemm": ("y = Gemm(x, %4x6, %6)", [5, 4]),
    "gemm transB alpha beta": ("y = Gemm<transB=1, alpha=0.5, beta=2.0>(x, %6x4, %6)", [5, 4]),
    "gemm one bias": ("y = Gemm(x, %4x6, %1)", [5, 4]),
    "matmul": ("y = MatMul(x, %4x6)", [2, 3, 4]),
}


def _first_linear(model: ModelProto) -> tuple:
    graph = Graph(model)
    stored = Stored(graph, {n: numpy_helper.to_array(t) for n, t in graph.tensors.items()})
    loaded = read.load(model)
    return as_linear(graph.top[0], stored, gather_facts(loaded, graph)), stored


@pytest.mark.parametrize("case", LINEAR)
def test_rows_matrix_and_offset_give_the_nodes_output(case):
    body, shape = LINEAR[case]
    model = network(body, f"float[{','.join(map(str, shape))}] x")
    linear, stored = _first_linear(model)
    feed = feeds(model)
    output = session(model).run(feed)["y"]
    sampler = Sampler(shape[0], positions=1000)
    weight = stored.arrays[linear.weight]
    product = linear.rows(feed["x"], sampler) @ linear.matrix(weight).swapaxes(1, 2) + linear.offset(stored)[:, None]
    expected = linear.sought("y").rows(output, sampler)
    np.testing.assert_allclose(np.moveaxis(product, 0, 1).reshape(expected.shape), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(linear.stored(linear.matrix(weight), weight), weight, rtol=1e-6)


@pytest.mark.parametrize(
    ("body", "name", "sign"),
    [
        ("h = Conv(x, %6x4x1x1, %6); y = Relu(h)", "t2", 1.0),
        ("h = Gemm<beta=2.0>(x, %4x6, %6); y = Relu(h)", "t2", 0.5),
        ("h = MatMul(x, %4x6); y = Add(h, %6)", "t2", 1.0),
        ("h = MatMul(x, %4x6); y = Add(%1x6, h)", "t2", 1.0),
        ("h = Conv(x, %6x4x1x1); y = BatchNormalization(h, %+6, %6, %6, %+6)", "t4", -1.0),
        ("h = MatMul(x, %4x6); y = Relu(h)", "", 1.0),
        ("h = MatMul(x, %4x6); z = Add(h, %6); g = Relu(h); y = Add(z, g)", "", 1.0),  # the sum is not all that reads h
        ("h = MatMul(x, %4x6); y = Add(h, %1)", "", 1.0),  # one number for all channels
        (
            "b = %6; h = Conv(x, %6x4x1x1, b); g = Relu(b); k = ReduceMax<keepdims=0>(g); y = Mul(h, k)",
            "",
            1.0,
        ),  # the bias is read twice
    ],
)
def test_where_an_intercept_goes(body, name, sign):
    shape = "2,4,3,3" if "Conv" in body else "5,4"
    linear, _ = _first_linear(network(body, f"float[{shape}] x"))
    assert (linear.bias, linear.sign) == (name, sign)


def test_weights_with_two_readers_or_too_many_inputs_are_left_alone():
    assert _first_linear(network("w = %4x4; h = MatMul(x, w); y = MatMul(h, w)", "float[5,4] x"))[0] is None
    assert _first_linear(network("y = Gemm(x, %7000x2)", "float[3,7000] x"))[0] is None


# --- targets --------------------------------------------------------------------------------------------------------


def _target(body: str, shape: str = "2,4,3,3", done: tuple[str, ...] = ("x", "s")):
    analysis = onnxprune.analyze(network(body, f"float[{shape}] x"))
    graph = Graph(analysis.facts.model.proto)
    stored = Stored(graph, {n: numpy_helper.to_array(t) for n, t in graph.tensors.items()})
    node = next(node for node in graph.top if node.outputs[0] == "h")
    return target_of(analysis, stored, node.outputs[0], 4, 1, 4, set(done).__contains__)


def test_a_residual_branch_aims_at_the_sum_less_the_shortcut():
    target = _target("s = Relu(x); h = Conv(s, %4x4x1x1); z = Add(s, h); y = Relu(z)")
    assert (target.value, target.other, target.rectified) == ("z", "s", True)


def test_scales_and_shifts_on_the_way_are_taken_along():
    target = _target("h = Conv(x, %4x4x1x1); k = Mul(h, @2.0); z = Add(k, @3.0); y = Relu(z)")
    assert (target.value, target.other, target.rectified) == ("z", "", True)
    assert np.array_equal(target.scale, np.full(4, 2.0)) and np.array_equal(target.shift, np.full(4, 3.0))


@pytest.mark.parametrize(
    "body",
    [
        "h = Conv(x, %4x4x1x1); y = Sigmoid(h)",
        "h = Conv(x, %4x4x1x1); z = Relu(h); k = Neg(h); y = Add(z, k)",  # the negative part is read as well
        "h = Conv(x, %4x4x1x1); o = Exp(h); s = Neg(x); z = Mul(s, o); y = Relu(z)",
    ],
)
def test_otherwise_a_node_aims_at_its_own_output(body):
    target = _target(body)
    assert (target.value, target.other, target.rectified) == ("h", "", False)


# --- running piece by piece -----------------------------------------------------------------------------------------

BRANCHED = "a = Conv<pads=[1,1,1,1]>(x, %8x3x3x3, %8); b = Relu(a); c = Conv(b, %8x8x1x1); d = Add(b, c); y = Relu(d)"


@pytest.mark.parametrize("limit", [1 << 28, 600, 0])
def test_lockstep_computes_what_a_whole_run_does(limit, monkeypatch):
    monkeypatch.setattr(lockstep, "MEMORY_LIMIT", limit)
    model = network(BRANCHED)
    batches = [feeds(model, seed) for seed in range(3)]
    steps = Lockstep(Model.of(model), batches)
    for name in ("a", "b", "c", "y"):
        steps.advance([name])
        probe = onnx.ModelProto()
        probe.CopyFrom(model)
        probe.graph.output.add().name = name
        whole = session(probe)
        for found, batch in zip(steps.values(name), batches, strict=True):
            np.testing.assert_allclose(found, whole.run(batch)[name], rtol=1e-5, atol=1e-6)


def test_lockstep_forgets_what_nobody_needs_any_more():
    steps = Lockstep(Model.of(network(BRANCHED)), [feeds(network(BRANCHED))])
    steps.advance(["c"])
    with pytest.raises(KeyError):
        steps.values("a")
    assert next(steps.values("b")).shape == (2, 8, 4, 4)  # the sum still reads it


def test_lockstep_passes_sequences_on():
    model = network("s = SplitToSequence<axis=1>(x, @1); i = SequenceAt(s, @1); y = Relu(i)")
    steps, feed = Lockstep(Model.of(model), [feeds(model)]), feeds(model)
    steps.advance(["s"])
    steps.advance(["y"])
    np.testing.assert_array_equal(next(steps.values("y")), session(model).run(feed)["y"])


@pytest.mark.parametrize("limit", [0, 25, 1000])
def test_remembered_items_equal_those_made_anew(limit):
    made = []

    def make(start: int):
        for number in range(start, 5):
            made.append(number)
            yield np.full(10, number, np.int8)

    items = Remembered(make, lambda item: item.nbytes, limit)
    for _ in range(3):
        assert [int(item[0]) for item in items] == [0, 1, 2, 3, 4]
    assert len(made) == {0: 15, 25: 5 + 3 + 3, 1000: 5}[limit]


@pytest.mark.parametrize(
    ("rows", "fixed", "parts"),
    [(8, None, (6, 2)), (1, None, (1, 1)), (9, 4, (5, 4)), (4, 4, (4, 4)), (2, None, (1, 1))],
)
def test_held_out_rows_fill_batches(rows, fixed, parts):
    model = network("y = Relu(x)", f"float[{fixed or 'n'},3] x")
    dataset = open_dataset(np.ones((rows, 3), np.float32), input_specs(model))
    assert tuple(map(len, held_out(dataset, 0.25, 512, 0))) == parts


# --- whole models ---------------------------------------------------------------------------------------------------


def _halved(analysis: Analysis) -> list[np.ndarray]:
    """Keep every other unit of every group."""
    return [np.arange(group.width) % 2 == 0 for group in analysis.groups]


def _case(model: ModelProto, count: int = 8) -> tuple[Analysis, list[np.ndarray], Model, list[dict]]:
    analysis = onnxprune.analyze(model)
    kept = _halved(analysis)
    return analysis, kept, cut(analysis, kept), [feeds(model, seed) for seed in range(count)]


def _tensors(model: Model) -> dict[str, np.ndarray]:
    return {name: model.array(tensor) for name, tensor in Graph(model.structure).tensors.items()}


CHAIN = """a = Conv<pads=[1,1,1,1]>(x, %8x3x3x3, %8); b = Relu(a)
c = Conv<group=8, pads=[1,1,1,1]>(b, %8x1x3x3, %8); d = Relu(c)
e = Conv(d, %6x8x1x1, %6); y = Relu(e)"""


def test_an_intact_model_is_given_back_as_it_is():
    model = Model.of(network(CHAIN))
    analysis = onnxprune.analyze(model)
    kept = [np.ones(group.width, bool) for group in analysis.groups]
    batches = [feeds(network(CHAIN), seed) for seed in range(4)]
    assert Sequential(analysis, kept, batches).run(model).proto == network(CHAIN)
    refitted = Sequential(analysis, kept, batches, everything=True).run(model)
    for name, array in _tensors(refitted).items():
        np.testing.assert_allclose(array, _tensors(model)[name], rtol=0, atol=1e-3)


BEHIND = """a = Conv<pads=[1,1,1,1]>(x, %8x3x3x3, %8); b = Relu(a)
c = Conv<pads=[1,1,1,1]>(b, %6x8x3x3); d = BatchNormalization(c, %+6, %6, %6, %+6)
s = Conv(x, %6x3x1x1); y = Add(d, s)"""


def _asked(model: ModelProto, **changes) -> tuple[list[Linear], list[FitTarget]]:
    """Return the nodes of a halved network that are fitted, and what each is to give."""
    analysis, kept, small, batches = _case(model)
    walk = Sequential(analysis, kept, batches, **changes)
    walk.run(small)
    graph = Graph(small.structure)
    linears = walk._sites(graph)
    after = last_sites(graph, [linear.node for linear in linears])
    return linears, [walk._target(linear, after, number) for number, linear in enumerate(linears)]


def test_a_shortcut_that_stands_behind_its_convolution_in_the_file_is_subtracted():
    """What a node is to give is told by what can be computed, not by what stands before it."""
    linears, targets = _asked(network(BEHIND))
    assert [linear.node.outputs[0] for linear in linears] == ["c"]
    assert (targets[0].value, targets[0].other) == ("y", "s")


def test_a_shortcut_that_is_still_to_be_fitted_is_not_subtracted():
    """Then errors are in units behind BatchNormalization all the same."""
    linears, targets = _asked(network(BEHIND), everything=True)
    of = {linear.node.outputs[0]: target for linear, target in zip(linears, targets, strict=True)}
    assert (of["c"].value, of["c"].other) == ("d", "") and of["c"].scale.std() > 0
    assert (of["s"].value, of["s"].other) == ("y", "d")


def test_rows_that_are_normalised_count_by_their_own_deviation():
    body = "h = MatMul(x, %6x8); r = Relu(h); m = MatMul(r, %8x6); s = Add(x, m); y = LayerNormalization(s, %+6, %6)"
    _, targets = _asked(network(body, "float[40,6] x"))
    assert [target.normalised for target in targets] == [True]


def test_weighed_moments_are_those_of_repeated_rows():
    x, t, old = _rows(3)
    often = np.random.default_rng(0).integers(0, 4, x.shape[1])
    weighed = CrossMoments.around(x, t)
    weighed.add_inputs(x - weighed.origin_x.astype(np.float32)[:, None], often.astype(np.float32))
    weighed.add_targets(x - weighed.origin_x.astype(np.float32)[:, None], t, often.astype(np.float32))
    repeated = _moments(np.repeat(x, often, 1), np.repeat(t, often, 1), (x, t))
    for a, b in zip(solve(weighed, old, 0.1, True), solve(repeated, old, 0.1, True), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=FLOAT32)


def test_rows_for_few_positions_are_among_those_for_many():
    """One look at the original serves trials that look at fewer positions."""
    model = network("a = Conv<pads=[1,1,1,1]>(x, %8x3x3x3); y = Relu(a)", "float[2,3,9,9] x")
    batches = [feeds(model, seed) for seed in range(2)]
    teacher = Teacher(onnxprune.analyze(model).facts, batches, positions=20)
    sought = Sought("a", 1, by_position=False)
    teacher.learn([sought])
    many, few = (teacher.rows(sought, 1, positions).reshape(2, positions, 8) for positions in (20, 7))
    np.testing.assert_array_equal(few, many[:, :7])
    model.graph.output.add().name = "a"
    value = session(model).run(batches[1])["a"]
    np.testing.assert_allclose(few.reshape(14, 8), sought.rows(value, teacher.sampler(1, batches[1], 7)), atol=1e-6)


def test_rows_that_do_not_fit_are_kept_in_half_precision_and_then_from_fewer_positions():
    model = network("a = Conv<pads=[1,1,1,1]>(x, %8x3x3x3); y = Relu(a)", "float[2,3,9,9] x")
    batches, facts = [feeds(model, seed) for seed in range(2)], onnxprune.analyze(model).facts
    sought, exact = Sought("a", 1, by_position=False), 4 * 8 * 20 * 4
    found = []
    for limit in (exact, exact // 2, exact // 4):
        teacher = Teacher(facts, batches, positions=20, limit=limit)
        teacher.learn([sought])
        found.append((teacher.positions, teacher.rows(sought, 0, 8)))
    assert [positions for positions, _ in found] == [20, 20, 10]
    np.testing.assert_allclose(found[1][1], found[0][1], rtol=0, atol=2e-3 * np.abs(found[0][1]).max())
    assert not np.array_equal(found[1][1], found[0][1])


def test_values_with_few_positions_leave_more_room_for_the_others():
    model = network(
        "a = Conv<pads=[1,1,1,1]>(x, %8x3x3x3); p = GlobalAveragePool(a); q = Conv(p, %40x8x1x1); y = Add(a, a)",
        "float[2,3,9,9] x",
    )
    batches, facts = [feeds(model, seed) for seed in range(2)], onnxprune.analyze(model).facts
    spatial, pooled = Sought("a", 1, by_position=False), Sought("q", 1, by_position=False)
    limit = 2 * (2 * 2 * 40 + 2 * 2 * 8 * 10)  # half precision: one position of q and ten of a
    teacher = Teacher(facts, batches, positions=20, limit=limit)
    teacher.learn([spatial, pooled])
    assert teacher.positions == 10
    assert sum(stored.nbytes for there in teacher._known.values() for stored in there) == limit


def test_less_memory_means_fewer_positions():
    model = network("a = Conv<pads=[1,1,1,1]>(x, %8x3x3x3); y = Relu(a)", "float[2,3,9,9] x")
    batches, facts = [feeds(model, seed) for seed in range(2)], onnxprune.analyze(model).facts
    sought, half = Sought("a", 1, by_position=False), 2 * 8 * 4 * 10  # ten positions of 32 in half precision
    means = Means(memory=half * DEFAULT_LIMIT // MEMORY + 8)
    found = [Teacher(facts, batches, given, positions=20) for given in (Means(), means)]
    for teacher in found:
        teacher.learn([sought])
    assert [teacher.positions for teacher in found] == [20, 10]


@pytest.mark.parametrize("few", [1, 100, 10**6])
def test_rows_of_small_batches_are_summed_up_together(few, monkeypatch):
    monkeypatch.setattr(moments, "ROWS_AT_ONCE", few)
    rng = np.random.default_rng(0)
    parts = [(rng.normal(size=(1, n, 3)), rng.normal(size=(1, n, 2))) for n in (30, 40, 50, 60, 70)]
    joined = list(in_blocks(iter(parts)))
    assert [x.shape[1] for x, _ in joined] == {1: [30, 40, 50, 60, 70], 100: [120, 130], 10**6: [250]}[few]
    for place in range(2):
        together = np.concatenate([block[place] for block in joined], axis=1)
        np.testing.assert_array_equal(together, np.concatenate([part[place] for part in parts], axis=1))


@pytest.mark.parametrize("method", ["least-squares", "batchnorm", "bias"])
@pytest.mark.parametrize("name", ["digits_cnn", "digits_transformer"])
def test_repair_brings_trained_models_back(name, method):
    model, specs = onnx.load(MODELS / f"{name}.onnx"), input_specs(onnx.load(MODELS / f"{name}.onnx"))
    analysis = onnxprune.analyze(model)
    kept = _halved(analysis)
    small = cut(analysis, kept)
    calibration, unseen = (
        open_dataset({"image": np.load(MODELS / f"digits_{part}.npz")["image"][:192]}, specs)
        for part in ("calib", "test")
    )
    judge = Reference(analysis.facts.model, Batches(unseen))
    repaired = Sequential(analysis, kept, Batches(calibration), method=method).run(small)
    share = {"least-squares": 0.25, "batchnorm": 0.9, "bias": 1.0}[method]
    assert judge.divergence(repaired) < share * judge.divergence(small)


def test_least_squares_is_the_best_fit_of_a_single_reader():
    """With one linear layer behind the cut the answer is plain regression on what is left of its inputs."""
    model = network("a = Gemm(x, %6x8, %8); b = Relu(a); y = Gemm(b, %8x3, %3)", "float[200,6] x")
    analysis, kept, small, batches = _case(model, 2)
    repaired = Sequential(analysis, kept, batches, effort=Effort(1000)).run(small)
    walk_damping = 1e-3  # of the mean second moment: the weakest on offer, which noiseless data choose
    whole = [session(model).run(batch)["y"] for batch in batches]
    found = [session(repaired).run(batch)["y"] for batch in batches]
    hidden = onnx.ModelProto()
    hidden.CopyFrom(small.proto)
    hidden.graph.output.add().name = "b"
    rows = np.concatenate([session(hidden).run(batch)["b"] for batch in batches]).astype(float)
    centred = rows - rows.mean(0)
    old = _tensors(small)[next(n for n, a in _tensors(small).items() if a.shape == (4, 3))].astype(float)
    strength = walk_damping * np.square(centred).sum() / 4
    gram = centred.T @ centred + strength * np.eye(4)
    target = np.concatenate(whole).astype(float)
    weights = np.linalg.solve(gram, centred.T @ (target - target.mean(0)) + strength * old)
    expected = centred @ weights + target.mean(0)
    np.testing.assert_allclose(np.concatenate(found), expected, rtol=0, atol=5e-2 * target.std())
    assert np.square(np.concatenate(found) - target).sum() <= 1.01 * np.square(expected - target).sum()


def test_nothing_that_a_repair_looked_at_outlives_it():
    analysis, kept, small, batches = _case(network(CHAIN))
    seen: list[weakref.ref] = []
    gc.collect()
    gc.disable()
    try:
        walk = Sequential(analysis, kept, batches)
        walk.run(small)
        seen.extend(map(weakref.ref, (walk._wanted.teacher, walk._pruned, walk)))
        del walk
        assert [found() for found in seen] == [None, None, None]
    finally:
        gc.enable()


WIDE = [
    ("a = Gemm(x, %6x12, %12); b = Relu(a); y = Gemm(b, %12x30, %30)", np.float32),
    ("a = Gemm(x, %6x12, %12); b = Relu(a); y = Gemm<transB=1, alpha=0.5>(b, %30x12, %30)", np.float32),
    ("a = MatMul(x, %6x12); b = Relu(a); c = MatMul(b, %12x30); y = Relu(c)", np.float32),
    ("a = MatMul(x, %6x12); b = Relu(a); c = MatMul(b, %12x30); s = MatMul(x, %6x30); y = Add(c, s)", np.float32),
    ("a = MatMul(x, %6x12); b = Relu(a); c = MatMul(b, %12x30); y = Add(c, %30)", np.float16),
]


@pytest.mark.parametrize("body, kind", WIDE)
def test_many_outputs_are_solved_for_some_at_a_time(body, kind, monkeypatch):
    model = network(body, "float[40,6] x")
    if kind == np.float16:
        for tensor in model.graph.initializer:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(kind), tensor.name))
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    analysis, kept, small, _ = _case(model)
    batches = [{"x": feeds(network(body, "float[40,6] x"), seed)["x"].astype(kind)} for seed in range(8)]
    at_once = Sequential(analysis, kept, batches, effort=Effort(turns=0)).run(small)
    monkeypatch.setattr(wide, "WIDE", 0)
    monkeypatch.setattr(wide, "PART", 8 * 6 * 7)
    solved = []
    solve_one = NodeFit.solved
    monkeypatch.setattr(NodeFit, "solved", lambda fit, *rest: solved.append(fit.target) or solve_one(fit, *rest))
    in_parts = Sequential(analysis, kept, batches, effort=Effort(turns=0)).run(small)
    assert {len(target.scale) for target in solved} == {7, 2}
    tolerance = 1e-5 if kind == np.float32 else 4e-3
    for name, array in _tensors(at_once).items():
        np.testing.assert_allclose(_tensors(in_parts)[name], array, rtol=tolerance, atol=tolerance)
    assert any(np.any(_tensors(in_parts)[name] != array) for name, array in _tensors(small).items())


def test_moving_rectified_targets_never_raises_the_rectified_error():
    model = network("a = Conv(x, %12x3x1x1, %12); b = Relu(a); c = Conv(b, %6x12x1x1, %6); y = Relu(c)")
    analysis, kept, small, batches = _case(model)

    def error(turns: int) -> float:
        repaired = Sequential(analysis, kept, batches, effort=Effort(1000, turns)).run(small)
        pairs = [(session(model).run(batch)["y"], session(repaired).run(batch)["y"]) for batch in batches]
        return sum(float(np.square(a - b).sum()) for a, b in pairs)

    errors = [error(turns) for turns in (0, 1, 2, 4)]
    assert all(later <= 1.0001 * sooner for sooner, later in pairwise(errors))
    assert errors[-1] < 0.99 * errors[0]


def test_padded_steps_of_a_sequence_do_not_count():
    body = "m = Cast<to=1>(mask); a = MatMul(x, %6x8); b = Relu(a); y = MatMul(b, %8x3)"
    model = network(body, "float[4,5,6] x, int64[4,5] mask")
    analysis, kept, small, batches = _case(model, 4)
    padded = [batch | {"mask": (np.arange(5) < 3)[None].repeat(4, 0).astype(np.int64)} for batch in batches]
    noisy = [
        batch | {"x": np.where(batch["mask"][..., None] > 0, batch["x"], 100.0).astype(np.float32)} for batch in padded
    ]
    clean, dirty = (
        Sequential(analysis, kept, data, means=Means(mask="mask")).run(small).proto for data in (padded, noisy)
    )
    assert clean == dirty
    assert Sequential(analysis, kept, noisy).run(small).proto != clean


def test_a_convolution_over_masked_steps_looks_at_all_of_them():
    """Its window mixes steps, so that no step of its output belongs to one step of the mask."""
    model = network(
        "a = Conv<pads=[1,1]>(x, %8x3x3); b = Relu(a); y = Conv<pads=[1,1]>(b, %4x8x3)",
        "float[4,3,5] x, int64[4,5] mask",
    )
    analysis, kept, small, batches = _case(model, 4)
    masked = [batch | {"mask": np.zeros((4, 5), np.int64)} for batch in batches]
    walks = (Sequential(analysis, kept, masked, means=means) for means in (Means(mask="mask"), Means()))
    first, second = (walk.run(small).proto for walk in walks)
    assert first == second


def test_nothing_is_fitted_where_every_step_is_padding():
    model = network("a = MatMul(x, %6x8); b = Relu(a); y = MatMul(b, %8x3)", "float[4,5,6] x, int64[4,5] mask")
    analysis, kept, small, batches = _case(model, 2)
    masked = [batch | {"mask": np.zeros((4, 5), np.int64)} for batch in batches]
    assert Sequential(analysis, kept, masked, means=Means(mask="mask")).run(small).proto == small.proto


def test_weights_held_by_constant_nodes_are_repaired_in_place():
    model = network("a = MatMul(x, %6x8); b = Relu(a); y = MatMul(b, %8x3)", "float[50,6] x")
    for tensor in list(model.graph.initializer):
        model.graph.node.insert(0, onnx.helper.make_node("Constant", [], [tensor.name], value=tensor))
    del model.graph.initializer[:]
    analysis, kept, small, batches = _case(model, 4)
    repaired = Sequential(analysis, kept, batches).run(small)
    judge = Reference(analysis.facts.model, batches)
    assert judge.divergence(repaired) < 0.6 * judge.divergence(small)


def test_equal_inputs_give_equal_bytes():
    analysis, kept, small, batches = _case(network(CHAIN))
    first, second = (Sequential(analysis, kept, batches).run(small).identity for _ in range(2))
    assert first == second


@pytest.mark.parametrize("rows", [1, 2, 40])
def test_auto_is_never_worse_than_no_repair_and_copes_with_few_rows(rows):
    model = network("a = Gemm(x, %6x8, %8); b = Relu(a); y = Gemm(b, %8x3, %3)", "float[n,6] x")
    analysis, kept, small, _ = _case(model)
    data = open_dataset(np.random.default_rng(0).standard_normal((rows, 6), np.float32), input_specs(model))
    found = repair(analysis, kept, small, data)
    assert found.divergences[found.method] == min(found.divergences.values()) <= found.divergences["none"]
