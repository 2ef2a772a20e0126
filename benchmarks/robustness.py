"""What attacks leave of pruned networks: ResNet-20 on JPEG CIFAR-10 at half of the MACs, units chosen in several ways, repaired alike.

python benchmarks/robustness.py [--shared ../shared] [--rows 500] [--calibration 512] [--attacks pgd:1/255,pgd:2/255,pgd:8/255]

Every network is attacked by its own gradients, away from the class that it chooses (no label takes part in an attack). Agreement is with the classes of the
unpruned network; a row counts as robust where the row itself and the attacked one are answered so. Ranges are those of black and white under the data's
normalisation. Training images choose and repair; test images are attacked.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

import onnxprune

MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
RANGE = "range=" + "/".join(f"{-m / s:.4f}:{(1 - m) / s:.4f}" for m, s in zip(MEAN, STD, strict=True))
METHODS: dict[str, dict[str, Any]] = {
    "magnitude": {"criterion": "l2"},
    "vulnerability": {"criterion": "vulnerability", "attack": f"pgd:2/255,{RANGE}"},
    "group-fisher": {"criterion": "group-fisher"},
    "PGD-pruned": {"criterion": "group-fisher", "attack": f"pgd:1/255,{RANGE}"},
}


def images(place: Path, count: int) -> np.ndarray:
    pixels = np.load(place)["x"][:count].astype(np.float32) / 255
    return np.ascontiguousarray(((pixels - MEAN) / STD).transpose(0, 3, 1, 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--calibration", type=int, default=512)
    parser.add_argument("--attacks", default="pgd:1/255,pgd:2/255,pgd:8/255")
    parser.add_argument("--methods", default=",".join(METHODS))
    chosen = parser.parse_args()
    model = chosen.shared / "models" / "resnet20_cifar10_jpeg.onnx"
    training = {"input": images(chosen.shared / "data" / "cifar10" / "jpeg_train.npz", chosen.calibration)}
    test = {"input": images(chosen.shared / "data" / "cifar10" / "jpeg_test.npz", chosen.rows)}
    for name in chosen.methods.split(","):
        start = time.process_time()
        found = onnxprune.prune(
            model,
            target="macs=50%",
            scope="global",
            repair="least-squares",
            round_to=1,
            calibration=training,
            latency=False,
            **METHODS[name],
        )
        seconds, share = time.process_time() - start, found.report["after"]["macs"] / found.report["before"]["macs"]
        for attack in chosen.attacks.split(","):
            told = onnxprune.validate(model, found.pruned, test, attack=f"{attack},{RANGE}")["robustness"]
            before, after = told["before"], told["after"]
            low, high = told["interval"]
            print(
                f"{name:14} {share:.1%} of the MACs, {seconds:4.0f} s, {attack:10} clean {after['clean_agreement']:.1%}, robust {after['robust_agreement']:.1%} "
                f"(unpruned {before['robust_agreement']:.1%}; less by {low:.1%} to {high:.1%})",
                flush=True,
            )


if __name__ == "__main__":
    main()
