"""Which units go first: scopes say which groups are ranked together, thresholds how their scores become comparable."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence

import numpy as np

from onnxprune.coupling.groups import Analysis, Group
from onnxprune.registry import Registry

Pool = list[int]  # numbers of the groups that are ranked together

SCOPES: Registry[Callable[[Group, Analysis], Hashable]] = Registry("scope")  # groups with equal keys share a pool
THRESHOLDS: Registry[Callable[[np.ndarray], np.ndarray]] = Registry("threshold")  # scores of one class -> ranking keys


@SCOPES.register("layer")
def layer(group: Group, analysis: Analysis) -> Hashable:
    """Every group gives the same share of its own units."""
    return group.index


@SCOPES.register("global")
def whole(group: Group, analysis: Analysis) -> Hashable:
    """All units of the model are ranked together."""
    return None


@SCOPES.register("isomorphic")
def isomorphic(group: Group, analysis: Analysis) -> Hashable:
    """Groups of the same build are ranked together: same operators, roles and shapes, whatever the prunable widths.

    Fang et al. 2024, "Isomorphic Pruning for Vision Models", section 3.2.
    """
    return tuple(sorted((m.node.op, m.role, m.axis, _pattern(m.parameter, analysis)) for m in group.members))


def _pattern(parameter: str, analysis: Analysis) -> tuple[int, ...]:
    """Return a parameter's shape with 0 for every axis that some group lies on."""
    shape = analysis.facts.shape(parameter) or ()
    links = analysis.solution.links
    return tuple(0 if (analysis.unit[links.axis(parameter, a)] >= 0).any() else n for a, n in enumerate(shape))


@THRESHOLDS.register("class-blind")
def class_blind(scores: np.ndarray) -> np.ndarray:
    """Scores as they are: one threshold for all classes (See et al. 2016, "Compression of NMT Models via Pruning")."""
    return scores


@THRESHOLDS.register("class-uniform")
def class_uniform(scores: np.ndarray) -> np.ndarray:
    """Rank over size: the same share of every class goes (See et al. 2016, section 3.2)."""
    return _fractions(scores)


@THRESHOLDS.register("class-distribution")
def class_distribution(scores: np.ndarray) -> np.ndarray:
    """Scores in standard deviations of their class: threshold lambda times sigma (See et al. 2016, section 3.2)."""
    deviation = scores[np.isfinite(scores)].std() if np.isfinite(scores).any() else 0.0
    return scores / deviation if deviation > 0 else scores


def removal_order(scores: np.ndarray) -> np.ndarray:
    """Return int64[width]: units from the first to go to the last; of equals the higher number goes first."""
    return np.lexsort((-np.arange(len(scores)), scores))


def _fractions(scores: np.ndarray) -> np.ndarray:
    """Return float64[width]: the share of the class that goes before each unit."""
    fractions = np.empty(len(scores))
    fractions[removal_order(scores)] = np.arange(len(scores)) / max(len(scores), 1)
    return fractions


class Ranking:
    """The order in which the units of a pool go: ``at(share)`` says how many units each group keeps."""

    def __init__(self, scores: Sequence[np.ndarray], pool: Pool, threshold: str):
        keys = [THRESHOLDS[threshold](scores[g]) for g in pool]
        owner = np.repeat(np.arange(len(pool)), [len(k) for k in keys])
        number = np.arange(len(owner))
        # equal keys: groups take turns, each giving the same share of its units
        order = np.lexsort((number, np.concatenate([_fractions(scores[g]) for g in pool]), np.concatenate(keys)))
        self.pool = pool
        self._owner = owner[order]
        self._widths = np.bincount(owner, minlength=len(pool)).astype(np.float64)

    def at(self, share: float) -> np.ndarray:
        """Return float64[groups of the pool]: units left once ``share`` of all are gone, the last one in part."""
        gone = share * len(self._owner)
        full = min(int(gone), len(self._owner))
        left = self._widths - np.bincount(self._owner[:full], minlength=len(self.pool))
        if full < len(self._owner):
            left[self._owner[full]] -= gone - full
        return left


def pools(analysis: Analysis, scope: str, groups: Sequence[int]) -> list[Pool]:
    """Return the given groups, split into those that are ranked together."""
    found: dict[Hashable, Pool] = defaultdict(list)
    for index in groups:
        found[SCOPES[scope](analysis.groups[index], analysis)].append(index)
    return list(found.values())


def masks(scores: Sequence[np.ndarray], share: float, threshold: str = "class-blind") -> list[np.ndarray]:
    """Return bool arrays shaped like ``scores``, one per class: what stays once at most ``share`` of all entries go."""
    flat = [np.asarray(s).reshape(-1) for s in scores]
    left = np.ceil(Ranking(flat, list(range(len(flat))), threshold).at(share) - 1e-9).astype(np.int64)
    return [keep_best(s, int(k)).reshape(np.shape(whole)) for s, k, whole in zip(flat, left, scores, strict=True)]


def keep_best(scores: np.ndarray, count: int) -> np.ndarray:
    """Return bool[width] with the ``count`` most important units; of equals the lower number stays."""
    kept = np.ones(len(scores), bool)
    kept[removal_order(scores)[: len(scores) - count]] = False
    return kept
