"""Weights that become zero, without any training: top-1 and divergence on test images, cosine on held-out sentences.

python benchmarks/quality/zeros.py images --shared FOLDER [--model PATTERN] [--sparsity 0.5,0.7,2:4] [--exclude PATTERN]
python benchmarks/quality/zeros.py sentences ENCODER ROWS.npz HELD_OUT.npz [--sparsity 0.5,2:4]
"""

from __future__ import annotations

import argparse
import os
import time
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import onnxruntime as ort
from cases import CASES, Case

import onnxprune

IMAGES = 512  # without labels, that decide and refit
SENTENCES = 1024
PATTERNS = "0.5,0.7,0.8,0.9,2:4"


def outputs(model: bytes, rows: dict[str, np.ndarray], batch: int = 128) -> np.ndarray:
    """Return the first output, float32[rows, ...]."""
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    count = len(next(iter(rows.values())))
    parts = [{name: array[i : i + batch] for name, array in rows.items()} for i in range(0, count, batch)]
    return np.concatenate([session.run(None, part)[0] for part in parts])


def log_shares(scores: np.ndarray) -> np.ndarray:
    scores = scores.astype(np.float64) - scores.max(axis=1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))


def divergence(before: np.ndarray, after: np.ndarray) -> float:
    """Return the mean KL of class scores, of logarithms of shares."""
    return float((np.exp(before) * (before - after)).sum(axis=1).mean())


def mean_cosine(before: np.ndarray, after: np.ndarray) -> float:
    return float(((before * after).sum(1) / np.linalg.norm(before, axis=1) / np.linalg.norm(after, axis=1)).mean())


def read_sentences(rows: Path, held_out: Path, most: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the first of the rows that decide, and those to judge by."""
    with np.load(rows, allow_pickle=False) as one, np.load(held_out, allow_pickle=False) as other:
        return {n: one[n][:most] for n in one.files}, dict(other)


def add_sources(parser: argparse.ArgumentParser) -> None:
    """Let a benchmark be run on images or on sentences."""
    kinds = parser.add_subparsers(dest="kind", required=True)
    pictures = kinds.add_parser("images")
    pictures.add_argument("--shared", type=Path, default=Path(os.curdir))
    pictures.add_argument("--model", default="*")
    texts = kinds.add_parser("sentences")
    for name in ("encoder", "rows", "held_out"):
        texts.add_argument(name, type=Path)


def pruned(path: Path, rows: dict[str, np.ndarray], sparsity: str, options: dict) -> tuple[bytes, dict, float]:
    """Return the pruned model, the report, and CPU seconds."""
    start = time.process_time()
    found = onnxprune.prune(path, calibration=rows, sparsity=sparsity, latency=False, **options)
    return found.model.SerializeToString(), found.report, time.process_time() - start


def zeros_of(report: dict) -> float:
    rows = report["zeros"]
    return sum(row["zeros"] for row in rows) / sum(row["weights"] for row in rows)


def images(case: Case, shared: Path, patterns: list[str], options: dict) -> None:
    path = case.model(shared)
    name = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).get_inputs()[0].name
    x, _ = case.load(case.calibration, shared)
    test, labels = case.load(case.test, shared)
    chosen = np.random.default_rng(0).permutation(len(x))[:IMAGES]
    before = outputs(path.read_bytes(), {name: test})
    whole, dense = log_shares(before), float((before.argmax(1) == labels).mean())
    print(
        f"| {case.name}, {len(chosen)} images, {len(test)} to test | zeros | top-1 | KL | CPU s |\n|---|---|---|---|---|"
    )
    print(f"| unpruned | | {dense:.2%} | | |", flush=True)
    for pattern in patterns:
        model, report, seconds = pruned(path, {name: x[chosen]}, pattern, options)
        after = outputs(model, {name: test})
        kl = divergence(whole, log_shares(after))
        top = float((after.argmax(1) == labels).mean())
        print(f"| {pattern} | {zeros_of(report):.1%} | {top:.2%} | {kl:.4f} | {seconds:.0f} |", flush=True)


def sentences(path: Path, rows: Path, held_out: Path, patterns: list[str], options: dict) -> None:
    calibration, test = read_sentences(rows, held_out, SENTENCES)
    before = outputs(path.read_bytes(), test)
    print(
        f"| {path.stem}, {len(before)} held-out sentences | zeros | mean cosine | CPU s | MiB |\n|---|---|---|---|---|",
        flush=True,
    )
    for pattern in patterns:
        model, report, seconds = pruned(path, calibration, pattern, options)
        after = outputs(model, test)
        peak = report["peak_rss_bytes"] >> 20
        print(
            f"| {pattern} | {zeros_of(report):.1%} | {mean_cosine(before, after):.4f} | {seconds:.0f} | {peak} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sparsity", default=PATTERNS)
    parser.add_argument("--criterion", default="auto")
    parser.add_argument("--scope", default="auto", help="how zeros are shared out over layers")
    parser.add_argument("--exclude", action="append", default=[], help="layers that keep their weights")
    add_sources(parser)
    given = parser.parse_args()
    patterns, options = given.sparsity.split(","), {
        "criterion": given.criterion, "exclude": given.exclude, "scope": given.scope
    }  # fmt: skip
    if given.kind == "sentences":
        sentences(given.encoder, given.rows, given.held_out, patterns, options)
        return
    for case in CASES:
        if fnmatch(case.name, given.model):
            images(case, given.shared, patterns, options)


if __name__ == "__main__":
    main()
