"""A kind of change is one file and one row: rounding weights to bfloat16 gets choice, proof, schedule, plan, replay, report and options."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import onnxprune
from onnxprune.api import sensitivity, sweep
from onnxprune.changes.plan import from_json
from onnxprune.cli import main
from onnxprune.errors import PlanError, TargetError, UsageError
from onnxprune.settings import GRANULARITIES, Granularity

MODELS = Path(__file__).parents[2] / "models"
CNN, TRANSFORMER = MODELS / "digits_cnn.onnx", MODELS / "digits_transformer.onnx"
CALIB = MODELS / "digits_calib.npz"
SETTINGS = {"granularity": "bfloat16", "latency": False}


@pytest.fixture(autouse=True)
def row() -> Iterator[None]:
    GRANULARITIES.add("bfloat16", Granularity("rounding:Rounding"))
    yield
    del GRANULARITIES._entries["bfloat16"]


def halves(model: onnx.ModelProto) -> list[str]:
    return [t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.BFLOAT16]


def test_it_is_chosen_proven_reported_and_replayed() -> None:
    result = onnxprune.prune(CNN, target="size=70%", evaluation=MODELS / "digits_test.npz", **SETTINGS)
    report = result.report
    assert report["after"]["bytes"] <= 0.7 * report["before"]["bytes"] and report["surgery"]["exact"]
    assert halves(result.model) == [row["name"] for row in report["rounded"] if row["status"] == "rounded"] != []
    assert report["task"]["after"] > 0.98
    (step,) = report["steps"]
    assert (step["kind"], step["changed"], step["of"]) == (
        "bfloat16",
        len(halves(result.model)),
        len(report["rounded"]),
    )
    plan = from_json(result.plan.to_json())
    assert plan == result.plan == onnxprune.plan(CNN, target="size=70%", **SETTINGS)
    again = onnxprune.apply(plan, CNN, latency=False)
    assert again.model.SerializeToString(deterministic=True) == result.model.SerializeToString(deterministic=True)
    with pytest.raises(PlanError, match="rounds the tensor 'gone'"):
        onnxprune.apply(from_json(result.plan.to_json().replace(f'"{halves(result.model)[0]}"', '"gone"')), CNN)


def test_a_ratio_is_of_its_parts_and_a_schedule_takes_it_in_steps() -> None:
    once = onnxprune.prune(TRANSFORMER, ratio=0.5, **SETTINGS).report
    assert once["steps"][0]["changed"] == (once["steps"][0]["of"] + 1) // 2
    steps = onnxprune.prune(TRANSFORMER, target="size=60%", schedule="linear:3", **SETTINGS).report
    assert len(steps["steps"]) > 1 and steps["after"]["bytes"] <= 0.6 * steps["before"]["bytes"]
    sizes = [row["after"]["bytes"] for row in steps["steps"]]
    assert sizes == sorted(sizes, reverse=True)


def test_data_says_how_far_it_may_go_and_what_each_part_costs() -> None:
    data = {"calibration": CALIB, "samples": 64}
    sizes = [
        onnxprune.prune(CNN, max_divergence=limit, **SETTINGS, **data).report["after"]["bytes"]
        for limit in (1e-7, 1e-4)
    ]
    assert sizes[1] < sizes[0] < CNN.stat().st_size
    curves = sensitivity(CNN, CALIB, granularity="bfloat16", samples=64)["curves"]
    assert {curve["group"] for curve in curves} == {
        row["name"] for row in onnxprune.prune(CNN, **SETTINGS).report["rounded"]
    }
    points = sweep(CNN, granularity="bfloat16", ratios=(0.2, 0.5), **data)["points"]
    assert points[1]["bytes"] < points[0]["bytes"] and [point["error"] for point in points] == [None, None]


def test_it_mixes_with_other_kinds() -> None:
    report = onnxprune.prune(
        TRANSFORMER, granularity="heads,bfloat16", target="size=40%", calibration=CALIB, samples=64, latency=False
    ).report
    assert [row["kind"] for row in report["steps"]] == ["units", "bfloat16"]
    assert report["after"]["bytes"] <= 0.4 * report["before"]["bytes"]
    assert sum(mix["chosen"] for mix in report["shares"]) == 1


def test_what_it_does_not_take_is_refused() -> None:
    for wrong in ({"criterion": "l1"}, {"target": "macs=50%"}, {"repair": "bias"}):
        with pytest.raises(UsageError, match="granularity bfloat16"):
            onnxprune.prune(CNN, **SETTINGS, **wrong)
    with pytest.raises(TargetError, match="with every tensor changed"):
        onnxprune.prune(CNN, target="size=10%", **SETTINGS)


def test_a_part_whose_proof_fails_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    import rounding

    honest = rounding.Rounding.made
    first = onnxprune.prune(CNN, ratio=0.9, **SETTINGS).plan.steps[0].record["rounded"][0]

    def broken(space, change):
        model = honest(space, change)
        if first in change.parts:
            return model.replaced({first: np.zeros_like(model.weights[first].read())})
        return model

    monkeypatch.setattr(rounding.Rounding, "made", broken)
    report = onnxprune.prune(CNN, ratio=0.9, **SETTINGS).report
    assert report["surgery"]["frozen_by_check"] == [first]
    assert {row["name"]: row["status"] for row in report["rounded"]}[first] == "frozen"


def test_the_command_line_knows_it(tmp_path: Path) -> None:
    out = tmp_path / "small.onnx"
    done = CliRunner().invoke(
        main, [str(CNN), str(out), "--granularity", "bfloat16", "--target", "size=70%", "--no-latency"]
    )
    assert done.exit_code == 0, done.output
    assert "bfloat16" in done.output and halves(onnx.load(out))
    shown = CliRunner().invoke(main, ["inspect", str(CNN), "--granularity", "bfloat16"])
    assert shown.exit_code == 0 and "rounded" in shown.output, shown.output
