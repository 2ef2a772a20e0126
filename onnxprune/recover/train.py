"""The training loop of recovery: steps, and the best state on held-out data kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace

import numpy as np

from onnxprune.means import Means
from onnxprune.model.model import Model
from onnxprune.recover.descent import Descent, TrainingState
from onnxprune.recover.lessons import Arrays, Lessons
from onnxprune.recover.parameters import with_parameters
from onnxprune.recover.recipe import Recipe

EVALUATIONS = 20  # times that held-out data is looked at, spread evenly
DIVERGED = 2.0  # times the best held-out loss: from here on the training goes back to the best
SLOWER = 0.5  # the learning rate's factor after going back


class Training(Descent):
    """One training of a model's ``parameters``; ``run`` yields after each look at held-out data, ``best`` holds the best."""

    doing = "recovering"

    def __init__(
        self,
        pruned: Model,
        parameters: Arrays,
        lessons: Lessons,
        recipe: Recipe,
        means: Means = Means(),
        masks: Arrays | None = None,
    ):
        self.masks = masks or {}
        own = {n: a * self.masks[n] if n in self.masks else a.copy() for n, a in parameters.items()}
        self.pruned = with_parameters(pruned, own) if masks else pruned
        self.best = {name: array.copy() for name, array in own.items()}
        super().__init__(self.pruned, own, lessons, recipe, means)

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

    # --- the loop ---------------------------------------------------------------------------------------------------

    def run(self) -> Iterator[None]:
        if not self.at.evaluations:
            self.at.before = self.at.best = self._score()
            self.at.evaluations = 1
        yield from super().run()

    def pulled(self, gradients: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: array * self.masks[name] if name in self.masks else array for name, array in gradients.items()}

    # --- held-out data ----------------------------------------------------------------------------------------------

    def look(self) -> bool:
        if self.share * EVALUATIONS < self.at.evaluations:
            return False
        self.at.evaluations = int(self.share * EVALUATIONS) + 1
        score = self._score()
        if score < self.at.best:
            self.at.best = score
            _copy(self.parameters, self.best)
        elif not score <= DIVERGED * self.at.best:
            self.go_back()
        return True

    def go_back(self) -> None:
        _copy(self.best, self.parameters)
        self.optimiser.forget()
        self.at.factor *= SLOWER
        self.at.went_back += 1

    def _score(self) -> float:
        return self.lessons.score(self._with(self.parameters))

    def _with(self, parameters: Arrays) -> Model:
        return with_parameters(self.pruned, parameters)

    def message(self) -> str:
        return f"{super().message()}, held-out loss {self.at.before:.4g} before, {self.at.best:.4g} now"

    @property
    def trained(self) -> Model | None:
        """The best model found, None where training made nothing better."""
        return self._with(self.best) if self.at.best < self.at.before else None


def _copy(source: Arrays, target: Arrays) -> None:
    for name, array in source.items():
        target[name][...] = array
