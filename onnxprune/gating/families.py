"""Kinds of gates: how parameters become gates, and how many of these are open."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np
from scipy.special import expit

from onnxprune.registry import Registry


class Drawn(NamedTuple):
    """``gates`` of some parameters and their slopes, d gate / d parameter, all float64[width]."""

    gates: np.ndarray
    slopes: np.ndarray


class Family:
    """``start``: of a parameter whose gate is open at first, ``shut``: of one that is not; ``rate``: of a step, in units of the gradients' root
    mean square; ``bounds``: that parameters stay within.

    ``optimiser``: of the steps; ``held``: whether pressure keeps gates to the budget, which is else met by what is left of them alone.
    """

    start: ClassVar[float]
    shut: ClassVar[float]
    rate: ClassVar[float]
    bounds: ClassVar[tuple[float, float]]
    optimiser: ClassVar[str] = "even"
    held: ClassVar[bool] = True

    def begun(self, opened: np.ndarray) -> np.ndarray:
        """Return float64[width]: the parameters at which gates begin, bool[width] ``opened`` or shut."""
        return np.where(opened, self.start, self.shut)

    def drawn(self, parameters: np.ndarray, random: np.random.Generator) -> Drawn:
        raise NotImplementedError

    def opened(self, parameters: np.ndarray) -> np.ndarray:
        """Return float64[width]: how far each gate counts as open, from 0 to 1."""
        raise NotImplementedError

    def pressed(self, parameters: np.ndarray, amount: float) -> np.ndarray:
        """Return the parameters under so much pressure to shut."""
        return parameters - amount

    def pull(self, mean: float, units: int, density: float) -> float:
        """Return what a penalty on the ``mean`` of all gates, so many ``units``, adds to the gradient of each."""
        return 0.0


FAMILIES: Registry[Family] = Registry("kind of gates")


class Proximal(Family):
    """The gate is the parameter, and its size is what it costs; held to a budget by soft thresholds at zero.

    Liu et al. 2017, "Learning Efficient Convolutional Networks through Network Slimming", eq. 1, for gates of their own instead of
    the scales of norms. The step is that of ISTA (Daubechies et al. 2004), with as high a penalty as the budget asks for.
    """

    start, shut, rate, bounds = 1.0, 0.0, 0.02, (0.0, 1.0)

    def drawn(self, parameters: np.ndarray, random: np.random.Generator) -> Drawn:
        return Drawn(parameters, np.ones_like(parameters))

    def opened(self, parameters: np.ndarray) -> np.ndarray:
        return parameters


class TowardsDensity(Proximal):
    """The gate is the parameter; a penalty draws the mean of all gates to the share that may stay, whatever a unit costs.

    Wang et al. 2019, "Pruning from Scratch", the sparsity term of their loss, (mean - density)^2 with a weight of 0.5 and steps of Adam, as
    their program has it: widths follow from a threshold under which the budget is met.
    """

    rate, optimiser, held = 0.01, "adam", False
    WEIGHT = 0.5

    def pull(self, mean: float, units: int, density: float) -> float:
        return 2 * self.WEIGHT * (mean - density) / max(units, 1)


class Reweighted(Proximal):
    """The gate is the parameter, and costs the logarithm of its size, so that a half shut one costs nearly what an open one does.

    Candes, Wakin and Boyd 2008, "Enhancing Sparsity by Reweighted l1 Minimization", section 2.2 and eq. 11, the weights taken anew in
    each proximal step, as Guo et al. 2019, "Reweighted Proximal Pruning", eq. 5, do it for the weights of a network.
    """

    SOFTENED = 0.1

    def opened(self, parameters: np.ndarray) -> np.ndarray:
        return np.asarray(np.log1p(parameters / self.SOFTENED) / np.log1p(1 / self.SOFTENED))

    def pressed(self, parameters: np.ndarray, amount: float) -> np.ndarray:
        return parameters - amount / (np.maximum(parameters, 0.0) + self.SOFTENED)


class HardConcrete(Family):
    """Gates drawn from a stretched and clipped concrete distribution, exactly zero or one with some probability; parameters are log alpha.

    Louizos, Welling and Kingma 2018, "Learning Sparse Neural Networks through L0 Regularization", eqs. 10 to 12, with their beta,
    gamma and zeta. Within the bounds a gate is open with 0.2 to 0.99, so that its gradient does not vanish.
    """

    start, shut, rate, bounds = 2.5, -2.5, 0.1, (-5.0, 3.0)
    BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1

    def drawn(self, parameters: np.ndarray, random: np.random.Generator) -> Drawn:
        noise = random.uniform(1e-6, 1 - 1e-6, parameters.shape)
        soft = expit((np.log(noise) - np.log1p(-noise) + parameters) / self.BETA)
        stretch = self.ZETA - self.GAMMA
        wide = soft * stretch + self.GAMMA
        inside = (wide > 0) & (wide < 1)
        return Drawn(np.clip(wide, 0, 1), inside * stretch * soft * (1 - soft) / self.BETA)

    def opened(self, parameters: np.ndarray) -> np.ndarray:
        return np.asarray(expit(parameters - self.BETA * np.log(-self.GAMMA / self.ZETA)))


class BetaBernoulli(Family):
    """Gates drawn from a relaxed Bernoulli distribution whose probability is drawn too, from Beta(a, 1); parameters are log a.

    Lee et al. 2018, "Adaptive Network Sparsification with Dependent Variational Beta-Bernoulli Dropout", eqs. 4 to 7, without the part
    that depends on the input: prior Beta(a0, 1), a posterior of the same family instead of Kumaraswamy's, so that the divergence from
    the prior is log(a / a0) + a0 / a - 1. Its weight is the multiplier of the budget. The mean of the probability is a / (1 + a).
    """

    start, shut, rate, bounds = 2.5, -2.5, 0.1, (-5.0, 5.0)
    PRIOR, TEMPERATURE = 1e-2, 2 / 3

    def drawn(self, parameters: np.ndarray, random: np.random.Generator) -> Drawn:
        uniform, noise = random.uniform(1e-6, 1 - 1e-6, (2, *parameters.shape))
        log = np.log(uniform) * np.exp(-parameters)
        rest = -np.expm1(log)  # the probability that it is shut
        gates = expit((log - np.log(rest) + np.log(noise) - np.log1p(-noise)) / self.TEMPERATURE)
        return Drawn(gates, gates * (1 - gates) / self.TEMPERATURE * -log / rest)

    def opened(self, parameters: np.ndarray) -> np.ndarray:
        return np.asarray(expit(parameters))

    def pressed(self, parameters: np.ndarray, amount: float) -> np.ndarray:
        return parameters - amount * (1 - self.PRIOR * np.exp(-parameters))


FAMILIES.add("bayes", BetaBernoulli())
FAMILIES.add("density", TowardsDensity())
FAMILIES.add("l1", Proximal())
FAMILIES.add("reweighted", Reweighted())
FAMILIES.add("l0", HardConcrete())
