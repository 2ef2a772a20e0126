"""What runs can do they do for every kind of change: schedules, limits of divergence, gates, sweeps, sensitivity, plans, baselines."""

from __future__ import annotations

from pathlib import Path

import pytest

import onnxprune
from onnxprune.api import sensitivity, sweep
from onnxprune.errors import TargetError

MODELS = Path(__file__).parents[2] / "models"
TRANSFORMER, CALIB, TEST = MODELS / "digits_transformer.onnx", MODELS / "digits_calib.npz", MODELS / "digits_test.npz"
KINDS = {"heads": "units", "block": "block", "eigen": "eigen", "rank": "rank"}
DATA = {"calibration": CALIB, "samples": 64}


@pytest.mark.parametrize("name", KINDS)
def test_a_schedule_reaches_the_target_in_steps(name: str) -> None:
    report = onnxprune.prune(
        TRANSFORMER, granularity=name, target="macs=60%", schedule="linear:2", rotate=False, latency=False, **DATA
    ).report
    assert report["after"]["macs"] <= 0.6 * report["before"]["macs"]
    assert {step["kind"] for step in report["steps"]} == {KINDS[name]}
    assert len(report["steps"]) == 2 or len(report["schedule"]["steps"]) == 2


@pytest.mark.parametrize("name", KINDS)
def test_the_smallest_within_a_divergence(name: str) -> None:
    """A wider limit gives a smaller model; the result keeps to it on the rows that judged."""
    sizes = []
    for limit in (1e-4 if name in ("eigen", "rank") else 0.3, 3.0):
        report = onnxprune.prune(TRANSFORMER, granularity=name, max_divergence=limit, latency=False, **DATA).report
        sizes.append(report["after"]["macs"])
    assert sizes[1] < sizes[0] <= report["before"]["macs"]
    with pytest.raises(TargetError):
        onnxprune.prune(TRANSFORMER, granularity="block", max_divergence=1e-9, latency=False, **DATA)


@pytest.mark.parametrize("name", KINDS)
def test_a_gate_that_fails_writes_nothing(name: str, tmp_path: Path) -> None:
    out = tmp_path / "small.onnx"
    result = onnxprune.prune(
        TRANSFORMER, output=out, granularity=name, target="macs=50%", repair="none", evaluation=TEST, max_drop=0.0,
        min_cosine=0.999999, latency=False, **DATA,
    )  # fmt: skip
    assert not result.passed and not out.exists()
    baseline = onnxprune.prune(
        TRANSFORMER, granularity=name, target="macs=60%", evaluation=TEST, latency=False, baseline=result.report, **DATA
    ).report
    assert baseline["gates"]


@pytest.mark.parametrize("name", [*KINDS, "block,heads"])
def test_sweeps_and_curves(name: str) -> None:
    report = sweep(TRANSFORMER, granularity=name, ratios=(0.2, 0.4), **DATA)
    assert [point["error"] for point in report["points"]] == [None, None]
    first, second = (point["macs"] for point in report["points"])
    assert second <= first
    found = sensitivity(TRANSFORMER, CALIB, granularity=name, samples=64)
    assert found["curves"] and all(curve["widths"] and curve["divergence"] for curve in found["curves"])
    if name == "block":
        branches = {row["name"] for row in onnxprune.api.inspect(TRANSFORMER)["blocks"]}
        assert {curve["group"] for curve in found["curves"]} == branches
