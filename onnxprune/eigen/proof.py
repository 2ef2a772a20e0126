"""Proof that factors were written exactly: against the original in which the layers' weights are projected, node for node."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import ModelProto

from onnxprune.check import SurgeryCheck, agreement, bisect
from onnxprune.eigen.choose import Cut
from onnxprune.eigen.surgery import projected, with_factors
from onnxprune.facts import Facts


def check_factors(
    facts: Facts, cuts: Sequence[Cut], small: ModelProto, *, seed: int = 0, threads: int = 1
) -> SurgeryCheck:
    """Compare ``small`` with the original whose removed directions are silenced, on random inputs."""
    return agreement(facts, projected(facts, cuts), small, seed=seed, threads=threads, complete=True)


def culprit_cuts(facts: Facts, cuts: Sequence[Cut], *, seed: int = 0, threads: int = 1) -> list[Cut]:
    """Bisect for the layers that alone already break the check."""

    def wrong(numbers: Sequence[int]) -> bool:
        trial = [cuts[number] for number in numbers]
        small = with_factors(facts, projected(facts, trial), trial)
        return not check_factors(facts, trial, small, seed=seed, threads=threads).exact

    return [cuts[number] for number in sorted(bisect(range(len(cuts)), wrong))]
