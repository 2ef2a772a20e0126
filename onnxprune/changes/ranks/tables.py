"""Low rank of embedding tables: fewer numbers per token, and a product behind the lookup that makes the embedding of them.

A lookup is a product with rows of which one entry is 1, so that a table's best weight of a rank is that of a layer on such rows (see
``regression``): what counts is how often each number is looked up. Numbers that the data does not have share the probability that the next
one is new, by the number of those that it has once (Good 1953, "The population frequencies of species", equation 15).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxprune.allocate.legal import Options
from onnxprune.changes.ranks.layers import Layer
from onnxprune.changes.ranks.regression import Metric, Regression, through_outputs
from onnxprune.data import Dataset
from onnxprune.data.observe import Batch, Sums, observe
from onnxprune.means import Means
from onnxprune.model.facts import Facts
from onnxprune.model.graph import give_out
from onnxprune.model.runtime import session

COUNTED_ROWS = 1 << 14
"""Rows of the data whose numbers are counted."""
BLOCK = 1 << 13
"""Rows of a table that are multiplied at a time, in float64."""


def table_regressions(
    facts: Facts,
    tables: Sequence[Layer],
    dataset: Dataset,
    options: Options,
    means: Means = Means(),
    metrics: Mapping[Layer, Metric] | None = None,
) -> list[Regression]:
    """Return the basis of each table; ``metrics``: what errors of an embedding are worth (None: alike)."""
    if not tables:
        return []
    counts = looked_up_counts(facts, tables, dataset.take(COUNTED_ROWS, means.seed), means)
    weighed = metrics or {}
    return [
        regressed_table(table, facts.content(table.name), lookup_shares(found), options, weighed.get(table, Metric()))
        for table, found in zip(tables, counts, strict=True)
    ]


def looked_up_counts(facts: Facts, tables: Sequence[Layer], dataset: Dataset, means: Means) -> list[np.ndarray]:
    """Return per table int64[rows]: how often each is looked up, at positions that a padding mask leaves."""
    names = [table.linear.source for table in tables]
    structure = facts.model.draft()
    give_out(structure, [name for name in names if name not in facts.graph.inputs])
    opened = session(facts.model.derived(structure), threads=means.threads)
    computed = [name for name in dict.fromkeys(names) if name not in facts.graph.inputs]

    def look(batch: Batch) -> list[np.ndarray]:
        found = {**batch.inputs, **opened.run(batch.inputs, computed)}
        mask = None if means.mask is None else batch.inputs.get(means.mask)
        return [
            _counted(np.asarray(found[name]), mask, table.inputs) for name, table in zip(names, tables, strict=True)
        ]

    return list(observe(look, dataset, [Sums()], means, "counting")[0].totals)


def _counted(numbers: np.ndarray, mask: np.ndarray | None, rows: int) -> np.ndarray:
    flat = numbers.reshape(-1).astype(np.int64)
    if mask is not None and mask.size == flat.size:
        flat = flat[mask.reshape(-1) != 0]
    flat = np.where(flat < 0, flat + rows, flat)
    return np.bincount(flat[(flat >= 0) & (flat < rows)], minlength=rows)


def lookup_shares(counts: np.ndarray) -> np.ndarray:
    """Return float64[rows]: how likely each number is to be looked up, all of them a little."""
    total, once = int(counts.sum()), int((counts == 1).sum())
    fresh = (once + 1) / (total + 1)
    return (1 - fresh) * counts / max(total, 1) + fresh / len(counts)


def regressed_table(
    layer: Layer, table: np.ndarray, shares: np.ndarray, options: Options, metric: Metric | None = None
) -> Regression:
    """Return the basis of a table [rows, channels] whose rows are looked up that often."""
    metric, moment = metric or Metric(), np.zeros((layer.outputs, layer.outputs))
    for start in range(0, len(table), BLOCK):
        rows = table[start : start + BLOCK].astype(np.float64)
        moment += (rows * shares[start : start + BLOCK, None]).T @ rows
    values, vectors = np.linalg.eigh(metric.into(metric.into(moment).T))
    values = np.maximum(values[::-1], 0.0)
    way = through_outputs(layer, "rows", values, options)
    basis = Regression(layer, metric, vectors[:, ::-1], None, None, (), float(values.sum()))
    return replace(basis, found=(way,) if len(way.ranks) else ())


@dataclass(frozen=True)
class TableFactors:
    """Of a table E [rows, channels]: ``rows`` [rows, rank] and ``product`` [rank, channels], which together are its projection."""

    rows: np.ndarray
    product: np.ndarray

    @classmethod
    def of(cls, table: np.ndarray, projection: np.ndarray, rank: int) -> TableFactors:
        """Take the projection float64[channels, channels], of that rank, of the table's rows."""
        left, values, right = np.linalg.svd(projection)
        inner = (values[:rank, None] * right[:rank]).T
        return cls(multiplied(table, inner), left[:, :rank].T.astype(table.dtype))


def multiplied(table: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return the product of a table and float64[channels, n], of the table's type."""
    result = np.empty((len(table), matrix.shape[1]), table.dtype)
    for start in range(0, len(table), BLOCK):
        result[start : start + BLOCK] = table[start : start + BLOCK].astype(np.float64) @ matrix
    return result
