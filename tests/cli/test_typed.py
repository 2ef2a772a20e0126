"""Commands that are shown to be pasted: as they were typed, in words that do the same again."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from onnxprune.cli import main
from onnxprune.cli.typed import given_words

MODELS = Path(__file__).parents[2] / "models"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a model and data, the data under a name that a shell parts."""
    shutil.copy(MODELS / "digits_cnn.onnx", tmp_path / "net.onnx")
    shutil.copy(MODELS / "digits_test.npz", tmp_path / "new rows.npz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str, env: dict[str, str] | None = None) -> str:
    done = CliRunner().invoke(main, words, env=env)
    assert done.exit_code == 0, done.stderr
    return done.stdout


SWEEP = ("net.onnx", "--ratios", "10%,25%", "--criteria", "l2:max", "--repairs", "none", "--eval", "new rows.npz")
WAYS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "options": (("--max-drop", "90%", "--exclude", "op:Gemm", "--exclude", "stem*", "--threads", "1"), {}),
    "variables": (("--max-drop", "90%"), {"ONNXPRUNE_EXCLUDE": "op:Gemm stem*", "ONNXPRUNE_SEED": "3"}),
    "a file": (("--max-drop", "90%", "--config", "sweep.toml"), {}),
    "kinds under one target": (("--max-drop", "90%", "--granularity", "block,heads", "--share", "block=20%"), {}),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_chosen_point_is_a_command_that_makes_it(way: str, here: Path) -> None:
    words, env = WAYS[way]
    (here / "sweep.toml").write_text('exclude = ["op:Gemm", "stem*"]\nseed = 3\nfolder = "points"\n')
    line = run("sweep", *SWEEP, *words, "--json", "sweep.json", env=env).splitlines()[-1]
    assert line.startswith("onnxprune prune net.onnx ") and str(here) not in line
    assert "'new rows.npz'" in line
    found = json.loads((here / "sweep.json").read_text())
    assert shlex.split(line)[1:] == found["chosen_argv"]
    point = next(one for one in found["points"] if one["id"] == found["chosen"])
    run(*shlex.split(line)[1:], "--no-latency", "--json", "run.json")  # without the variables and the file
    made = json.loads((here / "run.json").read_text())
    for key in ("macs", "parameters"):
        assert made["after"][key] == point[key]
    assert made["task"]["drop"] == point["drop"]
    assert made["gates"][0]["passed"]


def test_a_drop_that_a_run_does_not_judge_is_left_out(here: Path) -> None:
    """Without labels or a task a sweep goes by the error of the outputs, which is no gate."""
    words = ("sweep", *SWEEP, "--max-drop", "90%", "--task", "none")
    assert "--max-drop" in run(*words).splitlines()[-1]
    import numpy as np

    with np.load("new rows.npz") as held:
        np.savez("rows.npz", **{name: held[name][:64] for name in held if name != "labels"})
    last = run(*("rows.npz" if word == "new rows.npz" else word for word in words)).splitlines()[-1]
    assert last.startswith("onnxprune prune") and "--max-drop" not in last


def test_the_page_shows_the_command_as_it_was_typed(here: Path) -> None:
    typed = ["net.onnx", "small.onnx", "--ratio", "10%", "--eval", "new rows.npz", "--no-latency", "--unstructured"]
    run(*typed, "--html", "page.html", "--json", "run.json", "-q", env={"ONNXPRUNE_ROUND_TO": "4"})
    argv = json.loads((here / "run.json").read_text())["argv"]
    assert argv[:3] == ["prune", "net.onnx", "small.onnx"]
    assert sorted(argv[3:]) == sorted([*typed[2:], "--round-to", "4"])
    page = (here / "page.html").read_text()
    assert "--eval &#39;new rows.npz&#39;" in page and "EVALUATION" not in page and str(here) not in page


def words(*typed: str) -> list[str]:
    command = main.get_command(None, typed[0])  # type: ignore[arg-type]
    assert command is not None
    return given_words(command.make_context(typed[0], list(typed[1:])))


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["inspect", "--all", "x.onnx"], "x.onnx --all"),
        (["prune", "x.onnx", "-o", "y.onnx", "--ratio=30%"], "x.onnx --ratio 30% --output y.onnx"),
        (["prune", "x.onnx", "--structured", "-v", "--no-color"], "x.onnx --structured"),
        (["bench", "a.onnx", "b.onnx", "--pairs", "7"], "a.onnx b.onnx --pairs 7"),
        (["check", "a.onnx", "b.onnx", "--max-size", "8MB"], "a.onnx b.onnx --max-size 8MB"),
        (["prune", "x.onnx", "--input-shape", "x:1,3", "--input-shape", "y:2"], "x.onnx --input-shape x:1,3 --input-shape y:2"),
    ],
)  # fmt: skip
def test_words_are_arguments_first_and_say_no_more_than_was_given(typed: list[str], expected: str) -> None:
    assert " ".join(words(*typed)) == expected


def test_a_job_is_run_again_by_its_name(here: Path) -> None:
    (here / "onnxprune.toml").write_text(
        '[jobs.a]\nmodel = "net.onnx"\noutput = "a.onnx"\nratio = 0.1\nno-latency = true\n'
    )
    run("run", "--json", "run.json", "--config", "onnxprune.toml")
    held: dict[str, Any] = json.loads((here / "run.json").read_text())
    assert held["jobs"]["a"]["argv"] == ["run", "a", "--config", "onnxprune.toml"]
