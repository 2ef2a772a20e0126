"""Calibration data that is short, far from zero, out of range, or shaped unlike samples: it works, or rows are named."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from support.forms import FORMS
from support.networks import network

import onnxprune
from onnxprune.criteria import CRITERIA
from onnxprune.errors import DataError
from onnxprune.repair.moments import SOLVERS, CrossMoments, solve

WIDTH = 16
FEW = (1, 2, WIDTH // 2)
OTHERS = {
    "loss",
    "routing-mass",
    "magnitude-increase",
    "movement",
}  # take labels, experts of mixtures, or earlier weights
DATA_CRITERIA = sorted(name for name in CRITERIA if CRITERIA[name].needs and name not in OTHERS)
CONVOLUTIONS = """
h = Conv<pads=[1,1,1,1]>(x, %16x3x3x3, %16)
a = Relu(h)
k = Conv(a, %16x16x1x1, %16)
b = Relu(k)
g = GlobalAveragePool(b)
f = Flatten(g)
y = Gemm<transB=1>(f, %4x16, %4)
"""
DENSE = "h = MatMul(x, %8x16)\na = Relu(h)\nk = MatMul(a, %16x16)\nb = Relu(k)\ny = MatMul(b, %16x4)"
NETWORKS = {"convolutions": (CONVOLUTIONS, "float[n,3,6,6] x", (3, 6, 6)), "dense": (DENSE, "float[n,8] x", (8,))}


def _rows(name: str, count: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, *NETWORKS[name][2])).astype(np.float32)


def _pruned(name: str, **settings):
    """Prune, numpy's warnings being errors."""
    model = network(NETWORKS[name][0], NETWORKS[name][1], "float[n,4] y")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        return onnxprune.prune(model, latency=False, round_to=1, gate_training=5, **settings).report


def _left(report: dict) -> float:
    return report["after"]["macs"] / report["before"]["macs"]


@pytest.mark.parametrize("count", FEW)
@pytest.mark.parametrize("name", NETWORKS)
def test_fewer_rows_than_channels_decide_and_repair(name, count):
    """One row has no variance, two span one direction: second moments are of low rank as a rule, not by accident."""
    assert _left(_pruned(name, calibration=_rows(name, count), target="macs=60%")) <= 0.6
    for method in SOLVERS:
        report = _pruned(name, calibration=_rows(name, count), criterion="l2", repair=method)
        assert report["repair"]["method"] == method and np.isfinite(report["drift"]["outputs"]["y"]["relative_l2"])


@pytest.mark.parametrize("criterion", DATA_CRITERIA)
def test_fewer_rows_than_channels_rank_units(criterion):
    for name in NETWORKS:
        for count in FEW[:2]:
            attack = {"attack": "fgsm:0.1,range=-3:3"} if criterion == "vulnerability" else {}
            report = _pruned(
                name, calibration=_rows(name, count), criterion=criterion, repair="none", ratio=0.5, **attack
            )
            assert _left(report) < 0.8


@pytest.mark.parametrize("count", FEW)
@pytest.mark.parametrize("kind", ["eigen", "rank"])
def test_fewer_rows_than_channels_give_directions(count, kind):
    report = _pruned("dense", calibration=_rows("dense", count), granularity=[kind], target="macs=90%")
    assert _left(report) <= 0.9


@pytest.mark.parametrize("offset", [0.0, 1e2, 1e4])
def test_means_far_larger_than_deviations_leave_the_solution_as_it_is(offset):
    """Products of float32 values about 1e4 are known to 1e1; their deviations count to 1e-3."""
    rng = np.random.default_rng(3)
    x = (rng.standard_normal((1, 400, 6)) + offset * np.arange(1, 7)).astype(np.float32)
    old = rng.standard_normal((1, 3, 6))
    t = (x.astype(float) @ old.swapaxes(1, 2) + 0.1 * rng.standard_normal((1, 400, 3)) + offset).astype(np.float32)
    moments = CrossMoments.around(x[:, :50], t[:, :50])
    for start in range(0, 400, 100):
        moments.update(x[:, start : start + 100], t[:, start : start + 100])
    weights, bias = solve(moments, np.zeros_like(old), 1e-3, True)
    rows, wanted = (array[0].astype(float) - array[0].mean(0, float) for array in (x, t))
    ridge = 1e-3 * np.square(rows).sum() / 6
    expected = np.linalg.solve(rows.T @ rows + ridge * np.eye(6), rows.T @ wanted).T
    np.testing.assert_allclose(weights[0], expected, rtol=0, atol=5e-3)  # NOISE of the mean square: 1.5e-3 of them
    left = t[0] - x[0].astype(float) @ weights[0].T - bias[0]
    np.testing.assert_allclose(left.mean(0), 0, atol=1e-2)


BROKEN = {
    "a logarithm of nothing": ("l = Log(x)\nh = MatMul(l, %8x16)\na = Relu(h)\ny = MatMul(a, %16x4)", -1.0, "'l'"),
    "values whose products are no floats": (DENSE, 1e30, "'x'"),
}


@pytest.mark.parametrize("settings", [{}, {"criterion": "l2"}, {"criterion": "obs"}, {"criterion": "wanda"}], ids=str)
@pytest.mark.parametrize("case", BROKEN)
def test_rows_that_make_an_inner_value_unusable_are_named(case, settings):
    body, broken, value = BROKEN[case]
    rows = np.abs(_rows("dense", 24)) + 0.1
    rows[[5, 17]] = broken
    if broken > 1 and settings.get("criterion") in ("obs", "wanda"):
        rows[[5, 17]] = 3e38  # statistics of criteria are float64: only what the network makes infinite is too large
        value = r"'\w+'"
    model = network(body, "float[n,8] x", "float[n,4] y")
    with pytest.raises(DataError, match=rf"value {value} is NaN.*rows? .*\b(5|17)\b"):
        onnxprune.prune(model, calibration=rows, latency=False, **settings)


def test_a_row_that_is_a_sequence_is_matched_position_by_position():
    """The frames of a sequence are no samples, and the other input has none: all the same every position counts."""
    body = """
    a = Conv(x, %24x4x3, %24)
    b = Relu(a)
    c = Conv(b, %8x24x3)
    d = GlobalAveragePool(c)
    y = Add(d, h)
    """
    model = network(body, "float[frames,4,10] x, float[1,8,1] h", "float[frames,8,1] y")
    rng = np.random.default_rng(0)
    feeds = [
        {"x": rng.standard_normal((20 + i, 4, 10), np.float32), "h": np.zeros((1, 8, 1), np.float32)} for i in range(6)
    ]
    report = onnxprune.prune(model, calibration=feeds, target="macs=60%", latency=False).report
    assert _left(report) <= 0.6
    assert report["repair"]["divergence"]["least-squares"] < report["repair"]["divergence"]["none"]
    assert not any("left out" in text for text in report["warnings"])


SHARED = {
    "int8": "w = %8x8x3x3:int8; k = DequantizeLinear(w, @0.02)",
    "bfloat16": "w = %8x8x3x3:bfloat16; k = Cast<to = 1>(w)",
}
SETTINGS = [{"criterion": "l2", "repair": "least-squares"}, {"criterion": "l2"}, {"target": "macs=80%"}]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("form", SHARED)
def test_weights_that_no_repair_can_change_are_named(form, settings):
    """A quantised weight that two nodes read cannot suit both."""
    body = f"""
        {SHARED[form]}
        a = Conv<pads=[1,1,1,1]>(x, %8x3x3x3, %8); b = Relu(a)
        c = Conv<pads=[1,1,1,1]>(b, k); d = Relu(c); e = Conv<pads=[1,1,1,1]>(d, k); f = Relu(e)
        g = GlobalAveragePool(f); h = Flatten(g); y = Gemm(h, %8x4, %4)
    """
    model = network(body, "float[n,3,6,6] x", "float[n,4] y")
    rows = np.random.default_rng(0).standard_normal((24, 3, 6, 6)).astype(np.float32)
    report = onnxprune.prune(model, calibration=rows, latency=False, round_to=1, **settings).report
    (text,) = (text for text in report["warnings"] if "repair does not reach" in text)
    assert text.startswith("weights stored as integers or in bfloat16") and text.endswith(": c, e")


@pytest.mark.parametrize("form", ["int8 weights", "bfloat16 weights"])
def test_nothing_is_named_where_repair_reaches_all(form, tmp_path):
    model, rows, _ = FORMS[form](tmp_path)
    report = onnxprune.prune(model, calibration=rows, latency=False, round_to=1, criterion="l2").report
    assert not any("repair does not reach" in text for text in report["warnings"])
    assert report["repair"]["divergence"]["least-squares"] < report["repair"]["divergence"]["none"]


def test_steps_carry_weights_in_bfloat16(tmp_path):
    model, rows, _ = FORMS["bfloat16 weights"](tmp_path)
    settings = {
        "criterion": "l2",
        "ratio": 0.3,
        "schedule": "linear:2",
        "repair": "none",
        "latency": False,
        "round_to": 1,
    }
    plain = onnxprune.prune(model, calibration=rows, **settings)
    trained = onnxprune.prune(model, calibration=rows, recover=8, learning_rate=0.03, **settings)
    assert trained.report["recover"]["kept"] == "trained"
    before, after = ({t.name: t.raw_data for t in found.model.graph.initializer} for found in (plain, trained))
    assert any(before[name] != after[name] for name in before if name.endswith("_stored"))


def test_units_go_by_their_scores_where_no_row_can_be_matched(monkeypatch):
    """A node that no row of the data tells anything about still loses the units that it has to, and the report says so."""
    monkeypatch.setattr("onnxprune.repair.teacher.Teacher.rows", lambda self, *_: np.zeros((1, 1), np.float32))
    report = _pruned("dense", calibration=_rows("dense", 24), target="macs=60%")
    assert _left(report) <= 0.6
    assert any(text.startswith("data rows were left out at nodes") for text in report["warnings"])


@pytest.mark.parametrize("criterion", ["taylor", "group-fisher", "grasp", "obd"])
def test_gradients_name_rows_that_make_a_value_unusable(criterion):
    rows = np.abs(_rows("dense", 24)) + 0.1
    rows[[5, 17]] = -1.0
    model = network(BROKEN["a logarithm of nothing"][0], "float[n,8] x", "float[n,4] y")
    with pytest.raises(DataError, match=r"value 'l' is NaN or infinite for data rows? 5"):
        onnxprune.prune(model, calibration=rows, latency=False, criterion=criterion, repair="none")


def test_a_training_without_finite_gradients_says_so():
    rows = np.abs(_rows("dense", 24)) + 0.1
    rows[::2] = -1.0
    model = network(BROKEN["a logarithm of nothing"][0], "float[n,8] x", "float[n,4] y")
    report = onnxprune.prune(model, calibration=rows, latency=False, criterion="l2", repair="none", recover=3).report
    assert report["recover"]["kept"] == "original"
    assert any(
        text.startswith("nothing was trained: no step of the recovery had finite") for text in report["warnings"]
    )
