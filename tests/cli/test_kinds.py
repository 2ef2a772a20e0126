"""Every command tells in one line of a file of another kind, a folder, a file too few, or another order: what, where and what next."""

from __future__ import annotations

import re
import shlex
import shutil
from itertools import permutations
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from support.checkpoints import write_state

from onnxprune.cli import main
from onnxprune.cli.kinds import CHECKPOINT, MODEL, PLACES, PLAN, REPORT, ROWS, kind_of_path
from onnxprune.errors import PlanError
from onnxprune.model.read import read_text

MODELS = Path(__file__).parents[2] / "models"
WHOLE = {
    "apply": "plan.json net.onnx out.onnx",
    "bench": "net.onnx small.onnx",
    "check": "net.onnx small.onnx",
    "checkpoint": "plan.json net.onnx weights.safetensors -o out.safetensors",
    "expand": "net.onnx out.onnx",
    "inspect": "net.onnx",
    "prune": "net.onnx out.onnx --calib rows.npz --baseline report.json",
    "report": "report.json",
    "sensitivity": "net.onnx --calib rows.npz",
    "stats": "net.onnx --calib rows.npz -o out.npz",
    "sweep": "net.onnx --eval rows.npz",
    "validate": "net.onnx small.onnx --data rows.npz --baseline report.json",
}
"""Command -> the files that it takes, each in its place; those called out are written."""
WITHOUT_FILES = {"completion", "criteria", "doctor", "ops", "record", "run", "schema"}
OF_KIND = {
    MODEL: "net.onnx", PLAN: "plan.json", REPORT: "report.json", ROWS: "rows.npz", CHECKPOINT: "weights.safetensors",
    "a folder": "folder",
}  # fmt: skip
GIVEN = {"net.onnx", "small.onnx", "plan.json", "report.json", "rows.npz", "weights.safetensors", "folder"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a file of every kind."""
    for name in ("net.onnx", "small.onnx"):
        shutil.copy(MODELS / "digits_cnn.onnx", tmp_path / name)
    shutil.copy(MODELS / "digits_test.npz", tmp_path / "rows.npz")
    (tmp_path / "plan.json").write_text('{\n"schema_version": 1,\n"model_sha256": "0"}')
    (tmp_path / "report.json").write_text('{\n "schema_version": 1,\n "tool": {},\n "command": "prune"}')
    write_state(tmp_path / "weights.safetensors", {"w": np.ones((2, 2), np.float32)})
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(line: str) -> Result:
    return CliRunner().invoke(main, shlex.split(line))


def told(line: str, codes: tuple[int, ...] = (2, 3)) -> str:
    """Return the one line that a mistake is told in; it says what to do next, and nothing was written."""
    found = run(line)
    lines = [text for text in found.stderr.splitlines() if not re.match(r" +\d+ s ", text)]
    assert found.exit_code in codes, (line, found.stderr)
    assert len(lines) == 1 and lines[0].startswith("error: "), (line, found.stderr)
    assert re.search(r"; |usage: |: onnxprune |no such file|has no data: looked for", lines[0]), (line, lines[0])
    assert not re.search("protobuf|Traceback|unexpected|text file|WireFormat", lines[0]), (line, lines[0])
    assert {path.name for path in Path().iterdir()} == GIVEN
    return lines[0]


def test_every_command_is_here() -> None:
    assert {*WHOLE} | WITHOUT_FILES == {*main.list_commands(click.Context(main))}


@pytest.mark.parametrize("command", WHOLE)
def test_a_file_of_another_kind_or_a_folder(command: str, folder: Path) -> None:
    words = WHOLE[command].split()
    for place, word in enumerate(words):
        if word not in GIVEN:
            continue
        for kind, other in OF_KIND.items():
            if kind == kind_of_path(word) or (kind == CHECKPOINT and kind_of_path(word) == ROWS):
                continue
            line = told(" ".join([command, *words[:place], other, *words[place + 1 :]]))
            assert other in line, line
            assert kind in line or "has no data" in line or kind == PLAN, (line, kind)


@pytest.mark.parametrize("command", WHOLE)
def test_a_missing_argument(command: str, folder: Path) -> None:
    words = WHOLE[command].split()
    arguments = words[: next((n for n, word in enumerate(words) if word.startswith("-")), len(words))]
    needed = 1 if command in ("bench", "check", "prune") else len(arguments) - (command == "apply")
    for left in range(needed):
        line = told(" ".join([command, *arguments[:left], *words[len(arguments) :]]), (2,))
        assert " is missing" in line and f"usage: onnxprune {command} " in line


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("apply net.onnx", "PLAN is missing (net.onnx is a model)"),
        ("apply net.onnx out.onnx", "PLAN is missing (net.onnx is a model, out.onnx is a model)"),
        ("apply plan.json plan.json", "MODEL is missing (plan.json is a plan)"),
        ("checkpoint net.onnx weights.safetensors -o out.safetensors", "PLAN is missing (net.onnx is a model"),
        ("checkpoint plan.json net.onnx rows.npz -o out.safetensors", "WEIGHTS is missing"),
        ("validate net.onnx rows.npz", "--data is missing (rows.npz is data)"),
        ("stats merge net.onnx -o out.npz", "net.onnx is a model, not a file of statistics; 'onnxprune stats' writes"),
        ("net.onnx --tokenizer net.onnx --calib rows.npz", "not a tokenizer; give the model's tokenizer.json"),
        ("net.onnx --vocabulary folder --ratio 0", "folder: a folder, not a list of tokens; give the file inside it"),
        ("run --config folder", "folder: a folder, not a configuration; give the file inside it"),
        ("run --config net.onnx", "net.onnx: no text, so not a configuration"),
    ],
)
def test_what_is_said(line: str, said: str, folder: Path) -> None:
    found = run(line)
    assert found.exit_code in (2, 3) and said in found.stderr, found.stderr


@pytest.mark.parametrize("command", ["apply", "checkpoint"])
def test_files_that_say_what_they_are_come_in_any_order(command: str, folder: Path) -> None:
    """The order changes nothing of what is said, here that the plan is of another model."""
    words = WHOLE[command].split()
    count = 2 if command == "apply" else 3
    said = {run(" ".join([command, *order, *words[count:]])).stderr for order in permutations(words[:count])}
    assert len(said) == 1 and "missing" not in next(iter(said))


def test_a_plan_is_written_as_the_message_says(folder: Path) -> None:
    line = re.search(r"'onnxprune (.*)' writes a plan", told("apply net.onnx"))
    assert line
    (folder / "plan.json").unlink()
    assert run(f"{line[1]} -q --no-latency").exit_code == 0
    assert run("apply plan.json net.onnx out.onnx -q --no-latency").exit_code == 0
    assert kind_of_path("plan.json") == PLAN


def test_reports_are_told_from_plans(folder: Path) -> None:
    assert run("check net.onnx --json check.json -q").exit_code == 0
    assert kind_of_path("check.json") == REPORT
    Path("other.json").write_text('{"name": "of another program"}')
    assert kind_of_path("other.json") == kind_of_path("folder") == kind_of_path("none") == ""
    assert {name for name in PLACES if PLACES[name].kind == MODEL} >= {"model", "before", "after", "rewind"}


def test_callers_in_python_are_told_what_a_file_is_not(folder: Path) -> None:
    with pytest.raises(PlanError, match=r"net\.onnx: no text, so not a plan"):
        read_text("net.onnx")
    with pytest.raises(PlanError, match="folder: a folder, not a plan; give the file inside it"):
        read_text("folder")
