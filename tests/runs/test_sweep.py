"""Sweeps: every combination once, resumed where they stopped, Pareto and choice by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.api import sweep
from onnxprune.cli import main
from onnxprune.errors import TargetError, UsageError
from onnxprune.progress import Progress, silent
from onnxprune.runs.sweep import ClosingIn, Point, grid, judged, nothing_within, run_points

MODELS = Path(__file__).parents[2] / "models"
CNN, TEST = MODELS / "digits_cnn.onnx", MODELS / "digits_test.npz"


def entry(number: int, macs: float, lost: float | None) -> dict[str, Any]:
    error = "out of reach" if lost is None else None
    return {"id": str(number), "macs": macs, "drop": lost, "metric": "accuracy", "relative_l2": lost, "error": error}


def test_pareto_and_choice_by_hand() -> None:
    entries = [entry(0, 90, 0.0), entry(1, 50, 0.01), entry(2, 60, 0.02), entry(3, 20, 0.3), entry(4, 0, None)]
    found = judged(entries, max_drop=0.02)
    assert [point["pareto"] for point in found["points"]] == [True, True, False, True, False]
    assert found["chosen"] == "1"
    assert found["quality"] == "drop of accuracy"
    assert judged(entries)["chosen"] is None
    assert judged(entries[3:], max_drop=0.02)["chosen"] is None


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_pareto_points_beat_all_others_and_not_each_other(values: list[tuple[int, int]]) -> None:
    points = judged([entry(i, macs, lost) for i, (macs, lost) in enumerate(values)])["points"]
    front = [point for point in points if point["pareto"]]
    assert front
    for point in points:
        beaten = [f for f in front if f["macs"] <= point["macs"] and f["quality"] <= point["quality"]]
        assert beaten
        if point["pareto"]:
            assert all((f["macs"], f["quality"]) == (point["macs"], point["quality"]) for f in beaten)


def test_grid_has_each_combination_once() -> None:
    points = grid([0.25, 0.5, 0.25], ["l1", "l2"], ["none"])
    assert [point.label for point in points] == ["l1 none 0.25", "l1 none 0.5", "l2 none 0.25", "l2 none 0.5"]
    assert len({point.id({}) for point in points}) == 4
    assert points[0].id({"seed": 0}) != points[0].id({"seed": 1})
    with pytest.raises(UsageError, match="at least one"):
        grid([], ["l1"], ["none"])


def report(macs: int) -> dict[str, Any]:
    return {"before": {"macs": 10}, "after": {"macs": macs, "parameters": 1, "bytes": 1}, "seconds": {}}


def test_a_sweep_goes_on_where_it_stopped(tmp_path: Path) -> None:
    ran: list[float] = []

    def evaluate(settings: Any, progress: Progress) -> dict[str, Any]:
        ran.append(settings["ratio"])
        if settings["ratio"] == 0.5 and len(ran) < 3:
            raise TargetError("out of reach")
        return report(5)

    points = grid([0.25, 0.5], ["l2"], ["none"])
    first, _ = run_points(points, {}, evaluate, tmp_path, silent)
    assert [found["error"] for found in first] == [None, "out of reach"]
    second, warnings = run_points(points, {}, evaluate, tmp_path, silent)
    assert not warnings
    assert (ran, second[0]) == ([0.25, 0.5, 0.5], first[0])
    assert run_points(points, {}, evaluate, tmp_path, silent) == (second, [])
    assert sorted(path.stem for path in tmp_path.iterdir()) == sorted(point.id({}) for point in points)


@pytest.mark.parametrize(
    ("holds", "wanted"),
    [(0.0, [0.125, 0.0625, 0.03125]), (0.2, [0.125, 0.1875, 0.21875]), (0.6, [0.625, 0.5625, 0.59375]), (1.0, [0.875, 0.9375, 0.96875])],
)  # fmt: skip
def test_a_limit_is_closed_in_on(holds: float, wanted: list[float]) -> None:
    """The gap between the largest ratio that loses little enough and the next is halved, for each criterion by itself."""

    def evaluate(settings: Any, progress: Progress) -> dict[str, Any]:
        if settings["criterion"] == "l1":
            raise TargetError("out of reach")
        lost = 0.01 if settings["ratio"] <= holds else 0.3
        task = {"metric": "accuracy", "after": 1 - lost, "drop": lost}
        return report(round(100 * (1 - settings["ratio"]))) | {"task": task}

    found, _ = run_points(
        grid([0.25, 0.5, 0.75], ["l1", "l2"], ["none"]), {}, evaluate, None, silent, None, ClosingIn(0.02)
    )
    ratios = {
        name: [e["settings"]["ratio"] for e in found if e["settings"]["criterion"] == name] for name in ("l1", "l2")
    }
    assert ratios == {"l1": [0.25, 0.5, 0.75, 0.125, 0.0625, 0.03125], "l2": [0.25, 0.5, 0.75, *wanted]}
    verdict = judged(found, 0.02)
    chosen = next((point for point in verdict["points"] if point["id"] == verdict["chosen"]), None)
    largest = max((ratio for ratio in ratios["l2"] if ratio <= holds), default=None)
    assert (chosen and chosen["settings"]["ratio"]) == largest
    (said,) = nothing_within(verdict, 0.02) if largest is None else ("2.00% or less (l2 none",)
    assert "2.00% or less (l2 none" in said


def test_an_interrupted_sweep_keeps_the_points_it_has(tmp_path: Path) -> None:
    ran: list[float] = []

    def evaluate(settings: Any, progress: Progress) -> dict[str, Any]:
        ran.append(settings["ratio"])
        if len(ran) == 2:
            raise KeyboardInterrupt
        return report(5)

    points = grid([0.25, 0.5, 0.75], ["l2"], ["none"])
    with pytest.raises(KeyboardInterrupt):
        run_points(points, {}, evaluate, tmp_path, silent)
    found, warnings = run_points(points, {}, evaluate, tmp_path, silent)
    assert (ran, warnings) == ([0.25, 0.5, 0.5, 0.75], [])
    assert [entry["macs_share"] for entry in found] == [0.5] * 3


def test_a_damaged_point_is_run_again(tmp_path: Path) -> None:
    point = Point({"criterion": "l2", "repair": "none", "ratio": 0.5})
    path = tmp_path / f"{point.id({})}.json"
    for damage in (
        b"{",
        b"[]",
        b'{"id": "other"}',
        b"\xff\xfe",
        b'{"id": "%s", "macs_share": 0.4}' % path.stem.encode(),
    ):
        path.write_bytes(damage)
        (found,), (warning,) = run_points([point], {}, lambda settings, progress: report(4), tmp_path, silent)
        assert (found["macs_share"], found["error"]) == (0.4, None)
        assert str(path) in warning and "l2 none 0.5" in warning
        assert json.loads(path.read_text()) == found


def test_on_a_real_model(tmp_path: Path) -> None:
    arguments = ["sweep", CNN, "--ratios", "10%,0.5", "--criteria", "l2,l1", "--repairs", "none", "--eval", TEST]
    arguments += ["--folder", tmp_path / "points", "--max-drop", "2%"]
    runs = []
    for number in range(2):
        target = tmp_path / f"{number}.json"
        done = CliRunner().invoke(main, [str(a) for a in (*arguments, "--json", target, "--html", tmp_path / "r.html")])
        assert done.exit_code == 0, done.output
        runs.append(json.loads(target.read_text()))
        runs[-1]["made"].pop("date")
        runs[-1]["made"].pop("seconds", None)
    assert runs[0] == runs[1]
    assert len(list((tmp_path / "points").iterdir())) == len(runs[0]["points"]) == 4
    chosen = next(point for point in runs[0]["points"] if point["id"] == runs[0]["chosen"])
    assert (chosen["settings"]["ratio"], chosen["drop"] <= 0.02) == (0.1, True)
    assert all(point["score"] is not None for point in runs[0]["points"])
    assert "Quality against MACs left" in (tmp_path / "r.html").read_text()


def test_settings_that_make_no_sense_are_refused_before_the_first_run() -> None:
    with pytest.raises(UsageError, match="unknown repair"):
        sweep(CNN, repairs=["auto", "magic"], evaluation=TEST)
    with pytest.raises(UsageError, match="give data"):
        sweep(CNN)


def test_other_data_options_or_model_is_another_point(tmp_path: Path) -> None:
    """Names are hashes of content: a copied model is the same, whatever else changes the result is not."""
    copied = tmp_path / "copied.onnx"
    copied.write_bytes(CNN.read_bytes())

    def names(model: Path = CNN, **changed: Any) -> set[str]:
        options = {"ratios": [0.5], "criteria": ["l2"], "repairs": ["none"], "evaluation": TEST} | changed
        return {point["id"] for point in sweep(model, **options)["points"]}

    first = names()
    assert names(copied) == first == names(max_drop=0.5)
    others = [
        names(MODELS / "digits_transformer.onnx"),
        names(seed=1),
        names(exclude=["op:Gemm"]),
        names(ratios=[0.25]),
        names(evaluation=MODELS / "digits_calib.npz"),
        names(calibration=MODELS / "digits_calib.npz"),
    ]
    assert len(first.union(*others)) == 1 + len(others)


def test_reports_of_several_commands_become_one(tmp_path: Path) -> None:
    """Sections are called after the files, after file and job where a file holds jobs, after the path where stems clash."""
    names = ("sweep.json", "check.json", "other/check.json")
    (tmp_path / "other").mkdir()
    made = [str(tmp_path / name) for name in names]
    commands = [
        ["sweep", CNN, "--ratios", "0.1", "--repairs", "none", "--eval", TEST],
        ["check", CNN],
        ["inspect", CNN],
    ]
    page, joined = str(tmp_path / "all.html"), str(tmp_path / "all.json")
    for command, path in zip(commands, made, strict=True):
        assert CliRunner().invoke(main, [*map(str, command), "--json", path]).exit_code == 0
    done = CliRunner().invoke(main, ["report", *made, "--html", page, "--json", joined])
    assert done.exit_code == 0, done.output
    jobs = json.loads(Path(joined).read_text())["jobs"]
    assert list(jobs) == ["sweep", f"{made[1]}: {CNN}", made[2]]
    text = Path(page).read_text()
    assert "Quality against MACs left" in text and "Layers in the order of the graph" in text
    done = CliRunner().invoke(main, ["report", str(MODELS / "digests.json")])
    assert (done.exit_code, "not a report of onnxprune" in done.stderr) == (3, True)
