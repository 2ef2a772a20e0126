"""The training loop: gradients from ONNX Runtime, the optimiser in numpy, the best state on held-out data kept."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice

import numpy as np

from onnxprune.grad import backward, gradient_name
from onnxprune.means import Means
from onnxprune.model.model import Model
from onnxprune.model.runtime import session
from onnxprune.recover.lessons import Arrays, Lessons, Part
from onnxprune.recover.optimisers import OPTIMISERS, clipped
from onnxprune.recover.parameters import with_parameters
from onnxprune.recover.recipe import Recipe

EVALUATIONS = 20  # times that held-out data is looked at, spread evenly
DIVERGED = 2.0  # times the best held-out loss: from here on the training goes back to the best
SLOWER = 0.5  # the learning rate's factor after going back


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


class Training:
    """One training of a model's ``parameters``; ``run`` yields after each look at held-out data, ``best`` holds the best."""

    def __init__(
        self,
        pruned: Model,
        parameters: Arrays,
        lessons: Lessons,
        recipe: Recipe,
        means: Means = Means(),
        masks: Arrays | None = None,
    ):
        self.lessons, self.recipe, self.means, self.masks = lessons, recipe, means, masks or {}
        self.parameters = {n: a * self.masks[n] if n in self.masks else a.copy() for n, a in parameters.items()}
        self.pruned = with_parameters(pruned, self.parameters) if masks else pruned
        self.best = {name: array.copy() for name, array in self.parameters.items()}
        self.optimiser = OPTIMISERS[recipe.optimiser](self.parameters, recipe.weight_decay)
        graph = backward(
            self.pruned, list(self.parameters), lessons.objective.loss,
            parameters_as_inputs=True, input_shapes=lessons.shapes,
        )  # fmt: skip
        if said := lessons.fitted(Model.of(graph)):
            means.progress(f"recovering: {said}")
        self.gradients = session(graph, threads=means.threads)
        self.at = TrainingState()

    # --- state ------------------------------------------------------------------------------------------------------

    @property
    def arrays(self) -> dict[str, Arrays]:
        return {"now": self.parameters, "best": self.best, **self.optimiser.slots}

    @property
    def state(self) -> dict[str, float]:
        return asdict(replace(self.at, updates=self.optimiser.count))

    def restore(self, facts: Mapping[str, float]) -> None:
        self.at = TrainingState(**facts)  # type: ignore[arg-type]
        self.optimiser.count = self.at.updates

    @property
    def share(self) -> float:
        """How much of the training is done, by steps or by time."""
        return self.at.steps / self.recipe.steps if self.recipe.steps else self.at.seconds / self.recipe.seconds

    # --- the loop ---------------------------------------------------------------------------------------------------

    def run(self) -> Iterator[None]:
        if not self.at.evaluations:
            self.at.before = self.at.best = self._score()
            self.at.evaluations = 1
        self.at.rows = self.at.rows or self.recipe.affordable(self._seconds_of_a_row())
        feeds = self.lessons.feeds(self.at.steps * self.lessons.runs, self.at.rows)
        while self.share < 1:
            start = time.perf_counter()
            self._step(list(islice(feeds, self.lessons.runs)))
            self.at.steps += 1
            due = self.share * EVALUATIONS >= self.at.evaluations
            if due:
                self._evaluate()
            self.at.seconds += time.perf_counter() - start
            if due:
                yield
            self.means.progress(self._message(), self.share, 1)

    def _step(self, batches: Sequence[Arrays]) -> None:
        gradients = self._mean_gradients([part for batch in batches for part in self.lessons.parts(batch)])
        for name, mask in self.masks.items():
            if name in gradients:
                gradients[name] = gradients[name] * mask
        gradients = clipped(gradients, self.recipe.clip)
        if not all(np.isfinite(gradient).all() for gradient in gradients.values()):
            self.at.not_finite += 1
            self._go_back()
            return
        middle = self.share + 0.5 / self.recipe.steps if self.recipe.steps else self.share
        steps = self.recipe.steps or (self.at.steps / self.share if self.at.steps else 0)
        self.optimiser.update(gradients, self.at.factor * self.recipe.rate_at(middle, steps))

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
        whole, result = sum(part.rows for part in parts), dict[str, np.ndarray]()
        for part in parts:
            found = self.gradients.run({**part.feed, **self.parameters})
            for name in self.parameters:
                own = found[gradient_name(name)]
                own = own if len(parts) == 1 else own * own.dtype.type(part.rows / whole)
                result[name] = result[name] + own if name in result else own
        return result

    # --- held-out data ----------------------------------------------------------------------------------------------

    def _evaluate(self) -> None:
        self.at.evaluations = int(self.share * EVALUATIONS) + 1
        score = self._score()
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

    def _score(self) -> float:
        return self.lessons.score(self._with(self.parameters))

    def _with(self, parameters: Arrays) -> Model:
        return with_parameters(self.pruned, parameters)

    def _message(self) -> str:
        left = self.at.seconds * (1 / self.share - 1)
        done = f"step {self.at.steps}, {min(self.share, 1):.0%}, {int(left) // 60}:{int(left) % 60:02} left"
        return f"recovering: {done}, held-out loss {self.at.before:.4g} before, {self.at.best:.4g} now"

    @property
    def trained(self) -> Model | None:
        """The best model found, None where training made nothing better."""
        return self._with(self.best) if self.at.best < self.at.before else None


def _copy(source: Arrays, target: Arrays) -> None:
    for name, array in source.items():
        target[name][...] = array
