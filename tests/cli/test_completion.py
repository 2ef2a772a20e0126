"""Shells complete commands, options, files and every name that an option takes, and load nothing heavy for that."""

from __future__ import annotations

import os
import pty
import select
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner

from onnxprune.choices import CHOICES, PRESETS
from onnxprune.cli.app import main
from onnxprune.cli.kinds import ENDINGS
from onnxprune.cli.shells import ENDING, SHELLS

ROOT = Path(__file__).parents[2]


def completed(line: str) -> list[str]:
    """Return what bash would be told for a line whose last word is incomplete; ``<onnx>`` where it is to look for files of such an ending."""
    *words, incomplete = line.split(" ")
    found = BashComplete(main, {}, "onnxprune", "_ONNXPRUNE_COMPLETE").get_completions(words, incomplete)
    looked_for = {"file": "<file>", "dir": "<folder>"}
    return [
        f"<{item.endings}>" if item.type == ENDING else looked_for.get(item.type, str(item.value)) for item in found
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ins", ["inspect"]),
        ("net.on", ["<onnx>"]),
        ("prune ", ["<onnx>"]),
        ("net.onnx sma", ["<onnx>"]),
        ("apply ", ["<json>"]),
        ("apply plan.json ", ["<onnx>"]),
        ("checkpoint plan.json net.onnx ", ["<safetensors>"]),
        ("report a.json ", ["<json>"]),
        ("validate a.onnx b.onnx --data ", ["<npz|npy|wav|txt|py>"]),
        ("run --config ", ["<toml>"]),
        ("net.onnx --cache ", ["<folder>"]),
        ("net.onnx --plan ", ["<json>"]),
        ("net.onnx --html ", ["<html>"]),
        ("net.onnx --checkpoint ", ["<file>"]),
        ("net.onnx --cal", ["--calib"]),
        ("--cri", ["--criterion"]),
        ("net.onnx --calib ", ["<npz|npy|wav|txt|py>"]),
        ("net.onnx --json r.json --markdown ", ["<md>"]),
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


ANY_FILE = {"checkpoint"}  # the state of a training, whatever it is called


def test_every_argument_that_takes_files_says_of_which_kind() -> None:
    for name in main.list_commands(click.Context(main)):
        command = main.get_command(click.Context(main), name)
        assert command is not None
        paths = {str(param.name) for param in command.params if isinstance(param.type, click.Path)}
        assert paths <= {*ENDINGS} | ANY_FILE, name


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files of several kinds and folders, and the program on PATH."""
    program = tmp_path / "bin" / "onnxprune"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m onnxprune "$@"\n')
    program.chmod(0o755)
    for name in ("my nets", "work"):
        (tmp_path / "w" / name).mkdir(parents=True)
    for name in ("net.onnx", "net two.onnx", "plan.json", "rows.npz", "notes.md", "work/deep.onnx"):
        (tmp_path / "w" / name).touch()
    monkeypatch.chdir(tmp_path / "w")
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


@pytest.mark.parametrize("shell", SHELLS)
def test_the_protocol_of_click_has_one_answer_more(shell: str, here: Path) -> None:
    """What a script asks by variables, and what it is told."""
    words = {"COMP_WORDS": "onnxprune apply ", "COMP_CWORD": "" if shell == "fish" else "2"}
    env = os.environ | words | {"_ONNXPRUNE_COMPLETE": f"{shell}_complete"}
    done = subprocess.run(["onnxprune"], env=env, capture_output=True, text=True)
    assert done.stdout.split() == (["ending", "json", "_"] if shell == "zsh" else ["ending,json"]), done.stderr


IN_SHELLS = {
    "onnxprune net.onnx --criterion taylor-": {"taylor-activation"},
    "onnxprune inspect ": {"net.onnx", "net two.onnx", "my nets/", "work/"},
    "onnxprune inspect work/": {"work/deep.onnx"},
    "onnxprune apply p": {"plan.json"},
    "onnxprune sweep net.onnx --eval r": {"rows.npz"},
    "onnxprune net.onnx --cache ": {"my nets/", "work/"},
}


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize("line", [line for line in IN_SHELLS if "--cache" not in line])
def test_bash_completes_by_the_script(line: str, here: Path) -> None:
    """Bash puts the / behind folders itself, and completes folders alone by an option of its own."""
    words = shlex.split(line) + ([""] if line.endswith(" ") else [])
    script = f"source <(onnxprune completion bash); COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}\n"
    script += "_onnxprune_completion onnxprune; printf '%s\\n' \"${COMPREPLY[@]}\""
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert set(done.stdout.splitlines()) == {name.rstrip("/") for name in IN_SHELLS[line]}, done.stderr


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish")
@pytest.mark.parametrize("line", IN_SHELLS)
def test_fish_completes_by_the_script(line: str, here: Path) -> None:
    script = f"onnxprune completion fish | source; complete -C {shlex.quote(line)}"
    done = subprocess.run(["fish", "-c", script], capture_output=True, text=True, env=os.environ | {"HOME": str(here)})
    assert {text.partition("\t")[0] for text in done.stdout.splitlines()} == IN_SHELLS[line], done.stderr


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh")
@pytest.mark.parametrize("line", ["onnxprune apply p", "onnxprune inspect work/", "onnxprune sweep net.onnx --eval r"])
def test_zsh_completes_by_the_script(line: str, here: Path) -> None:
    """Typed into a zsh in a terminal of its own: what a tab adds."""
    (here / ".zshrc").write_text("PS1='> '; autoload -U compinit; compinit -u -D; source <(onnxprune completion zsh)\n")
    leader, follower = pty.openpty()
    env = os.environ | {"ZDOTDIR": str(here), "TERM": "dumb"}
    shell = subprocess.Popen(
        ["zsh", "-i"], stdin=follower, stdout=follower, stderr=follower, env=env, start_new_session=True
    )
    try:
        _until(leader, "> ")
        os.write(leader, f"{line}\t".encode())
        _until(leader, next(iter(IN_SHELLS[line])))
    finally:
        shell.kill()
        shell.wait()
        os.close(leader)
        os.close(follower)


def _until(terminal: int, wanted: str, seconds: float = 30.0) -> None:
    """Read what a terminal shows until it shows a text."""
    shown, end = "", time.monotonic() + seconds
    while wanted not in shown:
        assert time.monotonic() < end, shown
        if select.select([terminal], [], [], 0.2)[0]:
            shown += os.read(terminal, 4096).decode(errors="replace")


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
