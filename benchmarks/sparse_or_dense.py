"""Large and sparse, or small and dense (Zhu & Gupta 2018): files of about equal bytes, by zeros and by widths.

python benchmarks/sparse_or_dense.py --shared SHARED [--samples 512]

Both are packed as small as `--storage auto` can; what is left is refitted on calibration rows without labels. Prints bytes, accuracy and MACs of each file.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from quality.cases import CASES

import onnxprune

WIDTHS = ("75%", "50%", "25%", "12%")
ZEROS = (0.5, 0.7, 0.85, 0.93)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="Folder with models/ and data/cifar10/.")
    parser.add_argument("--samples", type=int, default=512)
    chosen = parser.parse_args()
    case = CASES[0]
    rows, _ = case.load(case.calibration, chosen.shared)
    images, labels = case.load(case.test, chosen.shared)
    few = rows[np.random.default_rng(0).permutation(len(rows))[: chosen.samples]]
    kinds: list[tuple[str, dict[str, Any]]] = [
        (f"widths, {left} of the weights", {"target": f"params={left}"}) for left in WIDTHS
    ]
    kinds += [(f"zeros, {share:.0%}", {"sparsity": str(share), "scope": "global"}) for share in ZEROS]
    print("| what | bytes of the file | top-1 | MACs |\n|---|---|---|---|")
    for name, options in kinds:
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "small.onnx"
            found = onnxprune.prune(
                chosen.shared / "models" / f"{case.name}.onnx", output=output, calibration={"input": few},
                evaluation={"input": images, "labels": labels}, storage="auto", latency=False, round_to=1, **options,
            )  # fmt: skip
            before, after = found.report["before"], found.report["after"]
            accuracy = found.report["task"]["after"]
            print(
                f"| {name} | {output.stat().st_size:,} | {accuracy:.2%} | {after['macs'] / before['macs']:.0%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
