"""A newcomer's first hour with a detector and a folder of pictures goes as docs/first-hour.md says."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from onnxprune.model.read import load

ROOT = Path(__file__).parents[1]
TRANSCRIPT = runpy.run_path(str(ROOT / "docs" / "transcript.py"))
STEPS = list(TRANSCRIPT["steps"](TRANSCRIPT["PAGE"].read_text()))
TIMED = ("latency", "CPU time", "as fast", "──", "before ")


def worded(text: str) -> list[str]:
    """Return the lines with every number as #, without those that tell how fast this machine is."""
    lines = [" ".join(re.sub(r"[+-]?\d[\d,.]*(?:e-?\d+)?%?", "#", line).split()) for line in text.splitlines()]
    return [line for line in lines if line and not any(word in line for word in TIMED)]


def test_the_first_hour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command says what the page shows; a file is written where the page says so, and nowhere else."""
    monkeypatch.chdir(tmp_path)
    TRANSCRIPT["prepare"](tmp_path)
    for command, shown in STEPS:
        before = {path.name for path in tmp_path.glob("*.onnx")}
        told = TRANSCRIPT["said"](command)
        assert worded(told) == worded(shown), command
        there = {path.name for path in tmp_path.glob("*.onnx")}
        assert there - before <= set(re.findall(r"^written to (\S+)$", told, re.M)), command
    costs = [load(tmp_path / name) for name in ("model.onnx", "smaller.onnx")]
    assert costs[1].size < costs[0].size / 2
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_the_first_command_that_prunes_is_the_readme_s() -> None:
    shown = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("onnxprune ")]
    assert [command for command, _ in STEPS[:2]] == shown[:2]


def test_each_failure_says_what_the_next_command_adds() -> None:
    """The option that a failing step's last lines name is in the step that follows."""
    failing = [number for number, (_, text) in enumerate(STEPS) if re.search(r"\(exit code [^0]\)$", text)]
    assert len(failing) >= 2
    for number in failing:
        added = set(STEPS[number + 1][0].split()) - set(STEPS[number][0].split())
        assert any(word.startswith("--") and word in STEPS[number][1] for word in added), STEPS[number][0]
