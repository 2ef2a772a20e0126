"""What a training is fed: batches with targets made from the original, and held-out ones that it is judged by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np

from onnxprune.data import Dataset
from onnxprune.data.observe import Sums, summed_up
from onnxprune.data.repeated import Remembered
from onnxprune.means import Means
from onnxprune.measure.divergence import opened
from onnxprune.measure.outputs import Outputs
from onnxprune.model.batched import owned
from onnxprune.model.memory import bytes_allowed, bytes_per_row
from onnxprune.model.read import Model
from onnxprune.model.runtime import Arrays, revealing
from onnxprune.recover.augment import augmenter, harmless
from onnxprune.recover.batches import Shuffled
from onnxprune.recover.hints import with_variances
from onnxprune.recover.objective import LABELS, Objective, objective
from onnxprune.recover.recipe import Recipe

COMPUTED, HELD = (
    0.5,
    0.125,
)  # shares of the memory: values of one run of the gradients; rows of data, and as much to judge by


HINT_ROWS = 32  # by which the variances of hints are told


class Part(NamedTuple):
    """What the model is fed at once, a part of a batch, and how many ``rows`` of the data that is."""

    feed: Arrays
    rows: int


class Lessons(Protocol):
    """``objective``: what is minimised. ``runs``: batches that make a step. ``shapes``: those of every batch, where they are known."""

    shapes: Mapping[str, Sequence[int]] | None
    objective: Objective
    runs: int

    def feeds(self, start: int, rows: int) -> Iterator[dict[str, np.ndarray]]:
        """Yield batches of so many rows from number ``start`` on: inputs and what the loss compares with."""
        ...

    def fitted(self, gradients: Model) -> str:
        """Take as many rows at once as memory has room for their ``gradients``; return what is to be said of it."""
        ...

    def parts(self, batch: Arrays) -> list[Part]:
        """Return a batch as what the model takes, and memory holds, at once."""
        ...

    def score(self, model: Model) -> float:
        """Return the held-out loss, the mean over rows; inf where it is not finite."""
        ...


@dataclass(frozen=True)
class Teaching:
    """What ``original`` has to teach: its outputs on ``dataset``; ``outputs``: how they are compared.

    ``judge``: data that decides what is better, best none that a repair has seen.
    """

    original: Model
    dataset: Dataset
    judge: Dataset
    outputs: Outputs | None = None


class WholeModel:
    """Lessons for all of a model: inputs from ``dataset`` in random order, the original's outputs and labels as targets.

    A batch has as many rows as the recipe says, or the nearest multiple below it of a batch that the file fixes.
    """

    runs = 1
    shapes: Mapping[str, Sequence[int]] | None = None

    def __init__(
        self,
        teaching: Teaching,
        recipe: Recipe,
        means: Means = Means(),
        hints: Sequence[str] = (),
    ):
        dataset, judge, outputs = teaching.dataset, teaching.judge, teaching.outputs
        self.teaching, self.fit, self.recipe, self.means, self.outputs = teaching, dataset, recipe, means, outputs
        fixed = dataset.schema.fixed_batch
        self.batch = self._whole(recipe.rows)
        self.limit = bytes_allowed(means.memory)
        self.part = self.judged = fixed or self._held_at_once(teaching.original, self._rows)
        inner = (*(outputs.inner if outputs else ()), *hints)
        self.teacher = revealing(teaching.original, inner, threads=means.threads)
        self.taught = tuple(name for name in self.teacher.outputs if name not in hints)
        self.judge = Remembered(partial(self._judged, judge), nested_bytes, int(HELD * self.limit))
        seen, labels = next(iter(self.judge))[1], _all_labels(dataset, judge)
        self.objective = objective(
            seen, labels, recipe.outer_loss, recipe.temperature, recipe.label_weight, outputs, dataset.schema.samples
        )
        if hints:
            few = islice(self.fit.batches(self.judged), -(-HINT_ROWS // self.judged))
            found = with_variances(hints, (self.teacher.run(inputs) for inputs in few))
            self.objective = replace(self.objective, hints=found, hint_weight=recipe.hints)
        self.changes = self._changes()
        self.fresh = bool(self.changes or self.objective.hints)
        self.augment = augmenter(self.changes, dataset.schema.fresh) if self.changes else None

    def _changes(self) -> tuple[str, ...]:
        """Return how rows are changed before they are trained on."""
        if self.recipe.by_blocks:
            return ()
        run = partial(self.teacher.run, outputs=self.taught)
        return harmless(self.recipe.augment, self.fit, run, self.objective.outputs)

    def _whole(self, rows: int) -> int:
        """Return the nearest number of rows below that makes whole runs of a file with a batch of its own."""
        fixed = self.fit.schema.fixed_batch
        return max(rows // fixed, 1) * fixed if fixed else rows

    def feeds(self, start: int, rows: int) -> Iterator[dict[str, np.ndarray]]:
        """Yield batches of so many rows from number ``start`` on: inputs and what the loss compares with."""
        stream = Shuffled(
            self.fit, self._whole(rows), self.recipe.seed, self._complete, int(HELD * self.limit), part=self.judged
        )
        for step, batch in enumerate(islice(stream, start, None), start):
            if self.augment is None:
                yield batch
                continue
            labels = {LABELS: batch.pop(LABELS)} if LABELS in batch else {}
            changed = self.augment(batch, np.random.default_rng([self.recipe.seed, step, 1]))
            yield {**changed, **labels}

    def _complete(self, inputs: dict[str, np.ndarray], labels: np.ndarray | None) -> dict[str, np.ndarray]:
        found = dict(inputs) if self.fresh else {**inputs, **self._targets(inputs)}
        return found | ({LABELS: np.asarray(labels, np.int64)} if self.objective.classes else {})

    def _targets(self, inputs: Arrays) -> dict[str, np.ndarray]:
        if self.objective.share >= 1:
            return {}
        found = [self.objective.targets(self.teacher.run(part.feed, self.taught)) for part in self._sliced(inputs)]
        return found[0] if len(found) == 1 else {n: np.concatenate([part[n] for part in found]) for n in found[0]}

    def parts(self, batch: Arrays) -> list[Part]:
        """Return a batch as what the model takes, and memory holds, at once."""
        return [Part(self.objective.fed(self._with_targets(part.feed)), part.rows) for part in self._sliced(batch)]

    def _with_targets(self, feed: Arrays) -> Arrays:
        """Return a part of a batch with what the loss compares with, where that was not made beforehand."""
        if not self.fresh:
            return feed
        found = self.teacher.run({name: feed[name] for name in self.teacher.inputs})
        return {**feed, **self.objective.targets(found), **self.objective.inside(found)}

    def fitted(self, gradients: Model) -> str:
        """Take as many rows at once as memory has room for their gradients; return what is to be said of it."""
        if self.fit.schema.samples and not self.fit.schema.fixed_batch:
            self.part = self._held_at_once(gradients, self._fed_rows)
        changed = f", {' and '.join(self.changes)} at random" if self.changes else ""
        return f"at most {min(self.part, self.batch)} rows at once, to stay within {self.limit / 1e9:.1f} GB{changed}"

    def _held_at_once(self, model: Model, shapes: Callable[[int], Mapping[str, Sequence[int]]]) -> int:
        """Return how many rows of a batch go through a model at once so that memory has room for it, in equal parts."""
        if not self.fit.schema.samples:
            return self.batch
        most = int(COMPUTED * self.limit) // bytes_per_row(model, shapes)
        return -(-self.batch // -(-self.batch // max(most, 1)))

    def _rows(self, count: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of so many rows of the data."""
        return {name: (count, *np.shape(array)[1:]) for name, array in next(self.fit.batches(1)).items()}

    def _fed_rows(self, count: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of so many rows as the gradients take them."""
        inputs, labels = next(self.fit.labelled(1))
        batch = self._complete({name: np.repeat(array, count, 0) for name, array in inputs.items()}, labels)
        batch |= {LABELS: np.repeat(batch[LABELS], count, 0)} if LABELS in batch else {}
        return {name: np.shape(array) for name, array in self.objective.fed(self._with_targets(batch)).items()}

    def _sliced(self, batch: Arrays) -> list[Part]:
        if not self.fit.schema.samples:
            return [Part(batch, 1)]
        count = self.fit.samples(batch)
        starts = range(0, count, self.part)
        return [
            Part({n: a[start : start + self.part] for n, a in batch.items()}, min(self.part, count - start))
            for start in starts
        ]

    def _judged(self, dataset: Dataset, start: int) -> Iterator[tuple[Arrays, Arrays, np.ndarray | None]]:
        """Yield held-out batches: inputs, the original's outputs, labels."""
        for inputs, labels in islice(dataset.labelled(self.judged), start, None):
            yield inputs, {n: owned(value) for n, value in self.teacher.run(inputs, self.taught).items()}, labels

    def score(self, model: Model) -> float:
        trained = opened(model, self.outputs, self.means)
        return mean_loss(
            (self.fit.samples(inputs), self.objective.score(expected, trained.run(inputs), labels, inputs))
            for inputs, expected, labels in self.judge
        )


def mean_loss(losses: Iterable[tuple[int, float]]) -> float:
    """Return the mean over rows of the mean losses of batches, (rows, loss) each; inf where it is not finite."""
    (sums,) = summed_up(((rows, (rows, rows * loss)) for rows, loss in losses), [Sums()])
    rows, total = sums.totals
    return float(total / rows) if np.isfinite(total) else np.inf


def nested_bytes(batch: Any) -> int:
    """Return the size of nested arrays."""
    if isinstance(batch, Mapping | tuple | list):
        return sum(map(nested_bytes, batch.values() if isinstance(batch, Mapping) else batch))
    return batch.nbytes if isinstance(batch, np.ndarray) else 0


def _all_labels(*parts: Dataset) -> np.ndarray | None:
    labels = [part.labels for part in parts]
    return None if any(found is None for found in labels) else np.concatenate(labels)  # type: ignore[arg-type]
