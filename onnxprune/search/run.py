"""The whole decision on calibration data, with its rows shared out: tables and fits, judgement, veto."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from onnxprune.allocate import Options, Target
from onnxprune.coupling.channels import row_importance
from onnxprune.coupling.groups import Analysis
from onnxprune.data import Dataset
from onnxprune.data.repeated import Batches, Joined, drawn_apart, held_out, in_batches
from onnxprune.means import Means
from onnxprune.measure.divergence import Reference
from onnxprune.measure.outputs import Outputs
from onnxprune.model.memory import room
from onnxprune.model.read import Model
from onnxprune.model.runtime import Arrays
from onnxprune.repair.sequential import Effort
from onnxprune.repair.teacher import Teacher, batch_of, positions_of
from onnxprune.search.ending import SearchEnd
from onnxprune.search.reconstruct import Fitting, Reconstruction, reconstruct, refitted
from onnxprune.search.tables import POSITIONS, error_tables
from onnxprune.search.widths import Proposal, Search

FIT, JUDGE = 512, 512  # samples at most that proposals are repaired on, and judged, later vetoed
FEW, GLANCE = 96, 128  # samples at most of the first look at many proposals: to repair on, and to judge by
MOST_HELD = 1 << 27  # bytes of a part of the data that is kept in memory
SCARCE = 1024  # with fewer samples, those that judged take part in the last repair
TRIAL = Effort(POSITIONS, turns=0)  # that a proposal is worth
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
    data that repaired it. ``onward``: what goes on from where the search ends; what it leads to is taken.
    """

    target: Target
    options: Options
    max_divergence: float | None = None
    seconds: float = 0.0
    train: Callable[[Model, Dataset], Model] | None = None
    onward: Callable[[SearchEnd], Reconstruction] | None = None


@dataclass(frozen=True)
class Portions:
    """How the rows of the calibration data are shared out; a part that begins with another looks at the same batches first.

    ``glance`` repairs many proposals, ``trial`` the best of them, ``every`` the one that is taken, ``others`` of these those that do not judge. ``quick`` judges the first,
    ``judge`` the others, ``veto`` those of a long search. ``apart``: whether what judges repairs nothing; ``scarce``: whether that
    holds until the last repair only.
    """

    glance: Iterable[Arrays]
    trial: Iterable[Arrays]
    others: Iterable[Arrays]
    every: Iterable[Arrays]
    quick: Iterable[Arrays]
    judge: Iterable[Arrays]
    veto: Iterable[Arrays]
    fit: Dataset
    apart: bool
    scarce: bool

    @classmethod
    def of(cls, analysis: Analysis, dataset: Dataset, means: Means, *, long: bool) -> Portions:
        """``long``: whether a search has time of its own."""
        seed, most, batch = means.seed, room(means, MOST_HELD), batch_of(analysis, dataset, means)
        rest, judge = held_out(dataset, HELD_OUT, JUDGE, seed)
        fit, veto = held_out(rest, HELD_OUT, JUDGE, seed + 1) if long else (rest, rest)
        tried, *more = drawn_apart(fit, min(FIT, len(fit) // 2), seed)
        few = drawn_apart(tried, min(FEW, len(tried) // 3), seed)
        apart, scarce = judge is not rest, judge is not rest and len(dataset) < SCARCE
        last = [*more, *([veto] if veto is not fit else []), *([judge] if scarce else [])]
        parts = tuple(_held(Batches(part, batch), most) for part in (*few, *last))
        quick, whole, unseen = (
            _held(in_batches(part, analysis.facts, means), most)
            for part in (drawn_apart(judge, GLANCE, seed)[0], judge, veto)
        )
        return cls(
            parts[0], Joined(parts[: len(few)]), Joined(parts[: len(parts) - scarce]), Joined(parts), quick, whole, unseen,
            fit, apart and (not long or veto is not fit), scarce,
        )  # fmt: skip


def search_units(
    analysis: Analysis,
    dataset: Dataset,
    goal: Goal,
    fallback: Sequence[np.ndarray],
    means: Means = Means(),
    outputs: Outputs | None = None,
) -> SearchResult:
    """Decide what stays.

    A quarter of the calibration data at most judges, a quarter vetoes a long search. The original is looked at once, for the tables
    and for all repairs.
    """
    means, train = means.masked(dataset.schema.padding_mask), goal.train
    importance = {} if outputs is None else row_importance(analysis.solution.links, outputs)
    data = Portions.of(analysis, dataset, means, long=bool(goal.seconds))
    teacher = Teacher(analysis.facts, data.every, means, positions=positions_of(len(dataset)))
    tables = error_tables(analysis, teacher, fallback, importance)
    trial = Fitting(data.trial, TRIAL, means.quiet, importance, teacher, choosing=False)
    quick = Reference(analysis.facts.model, data.quick, means, outputs=outputs)
    search = Search(
        analysis, tables, goal.target, goal.options, trial, data.judge, data.veto, goal.seconds, means,
        outputs=outputs, first=(replace(trial, batches=data.glance), quick),
        train=None if train is None else lambda model: train(model, data.fit),
    )  # fmt: skip
    best = search.run() if goal.max_divergence is None else search.smallest(goal.max_divergence)
    final, divergence, refitted_too = _settled(search, best, data, teacher, goal.onward)
    narrowed = [group for group in tables.unread if final.kept.widths[group] < analysis.widths[group]]
    return SearchResult(replace(final, divergence=divergence), search.history, narrowed, data.apart, refitted_too)


def _settled(
    search: Search,
    best: Proposal,
    data: Portions,
    teacher: Teacher,
    onward: Callable[[SearchEnd], Reconstruction] | None,
) -> tuple[Reconstruction, float, bool]:
    """Return what stays in the end, repaired on all data, its divergence before rows that judge took part, and whether these did."""
    analysis, orders = search.analysis, search.orders[best.exponent]
    whole = replace(search.fitting_of(best), batches=data.every, effort=Effort(teacher.positions), means=search.means)
    if onward is None and data.scarce:
        return reconstruct(analysis, best.widths, orders, whole), best.divergence, True
    apart = replace(whole, batches=data.others)
    start = reconstruct(analysis, best.widths, orders, apart)
    found = (
        start
        if onward is None
        else onward(SearchEnd(analysis, start, data.fit, search.fitting, apart, search.judge_by))
    )
    divergence = search.divergence_of(found.model)
    if not data.scarce or found.by != start.by:
        return found, divergence, False
    last = (
        reconstruct(analysis, best.widths, orders, whole) if found is start else refitted(analysis, found.kept, whole)
    )
    return last, divergence, True


def _held(batches: Iterable[Arrays], most: int) -> Iterable[Arrays]:
    """Return batches as a list where they take ``most`` bytes at most: they are read again and again."""
    held, size = [], 0
    for batch in batches:
        held.append(batch)
        size += sum(array.nbytes for array in batch.values())
        if size > most:
            return batches
    return held
