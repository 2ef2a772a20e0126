"""Gradient steps on the parameters of a model: gradients from ONNX Runtime, the optimiser in numpy."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from onnxprune.grad import backward, gradient_name
from onnxprune.means import Means
from onnxprune.model.model import Model
from onnxprune.model.runtime import session
from onnxprune.recover.lessons import Arrays, Lessons, Part
from onnxprune.recover.optimisers import OPTIMISERS, clipped
from onnxprune.recover.recipe import Recipe


@dataclass
class TrainingState:
    """Where a training is; all that a checkpoint holds beside arrays."""

    steps: int = 0
    seconds: float = 0.0
    evaluations: int = 0
    before: float = np.inf
    best: float = np.inf
    factor: float = 1.0
    went_back: int = 0
    not_finite: int = 0
    updates: int = 0
    rows: int = 0


class Descent:
    """Steps of the recipe on ``parameters``, arrays that change in place; what follows from the outcome is up to those that build on it."""

    def __init__(self, model: Model, parameters: Arrays, lessons: Lessons, recipe: Recipe, means: Means = Means()):
        self.lessons, self.recipe, self.means, self.parameters = lessons, recipe, means, parameters
        self.optimiser = OPTIMISERS[recipe.optimiser](parameters, recipe.weight_decay)
        graph = backward(
            model, list(self.fed()), lessons.objective.loss, parameters_as_inputs=True, input_shapes=lessons.shapes
        )
        if said := lessons.fitted(Model.of(graph)):
            means.progress(f"{self.doing}: {said}")
        self.gradients = session(graph, threads=means.threads)
        self.at = TrainingState()

    doing = "training"

    @property
    def share(self) -> float:
        """How much of the training is done, by steps or by time."""
        return self.at.steps / self.recipe.steps if self.recipe.steps else self.at.seconds / self.recipe.seconds

    def run(self) -> Iterator[None]:
        """Take all steps; yield after each look at what has come of them."""
        self.at.rows = self.at.rows or self.recipe.affordable(self._seconds_of_a_row())
        feeds = self.lessons.feeds(self.at.steps * self.lessons.runs, self.at.rows)
        while self.share < 1:
            start = time.perf_counter()
            self._step(list(islice(feeds, self.lessons.runs)))
            self.at.steps += 1
            looked = self.look()
            self.at.seconds += time.perf_counter() - start
            if looked:
                yield
            self.means.progress(self.message(), self.share, 1)

    def fed(self) -> Arrays:
        """Return what the graph takes as inputs instead of what is stored: the parameters."""
        return self.parameters

    def pulled(self, gradients: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the gradients of the parameters, given those of what was fed."""
        return dict(gradients)

    def update(self, gradients: Arrays, rate: float) -> None:
        self.optimiser.update(gradients, rate)

    def look(self) -> bool:
        """Look at what has come of the steps where it is time to; return whether it was."""
        return False

    def go_back(self) -> None:
        """Do what is to be done where gradients are not finite: the step is left out."""

    def message(self) -> str:
        return f"{self.doing}: step {self.at.steps}, {self.done}"

    @property
    def done(self) -> str:
        left = self.at.seconds * (1 / self.share - 1)
        return f"{min(self.share, 1):.0%}, {int(left) // 60}:{int(left) % 60:02} left"

    def _step(self, batches: Sequence[Arrays]) -> None:
        found = self._mean_gradients([part for batch in batches for part in self.lessons.parts(batch)])
        gradients = clipped(self.pulled(found), self.recipe.clip)
        if not all(np.isfinite(gradient).all() for gradient in gradients.values()):
            self.at.not_finite += 1
            self.go_back()
            return
        middle = self.share + 0.5 / self.recipe.steps if self.recipe.steps else self.share
        steps = self.recipe.steps or (self.at.steps / self.share if self.at.steps else 0)
        self.update(gradients, self.at.factor * self.recipe.rate_at(middle, steps))

    def _seconds_of_a_row(self) -> float:
        """Return how long a row takes of the gradients; 0 where nothing depends on it."""
        if self.recipe.batch or not self.recipe.seconds:
            return 0.0
        part = self.lessons.parts(next(self.lessons.feeds(0, self.recipe.rows)))[0]
        for _ in range(2):  # the first is slower
            start = time.perf_counter()
            self._mean_gradients([part])
        return (time.perf_counter() - start) / part.rows

    def _mean_gradients(self, parts: Sequence[Part]) -> dict[str, np.ndarray]:
        """Return the gradients of the mean loss over all rows: those of the parts, weighed by their rows."""
        whole, fed, result = sum(part.rows for part in parts), self.fed(), dict[str, np.ndarray]()
        for part in parts:
            found = self.gradients.run({**part.feed, **fed})
            for name in fed:
                own = found[gradient_name(name)]
                own = own if len(parts) == 1 else own * own.dtype.type(part.rows / whole)
                result[name] = result[name] + own if name in result else own
        return result
