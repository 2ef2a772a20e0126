"""One proof for every kind of decision: tried, and where it fails, the parts at fault found, so that the rest is decided anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from onnxprune.coupling.links import Barrier
from onnxprune.errors import ModelError, SurgeryError, TargetError, UnprovenError
from onnxprune.model.model import Model
from onnxprune.proof.check import SurgeryCheck, bisect
from onnxprune.runs.stages import Stages
from onnxprune.settings import Settings

REFUTED = "cutting it is not exact on this model"
"""How the reason begins of what the surgery check keeps whole."""

P = TypeVar("P")


class Attempt(NamedTuple):
    """What carrying out a decision gives, and what the proof says of it."""

    model: Model | None
    check: SurgeryCheck


class Refuted(Exception, Generic[P]):
    """Parts of a decision that cannot be carried out exactly, and why."""

    def __init__(self, parts: Mapping[P, Barrier]):
        super().__init__("; ".join(dict.fromkeys(barrier.reason for barrier in parts.values())))
        self.parts = parts

    def nothing_left(self, what: str) -> TargetError:
        """Return the error for a model of which no other part could go."""
        return TargetError(
            f"no {what} of this model can go exactly: {self}. Nothing was written; onnxprune inspect MODEL lists what else "
            "there is"
        )


def proven(
    parts: Sequence[P], make: Callable[[Sequence[P]], Model], check: Callable[[Sequence[P], Model], SurgeryCheck],
    settings: Settings, stages: Stages,
) -> Attempt:  # fmt: skip
    """Carry out a decision of several parts and prove it; return the model and the proof.

    Raises Refuted with the parts at fault, SurgeryError where none can be found, UnprovenError where not everything could be
    seen and the settings do not allow that, ModelError where the original itself cannot be run.
    """

    def attempt(some: Sequence[P]) -> Attempt:
        try:
            with stages("cut"):
                model = make(some)
            with stages("check"):
                return Attempt(model, check(some, model))
        except SurgeryError as error:
            return Attempt(None, SurgeryCheck(False, np.inf, np.inf, 0.0, problem=str(error)))

    try:
        made = attempt(parts)
    except ModelError as error:
        if not settings.allow_unproven:
            raise
        return Attempt(make(parts), SurgeryCheck(False, 0.0, 0.0, 0.0, unproven=str(error)))
    if made.check.agrees and made.model is not None:
        _admit(made.check, settings)
        return made
    at_fault = bisect(parts, lambda some: not attempt(some).check.agrees)
    if not at_fault:
        raise SurgeryError(
            f"the pruned model does not compute what it should ({made.check.problem}); nothing was written"
        )
    alone = {part: attempt([part]).check for part in at_fault}
    raise Refuted({part: _barrier(found if not found.agrees else made.check) for part, found in alone.items()})


def _barrier(check: SurgeryCheck) -> Barrier:
    return Barrier(check.where, f"{REFUTED}: {check.problem}", "check")


def _admit(check: SurgeryCheck, settings: Settings) -> None:
    """Refuse what was not seen; raises UnprovenError."""
    if check.unproven and not settings.allow_unproven:
        raise UnprovenError(
            f"the cut agrees with the original wherever that could be compared, but not everything was seen: {check.unproven}. "
            "Give real inputs that show it (--calib), or accept it as it is (--allow-unproven). Nothing was written"
        )


def first_rows(dataset: Any, most: int = 2) -> list[dict[str, np.ndarray]]:
    """Return a few real rows for the proof, as one run takes them; none without data."""
    return [] if dataset is None else [dict(next(iter(dataset.batches(most))))]
