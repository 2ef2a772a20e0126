"""How a loss answers to single weights: means over batches of what each weight and its gradient make together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from onnxprune.data import Dataset
from onnxprune.data.observe import observe
from onnxprune.evidence.gradients.gather import differentiation
from onnxprune.evidence.gradients.statistics import Answers, Differential
from onnxprune.grad import gradient_name
from onnxprune.means import Means
from onnxprune.measure.outputs import Outputs
from onnxprune.model.facts import Facts

PARTS = {
    "signed": lambda product, samples: product,
    "absolute": lambda product, samples: np.abs(product),
    "square": lambda product, samples: np.square(product),
    "spread": lambda product, samples: np.square(product) * samples,
}
"""What is averaged of the products w g, g the gradient of a batch's mean loss; ``spread``: see ``Products``."""


@dataclass
class WeightObserver(Differential):
    """The mean over samples of one part of the products, float64 in the shape of every weight."""

    seen = ("sums", "count")
    weights: Mapping[str, np.ndarray]
    part: str
    order: int = 1  # type: ignore[misc]
    sums: dict[str, np.ndarray] = field(default_factory=dict)
    count: float = 0.0

    def __post_init__(self) -> None:
        self.wrt = tuple(self.weights)

    def fresh(self) -> Self:
        return type(self)(self.weights, self.part, self.order)

    def update(self, seen: Answers) -> None:
        samples = seen.sampler.samples
        for name, weight in self.weights.items():
            product = weight * seen.values[gradient_name(name, self.order)] / samples**self.order
            self.sums[name] = self.sums.get(name, 0.0) + samples * PARTS[self.part](product, samples)
        self.count += samples

    def merge(self, other: Any) -> None:
        self.sums = {name: self.sums.get(name, 0.0) + other.sums[name] for name in other.sums} or self.sums
        self.count += other.count


def weight_products(
    facts: Facts,
    names: Sequence[str],
    part: tuple[str, int, bool],
    dataset: Dataset,
    means: Means = Means(),
    outputs: Outputs | None = None,
) -> tuple[Mapping[str, np.ndarray], str]:
    """Return stored tensor -> float64 of its shape, and a remark on what was differentiated.

    ``part``: a name of ``PARTS``; the order of differentiation, 2 takes w (H g), H and g of the batch's mean loss; whether the loss is
    drawn from the model's own outputs even where there are labels.
    """
    observer = WeightObserver({name: facts.content(name).astype(np.float64) for name in names}, *part[:2])
    view = differentiation(facts, facts.model, [observer], dataset, means, outputs, sampled=part[2])
    (seen,) = observe(view.look, dataset, [observer], view.means, "differentiating")
    return {name: total / max(seen.count, 1.0) for name, total in seen.sums.items()}, view.remark
