"""From scores and a target to the branches that go."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush

import numpy as np

from onnxprune.allocate.target import KINDS, Target
from onnxprune.changes.branches.costs import BlockCosts
from onnxprune.coupling.blocks import Block, Flow
from onnxprune.errors import TargetError

Worth = Callable[[Sequence[Block]], float]
"""What is lost without several branches together, in the unit of the scores."""


def choose_blocks(
    blocks: Sequence[Block], scores: np.ndarray, costs: BlockCosts, target: Target, together: Worth | None = None
) -> tuple[Block, ...]:
    """Return the branches to remove by ``scores``: float64[blocks], the lowest first (per cost where a budget is set).

    A ratio is the share of the sums that lose a branch. ``together``: branches are judged again given those that went
    before, the one ahead only and so on until it stays ahead (lazy greedy, Minoux 1978). Raises TargetError where the
    target cannot be met.
    """
    if not blocks:
        raise TargetError("no sum of this model has a branch that can go; widths can: leave out --granularity block")
    choice = _Choice(blocks, scores, costs, together)
    chosen = choice.by_ratio(target.value) if target.kind == "ratio" else choice.by_budget(target)
    if not chosen:
        raise TargetError(f"no branch of this model can go within {target}; ask for more, or for another granularity")
    return chosen


def prunable_blocks(blocks: Sequence[Block], costs: BlockCosts) -> tuple[Block, ...]:
    """Return the branches that go when all do that can; of two in one sum the first."""
    return _Choice(blocks, np.zeros(len(blocks)), costs).by_ratio(1.0)


class _Choice:
    """Branches are taken one after the other; what is legal depends on those taken."""

    def __init__(self, blocks: Sequence[Block], scores: np.ndarray, costs: BlockCosts, together: Worth | None = None):
        self.blocks, self.scores, self.costs, self.flow = blocks, scores, costs, costs.flow
        self.together = together
        self.sums = {block.sum.outputs[0] for block in blocks}

    def greedy(
        self, cost: np.ndarray, fits: Callable[[Sequence[Block]], bool], done: Callable[[Sequence[Block]], bool]
    ) -> list[Block]:
        """Take the branch that loses least per ``cost``: float64[blocks], again and again; those that do not fit stay."""
        chosen: list[Block] = []
        lost = 0.0
        queue = [(score / cost[i], i, 0) for i, score in enumerate(self.scores.tolist()) if cost[i] > 0]
        heapify(queue)
        while queue and not done(chosen):
            price, index, judged = heappop(queue)
            trial = [*chosen, self.blocks[index]]
            if not (legal(self.flow, chosen, self.blocks[index]) and fits(trial)):
                continue
            if self.together is not None and judged < len(chosen):
                heappush(queue, ((self.together(trial) - lost) / cost[index], index, len(chosen)))
                continue
            chosen = trial
            lost += price * cost[index]
        return chosen

    def gone(self, removed: Sequence[Block]) -> int:
        """Return how many sums are no sums any more, those inside a removed branch included."""
        direct = {block.sum.outputs[0] for block in removed}
        return len(direct | self.sums - self.flow.needed(removed))

    def by_ratio(self, ratio: float) -> tuple[Block, ...]:
        goal = max(1, math.floor(ratio * len(self.sums) + 0.5))
        each = np.ones(len(self.blocks))
        return self._in_order(self.greedy(each, lambda trial: self.gone(trial) <= goal, lambda chosen: False))

    def by_budget(self, target: Target) -> tuple[Block, ...]:
        kind = KINDS[target.kind]
        limit = target.budget(self.costs.totals()[kind])
        saved = np.array([self.costs.saved(block)[kind] for block in self.blocks], np.float64)
        chosen = self.greedy(saved, lambda trial: True, lambda chosen: self.costs.totals(chosen)[kind] <= limit)
        best = self.costs.totals(chosen)[kind]
        if best > limit:
            share = best / max(self.costs.totals()[kind], 1)
            reason = f"without every branch that can go {share:.1%} of the {kind} are left"
            raise TargetError(f"--target {target} is out of reach: {reason}; prune widths in a second run", best)
        return self._in_order(self._spared(chosen, kind, limit))

    def _spared(self, chosen: list[Block], kind: str, limit: float) -> list[Block]:
        """Give back branches that the budget does not need, the most important first."""
        rank = {block: score for block, score in zip(self.blocks, self.scores.tolist(), strict=True)}
        for block in sorted(chosen, key=rank.__getitem__, reverse=True):
            rest = [other for other in chosen if other is not block]
            if self.costs.totals(rest)[kind] <= limit:
                chosen = rest
        return chosen

    def _in_order(self, chosen: Sequence[Block]) -> tuple[Block, ...]:
        """Return the chosen branches in the model's order, without those inside another."""
        needed = self.flow.needed
        rest = [b for b in self.blocks if b in chosen]
        return tuple(b for b in rest if b.sum.outputs[0] in needed([other for other in rest if other is not b]))


def legal(flow: Flow, removed: Sequence[Block], block: Block) -> bool:
    """Whether a branch can go too: its sum is there and whole, and no input of the model loses its last reader."""
    before = flow.needed(removed)
    if block.sum.outputs[0] not in before or any(other.sum is block.sum for other in removed):
        return False
    return flow.inputs & flow.needed() <= flow.needed([*removed, block])
