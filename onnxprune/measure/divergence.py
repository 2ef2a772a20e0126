"""One number for how far a pruned model's outputs are from the original's, to compare proposals by."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Generic, TypeVar

import numpy as np

from onnxprune.data.observe import summed_up
from onnxprune.data.repeated import Later, Remembered
from onnxprune.means import Means
from onnxprune.measure.kinds import outputs_like
from onnxprune.measure.outputs import CLASSES, Errors, Outputs
from onnxprune.measure.tasks.agreement import TaskAgreement
from onnxprune.measure.tasks.choice import Judged
from onnxprune.measure.tasks.task import Answered
from onnxprune.model.batched import owned
from onnxprune.model.memory import room
from onnxprune.model.read import Model
from onnxprune.model.runtime import Results, Session, revealing

OUTPUTS_IN_MEMORY = 1 << 27  # bytes
TEMPERATURE = 4.0
"""At which class scores are compared where models are chosen: networks are certain of the images that they were trained on, which
calibration data often are, so that at 1 a few doubtful rows decide; at 4 the order of all classes does, which holds on unseen images."""

K = TypeVar("K", bound=Hashable)


def opened(model: Model, outputs: Outputs | None, means: Means = Means()) -> Session:
    """Load a model with the inner values among its outputs that are compared in place of some."""
    found = revealing(model, outputs.inner if outputs else (), threads=means.threads)
    return found.leaving(outputs.state) if outputs else found


class Reference:
    """The original's outputs on fixed batches, to judge pruned models by; what does not fit into memory is computed anew.

    ``outputs``: how they are compared (None: as the first batch alone tells).
    """

    def __init__(
        self,
        model: Model,
        batches: Iterable[Mapping[str, np.ndarray]],
        means: Means = Means(),
        *,
        limit: int | None = None,
        outputs: Outputs | None = None,
    ):
        self._batches, self._means = batches, means

        def answers(start: int) -> Iterator[Results]:
            original = opened(model, outputs, means)  # for as long as something is new: it holds all weights once more
            for _, found in original.runs(Later(batches, start)):
                yield {name: owned(value) for name, value in found.items()}

        self._expected = Remembered(answers, _bytes, room(means, OUTPUTS_IN_MEMORY) if limit is None else limit)
        self.outputs = outputs or outputs_like(islice(self._expected, 1))

    def divergence(self, pruned: Model) -> float:
        """Return how far a model is from the original on these batches; see ``mean_divergence``."""
        return self._measured(pruned, (self.outputs,), None)[0]

    def judged(self, pruned: Model) -> Judged:
        """Return what to choose by, and, where the task is known, what is left of it on every sample; see ``least_lost``."""
        task = self.outputs.task
        agreement = None if task is None else TaskAgreement(task, self._means.seed)
        classes = any(output.kind in CLASSES for output in self.outputs.judged)
        softened = (self.outputs.softened(TEMPERATURE),) if classes else ()
        divergence, *soft = self._measured(pruned, (self.outputs, *softened), agreement)
        return Judged(divergence, None if agreement is None else agreement.scores, soft[0] if soft else None)

    def _measured(self, pruned: Model, ways: Sequence[Outputs], agreement: TaskAgreement | None) -> list[float]:
        """Return the distance by each of several ways to compare outputs."""
        found = opened(pruned, self.outputs, self._means)

        def pairs() -> Iterator[tuple[int, dict[tuple[int, str], Errors]]]:
            for expected, (batch, have) in zip(self._expected, found.runs(self._batches), strict=True):
                mask = batch.get(self.outputs.mask)
                if agreement is not None:
                    agreement.update(*(Answered(results, mask, batch) for results in (expected, have)))
                errors = (way.errors(expected, have, batch) for way in ways)
                yield 1, {(number, name): each for number, one in enumerate(errors) for name, each in one.items()}

        (sums,) = summed_up(pairs(), [ErrorSums[tuple[int, str]]()])
        return [
            way.distance({name: each for (number, name), each in sums.of.items() if number == place})
            for place, way in enumerate(ways)
        ]


def _bytes(outputs: Results) -> int:
    return sum(value.nbytes for value in outputs.values() if isinstance(value, np.ndarray))


def mean_divergence(original: Iterable[Results], pruned: Iterable[Results], outputs: Outputs | None = None) -> float:
    """Return the mean over outputs: KL of class scores, else squared error over variance, each channel by its own.

    Where no output is a float, the share of elements that differ. Infinite where a value is not finite or a shape has changed.
    ``outputs``: how they are compared (None: as the first batch tells).
    """
    batches = iter(original)
    if outputs is None:
        first = next(batches, {})
        outputs, batches = outputs_like([first]), chain([first], batches)
    return outputs.distance(summed(outputs, batches, ((None, batch) for batch in pruned)))


def summed(
    outputs: Outputs, expected: Iterable[Results], found: Iterable[tuple[Results | None, Results]]
) -> dict[str, Errors]:
    """Return the errors per output over all batches; ``found``: inputs (None: unknown) and outputs."""
    pairs = zip(expected, found, strict=True)
    (sums,) = summed_up(((1, outputs.errors(want, have, inputs)) for want, (inputs, have) in pairs), [ErrorSums[str]()])
    return sums.of


@dataclass
class ErrorSums(Generic[K]):
    """Errors of outputs by name, added up."""

    of: dict[K, Errors] = field(default_factory=dict)

    def fresh(self) -> ErrorSums[K]:
        return ErrorSums()

    def update(self, seen: Mapping[K, Errors]) -> None:
        for name, errors in seen.items():
            self.of[name] = self.of[name] + errors if name in self.of else errors

    def merge(self, other: ErrorSums[K]) -> None:
        self.update(other.of)
