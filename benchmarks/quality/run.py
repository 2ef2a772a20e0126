"""Accuracy after pruning without training: method x ratio x model.

python benchmarks/quality/run.py [--shared ../shared] [--n 2048] [--model GLOB] [--method GLOB] [--output rows.jsonl]

Units, widths and weights are chosen on training images alone; the test set gives the figures in the table and nothing else. Every row
is a process of its own, so that its CPU seconds and peak memory are its own.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from concurrent.futures import ProcessPoolExecutor
from fnmatch import fnmatch
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from cases import CASES, Case

METHODS: dict[str, dict[str, Any]] = {
    "L2": {"criterion": "l2", "repair": "none"},
    "L2 + BatchNorm": {"criterion": "l2", "repair": "batchnorm"},
    "L2 + least squares": {"criterion": "l2", "repair": "least-squares"},
    "auto": {},
    "auto, search 60 s": {"search": 60.0},
    "auto, search 230 s": {"search": 230.0},
    "gates:l1": {"criterion": "gates", "gate_training": 600},
    "gates:l0": {"criterion": "gates:l0", "gate_training": 600},
    "gates:reweighted": {"criterion": "gates:reweighted", "gate_training": 600},
    "gates:bayes": {"criterion": "gates:bayes", "gate_training": 600},
    "gates:l1, weights moving": {"criterion": "gates", "gate_training": 1200, "gate_weights": "moving"},
    "gates:l0, weights moving": {"criterion": "gates:l0", "gate_training": 1200, "gate_weights": "moving"},
}
Z = 1.96  # two-sided 95 %

Row = dict[str, Any]


def measure(case: Case, method: str, ratio: float, shared: Path, samples: int, seed: int) -> Row:
    """Prune once to 1 / ratio of the MACs and return the row; runs in a process of its own."""
    import onnxprune

    calibration, _ = case.load(case.calibration, shared)
    images, labels = case.load(case.test, shared)
    wall, cpu = time.perf_counter(), time.process_time()
    report = onnxprune.prune(
        case.model(shared), calibration=calibration, evaluation=images, labels=labels, target=f"macs={1 / ratio:.6f}x",
        samples=min(samples, len(calibration)), seed=seed, round_to=1, latency=False, **METHODS[method],
    ).report  # fmt: skip
    drift = next(iter(report["drift"]["outputs"].values()))
    task, n = report["task"], len(images)
    return {
        "model": case.name, "method": method, "ratio": round(ratio, 2), "n": n, "samples": min(samples, len(calibration)),
        "accuracy_before": task["before"], "accuracy": task["after"], "interval": wilson(task["after"], n),
        "kl": drift["kl"], "macs": report["after"]["macs"], "macs_before": report["before"]["macs"],
        "parameters": report["after"]["parameters"], "seconds": round(time.perf_counter() - wall, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1), "peak_mib": round(report["peak_rss_bytes"] / 2**20),
        "repair": (report.get("repair") or {}).get("method"),
    }  # fmt: skip


def wilson(share: float, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a binomial share (Wilson 1927)."""
    middle, spread = share + Z**2 / (2 * n), Z * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return (middle - spread) / (1 + Z**2 / n), (middle + spread) / (1 + Z**2 / n)


def markdown(rows: list[Row]) -> str:
    """Return one table per model."""
    head = "| MACs fewer | method | accuracy % (95 %) | KL | MACs | parameters | CPU s | MiB |\n|---|---|---|---|---|---|---|---|"
    parts = []
    for name in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == name]
        first = own[0]
        parts.append(
            f"### {name}: {first['accuracy_before']:.2%} unpruned, n = {first['n']}, {first['samples']} calibration images\n\n{head}"
        )
        parts[-1] += "".join(f"\n{_line(row)}" for row in own)
    return "\n\n".join(parts) + "\n"


def _line(row: Row) -> str:
    low, high = (100 * end for end in row["interval"])
    cells = (
        f"{row['macs_before'] / row['macs']:.2f}x", row["method"], f"{row['accuracy']:.2%} ({low:.1f} to {high:.1f})",
        f"{row['kl']:.3f}", f"{row['macs']:,}", f"{row['parameters']:,}", f"{row['cpu_seconds']:.0f}", f"{row['peak_mib']}",
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with models/ and data/cifar10/")
    parser.add_argument("--n", type=int, default=2048, help="calibration images")
    parser.add_argument("--model", default="*")
    parser.add_argument("--method", default="*")
    parser.add_argument(
        "--ratio", type=float, action="append", help="MACs before over MACs after; default: each model's own"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="append every row as a line of JSON")
    parser.add_argument("--table", type=Path, help="print the table of a file of rows and do nothing else")
    chosen = parser.parse_args()
    if chosen.table:
        return print(markdown([json.loads(line) for line in chosen.table.read_text().splitlines()]))
    rows = []
    for case in (case for case in CASES if fnmatch(case.name, chosen.model)):
        for ratio in chosen.ratio or case.ratios:
            for method in (name for name in METHODS if fnmatch(name, chosen.method)):
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                    done = pool.submit(measure, case, method, ratio, chosen.shared, chosen.n, chosen.seed)
                rows.append(done.result())
                line = json.dumps(rows[-1])
                print(line, flush=True)
                if chosen.output:
                    with chosen.output.open("a") as stream:
                        stream.write(line + "\n")
    return print(markdown(rows))


if __name__ == "__main__":
    main()
