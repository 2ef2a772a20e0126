"""``--quantize`` on the command line: what is printed, written and refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from onnxprune.api import inspect, sweep
from onnxprune.cli.app import main
from onnxprune.report.documents.tables import tables

MODELS = Path(__file__).parents[2] / "models"
MODEL, ROWS = MODELS / "digits_cnn.onnx", MODELS / "digits_calib.npz"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    path = tmp_path_factory.mktemp("quantised") / "small.onnx"
    documents = [part for kind in ("json", "markdown", "html") for part in (f"--{kind}", path.with_suffix(f".{kind}"))]
    done = run(MODEL, path, "--ratio", "0", "--quantize", "dynamic", "--calib", ROWS, "--samples", "60", *documents)
    return path, done


def test_a_run_says_what_was_tried_and_what_came_of_it(quantised: tuple[Path, Result]) -> None:
    path, done = quantised
    assert done.exit_code == 0, done.output
    told = " ".join(done.stdout.split())
    assert "quantised (dynamic): 15 of 15 nodes with weights" in told and "rows held out" in told
    assert "the proof is of the float model, before numbers were rounded" in told
    report = json.loads(path.with_suffix(".json").read_text())
    assert report["after"]["bytes"] == path.stat().st_size < 0.4 * report["before"]["bytes"]
    onnx.checker.check_model(onnx.load(path), full_check=True)
    latency = report["quantisation"]["latency"]
    assert latency["before"]["p50"] > 0 and latency["after"]["p50"] > 0


def test_every_document_has_the_three_models(quantised: tuple[Path, Result]) -> None:
    path, _ = quantised
    report = json.loads(path.with_suffix(".json").read_text())
    table = next(table for table in tables(report) if table.title == "Quantised")
    assert table.head == ("", "before", "pruned", "quantised") and table.rows[0][0] == "bytes"
    assert {row[0] for row in table.rows} > {"bytes", "cosine of logits"}
    for kind in ("markdown", "html"):
        text = path.with_suffix(f".{kind}").read_text()
        assert "Quantisation tried" in text and "nodes with weights" in text and table.rows[0][3] in text


def test_a_result_that_is_slower_says_so(quantised: tuple[Path, Result]) -> None:
    """Convolutions of integers by values as they come have no quick kernel in ONNX Runtime."""
    report = json.loads(quantised[0].with_suffix(".json").read_text())
    ratio = report["quantisation"]["latency"]["ratio"]
    slower = [text for text in report["warnings"] if "as long as the float one" in text]
    assert bool(slower) == bool(ratio and ratio > 1.05)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--quantize", "int9"), 2, "did you mean 'int8'"),
        (("--quantize", "int8"), 3, "give calibration data (--calib)"),
        (("--quantize", "dynamic", "--storage", "auto"), 2, "leave one of them out"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: tuple[str, ...], code: int, words: str) -> None:
    done = run(MODEL, "--dry-run", *arguments)
    assert done.exit_code == code and words in done.output


def test_inspect_and_sweep_take_it() -> None:
    found = inspect(MODEL, quantize="int8")
    assert {row["status"] for row in found["quantised"]} == {"kept"} and len(found["quantised"]) == 15
    with np.load(ROWS) as stored:
        rows = {"image": stored["image"][:40]}
    swept = sweep(MODEL, ratios=(0.5,), criteria=("l2",), repairs=("none",), quantize="dynamic", calibration=rows)
    assert swept["points"][0]["bytes"] < 150_000
