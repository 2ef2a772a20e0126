"""What a report says of the task without labels, in every form, and of a run that no data has judged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from support.networks import network

from onnxprune import prune
from onnxprune.api import sweep, validate
from onnxprune.cli import main
from onnxprune.errors import UsageError
from onnxprune.report.documents import markdown, page
from onnxprune.report.documents.junit import render
from onnxprune.report.tasks import task_rows, task_sentence, unjudged

MODELS = Path(__file__).parents[2] / "models"
CNN, TEST = MODELS / "digits_cnn.onnx", MODELS / "digits_test.npz"
X = np.random.default_rng(0).standard_normal((40, 3, 6, 6)).astype(np.float32)
MAPS = network("h = Conv(x, %8x3x3x3); r = Relu(h); y = Conv(r, %4x8x1x1)", "float[n,3,6,6] x", "float[n,4,4,4] y")


def pictures() -> np.ndarray:
    with np.load(TEST) as file:
        return next(file[name] for name in file.files if file[name].ndim == 4)[:100]


def test_a_run_without_labels_has_a_verdict_and_a_gate() -> None:
    result = prune(CNN, ratio=0.3, evaluation=pictures(), max_drop=0.1, latency=False)
    task = result.report["task"]
    agreement = task["agreement"]
    assert (task["judge"], agreement["kind"], agreement["found"], agreement["rows"]) == (
        "original",
        "classes",
        "outputs",
        100,
    )
    assert task["before"] == 1 and task["after"] == agreement["score"] == pytest.approx(1 - task["drop"])
    assert task["after"] == result.report["drift"]["outputs"]["logits"]["top1_agreement"]
    (gate,) = result.report["gates"]
    assert (gate["name"], gate["value"], gate["passed"]) == ("max_drop", task["drop"], task["drop"] <= 0.1)


def test_labels_judge_where_there_are_any_and_the_agreement_stands_beside() -> None:
    task = prune(CNN, ratio=0.3, evaluation=TEST, latency=False).report["task"]
    assert (task["judge"], task["metric"]) == ("metric", "top1_accuracy")
    assert task["agreement"]["score"] < task["before"]


def test_every_document_says_it(tmp_path: Path) -> None:
    report = validate(CNN, CNN, pictures(), task="classes")
    said = task_sentence(report)
    assert said == "task: same class 1.00 (1.00 to 1.00) against the original (100 rows, as named)"
    assert said in page.render(report) and said.replace("(", "(") in markdown.render(report)
    assert f'<property name="task" value="{said}" />' in render(report)
    out = tmp_path / "report.json"
    shown = CliRunner().invoke(main, ["validate", str(CNN), str(CNN), "--data", str(TEST), "--json", str(out)])
    assert "task: same class 1.00" in shown.stdout and json.loads(out.read_text())["task"]["agreement"]["score"] == 1


def test_parts_are_listed_the_worst_first() -> None:
    parts = {"a": {"score": 1.0, "of": 4.0}, "b": {"score": 0.5, "of": 2000.0}, "c": {"score": None, "of": 0.0}}
    rows = [*task_rows({"task": {"agreement": {"parts": parts}}})]
    assert rows == [("b", "0.500", "2,000"), ("a", "1.000", "4"), ("c", "-", "0")]


def test_points_of_a_sweep_are_judged_by_the_task() -> None:
    found = sweep(CNN, ratios=(0.1, 0.6), repairs=("none",), evaluation=pictures(), max_drop=0.2)
    first, second = found["points"]
    assert found["quality"] == "drop of same class against the original"
    assert first["score"] > second["score"] and found["chosen"] == first["id"]


def test_what_nobody_knows_is_asked_for() -> None:
    report = prune(MAPS, ratio=0.25, round_to=1, evaluation=X, latency=False).report
    assert report["task"] is None and "could mean several things" in report["drift"]["task_unknown"]
    assert "--task says what the model is for" in task_sentence(report)
    with pytest.raises(UsageError, match="say it: --task"):
        prune(MAPS, ratio=0.25, round_to=1, evaluation=X, latency=False, max_drop=0.5)
    assert prune(MAPS, ratio=0.25, round_to=1, evaluation=X, latency=False, task="none").report["task"] is None


def test_a_run_that_no_data_has_judged_says_so_loudly_where_much_went() -> None:
    report = prune(MAPS, ratio=0.5, latency=False).report
    assert report["unjudged"] > 0.3 and any("nothing says that this model still works" in w for w in report["warnings"])
    shown = CliRunner().invoke(main, [str(CNN), "--ratio", "0.5", "--dry-run", "--no-latency"])
    assert "nothing says that this model still works" in shown.stderr
    assert shown.stdout.count("nothing says") == 2  # in the table and in the last line


def test_it_says_so_quietly_where_little_went_and_not_at_all_where_nothing_counts() -> None:
    whole = {"macs": 100, "parameters": 100}
    little, much = ({"before": whole, "after": {"macs": macs, "parameters": 100}} for macs in (95, 60))
    assert unjudged(whole, [little]) == (None, "")
    assert unjudged(whole, [much])[0] == pytest.approx(0.4)
    assert unjudged(whole, []) == (None, "")  # all that went carries nothing
    small = prune(CNN, ratio=0.03, latency=False, round_to=1).report
    assert small["unjudged"] is None and task_sentence(small) == "task: not judged: no data was run"
    exact = prune(MAPS, lossless=True, latency=False).report
    assert exact["unjudged"] is None and not any("still works" in text for text in exact["warnings"])


def test_a_named_task_without_data_is_refused() -> None:
    with pytest.raises(UsageError, match="judged on data"):
        prune(CNN, ratio=0.3, task="classes", latency=False)
