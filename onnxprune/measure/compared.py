"""Two models run on the same batches: one beside the other, or one after the other where they are too large to be loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np

from onnxprune.data import Feed
from onnxprune.data.observe import Batch, InputsOf
from onnxprune.errors import ModelError
from onnxprune.means import Means
from onnxprune.measure.outputs import Output, Outputs
from onnxprune.model.runtime import Tell
from onnxprune.model.segmented import Fed

MOST = 1 << 23  # entries of an output that are looked at together: in float64 they take many times their bytes


class Runnable(Protocol):
    """What is compared: onnxprune.model.runtime.Session, or anything that runs feeds."""

    outputs: tuple[str, ...]

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, Any]: ...

    @property
    def by_segments(self) -> bool:
        """Whether all batches had better be run at once, by ``runs``."""

    def runs(self, batches: Iterable[Fed], tell: Tell | None = None) -> Iterator[tuple[Fed, dict[str, Any]]]: ...


class Compared(NamedTuple):
    """One batch, and what both models gave for it under the original's names."""

    batch: Batch
    old: Mapping[str, Any]
    new: Mapping[str, Any]

    def parts(self, how: Outputs | None) -> Iterator[Compared]:
        """Yield the same some samples at a time where values are large, all at once where it is not known which entries are whose."""
        largest, samples = max((np.size(value) for value in self.new.values()), default=0), self.batch.samples
        axes = self._axes(how) if largest > MOST and samples > 1 else None
        if axes is None:
            yield self
            return
        step = max(samples * MOST // largest, 1)
        for start in range(0, samples, step):
            yield self._only(slice(start, min(start + step, samples)), axes)

    def _axes(self, how: Outputs | None) -> dict[str, Output] | None:
        """Return how each output is laid out, if that is known of all and all else has an entry for each sample too."""
        samples, labels = self.batch.samples, self.batch.labels
        found = {name: how.of[name] for name in self.new if name in how.of} if how else {}
        known = len(found) == len(self.new) and all(self._is_laid_out(output) for output in found.values())
        fed = [*self.batch.inputs.values(), *(() if labels is None else (labels,))]
        return found if known and all(len(array) == samples for array in fed if np.ndim(array)) else None

    def _is_laid_out(self, output: Output) -> bool:
        """Whether both models gave an output with places for every sample."""
        old, new = (np.shape(values[output.name]) for values in (self.old, self.new))
        axis = output.samples_axis
        return axis is not None and old == new and output.fits(old) and old[axis] == self.batch.samples * output.folded

    def _only(self, rows: slice, axes: Mapping[str, Output]) -> Compared:
        inputs, labels, first = self.batch.inputs, self.batch.labels, self.batch.first
        fed = Feed(
            {name: array[rows] if np.ndim(array) else array for name, array in inputs.items()}, inputs.rows[rows]
        )
        batch = Batch(fed, None if labels is None else labels[rows], first + rows.start, rows.stop - rows.start)
        old, new = (
            {name: _taken(values[name], output, rows) for name, output in axes.items()}
            for values in (self.old, self.new)
        )
        return Compared(batch, old, new)


def _taken(value: np.ndarray, output: Output, rows: slice) -> np.ndarray:
    """Return the entries of some samples."""
    assert output.samples_axis is not None
    own = slice(rows.start * output.folded, rows.stop * output.folded)
    return value[(slice(None),) * output.samples_axis + (own,)]


@dataclass(frozen=True)
class TwoModels:
    """Runs two models on the same; ``pairs``: outputs of the first and of the second that are compared."""

    before: Runnable
    after: Runnable
    pairs: Mapping[str, str]

    def __call__(self, batch: Batch) -> Compared:
        return self._compared(batch, self.before.run(batch.inputs), self.after.run(batch.inputs))

    def _compared(self, batch: Batch, old: Mapping[str, Any], new: Mapping[str, Any]) -> Compared:
        return Compared(batch, old, {name: new[other] for name, other in self.pairs.items()})


@dataclass(frozen=True)
class TwoModelsInTurn(TwoModels):
    """The same for models that are too large to be loaded: first one of them passes over all batches, segment by segment."""

    means: Means

    def over(self, batches: Callable[[], Iterator[Batch]]) -> Iterator[Compared]:
        """Yield what a call gives for each of the batches, which can be begun anew."""
        feeds = InputsOf(batches)
        old, new = (
            model.runs(feeds, partial(self._tell, f"outputs of {which}"))
            for model, which in ((self.before, "the original"), (self.after, "the result"))
        )
        for batch, (_, one), (_, other) in zip(batches(), old, new, strict=True):
            yield self._compared(batch, one, other)

    def _tell(self, what: str, done: int, count: int) -> None:
        self.means.progress(f"{what}: {done:,} of {count:,}", done, count)


def pair_outputs(before: tuple[str, ...], after: tuple[str, ...]) -> dict[str, str]:
    """Match outputs by name, or by position where no name is shared; raise ModelError when neither is possible."""
    shared = {name: name for name in before if name in after}
    if shared:
        return shared
    if len(before) != len(after):
        raise ModelError(f"the models share no output: {', '.join(before)} against {', '.join(after)}")
    return dict(zip(before, after, strict=True))
