"""Where a search ends, for whoever goes on from there and is judged by the same rows."""

from __future__ import annotations

from dataclasses import dataclass

from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.kept import Kept
from onnxprune.data import Dataset
from onnxprune.measure.divergence import Reference
from onnxprune.measure.tasks.choice import Judged
from onnxprune.search.reconstruct import Fitting, Reconstruction, refitted


@dataclass(frozen=True)
class SearchEnd:
    """``start``: what the search left, repaired on ``rows``, of which none is among those that ``judge`` (but where all are too few to part).

    ``quick`` and ``whole``: how other units that stay are repaired to be compared with each other, and with the start.
    """

    analysis: Analysis
    start: Reconstruction
    rows: Dataset
    quick: Fitting
    whole: Fitting
    judge: Reference

    def tried(self, kept: Kept) -> Judged:
        """Return what is lost with the units outside ``kept``, repaired on few rows."""
        return self.judge.judged(refitted(self.analysis, kept, self.quick).model)

    def repaired(self, kept: Kept) -> Reconstruction:
        """Return the model without the units outside ``kept``, repaired as the start is."""
        return refitted(self.analysis, kept, self.whole)

    def judged(self, found: Reconstruction) -> Judged:
        return self.judge.judged(found.model)
