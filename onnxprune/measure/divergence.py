"""One number for how far a pruned model's outputs are from the original's, to compare proposals by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice

import numpy as np
from scipy.special import log_softmax

from onnxprune.data.repeated import Remembered
from onnxprune.io import Model
from onnxprune.runtime import session

OUTPUTS_IN_MEMORY = 1 << 27  # bytes

Outputs = Mapping[str, np.ndarray]


class Reference:
    """The original's outputs on fixed batches, to judge pruned models by; what does not fit into memory is computed anew."""

    def __init__(self, model: Model, batches: Iterable[Outputs], threads: int = 1, limit: int = OUTPUTS_IN_MEMORY):
        self._batches, self._threads = batches, threads
        opened = session(model, threads=threads)
        self._expected = Remembered(
            lambda start: (opened.run(batch) for batch in islice(batches, start, None)), _bytes, limit
        )

    def divergence(self, pruned: Model) -> float:
        """Return how far a model is from the original on these batches; see ``divergence``."""
        opened = session(pruned, threads=self._threads)
        return divergence(self._expected, (opened.run(batch) for batch in self._batches))


def _bytes(outputs: Outputs) -> int:
    return sum(value.nbytes for value in outputs.values() if isinstance(value, np.ndarray))


def divergence(original: Iterable[Outputs], pruned: Iterable[Outputs]) -> float:
    """Return the mean over float outputs: KL of class scores [batch, k >= 2], else squared error over variance.

    Where no output is a float, the share of elements that differ. Infinite where a value is not finite or a shape has changed.
    """
    sums: dict[str, np.ndarray] = {}
    for a, b in zip(original, pruned, strict=True):
        for name, value in a.items():
            if not isinstance(value, np.ndarray):
                continue
            if np.shape(b[name]) != value.shape:
                return np.inf
            sums[name] = sums.get(name, np.zeros(3)) + _batch(value, b[name])
    measured = [total for total in sums.values() if total[2]] or list(sums.values())
    result = float(np.mean([top / max(bottom, 1e-30) for top, bottom, _ in measured])) if measured else 0.0
    return result if np.isfinite(result) else np.inf


def _batch(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return (sum of divergences, what to divide by, how many of the elements are floats)."""
    if a.dtype.kind != "f":
        return np.array([(a != b).sum(), a.size, 0.0])
    a, b = a.astype(np.float64), b.astype(np.float64)
    if a.ndim == 2 and a.shape[1] >= 2:
        probabilities = (a >= 0).all() and np.allclose(a.sum(1), 1, atol=1e-3)
        p, q = (np.log(np.clip(x, 1e-12, None)) if probabilities else log_softmax(x, 1) for x in (a, b))
        return np.array([(np.exp(p) * (p - q)).sum(), len(a), a.size])
    return np.array([np.square(a - b).sum(), np.square(a - a.mean()).sum(), a.size])
