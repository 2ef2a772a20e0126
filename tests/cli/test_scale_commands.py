"""The ways to share work out that docs/scale.md shows: each is taken from the page and run, as far as one machine can."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from onnx import save
from support.networks import network

from onnxprune.cli import main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scale.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.S)
ROWS = 7900
NET = "h = MatMul(x, %8x64)\na = Relu(h)\nk = MatMul(a, %64x48)\nb = Relu(k)\ny = MatMul(b, %48x4)"


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, data, and the program on the path."""
    path = tmp_path_factory.mktemp("scale")
    save(network(NET, "float[n,8] x", "float[n,4] y", opset=17, ir_version=9), path / "model.onnx")
    np.savez(path / "data.npz", x=np.random.default_rng(0).standard_normal((ROWS, 8)).astype(np.float32))
    (path / "bin").mkdir()
    program = path / "bin" / "onnxprune"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m onnxprune "$@"\n')
    program.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def one(work: Path) -> bytes:
    """What one process writes, by the criterion of the page."""
    found = run(
        "stats", work / "model.onnx", "--calib", work / "data.npz", "--criterion", "obs", "-o", work / "one.npz"
    )
    assert found.exit_code == 0, found.output
    return (work / "one.npz").read_bytes()


def shell(work: Path, script: str, seconds: float = 120, **variables: str) -> subprocess.CompletedProcess[str]:
    place = os.pathsep.join((str(work / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]))
    own = {**os.environ, "PATH": place, "PYTHONPATH": str(ROOT), "ONNXPRUNE_NO_LATENCY": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=work,
        env={**own, **variables},
        capture_output=True,
        text=True,
        timeout=seconds,
    )


def cleared(work: Path) -> None:
    for path in (*work.glob("part-*"), *work.glob("whole*"), *work.glob("small*")):
        path.unlink()


def test_a_slurm_array(work: Path, one: bytes) -> None:
    """The scripts of the page, by the loop of the page."""
    cleared(work)
    gather, prune, loop = (text for kind, text in BLOCKS if kind == "bash")
    (work / "gather.sh").write_text(gather)
    (work / "prune.sh").write_text(prune)
    done = shell(work, loop)
    assert done.returncode == 0, done.stderr
    assert len(list(work.glob("part-*.npz"))) == 7
    assert (work / "whole.npz").read_bytes() == one
    assert (work / "small.onnx").stat().st_size < (work / "model.onnx").stat().st_size


def test_a_matrix_of_continuous_integration(work: Path) -> None:
    """The commands of the page's jobs; artifacts stay where they are."""
    cleared(work)
    (text,) = (text for kind, text in BLOCKS if kind == "yaml")
    jobs = yaml.safe_load(text)["jobs"]
    assert jobs["prune"]["needs"] == "gather"
    for shard in jobs["gather"]["strategy"]["matrix"]["shard"]:
        for step in jobs["gather"]["steps"]:
            assert "uses" in step or "${{" not in re.sub(r"\$\{\{ matrix\.shard \}\}", "", step["run"])
            command = step.get("run", "").replace("${{ matrix.shard }}", str(shard))
            if not command.startswith("pip "):
                done = shell(work, command)
                assert done.returncode == 0, done.stderr
    for step in jobs["prune"]["steps"]:
        if not step.get("run", "").startswith("pip "):
            done = shell(work, step.get("run", ""))
            assert done.returncode == 0, done.stderr
    assert (work / "small.onnx").is_file()


def test_a_dask_cluster(work: Path, one: bytes) -> None:
    """The commands of the page, on a port that is free."""
    pytest.importorskip("distributed")
    cleared(work)
    script = next(text for kind, text in BLOCKS if kind == "sh" and "dask scheduler" in text)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = shell(work, "trap 'kill $(jobs -p)' EXIT\n" + script.replace("8786", str(port)))
    assert done.returncode == 0, done.stderr
    assert (work / "whole.npz").read_bytes() == one
    assert (work / "small.onnx").is_file()
    for _ in range(50):
        with socket.socket() as gone:
            if gone.connect_ex(("127.0.0.1", port)):
                return
        time.sleep(0.1)
    raise AssertionError("the scheduler is still there")


def test_what_is_said(work: Path, one: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    found = run(
        "stats",
        "model.onnx",
        "--calib",
        "data.npz",
        "--criterion",
        "obs",
        "--shard",
        "2/2",
        "-o",
        "two.npz",
        "--json",
        "r.json",
    )
    assert found.exit_code == 0 and "rows 4,096 to 7,899 of 7,900: gram; written to two.npz" in found.stdout
    missing = run("stats", "merge", "two.npz", "-o", "m.npz", "--json", "m.json")
    assert missing.exit_code == 3 and "gather the missing shards too (1/2)" in missing.stderr
    assert '"exit_code": 3' in (work / "m.json").read_text() and not (work / "m.npz").exists()
    assert run("stats", "merge", "two.npz", "-o", "m.npz", "--criterion", "obs").exit_code == 2
    assert run("stats", "model.onnx", "--criterion", "obs", "-o", "m.npz").exit_code == 2
    assert run("stats", "model.onnx", "one.npz", "--calib", "data.npz", "-o", "m.npz").exit_code == 2
    overwritten = run("stats", "model.onnx", "--calib", "data.npz", "--criterion", "obs", "-o", "model.onnx")
    assert overwritten.exit_code == 2 and "is an input of stats" in overwritten.stderr
