"""What readers see of units that are half shut once the repair has made up for them: an estimate from all that is open.

A gate seen without repair is open where its unit is loud; with it, where no other unit says the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onnxprune.evidence.needs import Need
from onnxprune.evidence.sites import Site
from onnxprune.evidence.stats import Gram
from onnxprune.model.runtime import Arrays

LIMIT = 1024  # positions: beyond, a gate is a plain factor
LEAST = 1e-3  # gate below which the noise of a unit grows no more
RIDGE = 1e-5  # of the mean variance


@dataclass(eq=False)
class Mending:
    """Axis ``axis`` of ``value``, of which readers see ``matrix`` [c, c] times what it holds plus ``shift`` [c], names of stored tensors.

    ``units``: (name of the gates, int64[c] unit of each position, -1: none) per group that lies on the axis.
    """

    value: str
    axis: int
    matrix: str
    shift: str
    units: tuple[tuple[str, np.ndarray], ...]

    def __post_init__(self) -> None:
        width = len(self.units[0][1])
        self.mean, self.covariance = np.zeros(width), np.eye(width)
        self.begun = self.left = np.eye(width)

    @property
    def need(self) -> Need:
        return Need("gram", self.value, self.axis)

    def go_by(self, found: Gram, begun: Mapping[str, np.ndarray] | None = None) -> None:
        """Take mean and covariance of the values from what was gathered; ``begun``: gates of zero or one at which nothing is to be mended any more."""
        self.mean, self.covariance = found.mean[0], np.asarray(found.covariance[0])
        if begun is not None:
            self.begun, self.left = self._solved(begun)[0], np.diag(self._open(begun).astype(np.float64))

    def silenced(self, gates: Mapping[str, np.ndarray]) -> Arrays:
        """Return matrix and shift at which what is shut is zero and all else itself."""
        return {self.matrix: np.diag(self._open(gates).astype(np.float64)), self.shift: np.zeros(len(self.mean))}

    def _open(self, gates: Mapping[str, np.ndarray]) -> np.ndarray:
        found = np.ones(len(self.mean), bool)
        for name, units in self.units:
            own = np.flatnonzero(units >= 0)
            found[own] = gates[name][units[own]] > 0.5
        return found

    def fed(self, gates: Mapping[str, np.ndarray]) -> Arrays:
        """Return matrix and shift at these gates, float64[width] by name: the Wiener estimate of the values from noisy ones.

        With noise of variance n the best linear estimate is S (S + N)^-1 about the mean (Wiener 1949; the linear minimum mean square
        error estimator). n = var (1 - g) / g: of a unit that no other says anything of, the estimate is g times the value; at zero it is
        what least squares makes of the open ones, at one the value itself.
        """
        matrix = self._solved(gates)[0]
        return {self.matrix: matrix - self.begun + self.left, self.shift: (self.begun - matrix) @ self.mean}

    def pulled(self, gates: Mapping[str, np.ndarray], gradients: Mapping[str, np.ndarray]) -> Arrays:
        """Return the gradients of the gates, given those of matrix and shift: dM = -M dN (S + N)^-1."""
        matrix, inverse = self._solved(gates)
        slopes = np.asarray(gradients[self.matrix], np.float64)
        slopes = slopes - np.outer(np.asarray(gradients[self.shift], np.float64), self.mean)
        of_noise = -np.einsum("ij,ij->i", inverse, (slopes.T @ matrix).T)
        found = dict[str, np.ndarray]()
        for name, units in self.units:
            own = np.flatnonzero(units >= 0)
            gate = np.maximum(gates[name][units[own]], LEAST)
            pull = of_noise[own] * -self.covariance.diagonal()[own] / gate**2
            found[name] = np.bincount(units[own], pull, len(gates[name]))
        return found

    def _solved(self, gates: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return (S (S + N)^-1, (S + N)^-1)."""
        noise = np.zeros(len(self.mean))
        for name, units in self.units:
            own = np.flatnonzero(units >= 0)
            gate = gates[name][units[own]]
            noise[own] = (1 - gate) / np.maximum(gate, LEAST)
        variance = self.covariance.diagonal()
        inverse = np.linalg.inv(self.covariance + np.diag(noise * variance + RIDGE * variance.mean() + 1e-30))
        return self.covariance @ inverse, inverse


def can_be_mended(site: Site) -> bool:
    """Whether second moments of the axis are small enough to be solved for in every step."""
    return len(site.units) <= LIMIT
