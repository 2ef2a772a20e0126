"""From scores and a target to the units that stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from onnxprune.allocate.cost import Costs
from onnxprune.allocate.legal import Options, narrower_widths, nearest
from onnxprune.allocate.policies import Ranking, keep_best, pools
from onnxprune.allocate.target import KINDS, Target
from onnxprune.coupling.groups import Analysis
from onnxprune.errors import TargetError

STEPS = 60  # halvings of the share: finer than one unit of any model


def allocate(analysis: Analysis, scores: Sequence[np.ndarray], target: Target, options: Options) -> list[np.ndarray]:
    """Return bool[width] per group: the units that stay, by ``scores``: float64[width] per group, higher is better.

    Raises TargetError where nothing can be pruned or the target is out of reach, UsageError for patterns without match.
    """
    legal = narrower_widths(analysis, options)
    choice = _Choice(analysis, scores, legal, options)
    widths = choice.by_ratio(target.value) if target.kind == "ratio" else choice.by_budget(target)
    return [keep_best(s, int(width)) for s, width in zip(scores, widths, strict=True)]


class _Choice:
    """The legal widths that belong to a share, ever narrower as the share grows from 0 to 1."""

    def __init__(self, analysis: Analysis, scores: Sequence[np.ndarray], legal: list[list[int]], options: Options):
        self.legal, self.costs = legal, Costs(analysis)
        self.movable = [g for g, widths in enumerate(legal) if len(widths) > 1]
        self.fixed = np.array([widths[-1] for widths in legal], np.int64)
        rankings = pools(analysis, options.scope, self.movable)
        self.rankings = [Ranking(scores, pool, options.threshold) for pool in rankings]

    def wanted(self, share: float) -> np.ndarray:
        """Return float64[groups]: units left by the rankings alone."""
        wanted = self.fixed.astype(np.float64)
        for ranking in self.rankings:
            wanted[ranking.pool] = ranking.at(share)
        return wanted

    def widths(self, share: float) -> np.ndarray:
        """Return int64[groups]: the legal widths nearest to that."""
        wanted, widths = self.wanted(share), self.fixed.copy()
        for g in self.movable:
            widths[g] = nearest(self.legal[g], wanted[g])
        return widths

    def by_ratio(self, ratio: float) -> np.ndarray:
        """Return the widths that remove nearest to ``ratio``, of each group or of all units that may go."""
        if all(len(ranking.pool) == 1 for ranking in self.rankings):
            return self.widths(ratio)
        aim = (1 - ratio) * self.fixed[self.movable].sum()
        wide, narrow, _ = self._around(lambda widths: float(widths[self.movable].sum()), aim)
        over, under = wide[self.movable].sum() - aim, aim - narrow[self.movable].sum()
        return narrow if under < over else wide

    def by_budget(self, target: Target) -> np.ndarray:
        """Return widths that cost at most the budget, so near to it that no group can be one step wider."""
        total = KINDS[target.kind]
        limit = target.budget(float(self.costs.total(total, self.costs.widths)))
        smallest = np.array([widths[0] for widths in self.legal], np.int64)
        best = float(self.costs.total(total, smallest))
        if best > limit:
            share = best / float(self.costs.total(total, self.costs.widths))
            reason = f"the smallest result possible has {total} {best:,.0f} ({share:.1%} of the original)"
            raise TargetError(
                f"--target {target} is out of reach: {reason}; ask for less, or relax --include, --exclude, "
                "--max-layer-ratio, --min-width or --round-to",
                best,
            )
        _, widths, share = self._around(lambda widths: float(self.costs.total(total, widths)), limit)
        return self._filled(widths, total, limit, self.wanted(share))

    def _around(self, cost: Callable[[np.ndarray], float], limit: float) -> tuple[np.ndarray, np.ndarray, float]:
        """Return the narrowest widths above the limit, the widest at most at it, and the share of the latter."""
        low, high = 0.0, 1.0
        if cost(self.widths(low)) <= limit:
            return self.widths(low), self.widths(low), low
        for _ in range(STEPS):
            middle = (low + high) / 2
            low, high = (low, middle) if cost(self.widths(middle)) <= limit else (middle, high)
        return self.widths(low), self.widths(high), high

    def _filled(self, widths: np.ndarray, total: str, limit: float, wanted: np.ndarray) -> np.ndarray:
        """Widen one group at a time while the budget allows, the one furthest below what its ranking wants first."""
        widths = widths.copy()
        place = {g: self.legal[g].index(int(widths[g])) for g in self.movable}
        while True:
            open_groups = [g for g in self.movable if place[g] + 1 < len(self.legal[g])]
            if not open_groups:
                return widths
            wider = np.array([self.legal[g][place[g] + 1] for g in open_groups], np.int64)
            trials = np.repeat(widths[:, None], len(open_groups), axis=1)
            trials[open_groups, np.arange(len(open_groups))] = wider
            excess = (wider - wanted[open_groups]) / self.costs.widths[open_groups]
            fits = np.flatnonzero(self.costs.total(total, trials) <= limit)
            if not len(fits):
                return widths
            chosen = fits[np.argmin(excess[fits])]
            widths[open_groups[chosen]] = wider[chosen]
            place[open_groups[chosen]] += 1
