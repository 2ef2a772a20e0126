"""Proof that a cut was exact: the smaller model against the original with the removed units silenced.

The original runs first: what it refuses is not the cut's fault. Then reference and result run on the same inputs, and outputs and
inner values are compared position by position, each on its own scale. What was not seen is called not proven, never exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.kept import Kept
from onnxprune.coupling.silence import silenced
from onnxprune.model.model import Model
from onnxprune.proof.inputs import Feeds
from onnxprune.proof.prover import Prover
from onnxprune.proof.verdict import OutputProof, SurgeryCheck
from onnxprune.proof.witnesses import of_cut

__all__ = ["OutputProof", "Prover", "SurgeryCheck", "bisect", "check_cut"]

T = TypeVar("T")


def check_cut(
    analysis: Analysis,
    kept: Sequence[np.ndarray],
    small: Model,
    *,
    seed: int = 0,
    threads: int = 1,
    rows: Sequence[Feeds] = (),
    prover: Prover | None = None,
) -> SurgeryCheck:
    """Compare ``small`` with the silenced original on drawn inputs, and on ``rows`` of real data where there are any."""
    kept = Kept.of(analysis, kept)
    reference, lossy = silenced(analysis, kept)
    prover = prover or Prover(analysis.facts, seed=seed, threads=threads, rows=rows)
    return replace(prover.compare(reference, small, of_cut(analysis, kept)), lossy_nodes=lossy)


def bisect(groups: Sequence[T], wrong: Callable[[Sequence[T]], bool]) -> list[T]:
    """Return the members of ``groups`` that are wrong on their own, or that are only together."""
    if not groups or not wrong(groups):
        return []
    if len(groups) == 1:
        return list(groups)
    middle = len(groups) // 2
    found = bisect(groups[:middle], wrong) + bisect(groups[middle:], wrong)
    return found or list(groups)  # only together are they wrong
