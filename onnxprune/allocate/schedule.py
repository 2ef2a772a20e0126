"""How much is gone after each step of a run in steps."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from onnxprune.errors import UsageError
from onnxprune.registry import Registry

DEFAULT_STEPS = 4

SCHEDULES: Registry[Callable[[float, float], float]] = Registry("schedule")
"""(share of the steps done, share that goes in all) -> share that is gone."""


@SCHEDULES.register("one-shot")
def one_shot(done: float, final: float) -> float:
    """All at once."""
    return final


@SCHEDULES.register("linear")
def linear(done: float, final: float) -> float:
    """The same number of units in every step."""
    return final * done


@SCHEDULES.register("cubic")
def cubic(done: float, final: float) -> float:
    """Much at first, little at the end: s_f (1 - (1 - t)^3).

    Zhu and Gupta 2017, "To prune, or not to prune", eq. 1 with an initial sparsity of zero.
    """
    return final * (1 - (1 - done) ** 3)


@SCHEDULES.register("geometric")
def geometric(done: float, final: float) -> float:
    """The same share of what is left in every step: 1 - (1 - s_f)^t.

    Frankle and Carbin 2019, "The Lottery Ticket Hypothesis", section 1: p^(1/n) % of the weights in each round.
    """
    return 1 - (1 - final) ** done


@dataclass(frozen=True)
class Schedule:
    """A named schedule and its number of steps."""

    name: str
    steps: int

    def shares(self, final: float) -> list[float]:
        """Return what is gone after each step, the last being ``final`` itself."""
        shares = [SCHEDULES[self.name](step / self.steps, final) for step in range(1, self.steps)]
        return [*shares, final]


def parse_schedule(text: str) -> Schedule:
    """Read NAME[:STEPS] such as cubic:5; raises UsageError."""
    name, _, steps = (part.strip() for part in text.partition(":"))
    SCHEDULES[name]
    if name == "one-shot":
        if steps not in ("", "1"):
            raise UsageError(f"schedule {text}: one-shot has one step; known: {', '.join(SCHEDULES)}")
        return Schedule(name, 1)
    if not re.fullmatch(r"[0-9]{0,3}", steps) or (steps and int(steps) < 2):
        raise UsageError(f"schedule {text}: give the number of steps, 2 to 999, e.g. {name}:{DEFAULT_STEPS}")
    return Schedule(name, int(steps or DEFAULT_STEPS))
