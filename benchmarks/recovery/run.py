"""Recovery by distillation: top-1 before and after, with what it took.

    python benchmarks/recovery/run.py resnet20-jpeg resnet20 [--data ../shared] [--recover 5m] [--labelled] [--loss blocks]

Prunes to half of the MACs with calibration data, recovers, and measures on test images that
nothing was chosen by. Wall-clock time says little on a busy machine, so CPU seconds of both threads and steps are given.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import onnxprune  # noqa: E402
from onnxprune.changes.plan import kept_units  # noqa: E402
from onnxprune.data import ImageOptions, input_specs, open_dataset  # noqa: E402
from onnxprune.means import Means  # noqa: E402
from onnxprune.model.model import Model  # noqa: E402
from onnxprune.model.runtime import session  # noqa: E402
from onnxprune.recover import Recipe, parse_length, recover, taught  # noqa: E402

IMAGES = ImageOptions(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Case:
    """A model, its data, and the least top-1 that recovery of the given length has to reach."""

    model: str
    train: str
    test: str
    images: int | None
    length: str
    augment: tuple[str, ...]
    bar: float


CASES = {
    "resnet20-jpeg": Case("resnet20_cifar10_jpeg", "jpeg_train", "jpeg_test", 2048, "1m", (), 0.835),
    "resnet20": Case("resnet20_cifar10", "train", "test", None, "5m", ("flip", "shift"), 0.88),
    "resnet56": Case("resnet56_cifar10", "train", "test", None, "15m", ("flip", "shift"), 0.92),
}


def read(path: Path, count: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path, allow_pickle=False) as content:
        return content["x"][:count], content["y"][:count].astype(np.int64)


def top1(model, x: np.ndarray, y: np.ndarray, threads: int) -> float:
    opened, (spec,) = session(model, threads=threads), input_specs(model)
    parts = [opened.run({spec.name: IMAGES.apply(x[i : i + 250], spec)}) for i in range(0, len(x), 250)]
    return float((np.concatenate([next(iter(p.values())) for p in parts]).argmax(1) == y).mean())


def measure(name: str, options: argparse.Namespace) -> None:
    case = CASES[name]
    original = onnxprune.load(options.data / "models" / f"{case.model}.onnx")
    folder = options.data / "data" / "cifar10"
    x, y = read(folder / f"{case.train}.npz", options.images or case.images)
    test = read(folder / f"{case.test}.npz")
    specs = input_specs(original.proto)
    whole = open_dataset(x, specs, labels=y if options.labelled else None, images=IMAGES)
    fit, judge = whole.split(min(512, len(x) // 8), 0)
    settings = {"target": "macs=50%", "round_to": 1, "latency": False, "threads": options.threads}
    result = onnxprune.prune(original, calibration=fit, repair=options.repair, criterion=options.criterion, **settings)
    small, analysis = result.model, onnxprune.analyze(original)
    positions = kept_units(result.plan, analysis).positions
    recipe = Recipe(
        **parse_length(options.recover or case.length),
        augment=case.augment if options.augment is None else tuple(options.augment.split(",")),
        loss=options.loss,
        **{name: given for name in ("learning_rate", "hints") if (given := getattr(options, name)) is not None},
    )
    wall, cpu = time.perf_counter(), time.process_time()
    means = Means(options.threads, progress=options.progress)
    found = recover(Model.of(small), taught(original, fit, judge=judge), recipe, means, positions=positions)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    before, after = (top1(model, *test, options.threads) for model in (small, found.model.proto))
    print(
        f"{name}: top-1 {before:.2%} -> {after:.2%} of {top1(original.proto, *test, options.threads):.2%} "
        f"(bar {case.bar:.1%}), held-out {found.before:.4f} -> {found.after:.4f} ({found.kept}), "
        f"{found.steps} steps, {wall:.0f} s, CPU {cpu:.0f} s",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", choices=CASES)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--recover", help="steps or a time; default: what the bar says")
    parser.add_argument("--augment", help="default: what the bar says")
    parser.add_argument("--loss", default="auto", help="auto, distill, mse, labels or blocks")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--images", type=int, help="how many images may be used; default: what the bar says")
    parser.add_argument("--hints", type=float, help="what inner values count beside the outputs")
    parser.add_argument("--labelled", action="store_true", help="use the labels of the training images too")
    parser.add_argument("--criterion", default="auto")
    parser.add_argument("--repair", default="auto")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    options.progress = (lambda text: print(text, file=sys.stderr)) if options.verbose else (lambda text: None)
    for name in options.cases:
        measure(name, options)


if __name__ == "__main__":
    main()
