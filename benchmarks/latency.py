"""What a latency target gives, and what alignment is worth, measured on this machine.

python benchmarks/latency.py [target] [alignment] [--model NAME_OR_PATH ...] [--repeats 3] [--aim 0.6]

target: prunes each network with --target latency=AIM x, three times from the start, and prints the ratio of the 10th
percentiles as a fresh `bench` of original and result measures it. alignment: the same share of the MACs left, with --round-to 1
and with --round-to auto; three interleaved measurements of one against the other. Weights decide (l2): latency does not ask
for accuracy. Names are those of the networks in the onnx wheel (random weights); a path is any ONNX file.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import onnx
from support import light

import onnxprune
from onnxprune.api import bench

BUNDLED = Path(__file__).parents[1] / "models" / "digits_cnn.onnx"
NETWORKS = [str(BUNDLED), "resnet50", "squeezenet", "densenet121"]
SHARE = 0.5  # of the MACs, where widths are compared
FIXED = {"criterion": "l2", "scope": "layer", "force": True}


def stored(name: str, folder: Path) -> Path:
    """Return the path of a network: the file itself, or one of the wheel's with random weights."""
    if name not in light.NAMES:
        return Path(name)
    path = folder / f"{name}.onnx"
    onnx.save(light.filled(name), path)
    return path


def target(path: Path, folder: Path, repeats: int, aim: float) -> str:
    """Return one row: the ratio measured afterwards, in each repetition."""
    small, found = folder / "small.onnx", []
    start = time.perf_counter()
    for _ in range(repeats):
        onnxprune.prune(path, output=small, target=f"latency={aim}x", **FIXED)
        latency = bench(path, small)["latency"]
        found.append("too noisy to say" if latency["ratio"] is None else f"{latency['ratio']:.3f}")
    return f"| {path.stem} | {' | '.join(found)} | {(time.perf_counter() - start) / repeats:.0f} |"


def alignment(path: Path, folder: Path, repeats: int, aim: float) -> str:
    """Return one row: MACs left and latency of widths as asked for and of aligned ones, and their ratio."""
    files, macs = {}, {}
    for step in (1, "auto"):
        files[step] = folder / f"round_{step}.onnx"
        report = onnxprune.prune(
            path, output=files[step], target=f"macs={SHARE}x", round_to=step, latency=False, **FIXED
        ).report
        macs[step] = report["after"]["macs"] / report["before"]["macs"]
    measured = [bench(files[1], files["auto"])["latency"] for _ in range(repeats)]
    times = [f"{min(m[side]['p10'] for m in measured):.0f}" for side in ("before", "after")]
    ratios = ", ".join("noisy" if m["ratio"] is None else f"{m['ratio']:.3f}" for m in measured)
    return f"| {path.stem} | {macs[1]:.1%} | {macs['auto']:.1%} | {times[0]} | {times[1]} | {ratios} |"


HEADS = {
    target: "| network | repetition {numbers} | seconds each |",
    alignment: "| network | MACs, 1 | MACs, auto | p10 µs, 1 | p10 µs, auto | auto / 1 |",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=[[], *(what.__name__ for what in HEADS)])
    parser.add_argument("--model", action="append")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--aim", type=float, default=0.6)
    chosen = parser.parse_args()
    for what, head in HEADS.items():
        if chosen.what and what.__name__ not in chosen.what:
            continue
        numbers = " | ".join(str(number + 1) for number in range(chosen.repeats))
        print(head.format(numbers=numbers) + "\n" + "|---" * (head.format(numbers=numbers).count("|") - 1) + "|")
        with tempfile.TemporaryDirectory() as folder:
            for name in chosen.model or NETWORKS:
                path = stored(name, Path(folder))
                print(what(path, Path(folder), chosen.repeats, chosen.aim), flush=True)


if __name__ == "__main__":
    main()
