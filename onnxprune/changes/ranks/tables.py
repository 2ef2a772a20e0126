"""Low rank of embedding tables: fewer numbers per token, and a product behind the lookup that makes the embedding of them.

A lookup is a product with rows of which one entry is 1, so that a table's best weight of a rank is that of a layer on such rows (see
``regression``): what counts is how often each number is looked up. Numbers that the data does not have share the probability that the next
one is new, by the number of those that it has once (Good 1953, "The population frequencies of species", equation 15).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np

from onnxprune.allocate.legal import Options
from onnxprune.changes.ranks.layers import Layer, TableRead, TiedHead
from onnxprune.changes.ranks.regression import GRADIENT_ROWS, POSITIONS, ROWS, Metric, Regression, through_outputs
from onnxprune.coupling.groups import Analysis
from onnxprune.data import Dataset
from onnxprune.data.observe import Batch, Sums, observe
from onnxprune.evidence import gather
from onnxprune.evidence.gradients import curvatures
from onnxprune.evidence.gradients.taps import Tap
from onnxprune.evidence.needs import Need
from onnxprune.evidence.sites import Site
from onnxprune.means import Means
from onnxprune.measure.outputs import Outputs
from onnxprune.model.facts import Facts
from onnxprune.model.graph import leave_what_makes
from onnxprune.model.runtime import Session, session

COUNTED_ROWS = 1 << 14
"""Rows of the data whose numbers are counted."""
BLOCK = 1 << 13
"""Rows of a table that are multiplied at a time, in float64."""


class TableUse(NamedTuple):
    """One use of a table: with ``moment`` float64[channels, channels] of the rows as it counts them, errors e of a row cost e^T ``worth`` e."""

    worth: np.ndarray
    moment: np.ndarray

    @property
    def whole(self) -> float:
        """What is lost with all of the table."""
        return float(np.einsum("ij,ij->", self.worth, self.moment))


def table_regressions(
    analysis: Analysis,
    tables: Sequence[Layer],
    dataset: Dataset,
    options: Options,
    means: Means = Means(),
    metrics: Mapping[Layer, Metric] | None = None,
    outputs: Outputs | None = None,
) -> list[Regression]:
    """Return the basis of each table; ``metrics``: what errors of an embedding are worth (None: alike, and scores alike).

    ``outputs``: how these are compared.
    """
    if not tables:
        return []
    facts, weighed = analysis.facts, metrics or {}
    counts = looked_up_counts(facts, tables, dataset.take(COUNTED_ROWS, means.seed), means)
    heads = _head_uses(
        analysis, [table for table in tables if _head(table)], dataset, means, outputs if metrics else None
    )
    found = []
    for table, seen in zip(tables, counts, strict=True):
        worth, content = weighed.get(table, Metric()).moment, facts.content(table.name)
        own = TableUse(np.eye(table.outputs) if worth is None else worth, row_moment(content, lookup_shares(seen)))
        found.append(regressed_table(table, [own, *([heads[table]] if table in heads else [])], options))
    return found


def _head(table: Layer) -> TiedHead | None:
    assert isinstance(table.linear, TableRead)
    return table.linear.head


def _head_uses(
    analysis: Analysis, tables: Sequence[Layer], dataset: Dataset, means: Means, outputs: Outputs | None
) -> dict[Layer, TableUse]:
    """Return what tied heads make of tables: errors of a row cost what the head reads makes of them, as scores count (None: alike)."""
    if not tables:
        return {}
    facts, ends = analysis.facts, {table: head for table in tables if (head := _head(table))}
    needs = [Need("gram", head.source, len(facts.shape(head.source) or ()) - 1) for head in ends.values()]
    rows = dataset.take(ROWS, means.seed)
    seen = gather(facts, rows, needs, means, positions=POSITIONS)
    scores = {table: np.ones(table.inputs) for table in tables}
    if outputs is not None:
        taps = [_tap(facts, table, head) for table, head in ends.items()]
        found = curvatures(analysis, taps, dataset.take(GRADIENT_ROWS, means.seed), means.quiet, outputs)
        for table, each in zip(ends, found, strict=True):
            power = each.moment[0] * each.positions / 2
            scores[table] = np.maximum(power if power.ndim == 1 else np.diag(power), 0.0)
    return {
        table: TableUse(seen[need].second_moment[0], row_moment(facts.content(table.name), scores[table]))
        for table, need in zip(ends, needs, strict=True)
    }


def _tap(facts: Facts, table: Layer, head: TiedHead) -> Tap:
    """Return where the gradients of a tied head's scores are looked at."""
    axis = len(facts.shape(head.source) or ()) - 1
    site = Site(head.node, head.source, axis, np.arange(table.outputs), table.name)
    return Tap(site, head.source, head.node.outputs[0], len(facts.shape(head.node.outputs[0]) or ()) - 1)


def looked_up_counts(facts: Facts, tables: Sequence[Layer], dataset: Dataset, means: Means) -> list[np.ndarray]:
    """Return per table int64[rows]: how often each is looked up, at positions that a padding mask leaves."""
    names = [table.linear.source for table in tables]
    structure = facts.model.draft()
    computed = [name for name in dict.fromkeys(names) if name not in facts.graph.inputs]
    leave_what_makes(structure, computed)
    opened = session(facts.model.derived(structure), threads=means.threads) if computed else None

    ends = [(name, table.inputs) for name, table in zip(names, tables, strict=True)]
    look = partial(_looked_up, opened, computed, ends, means.mask)
    return list(observe(look, dataset, [Sums()], means, "counting")[0].totals)


def _looked_up(
    opened: Session | None, computed: Sequence[str], ends: Sequence[tuple[str, int]], mask: str | None, batch: Batch
) -> list[np.ndarray]:
    """Return how often each row is looked up by a batch; ``ends``: the numbers of each table's rows, and how many it has."""
    found = {**batch.inputs, **(opened.run(batch.inputs, computed) if opened else {})}
    counts = None if mask is None else batch.inputs.get(mask)
    return [_counted(np.asarray(found[name]), counts, rows) for name, rows in ends]


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


def row_moment(table: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return float64[channels, channels]: the moment of a table's rows, each counted so often."""
    moment = np.zeros((table.shape[1], table.shape[1]))
    for start in range(0, len(table), BLOCK):
        rows = table[start : start + BLOCK].astype(np.float64)
        moment += (rows * shares[start : start + BLOCK, None]).T @ rows
    return moment


def regressed_table(layer: Layer, uses: Sequence[TableUse], options: Options) -> Regression:
    """Return the basis of a table [rows, channels] for all its uses.

    Of one use the directions are the best there are. Of two they are those of the sum of both, each as a share of what is lost with
    all of it; what is lost is counted for each use by itself, and exact.
    """
    parts = [(use.whole / max(float(np.trace(of)), 1e-300), of) for use in uses for of in use]
    worth, moment = (sum(share * of for share, of in parts[kind::2]) for kind in (0, 1))
    metric = Metric.of(np.asarray(worth)) if len(uses) > 1 else _undamped(uses[0].worth)
    vectors = np.linalg.eigh(metric.into(metric.into(np.asarray(moment)).T))[1][:, ::-1]
    reads, gives = vectors.T @ metric.into(np.eye(layer.outputs)), metric.back(vectors)
    both = sum((reads @ use.moment @ reads.T) * (gives.T @ use.worth @ gives) for use in uses)
    lost = np.maximum(np.asarray(both)[::-1, ::-1].cumsum(0).cumsum(1).diagonal()[::-1], 0.0)
    way = through_outputs(layer, "rows", np.append(-np.diff(lost), lost[-1]), options)
    basis = Regression(layer, metric, vectors, None, None, (), float(lost[0]))
    return replace(basis, found=(way,) if len(way.ranks) else ())


def _undamped(worth: np.ndarray) -> Metric:
    values, vectors = np.linalg.eigh(worth)
    return Metric(vectors, np.sqrt(np.maximum(values, 1e-12 * max(float(values[-1]), 1e-300))))


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
