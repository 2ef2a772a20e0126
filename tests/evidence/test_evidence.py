"""Evidence: mergeable statistics, rows and patches, the streaming pass, masks, saving, caching, bounded memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.networks import network

import onnxprune
from onnxprune.coupling.groups import Analysis, analyse
from onnxprune.data import Dataset, input_specs, open_dataset, random_dataset
from onnxprune.errors import DataError, UsageError
from onnxprune.evidence import Cache, Evidence, Need, Window, collect, gather, merged, sites, stream
from onnxprune.evidence.constants import constant_value
from onnxprune.evidence.needs import convolution_window
from onnxprune.evidence.rows import Sampler, by_sample, feature_maps, patches, sample_means, valid_positions
from onnxprune.evidence.stats import BINS, Cross, Gram, Histogram, Moments, Range, Ranks
from onnxprune.means import Means
from onnxprune.model import scratch
from onnxprune.model.facts import Facts, gather_facts
from onnxprune.model.graph import Graph
from onnxprune.model.read import load

CONVNET = """
h = Conv<pads=[1,1,1,1], kernel_shape=[3,3]>(x, %4x3x3x3)
r = Relu(h)
g = Conv<pads=[1,1,1,1], strides=[2,2], kernel_shape=[3,3]>(r, %5x4x3x3)
s = Relu(g)
p = GlobalAveragePool(s)
f = Flatten(p)
y = Gemm<transB=1>(f, %3x5, %3)
"""
ENCODER = """
h = MatMul(x, %4x6)
r = Relu(h)
z = MatMul(r, %6x3)
m = Cast<to=1>(mask)
e = Unsqueeze(m, @[2])
y = Mul(z, e)
"""


def _facts(model) -> Facts:
    loaded = load(model)
    return gather_facts(loaded, Graph(loaded.structure))


def _convnet() -> tuple[Facts, np.ndarray]:
    model = network(CONVNET, "float[n,3,9,9] x", "float[n,3] y")
    return _facts(model), np.random.default_rng(0).standard_normal((13, 3, 9, 9)).astype(np.float32)


def _data(facts: Facts, data) -> Dataset:
    return open_dataset(data, input_specs(facts.model.proto))


def _inner(facts: Facts, feeds: dict[str, np.ndarray], name: str) -> np.ndarray:
    proto = type(facts.model.proto)()
    proto.CopyFrom(facts.model.proto)
    proto.graph.output.add().name = name
    return ort.InferenceSession(proto.SerializeToString()).run([name], feeds)[0]


def _same(left: Evidence, right: Evidence, rtol: float = 1e-9) -> None:
    assert left.statistics.keys() == right.statistics.keys()
    for need, statistic in left.statistics.items():
        for name, array in statistic.arrays().items():
            want = right[need].arrays()[name]
            np.testing.assert_allclose(array, want, rtol=rtol, atol=1e-9, err_msg=f"{need.kind} {name}")


NEEDS = merged(
    [
        [Need(kind, "r", 1) for kind in ("moments", "range", "histogram", "ranks")],
        [Need("moments", "h", 1), Need("moments", "x", 1), Need("gram", "f", 1)],
        [Need("gram", "r", 1, 1, Window((3, 3), (2, 2), (1, 1), ((1, 1), (1, 1))))],
        [Need("cross", "h", 1, other="r", other_axis=1)],
    ]
)

# --- statistics -----------------------------------------------------------------------------------------------------

FED = {
    Moments: lambda rows: rows,
    Range: lambda rows: np.maximum(rows, 0),
    Histogram: lambda rows: rows,
    Gram: lambda rows: np.stack([rows, rows[:, ::-1] ** 2]),
    Cross: lambda rows: (rows, rows[:, :2] ** 2),
    Ranks: lambda rows: rows.reshape(-1, 1, 3, 1),
}


@pytest.mark.parametrize("kind", FED, ids=lambda kind: kind.__name__)
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 1000), cuts=st.lists(st.integers(0, 40), max_size=4), offset=st.sampled_from([0.0, 1e4]))
def test_shards_merge_to_the_whole(kind, seed, cuts, offset):
    rows = np.random.default_rng(seed).standard_normal((40, 3)) + offset
    whole = kind()
    whole.update(FED[kind](rows))
    parts = []
    for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), 40], strict=True):
        part = kind()
        if stop > start:
            part.update(FED[kind](rows[start:stop]))
            parts.append(part)
    merged_parts = kind()
    for part in reversed(parts):
        merged_parts.merge(part)
    for name, array in whole.arrays().items():
        np.testing.assert_allclose(merged_parts.arrays()[name], array, rtol=1e-9, atol=1e-9)


def test_moments_by_hand():
    moments = Moments()
    moments.update(np.array([[1.0], [2.0], [6.0]]))
    found = [moments.count, moments.mean[0], moments.variance[0], moments.power[0]]
    np.testing.assert_allclose(found, [3, 3, 14 / 3, 41 / 3])


def test_moments_keep_their_digits_far_from_zero():
    rows = np.random.default_rng(0).standard_normal((1000, 2)) + 1e6
    moments = Moments()
    for part in np.split(rows, 10):
        moments.update(part)
    np.testing.assert_allclose(moments.variance, rows.var(axis=0), rtol=1e-9)


def test_gram_and_cross_against_numpy():
    rng = np.random.default_rng(1)
    left, right = rng.standard_normal((50, 3)), rng.standard_normal((50, 2))
    gram, cross = Gram(), Cross()
    gram.update(left[None])
    cross.update((left, right))
    np.testing.assert_allclose(gram.covariance[0], np.cov(left.T, bias=True))
    np.testing.assert_allclose(gram.second_moment[0], left.T @ left / 50)
    np.testing.assert_allclose(cross.covariance, np.cov(left.T, right.T, bias=True)[:3, 3:])


def test_range_by_hand():
    found = Range()
    found.update(np.array([[0.0, -1.0], [2.0, 0.0], [0.0, 5.0], [1.0, 1.0]]))
    assert found.low.tolist() == [0, -1] and found.high.tolist() == [2, 5] and found.zero_share.tolist() == [0.5, 0.25]


def test_ranks_by_hand():
    found = Ranks()
    found.update(np.array([[np.eye(3), np.ones((3, 3))], [np.zeros((3, 3)), np.diag([1.0, 1, 0])]]))
    assert found.mean.tolist() == [1.5, 1.5]


def test_histogram_entropy_by_hand():
    """Equal numbers at four well separated values: ln 4; a constant: 0; values at 0 and 1 as 3 to 1: 0.5623."""
    found = Histogram()
    four, constant = np.tile([0.0, 1.0, 2.0, 3.0], 5), np.full(20, 7.25)
    found.update(np.stack([four, constant, np.tile([0.0, 0.0, 0.0, 1.0], 5)], axis=1))
    np.testing.assert_allclose(found.entropy, [np.log(4), 0.0, -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))])


@settings(max_examples=30, deadline=None)
@example([3.091827783664414e26, -8.785378275719006e-301, -1.0])
@given(st.lists(st.floats(-1e30, 1e30, allow_subnormal=False), min_size=1, max_size=20))
def test_histogram_holds_every_value_in_bounded_space(values):
    found = Histogram()
    for value in values:
        found.update(np.array([[value]]))
    assert found.counts.shape == (1, BINS) and found.counts.sum() == len(values)


# --- rows -----------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_patches_are_what_the_convolution_reads(data):
    """Patches times the flattened weight give the convolution's output at every position, grouped or dilated."""
    draw = data.draw
    groups, kernel = draw(st.sampled_from([1, 2])), draw(st.sampled_from([(3, 3), (1, 2), (2, 1)]))
    stride, dilation = draw(st.sampled_from([1, 2])), draw(st.sampled_from([1, 2]))
    mode = draw(st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    pads = "pads=[1,0,2,1]," if mode == "NOTSET" else f'auto_pad="{mode}",'
    if mode.startswith("SAME"):
        dilation = 1
    body = (
        f"w = %6x{4 // groups}x{kernel[0]}x{kernel[1]}\n"
        f"y = Conv<group={groups},{pads} strides=[{stride},{stride}], dilations=[{dilation},{dilation}],"
        f" kernel_shape=[{kernel[0]},{kernel[1]}]>(x, w)"
    )
    facts = _facts(network(body, "float[2,4,7,6] x", "float[2,6,a,b] y"))
    value = np.random.default_rng(0).standard_normal((2, 4, 7, 6)).astype(np.float32)
    window = convolution_window(facts.graph.nodes[0], kernel, (7, 6))
    found = patches(value, window, groups, Sampler(2, positions=1000))
    weight = facts.content("w").reshape(groups, 6 // groups, 4 // groups, -1).swapaxes(2, 3)
    want = ort.InferenceSession(facts.model.proto.SerializeToString()).run(None, {"x": value})[0]
    have = np.einsum("grtc,gotc->rgo", found, weight).reshape(2, *want.shape[2:], 6)
    np.testing.assert_allclose(np.moveaxis(have, -1, 1), want, atol=1e-4)


def test_patches_of_a_value_that_folds_another_axis_into_the_samples():
    """Frames folded into the batch: six images where the data has two samples, each with positions of its own."""
    facts = _facts(network("w = %6x4x3x3\ny = Conv<kernel_shape=[3,3]>(x, w)", "float[6,4,7,6] x", "float[6,6,a,b] y"))
    value = np.random.default_rng(0).standard_normal((6, 4, 7, 6)).astype(np.float32)
    window = convolution_window(facts.graph.nodes[0], (3, 3), (7, 6))
    found = patches(value, window, 1, Sampler(2, positions=5))
    assert found.shape == (1, 30, 9, 4)
    whole = patches(value, window, 1, Sampler(2, positions=1000)).reshape(6, 20, 36)
    for image, rows in zip(whole, found.reshape(6, 5, 36), strict=True):
        assert all((image == row).all(axis=1).any() for row in rows)


def test_sampled_positions_depend_on_seed_and_sample_number_alone():
    whole = Sampler(6, 5, 3).choose(40, 6)
    np.testing.assert_array_equal(np.vstack([Sampler(2, 5, 3).choose(40, 2), Sampler(4, 5, 3, 2).choose(40, 4)]), whole)
    assert not np.array_equal(whole, Sampler(6, 5, 4).choose(40, 6))
    assert all(len(set(row)) == 5 for row in whole.tolist())


def test_mask_finds_the_steps_wherever_they_stand():
    mask = np.array([[True, True, False], [True, False, False]])
    rows = np.arange(24.0).reshape(2, 3, 4)
    assert valid_positions(rows, 2, mask).tolist() == mask.tolist()
    heads = np.zeros((2, 5, 3, 4))
    assert valid_positions(heads, 3, mask).reshape(2, 5, 3)[:, 4].tolist() == mask.tolist()
    assert valid_positions(np.zeros((6, 4)), 1, mask).sum() == 3
    assert valid_positions(np.zeros((2, 4)), 1, mask) is None
    means = sample_means(rows, Need("histogram", "v", 2), Sampler(2, mask=mask))
    np.testing.assert_allclose(means, [rows[0, :2].mean(axis=0), rows[1, 0]])
    assert Sampler(2, 1).choose_valid(mask).sum(axis=1).tolist() == [1, 1]


def test_rows_of_values_whose_first_axis_is_not_the_batch():
    assert by_sample(np.zeros((7, 1, 2, 5)), 3, 2).shape == (2, 7, 5)
    assert by_sample(np.zeros((3, 5)), 1, 2).shape == (1, 3, 5)
    assert feature_maps(np.zeros((2, 5)), Need("ranks", "v", 1), Sampler(2)).shape == (2, 5, 1, 1)
    assert feature_maps(np.zeros((2, 3, 5)), Need("ranks", "v", 2), Sampler(2)).shape == (2, 5, 1, 3)


# --- streaming ------------------------------------------------------------------------------------------------------


def test_statistics_are_those_of_the_model_s_own_values():
    facts, data = _convnet()
    found = gather(facts, _data(facts, data), NEEDS)
    h, r, f = (_inner(facts, {"x": data}, name) for name in ("h", "r", "f"))
    rows = np.moveaxis(h, 1, -1).reshape(-1, 4).astype(np.float64)
    assert found.samples == 13 and not found.synthetic
    np.testing.assert_allclose(found[Need("moments", "h", 1)].mean, rows.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(found[Need("moments", "h", 1)].variance, rows.var(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found[Need("gram", "f", 1)].covariance[0], np.cov(f.T, bias=True), rtol=1e-4)
    np.testing.assert_allclose(found[Need("range", "r", 1)].zero_share, (r == 0).mean(axis=(0, 2, 3)))
    assert found[Need("cross", "h", 1, other="r", other_axis=1)].count == 13 * 64
    unfolded = found[next(n for n in NEEDS if n.window)]
    assert unfolded.products.shape == (1, 36, 36) and unfolded.count == 13 * 25


@pytest.mark.parametrize("batch", [1, 4, 13])
def test_batch_size_changes_nothing(batch):
    facts, data = _convnet()
    whole = gather(facts, _data(facts, data), NEEDS, Means(batch=6), positions=7)
    _same(gather(facts, _data(facts, data), NEEDS, Means(batch=batch), positions=7), whole)


def test_shards_of_the_data_merge_to_the_whole(tmp_path: Path):
    facts, data = _convnet()
    whole = gather(facts, _data(facts, data), NEEDS, positions=100)
    parts = [gather(facts, _data(facts, data[rows]), NEEDS, positions=100) for rows in (slice(0, 5), slice(5, 13))]
    for number, part in enumerate(parts):
        part.save(tmp_path / f"{number}.npz")
    first, second = (Evidence.load(tmp_path / f"{number}.npz") for number in range(2))
    first.merge(second)
    assert first.samples == 13
    _same(first, whole)


def test_moments_inside_the_graph_equal_those_outside():
    facts, data = _convnet()
    need = Need("moments", "h", 1)
    alone = gather(facts, _data(facts, data), [need])
    together = gather(facts, _data(facts, data), [need, Need("range", "h", 1)])
    for name, array in alone[need].arrays().items():
        np.testing.assert_allclose(array, together[need].arrays()[name], rtol=1e-9)


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_moments_inside_the_graph_in_older_opsets(opset):
    facts = _facts(network("y = Relu(x)", "float[n,3,4] x", "float[n,3,4] y", opset=opset))
    data = np.random.default_rng(0).standard_normal((5, 3, 4)).astype(np.float32)
    found = gather(facts, _data(facts, data), [Need("moments", "y", 1)])[Need("moments", "y", 1)]
    np.testing.assert_allclose(found.mean, np.maximum(data, 0).astype(np.float64).mean(axis=(0, 2)), rtol=1e-12)


def test_padding_positions_do_not_count():
    facts = _facts(network(ENCODER, "float[n,s,4] x, int64[n,s] mask", "float[n,s,3] y"))
    rng = np.random.default_rng(2)
    x, mask = (
        rng.standard_normal((6, 5, 4)).astype(np.float32),
        (np.arange(5) < rng.integers(1, 6, (6, 1))).astype(np.int64),
    )
    needs = [Need(kind, "r", 2) for kind in ("moments", "range", "gram", "histogram")]
    one = gather(facts, _data(facts, {"x": x, "mask": mask}), needs, Means(mask="mask"))
    junk = np.where(mask[:, :, None] == 1, x, 1e3).astype(np.float32)
    other = gather(facts, _data(facts, {"x": junk, "mask": mask}), needs, Means(mask="mask"))
    _same(one, other)
    assert one[needs[0]].count == mask.sum() == one[needs[2]].count


def test_memory_does_not_grow_with_the_samples():
    facts, data = _convnet()
    sizes = []
    for repeats in (1, 5):
        found = gather(facts, _data(facts, np.tile(data, (repeats, 1, 1, 1))), NEEDS)
        sizes.append(sum(a.nbytes for s in found.statistics.values() for a in s.arrays().values()))
    assert sizes[0] == sizes[1]


def test_batches_shrink_where_observed_values_are_large(monkeypatch):
    facts, data = _convnet()
    seen = []
    monkeypatch.setattr(stream, "BUDGET", 3 * 4 * 9 * 9 * 4)  # three samples of `r`
    gather(facts, _data(facts, data), [Need("range", "r", 1)], Means(progress=seen.append))
    assert seen == [f"observing: {samples} of 13 samples" for samples in (3, 6, 9, 12, 13)]


def test_cache_spares_the_second_pass(tmp_path: Path, monkeypatch):
    facts, data = _convnet()
    cache = Cache(tmp_path / "evidence")
    first = gather(facts, _data(facts, data), NEEDS, cache=cache)
    wide = gather(facts, _data(facts, data), [*NEEDS, Need("range", "s", 1)], cache=cache)
    monkeypatch.setattr(stream, "session", lambda *a, **k: pytest.fail("streamed again"))
    again = gather(facts, _data(facts, data), NEEDS[:4], cache=cache)
    for need in NEEDS[:4]:
        for name, array in again[need].arrays().items():
            assert np.array_equal(array, first[need].arrays()[name]) and np.array_equal(
                array, wide[need].arrays()[name]
            )
    assert again.samples == first.samples == 13


def test_cache_knows_other_data_other_options_and_broken_files(tmp_path: Path):
    facts, data = _convnet()
    cache, need = Cache(tmp_path), Need("gram", "r", 1)
    one = gather(facts, _data(facts, data), [need], cache=cache)
    other = gather(facts, _data(facts, data + 1), [need], cache=cache)
    seeded = gather(facts, _data(facts, data), [need], Means(seed=1), cache=cache)
    assert not np.allclose(one[need].mean, other[need].mean) and not np.allclose(one[need].mean, seeded[need].mean)
    for file in tmp_path.iterdir():
        file.write_bytes(b"broken")
    _same(gather(facts, _data(facts, data), [need], cache=cache), one)


# --- what goes wrong ------------------------------------------------------------------------------------------------


def test_errors_say_what_where_and_what_next(tmp_path: Path):
    facts, data = _convnet()
    need = Need("moments", "r", 1)
    with pytest.raises(UsageError, match="'nothing' is no value"):
        gather(facts, _data(facts, data), [Need("moments", "nothing", 1)])
    with pytest.raises(UsageError, match="mask 'm' is no input"):
        gather(facts, _data(facts, data), [need], Means(mask="m"))
    found = gather(facts, _data(facts, data[:3]), [need])
    with pytest.raises(DataError, match="no gram of 'r' axis 1"):
        found[Need("gram", "r", 1)]
    with pytest.raises(DataError, match="different models"):
        found.merge(Evidence("other"))
    with pytest.raises(DataError, match="different statistics"):
        found.merge(Evidence(found.model))
    np.savez(tmp_path / "x.npz", header=np.array(["{}"], dtype=object))
    with pytest.raises(DataError, match="does not hold what this version"):
        Evidence.load(tmp_path / "x.npz")


@pytest.mark.parametrize("kind", ["moments", "range", "gram", "histogram", "ranks"])
def test_inner_values_that_overflow_are_named(kind):
    facts = _facts(network("h = Exp(x)\ny = Relu(h)", "float[n,3] x", "float[n,3] y"))
    with pytest.raises(DataError, match="value 'h' is NaN or infinite for data rows 0 to 3"):
        gather(facts, _data(facts, np.full((4, 3), 1e4, np.float32)), [Need(kind, "y", 1)])


def test_random_inputs_are_labelled_as_such():
    facts, _ = _convnet()
    found = collect(analyse(facts), ["moments", "gradients"], None)
    assert list(found) == ["moments"] and found["moments"].synthetic and "random" in found["moments"].warnings[0]


# --- sites ----------------------------------------------------------------------------------------------------------


def _analysis(body: str, inputs: str, outputs: str) -> Analysis:
    return analyse(_facts(network(body, inputs, outputs)))


def test_sites_are_the_consumers_inputs():
    facts, _ = _convnet()
    first, second = sites(analyse(facts))
    assert [(s.value, s.axis, s.window is not None, s.inputs) for s in first] == [("r", 1, True, 36)]
    assert [(s.value, s.axis, s.window, s.inputs) for s in second] == [("f", 1, None, 5)]
    assert second[0].units.tolist() == [0, 1, 2, 3, 4]


def test_sites_without_a_reading_weight():
    """Queries times keys: the width they share is consumed by a product of two activations."""
    body = """
    q = MatMul(x, %4x6)
    k = MatMul(x, %4x6)
    t = Transpose<perm=[0,2,1]>(k)
    y = MatMul(q, t)
    """
    analysis = _analysis(body, "float[2,3,4] x", "float[2,3,3] y")
    (found,) = sites(analysis)
    assert sorted((s.value, s.axis, s.weight) for s in found) == [("q", 2, ""), ("t", 1, "")]


def test_a_node_that_reads_integers_is_seen_by_the_floats_they_were_made_of():
    """The integers' scale is another one in every batch, and their zero is not zero."""
    body = """
    p = MatMul(x, %4x6); r = Relu(p); q, s, z = DynamicQuantizeLinear(r); w = %6x3:int8; n = MatMulInteger(q, w, z)
    c = Cast<to=1>(n); m = Mul(s, @0.02); y = Mul(c, m)
    """
    (found,) = sites(_analysis(body, "float[2,4] x", "float[2,3] y"))
    assert [(s.value, s.axis, s.weight) for s in found] == [("r", 1, "w")]


def test_derived_constants_are_computed():
    facts = _facts(network("w = %3x4\nt = Transpose<perm=[1,0]>(w)\ny = MatMul(x, t)", "float[2,4] x", "float[2,3] y"))
    np.testing.assert_array_equal(constant_value(facts, "t"), facts.content("w").T)


def test_cache_knows_what_is_run_from_the_file_it_came_from(tmp_path: Path):
    """Channels paired by rank, constants folded, weights written back: one file, other models."""
    body = """
        w1 = %12x3x1x1; p = Conv(x, w1); w2 = %18x4x3x3; q = Conv<group=3,pads=[1,1,1,1]>(p, w2); s = Relu(q)
        w3 = %5x18x1x1; y = Conv(s, w3)"""
    loaded = load(network(body, "float[batch,3,4,4] x", "float[batch,5,4,4] y"))
    plain = gather_facts(loaded, Graph(loaded.structure))
    other = onnxprune.analyze(loaded, granularity=("paired",)).facts.model
    assert other.sha256 == loaded.sha256
    data = random_dataset(input_specs(loaded.proto), samples=8)
    need, cache = Need("moments", "s", 1), Cache(tmp_path)
    facts = [plain, gather_facts(other, Graph(other.structure)), plain]
    found = [gather(one, data, [need], cache=cache)[need].mean for one in facts]
    fresh = gather(facts[1], data, [need])[need].mean
    assert np.array_equal(found[0], found[2])
    assert np.array_equal(found[1], fresh) and not np.array_equal(found[0], fresh)
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(DataError, match="different models"):
        gather(plain, data, [need]).merge(gather(facts[1], data, [need]))


def test_a_cached_plan_is_the_plan(tmp_path: Path):
    body = """
        w1 = %12x3x1x1; p = Conv(x, w1); w2 = %18x4x3x3; q = Conv<group=3,pads=[1,1,1,1]>(p, w2); s = Relu(q)
        w3 = %5x18x1x1; y = Conv(s, w3)"""
    model = network(body, "float[batch,3,4,4] x", "float[batch,5,4,4] y")
    settings = {"calibration": np.random.default_rng(0).random((16, 3, 4, 4), np.float32), "latency": False,
                "criterion": "activation-rms", "round_to": 1, "repair": "none"}  # fmt: skip
    onnxprune.prune(model, granularity=("paired",), cache=tmp_path / "shared", **settings)
    shared, fresh = (onnxprune.prune(model, cache=tmp_path / name, **settings).plan for name in ("shared", "fresh"))
    assert shared.kept == fresh.kept


def test_what_a_cache_knows_takes_no_more_memory_than_what_is_gathered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts, rows = _convnet()
    need = Need("gram", "r", 1)
    for _ in range(2):  # gathered, and known
        monkeypatch.setattr(scratch, "SMALLEST", 1)
        monkeypatch.setattr(scratch, "HELD", 0)
        found = gather(facts, _data(facts, rows), [need], cache=Cache(tmp_path))[need]
        assert isinstance(found.products, np.memmap)
