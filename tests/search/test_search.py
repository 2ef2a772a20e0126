"""Widths under a budget: tables, hulls, proposals, the veto, and the smallest model within a divergence."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support.networks import feeds, network

import onnxprune
from onnxprune.allocate import Costs, Options, Target
from onnxprune.coupling.cut import cut
from onnxprune.criteria.curvature import Order
from onnxprune.data import open_dataset
from onnxprune.data.inputs import input_specs
from onnxprune.errors import DataError, TargetError, UsageError
from onnxprune.means import Means
from onnxprune.model.runtime import session
from onnxprune.repair import Effort
from onnxprune.repair.teacher import Teacher
from onnxprune.search import (
    Fitting,
    Goal,
    Proposal,
    Search,
    Tables,
    error_tables,
    reconstruct,
    search_units,
)
from onnxprune.search.curves import curves, most_sensitive
from onnxprune.search.widths import _hull

HALF = Target("macs", 0.5)
TRIAL = partial(Fitting, effort=Effort(32, 0), choosing=False)
MODELS = Path(__file__).parents[2] / "models"
NET = """a = Conv<pads=[1,1,1,1]>(x, %8x3x3x3, %8); b = Relu(a)
c = Conv<pads=[1,1,1,1]>(b, %12x8x3x3, %12); d = Relu(c)
e = Conv(d, %6x12x1x1, %6); f = GlobalAveragePool(e); y = Flatten(f)"""


@pytest.fixture(scope="module")
def case():
    model = network(NET)
    analysis = onnxprune.analyze(model)
    batches = [feeds(model, seed) for seed in range(6)]
    fallback = [np.arange(group.width, dtype=float) for group in analysis.groups]
    return analysis, batches, error_tables(analysis, Teacher(analysis.facts, batches), fallback)


def _search(case, target=HALF, **changes):
    analysis, batches, tables = case
    return Search(
        analysis, tables, target, Options(**changes.pop("options", {})), TRIAL(batches[:3]), batches[3:], **changes
    )


# --- tables ---------------------------------------------------------------------------------------------------------


def test_every_group_has_its_readers_error_table(case):
    analysis, _, tables = case
    for group in analysis.groups:
        order, error = tables.order(group.index, 1.0)
        assert sorted(order) == list(range(group.width)) and len(tables.readings[group.index]) == 1
        assert error[0] == 0 and (np.diff(error) >= -1e-9).all()


def test_exponents_weigh_errors_by_energy(case):
    analysis, _, tables = case
    for group in analysis.groups:
        raw, relative = (tables.order(group.index, exponent) for exponent in (1.0, 0.0))
        energy = tables.readings[group.index][0].energy
        np.testing.assert_allclose(raw.error, relative.error * energy, rtol=1e-9)
        assert np.array_equal(raw.order, relative.order)


def test_groups_without_a_linear_reader_go_by_their_scores(case):
    analysis, _, tables = case
    bare = Tables(analysis, {1: tables.readings[1]}, [np.array([3.0, 1, 2, 9, 4, 5, 6, 7]), tables.fallback[1]])
    order, error = bare.order(0, 0.0)
    assert order.tolist() == [1, 2, 0, 4, 5, 6, 7, 3]
    np.testing.assert_allclose(error / error[-1], np.cumsum([0, 1, 2, 3, 4, 5, 6, 7, 9]) / 37)


def test_hull_leads_over_a_bump_by_hand():
    error = np.array([0.0, 4.0, 5.0, 10.0])  # of width 3, with 0, 1, 2, 3 units gone
    assert _hull([1, 2, 3], error) == {3: (1, 5.0), 2: (1, 2.5)}
    assert _hull([2, 3], error) == {3: (2, 4.0)}
    assert _hull([3], error) == {}


# --- budgets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "total"),
    [(Target("macs", 0.4), "macs"), (Target("params", 0.6), "parameters"), (Target("size", 0.8), "bytes")],
)
@pytest.mark.parametrize("step", [1, 4])
def test_every_proposal_meets_the_budget_and_the_alignment(case, target, total, step):
    search = _search(case, target, options={"round_to": step})
    rng = np.random.default_rng(0)
    limit = target.budget(float(search.costs.total(total, search.costs.widths)))
    found = [p.widths for p in search._starts()]
    found += [search._widths(np.exp(rng.normal(0, 1, 2)), 0.5) for _ in range(10)]
    for widths in found:
        assert search.costs.total(total, widths) <= limit
        assert all(width in legal for width, legal in zip(widths, search.legal, strict=True))


def test_budgets_are_used_up(case):
    search = _search(case)
    for proposal in (p for p in search._starts() if p.name != "uniform"):
        for g in search.movable:
            wider = [w for w in search.legal[g] if w > proposal.widths[g]]
            if wider:
                trial = proposal.widths.copy()
                trial[g] = wider[0]
                assert search.costs.macs(trial) > 0.5 * search.costs.macs(search.costs.widths)


def test_what_cannot_be_reached_is_refused(case):
    with pytest.raises(TargetError, match="out of reach"):
        _search(case, Target("macs", 0.5), options={"max_layer_ratio": 0.1}).run()


def test_a_ratio_per_layer_is_the_same_share_everywhere(case):
    (proposal,) = _search(case, Target("ratio", 0.5))._starts()
    assert proposal.widths.tolist() == [4, 6]


# --- choice ---------------------------------------------------------------------------------------------------------


def test_without_time_the_best_start_wins_and_nothing_is_random(case):
    first, second = _search(case), _search(case, means=Means(seed=7))
    best = first.run()
    assert best.judged.cost == min(p.judged.cost for p in first.history)
    assert len(first.history) == len({(*p.widths, p.exponent) for p in first.history}) >= 3
    assert second.run().widths.tolist() == best.widths.tolist()


def test_the_search_never_ends_below_its_start(case):
    search = _search(case, seconds=1.0)
    best = search.run()
    assert best.judged.cost <= min(p.judged.cost for p in search.history[:4])
    assert len({tuple(p.widths) for p in search.history[4:]}) == len(search.history[4:])


def test_unseen_data_vetoes_what_only_the_judges_like(case):
    search = _search(case, seconds=0.01, veto=case[1][:2])
    start, other = (Proposal("raw", np.ones(2), np.array(widths)) for widths in ([8, 12], [1, 1]))
    assert search._vetoed(best=other, start=start) and not search._vetoed(best=start, start=other)
    search.veto = ()
    assert not search._vetoed(best=other, start=start)


def test_units_are_chosen_where_they_are_read_and_silenced_there(case):
    analysis, batches, tables = case
    orders = [tables.order(group.index, 0.5) for group in analysis.groups]
    found = reconstruct(analysis, np.array([5, 7]), orders, Fitting(batches))
    model, kept = found.model, found.kept
    assert [int(flags.sum()) for flags in kept] == [5, 7]
    for group, flags in zip(analysis.groups, kept, strict=True):
        reader = next(m for m in group.members if m.role == "reads")
        silent = np.abs(model.weights[reader.parameter].read()).sum((0, 2, 3)) == 0
        assert np.array_equal(silent, ~flags)


BODIES = {
    "one reader each": NET,
    "two readers": NET.replace("d = Relu(c)", "k = Conv(b, %12x8x1x1); s = Add(c, k); d = Relu(s)"),
    "a stored scalar": NET.replace(
        "d = Relu(c)", "o = Constant<value_float=0.5>(); s = Mul(c, o); t = Add(s, @0.25); d = Relu(t)"
    ),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_weights_carried_over_compute_what_the_silent_model_does(body):
    model = network(body)
    analysis = onnxprune.analyze(model)
    batches = [feeds(model, seed) for seed in range(3)]
    fallback = [np.ones(group.width) for group in analysis.groups]
    tables = error_tables(analysis, Teacher(analysis.facts, batches), fallback)
    orders = [tables.order(group.index, 0.5) for group in analysis.groups]
    found = reconstruct(analysis, analysis.widths - 3, orders, Fitting(batches))
    small = found.carried(analysis, cut(analysis, found.kept))
    onnx.checker.check_model(small.proto, full_check=True)
    for batch in batches:
        np.testing.assert_allclose(
            session(small).run(batch)["y"], session(found.model).run(batch)["y"], rtol=1e-4, atol=1e-5
        )


def test_groups_with_several_readers_go_by_the_joint_order():
    body = "a = Conv(x, %8x3x1x1, %8); b = Relu(a); c = Conv(b, %4x8x1x1); d = Conv(b, %4x8x1x1); y = Add(c, d)"
    model = network(body)
    analysis = onnxprune.analyze(model)
    group = next(g for g in analysis.groups if g.width == 8)
    orders = [Order(np.arange(g.width)[::-1], np.arange(g.width + 1.0)) for g in analysis.groups]
    widths = analysis.widths.copy()
    widths[group.index] = 5
    kept = reconstruct(analysis, widths, orders, Fitting([feeds(model)])).kept
    assert kept[group.index].tolist() == [True] * 5 + [False] * 3


# --- whole runs -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    return {
        "model": MODELS / "digits_transformer.onnx",
        "calibration": MODELS / "digits_calib.npz",
        "samples": 96,
        "latency": False,
    }


def test_a_looser_divergence_gives_a_smaller_model_within_it(digits):
    found = [onnxprune.prune(**digits, max_divergence=limit, round_to=32).report for limit in (0.02, 0.5)]
    assert found[1]["after"]["macs"] < found[0]["after"]["macs"] < found[0]["before"]["macs"]
    for limit, report in zip((0.02, 0.5), found, strict=True):
        assert report["settings"]["max_divergence"] == limit
        assert any(entry["divergence"] <= limit for entry in report["search"])


def test_a_divergence_that_nothing_meets_is_refused():
    model = network(NET)
    analysis = onnxprune.analyze(model)
    data = open_dataset({"x": np.random.default_rng(0).standard_normal((12, 3, 4, 4), np.float32)}, input_specs(model))
    fallback = [np.ones(group.width) for group in analysis.groups]
    with pytest.raises(TargetError, match="no smaller model"):
        search_units(analysis, data, Goal(Target("ratio", 0.5), Options(), 1e-12), fallback)


def test_max_divergence_needs_data_and_stands_alone(digits):
    with pytest.raises(DataError, match="--calib"):
        onnxprune.prune(digits["model"], max_divergence=0.1)
    for clash in ({"ratio": 0.5}, {"criterion": "l1"}, {"repair": "none"}):
        with pytest.raises(UsageError):
            onnxprune.prune(digits["model"], max_divergence=0.1, **clash)


def test_curves_rise_and_point_at_the_group_that_matters():
    body = "a = Gemm(x, %8x16, %16); b = Relu(a); c = Gemm(b, %16x16, %16); d = Relu(c); y = Gemm(d, %16x4, %4)"
    model = network(body, "float[n,8] x")
    analysis = onnxprune.analyze(model)
    rows = np.random.default_rng(0).standard_normal((200, 8), np.float32)
    fallback = [np.ones(group.width) for group in analysis.groups]
    found = curves(analysis, open_dataset(rows, input_specs(model)), Options(), fallback)
    assert [curve.group for curve in found] == [group.name for group in analysis.groups]
    for curve in found:
        assert curve.widths == (12, 8, 4)
        assert list(curve.fitted) == sorted(curve.fitted) and list(curve.error) == sorted(curve.error)
        assert np.sum(curve.fitted) == pytest.approx(np.sum(curve.divergence))  # what isotonic regression keeps
    assert most_sensitive(found) == []
    assert Costs(analysis).widths.tolist() == [16, 16]


def test_sensitivity_reports_every_group_and_names_what_to_exclude(digits):
    from onnxprune.api import sensitivity

    report = sensitivity(digits["model"], digits["calibration"], samples=48, include=("op:Erf",), round_to=64)
    assert report["command"] == "sensitivity" and len(report["curves"]) == 3
    assert set(report["exclude"]) <= {curve["group"] for curve in report["curves"]}


def test_cached_evidence_gives_the_same_model(digits, tmp_path):
    how = {**digits, "criterion": "wanda", "repair": "none", "cache": tmp_path / "cache"}
    first = onnxprune.prune(**how).model
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    assert files and onnxprune.prune(**how).model == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()} == files


def test_proposals_are_judged_after_a_short_training():
    """Training changes what proposals are judged by, and their divergences with it; it makes none worse."""
    options = {"calibration": MODELS / "digits_calib.npz", "target": "macs=30%", "latency": False, "round_to": 1}
    plain, trained = (
        onnxprune.prune(MODELS / "digits_cnn.onnx", search_recover=steps, **options).report["search"]
        for steps in (0, 25)
    )
    before, after = ({entry["name"]: entry["divergence"] for entry in found} for found in (plain, trained))
    assert before.keys() == after.keys()
    assert all(after[name] < before[name] for name in ("relative", "raw"))
    with pytest.raises(UsageError, match="search_recover"):
        onnxprune.prune(MODELS / "digits_cnn.onnx", criterion="l2", search_recover=5)


def test_proposals_repaired_side_by_side_are_those_repaired_one_after_the_other():
    options = {"calibration": MODELS / "digits_calib.npz", "samples": 96, "target": "macs=50%", "latency": False}
    one, two = (onnxprune.prune(MODELS / "digits_cnn.onnx", threads=threads, **options) for threads in (1, 2))
    assert [entry["widths"] for entry in one.report["search"]] == [entry["widths"] for entry in two.report["search"]]
    for a, b in zip(one.report["search"], two.report["search"], strict=True):
        assert a["divergence"] == pytest.approx(b["divergence"], rel=1e-3)
    again = onnxprune.prune(MODELS / "digits_cnn.onnx", threads=2, **options)
    assert again.model.SerializeToString(deterministic=True) == two.model.SerializeToString(deterministic=True)


@pytest.mark.parametrize("asked", [{"search": 1.0}, {"search_recover": 5}])
def test_a_search_without_data_is_refused(asked):
    with pytest.raises(DataError, match="--calib"):
        onnxprune.prune(MODELS / "digits_cnn.onnx", latency=False, **asked)


def test_units_that_a_body_alone_reads_go_with_data_too():
    """No node of the walk chooses among them, so that they go by the orders of the original."""
    body = (
        "p = MatMul(x, %8x16); h = Relu(p); s = ReduceSum<keepdims=0>(x); z = Constant<value_float=0.0>()\n"
        "c = Greater(s, z)\n"
        "y = If(c) <then_branch = a () => (float[n,4] ya) { ya = MatMul(h, w) }, "
        "else_branch = b () => (float[n,4] yb) { yb = MatMul(x, v) }>"
    )
    model = network(body, "float[n,8] x", "float[n,4] y")
    for name, inputs in (("w", 16), ("v", 8)):
        array = np.random.default_rng(inputs).standard_normal((inputs, 4)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    rows = np.random.default_rng(0).standard_normal((96, 8)).astype(np.float32)
    report = onnxprune.prune(model, calibration=rows, target="params=75%", round_to=1, latency=False).report
    assert report["after"]["parameters"] <= 0.75 * report["before"]["parameters"]


def test_a_stream_is_tried_as_wide_as_an_even_cut_leaves_it() -> None:
    """Tables of single readers misjudge a stream that norms read: some starts give it the uniform width, and the rest by tables."""
    rng = np.random.default_rng(0)
    found = onnxprune.prune(
        MODELS / "digits_transformer.onnx",
        calibration={"image": rng.random((24, 1, 8, 8)).astype(np.float32)},
        target="macs=35%",
        latency=False,
    )
    starts = {row["name"]: row["widths"] for row in found.report["search"]}
    assert starts["even streams"][0] == starts["uniform"][0] < 64
    assert starts["even streams"] != starts["uniform"]
