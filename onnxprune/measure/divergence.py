"""One number for how far a pruned model's outputs are from the original's, to compare proposals by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice

import numpy as np

from onnxprune.data.observe import summed_up
from onnxprune.data.repeated import Remembered
from onnxprune.means import Means
from onnxprune.measure.kinds import outputs_like
from onnxprune.measure.layers import revealing
from onnxprune.measure.outputs import Errors, Outputs
from onnxprune.model.read import Model
from onnxprune.model.runtime import Results, Session

OUTPUTS_IN_MEMORY = 1 << 27  # bytes


def opened(model: Model, outputs: Outputs | None, means: Means = Means()) -> Session:
    """Load a model with the inner values among its outputs that are compared in place of some."""
    return revealing(model, outputs.inner if outputs else (), means)


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
        limit: int = OUTPUTS_IN_MEMORY,
        outputs: Outputs | None = None,
    ):
        self._batches, self._means = batches, means
        original = opened(model, outputs, means)
        self._expected = Remembered(
            lambda start: (original.run(batch) for batch in islice(batches, start, None)), _bytes, limit
        )
        self.outputs = outputs or outputs_like(islice(self._expected, 1))

    def divergence(self, pruned: Model) -> float:
        """Return how far a model is from the original on these batches; see ``mean_divergence``."""
        found = opened(pruned, self.outputs, self._means)
        pairs = ((batch, found.run(batch)) for batch in self._batches)
        return self.outputs.distance(summed(self.outputs, self._expected, pairs))


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
    (sums,) = summed_up(((1, outputs.errors(want, have, inputs)) for want, (inputs, have) in pairs), [ErrorSums()])
    return sums.of


@dataclass
class ErrorSums:
    """Errors of outputs by name, added up."""

    of: dict[str, Errors] = field(default_factory=dict)

    def fresh(self) -> ErrorSums:
        return ErrorSums()

    def update(self, seen: Mapping[str, Errors]) -> None:
        for name, errors in seen.items():
            self.of[name] = self.of[name] + errors if name in self.of else errors

    def merge(self, other: ErrorSums) -> None:
        self.update(other.of)
