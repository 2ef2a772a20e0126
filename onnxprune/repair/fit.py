"""One linear node refitted: which inputs stay, how much damping, its weights, and targets of which one side does not count."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnxprune.criteria.curvature import Order, Problem, joint_order
from onnxprune.repair.few import solve_among_rows
from onnxprune.repair.inputs import InputRows, RowWeights
from onnxprune.repair.maps import LinearMap
from onnxprune.repair.moments import CrossMoments, Solver, in_blocks, solve
from onnxprune.repair.rounding import rounded
from onnxprune.repair.stored import IntegerGrid
from onnxprune.repair.targets import DEAD_SCALE, FitTarget, on_own_scales

USUAL, MOST_DAMPING = 1e-2, 1.0  # of the mean diagonal
LEAST_VARIANCE = 1e-2  # of the mean: rows that vary less count as if they varied so much
PER_INPUT = 0.5  # of the mean diagonal for each input that a row would have to itself
MANY_INPUTS = 512  # from here on fewer rows than inputs are solved for among the rows
TURNED = 1 << 14  # rows that tell how targets move, and as many that judge whether moving them helps


@dataclass(frozen=True)
class Choice:
    """Units that a node may choose among: ``units`` int64[input channels], how many stay, and where they are reported.

    ``order``: units, the first to go first, where no row of the data tells.
    """

    group: int
    units: np.ndarray
    width: int
    order: np.ndarray

    def inputs(self, inputs: int) -> np.ndarray:
        """Return int64[units, inputs each]: which of a node's ``inputs`` belong to each unit, tap by tap."""
        return inputs_of_units(self.units, inputs // len(self.units))


def inputs_of_units(units: np.ndarray, taps: int) -> np.ndarray:
    """Return int64[units, inputs each] of a node whose channels' inputs lie side by side in each of its ``taps``."""
    steps = len(units) * np.arange(taps)
    places = [np.flatnonzero(units == unit)[:, None] + steps for unit in range(int(units.max()) + 1)]
    return np.stack([place.reshape(-1) for place in places])


@dataclass(frozen=True)
class Solved:
    """New weights float64[groups, o, d'] of the inputs that stay, ``keep`` bool[d], and the intercept float64[groups, o].

    ``order``: in which units would go, if the node chose.
    """

    keep: np.ndarray
    weights: np.ndarray
    intercept: np.ndarray
    order: Order | None = None


TargetRows = Sequence[tuple[np.ndarray, np.ndarray] | None]
"""Per batch what is to come out and what is there already, float32[rows, channels] each; None where rows do not match."""


@dataclass
class NodeFit:
    """The fit of ``linear`` to ``target``; ``importance``: float64[channels], what the outputs are worth (None: as loud as they are).

    ``damping``: times what the number of rows asks for.
    """

    linear: LinearMap
    target: FitTarget
    inputs: InputRows
    targets: TargetRows
    solve: Solver
    damping: float = 1.0
    importance: np.ndarray | None = None

    @property
    def blind(self) -> bool:
        """Whether there is no row to go by."""
        return all(there is None or not len(there[0]) for there in self.targets)

    @cached_property
    def moments(self) -> CrossMoments:
        """Moments of all rows."""
        first = next(t for _, t in self._pairs() if t.shape[1])
        left_out = frozenset(number for number, there in enumerate(self.targets) if there is None)
        found = self.inputs.moments(left_out, self._weights).towards(first)
        for rows in in_blocks(self._weighed_pairs(left_out)):
            found.add_targets(*rows)
        return found

    def _weighed_pairs(self, left_out: frozenset[int]) -> Iterator[tuple[np.ndarray, ...]]:
        """Yield pairs, with what their rows count, float32[rows], where they do not count alike."""
        numbers = (number for number in range(len(self.targets)) if number not in left_out)
        for number, pair in zip(numbers, self._pairs(), strict=True):
            yield pair if self._weights is None else (*pair, self._weights[number])

    @cached_property
    def _weights(self) -> RowWeights:
        """What rows count that are divided by their own deviation: one over its square, one on average."""
        if not self.target.normalised:
            return None
        spreads = [np.zeros(0) if there is None else there[0].var(1) for there in self.targets]
        least = LEAST_VARIANCE * float(np.concatenate(spreads).mean())
        inverse = [1 / np.maximum(spread, least) for spread in spreads]
        usual = max(float(np.concatenate(inverse).mean()), 1e-30)
        return [(each / usual).astype(np.float32) for each in inverse]

    def _pairs(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield centred inputs and what the node itself is to give, both float32[groups, rows, ..]."""
        for x, there in zip(self.inputs, self.targets, strict=True):
            if there is not None:
                yield x, _grouped((there[0] - there[1]) / self.divisor, self.linear.groups)

    @cached_property
    def divisor(self) -> np.ndarray:
        """float32[channels]: the scale of the target, infinite where the channel is as good as dead."""
        scale = self.target.scale
        return np.where(np.abs(scale) < DEAD_SCALE, np.inf, scale).astype(np.float32)

    @cached_property
    def emphasis(self) -> np.ndarray:
        """float64[channels]: how much louder each output channel counts than it is."""
        variance = self.moments.variance.reshape(-1) * self.target.scale**2
        return on_own_scales(variance, self.importance)

    def solved(self, old: np.ndarray, offset: np.ndarray, choice: Choice | None, turns: int) -> Solved:
        """Return the best weights in place of ``old`` float64[groups, o, d] and ``offset`` float64[groups, o]."""
        if choice is None and self._is_underdetermined(old):
            return self._solved_among_rows(old, offset)
        keep, order = self._choose(old, choice)
        start, intercept = old[:, :, keep], bool(self.linear.bias)
        damping = self.ridge
        reduced = self.moments.only(keep)
        weights, bias = self.solve(reduced, start, damping, intercept)
        if turns and self.target.rectified:
            weights, bias = _Turning(self, keep, reduced).turned(weights, bias, start, damping, turns)
        return Solved(keep, weights, bias, order)

    def on_grid(
        self, weights: np.ndarray, keep: np.ndarray, grids: Sequence[IntegerGrid] | None, dtype: np.dtype
    ) -> np.ndarray:
        """Return float64[groups, o, d], rounded to the ``grids`` of each group where weights are stored as integers; others than ``keep`` stay."""
        if grids is None or self.solve is not solve:
            return weights
        moments, result = self.moments.only(keep), weights.copy()
        grams = moments.covariance if self.linear.bias else moments.second_moment
        for own, gram, grid in zip(result, grams, grids, strict=True):
            ridge = self.ridge * max(float(np.trace(gram)) / len(gram), 1e-30)
            own[:, keep] = rounded(own[:, keep], gram, ridge, grid.along(1, np.flatnonzero(keep)), dtype)
        return result

    def _is_underdetermined(self, old: np.ndarray) -> bool:
        """Whether there are fewer rows than inputs, and so many inputs that it matters how they are solved for."""
        rows = sum(len(there[0]) for there in self.targets if there is not None)
        return self.solve is solve and MANY_INPUTS <= old.shape[2] > rows

    def _solved_among_rows(self, old: np.ndarray, offset: np.ndarray) -> Solved:
        counted = [n for n, there in enumerate(self.targets) if there is not None]
        weights = None if self._weights is None else np.concatenate([self._weights[n] for n in counted])
        x, t = (np.concatenate(rows, axis=1) for rows in zip(*self._pairs(), strict=True))
        x += self.inputs.origin[:, None]
        rows = x.shape[1] if weights is None else float(weights.sum())
        fitted, bias = solve_among_rows(x, t, old, self.ridge_of(old.shape[2], rows), bool(self.linear.bias), weights)
        return Solved(np.ones(old.shape[2], bool), fitted, bias)

    def _choose(self, old: np.ndarray, choice: Choice | None) -> tuple[np.ndarray, Order | None]:
        """Return bool[d], the inputs that stay, and the order in which units would go."""
        keep = np.ones(old.shape[2], bool)
        if choice is None:
            return keep, None
        blocks = choice.inputs(old.shape[2])
        refitted, _ = self.solve(self.moments, old, self.ridge, bool(self.linear.bias))
        loud = (self.target.scale * self.emphasis)[:, None]
        problem = Problem(self.moments.covariance[0], refitted[0] * loud, blocks)
        order = joint_order([problem], damping=USUAL, least=choice.width)
        keep[blocks[order.order[: len(blocks) - choice.width]].reshape(-1)] = False
        return keep, order

    @property
    def ridge(self) -> float:
        return self.ridge_of(self.moments.gram.shape[1], self.moments.count)

    def ridge_of(self, inputs: int, rows: float) -> float:
        """Return the damping, of the mean diagonal: where few rows tell of many inputs, weights had better stay near the old ones."""
        return float(min(self.damping * max(PER_INPUT * inputs / max(rows, 1), USUAL), MOST_DAMPING))


@dataclass
class _Turning:
    """Moves targets of which only the positive part is read: where both are rectified away there is no error.

    Some rows tell how the targets move, others whether that helps.
    """

    fit: NodeFit
    keep: np.ndarray
    moments: CrossMoments

    def __post_init__(self) -> None:
        self.tell: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.judge: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        told = judged = 0
        batches = zip(self.fit.inputs, self.fit.targets, strict=True)
        for x, there in batches:
            if there is None or min(told, judged) >= TURNED:
                continue
            rows = (x if self.keep.all() else x[:, :, self.keep], *there)
            if told <= judged:
                self.tell.append(rows)
                told += x.shape[1]
            else:
                self.judge.append(rows)
                judged += x.shape[1]
        self.judge = self.judge or self.tell

    def turned(
        self, weights: np.ndarray, bias: np.ndarray, old: np.ndarray, damping: float, turns: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the weights and the intercept after the turn that the judging rows like best."""
        best, intercept = (weights, bias), bool(self.fit.linear.bias)
        least = self.error(*best)
        for _ in range(turns):
            weights, free = self.fit.solve(self._moved(weights, bias), old, damping, intercept)
            bias = free
            error = self.error(weights, bias)
            if not error < least:
                break
            best, least = (weights, bias), error
        return best

    def _predicted(self, x: np.ndarray, weights: np.ndarray, bias: np.ndarray) -> np.ndarray:
        """Return float32[rows, channels]: what the node gives, on the target's scale."""
        origin = self.fit.inputs.origin[:, self.keep].astype(np.float64)
        shift = (bias + np.einsum("god,gd->go", weights, origin)).astype(np.float32)
        made = np.moveaxis(x @ weights.astype(np.float32).swapaxes(1, 2), 0, 1) + shift
        return made.reshape(len(made), made.shape[1] * made.shape[2]) * self.fit.target.scale.astype(np.float32)

    def _moved(self, weights: np.ndarray, bias: np.ndarray) -> CrossMoments:
        """Return the moments with targets below zero replaced by what is predicted now, but at most zero."""
        groups, seen = self.fit.linear.groups, 0
        change = self.moments.towards(np.zeros((groups, 1, weights.shape[1]), np.float32))
        for x, wanted, offset in self.tell:
            predicted = self._predicted(x, weights, bias) + offset
            moved = np.where(wanted <= 0, np.minimum(predicted, 0) - wanted, 0) / self.fit.divisor
            change.add_targets(x, _grouped(moved.astype(np.float32), groups))
            seen += x.shape[1]
        return self.moments.moved(change, self.moments.count / max(seen, 1))

    def error(self, weights: np.ndarray, bias: np.ndarray) -> float:
        """Return the squared error of the positive parts on the judging rows."""
        total = 0.0
        for x, wanted, offset in self.judge:
            predicted = self._predicted(x, weights, bias) + offset
            gap = np.maximum(predicted, 0) - np.maximum(wanted, 0)
            total += float(np.square(gap * self.fit.emphasis.astype(np.float32), dtype=np.float64).sum())
        return total


def _grouped(values: np.ndarray, groups: int) -> np.ndarray:
    """Return [groups, rows, o / groups] of [rows, o]."""
    return np.moveaxis(values.reshape(len(values), groups, values.shape[1] // groups), 1, 0)
