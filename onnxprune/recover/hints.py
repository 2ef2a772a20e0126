"""Hints: values inside the original that the pruned model is to give as well, beside the outputs.

Source: Romero et al. 2015, "FitNets: Hints for Thin Deep Nets", eq. 3, without a regressor, for values that lost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.grad import losses
from onnxprune.grad.emitter import Emitter, Value
from onnxprune.model.facts import Facts, gather_facts
from onnxprune.model.graph import Graph
from onnxprune.model.model import Model
from onnxprune.model.runtime import Results
from onnxprune.model.tensors import FLOATS
from onnxprune.recover.parameters import stored_weights

Positions = Callable[[str], Mapping[int, np.ndarray]]
"""Value of the original -> axis -> positions that are left of it; an axis that is whole is not named."""

LEAST = 1e-12  # of a variance


def hint_name(value: str) -> str:
    """Return the graph input that holds the original's value."""
    return f"recover:hint:{value}"


def comparable(name: str, pruned: Facts, dense: Facts, kept: Mapping[int, np.ndarray]) -> bool:
    """Whether the original has the value too, and what is left of it is what the pruned model has."""
    shape = dense.shape(name) if name in dense.first else None
    return shape is not None and pruned.shape(name) == tuple(
        len(kept.get(axis, range(size))) for axis, size in enumerate(shape)
    )


@dataclass(frozen=True)
class Hint:
    """A ``value`` that both models compute, and its ``variance`` in the original."""

    value: str
    variance: float

    def target(self, outputs: Results) -> np.ndarray:
        """Return what the loss compares with, given the original's values."""
        found = outputs[self.value]
        return found if found.dtype == np.float64 else np.ascontiguousarray(found, np.float32)

    def loss(self, emit: Emitter, mask: str) -> Value:
        """Mean squared error over the variance, as nodes."""
        distance = losses.mse(
            hint_name(self.value), weights=np.array([1 / self.variance]), counting=losses.Counting(mask)
        )
        return distance(emit, [emit.value(self.value)])


def hinted(
    pruned: Model, original: Model, positions: Positions, shapes: Mapping[str, Sequence[int]]
) -> tuple[str, ...]:
    """Return what layers with trained matrices read and both models compute whole, such as the outputs of residual blocks.

    ``shapes``: input -> its shape.
    """
    narrow, dense = (gather_facts(model, Graph(model.structure), shapes) for model in (pruned, original))
    read = dict.fromkeys(_read_by_layers(narrow))
    return tuple(name for name in read if not positions(name) and comparable(name, narrow, dense, {}))


def _read_by_layers(facts: Facts) -> Iterable[str]:
    graph = facts.graph
    for node in graph.top:
        stored = set(stored_weights(node, graph))
        if any(len(graph.tensors[name].dims) > 1 for name in stored):
            for name in node.inputs:
                if name in graph.producer and name not in facts.constants and facts.dtype(name) in FLOATS:
                    yield name


def with_variances(names: Sequence[str], seen: Iterable[Results]) -> tuple[Hint, ...]:
    """Return hints of the values that vary at all, and are finite, in runs of the original."""
    sums = {name: np.zeros(3) for name in names}
    for values in seen:
        for name, total in sums.items():
            found = values[name].astype(np.float64)
            total += found.size, found.sum(), np.square(found).sum()
    variances = {name: powers / count - (total / count) ** 2 for name, (count, total, powers) in sums.items()}
    return tuple(Hint(name, variance) for name, variance in variances.items() if LEAST < variance < np.inf)
