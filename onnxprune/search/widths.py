"""Widths under a budget, and a short search for better ones on the real, repaired model."""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from onnxprune.allocate import Costs, Options, Target
from onnxprune.allocate.hull import lower_hull
from onnxprune.allocate.legal import narrower_widths, nearest
from onnxprune.allocate.target import KINDS
from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.readers import normed_groups
from onnxprune.criteria.curvature import Order
from onnxprune.data.repeated import is_held
from onnxprune.errors import TargetError
from onnxprune.means import Means, mapped
from onnxprune.measure.divergence import Reference
from onnxprune.measure.outputs import Outputs
from onnxprune.measure.tasks.choice import Judged, least_lost
from onnxprune.model.read import Model
from onnxprune.model.runtime import Arrays
from onnxprune.model.threads import load_blas, one_blas_thread
from onnxprune.search.reconstruct import Fitting, reconstruct
from onnxprune.search.tables import Tables

WEIGHINGS = {
    "relative": 0.0,
    "mixed": 0.5,
    "raw": 1.0,
    "raw, shared last": 1.0,
    "raw, even streams": 1.0,
}  # exponent of a node's output energy in the weight of its relative error
PLAIN = ("relative", "mixed", "raw")
PROMISING = 2  # starting points that are tried on more than a few data
SPREAD = 0.6  # standard deviation of a proposal's change, in the logarithm of a group's weight
SHARED_LAST = (
    1e3  # weight of groups with several readers (residual streams) where they are to go only when nothing else can
)
STREAMS_FIRST = 1e-6  # weight of groups that a norm reads where they are to be as wide as a uniform cut leaves them
FLOOR = 0.5  # of the uniform width: what every group keeps in one of the starting points
BISECTIONS = 7  # of the share of MACs: to 1 %


@dataclass(eq=False)
class Proposal:
    """Widths to try, where they come from, and what came of it."""

    name: str
    weights: np.ndarray
    widths: np.ndarray
    judged: Judged = field(default_factory=lambda: Judged(np.inf))

    @property
    def divergence(self) -> float:
        return self.judged.divergence

    @property
    def exponent(self) -> float:
        return WEIGHINGS.get(self.name, WEIGHINGS["mixed"])


@dataclass(frozen=True)
class Trials:
    """What becomes of some widths, and by which weighing of errors units go: repaired as ``fitting`` says, and judged."""

    analysis: Analysis
    orders: Mapping[float, Sequence[Order]]
    fitting: Fitting
    judge: Reference

    def __call__(self, asked: tuple[np.ndarray, float]) -> Judged:
        load_blas()
        with one_blas_thread:
            widths, exponent = asked
            return self.judge.judged(reconstruct(self.analysis, widths, self.orders[exponent], self.fitting).model)


@dataclass
class Search:
    """Finds the units to keep for ``target`` under ``options``.

    ``fitting`` repairs each proposal, ``judge`` batches score it; ``first``: what repairs and judges many at a first glance. ``veto``
    batches (may be empty) decide at the end between the best proposal and the best starting point, so that a long search cannot
    overfit. ``seconds``: time for the search beyond the starting points. ``outputs``: how the model's outputs are compared.
    ``train``: what a repaired proposal goes through before it is scored.
    """

    analysis: Analysis
    tables: Tables
    target: Target
    options: Options
    fitting: Fitting
    judge: Iterable[Arrays]
    veto: Iterable[Arrays] = ()
    seconds: float = 0.0
    means: Means = Means()
    outputs: Outputs | None = None
    train: Callable[[Model], Model] | None = None
    first: tuple[Fitting, Reference] | None = None
    history: list[Proposal] = field(default_factory=list)
    starts: list[Proposal] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.legal = narrower_widths(self.analysis, self.options)
        self.movable = [g for g, widths in enumerate(self.legal) if len(widths) > 1]
        self.costs = Costs(self.analysis)
        self.judge_by = Reference(self.analysis.facts.model, self.judge, self.means, outputs=self.outputs)
        self.orders = {
            e: [self.tables.order(g, e) for g in range(len(self.analysis.groups))] for e in WEIGHINGS.values()
        }

    def smallest(self, limit: float) -> Proposal:
        """Return the proposal with the fewest MACs whose divergence is within ``limit``, by bisection over the target.

        Raises TargetError where none is.
        """
        low, high, best = 0.0, 1.0, None
        seconds, self.seconds = self.seconds, self.seconds / BISECTIONS
        for _ in range(BISECTIONS):
            share = (low + high) / 2
            self.target = Target("macs", share)
            try:
                found = self.run()
            except TargetError:
                low = share
                continue
            if found.divergence <= limit:
                best, high = found, share
            else:
                low = share
        self.seconds = seconds
        if best is None:
            least = min((proposal.divergence for proposal in self.history), default=np.inf)
            raise TargetError(
                f"no smaller model diverges by less than {limit:g}; the nearest diverges by {least:.3g}", least
            )
        return best

    def run(self) -> Proposal:
        """Return the best proposal; raises TargetError where the budget cannot be met."""
        self.starts = self._all_evaluated(self._promising(self._starts()), self.fitting, self.judge_by)
        best = start = _best(self.starts)
        if self.seconds:
            best = self._improve(start)
        if best is not start and self._vetoed(best, start):
            best = start
        return best

    def fitting_of(self, best: Proposal) -> Fitting:
        """Return how the proposal is best repaired: with units chosen where they are read, or by the orders of the original.

        The former helps shallow networks and costs deep ones, whose later nodes meet what nobody has looked at.
        """
        choosing = replace(self.fitting, choosing=True)
        found = {choosing: self.judge_by.judged(self._repaired(best, choosing)), self.fitting: best.judged}
        return least_lost(found)

    def divergence_of(self, model: Model) -> float:
        """Return the divergence of a model on the rows that judge."""
        return self.judge_by.divergence(model)

    def _promising(self, starts: list[Proposal]) -> list[Proposal]:
        """Return the starting points that are best at a first glance, where that takes less than a trial."""
        if self.first is None or len(starts) <= PROMISING:
            return starts
        fitting, judge = self.first
        left, found = self._all_evaluated(starts, fitting, judge), list[Proposal]()
        while len(found) < PROMISING:
            found.append(_best(left))
            left.remove(found[-1])
        return found

    def _vetoed(self, best: Proposal, start: Proposal) -> bool:
        """Whether data that the search never saw prefers the start."""
        if not self.veto:
            return False
        unseen = Reference(self.analysis.facts.model, self.veto, self.means, outputs=self.outputs)
        found = {proposal: unseen.judged(self._repaired(proposal, self.fitting)) for proposal in (start, best)}
        return least_lost(found) is start

    # --- proposals --------------------------------------------------------------------------------------------------

    def _starts(self) -> list[Proposal]:
        if self.target.kind == "ratio" and self.options.scope == "layer":
            widths = self.costs.widths.copy()
            for g in self.movable:
                widths[g] = nearest(self.legal[g], (1 - self.target.value) * self.legal[g][-1])
            return [Proposal("uniform", np.ones(len(widths)), widths)]
        ones = np.ones(len(self.analysis.groups))
        found = [Proposal(name, ones, self._widths(ones, WEIGHINGS[name])) for name in PLAIN]
        shared = [len(self.tables.readings.get(g, ())) > 1 for g in range(len(ones))]
        if any(shared) and not all(shared):
            last = np.where(shared, SHARED_LAST, 1.0)
            found.append(Proposal("shared last", last, self._widths(last, WEIGHINGS["mixed"])))
            found.append(Proposal("raw, shared last", last, self._widths(last, WEIGHINGS["raw"])))
        uniform = self._uniform()
        normed = normed_groups(self.analysis)
        if normed and len(normed) < len(ones):
            even = np.where(np.isin(np.arange(len(ones)), list(normed)), STREAMS_FIRST, 1.0)
            lowest = [width if g in normed else 0 for g, width in enumerate(uniform.tolist())]
            for name in ("even streams", "raw, even streams"):
                exponent = Proposal(name, even, uniform).exponent
                found.append(Proposal(name, even, self._widths(even, exponent, lowest)))
        floors = [min(nearest(legal, FLOOR * w), w) for legal, w in zip(self.legal, uniform.tolist(), strict=True)]
        found.append(Proposal("floored", ones, self._widths(ones, WEIGHINGS["mixed"], floors)))
        found.append(Proposal("uniform", ones, uniform))
        return list({(*p.widths.tolist(), p.exponent): p for p in reversed(found)}.values())[::-1]

    def _budget(self) -> tuple[str, float]:
        if self.target.kind == "ratio":
            whole, fixed = self.costs.widths, self.costs.widths.copy()
            fixed[self.movable] = 0
            channels, stay = (float(self.costs.total("channels", widths)) for widths in (whole, fixed))
            return "channels", channels - self.target.value * (channels - stay)
        total = KINDS[self.target.kind]
        return total, self.target.budget(float(self.costs.total(total, self.costs.widths)))

    def _widths(self, weights: np.ndarray, exponent: float, floors: Sequence[int] = ()) -> np.ndarray:
        """Narrow the group that loses least error per cost, one hull segment at a time, until the budget is met.

        ``floors``: width per group that is not to be undercut.
        """
        total, limit = self._budget()
        errors = [order.error * w for order, w in zip(self.orders[exponent], weights, strict=True)]
        lowest = floors or [0] * len(self.legal)
        hulls = {g: _hull([w for w in self.legal[g] if w >= lowest[g]], errors[g]) for g in self.movable}
        widths = np.array([legal[-1] for legal in self.legal], np.int64)
        cost = float(self.costs.total(total, widths))
        while cost > limit:
            options = [(g, hulls[g][int(widths[g])]) for g in self.movable if int(widths[g]) in hulls[g]]
            if not options:
                best = cost / float(self.costs.total(total, self.costs.widths))
                raise TargetError(
                    f"--target {self.target} is out of reach: the smallest result has {total} {best:.1%} of the original",
                    cost,
                )
            trials = np.repeat(widths[:, None], len(options), axis=1)
            for column, (g, (width, _)) in enumerate(options):
                trials[g, column] = width
            saved = np.maximum(cost - self.costs.total(total, trials), 1e-9)
            g, (width, _) = options[int(np.argmin([error for _, (_, error) in options] / saved))]
            widths[g] = self.legal[g][bisect_left(self.legal[g], widths[g]) - 1]
            cost = float(self.costs.total(total, widths))
        return self._filled(widths, errors, total, limit)

    def _filled(self, widths: np.ndarray, errors: Sequence[np.ndarray], total: str, limit: float) -> np.ndarray:
        """Widen groups again, the most useful first, while the budget allows."""
        while True:
            best = None
            for g in self.movable:
                place = bisect_right(self.legal[g], widths[g])
                if place == len(self.legal[g]):
                    continue
                wider = self.legal[g][place]
                trial = widths.copy()
                trial[g] = wider
                cost = float(self.costs.total(total, trial))
                if cost <= limit:
                    full = self.analysis.groups[g].width
                    gain = (errors[g][full - widths[g]] - errors[g][full - wider]) / max(
                        cost - self.costs.total(total, widths), 1e-9
                    )
                    if best is None or gain > best[0]:
                        best = (gain, trial)
            if best is None:
                return widths
            widths = best[1]

    def _uniform(self) -> np.ndarray:
        """The same share of every group, as large as the budget allows."""
        total, limit = self._budget()
        for share in np.linspace(0, 1, 257):
            widths = self.costs.widths.copy()
            for g in self.movable:
                widths[g] = nearest(self.legal[g], (1 - share) * self.legal[g][-1])
            if float(self.costs.total(total, widths)) <= limit:
                return widths
        return self._widths(np.ones(len(widths)), WEIGHINGS["mixed"])

    # --- judgement --------------------------------------------------------------------------------------------------

    def _trained(self, model: Model) -> Model:
        return model if self.train is None else self.train(model)

    def _repaired(self, proposal: Proposal, fitting: Fitting) -> Model:
        found = reconstruct(self.analysis, proposal.widths, self.orders[proposal.exponent], fitting)
        return self._trained(found.model)

    def _all_evaluated(self, proposals: Sequence[Proposal], fitting: Fitting, judge: Reference) -> list[Proposal]:
        """Repair and judge elsewhere where work is shared out. Else repair side by side, with a thread for each, where the data that
        repairs is in memory, and judge one after the other.
        """
        if self.means.spread is not None and self.train is None:
            asked = [(proposal.widths, proposal.exponent) for proposal in proposals]
            found = mapped(self.means.spread, Trials(self.analysis, self.orders, fitting, judge), asked)
            return [self._noted(proposal, judged) for proposal, judged in zip(proposals, found, strict=True)]
        workers = self.means.threads if is_held(fitting.batches) else 1
        if workers == 1:
            return [self._evaluated(proposal, self._repaired(proposal, fitting), judge) for proposal in proposals]
        alone = replace(fitting, means=replace(self.means, threads=1))
        with ThreadPoolExecutor(workers) as pool:
            models = pool.map(lambda proposal: self._repaired(proposal, alone), proposals)
            return [self._evaluated(proposal, model, judge) for proposal, model in zip(proposals, models, strict=True)]

    def _evaluated(self, proposal: Proposal, model: Model, judge: Reference) -> Proposal:
        return self._noted(proposal, judge.judged(model))

    def _noted(self, proposal: Proposal, judged: Judged) -> Proposal:
        proposal.judged = judged
        if proposal not in self.history:
            self.history.append(proposal)
        self.means.progress(f"{proposal.name}: divergence {proposal.divergence:.4g}")
        return proposal

    def _improve(self, start: Proposal) -> Proposal:
        """Random changes of the groups' weights, kept when they help: every proposal meets the budget by construction."""
        rng = np.random.default_rng(self.means.seed)
        best, deadline = start, time.monotonic() + self.seconds
        tried = {tuple(start.widths)}
        idle = 0
        while time.monotonic() < deadline and idle < 200:
            chosen = rng.random(len(best.weights)) < max(2 / max(len(self.movable), 1), 0.15)
            weights = best.weights * np.exp(chosen * rng.normal(0, SPREAD, len(chosen)))
            widths = self._widths(weights, start.exponent)
            if tuple(widths) in tried:
                idle += 1
                continue
            idle = 0
            tried.add(tuple(widths))
            fresh = Proposal(start.name, weights, widths)
            proposal = self._evaluated(fresh, self._repaired(fresh, self.fitting), self.judge_by)
            best = _best([best, proposal])
        return best


def _best(proposals: Sequence[Proposal]) -> Proposal:
    return least_lost({proposal: proposal.judged for proposal in proposals})


def _hull(legal: Sequence[int], error: np.ndarray) -> dict[int, tuple[int, float]]:
    """Return width -> (a narrower width on the lower convex hull, error it adds): the next vertex below each legal width.

    ``legal`` ascends; ``error``: float64[removed], the error after that many units went.
    """
    widths = list(legal)[::-1]
    errors = error[len(error) - 1 - np.array(widths, np.int64)].tolist()
    result: dict[int, tuple[int, float]] = {}
    for at, to in pairwise(lower_hull(widths, errors)):
        slope = (errors[to] - errors[at]) / (widths[at] - widths[to])
        result.update((widths[inner], (widths[to], slope * (widths[inner] - widths[to]))) for inner in range(at, to))
    return result
