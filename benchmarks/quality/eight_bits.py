"""Prune and quantise in one command: accuracy, bytes and latency of the original, the pruned and the quantised model, and of the recipe by hand.

python benchmarks/quality/eight_bits.py [--shared ../shared] [--model GLOB] [--ratio 2.0] [--n 512] [--mode int8]

By hand: ``quant_pre_process`` and ``quantize_static`` of the same pruned model on 256 of the same images, as it does unasked (int8 values)
and with uint8 values. Training images decide all; the test set gives the figures that are printed and nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import resource
import tempfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from cases import CASES, Case
from onnxruntime.quantization import QuantType, quant_pre_process, quantize_dynamic, quantize_static
from quantised import CALIBRATION, Images

import onnxprune
from onnxprune.api import bench

Row = tuple[str, str, str, str, str]
BY_HAND: dict[str, dict[str, Any]] = {
    "int8, by hand": {},
    "uint8 values, by hand": {"activation_type": QuantType.QUInt8},
}


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def accuracy(path: Path, images: np.ndarray, labels: np.ndarray) -> float:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (name,) = (value.name for value in session.get_inputs())
    scores = [session.run(None, {name: images[start : start + 64]})[0] for start in range(0, len(images), 64)]
    return float((np.concatenate(scores).argmax(axis=1) == labels).mean())


def by_hand(source: Path, target: Path, mode: str, images: np.ndarray, how: dict[str, Any]) -> Path:
    prepared = target.with_suffix(".prepared.onnx")
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    if mode == "dynamic":
        quantize_dynamic(prepared, target)
        return target
    name = ort.InferenceSession(prepared, providers=["CPUExecutionProvider"]).get_inputs()[0].name
    with contextlib.redirect_stdout(io.StringIO()):
        quantize_static(prepared, target, Images(name, images), **how)
    return target


def rows(case: Case, mode: str, ratio: float, shared: Path, count: int) -> Iterator[Row]:
    """Yield (model, accuracy, bytes, CPU time of a run in microseconds, CPU seconds of the command)."""
    calibration = case.load(case.calibration, shared)[0][:count]
    images, labels = case.load(case.test, shared)
    assert labels is not None
    model, options = case.model(shared), {"target": f"macs={1 / ratio}x", "calibration": calibration}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        start = cpu_seconds()
        found = onnxprune.prune(model, quantize=mode, output=place / "both.onnx", **options).report
        used = cpu_seconds() - start
        onnxprune.prune(model, output=place / "pruned.onnx", latency=False, **options)
        files: dict[str, Path] = {"before": model, "pruned": place / "pruned.onnx"}
        for name, how in (BY_HAND if mode == "int8" else {"dynamic, by hand": {}}).items():
            files[f"pruned, then {name}"] = by_hand(
                files["pruned"], place / f"{len(files)}.onnx", mode, calibration[:CALIBRATION], how
            )
        files[f"pruned and --quantize {mode}"] = place / "both.onnx"
        for name, file in files.items():
            timed = bench(model, file, pairs=100)["latency"]["cpu"]["after"]["p50"]
            done = f"{used:.0f}" if "--quantize" in name else ""
            share = accuracy(file, images, labels)
            yield name, f"{share:.2%}", f"{file.stat().st_size:,}", f"{timed:,.0f}", done
    print(f"{case.name}: {found['quantisation']['recipe']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with models/ and data/cifar10/")
    parser.add_argument("--model", default="resnet*")
    parser.add_argument("--ratio", type=float, default=2.0, help="MACs before over MACs after")
    parser.add_argument("--n", type=int, default=512, help="calibration images")
    parser.add_argument("--mode", default="int8", choices=("int8", "dynamic"))
    chosen = parser.parse_args()
    for case in (case for case in CASES if fnmatch(case.name, chosen.model)):
        print(
            f"| {case.name}, {chosen.ratio:g}x fewer MACs | accuracy | bytes | CPU µs | CPU s |\n|---|---|---|---|---|"
        )
        for row in rows(case, chosen.mode, chosen.ratio, chosen.shared, chosen.n):
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
