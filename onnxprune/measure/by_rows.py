"""What is measured of models that decide per sample how much is run: over many samples, one at a time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from onnxprune.data import Dataset
from onnxprune.means import Means
from onnxprune.measure.latency import MIN_ROUNDS, Clocked, LatencyReport, cpu_tells, rounds_of
from onnxprune.model.gated import asking_value
from onnxprune.model.graph import give_out
from onnxprune.model.model import Model
from onnxprune.model.runtime import ModelLike, session

MOST_ROWS = 256
"""Samples that are timed, at most."""


@dataclass(frozen=True)
class RowsLatency(LatencyReport):
    """The same of passes over ``rows`` samples, run one by one: every figure is of a pass, per sample."""

    rows: int = 0

    def to_json(self) -> dict[str, Any]:
        return super().to_json() | {"rows": self.rows}


def measure_rows(
    before: ModelLike, after: ModelLike, dataset: Dataset, means: Means = Means(), *, max_seconds: float = 10.0
) -> RowsLatency:
    """Time two models in turns on random rows of the data, one at a time, as often as ``max_seconds`` have room for.

    Raises ModelError when one fails.
    """
    sessions = [session(model, threads=means.threads, whole=True) for model in (before, after)]
    feeds = [dict(feed) for feed in islice(dataset.take(MOST_ROWS, means.seed).batches(1), MOST_ROWS)]
    first = rounds_of([partial(each.run, feeds[0]) for each in sessions], rounds=3, max_seconds=max_seconds)
    once = sum(min(wall for wall, _ in column) for column in first) / 1e9
    feeds = feeds[: max(int(max_seconds / MIN_ROUNDS / max(once, 1e-9)), 1)]
    found = np.zeros((2, 2, 0))
    for _ in range(MIN_ROUNDS):
        passes = np.zeros((2, 2))
        for feed in feeds:
            runs = [partial(each.run, feed) for each in sessions]
            both = rounds_of(runs, rounds=1, warmup_runs=0, warmup_seconds=0.0)
            passes += np.array([column[0] for column in both]).T
        found = np.concatenate([found, passes[:, :, None] / len(feeds)], axis=2)
    wall, cpu = (Clocked.of(*clock.tolist()) for clock in found)
    told, sizes = sessions[0].providers, {name: array.shape for name, array in feeds[0].items()}
    own = cpu if cpu_tells(means.threads, told) else None
    return RowsLatency(wall.before, wall.after, wall.drift, means.threads, told, own, sizes, len(feeds))


def asking_share(model: Model, dataset: Dataset, means: Means) -> float:
    """Return the share of the rows for which the gate of a model lets everything run."""
    name = asking_value(model)
    proto = model.draft()
    give_out(proto, [name])
    gate, asked, rows = session(model.derived(proto), threads=means.threads), 0, 0
    for inputs in dataset.batches(means.batch):
        found = gate.run(inputs, [name])[name]
        asked, rows = asked + int(found.sum()), rows + len(found)
    return asked / max(rows, 1)
