"""A sentence encoder whose heads lose width, with their directions turned first and without, and heads with neurons at 60 % of the MACs.

python benchmarks/quality/heads.py MODEL CALIBRATION.npz JUDGED.npz [--samples 512] [--only widths] [--output rows.jsonl]

MODEL: an encoder whose first output is the embedding, such as sentences.py exports. Both files hold arrays named like its inputs. Printed
is the mean cosine to the unpruned model's embeddings over the judged rows, beside MACs and CPU seconds of the run.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

import onnxprune

COMMON: dict[str, Any] = {"latency": False, "round_to": 1, "threads": 1}
HEADS = {"granularity": "width", "include": ("*self*",)}
PLAIN = {"repair": "none", "criterion": "wanda"}
LAYERS = {"include": ("*layer*",), "target": "macs=60%"}


def cases(only: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what goes, and the options of a run."""
    turns: tuple[tuple[str, dict[str, Any]], ...] = (("", {}), (", rotated", {"rotate": True}))
    for name, more in turns:
        for share in (0.25, 0.5):
            yield f"{share:.0%} of the width of heads, nothing repaired{name}", HEADS | PLAIN | more | {"ratio": share}
            yield f"{share:.0%} of the width of heads{name}", HEADS | more | {"ratio": share}
    if only != "widths":
        yield "heads and neurons", {"granularity": "heads"} | LAYERS
        for name, more in turns:
            yield f"width of heads, and neurons{name}", {"granularity": "width"} | LAYERS | more
            halved = {"layer_ratio": (("*query*", 0.5),)}
            yield f"the same, queries and keys halved{name}", {"granularity": "width"} | LAYERS | more | halved


def embeddings(model: bytes, rows: dict[str, np.ndarray]) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    count = len(next(iter(rows.values())))
    parts = [{name: own[i : i + 64] for name, own in rows.items()} for i in range(0, count, 64)]
    return np.concatenate([session.run(None, part)[0] for part in parts])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "calibration", "judged"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--only", choices=("widths", "all"), default="all")
    parser.add_argument("--output", type=Path, help="rows are added to this file")
    given = parser.parse_args()
    rows = {name: array[: given.samples] for name, array in np.load(given.calibration).items()}
    judged = dict(np.load(given.judged))
    before = embeddings(given.model.read_bytes(), judged)
    print("| what goes | mean cosine | MACs | CPU s |\n|---|---|---|---|", flush=True)
    for name, options in cases(given.only):
        start = time.process_time()
        found = onnxprune.prune(given.model, calibration=rows, **COMMON, **options)
        spent, report = time.process_time() - start, found.report
        after = embeddings(found.model.SerializeToString(), judged)
        norms = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
        row = {"cosine": float(((before * after).sum(1) / norms).mean()), "cpu_seconds": spent,
               "macs": report["after"]["macs"] / report["before"]["macs"]}  # fmt: skip
        print(f"| {name} | {row['cosine']:.4f} | {row['macs']:.1%} | {spent:.0f} |", flush=True)
        if given.output:
            with given.output.open("a") as stream:
                stream.write(json.dumps({"case": name} | row) + "\n")


if __name__ == "__main__":
    main()
