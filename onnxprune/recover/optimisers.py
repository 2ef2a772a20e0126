"""Optimisers on numpy arrays, changed in place; all they remember lies in ``slots`` and ``count``."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from onnxprune.model.runtime import Arrays
from onnxprune.registry import Registry


class Optimiser:
    """``slots``: kind -> parameter -> array of its shape; ``count``: updates so far; ``decay``: weight decay."""

    kinds: ClassVar[tuple[str, ...]]
    rate: ClassVar[float]

    def __init__(self, parameters: Arrays, decay: float = 0.0):
        self.parameters, self.decay, self.count = parameters, decay, 0
        self.slots = {kind: {name: np.zeros_like(w) for name, w in parameters.items()} for kind in self.kinds}

    def update(self, gradients: Arrays, rate: float) -> None:
        """Change every parameter by one step.

        Weight decay is apart from the gradient and leaves vectors alone (Loshchilov and Hutter 2019, Algorithm 2).
        """
        self.count += 1
        for name, weight in self.parameters.items():
            change = self.direction(gradients[name], **{kind: self.slots[kind][name] for kind in self.kinds})
            if self.decay and weight.ndim > 1:
                change = change + self.decay * weight
            weight -= rate * change

    def direction(self, gradient: np.ndarray, **slots: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def forget(self) -> None:
        """Start anew from the parameters as they are."""
        self.count = 0
        for arrays in self.slots.values():
            for array in arrays.values():
                array[...] = 0


OPTIMISERS: Registry[type[Optimiser]] = Registry("optimiser")


@OPTIMISERS.register("sgd")
class Sgd(Optimiser):
    """v = 0.9 v + g; w = w - rate v. Source: Polyak 1964, as written by Sutskever et al. 2013, section 2."""

    kinds, rate, MOMENTUM = ("velocity",), 1e-2, 0.9

    def direction(self, gradient: np.ndarray, **slots: np.ndarray) -> np.ndarray:
        velocity = slots["velocity"]
        velocity *= self.MOMENTUM
        velocity += gradient
        return velocity


@OPTIMISERS.register("adam")
class Adam(Optimiser):
    """Source: Kingma and Ba 2015, Algorithm 1."""

    kinds, rate, BETAS, EPSILON = ("mean", "power"), 1e-3, (0.9, 0.999), 1e-8

    def direction(self, gradient: np.ndarray, **slots: np.ndarray) -> np.ndarray:
        corrected = []
        for kind, beta, value in zip(self.kinds, self.BETAS, (gradient, gradient * gradient), strict=True):
            slots[kind] *= beta
            slots[kind] += (1 - beta) * value
            corrected.append(slots[kind] / (1 - beta**self.count))
        return corrected[0] / (np.sqrt(corrected[1]) + self.EPSILON)


@OPTIMISERS.register("even")
class Even(Optimiser):
    """Adam with one second moment for all parameters, the mean of their squares: small gradients stay small beside large ones."""

    kinds, rate, BETAS, EPSILON = ("mean",), 1e-2, (0.9, 0.99), 1e-12

    def __init__(self, parameters: Arrays, decay: float = 0.0):
        super().__init__(parameters, decay)
        self.power = 0.0

    def update(self, gradients: Arrays, rate: float) -> None:
        size = sum(weight.size for weight in self.parameters.values())
        square = sum(float(np.square(gradients[name], dtype=np.float64).sum()) for name in self.parameters)
        self.power += (1 - self.BETAS[1]) * (square / max(size, 1) - self.power)
        super().update(gradients, rate)

    def direction(self, gradient: np.ndarray, **slots: np.ndarray) -> np.ndarray:
        mean, (first, second) = slots["mean"], self.BETAS
        mean *= first
        mean += (1 - first) * gradient
        scale = np.sqrt(self.power / (1 - second**self.count)) + self.EPSILON
        return mean / gradient.dtype.type((1 - first**self.count) * scale)

    def forget(self) -> None:
        super().forget()
        self.power = 0.0


def norm(arrays: Arrays) -> float:
    """Return the Euclidean norm of all arrays together."""
    return float(np.sqrt(sum(float(np.square(array, dtype=np.float64).sum()) for array in arrays.values())))


def clipped(gradients: Arrays, limit: float) -> dict[str, np.ndarray]:
    """Scale gradients so that their common norm is at most ``limit``. Source: Pascanu et al. 2013, Algorithm 1."""
    found = norm(gradients)
    factor = limit / found if found > limit else 1.0
    return {name: gradient * gradient.dtype.type(factor) for name, gradient in gradients.items()}
