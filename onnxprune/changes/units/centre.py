"""Streams of layer norms rid of their mean before they are cut: a step of its own, proven against the original."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from onnxprune.changes.context import Context
from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.streams.centring import centrable_streams, centred, with_root_mean_squares


def mean_free_where_cut(context: Context, analysis: Analysis, groups: Collection[int]) -> Analysis:
    """Return the analysis of the model in which the streams that lose units have mean zero, with the same units and groups.

    The one given where no such stream can, where that is not exact, or where a schedule fills gone units with zeros.
    """
    found = centrable_streams(analysis)
    chosen = frozenset(number for number, one in enumerate(found) if not one.groups.isdisjoint(groups))
    if not chosen or context.settings.steps.steps > 1:
        return analysis

    def proven() -> Analysis | None:
        fresh = centred(analysis, frozenset[int]().union(*(found[number].groups for number in chosen)))
        with context.stages("check"):
            rooted = with_root_mean_squares(fresh.solution.links)  # a layer norm would take away what is left of a mean
            check = context.prover.compare(analysis.facts.model, rooted, None)
        norms = len(fresh.facts.mean_free)
        context.notes.entries["centred"] = {"norms": norms, "max_relative_error": check.error, "exact": check.agrees}
        return fresh if check.agrees else None

    fresh = context.once(f"centred {sorted(chosen)}", proven)
    if fresh is None:
        return analysis
    return replace(analysis, facts=fresh.facts, solution=fresh.solution)
