"""What the README and the documents show is what happens: their commands run, their options and keys exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from onnxprune.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.S)
SHELL = [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]
SETUP = [line for line in SHELL if line.startswith("python3 -m venv")]
TOUR = [line for line in SHELL if line.startswith("onnxprune ") and not line.startswith("onnxprune run ")]
PYTHON = [text for kind, text in BLOCKS if kind == "python"]


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
    shown = next(text for kind, text in BLOCKS if kind == "text")
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


@pytest.mark.parametrize("code", PYTHON)
def test_tour_of_python(folder: Path, code: str) -> None:
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True)


def test_two_setup_commands() -> None:
    assert len(SETUP) == 2
    assert "pytest" in SETUP[1]
    assert len(TOUR) >= 7
    assert PYTHON


@pytest.mark.parametrize("name", ["README.md", "docs/cli.md", "docs/json.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(name: str) -> None:
    path = ROOT / name
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("name", ["README.md", "docs/cli.md"])
def test_options_named_in_documents_exist(name: str) -> None:
    commands = sorted(path.stem for path in (ROOT / "cli" / "commands").glob("[a-z]*.py"))
    known = "".join(CliRunner().invoke(main, [command, "--help"]).output for command in commands)
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", (ROOT / name).read_text()))
    assert {option for option in named if option not in known} <= {"--help", "--dist"}  # that one is pytest's


def test_report_keys_are_documented() -> None:
    import onnxprune

    report = onnxprune.prune(ROOT / "models" / "digits_cnn.onnx", latency=False).report
    documented = (ROOT / "docs" / "json.md").read_text()
    keys = {*report, *report["before"], *report["groups"][0], *report["frozen"][0], *report["surgery"]}
    assert {key for key in keys if not re.search(rf"`{key}[`{{\[]", documented)} == set()
