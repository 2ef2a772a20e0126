"""Help: every option in a section, those that most runs need first, defaults named, no line wider than the terminal; errors in one style."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner, Result

from onnxprune.cli.app import main
from onnxprune.cli.sections import COMMANDS, COMMON, FEW, OPTIONS, in_sections, long_name
from onnxprune.settings import Settings

NAMES = main.list_commands(click.Context(main))


def run(*arguments: str, **env: str) -> Result:
    return CliRunner().invoke(main, arguments, env=env)


def options(name: str) -> list[click.Parameter]:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    return [option for option in command.get_params(click.Context(command)) if isinstance(option, click.Option)]


def test_every_command_is_in_one_section() -> None:
    assert sorted(" ".join(COMMANDS.values()).split()) == NAMES


def test_every_option_is_in_one_section() -> None:
    named = " ".join(OPTIONS.values()).split()
    assert len(named) == len(set(named)), "an option is listed twice"
    assert set(named) == {long_name(option) for name in NAMES for option in options(name)}
    assert set(named) >= COMMON


@pytest.mark.parametrize("name", NAMES)
def test_help_shows_few_options_and_help_all_shows_all(name: str) -> None:
    everything, short = run(name, "--help-all").stdout, run(name, "--help").stdout
    for option in options(name):
        assert f"--{long_name(option)} " in everything.replace("\n", " ") or option.hidden
    listed = [long_name(o) for _, found in in_sections(options(name), False) for o in found]
    assert len([n for n in listed if not n.startswith("help")]) <= FEW
    assert ("more options" in short) == (len(listed) < len(options(name)))


def test_defaults_are_named() -> None:
    """Every option that stands for something where it is not given says what."""
    defaults = {field.name: field.default for field in dataclasses.fields(Settings)}
    for option in options("prune"):
        assert isinstance(option, click.Option)
        if not option.is_flag and defaults.get(str(option.name)) not in (None, "", (), False, 0):
            assert "efault" in str(option.help), option.name


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize("name", ["", *NAMES])
def test_help_is_no_wider_than_the_terminal(name: str, width: int) -> None:
    shown = run(*filter(None, (name, "--help")), COLUMNS=str(width)).stdout
    wide = [line for line in shown.splitlines() if len(line) > width and len(line.split()) > 1]
    assert wide == []


MISUSES = {
    "prune --no-such x": "error: onnxprune prune has no option --no-such; did you mean",
    "prune --qqqqqq x": "error: onnxprune prune has no option --qqqqqq; 'onnxprune prune --help-all' lists all",
    "--ratio": "error: --ratio takes a value; 'onnxprune prune --help-all' explains it",
    "x.onnx --ratio abc": "error: --ratio 'abc': expected a number such as 0.02, or a percentage such as 2%; 'onnxprune prune",
    "x.onnx --samples 1.5": "error: --samples '1.5' is not a valid integer; 'onnxprune prune",
    "prune": "error: MODEL is missing; usage: onnxprune prune MODEL [OUT]",
    "validate a.onnx b.onnx": "error: --data is missing; usage: onnxprune validate BEFORE AFTER --data PATH",
    "inspect a.onnx b.onnx": "error: too many arguments: b.onnx; usage: onnxprune inspect MODEL",
    "bench a.onnx --strict=3": "error: --strict takes no value; 'onnxprune bench",
    "inspct a": "error: 'inspct' is neither a command nor a model file; did you mean 'inspect'?",
    "x.onnx --json no-such-folder/r.json": "error: --json folder no-such-folder does not exist; create it first",
    "x.onnx --config no-such.toml": "error: --config no-such.toml",
}


@pytest.mark.parametrize("line", MISUSES)
def test_misuse_is_told_as_every_other_error(line: str) -> None:
    """One line on stderr: what is wrong, and what next."""
    result = run(*line.split())
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith(MISUSES[line])
    assert result.stderr.count("\n") == 1


def test_a_variable_is_named_where_it_is_wrong() -> None:
    assert run("x.onnx", ONNXPRUNE_RATIO="abc").stderr.startswith("error: ONNXPRUNE_RATIO 'abc': expected a number")


def test_help_is_there_at_once() -> None:
    """In CPU time, of a process that a bare interpreter is taken off."""

    def spent(*arguments: str) -> float:
        begun = os.times()
        subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
        ended = os.times()
        return ended.children_user + ended.children_system - begun.children_user - begun.children_system

    bare = min(spent("-c", "pass") for _ in range(3))
    assert min(spent("-m", "onnxprune", "prune", "--help") for _ in range(5)) - bare < 0.2
