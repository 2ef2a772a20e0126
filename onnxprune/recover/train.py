"""The training loop: gradients from ONNX Runtime, the optimiser in numpy, the best state on held-out data kept."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from onnxprune.data import Dataset
from onnxprune.data.repeated import Remembered, held_out
from onnxprune.grad import backward, gradient_name
from onnxprune.io import Model
from onnxprune.recover import checkpoint as file
from onnxprune.recover.augment import augmenter
from onnxprune.recover.batches import MEMORY, Shuffled
from onnxprune.recover.objective import LABELS, objective
from onnxprune.recover.optimisers import OPTIMISERS, clipped
from onnxprune.recover.parameters import trainable, with_parameters
from onnxprune.recover.recipe import Recipe
from onnxprune.recover.statistics import with_statistics
from onnxprune.runtime import session

Arrays = Mapping[str, np.ndarray]

HELD_OUT, MOST_HELD_OUT = 0.125, 512  # share of the data to judge by, rows at most
EVALUATIONS = 20  # times that held-out data is looked at, spread evenly
DIVERGED = 2.0  # times the best held-out loss: from here on the training goes back to the best
SLOWER = 0.5  # the learning rate's factor after going back


@dataclass(frozen=True)
class Recovered:
    """The model and how it came about; ``before`` and ``after``: the held-out loss.

    ``kept``: trained, trained+statistics, or original where training made nothing better. ``went_back``: how often it
    diverged. ``labels``: whether the task loss took part.
    """

    model: ModelProto
    steps: int
    seconds: float
    before: float
    after: float
    kept: str
    went_back: int
    labels: bool

    def to_json(self) -> dict[str, object]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "model"}


def recover(
    original: Model,
    pruned: ModelProto,
    dataset: Dataset,
    recipe: Recipe,
    *,
    judge: Dataset | None = None,
    masks: Arrays | None = None,
    checkpoint: Path | None = None,
    threads: int = 1,
    progress: Callable[[str], None] = lambda text: None,
) -> Recovered:
    """Train the weights of ``pruned`` to bring the outputs of ``original`` back; never return a worse model.

    ``judge``: data that decides what is better, best none that a repair has seen; by default an eighth of ``dataset``, at
    most 512 rows, which is then not trained on. ``masks``: parameter -> bool of its shape; where
    False the weight stays zero. ``checkpoint``: file to keep the state in, and to go on from if it is there.
    Raises ModelError where no gradient can be taken, DataError where the loss does not fit the data.
    """
    rest, judge = (dataset, judge) if judge else split_judge(dataset, recipe.seed)
    training = Training(original, pruned, rest, judge, recipe, masks or {}, threads, progress)
    digest = _digest(original, pruned, (rest, judge), recipe) if checkpoint else ""
    if checkpoint and checkpoint.exists():
        training.restore(file.read(checkpoint, digest, training.arrays))
    for _ in training.run():
        if checkpoint:
            file.write(checkpoint, digest, training.state, training.arrays)
    return training.result()


def split_judge(dataset: Dataset, seed: int) -> tuple[Dataset, Dataset]:
    """Return (what to train on, what to judge by)."""
    return held_out(dataset, HELD_OUT, MOST_HELD_OUT, seed)


def _digest(original: Model, pruned: ModelProto, data: Sequence[Dataset], recipe: Recipe) -> str:
    parts = (original.sha256, hashlib.sha256(pruned.SerializeToString(deterministic=True)).hexdigest())
    return hashlib.sha256(repr((*parts, *(part.digest() for part in data), recipe)).encode()).hexdigest()


@dataclass
class Progress:
    """Where a training is; all that a checkpoint holds beside arrays."""

    steps: int = 0
    seconds: float = 0.0
    evaluations: int = 0
    before: float = np.inf
    best: float = np.inf
    factor: float = 1.0
    went_back: int = 0
    updates: int = 0


class Training:
    """One training; ``run`` yields after each look at held-out data, ``result`` gives the best model found."""

    def __init__(
        self,
        original: Model,
        pruned: ModelProto,
        dataset: Dataset,
        judge: Dataset,
        recipe: Recipe,
        masks: Arrays,
        threads: int,
        progress: Callable[[str], None],
    ):
        self.recipe, self.threads, self.progress, self.masks = recipe, threads, progress, masks
        self.fit = dataset
        self.teacher = session(original, threads=threads)
        self.judge = Remembered(partial(self._judged, judge), _bytes, MEMORY)
        seen, labels = next(iter(self.judge))[1], _all_labels(dataset, judge)
        self.objective = objective(seen, labels, recipe.loss, recipe.temperature, recipe.label_weight)
        self.augment = augmenter(recipe.augment, dataset.specs) if recipe.augment else None
        stored = trainable(Model(pruned, "", original.path))
        self.parameters = {name: a * masks[name] if name in masks else a.copy() for name, a in stored.items()}
        self.pruned = Model(with_parameters(pruned, self.parameters) if masks else pruned, "", original.path)
        self.best = {name: array.copy() for name, array in self.parameters.items()}
        self.optimiser = OPTIMISERS[recipe.optimiser](self.parameters, recipe.weight_decay)
        graph = backward(self.pruned, list(self.parameters), self.objective.loss, parameters_as_inputs=True)
        self.gradients = session(graph, threads=threads)
        self.at = Progress()

    # --- state ------------------------------------------------------------------------------------------------------

    @property
    def arrays(self) -> dict[str, Arrays]:
        return {"now": self.parameters, "best": self.best, **self.optimiser.slots}

    @property
    def state(self) -> dict[str, float]:
        return dataclasses.asdict(dataclasses.replace(self.at, updates=self.optimiser.count))

    def restore(self, facts: Mapping[str, float]) -> None:
        self.at = Progress(**facts)  # type: ignore[arg-type]
        self.optimiser.count = self.at.updates

    @property
    def share(self) -> float:
        """How much of the training is done, by steps or by time."""
        return self.at.steps / self.recipe.steps if self.recipe.steps else self.at.seconds / self.recipe.seconds

    # --- the loop ---------------------------------------------------------------------------------------------------

    def run(self) -> Iterator[None]:
        if not self.at.evaluations:
            self.at.before = self.at.best = self._score(self._current())
            self.at.evaluations = 1
        feeds = self._feeds()
        while self.share < 1:
            start = time.perf_counter()
            self._step(next(feeds))
            self.at.steps += 1
            due = self.share * EVALUATIONS >= self.at.evaluations
            if due:
                self._evaluate()
            self.at.seconds += time.perf_counter() - start
            if due:
                yield
            self.progress(self._message())

    def _feeds(self) -> Iterator[dict[str, np.ndarray]]:
        """Yield batches from the current step on, with the loss's targets."""
        stream = Shuffled(self.fit, self.recipe.batch, self.recipe.seed, self._complete)
        for step, batch in enumerate(islice(stream, self.at.steps, None), self.at.steps):
            if self.augment is None:
                yield batch
                continue
            labels = {LABELS: batch.pop(LABELS)} if LABELS in batch else {}
            changed = self.augment(batch, np.random.default_rng([self.recipe.seed, step, 1]))
            yield {**changed, **self._targets(changed), **labels}

    def _complete(self, inputs: dict[str, np.ndarray], labels: np.ndarray | None) -> dict[str, np.ndarray]:
        found = dict(inputs) if self.augment else {**inputs, **self._targets(inputs)}
        return found | ({LABELS: np.asarray(labels, np.int64)} if self.objective.classes else {})

    def _targets(self, inputs: Arrays) -> dict[str, np.ndarray]:
        distilled = self.objective.share < 1
        return self.objective.targets(self.teacher.run(inputs)) if distilled else {}

    def _step(self, batch: Arrays) -> None:
        found = self.gradients.run({**batch, **self.parameters})
        gradients = {name: found[gradient_name(name)] for name in self.parameters}
        for name, mask in self.masks.items():
            if name in gradients:
                gradients[name] = gradients[name] * mask
        gradients = clipped(gradients, self.recipe.clip)
        if not all(np.isfinite(gradient).all() for gradient in gradients.values()):
            self._go_back()
            return
        middle = self.share + 0.5 / self.recipe.steps if self.recipe.steps else self.share
        self.optimiser.update(gradients, self.at.factor * self.recipe.rate_at(middle))

    # --- held-out data ----------------------------------------------------------------------------------------------

    def _evaluate(self) -> None:
        self.at.evaluations = int(self.share * EVALUATIONS) + 1
        score = self._score(self._current())
        if score < self.at.best:
            self.at.best = score
            _copy(self.parameters, self.best)
        elif not score <= DIVERGED * self.at.best:
            self._go_back()

    def _go_back(self) -> None:
        _copy(self.best, self.parameters)
        self.optimiser.forget()
        self.at.factor *= SLOWER
        self.at.went_back += 1

    def _current(self) -> ModelProto:
        return with_parameters(self.pruned.proto, self.parameters)

    def _judged(self, dataset: Dataset, start: int) -> Iterator[tuple[Arrays, Arrays, np.ndarray | None]]:
        """Yield held-out batches: inputs, the original's outputs, labels."""
        for inputs, labels in islice(dataset.labelled(self.recipe.batch), start, None):
            yield inputs, self.teacher.run(inputs), labels

    def _score(self, proto: ModelProto) -> float:
        """Return the held-out loss, the mean over rows; inf where it is not finite."""
        opened = session(Model(proto, "", self.pruned.path), threads=self.threads)
        total, rows = 0.0, 0
        for inputs, expected, labels in self.judge:
            count = len(next(iter(inputs.values()))) if self.fit.schema.samples else 1
            total += count * self.objective.score(expected, opened.run(inputs), labels)
            rows += count
        return total / rows if np.isfinite(total) else np.inf

    def _message(self) -> str:
        left = self.at.seconds * (1 / self.share - 1)
        done = f"step {self.at.steps}, {min(self.share, 1):.0%}, {int(left) // 60}:{int(left) % 60:02} left"
        return f"recovering: {done}, held-out loss {self.at.before:.4g} before, {self.at.best:.4g} now"

    def result(self) -> Recovered:
        """Return the best of: the model as it was, the best weights, these with statistics taken anew."""
        start = time.perf_counter()
        found = {"original": (self.at.before, self.pruned.proto)}
        if self.at.best < self.at.before:
            trained = with_parameters(self.pruned.proto, self.best)
            found["trained"] = (self.at.best, trained)
            batches = self.fit.batches(self.recipe.batch)
            fresh = with_statistics(Model(trained, "", self.pruned.path), batches, self.threads)
            if fresh is not trained:
                found["trained+statistics"] = (self._score(fresh), fresh)
        kept = min(found, key=lambda name: found[name][0])
        seconds = round(self.at.seconds + time.perf_counter() - start, 3)
        after, model = found[kept]
        return Recovered(
            model, self.at.steps, seconds, self.at.before, after, kept, self.at.went_back, bool(self.objective.classes)
        )


def _copy(source: Arrays, target: Arrays) -> None:
    for name, array in source.items():
        target[name][...] = array


def _bytes(batch: Any) -> int:
    """Size of nested arrays."""
    if isinstance(batch, Mapping | tuple | list):
        return sum(map(_bytes, batch.values() if isinstance(batch, Mapping) else batch))
    return batch.nbytes if isinstance(batch, np.ndarray) else 0


def _all_labels(*parts: Dataset) -> np.ndarray | None:
    labels = [part.labels for part in parts]
    return None if any(found is None for found in labels) else np.concatenate(labels)  # type: ignore[arg-type]
