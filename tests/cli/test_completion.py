"""Shells complete commands, options, files and every name that an option takes, and load nothing heavy for that."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner

from onnxprune.choices import CHOICES, PRESETS
from onnxprune.cli.app import main

ROOT = Path(__file__).parents[2]


def completed(line: str) -> list[str]:
    """Return what bash would be told for a line whose last word is incomplete; ``<file>`` where it is to look for files."""
    *words, incomplete = line.split(" ")
    found = BashComplete(main, {}, "onnxprune", "_ONNXPRUNE_COMPLETE").get_completions(words, incomplete)
    return ["<file>" if item.type == "file" else item.value for item in found]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ins", ["inspect"]),
        ("net.on", ["<file>"]),
        ("prune ", ["<file>"]),
        ("apply plan.json ", ["<file>"]),
        ("net.onnx --cal", ["--calib"]),
        ("--cri", ["--criterion"]),
        ("net.onnx --calib ", ["<file>"]),
        ("net.onnx --json r.json --markdown ", ["<file>"]),
        ("net.onnx --criterion tayl", ["taylor", "taylor-activation"]),
        ("inspect net.onnx --granularity heads,bl", ["heads,block"]),
        ("sweep net.onnx --criteria l1,gr", ["l1,grasp", "l1,group-fisher"]),
        ("sweep net.onnx --repairs none,bi", ["none,bias"]),
        ("net.onnx --round-to tensorrt", ["tensorrt-fp16", "tensorrt-int8"]),
        ("net.onnx --target m", ["macs=50%"]),
        ("net.onnx --config no-such.toml --rep", ["--repair"]),
        ("net.onnx --preset ", list(PRESETS)),
        ("bench net.onnx --providers CPU,CU", ["CPU,CUDA"]),
        ("checkpoint --untold c", ["copy"]),
        ("completion ", ["bash", "zsh", "fish"]),
    ],
)
def test_what_is_completed(line: str, expected: list[str]) -> None:
    assert completed(line) == expected


def test_every_name_that_an_option_takes_is_completed() -> None:
    for name in main.list_commands(click.Context(main)):
        command = main.get_command(click.Context(main), name)
        assert command is not None
        for option in command.params:
            if isinstance(option, click.Option) and option.name in CHOICES and option.name not in ("target", "attack"):
                found = {item.value for item in option.shell_complete(click.Context(command), "")}
                assert found >= {known for known in CHOICES[option.name].names if known}, (name, option.name)


def test_every_command_and_option_is_completed() -> None:
    assert completed("")[: len(main.list_commands(click.Context(main)))] == main.list_commands(click.Context(main))
    assert {"--ratio", "--target", "--html", "--help-all"} <= set(completed("net.onnx --"))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_each_shell(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    assert "_ONNXPRUNE_COMPLETE" in result.stdout and f"{shell}_complete" in result.stdout
    refused = CliRunner().invoke(main, ["completion", "bish"])
    assert (refused.exit_code, refused.stderr) == (
        2,
        "error: unknown shell 'bish'; did you mean 'fish' or 'bash' or 'zsh'?\n",
    )


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_by_the_script(tmp_path: Path) -> None:
    program = tmp_path / "onnxprune"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m onnxprune "$@"\n')
    program.chmod(0o755)
    script = "source <(onnxprune completion bash); COMP_WORDS=(onnxprune net.onnx --criterion taylor-); COMP_CWORD=3\n"
    script += '_onnxprune_completion onnxprune; echo "${COMPREPLY[@]}"'
    env = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "taylor-activation\n", done.stderr


def test_completing_loads_nothing_heavy() -> None:
    code = """
import sys
from click.shell_completion import BashComplete
from onnxprune.cli.app import main
for words, last in ((["net.onnx", "--json", "r.json", "--criterion"], "l"), ([], "in"), (["sweep", "x", "--repairs"], "")):
    assert BashComplete(main, {}, "onnxprune", "_X").get_completions(words, last)
print(*{"numpy", "onnx", "onnxruntime", "scipy", "rich"} & sys.modules.keys())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
