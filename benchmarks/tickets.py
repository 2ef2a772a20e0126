"""Lottery tickets: a network trained for some epochs, pruned by different scores, rewound to the end of its first epoch, trained again by labels.

python benchmarks/tickets.py --folder DIR        (torch and scikit-learn: the extra models; writes init, early and late files and the training rows there)
python benchmarks/tickets.py --folder DIR --run  (prunes and trains; needs the files)

The network is digits_cnn of models/train_digits.py in a recipe of 12 epochs, seed 0; top-1 on the 497 test images.
"""

from __future__ import annotations

import argparse
import copy
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
EPOCHS, BATCH = 12, 50
ZEROS: dict[str, Any] = {"sparsity": "0.8"}
UNITS: dict[str, Any] = {"target": "macs=50%", "round_to": 1}
RUNS: tuple[tuple[dict[str, Any], str, str], ...] = tuple(
    (what, criterion, remains)
    for what in (ZEROS, ZEROS | {"scope": "global"}, UNITS)
    for criterion, remains in (("l1", "weights"), ("magnitude-increase", "weights"), ("magnitude-increase", "signs"))
)


def make(folder: Path) -> None:
    """Train and export."""
    import torch
    from torch.nn import functional

    sys.path.insert(0, str(ROOT / "models"))
    import train_digits

    torch.set_num_threads(1)
    data, _, _ = train_digits.load_splits(0)
    recipe = train_digits.RECIPES[0]
    torch.manual_seed(0)
    net = recipe.network()
    images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    steps = len(images) // BATCH
    optimiser = torch.optim.AdamW(net.parameters(), lr=recipe.peak_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.peak_rate, total_steps=EPOCHS * steps)
    for epoch in range(EPOCHS):
        for chosen in torch.randperm(len(images))[: steps * BATCH].split(BATCH):
            optimiser.zero_grad()
            loss = functional.cross_entropy(
                net(train_digits.augment(images[chosen])), labels[chosen], label_smoothing=0.1
            )
            loss.backward()
            optimiser.step()
            schedule.step()
        if epoch == 0:
            train_digits.export_torchscript(copy.deepcopy(net).eval(), folder / "early.onnx")
    train_digits.export_torchscript(net.eval(), folder / "late.onnx")
    np.savez(folder / "train.npz", image=data.images, labels=data.labels)


def run(folder: Path, steps: int) -> None:
    """Prune by every score, rewind, train, and print what comes of it."""
    import onnxprune

    for what, criterion, remains in RUNS:
        report = onnxprune.prune(
            folder / "late.onnx", rewind=folder / "early.onnx", rewind_as=remains, criterion=criterion, recover=steps, recover_loss="labels",
            calibration=folder / "train.npz", evaluation=ROOT / "models" / "digits_test.npz", latency=False, **what,
        ).report  # fmt: skip
        shared = report.get("overlap") or {n: v for n, v in report.get("schedule", {}).items() if "overlap" in n}
        print(
            f"{what} {criterion} {remains}: {report['task']['after']:.2%} of {report['task']['before']:.2%}; {shared}",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--run", action="store_true")
    parser.add_argument("--steps", type=int, default=400)
    given = parser.parse_args()
    run(given.folder, given.steps) if given.run else make(given.folder)
