"""What a training is fed: batches with targets made from the original, and held-out ones that it is judged by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any, Protocol

import numpy as np

from onnxprune.data import Dataset
from onnxprune.data.repeated import Remembered
from onnxprune.io import Model
from onnxprune.measure.divergence import opened
from onnxprune.measure.outputs import Outputs
from onnxprune.recover.augment import augmenter
from onnxprune.recover.batches import MEMORY, Shuffled
from onnxprune.recover.objective import LABELS, Objective, objective
from onnxprune.recover.recipe import Recipe

Arrays = Mapping[str, np.ndarray]


class Lessons(Protocol):
    """``objective``: what is minimised."""

    objective: Objective

    def feeds(self, start: int) -> Iterator[dict[str, np.ndarray]]:
        """Yield batches from step ``start`` on: inputs and what the loss compares with."""
        ...

    def score(self, model: Model) -> float:
        """Return the held-out loss, the mean over rows; inf where it is not finite."""
        ...


class WholeModel:
    """Lessons for all of a model: inputs from ``dataset`` in random order, the original's outputs and labels as targets."""

    def __init__(
        self,
        original: Model,
        dataset: Dataset,
        judge: Dataset,
        recipe: Recipe,
        threads: int = 1,
        outputs: Outputs | None = None,
    ):
        self.fit, self.recipe, self.threads, self.outputs = dataset, recipe, threads, outputs
        self.teacher = opened(original, outputs, threads)
        self.judge = Remembered(partial(self._judged, judge), nested_bytes, MEMORY)
        seen, labels = next(iter(self.judge))[1], _all_labels(dataset, judge)
        self.objective = objective(seen, labels, recipe.outer_loss, recipe.temperature, recipe.label_weight, outputs)
        self.augment = augmenter(recipe.augment, dataset.specs) if recipe.augment else None

    def feeds(self, start: int) -> Iterator[dict[str, np.ndarray]]:
        stream = Shuffled(self.fit, self.recipe.batch, self.recipe.seed, self._complete)
        for step, batch in enumerate(islice(stream, start, None), start):
            if self.augment is None:
                yield self.objective.fed(batch)
                continue
            labels = {LABELS: batch.pop(LABELS)} if LABELS in batch else {}
            changed = self.augment(batch, np.random.default_rng([self.recipe.seed, step, 1]))
            yield self.objective.fed({**changed, **self._targets(changed), **labels})

    def _complete(self, inputs: dict[str, np.ndarray], labels: np.ndarray | None) -> dict[str, np.ndarray]:
        found = dict(inputs) if self.augment else {**inputs, **self._targets(inputs)}
        return found | ({LABELS: np.asarray(labels, np.int64)} if self.objective.classes else {})

    def _targets(self, inputs: Arrays) -> dict[str, np.ndarray]:
        distilled = self.objective.share < 1
        return self.objective.targets(self.teacher.run(inputs)) if distilled else {}

    def _judged(self, dataset: Dataset, start: int) -> Iterator[tuple[Arrays, Arrays, np.ndarray | None]]:
        """Yield held-out batches: inputs, the original's outputs, labels."""
        for inputs, labels in islice(dataset.labelled(self.recipe.batch), start, None):
            yield inputs, self.teacher.run(inputs), labels

    def score(self, model: Model) -> float:
        trained = opened(model, self.outputs, self.threads)
        total, rows = 0.0, 0
        for inputs, expected, labels in self.judge:
            count = len(next(iter(inputs.values()))) if self.fit.schema.samples else 1
            total += count * self.objective.score(expected, trained.run(inputs), labels, inputs)
            rows += count
        return total / rows if np.isfinite(total) else np.inf


def nested_bytes(batch: Any) -> int:
    """Return the size of nested arrays."""
    if isinstance(batch, Mapping | tuple | list):
        return sum(map(nested_bytes, batch.values() if isinstance(batch, Mapping) else batch))
    return batch.nbytes if isinstance(batch, np.ndarray) else 0


def _all_labels(*parts: Dataset) -> np.ndarray | None:
    labels = [part.labels for part in parts]
    return None if any(found is None for found in labels) else np.concatenate(labels)  # type: ignore[arg-type]
