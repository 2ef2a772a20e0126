"""How far two models are apart inside: the SQNR of every tensor that both have under one name, streamed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from onnx import ModelProto

from onnxprune.data import Dataset
from onnxprune.data.observe import Batch, observe
from onnxprune.means import Means
from onnxprune.model.read import Model
from onnxprune.model.runtime import Session, revealing

TOGETHER = 16  # tensors handed out by one run, and
ROWS = 8  # rows that go through at once: both bound the memory


@dataclass
class LayerDrift:
    """Energy of one tensor of the original and of the difference, summed over all rows in float64."""

    name: str
    op: str
    signal: float = 0.0
    noise: float = 0.0
    same_shape: bool = True

    def fresh(self) -> LayerDrift:
        return LayerDrift(self.name, self.op)

    def update(self, seen: tuple[Mapping[str, Any], Mapping[str, Any]]) -> None:
        """Add what both models gave for a batch."""
        self.add(*(values[self.name] for values in seen))

    def merge(self, other: LayerDrift) -> None:
        self.signal, self.noise = self.signal + other.signal, self.noise + other.noise
        self.same_shape &= other.same_shape

    def add(self, before: Any, after: Any) -> None:
        """Add a batch; tensors of different shapes are never compared, NaN or Inf in one model only is infinite noise."""
        numeric = isinstance(before, np.ndarray) and isinstance(after, np.ndarray) and before.dtype.kind == "f"
        self.same_shape &= numeric and before.shape == after.shape
        if not self.same_shape:
            return
        a, b = before.astype(np.float64), after.astype(np.float64)
        with np.errstate(invalid="ignore"):
            gap = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, a - b)
        self.signal += float(np.square(a[np.isfinite(a)]).sum())
        self.noise += float(np.square(gap).sum()) if np.isfinite(gap).all() else math.inf

    @property
    def relative_l2(self) -> float:
        """|after - before| / |before|."""
        if self.noise == 0:
            return 0.0
        return math.sqrt(self.noise / self.signal) if self.signal else math.inf

    def to_json(self) -> dict[str, Any]:
        """Return the numbers; ``sqnr_db`` is null for equal tensors, -1000 where nothing of the signal is left."""
        ratio = self.relative_l2
        sqnr = None if ratio == 0 else -1000.0 if math.isinf(ratio) else -20 * math.log10(ratio)
        return {"name": self.name, "op": self.op, "sqnr_db": sqnr, "relative_l2": ratio}


def compare_layers(before: Model, after: Model, dataset: Dataset, means: Means = Means()) -> dict[str, Any]:
    """Return ``compared``, ``reshaped`` (tensors whose shapes differ: what pruning made narrower) and ``tensors`` in order.

    Raises ModelError when a model cannot be run with its inner tensors as outputs.
    """
    found = [LayerDrift(name, op) for name, op in common_tensors(before.structure, after.structure)]
    means = replace(means, batch=min(means.batch or ROWS, ROWS))
    for start in range(0, len(found), TOGETHER):
        part = found[start : start + TOGETHER]
        names = [drift.name for drift in part]
        pair = [revealing(model, names, threads=means.threads) for model in (before, after)]
        look = partial(_both, pair, names)
        found[start : start + TOGETHER] = observe(look, dataset, part, means.quiet)
    comparable = [drift for drift in found if drift.same_shape]
    return {
        "compared": len(comparable),
        "reshaped": len(found) - len(comparable),
        "tensors": [drift.to_json() for drift in comparable],
    }


def _both(pair: Sequence[Session], names: Sequence[str], batch: Batch) -> tuple[dict[str, Any], ...]:
    return tuple(opened.run(batch.inputs, names) for opened in pair)


def common_tensors(before: ModelProto, after: ModelProto) -> Iterator[tuple[str, str]]:
    """Yield (name, operator) of every value that a node makes in both models, in the order of the first."""
    there = {name for node in after.graph.node for name in node.output}
    for node in before.graph.node:
        if node.op_type != "Constant":
            yield from ((name, node.op_type) for name in node.output if name and name in there)
