"""What the README and the documents show is what happens: their commands run, their options and keys exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from onnxprune.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(name: str, kind: str) -> list[str]:
    """Return the code blocks of a page in one language."""
    return re.findall(rf"```{kind}\n(.*?)```", (ROOT / name).read_text(), re.S)


SETUP = [line for text in blocks("README.md", "sh") for line in text.splitlines() if line.startswith("python3 -m venv")]
TOUR = [line for text in blocks("docs/tour.md", "sh") for line in text.splitlines() if line.startswith("onnxprune ")]
SHOWN = blocks("README.md", "text")
"""What the main command prints, and what ``inspect`` does."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("readme")
    (path / "models").symlink_to(ROOT / "models")
    return path


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> str:
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def table(text: str) -> dict[str, list[float]]:
    """Return the rows that do not depend on the machine's speed: name -> before, after."""
    rows = [line.split() for line in text.splitlines()]
    names = ("channels", "parameters", "MACs", "bytes")
    return {
        row[0]: [float(cell.replace(",", "")) for cell in row[1:3]] for row in rows if len(row) == 4 and row[0] in names
    }


def worded(text: str) -> list[str]:
    """Return the lines with every number as #: what is said, however large it is."""
    return [
        " ".join(re.sub(r"[+-]?\d[\d,.]*(?:e-?\d+)?", "#", line).split()) for line in text.splitlines() if line.strip()
    ]


def test_main_command_prints_what_the_readme_says(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data decides, in floating point: what is left may differ a little from one processor to another."""
    command = SETUP[0].rpartition(" && ")[2]
    output = run(folder, monkeypatch, [*shlex.split(command)[1:], "--round-to", "16", "--no-latency"])
    shown = SHOWN[0]
    timed = ("latency", "CPU time", "as fast", "──", "before ")
    assert [
        line for line in worded(shown) if line not in worded(output) and not any(word in line for word in timed)
    ] == []
    printed, promised = table(output), table(shown)
    assert len(promised) == 4
    for name, (before, after) in promised.items():
        assert printed[name][0] == before
        assert printed[name][1] == pytest.approx(after, rel=0.2)


@pytest.mark.parametrize("command", TOUR)
def test_tour_of_the_command_line(folder: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    assert run(folder, monkeypatch, shlex.split(command)[1:])


def test_inspect_prints_what_the_readme_says(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "90")
    output = run(folder, monkeypatch, ["inspect", "models/digits_cnn.onnx"])
    assert [line.rstrip() for line in output.splitlines() if line.strip()] == [
        line for line in SHOWN[1].splitlines() if line
    ]


def test_two_setup_commands() -> None:
    assert len(SETUP) == 2
    assert "pytest" in SETUP[1]
    assert len(TOUR) >= 7
    assert len(SHOWN) == 2


def test_a_reader_of_the_first_screen_can_act() -> None:
    """What it is, the picture, and the commands for a model of one's own stand in the first 27 lines."""
    first = "\n".join(README.splitlines()[:27])
    assert "docs/residual.svg" in first and "docs/first-hour.md" in first
    assert "pip install" in first and "onnxprune model.onnx small.onnx" in first


@pytest.mark.parametrize("name", ["README.md", "docs/cli.md", "docs/tour.md"])
def test_options_named_in_documents_exist(name: str) -> None:
    commands = sorted(path.stem for path in (ROOT / "cli" / "commands").glob("[a-z]*.py"))
    known = "".join(CliRunner().invoke(main, [command, "--help-all"]).output for command in commands)
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", (ROOT / name).read_text()))
    assert {option for option in named if option not in known} <= {"--help", "--dist"}  # that one is pytest's


def test_report_keys_are_documented() -> None:
    import onnxprune

    report = onnxprune.prune(ROOT / "models" / "digits_cnn.onnx", latency=False).report
    documented = (ROOT / "docs" / "json.md").read_text()
    keys = {*report, *report["before"], *report["groups"][0], *report["frozen"][0], *report["surgery"]}
    assert {key for key in keys if not re.search(rf"`{key}[`{{\[]", documented)} == set()
