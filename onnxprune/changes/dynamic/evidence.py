"""What a gate is taught by: for every row what it looks at, and how far the fast pass is from the original."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onnxprune.data import Dataset
from onnxprune.means import Means
from onnxprune.measure.outputs import Outputs
from onnxprune.model.model import Model
from onnxprune.model.runtime import session


@dataclass(frozen=True)
class Damages:
    """``features``: float32[rows, width]; ``damage``: float64[rows], the distance of the outputs from the original's."""

    features: np.ndarray
    damage: np.ndarray


@dataclass(frozen=True)
class FastPass:
    """The fast pass with its ``features`` among its outputs; ``called``: output of the original -> its name there."""

    model: Model
    features: str
    called: Mapping[str, str]


def damages(full: Model, fast: FastPass, rows: Dataset, how: Outputs, means: Means) -> Damages:
    """Run both on all rows; raises ModelError where one cannot be run."""
    one, two = (session(model, threads=means.threads) for model in (full, fast.model))
    features, damage, total, done = [], [], len(rows), 0
    for inputs in rows.batches(means.batch):
        before, found = one.run(inputs), two.run(inputs)
        after = {name: found[fast.called.get(name, name)] for name in how.of}
        features.append(np.array(found[fast.features]))
        mask = inputs.get(how.mask)
        each = (o.importance * o.per_sample(before[o.name], after[o.name], mask) for o in how.judged)
        damage.append(sum(each, np.zeros(len(features[-1]))))
        done += len(features[-1])
        means.progress(f"teaching the gate: {done:,} of {total:,} samples", done, total)
    return Damages(np.concatenate(features), np.concatenate(damage))
