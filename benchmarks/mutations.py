"""How many damaged models the proof refuses: every kind of damage to every stored tensor of every golden row and pattern.

    python benchmarks/mutations.py [--every N]

A damage that changes no output by more than 1e-5 of its position's scale, on inputs that the proof has not seen, counts as harmless.
Needs the test extra. About two minutes on one core.
"""

from __future__ import annotations

import argparse
import sys
import time
import zlib
from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from cases import OPERATORS, PATTERNS
from support.mutations import ROUNDING, Bench, damages
from support.oracles import random_plan

from onnxprune.coupling.groups import analyse
from onnxprune.coupling.prepare import prepare
from onnxprune.model.facts import gather_facts
from onnxprune.model.graph import Graph
from onnxprune.model.read import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="take every N-th network")
    every = parser.parse_args().every
    start, counts = time.process_time(), Counter[str]()
    rows = [row for row in (*chain(*OPERATORS.values()), *PATTERNS) if row.runs]
    for row in rows[::every]:
        plain = prepare(load(row.model()))
        analysis = analyse(gather_facts(plain, Graph(plain.structure)), frozenset({"neighbours", *row.allow}))
        kept = random_plan(analysis, np.random.default_rng(zlib.crc32(row.name.encode())))
        if all(mask.all() for mask in kept):
            continue
        bench = Bench(analysis, kept)
        counts["networks"] += 1
        if not bench.accepts(bench.small):
            counts["right cuts refused"] += 1
            print(f"right cut refused: {row.name}")
            continue
        for damage in damages(bench.small):
            if not bench.accepts(damage.model):
                counts["refused"] += 1
            elif (harm := bench.harm(damage.model)) <= ROUNDING:
                counts["harmless"] += 1
            else:
                counts["missed"] += 1
                print(
                    f"missed: {row.name}: {damage.kind} {damage.tensor} axis {damage.axis}, outputs move by {harm:.2g}"
                )
    total = counts["refused"] + counts["missed"]
    print(
        f"{counts['networks']} networks, {counts['right cuts refused']} right cuts refused; {total + counts['harmless']:,} damages, "
        f"{counts['harmless']} of them harmless; refused {counts['refused']:,} of {total:,} ({counts['refused'] / total:.3%}); "
        f"{time.process_time() - start:.0f} CPU s"
    )


if __name__ == "__main__":
    main()
