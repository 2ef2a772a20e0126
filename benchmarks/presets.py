"""What --preset fast, balanced and best cost and leave, on trained models with real images.

python benchmarks/presets.py [--shared ../shared] [--model GLOB] [--preset GLOB]

Half of the MACs of each model, on one thread; a line of JSON per run. Every run is a process of its own: CPU seconds are its own, whatever
else the machine does. ``expected_seconds`` is what the run said at its start, ``stages`` the seconds on the wall of those above half a second.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[1]


CIFAR = ("--layout", "NCHW", "--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225")
"""How the images of CIFAR-10 are read."""


def cases(shared: Path) -> dict[str, tuple[Path, Path, Path]]:
    """Return model -> (file, calibration data, labelled data)."""
    models, cifar = ROOT / "models", shared / "data" / "cifar10"
    return {
        "digits_cnn": (models / "digits_cnn.onnx", models / "digits_calib.npz", models / "digits_test.npz"),
        "resnet20_cifar10": (shared / "models" / "resnet20_cifar10.onnx", cifar / "train.npz", cifar / "test.npz"),
        "resnet56_cifar10": (shared / "models" / "resnet56_cifar10.onnx", cifar / "train.npz", cifar / "test.npz"),
    }


def measure(name: str, preset: str, files: tuple[Path, Path, Path]) -> dict[str, object]:
    """Prune once and return the row."""
    model, calibration, evaluation = files
    with tempfile.TemporaryDirectory() as folder:
        report, begun = Path(folder) / "r.json", time.perf_counter()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [
            sys.executable, "-m", "onnxprune", model, Path(folder) / "small.onnx", "--target", "macs=50%",
            "--calib", calibration, "--eval", evaluation, "--no-latency", "--json", report, "--preset", preset,
            *(CIFAR if "cifar" in name else ()),
        ]  # fmt: skip
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(list(map(str, command)), check=True, env=env, capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found = json.loads(report.read_text())
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "model": name, "preset": preset, "cpu_seconds": round(cpu, 1), "wall_seconds": round(time.perf_counter() - begun, 1),
        "accuracy_before": found["task"]["before"], "accuracy": found["task"]["after"], "n": found["task"].get("samples"),
        "expected_seconds": expected(done.stderr),
        "stages": {name: round(seconds, 1) for name, seconds in found["seconds"].items() if seconds > 0.5},
        "macs_share": found["after"]["macs"] / found["before"]["macs"],
    }  # fmt: skip


def expected(told: str) -> float:
    """Return the seconds that a run has said to expect."""
    found = re.search(r"^expected: about (\d+) (s|min)", told, re.M)
    assert found, told
    return float(found[1]) * (60 if found[2] == "min" else 1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--model", default="*")
    parser.add_argument("--preset", default="*")
    asked = parser.parse_args()
    for preset in ("fast", "balanced", "best"):
        for name, files in cases(asked.shared).items():
            if fnmatch(name, asked.model) and fnmatch(preset, asked.preset):
                print(json.dumps(measure(name, preset, files)), flush=True)


if __name__ == "__main__":
    main()
