"""The whole decision on calibration data, with its rows shared out: tables and fits, judgement, veto."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from onnxprune.allocate import Options, Target
from onnxprune.coupling.channels import row_importance
from onnxprune.coupling.groups import Analysis
from onnxprune.data import Dataset
from onnxprune.data.repeated import Batches, held_out
from onnxprune.means import Means
from onnxprune.measure.outputs import Outputs
from onnxprune.model.read import Model
from onnxprune.repair.sequential import TURNS, Effort
from onnxprune.search.reconstruct import Reconstruction, reconstruct
from onnxprune.search.tables import error_tables
from onnxprune.search.widths import Proposal, Search

FIT, JUDGE = 256, 512  # samples: proposals are repaired on the former and judged, later vetoed, on the latter
FINALISTS = 3  # proposals at most that are repaired on much data before one is taken
MOST_HELD = 1 << 27  # bytes of the data that repairs proposals which are kept in memory
SCARCE = 1024  # with fewer samples, those that judged take part in the last repair
TABLES = 512  # samples for the error tables
HELD_OUT = 0.25


class SearchResult(NamedTuple):
    """What stays, repaired on all data; every proposal that was judged; groups that went by their scores alone.

    ``held_out``: whether the rows that judged took no part in the fits that they judged. ``refitted``: whether the final
    weights were fitted once more with these rows too, so that its divergence is that of the fit before.
    """

    final: Reconstruction
    tried: list[Proposal]
    unread: list[int]
    held_out: bool = True
    refitted: bool = False


@dataclass(frozen=True)
class Goal:
    """What is searched for: ``target`` under ``options``, or the smallest model within ``max_divergence`` of the original.

    ``seconds``: time beyond the starting points. ``train``: what every proposal goes through before it is judged, with the
    data that repaired it.
    """

    target: Target
    options: Options
    max_divergence: float | None = None
    seconds: float = 0.0
    train: Callable[[Model, Dataset], Model] | None = None


def search_units(
    analysis: Analysis,
    dataset: Dataset,
    goal: Goal,
    fallback: Sequence[np.ndarray],
    means: Means = Means(),
    outputs: Outputs | None = None,
) -> SearchResult:
    """Decide what stays.

    A quarter of the calibration data at most judges, a quarter vetoes a long search. A repair on little data favours
    proposals with little to repair, so those that come near the best are repaired on all but the judging data and judged
    again. Rectified targets help shallow networks and overfit deep ones: the best proposal is judged without them and
    with.
    """
    rest, judge = held_out(dataset, HELD_OUT, JUDGE, means.seed)
    fit, veto = held_out(rest, HELD_OUT, JUDGE, means.seed + 1)
    means, train = means.masked(dataset.schema.padding_mask), goal.train
    importance = {} if outputs is None else row_importance(analysis.solution.links, outputs)
    tables = error_tables(analysis, Batches(fit.take(TABLES, means.seed)), fallback, means, importance)
    found = Search(
        analysis, tables, goal.target, goal.options,
        _held(Batches(fit.take(FIT, means.seed))), Batches(judge), Batches(veto), goal.seconds, means,
        outputs=outputs, importance=importance,
        train=None if train is None else lambda model: train(model, fit),
    )  # fmt: skip

    def repaired(proposal: Proposal, turns: int, data: Dataset) -> Reconstruction:
        means.progress(f"{proposal.name}: repairing on {len(data)} rows")
        orders = found.orders[proposal.exponent]
        return reconstruct(analysis, proposal.widths, orders, Batches(data), Effort(turns=turns), means, importance)

    final, best = found.best_of((repaired(finalist, 0, rest), finalist) for finalist in _finalists(found, goal))
    final, turns = found.best_of([(final, 0), (repaired(best, TURNS, rest), TURNS)])
    if len(dataset) < SCARCE:
        final = replace(repaired(best, turns, dataset), divergence=final.divergence)
    narrowed = [group for group in tables.unread if best.widths[group] < analysis.widths[group]]
    apart = judge is not rest and (not goal.seconds or veto is not fit)
    return SearchResult(final, found.history, narrowed, apart, judge is not rest and len(dataset) < SCARCE)


def _finalists(search: Search, goal: Goal) -> list[Proposal]:
    """Run a search; return the best proposal and those that come near it."""
    if goal.max_divergence is not None:
        return [search.smallest(goal.max_divergence)]
    return search.near(search.run())[:FINALISTS]


def _held(batches: Batches) -> Batches | list[dict[str, np.ndarray]]:
    """Return batches as a list where they are small: proposals read them again and again."""
    held, size = [], 0
    for batch in batches:
        held.append(batch)
        size += sum(array.nbytes for array in batch.values())
        if size > MOST_HELD:
            return batches
    return held
