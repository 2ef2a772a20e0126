"""What class scores lose beside boxes in pixels: one output tensor against two, the same network otherwise.

    python benchmarks/judge.py [--seeds N] [--recover STEPS]

Networks of random weights whose channels say different things, with one head for boxes and scores, or one for each; 70 % of the MACs.
Prints the mean absolute error of the scores on pictures that took no part. Needs the test extra. About a minute on one core.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "measure"))

from test_outputs import APART, JOINED, ONE_TENSOR, TWO_TENSORS, drawn, pictures

import onnxprune
from onnxprune.model.runtime import session

CALIBRATION, UNSEEN = 64, 24  # pictures
NETWORKS = {"one head": (ONE_TENSOR, TWO_TENSORS), "a head each": (JOINED, APART)}


def lost(text: tuple[str, str, str], seed: int, recover: int) -> float:
    """Return the mean absolute error of the scores after pruning."""
    model, unseen = drawn(text, seed), pictures(UNSEEN, 9)
    small = onnxprune.prune(
        model, target="macs=70%", calibration=pictures(CALIBRATION, 0), latency=False, round_to=1, recover=recover
    ).model
    found = [session(one).run({"x": unseen}) for one in (model, small)]
    before, after = (values["scores"] if "scores" in values else values["y"][:, 4:] for values in found)
    return float(np.abs(before - after).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--recover", type=int, default=0)
    args = parser.parse_args()
    for name, pair in NETWORKS.items():
        errors = np.array([[lost(text, seed, args.recover) for text in pair] for seed in range(args.seeds)])
        ratios = errors[:, 0] / errors[:, 1]
        means = " against ".join(f"{value:.4f}" for value in errors.mean(0))
        print(f"{name}: {means}, ratio {np.median(ratios):.2f} (largest {ratios.max():.2f}) over {args.seeds} networks")


if __name__ == "__main__":
    main()
