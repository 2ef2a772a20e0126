"""How far a run has come: the stages that lie before it, what each is expected to take, and how long it will last."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from onnxprune.progress import Share

TRUSTED = 0.25
"""Share of a stage from which on its own pace alone says how long the rest of it takes."""
FASTEST, SLOWEST = 0.02, 30.0
"""How many times longer than expected a run may be taken to last."""
PRIOR = 0.5  # seconds of expectation that are believed whatever has been seen


class Stretch(NamedTuple):
    """A stage ahead: the seconds it is expected to take in all, in how many turns."""

    seconds: float
    turns: int = 1


@dataclass
class Course:
    """Stages by name as they are expected (``ahead``), and what came of them; ``clock``: seconds.

    How much longer a run lasts is what its stages take at the pace of those that are done: of the present stage as it counts itself,
    of one that comes again as it was the last times.
    """

    clock: Callable[[], float] = time.monotonic
    ahead: dict[str, Stretch] = field(default_factory=dict)
    spent: dict[str, float] = field(default_factory=dict)
    turns: dict[str, int] = field(default_factory=dict)
    reached: float = 0.0

    def __post_init__(self) -> None:
        self._begun = self._since = self.clock()
        self._stages: list[str] = []
        self._inner: Share = float
        self._done = 0.0
        self._lock = threading.RLock()  # who shows how far a run has come asks at any time

    # --- what a run tells -------------------------------------------------------------------------------------------

    def expect(self, stages: Mapping[str, Stretch]) -> None:
        """Take note of what lies ahead, in place of what was expected before."""
        with self._lock:
            self.ahead = dict(stages)

    def begin(self, stage: str) -> None:
        """Enter a stage; one inside another is a part of that."""
        with self._lock:
            self._stages.append(stage)
            if len(self._stages) == 1:
                self._since, self._inner, self._done = self.clock(), float, 0.0

    def end(self) -> None:
        """Leave the stage that was entered last."""
        with self._lock:
            stage = self._stages.pop()
            if not self._stages:
                self.spent[stage] = self.spent.get(stage, 0.0) + self.clock() - self._since
                self.turns[stage] = self.turns.get(stage, 0) + 1

    def count(self, inner: Share) -> None:
        """Take note of a function that says how much of the present stage is done."""
        with self._lock:
            self._done = self._inside
            self._inner = inner

    # --- what follows from it ---------------------------------------------------------------------------------------

    def share(self) -> float:
        """Return what share of the run's time is over, never less than before; 0 while nothing is known."""
        with self._lock:
            left = self.left()
            if left is not None:
                elapsed = self.clock() - self._begun
                self.reached = max(self.reached, elapsed / max(elapsed + left, 1e-9))
            return self.reached

    def left(self) -> float | None:
        """Return the seconds that are left, None while nothing is known."""
        if not self.ahead:
            return None
        now, pace = self._stages[0] if self._stages else "", self._pace()
        rest = sum(self._later(name, name == now, pace) for name in self.ahead)
        return rest + (self._rest_of(now, pace) if now else 0.0)

    @property
    def _inside(self) -> float:
        return max(self._done, min(max(self._inner(), 0.0), 1.0))

    def _turn(self, stage: str) -> float:
        """Return what a turn of a stage is expected to take."""
        found = self.ahead.get(stage, Stretch(0.0))
        return found.seconds / max(found.turns, 1)

    def _pace(self) -> float:
        """Return how many times longer than expected the stages took that are done."""
        expected = sum(self._turn(name) * self.turns[name] for name in self.spent if name in self.ahead)
        taken = sum(seconds for name, seconds in self.spent.items() if name in self.ahead)
        return min(max((taken + PRIOR) / (expected + PRIOR), FASTEST), SLOWEST)

    def _later(self, stage: str, present: bool, pace: float) -> float:
        """Return what the turns of a stage will take that have not begun."""
        done = self.turns.get(stage, 0)
        left = max(self.ahead[stage].turns - done - present, 0)
        return left * (self.spent[stage] / done if done else self._turn(stage) * pace)

    def _rest_of(self, stage: str, pace: float) -> float:
        """Return what is left of the present turn: as it counts itself, as far as it has come, else as was expected."""
        taken, done = self.clock() - self._since, self._inside
        before = self.turns.get(stage, 0)
        whole = self.spent[stage] / before if before else self._turn(stage) * pace
        expected = max(whole * (1 - done), whole - taken, 0.0) if done else max(whole - taken, 0.0)
        counted = taken * (1 - done) / done if done else 0.0
        trust = min(done / TRUSTED, 1.0)
        return trust * counted + (1 - trust) * expected
