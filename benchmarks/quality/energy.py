"""How much of each normalised value of a model lies outside its leading directions: what a narrower stream loses at least.

python benchmarks/quality/energy.py MODEL ROWS.npz [--keep 0.75 0.6] [--rows-used 128]

For every layer norm the share of the energy (of the second moment's trace) outside the best basis of its own, and outside the one
basis that is best for all of them together, which is what a stream without products at its shortcuts has to make do with.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from onnxprune.data import input_specs, open_dataset
from onnxprune.evidence import gather
from onnxprune.evidence.needs import Need
from onnxprune.model.facts import gather_facts
from onnxprune.model.graph import Graph
from onnxprune.model.read import load

NORMS = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")


def outside(moment: np.ndarray, basis: np.ndarray, keep: int) -> float:
    """Return the share of the trace of float64[n, n] outside the first ``keep`` columns of an orthonormal basis."""
    inside = np.einsum("ik,ij,jk->", basis[:, :keep], moment, basis[:, :keep])
    return float(1 - inside / np.trace(moment))


def leading(moment: np.ndarray) -> np.ndarray:
    return np.linalg.eigh(moment)[1][:, ::-1]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--keep", type=float, nargs="*", default=[0.75, 0.6])
    parser.add_argument("--rows-used", type=int, default=128)
    given = parser.parse_args()
    model = load(given.model)
    facts = gather_facts(model, Graph(model.structure))
    values = [node.outputs[0] for node in facts.graph.top if node.op in NORMS]
    needs = [Need("gram", value, len(facts.shape(value) or ()) - 1) for value in values]
    data = open_dataset(given.rows, input_specs(model.structure)).take(given.rows_used, 0)
    seen = gather(facts, data, needs)
    moments = [seen[need].second_moment[0] for need in needs]
    moments = [moment / np.trace(moment) for moment in moments]
    joint = leading(sum(moments))
    for share in given.keep:
        keep = round(share * len(joint))
        own = [outside(moment, leading(moment), keep) for moment in moments]
        shared = [outside(moment, joint, keep) for moment in moments]
        print(f"{keep} of {len(joint)} directions: outside, own basis {min(own):.3f} to {max(own):.3f}, "
              f"one basis {min(shared):.3f} to {max(shared):.3f} (mean {np.mean(shared):.3f})")  # fmt: skip


if __name__ == "__main__":
    main()
