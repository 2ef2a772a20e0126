"""Mistakes that need no model are told at once, in the words of the work itself; arguments in another order are understood or refused with the right line."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.messages import messages

from onnxprune.allocate import PROFILES, SCHEDULES, SCOPES, SELECTIONS, THRESHOLDS
from onnxprune.allocate.target import KINDS
from onnxprune.changes.zeros.space import Zeros
from onnxprune.choices import CHOICES, SCORES_OF_DATA, SCORES_OF_WEIGHTS, SCORES_OF_ZEROS, TARGETS
from onnxprune.cli import main
from onnxprune.criteria import CRITERIA
from onnxprune.criteria.combine import ROLE_CHOICES
from onnxprune.evidence.attacks.asked import METHODS
from onnxprune.measure.tasks.task import AUTO, NONE, OPTIONS
from onnxprune.recover.objective import LOSSES
from onnxprune.settings import GRANULARITIES, OF_WEIGHTS

ROOT = Path(__file__).parents[2]
CNN, CALIB = ROOT / "models" / "digits_cnn.onnx", ROOT / "models" / "digits_calib.npz"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, data and something that begins like a plan."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.onnx").write_bytes(CNN.read_bytes())
    (tmp_path / "x.npz").write_bytes(CALIB.read_bytes())
    (tmp_path / "plan.json").write_text('{"schema_version": 1, "model_sha256": ""}')
    (tmp_path / "there.onnx").write_text("")
    return tmp_path


def run(line: str) -> Result:
    return CliRunner().invoke(main, shlex.split(line))


def test_the_names_are_those_that_mean_something() -> None:
    meanings = {
        "criterion": {*CRITERIA, *SCORES_OF_ZEROS},
        "granularity": GRANULARITIES,
        "scope": ["auto", *SCOPES, *OF_WEIGHTS],
        "selection": SELECTIONS,
        "threshold": THRESHOLDS,
        "roles": ROLE_CHOICES,
        "schedule": SCHEDULES,
        "target": KINDS,
        "recover_loss": LOSSES,
        "attack": METHODS,
        "task": [AUTO, NONE, *OPTIONS],
    }
    for name, meant in meanings.items():
        assert sorted(CHOICES[name].names) == sorted(meant), name
    assert sorted(TARGETS) == sorted(PROFILES)
    assert set(SCORES_OF_DATA) == {name for name in CRITERIA if set(CRITERIA[name].needs) - {"earlier"}}
    assert not set(SCORES_OF_DATA) & set(SCORES_OF_WEIGHTS)
    assert set(SCORES_OF_ZEROS) == {str(name) for name in Zeros.takes["criterion"]} - {*CRITERIA, "auto"}


def test_criteria_of_single_weights_are_known(folder: Path) -> None:
    for name in SCORES_OF_ZEROS:
        assert (
            "unknown criterion"
            not in run(f"net.onnx --sparsity 50% --criterion {name} --dry-run --no-latency -q").stderr
        )
    assert (
        run("net.onnx --sparsity 50% --criterion ria --calib x.npz --samples 16 --dry-run --no-latency -q").exit_code
        == 0
    )


SAME = {
    "net.onnx --criterion l3": 2,
    "net.onnx --criterion obs:mean": 2,
    "net.onnx --criterion gates:l0": 2,
    "net.onnx --criterion gates:bayes": 2,
    "net.onnx --criterion wnda:max:none": 2,
    "net.onnx --repair foo": 2,
    "net.onnx --storage pakced": 2,
    "net.onnx --quantize int4": 2,
    "net.onnx --granularity heads,blok": 2,
    "net.onnx --scope foo": 2,
    "net.onnx --threshold foo": 2,
    "net.onnx --selection gredy": 2,
    "net.onnx --roles writer": 2,
    "net.onnx --schedule cubik:3": 2,
    "net.onnx --target mcs=50%": 2,
    "net.onnx --rewind-as sign": 2,
    "net.onnx --matmul-as conf": 2,
    "net.onnx --ratio 150%": 2,
    "net.onnx --ratio 0.5 --target macs=50%": 2,
    "net.onnx --recover 100": 3,
    "net.onnx --search 5s": 3,
    "net.onnx --repair bias": 3,
    "net.onnx --quantize int8": 3,
    "net.onnx --max-divergence 0.1": 3,
    "net.onnx --max-drop 1%": 2,
    "net.onnx --min-cosine 0.9": 2,
    "net.onnx there.onnx": 2,
    "net.onnx no/such/folder.onnx": 3,
    "net.onnx --plan no/such/folder.json": 3,
    "net.onnx --task detektion": 2,
    "sweep net.onnx --ratios 0.5": 2,
    "net.onnx --granularity rank --criterion l3": 2,
}
"""Command line -> exit code: told alike by the work and before it."""


@pytest.mark.parametrize("line", SAME)
def test_what_is_foreseen_is_what_the_work_would_say(line: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreseen = run(line)
    monkeypatch.setattr("onnxprune.cli.paths.foresee", lambda ctx: None)
    found = run(line)
    assert foreseen.exit_code == found.exit_code == SAME[line], foreseen.stderr
    assert foreseen.stderr == messages(found.stderr)


OTHER = {
    "nte.onnx": (3, "nte.onnx: no such file; did you mean 'net.onnx'"),
    "net.onnx --calib y.npz": (3, "y.npz: no such file; did you mean 'x.npz'?"),
    "inspect nt.onnx": (3, "nt.onnx: no such file; did you mean 'net.onnx'"),
    "validate net.onnx b.onnx --data x.npz": (3, "b.onnx: no such file"),
    "validate net.onnx there.onnx --data none": (3, "none: no such file"),
    "bench net.onnx b.onnx": (3, "b.onnx: no such file"),
    "check net.onnx b.onnx": (3, "b.onnx: no such file"),
    "sweep net.onnx --criteria l2,l3": (2, "unknown criterion 'l3'; did you mean 'l2'"),
    "sweep net.onnx --repairs foo": (2, "unknown repair 'foo'"),
    "sensitivity net.onnx --calib none.npz": (3, "none.npz: no such file"),
    "apply none.json net.onnx": (3, "none.json: no such file"),
    "report none.json": (3, "none.json: no such file"),
    "net.onnx --json no/such.json": (2, "--json folder no does not exist; create it first"),
    "out.onnx net.onnx": (2, "the model comes first: onnxprune prune net.onnx out.onnx"),
    "expand out.onnx net.onnx": (2, "the model comes first: onnxprune expand net.onnx out.onnx"),
    "net.onnx x.npz": (2, "give it with --calib: onnxprune prune net.onnx --calib x.npz"),
    "x.npz net.onnx": (2, "x.npz is data, not a model; give it with --calib"),
    "run net.onnx": (2, "net.onnx is a model, not a job: onnxprune prune net.onnx"),
    "net.onnx plan.json": (2, "carry it out: onnxprune apply plan.json net.onnx"),
    "net.onnx inspect": (2, "inspect is a command, which comes first: onnxprune inspect net.onnx"),
    "validate x.npz net.onnx --data x.npz": (2, "x.npz is data, not a model; give it with --data"),
    "inspect net.onnx x.npz": (2, "too many arguments: x.npz; give data with --calib; usage: onnxprune inspect MODEL"),
}
"""Command line -> exit code, and what is said."""


@pytest.mark.parametrize("line", OTHER)
def test_files_and_their_order(line: str, folder: Path) -> None:
    found = run(line)
    assert (found.exit_code, OTHER[line][1] in found.stderr) == (OTHER[line][0], True), found.stderr
    assert found.stderr.startswith("error: ") and found.stderr.count("\n") == 1
    assert sorted(path.name for path in folder.iterdir()) == ["net.onnx", "plan.json", "there.onnx", "x.npz"]


HEAVY = {"numpy", "onnx", "onnxruntime", "scipy", "rich", "google.protobuf"}


def test_mistakes_are_found_before_anything_heavy_is_loaded(folder: Path) -> None:
    code = f"""
import shlex, sys
from click.testing import CliRunner
from onnxprune.cli import main
for line in {[*SAME, *OTHER]!r}:
    assert CliRunner().invoke(main, shlex.split(line)).exit_code in (2, 3), line
    loaded = {HEAVY!r} & sys.modules.keys()
    assert not loaded, (line, loaded)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "words",
    [
        "-v inspect net.onnx",
        "-q sweep net.onnx --eval x.npz --ratios 0.5",
        "--ratios 0.5 --eval x.npz sweep net.onnx -q",
        "--pairs 10 --seconds 0.1 bench net.onnx",
        "--memory --pairs 10 --seconds 0.1 bench net.onnx",
        "--data x.npz --layers validate net.onnx net.onnx",
        "--exclude inspect --include conv* sweep net.onnx --eval x.npz --ratios 0.5 -q",
        "--max-size=8MB check net.onnx",
    ],
)
def test_a_command_after_any_of_its_options_is_a_command(words: str, folder: Path) -> None:
    found = run(words)
    assert found.exit_code == 0, found.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["net.onnx", "plan.json", "there.onnx", "x.npz"]


@pytest.mark.parametrize("option", ["-o inspect", "--output=bench", "--plan check", "--max-layer-ratio 50% -o sweep"])
def test_a_value_like_a_command_is_a_value(option: str, folder: Path) -> None:
    found = run(f"{option} --no-latency --ratio 0.25 net.onnx --dry-run")
    assert found.exit_code == 0, found.stderr
    assert "parameters -" in found.stdout
