"""Prune a quantised network, or prune it and quantise then: accuracy at one share of the MACs.

python benchmarks/quality/quantised.py [--shared ../shared] [--model resnet20_cifar10_jpeg] [--ratio 2.0] [--n 2048] [--form GLOB]

Weights and activations are quantised by ONNX Runtime (``quantize_static`` with 256 calibration images, or ``quantize_dynamic``). Training
images decide all; the test set gives the figures that are printed and nothing else.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from cases import CASES, Case
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quant_pre_process,
    quantize_dynamic,
    quantize_static,
)

import onnxprune

CALIBRATION = 256  # images that the ranges of activations are taken from
STATIC: dict[str, dict[str, Any]] = {
    "QDQ, per channel": {"quant_format": QuantFormat.QDQ, "per_channel": True},
    "QDQ, per tensor": {"quant_format": QuantFormat.QDQ},
    "QOperator, per channel": {
        "quant_format": QuantFormat.QOperator, "per_channel": True, "activation_type": QuantType.QUInt8,
    },
}  # fmt: skip
FORMS = (*STATIC, "dynamic")


class Images(CalibrationDataReader):
    """Hands out one image at a time under the name of the model's input."""

    def __init__(self, name: str, images: np.ndarray):
        self._rows: Iterator[dict[str, np.ndarray]] = iter([{name: image[None]} for image in images])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._rows, None)


def quantise(source: Path, target: Path, form: str, images: np.ndarray) -> Path:
    """Quantise a float model and return the file."""
    prepared = target.with_suffix(".prepared.onnx")
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    if form == "dynamic":
        quantize_dynamic(prepared, target)
    else:
        name = ort.InferenceSession(prepared, providers=["CPUExecutionProvider"]).get_inputs()[0].name
        quantize_static(prepared, target, Images(name, images[:CALIBRATION]), **STATIC[form])
    return target


def accuracy(model: Path, images: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of images whose label is the largest output, 50 images at a time."""
    opened = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    name, batches = opened.get_inputs()[0].name, np.array_split(np.arange(len(images)), max(len(images) // 50, 1))
    found = np.concatenate([opened.run(None, {name: images[batch]})[0].argmax(1) for batch in batches])
    return float((found == labels).mean())


def rows(case: Case, form: str, ratio: float, shared: Path, samples: int) -> Iterator[tuple[str, float, float]]:
    """Yield (what was done, accuracy, CPU seconds)."""
    calibration, _ = case.load(case.calibration, shared)
    images, labels = case.load(case.test, shared)
    assert labels is not None
    plan = {"target": f"macs={1 / ratio:.6f}x", "calibration": calibration, "samples": samples, "round_to": 1}

    def pruned(source: Path, target: Path, **settings: Any) -> Path:
        onnxprune.prune(source, output=target, latency=False, **plan, **settings)
        return target

    with tempfile.TemporaryDirectory() as folder:
        place, source = Path(folder), case.model(shared)
        whole = quantise(source, place / "whole.onnx", form, calibration)
        yield "float, unpruned", accuracy(source, images, labels), 0.0
        yield "quantised, unpruned", accuracy(whole, images, labels), 0.0
        for name, settings in (("not repaired", {"criterion": "l2", "repair": "none"}), ("auto", {})):
            started = time.process_time()
            small = pruned(whole, place / f"{name}.onnx", **settings)
            used = time.process_time() - started
            yield f"quantised, then pruned, {name}", accuracy(small, images, labels), used
        started = time.process_time()
        small = pruned(source, place / "small.onnx")
        used = time.process_time() - started
        yield "pruned", accuracy(small, images, labels), used
        yield (
            "pruned, then quantised",
            accuracy(quantise(small, place / "both.onnx", form, calibration), images, labels),
            used,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with models/ and data/cifar10/")
    parser.add_argument("--model", default="resnet20_cifar10_jpeg")
    parser.add_argument("--ratio", type=float, default=2.0, help="MACs before over MACs after")
    parser.add_argument("--n", type=int, default=2048, help="calibration images to prune by")
    parser.add_argument("--form", default="*", help=f"which of {', '.join(FORMS)}")
    chosen = parser.parse_args()
    case = next(case for case in CASES if case.name == chosen.model)
    print(f"| {case.name}, {chosen.ratio:g}x fewer MACs | accuracy | CPU s |\n|---|---|---|")
    for form in (form for form in FORMS if fnmatch(form, chosen.form)):
        for done, share, used in rows(case, form, chosen.ratio, chosen.shared, chosen.n):
            print(f"| {form}: {done} | {share:.2%} | {used:.0f} |", flush=True)


if __name__ == "__main__":
    main()
