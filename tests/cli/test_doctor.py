"""``onnxprune doctor``: it tells what is missing, broken or too old, with the command that mends it, and needs none of it itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from onnxprune.allocate import width_step
from onnxprune.cli import health, main
from onnxprune.cli.commands.doctor import shown_lines
from onnxprune.cli.failures import failure

ROOT = Path(__file__).parents[2]


def run(*arguments: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(main, ["doctor", *arguments], env=env)


def test_everything_works_here() -> None:
    result = run()
    assert (result.exit_code, result.stderr) == (0, "")
    for word in ("onnxruntime 1.", "widths are multiples of", "memory", "temporary files", "CPU", "everything works"):
        assert word in result.stdout, word
    assert run("-q").output == ""


def test_the_findings_as_json(tmp_path: Path) -> None:
    found = json.loads(run("--json", "-").stdout)
    assert found["command"] == "doctor" and found["exit_code"] == 0 and found["problems"] == []
    assert found["rounding"]["multiple"] == width_step()
    assert "CPUExecutionProvider" in found["providers"]
    assert {package["state"] for package in found["packages"] if not package["extra"]} == {"ok"}
    assert run("--json", str(tmp_path / "d.json")).exit_code == 0
    assert json.loads((tmp_path / "d.json").read_text())["command"] == "doctor"
    (tmp_path / "mine.txt").write_text("mine")
    assert run("--json", str(tmp_path / "mine.txt")).exit_code == 2
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_its_packages_are_those_of_the_project() -> None:
    listed = list(health.requirements())
    assert ("onnxruntime", "1.22", "") in listed and ("pillow", "10", "images") in listed
    assert {extra for *_, extra in listed} == {"", *health.EXTRAS}


@pytest.mark.parametrize("package", ["onnxruntime", "numpy"])
def test_a_broken_package_is_told_with_what_mends_it(package: str, tmp_path: Path) -> None:
    """It still runs where that package does not, and other commands say to ask it."""
    broken = tmp_path / package
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('libbroken.so: cannot open shared object file')")
    env = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}

    def told(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "onnxprune", *arguments], cwd=tmp_path, env=env, capture_output=True, text=True
        )

    done = told("doctor", "--json", "-")
    found = {entry["name"]: entry for entry in json.loads(done.stdout)["packages"]}
    assert done.returncode == 3
    assert (found[package]["state"], found["click"]["state"]) == ("broken", "ok")
    assert f"error: {package} cannot be loaded (ImportError: libbroken.so" in done.stderr
    assert "pip install --force-reinstall" in done.stderr
    other = told("inspect", str(ROOT / "models" / "digits_cnn.onnx"))
    assert (other.returncode, "'onnxprune doctor' tells" in other.stderr) == (3, True), other.stderr


def test_an_extra_that_is_missing_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [("click", "8.2", ""), ("no-such-package", "1.0", "text"), ("numpy", "999", "report")]
    monkeypatch.setattr(health, "requirements", lambda: iter(listed))
    result = run()
    assert result.exit_code == 0, result.output
    assert "missing text: text as data" in result.stdout and "pip install 'onnxprune[text]'" in result.stdout
    assert "old     report" in result.stdout and "999 or newer is needed" in result.stdout


def test_what_is_too_old_or_missing_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "requirements", lambda: iter([("click", "99", ""), ("no-such-package", "1.0", "")]))
    result = run()
    assert result.exit_code == 3
    assert "error: click is too old (99 or newer is needed); pip install 'click>=99'" in result.stderr
    assert "error: no-such-package is missing; pip install 'no-such-package>=1.0'" in result.stderr


@pytest.mark.parametrize("trial", ["import os; os.abort()", "raise RuntimeError('no such instruction')"])
def test_a_runtime_that_ends_its_process_is_told(trial: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "TRIAL", trial)
    result = run()
    assert result.exit_code == 3
    assert "error: ONNX Runtime runs no model: " in result.stderr
    assert "signal 6" in result.stderr or "no such instruction" in result.stderr


def test_a_folder_for_temporary_files_that_takes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    assert "no temporary file can be written: No space left on device; set TMPDIR" in run().stderr


def test_variables_that_stand_for_nothing_are_told() -> None:
    shown = run(env={"ONNXPRUNE_RATOI": "0.5", "ONNXPRUNE_RATIO": "0.5"}).stdout
    assert "variable ONNXPRUNE_RATOI=0.5: no option has this name; did you mean 'ONNXPRUNE_RATIO'" in shown
    assert "variable ONNXPRUNE_RATIO=0.5\n" in shown


def test_what_is_shown_is_there_where_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_text", lambda path: "")
    monkeypatch.setattr(health, "widths", lambda: None)
    assert list(shown_lines(health.diagnosis([]), verbose=True))[-1] == "everything works"


def test_an_import_error_points_to_the_doctor() -> None:
    found = failure(ModuleNotFoundError("No module named 'scipy'"))
    assert found.exit_code == 3 and "'onnxprune doctor'" in found.message
