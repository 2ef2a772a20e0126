"""Widths, ranks and both at equal MACs, without any training: top-1 and divergence on test images, cosine on held-out sentences.

python benchmarks/quality/ranks.py [--target macs=50%] [--kinds "heads rank eigen heads,rank"] images --shared FOLDER [--model PATTERN]
python benchmarks/quality/ranks.py [--target macs=75%] [--kinds ...] sentences ENCODER ROWS.npz HELD_OUT.npz
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import onnxruntime as ort
from cases import CASES, Case
from zeros import add_sources, divergence, log_shares, mean_cosine, outputs, read_sentences

import onnxprune

ROWS = 512  # without labels, that decide and refit
KINDS = ("heads", "eigen", "rank", "heads,rank")
HEAD = ("kinds", "MACs", "parameters", "latency", "seconds of CPU")


def table(
    path: Path, rows: dict[str, np.ndarray], given: argparse.Namespace, judged: Callable[[bytes], list[str]]
) -> None:
    """Print a row for every choice of kinds; ``judged``: model -> cells of its own."""
    for kinds in given.kinds:
        start = time.process_time()
        found = onnxprune.prune(path, calibration=rows, granularity=kinds, target=given.target)
        seconds, report = time.process_time() - start, found.report
        before, after = report["before"], report["after"]
        shares = [f"{after[key] / before[key]:.1%}" for key in ("macs", "parameters")]
        ratio = report["latency"]["ratio"]
        chosen = next((mix["shares"] for mix in report.get("shares", ()) if mix["chosen"]), {})
        told = f"{kinds} ({', '.join(f'{name} {share:.0%}' for name, share in chosen.items())})" if chosen else kinds
        cells = [
            told,
            *judged(found.model.SerializeToString()),
            *shares,
            "-" if ratio is None else f"{ratio:.2f}",
            f"{seconds:.0f}",
        ]
        print(f"| {' | '.join(cells)} |", flush=True)


def head(name: str, *own: str) -> None:
    cells = (f"{HEAD[0]} ({name})", *own, *HEAD[1:])
    print(f"| {' | '.join(cells)} |\n|{'---|' * len(cells)}", flush=True)


def images(case: Case, given: argparse.Namespace) -> None:
    path = case.model(given.shared)
    name = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).get_inputs()[0].name
    x, _ = case.load(case.calibration, given.shared)
    test, labels = case.load(case.test, given.shared)
    chosen = np.random.default_rng(0).permutation(len(x))[:ROWS]
    before = outputs(path.read_bytes(), {name: test})
    whole = log_shares(before)

    def judged(model: bytes) -> list[str]:
        after = outputs(model, {name: test})
        return [f"{(after.argmax(1) == labels).mean():.2%}", f"{divergence(whole, log_shares(after)):.4f}"]

    head(f"{case.name}, {given.target}, unpruned {(before.argmax(1) == labels).mean():.2%}", "top-1", "KL")
    table(path, {name: x[chosen]}, given, judged)


def sentences(given: argparse.Namespace) -> None:
    path = given.encoder
    calibration, test = read_sentences(given.rows, given.held_out, ROWS)
    before = outputs(path.read_bytes(), test)

    def judged(model: bytes) -> list[str]:
        return [f"{mean_cosine(before, outputs(model, test)):.4f}"]

    head(f"{path.stem}, {given.target}, {len(before)} held-out sentences", "mean cosine")
    table(path, calibration, given, judged)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").replace("%", "%%"), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", default="macs=50%")
    parser.add_argument("--kinds", type=str.split, default=KINDS)
    add_sources(parser)
    given = parser.parse_args()
    if given.kind == "sentences":
        sentences(given)
        return
    for case in CASES:
        if fnmatch(case.name, given.model):
            images(case, given)


if __name__ == "__main__":
    main()
