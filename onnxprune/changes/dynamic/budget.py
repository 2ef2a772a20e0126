"""What may be spent on average (``--dynamic macs=75%``), and which share of the samples may run the full pass for that."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from onnxprune.allocate import Target
from onnxprune.allocate.account import batch_size
from onnxprune.changes.analysing import analyse_model
from onnxprune.changes.dynamic.joining import Passes
from onnxprune.data import Dataset
from onnxprune.errors import TargetError
from onnxprune.measure.latency import clock_of, interleave
from onnxprune.model.gated import EVERY, NO, forced
from onnxprune.model.model import Model
from onnxprune.model.runtime import session
from onnxprune.settings import Settings


@dataclass(frozen=True)
class PassCosts:
    """What the original takes, what the fast pass does, and what the full pass adds to that: MACs of a sample, or nanoseconds of a run."""

    whole: float
    fast: float
    further: float

    def expected(self, share: float) -> float:
        """Return what a sample takes on average where this share of them runs the full pass."""
        return self.fast + share * self.further

    def share(self, budget: Target) -> float:
        """Return the share of the samples that may run the full pass; raises TargetError where the fast pass takes too much already."""
        limit = budget.budget(self.whole)
        if self.fast >= limit or not self.further:
            left = self.fast / max(self.whole, 1)
            raise TargetError(
                f"--dynamic {budget} is out of reach: the pass that every sample runs takes {left:.1%} of the original's {budget.kind}; "
                "prune further (--target macs=), or allow more",
                self.fast,
            )
        return min((limit - self.fast) / self.further, 1.0)


def macs_of(passes: Passes, original: Model, fast: int, settings: Settings) -> PassCosts:
    """Return MACs of one sample; ``fast``: those of the fast pass."""
    analysis = analyse_model(original, settings)
    behind = {name for node in passes.further for name in node.output}
    found = [(volume.node, volume.at(analysis.widths)) for volume in analysis.macs]
    batch = batch_size(analysis.facts)
    further = sum(macs for node, macs in found if node is not None and not behind.isdisjoint(node.outputs))
    return PassCosts(sum(macs for _, macs in found) // batch, fast, further // batch)


def times_of(original: Model, gated: Model, rows: Dataset, settings: Settings) -> PassCosts:
    """Return nanoseconds of a run of one sample, measured in turns on a row of the data."""
    feed = next(iter(rows.batches(1)))
    models = (original, forced(gated, NO), forced(gated, EVERY))
    runs = [partial(session(model, threads=settings.threads, whole=True).run, feed) for model in models]
    times = interleave(runs, clock=clock_of(settings.threads))
    whole, fast, full = (float(np.percentile(found, 10)) for found in times)
    return PassCosts(whole, fast, max(full - fast, 0.0))


def threshold_for(scores: np.ndarray, share: float) -> float:
    """Return what so large a share of the scores, float32[rows], lies above: in the middle between two of them."""
    ranked = np.sort(scores.astype(np.float64).reshape(-1))
    above = round(share * len(ranked))
    if above >= len(ranked):
        return EVERY
    if not above:
        return float(np.nextafter(np.float32(ranked[-1]), np.float32(np.inf)))
    return float(np.float32((ranked[-above - 1] + ranked[-above]) / 2))
