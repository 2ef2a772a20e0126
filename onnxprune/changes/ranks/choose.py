"""From damages and a target to the directions that stay in each layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from onnxprune.allocate.hull import lower_hull
from onnxprune.allocate.legal import Options, aligned_parts, capped, nearest
from onnxprune.allocate.target import KINDS, Target
from onnxprune.changes.ranks.basis import Basis
from onnxprune.changes.ranks.costs import FORMS, cost, forms
from onnxprune.changes.ranks.layers import Layer
from onnxprune.errors import TargetError

LEVELS = 64  # numbers of directions that are looked at per side of a layer


@dataclass(frozen=True, eq=False)
class Cut:
    """A layer that becomes factors: the first ``inputs`` and ``rank`` directions of its basis stay."""

    basis: Basis
    form: str
    inputs: int
    rank: int

    @property
    def layer(self) -> Layer:
        return self.basis.layer

    @property
    def reads(self) -> int:
        """Directions of its input that the layer still reads."""
        return self.inputs if FORMS[self.form].before else self.layer.inputs

    @property
    def makes(self) -> int:
        """Directions of its output that it still makes."""
        return self.rank if FORMS[self.form].after else self.layer.outputs

    @property
    def reading(self) -> np.ndarray:
        """float64[inputs of the layer, directions]: what of its input the layer still reads."""
        return self.basis.inputs[:, : self.inputs]

    @property
    def entry(self) -> tuple[Layer, str, int, int]:
        return self.layer, self.form, self.inputs, self.rank


class Option(NamedTuple):
    """One way to write a layer (``cut`` None: as it was), its cost and its damage."""

    cost: float
    damage: float
    cut: Cut | None


def full_cut(basis: Basis, form: str) -> Cut:
    """Return a layer in a form that keeps all directions, which computes what the layer did."""
    return Cut(basis, form, basis.layer.inputs, basis.layer.outputs)


def cut_to(basis: Basis, inputs: int, rank: int) -> Cut:
    """Return a layer with so many directions left, in the form that costs the fewest MACs."""
    prices = {form: int(cost(basis.layer, form, inputs, rank, "macs")) for form in forms(basis.layer)}
    return Cut(basis, min(prices, key=lambda form: prices[form]), inputs, rank)


def choose_cuts(
    bases: Sequence[Basis], whole: dict[str, int], target: Target, options: Options, exponent: float = 1.0
) -> tuple[Cut, ...]:
    """Return the layers to write as factors, in the order of ``bases``.

    A ratio is the share of each layer's directions that goes, on both sides. A budget is met with the least damage, by
    steps of least damage per cost along each layer's convex frontier. ``options``: which numbers of directions there may be.
    ``exponent``: damages are divided by the layer's own to 1 - exponent. Raises TargetError where nothing becomes cheaper.
    """
    if target.kind == "ratio":
        cuts = [by_ratio(basis, target.value, options) for basis in bases]
    else:
        kind = KINDS[target.kind]
        cuts = _by_budget(bases, whole, kind, target, options, exponent)
    chosen = tuple(cut for cut in cuts if cut is not None)
    if not chosen:
        raise TargetError(
            f"no layer of this model becomes cheaper as factors within {target}; ask for more, or prune widths"
        )
    return chosen


def by_ratio(basis: Basis, ratio: float, options: Options) -> Cut | None:
    """Return a layer without so large a share of its directions on both sides; None where that makes it no cheaper."""
    layer = basis.layer
    inputs, rank = (nearest(aligned_parts(n, options), (1 - ratio) * n) for n in (layer.inputs, layer.outputs))
    found = cut_to(basis, inputs, rank)
    found = replace(found, inputs=found.reads, rank=found.makes)  # what a form does not save, it keeps
    return found if cost(*found.entry, "macs") < layer.macs else None


def _by_budget(
    bases: Sequence[Basis], whole: dict[str, int], kind: str, target: Target, options: Options, exponent: float
) -> list[Cut | None]:
    limit = target.budget(whole[kind])
    ways = [_options(basis, options, kind, exponent) for basis in bases]
    frontiers = [_hull(own) for own in ways]
    steps = sorted(
        (_price(before, after), number, place)
        for number, frontier in enumerate(frontiers)
        for place, (before, after) in enumerate(pairwise(frontier))
    )
    chosen = [frontier[0] for frontier in frontiers]
    total = float(whole[kind])
    for _, number, place in steps:
        if total <= limit:
            break
        total += frontiers[number][place + 1].cost - chosen[number].cost
        chosen[number] = frontiers[number][place + 1]
    if total > limit:
        share = total / max(whole[kind], 1)
        reason = f"with the fewest directions in every layer {share:.1%} of the {kind} are left"
        raise TargetError(f"--target {target} is out of reach: {reason}; prune widths too, in another run", total)
    _spend(limit - total, ways, chosen)
    return [option.cut for option in chosen]


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


def _levels(width: int, options: Options) -> np.ndarray:
    """Return the numbers of directions to look at, ascending, all of them last."""
    every = np.array(capped(aligned_parts(width, options), options))
    return every[np.unique(np.linspace(0, len(every) - 1, LEVELS).round().astype(int))]


def _options(basis: Basis, options: Options, kind: str, exponent: float) -> list[Option]:
    """Return the layer as it was, and everything that is cheaper."""
    layer, lost = basis.layer, basis.lost()
    inputs, rank = _levels(layer.inputs, options), _levels(layer.outputs, options)
    damage = lost[np.ix_(rank, inputs)] / max(float(lost[0, 0]), 1e-300) ** (1 - exponent)
    q, p = inputs[None, :], rank[:, None]
    original = float(cost(layer, "", 0, 0, kind))
    found = [Option(original, 0.0, None)]
    for form in forms(layer):
        price = np.broadcast_to(cost(layer, form, q, p, kind), damage.shape)
        for a, b in zip(*np.nonzero(price < original), strict=True):
            found.append(
                Option(float(price[a, b]), float(damage[a, b]), Cut(basis, form, int(inputs[b]), int(rank[a])))
            )
    return found


def _price(before: Option, after: Option) -> float:
    """Return the damage of a step per what it saves."""
    return (after.damage - before.damage) / (before.cost - after.cost)


def _hull(options: Sequence[Option]) -> list[Option]:
    """Return the lower convex frontier of (cost, damage), from the layer as it was to the cheapest."""
    ranked = sorted(options, key=lambda o: (-o.cost, o.damage))
    best = [option for number, option in enumerate(ranked) if not number or option.cost < ranked[number - 1].cost]
    return [best[i] for i in lower_hull([o.cost for o in best], [o.damage for o in best])]
