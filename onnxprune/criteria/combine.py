"""From rows of scores per member to one comparable score per unit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from onnxprune.coupling.groups import Analysis, Group
from onnxprune.criteria.spec import CRITERIA, LEARNED, ROLES, Scoring
from onnxprune.criteria.tensors import WeightReader
from onnxprune.errors import DataError
from onnxprune.evidence.journal import Header, Journal
from onnxprune.means import Means
from onnxprune.registry import Registry

REDUCTIONS: Registry[Callable[[np.ndarray], np.ndarray]] = Registry("reduction")
for _name, _function in {
    "sum": lambda rows: rows.sum(axis=0),
    "mean": lambda rows: rows.mean(axis=0),
    "max": lambda rows: rows.max(axis=0),
    "prod": lambda rows: rows.prod(axis=0),
    "first": lambda rows: rows[0],
}.items():
    REDUCTIONS.add(_name, _function)

NORMALISERS: Registry[Callable[[np.ndarray, np.ndarray], np.ndarray]] = Registry("normaliser")
for _name, _normalise in {  # (scores, the finite ones among them) -> scores
    "none": lambda scores, finite: scores,
    "mean": lambda scores, finite: scores / _divisor(finite.mean()),
    "max": lambda scores, finite: scores / _divisor(np.abs(finite).max()),
    "euclidean": lambda scores, finite: scores / _divisor(np.sqrt(np.square(finite).sum())),
    "standard": lambda scores, finite: (scores - finite.mean()) / _divisor(finite.std()),
}.items():
    NORMALISERS.add(_name, _normalise)

ROLE_CHOICES: Registry[tuple[str, ...]] = Registry("role")
for _name, _roles in ROLES.items():
    ROLE_CHOICES.add(_name, _roles)


def _divisor(scale: float) -> float:
    """The scale itself, or 1 where dividing by it would mean nothing."""
    return float(scale) if np.isfinite(scale) and scale > 0 else 1.0


@dataclass(frozen=True)
class Criterion:
    """Which score to use, how members are combined, how groups are made comparable, which roles count."""

    name: str = "l2"
    reduction: str = "mean"
    normaliser: str = "mean"
    roles: str = "both"

    @property
    def needs(self) -> tuple[str, ...]:
        """Kinds of evidence it needs, none for criteria that look at weights alone."""
        return CRITERIA[self.name].needs

    @property
    def scope(self) -> str:
        """Over what its scores are ranked where nothing else is said."""
        return CRITERIA[self.name].scope

    @property
    def learned(self) -> str:
        """The kind of gates that are trained for it, "" where nothing is."""
        return next((kind.removeprefix(LEARNED) for kind in self.needs if kind.startswith(LEARNED)), "")

    def __str__(self) -> str:
        return f"{self.name}:{self.reduction}:{self.normaliser}"


@dataclass(frozen=True, eq=False)
class Scores:
    """Per group float64[width], higher is more important, inf: must stay; and what the user should know about them."""

    values: list[np.ndarray]
    warnings: tuple[str, ...] = ()


def parse_criterion(text: str, roles: str = "both") -> Criterion:
    """Read NAME[:REDUCTION[:NORMALISER]]; empty parts mean the default. Raises UsageError with near names."""
    parts = [part.strip() for part in text.split(":")]
    if ":".join(parts[:2]) in CRITERIA:  # a name of two parts
        parts[:2] = [":".join(parts[:2])]
    name, reduction, normaliser, *rest = [*parts, "", "", ""][:4]
    scorer = CRITERIA[name if not (rest and rest[0]) else text]
    chosen = Criterion(name, reduction or "mean", normaliser or scorer.normaliser, roles)
    for registry, choice in ((REDUCTIONS, chosen.reduction), (NORMALISERS, chosen.normaliser), (ROLE_CHOICES, roles)):
        registry[choice]
    return chosen


def score(
    analysis: Analysis,
    criterion: Criterion,
    means: Means = Means(),
    *,
    evidence: Mapping[str, Any] | None = None,
    journal: Journal | None = None,
) -> Scores:
    """Score every unit of every group; raises DataError where evidence the criterion needs is missing.

    ``journal``: keeps the scores of each group, and knows those that were found before.
    """
    missing = [kind for kind in CRITERIA[criterion.name].needs if kind not in (evidence or {})]
    if missing:
        raise DataError(f"criterion {criterion.name!r} needs {', '.join(missing)}; give calibration data with --calib")
    context = Scoring(analysis, WeightReader(analysis), criterion.roles, means.seed, evidence or {})
    with np.errstate(all="ignore"):
        values = list(_scored(context, criterion, means, journal))
    return Scores(values, tuple(f"{message}: {_listed(names)}" for message, names in context.notes.items()))


def _scored(context: Scoring, criterion: Criterion, means: Means, journal: Journal | None) -> Iterator[np.ndarray]:
    groups, scorer = context.analysis.groups, CRITERIA[criterion.name]
    for number, group in enumerate(groups):
        means.progress(f"scoring: group {number + 1} of {len(groups)}", number, len(groups))
        known = None if journal is None else journal.find(number, partial(_as_kept, group))
        if known is not None:
            scores, messages = known
            for message in messages:
                context.note(message, group)
            yield scores
            continue
        scores = _combined(group, scorer.score(group, context), criterion, context)
        if journal is not None:
            told = [message for message, names in context.notes.items() if group.name in names]
            journal.keep(number, {"group": group.name, "told": told}, {"scores": scores})
        yield scores


def _as_kept(group: Group, header: Header, arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, list[str]]:
    """Return the scores of a group and what was to be told of it; raises ValueError for those of another."""
    scores, told = arrays["scores"], [str(message) for message in header["told"]]
    if header["group"] != group.name or scores.shape != (group.width,) or scores.dtype != np.float64:
        raise ValueError("scores of another group")
    return scores, told


def score_group(
    analysis: Analysis, criterion: Criterion, group: Group, gone: Sequence[np.ndarray], means: Means = Means()
) -> np.ndarray:
    """Score the units of one group by weights alone; what meets units that are ``gone`` (bool[width] per group) is zero."""
    context = Scoring(analysis, WeightReader(analysis, gone), criterion.roles, means.seed)
    with np.errstate(all="ignore"):
        return _combined(group, CRITERIA[criterion.name].score(group, context), criterion, context)


def _listed(names: list[str], most: int = 3) -> str:
    """Return ``group a`` or ``groups a, b, c and 5 more``."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"group{'s' if len(names) > 1 else ''} {', '.join(names[:most])}{more}"


def _combined(group: Group, rows: np.ndarray, criterion: Criterion, context: Scoring) -> np.ndarray:
    """Reduce and normalise one group's rows, float64[members, width]; units without a finite score get inf, so that they stay."""
    scores = REDUCTIONS[criterion.reduction](rows)
    finite = np.isfinite(scores)
    if not finite.all():
        context.note("units with NaN or infinite weights are kept", group)
    scores = np.where(finite, scores, np.inf)
    return NORMALISERS[criterion.normaliser](scores, scores[finite]) if finite.any() else scores
