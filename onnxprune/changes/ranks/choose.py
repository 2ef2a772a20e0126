"""From what is lost and a target to the form and the directions of each layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from onnxprune.allocate.hull import lower_hull
from onnxprune.allocate.legal import Options
from onnxprune.allocate.target import KINDS, Target
from onnxprune.changes.ranks.basis import Basis, Cut
from onnxprune.changes.ranks.costs import Count, cost
from onnxprune.changes.ranks.layers import Layer
from onnxprune.errors import TargetError

Price = Callable[[Layer, str, Count, Count, str], np.ndarray]
"""(layer, form, input directions, rank, kind of cost) -> what the layer costs so written; see ``cost``."""


class Option(NamedTuple):
    """One way to write a layer (``cut`` None: as it was), its cost and its damage."""

    cost: float
    damage: float
    cut: Cut | None


class Rules(NamedTuple):
    """How sizes are chosen: within which ``options``, at which ``price``.

    ``most``: layer -> share of its cost that it may have as factors, to be worth it.
    """

    options: Options
    price: Price = cost
    most: Callable[[Layer], float] = lambda layer: 1.0


def choose_cuts(
    bases: Sequence[Basis],
    whole: Mapping[str, float],
    target: Target,
    rules: Rules,
    weights: Sequence[float] | None = None,
) -> tuple[Cut, ...]:
    """Return the layers to write as factors, in the order of ``bases``.

    A ratio is a share of each layer, as its basis understands it. A budget is met with the least damage, by steps of least
    damage per cost along each layer's convex frontier. ``weights``: by which each layer's damages count (None: as they are).
    Raises TargetError where nothing becomes cheaper.
    """
    if target.kind == "ratio":
        cuts = [basis.at_ratio(target.value, rules.options) for basis in bases]
    else:
        kind = KINDS[target.kind]
        ways = [
            _options(basis, rules, kind, weight)
            for basis, weight in zip(bases, weights or [1.0] * len(bases), strict=True)
        ]
        cuts = [option.cut for option in _by_budget(ways, whole[kind], kind, target)]
    chosen = tuple(cut for cut in cuts if cut is not None)
    if not chosen:
        raise TargetError(
            f"no layer of this model becomes cheaper as factors within {target}; ask for more, or prune widths"
        )
    return chosen


def _by_budget(ways: Sequence[Sequence[Option]], whole: float, kind: str, target: Target) -> list[Option]:
    """Return an option of each layer; raises TargetError where even the cheapest are too many."""
    limit, frontiers = target.budget(whole), [_hull(own) for own in ways]
    steps = sorted(
        (_steepness(before, after), number, place)
        for number, frontier in enumerate(frontiers)
        for place, (before, after) in enumerate(pairwise(frontier))
    )
    chosen = [frontier[0] for frontier in frontiers]
    total = float(whole)
    for _, number, place in steps:
        if total <= limit:
            break
        total += frontiers[number][place + 1].cost - chosen[number].cost
        chosen[number] = frontiers[number][place + 1]
    if total > limit:
        share = total / max(whole, 1)
        reason = f"with the fewest directions in every layer {share:.1%} of the {kind} are left"
        raise TargetError(f"--target {target} is out of reach: {reason}; prune widths too, in another run", total)
    _spend(limit - total, ways, chosen)
    return chosen


def _spend(slack: float, ways: Sequence[Sequence[Option]], chosen: list[Option]) -> None:
    """Replace options by better ones while the budget allows, the largest gain first."""
    while True:
        gains = [
            (now.damage - best.damage, -number, best)
            for number, (own, now) in enumerate(zip(ways, chosen, strict=True))
            for best in [min((o for o in own if o.cost <= now.cost + slack), key=lambda o: (o.damage, o.cost))]
        ]
        gain, number, best = max(gains, key=lambda entry: entry[:2])
        if gain <= 0:
            return
        slack -= best.cost - chosen[-number].cost
        chosen[-number] = best


def _options(basis: Basis, rules: Rules, kind: str, weight: float) -> list[Option]:
    """Return the layer as it was, and everything that is cheaper."""
    original = float(rules.price(basis.layer, "", 0, 0, kind))
    found = [Option(original, 0.0, None)]
    for form, ranks, inputs, lost in basis.ways(rules.options):
        price = np.broadcast_to(rules.price(basis.layer, form, inputs[None, :], ranks[:, None], kind), lost.shape)
        pays = np.isfinite(lost) & (price < rules.most(basis.layer) * original)
        for a, b in zip(*np.nonzero(pays), strict=True):
            cut = Cut(basis, form, int(inputs[b]), int(ranks[a]))
            found.append(Option(float(price[a, b]), weight * float(lost[a, b]), cut))
    return found


def _steepness(before: Option, after: Option) -> float:
    """Return the damage of a step per what it saves."""
    return (after.damage - before.damage) / (before.cost - after.cost)


def _hull(options: Sequence[Option]) -> list[Option]:
    """Return the lower convex frontier of (cost, damage), from the layer as it was to the cheapest."""
    ranked = sorted(options, key=lambda o: (-o.cost, o.damage))
    best = [option for number, option in enumerate(ranked) if not number or option.cost < ranked[number - 1].cost]
    return [best[i] for i in lower_hull([o.cost for o in best], [o.damage for o in best])]
