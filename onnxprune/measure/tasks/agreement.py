"""How much of the original's task another model still does, summed over batches, and which of two models does more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxprune.measure.bootstrap import RESAMPLES, Proof, paired_interval, prove
from onnxprune.measure.tasks.language import perplexity
from onnxprune.measure.tasks.table import TASKS
from onnxprune.measure.tasks.task import OPTIONS, Answered, Scored, Task

HELD = 1 << 26  # bytes of answers at most that are compared all at once


@dataclass
class TaskAgreement:
    """The score of every sample, and the parts it is made of: see ``Scored``.

    ``held``: answers that are compared all at once, ``together`` what came of it; ``left_out``: samples that were too many to be held.
    """

    task: Task
    seed: int = 0
    left_out: int = 0
    parts: list[Scored] = field(default_factory=list)
    held: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    together: Scored | None = None

    def fresh(self) -> TaskAgreement:
        return TaskAgreement(self.task, self.seed)

    def update(self, before: Answered, after: Answered) -> None:
        """Add one batch."""
        kind, self.together = TASKS[self.task.kind], None
        pair = kind.read(self.task, before), kind.read(self.task, after)
        if not kind.together:
            self.parts.append(kind.score(self.task, *pair))
        elif sum(a.nbytes + b.nbytes for a, b in [*self.held, pair]) <= HELD or not self.held:
            self.held.append(pair)
        else:
            self.left_out += len(pair[0])

    def merge(self, other: TaskAgreement) -> None:
        self.left_out, self.together = self.left_out + other.left_out, None
        self.parts += other.parts
        self.held += other.held

    @property
    def scored(self) -> list[Scored]:
        if not self.held:
            return self.parts
        if self.together is None:
            before, after = (np.concatenate(each) for each in zip(*self.held, strict=True))
            self.together = TASKS[self.task.kind].score(self.task, before, after)
        return [self.together]

    @property
    def scores(self) -> np.ndarray:
        """float64[samples], NaN where one says nothing."""
        return np.concatenate([part.scores for part in self.scored] or [np.zeros(0)])

    @property
    def known(self) -> np.ndarray:
        """The scores of samples that say something."""
        found = self.scores
        return found[~np.isnan(found)]

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the score, from a bootstrap over samples."""
        low, high = paired_interval(self.known, np.zeros(len(self.known)), seed=self.seed)
        return low, high

    def prove(self, budget: float) -> Proof:
        """Tell whether these samples prove that no more than ``budget`` of the task is lost."""
        known = self.known
        low, _ = self.interval
        return prove(np.ones(len(known)), known, (0.0, 1 - low), budget)

    def as_drop(self) -> dict[str, Any]:
        """Return the agreement as a drop of the task metric, which is 1 for the original."""
        known, name = self.known, f"{TASKS[self.task.kind].figure} against the original"
        if not len(known):
            return dict.fromkeys(("before", "after", "drop", "interval")) | {"metric": name, "samples": 0}
        score, (low, high) = float(known.mean()), self.interval
        return {
            "metric": name,
            "before": 1.0,
            "after": score,
            "drop": 1 - score,
            "interval": [1 - high, 1 - low],
            "samples": len(known),
            "resamples": RESAMPLES,
            "seed": self.seed,
        }

    def _perplexity(self) -> Mapping[str, Any] | None:
        losses = [scored.losses for scored in self.scored if scored.losses is not None]
        return perplexity(np.concatenate(losses), self.seed) if losses else None

    def to_json(self) -> dict[str, Any]:
        """Return the agreement; null where no sample says anything."""
        known, task = self.known, self.task
        sums: dict[str, np.ndarray] = {}
        for scored in self.scored:
            for name, pair in scored.parts.items():
                sums[name] = sums.get(name, np.zeros(2)) + pair
        return {
            "kind": task.kind,
            "figure": TASKS[task.kind].figure,
            "score": float(known.mean()) if len(known) else None,
            "interval": list(self.interval) if len(known) else None,
            "rows": len(self.scores) + self.left_out,
            "samples": len(known),
            "parts": {name: {"score": float(a / b) if b else None, "of": float(b)} for name, (a, b) in sums.items()},
            "found": task.found,
            "reason": task.reason,
            **({"perplexity": found} if (found := self._perplexity()) else {}),
            "options": {name: task[name] for name in OPTIONS[task.kind]},
        }
