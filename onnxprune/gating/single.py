"""Masks of single weights, trained towards the original's outputs under a budget of zeros."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np

from onnxprune.gating.training import NARROWED
from onnxprune.means import Means
from onnxprune.model.model import Model
from onnxprune.model.runtime import Arrays
from onnxprune.recover.descent import Descent
from onnxprune.recover.lessons import Lessons
from onnxprune.recover.optimisers import OPTIMISERS
from onnxprune.recover.parameters import trainable
from onnxprune.recover.recipe import Recipe
from onnxprune.registry import Registry

Spared = Callable[[Mapping[str, np.ndarray], float], Mapping[str, np.ndarray]]
"""(weight -> scores float64 of its shape, how far on the way to all zeros, 0 to 1) -> weight -> bool of its shape, what is not zero."""
RATE = 0.02  # of a step of scores, which are one in the root mean square at first
SOFTENED = 0.1  # of a layer's root mean square


class MaskTraining(Descent):
    """One training of which weights stay: ``scores``, larger stays, are compared by ``left``."""

    doing = "training masks"

    def __init__(self, model: Model, weights: Arrays, left: Spared, lessons: Lessons, recipe: Recipe, means: Means):
        self.weights, self.left = weights, left
        self.sizes = {
            name: float(np.sqrt(np.mean(np.square(w, dtype=np.float64)))) or 1.0 for name, w in weights.items()
        }
        self.scores = {name: np.abs(w) / self.sizes[name] for name, w in weights.items()}
        self.masks = left(self.scores, 0.0)
        super().__init__(model, self.moving(), lessons, recipe, means)

    def moving(self) -> Arrays:
        """Return the weights that are trained."""
        raise NotImplementedError

    def _masks(self) -> Mapping[str, np.ndarray]:
        return self.left(self.scores, min(self.share / NARROWED, 1.0))


TRAINED_MASKS: Registry[type[MaskTraining]] = Registry("trained masks")


@TRAINED_MASKS.register("straight-through")
class StraightThrough(MaskTraining):
    """Weights stay as they are; scores take the gradients of the masks, past the threshold as if it were not there.

    Ramanujan et al. 2020, "What's Hidden in a Randomly Weighted Neural Network?", section 3 (edge-popup), from sizes instead of drawn
    scores; the gradient is that of Mallya et al. 2018, "Piggyback", eq. 4.
    """

    def moving(self) -> Arrays:
        self.steps = OPTIMISERS["even"](self.scores)
        return {}

    def fed(self) -> Arrays:
        return {name: w * self.masks[name].astype(w.dtype) for name, w in self.weights.items()}

    def pulled(self, gradients: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if all(np.isfinite(gradients[name]).all() for name in self.weights):
            self.steps.update({name: gradients[name] * w for name, w in self.weights.items()}, RATE)
            self.masks = self._masks()
        return {}


@TRAINED_MASKS.register("proximal")
class ReweightedProximal(MaskTraining):
    """Weights are trained, and after each step shrink by a penalty that is the larger the smaller they are.

    Guo et al. 2019, "Reweighted Proximal Pruning for Large-Scale Language Representation", eqs. 3 to 7 (the weights of the penalty are
    those of Candes, Wakin and Boyd 2008, eq. 7), with as high a penalty in each layer as makes the budget's weights zero.
    """

    def moving(self) -> Arrays:
        return {name: w.copy() for name, w in self.weights.items()}

    def update(self, gradients: Arrays, rate: float) -> None:
        super().update(gradients, rate)
        self.scores = {name: np.abs(w) / self.sizes[name] for name, w in self.parameters.items()}
        self.masks = self._masks()
        for name, weight in self.parameters.items():
            size, left = self.scores[name], self.masks[name]
            penalty = (size * (size + SOFTENED))[~left].max(initial=0.0)
            shrunk = np.maximum(size - penalty / (size + SOFTENED), 0.0) * left
            weight[...] = np.sign(weight) * shrunk * self.sizes[name]
            self.scores[name] = shrunk


def trained_scores(
    kind: str, model: Model, names: Collection[str], left: Spared, lessons: Lessons, recipe: Recipe, means: Means
) -> Arrays:
    """Return weight -> float64 of its shape, larger stays, of those of ``names`` that can be trained; raises ModelError where no gradient can be taken."""
    weights = {name: w for name, w in trainable(model).items() if name in names}
    training = TRAINED_MASKS[kind](model, weights, left, lessons, recipe, means)
    for _ in training.run():
        pass
    least = min((float(found.min()) for found in training.scores.values()), default=0.0)
    return {name: found.astype(np.float64) - min(least, 0.0) for name, found in training.scores.items()}
