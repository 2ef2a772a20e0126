"""Proof that factors were written exactly: against the original in which the layers' weights are projected, node for node."""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.changes.ranks.choose import Cut
from onnxprune.changes.ranks.surgery import projected
from onnxprune.model.facts import Facts
from onnxprune.model.model import Model
from onnxprune.proof.check import Prover, SurgeryCheck
from onnxprune.proof.inputs import Feeds
from onnxprune.proof.witnesses import of_change


def check_factors(
    facts: Facts,
    cuts: Sequence[Cut],
    small: Model,
    *,
    seed: int = 0,
    threads: int = 1,
    rows: Sequence[Feeds] = (),
) -> SurgeryCheck:
    """Compare ``small`` with the original whose removed directions are silenced, on drawn inputs and ``rows``."""
    prover = Prover(facts, seed=seed, threads=threads, rows=rows)
    return prover.compare(projected(facts, cuts), small, of_change(facts, small))
