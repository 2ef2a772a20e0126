"""Sequential least squares: every linear node, in order, is refitted to what the original computes.

Inputs come from the already repaired pruned model, targets from the original (on a residual stream: the original's sum minus
the pruned shortcut), with a ridge towards the old weights. Where only the positive part of a target is read, errors below zero
do not count (the auxiliary-variable idea of Zhang et al. 2016, "Accelerating very deep convolutional networks", eq. 7-9, in the
form of a majorising target). A node may also choose which of its inputs go (layer OBS on the refitted weights).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np

from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.kept import Kept
from onnxprune.evidence.journal import Journal
from onnxprune.evidence.needs import Need
from onnxprune.evidence.rows import LARGEST, POSITIONS, usable
from onnxprune.means import Means
from onnxprune.model.graph import Graph
from onnxprune.model.memory import room
from onnxprune.model.model import Model, overwritten
from onnxprune.model.runtime import Arrays, release_memory
from onnxprune.repair.finding import as_map
from onnxprune.repair.fit import Choice, NodeFit, TargetRows
from onnxprune.repair.inputs import ROWS_IN_MEMORY, InputRows, Reads
from onnxprune.repair.linear import Linear
from onnxprune.repair.lockstep import Lockstep
from onnxprune.repair.maps import LinearMap
from onnxprune.repair.moments import SOLVERS, Limit, Solver
from onnxprune.repair.order import is_foreign, last_sites, ready_at
from onnxprune.repair.solved import SolvedNode
from onnxprune.repair.stored import Stored
from onnxprune.repair.support import joint_support
from onnxprune.repair.targets import FitTarget
from onnxprune.repair.teacher import Teacher
from onnxprune.repair.wanted import Wanted
from onnxprune.repair.wide import OutputPart, output_parts

Snap = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Old and refitted weights float64[groups, o, d], moments of the inputs float64[groups, d, d] -> weights that can be stored."""
TURNS = 3  # of moving rectified targets
NAMED = 3  # nodes that a warning names


@dataclass(frozen=True)
class Effort:
    """How much work a fit is worth: output ``positions`` sampled of each sample, and ``turns`` of moving rectified targets.

    ``damping``: times what the rows of each fit ask for.
    """

    positions: int = POSITIONS
    turns: int = TURNS
    damping: float = 1.0


@dataclass
class Sequential:
    """Refits a cut model against the original of ``analysis``, from which the units outside ``kept`` are gone.

    ``limits``: weight -> what its repair must keep to, at nodes that are visited whether anything before them is cut or not; what
    is no weight of theirs (a table that is looked up) stays as it is, and all behind it is visited.
    ``batches``: calibration inputs.
    ``teacher``: what the original computes on these batches, or on more that begin with these. ``everything``: visit every
    linear node. ``choices``: weight -> units to choose among at the node that reads them (they are then still in
    the model; those that go are zeroed where they are read, see ``chosen``). ``unmatched``: node -> samples left out, because
    the two models' values cannot be matched row by row. ``unrepaired``: nodes whose weights are stored in a way that is not
    refitted. ``snaps``: weight -> what can be stored of it; where there are any, other weights stay. ``importance``: weight -> float64[channels that it writes], where these are outputs of the model on scales of
    their own. ``journal``: keeps what is solved, and knows what was.
    """

    analysis: Analysis
    kept: Sequence[np.ndarray]
    batches: Iterable[Arrays]
    choices: Mapping[str, Choice] = field(default_factory=dict)
    limits: Mapping[str, Limit] = field(default_factory=dict)
    method: str = "least-squares"
    effort: Effort = Effort()
    means: Means = Means()
    importance: Mapping[str, np.ndarray] = field(default_factory=dict)
    teacher: Teacher | None = None
    everything: bool = False
    snaps: Mapping[str, Snap] = field(default_factory=dict)
    journal: Journal | None = None
    chosen: dict[int, np.ndarray] = field(default_factory=dict)
    unmatched: dict[str, int] = field(default_factory=dict)
    unrepaired: list[str] = field(default_factory=list)

    def run(self, small: Model) -> Model:
        """Return the repaired model; ``chosen``: group -> bool[width], where nodes chose."""
        working = small.derived(small.draft())
        graph = Graph(working.structure)
        self._stored = Stored.of(working, graph)
        self._solve = SOLVERS[self.method]
        self._written: dict[str, np.ndarray] = {}
        self._left = Kept.of(self.analysis, self.kept)
        sites = self._sites(graph)
        after = last_sites(graph, [site.node for site in sites])
        targets = [self._target(linear, after, number) for number, linear in enumerate(sites)]
        facts, positions = self.analysis.facts, self.effort.positions
        teacher = self.teacher or Teacher(facts, self.batches, self.means, positions=positions)
        pairs = list(zip(sites, targets, strict=True))
        self._wanted = Wanted(teacher, facts, self._left, self._stored, positions)
        self._wanted.learn(pairs)
        self._pruned = Lockstep(working, self.batches, self.means)
        self._inputs: dict[Reads | LinearMap, InputRows] = {}
        for number, (linear, target) in enumerate(pairs):
            self.means.progress(f"{self.method}: node {number + 1} of {len(sites)}", number, len(sites))
            if self._works_on(linear):
                self._pruned.advance([*linear.sources, *([target.other] if target.other else [])])
                self._settle(number, linear, target)
        self._inputs.clear()  # their rows are made by this walk: a cycle, which would keep all that was looked at
        return self._pruned.model

    @property
    def warnings(self) -> tuple[str, ...]:
        """Say at which nodes rows of the data were left out, and which kept their weights."""
        counted = [f"{node} ({count})" for node, count in self.unmatched.items()]
        texts = {
            "data rows were left out at nodes whose values in the original and in the pruned model cannot be matched "
            "position by position: ": counted,
            "weights stored as integers or in bfloat16 in a way that repair does not reach (read by several nodes, or scaled by "
            "what is not stored) stay as they were at these nodes: ": self.unrepaired,
        }
        return tuple(text + _named(nodes) for text, nodes in texts.items() if nodes)

    # --- which nodes ------------------------------------------------------------------------------------------------

    def _sites(self, graph: Graph) -> list[LinearMap]:
        """Linear nodes whose inputs differ from the original's, or are to be chosen among."""
        touched = {*self.limits, *(graph.inputs if self.everything else ())}
        own = {*self.choices, *self.limits}
        found = []
        for node in graph.top:
            linear = as_map(node, self._stored, self.analysis.facts)
            cut = self._is_cut(node.outputs)
            chooses = linear is not None and (not own.isdisjoint(linear.weights) or (linear.recurs and cut))
            if cut or any(name in touched for name in node.inputs) or chooses:
                if linear is not None and (chooses or not touched.isdisjoint(linear.sources)):
                    found.append(linear)
                elif linear is None and is_foreign(graph, node, touched, self.analysis.facts.constants):
                    self.unrepaired.append(node.label)
                touched.update(node.outputs)
        return found

    def _is_cut(self, names: Sequence[str]) -> bool:
        return any(self._left.masks(name) for name in names if name)

    def _target(self, linear: LinearMap, after: Mapping[str, int], number: int) -> FitTarget:
        """Return what site ``number`` is to give; ``after``: see ``last_sites``."""
        if self.method != "least-squares":
            return linear.own_output()
        return linear.target(self.analysis, self._stored, ready_at(after, number))

    # --- one node ---------------------------------------------------------------------------------------------------

    def _works_on(self, linear: LinearMap) -> bool:
        return not self.snaps or (linear.weight in self.snaps and len(linear.blocks) == 1)

    def _settle(self, number: int, linear: LinearMap, target: FitTarget) -> None:
        """Refit node ``number``, or take what the journal knows of it."""
        label, chosen, unmatched = linear.node.label, set(self.chosen), self.unmatched.get(linear.node.label, 0)
        self._written = {}
        known = None if self.journal is None else SolvedNode.found(self.journal, number, self._stored.arrays)
        if known is not None:
            self._replace(known.arrays)
            self.chosen.update(known.chosen)
            if known.unmatched:
                self.unmatched[label] = unmatched + known.unmatched
            return
        self._refit(linear, target)
        if self.journal is not None:
            found = {group: mask for group, mask in self.chosen.items() if group not in chosen}
            SolvedNode(self._written, found, self.unmatched.get(label, 0) - unmatched).keep(self.journal, number)

    def _refit(self, linear: LinearMap, target: FitTarget) -> None:
        narrow = self._narrow(linear)
        inputs = self._rows(linear) if narrow is None else self._narrow_rows(linear, narrow)
        choice, importance = self.choices.get(linear.weight), self.importance.get(linear.weight)
        solver = self._solver(linear, narrow is not None)
        if choice is None and solver is self._solve and not self.snaps and (parts := output_parts(linear, target)):
            self._refit_parts(linear, target, inputs, parts)
            return
        targets = self._wanted.rows(linear, target, self._pruned, inputs.counts)
        self._count(linear, targets)
        old = linear.whole(self._stored.arrays)
        fit = NodeFit(linear, target, inputs, targets, solver, self.effort.damping, importance)
        if fit.blind:
            self._choose_blindly(linear, choice, old)
            return
        offset = linear.offset(self._stored)
        if narrow is not None:
            found = fit.solved(old @ narrow, offset, None, self.effort.turns)
            every = np.ones(len(narrow), bool)
            self._write(linear, every, found.weights @ narrow.T, found.intercept - offset)
            return
        found = fit.solved(old, offset, choice, self.effort.turns)
        if choice is not None and found.order is not None:
            self._leave_out(choice, found.order.order)
        self._write(linear, found.keep, found.weights, found.intercept - offset, fit)
        if linear.recurs:
            self._refit_on_new_states(fit, old)

    def _refit_parts(
        self, linear: LinearMap, target: FitTarget, inputs: InputRows, parts: Sequence[OutputPart]
    ) -> None:
        """Refit a node some outputs at a time."""
        weight, offset = self._stored.arrays[linear.weight].copy(), linear.offset(self._stored)
        change, importance = np.zeros_like(offset), self.importance.get(linear.weight)
        for part in parts:
            some = part.outputs
            targets = self._wanted.rows(linear, target, self._pruned, inputs.counts, some)
            own = None if importance is None else importance[some]
            fit = NodeFit(linear, target.only(some), inputs, targets, self._solve, self.effort.damping, own)
            if fit.blind:
                break
            found = fit.solved(part.read(weight), offset[:, some], None, self.effort.turns)
            change[:, some] = found.intercept - offset[:, some]
            part.put(found.weights, weight)
            if linear.coarse({linear.weight: weight}):
                change[:, some] += np.einsum("god,gd->go", found.weights - part.read(weight), fit.moments.mean_x)
        self._count(linear, targets)
        self._store(linear, {linear.weight: weight}, change)

    def _count(self, linear: LinearMap, targets: TargetRows) -> None:
        lost = self._wanted.left_out(targets)
        if lost:
            self.unmatched[linear.node.label] = self.unmatched.get(linear.node.label, 0) + lost

    def _refit_on_new_states(self, fit: NodeFit, old: np.ndarray) -> None:
        """Fit once more a node whose rows its weights have changed, on the support that is found already."""
        limit = room(self.means, ROWS_IN_MEMORY)
        linear, inputs = fit.linear, InputRows(lambda start: self._make_rows(fit.linear, start), limit)
        again, offset = replace(fit, inputs=inputs), linear.offset(self._stored)
        found = again.solved(old, offset, None, self.effort.turns)
        self._write(linear, found.keep, found.weights, found.intercept - offset, again)

    def _narrow(self, linear: LinearMap) -> np.ndarray | None:
        """Return float64[d, q], what a node may read of its inputs; None: all, or rounding of its weights needs all moments."""
        limit = self._limit(linear)
        if limit is None or self.snaps or linear.coarse(self._stored.arrays):
            return None
        return limit.reading(linear.shape[2])

    def _limit(self, linear: LinearMap) -> Limit | None:
        """Return what the weights of a node must keep to: of several stored tensors, each for its own block."""
        limits = [self.limits.get(name) for name in linear.weights]
        if len(limits) == 1 or not any(limits):
            return limits[0]
        return joint_support(zip(linear.blocks, limits, strict=True), linear.shape)

    def _narrow_rows(self, linear: LinearMap, narrow: np.ndarray) -> InputRows:
        """Return the rows of a node in the few directions that it may read: far fewer products of them to sum up."""
        turn, limit = narrow.astype(np.float32), room(self.means, ROWS_IN_MEMORY)
        release_memory()
        return InputRows(lambda start: (rows @ turn for rows in self._make_rows(linear, start)), limit)

    def _rows(self, linear: LinearMap) -> InputRows:
        """Return what a node sums over; nodes one after the other that read the same share it."""
        reads = Reads.of(linear) if isinstance(linear, Linear) else linear
        if reads not in self._inputs:
            self._inputs = {}
            release_memory()
            limit = room(self.means, ROWS_IN_MEMORY)
            self._inputs = {reads: InputRows(lambda start: self._make_rows(linear, start), limit)}
        return self._inputs[reads]

    def _make_rows(self, linear: LinearMap, start: int) -> Iterator[np.ndarray]:
        read = zip(*(self._pruned.values(name) for name in linear.sources), strict=True)
        values = zip(read, self.batches, strict=True)
        for number, (arrays, batch) in enumerate(islice(values, start, None), start):
            rows = linear.rows_of(arrays, self._wanted.sampler(number, batch))
            if not usable(rows, LARGEST):
                raise self._wanted.teacher.refusal(batch, Need("gram", linear.source, linear.reads), arrays[0])
            yield rows

    def _choose_blindly(self, linear: LinearMap, choice: Choice | None, old: np.ndarray) -> None:
        """Without any row to go by, leave out units in the order that was known before."""
        if choice is None:
            return
        keep = np.ones(old.shape[2], bool)
        gone = self._leave_out(choice, choice.order)
        keep[choice.inputs(len(keep))[gone].reshape(-1)] = False
        self._write(linear, keep, old[:, :, keep], np.zeros(old.shape[:2]))

    def _leave_out(self, choice: Choice, order: np.ndarray) -> np.ndarray:
        """Report the units that stay and return those that go."""
        gone = order[: len(order) - choice.width]
        self.chosen[choice.group] = np.isin(np.arange(len(order)), gone, invert=True)
        return gone

    def _solver(self, linear: LinearMap, narrow: bool) -> Solver:
        """Return the solver of a node; ``narrow``: of the directions that it may read."""
        limit = self._limit(linear)
        if limit is None:
            return self._solve
        return (limit.on_what_is_read() if narrow else limit).within(self._solve)

    def _write(
        self, linear: LinearMap, keep: np.ndarray, fitted: np.ndarray, change: np.ndarray, fit: NodeFit | None = None
    ) -> None:
        """Store weights and a change of the intercept, which takes on what rounding of the weights does to the means of ``fit``."""
        arrays = self._stored.arrays
        matrix = np.zeros((*fitted.shape[:2], len(keep)))
        matrix[:, :, keep] = fitted
        rounded, snap = matrix, self.snaps.get(linear.weight)
        if fit is not None and snap is not None:
            moments = fit.moments.covariance if linear.bias else fit.moments.second_moment
            rounded = snap(linear.whole(arrays), matrix, moments)
        elif fit is not None:
            rounded = fit.on_grid(matrix, keep, linear.grids_of(arrays), arrays[linear.weight].dtype)
        weights = linear.written(rounded, arrays)
        if fit is not None and (snap is not None or linear.coarse(weights)):
            lost = matrix - linear.whole(weights)
            change = change + np.einsum("god,gd->go", lost, fit.moments.mean_x)
        self._store(linear, weights, change)

    def _store(self, linear: LinearMap, weights: Mapping[str, np.ndarray], change: np.ndarray) -> None:
        """Store tensors and a change of the intercept, float64[groups, o]."""
        self._replace(weights)
        if linear.bias:
            self._replace({linear.bias: linear.shifted(self._stored.arrays[linear.bias], change)})

    def _replace(self, fresh: Mapping[str, np.ndarray]) -> None:
        arrays = self._stored.arrays
        arrays.update(fresh)
        self._written |= fresh
        held = {name: arrays[name] for name in fresh}
        self._pruned.use(overwritten(self._stored.graph, self._pruned.model.weights, held))


def _named(nodes: Sequence[str]) -> str:
    """Return the first names of a list, and how many more there are."""
    return ", ".join(nodes[:NAMED]) + (f" and {len(nodes) - NAMED} more" if len(nodes) > NAMED else "")
