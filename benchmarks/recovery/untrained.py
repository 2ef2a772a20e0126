"""Widths from scratch: an untrained ResNet-20, half of its MACs by gates or by equal shares, trained on labels for as many steps.

python benchmarks/recovery/untrained.py gates uniform [--shared ../shared] [--steps 300] [--gate-training 150] [--rows 8192] [--seed 0]

The trained file's weights are drawn anew (He et al. 2015, normal, fan in), its norms reset to scale 1, shift 0, mean 0, variance 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

import onnxprune
from onnxprune.data import input_specs, open_dataset
from onnxprune.model.graph import Graph
from onnxprune.model.model import Model
from onnxprune.model.read import load

sys.path.insert(0, str(Path(__file__).parents[1] / "quality"))
from cases import CASES

ARMS = {"gates": {}, "uniform": {"criterion": "random", "scope": "layer"}}


def drawn_anew(model: Model, seed: int) -> Model:
    """Return the model as it may have been initialised."""
    graph, random = Graph(model.structure), np.random.default_rng(seed)
    plain = {1: 1.0, 2: 0.0, 3: 0.0, 4: 1.0}
    norms = {
        name: plain[place]
        for node in graph.top
        if node.op == "BatchNormalization"
        for place, name in enumerate(node.inputs)
        if place
    }
    arrays = {}
    for name, tensor in graph.tensors.items():
        old = model.array(tensor)
        if name in norms:
            arrays[name] = np.full_like(old, norms[name])
        elif old.dtype == np.float32 and old.ndim > 1:
            arrays[name] = (random.standard_normal(old.shape) * np.sqrt(2 / old[0].size)).astype(np.float32)
        elif old.dtype == np.float32 and old.ndim == 1:
            arrays[name] = np.zeros_like(old)
    return model.replaced(arrays)


def measure(arm: str, options: argparse.Namespace) -> None:
    case = CASES[0]
    model = drawn_anew(load(case.model(options.shared)), options.seed)
    x, y = case.load(case.calibration, options.shared)
    images, labels = case.load(case.test, options.shared)
    calibration = open_dataset(x[: options.rows], input_specs(model.proto), labels=y[: options.rows].astype(np.int64))
    cpu = time.process_time()
    report = onnxprune.prune(
        model, calibration=calibration, evaluation=images, labels=labels, untrained=True, target="macs=50%", round_to=1,
        gate_training=options.gate_training, recover=options.steps, seed=options.seed, latency=False,
        learning_rate=options.learning_rate, **ARMS[arm],
    ).report  # fmt: skip
    print(json.dumps({
        "arm": arm, "accuracy": report["task"]["after"], "macs": report["after"]["macs"],
        "parameters": report["after"]["parameters"], "recover": report["recover"],
        "widths": [group["width_after"] for group in report["groups"]][:12],
        "cpu_seconds": round(time.process_time() - cpu, 1),
    }), flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arms", nargs="+", choices=ARMS)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--gate-training", type=int, default=150)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for arm in options.arms:
        measure(arm, options)


if __name__ == "__main__":
    main()
