"""Sequential least squares: every linear node, in order, is refitted to what the original computes.

Inputs come from the already repaired pruned model, targets from the original (on a residual stream: the original's sum minus
the pruned shortcut), with a ridge towards the old weights. Where only the positive part of a target is read, errors below zero
do not count (the auxiliary-variable idea of Zhang et al. 2016, "Accelerating very deep convolutional networks", eq. 7-9, in the
form of a majorising target). A node may also choose which of its inputs go (layer OBS on the refitted weights).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.kept import Kept
from onnxprune.evidence.needs import Need
from onnxprune.evidence.rows import LARGEST, POSITIONS, usable
from onnxprune.means import Means
from onnxprune.model.graph import Graph, Node, names_read
from onnxprune.model.memory import room
from onnxprune.model.model import Model, overwritten
from onnxprune.model.runtime import Arrays, release_memory
from onnxprune.model.tensors import NATIVE_FLOATS
from onnxprune.repair.fit import Choice, NodeFit
from onnxprune.repair.inputs import ROWS_IN_MEMORY, InputRows, Reads
from onnxprune.repair.linear import Linear, as_linear
from onnxprune.repair.lockstep import Lockstep
from onnxprune.repair.moments import SOLVERS, Limit, Solver
from onnxprune.repair.stored import Stored
from onnxprune.repair.targets import FitTarget
from onnxprune.repair.teacher import Teacher

Snap = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Old and refitted weights float64[groups, o, d], moments of the inputs float64[groups, d, d] -> weights that can be stored."""
TURNS = 3  # of moving rectified targets
MULTIPLY = frozenset(
    {"Conv", "ConvInteger", "ConvTranspose", "Gemm", "MatMul", "MatMulInteger", "QLinearConv", "QLinearMatMul"}
)
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
    their own.
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
    chosen: dict[int, np.ndarray] = field(default_factory=dict)
    unmatched: dict[str, int] = field(default_factory=dict)
    unrepaired: list[str] = field(default_factory=list)

    def run(self, small: Model) -> Model:
        """Return the repaired model; ``chosen``: group -> bool[width], where nodes chose."""
        working = small.derived(small.draft())
        graph = Graph(working.structure)
        self._stored = Stored.of(working, graph)
        self._solve = SOLVERS[self.method]
        self._left = Kept.of(self.analysis, self.kept)
        sites = self._sites(graph)
        after = last_sites(graph, [site.node for site in sites])
        targets = [self._target(linear, after, number) for number, linear in enumerate(sites)]
        self._original = self.teacher or Teacher(
            self.analysis.facts, self.batches, self.means, positions=self.effort.positions
        )
        pairs = list(zip(sites, targets, strict=True))
        self._original.learn(linear.sought(target.value) for linear, target in pairs)
        self._pruned = Lockstep(working, self.batches, self.means)
        self._inputs: dict[Reads, InputRows] = {}
        for number, (linear, target) in enumerate(pairs):
            self.means.progress(f"{self.method}: node {number + 1} of {len(sites)}", number, len(sites))
            self._refit(linear, target)
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

    def _sites(self, graph: Graph) -> list[Linear]:
        """Linear nodes whose inputs differ from the original's, or are to be chosen among."""
        touched = {*self.limits, *(graph.inputs if self.everything else ())}
        own = {*self.choices, *self.limits}
        found = []
        for node in graph.top:
            linear = as_linear(node, self._stored, self.analysis.facts)
            chooses = linear is not None and linear.weight in own
            if self._is_cut(node.outputs) or any(name in touched for name in node.inputs) or chooses:
                if linear is not None and (linear.source in touched or chooses):
                    found.append(linear)
                elif linear is None and self._is_foreign(graph, node, touched):
                    self.unrepaired.append(node.label)
                touched.update(node.outputs)
        return found

    def _is_foreign(self, graph: Graph, node: Node, touched: set[str]) -> bool:
        """Whether a node multiplies what ``touched`` holds by a matrix that is stored in another type than floats."""
        todo = [name for name in node.inputs if name in self.analysis.facts.constants]
        if node.op not in MULTIPLY or not touched.intersection(node.inputs).difference(todo):
            return False
        seen = set(todo)
        while todo:
            name = todo.pop()
            tensor, maker = graph.tensors.get(name), graph.producer.get(name)
            if tensor is not None and len(tensor.dims) > 1 and tensor.data_type not in NATIVE_FLOATS:
                return True
            fresh = {other for other in (maker.inputs if maker else ()) if other} - seen
            todo.extend(sorted(fresh))
            seen |= fresh
        return False

    def _is_cut(self, names: Sequence[str]) -> bool:
        return any(self._left.masks(name) for name in names if name)

    def _target(self, linear: Linear, after: Mapping[str, int], number: int) -> FitTarget:
        """Return what site ``number`` is to give; ``after``: see ``last_sites``."""
        if self.method != "least-squares":
            return linear.own_output()
        return linear.target(self.analysis, self._stored, ready_at(after, number))

    # --- one node ---------------------------------------------------------------------------------------------------

    def _refit(self, linear: Linear, target: FitTarget) -> None:
        if self.snaps and linear.weight not in self.snaps:
            return
        self._pruned.advance([linear.source, *([target.other] if target.other else [])])
        narrow = self._narrow(linear)
        inputs = self._rows(linear) if narrow is None else self._narrow_rows(linear, narrow)
        targets = [self._wanted(linear, target, *there) for there in self._values(linear, target, inputs)]
        arrays = self._stored.arrays
        choice, old = self.choices.get(linear.weight), linear.matrix(arrays[linear.weight])
        importance = self.importance.get(linear.weight)
        solver = self._solver(linear, narrow is not None)
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

    def _narrow(self, linear: Linear) -> np.ndarray | None:
        """Return float64[d, q], what a node may read of its inputs; None: all, or rounding of its weights needs all moments."""
        limit, array = self.limits.get(linear.weight), self._stored.arrays[linear.weight]
        if limit is None or self.snaps or linear.operands.weight.coarse(array):
            return None
        return limit.reading(linear.matrix(array).shape[2])

    def _narrow_rows(self, linear: Linear, narrow: np.ndarray) -> InputRows:
        """Return the rows of a node in the few directions that it may read: far fewer products of them to sum up."""
        turn, limit = narrow.astype(np.float32), room(self.means, ROWS_IN_MEMORY)
        release_memory()
        return InputRows(lambda start: (rows @ turn for rows in self._make_rows(linear, start)), limit)

    def _rows(self, linear: Linear) -> InputRows:
        """Return what a node sums over; nodes one after the other that read the same share it."""
        reads = Reads.of(linear)
        if reads not in self._inputs:
            self._inputs = {}
            release_memory()
            limit = room(self.means, ROWS_IN_MEMORY)
            self._inputs = {reads: InputRows(lambda start: self._make_rows(linear, start), limit)}
        return self._inputs[reads]

    def _make_rows(self, linear: Linear, start: int) -> Iterator[np.ndarray]:
        values = zip(self._pruned.values(linear.source), self.batches, strict=True)
        for number, (x, batch) in enumerate(islice(values, start, None), start):
            rows = linear.rows(x, self._original.sampler(number, batch, self.effort.positions))
            if not usable(rows, LARGEST):
                raise self._original.refusal(batch, Need("gram", linear.source, linear.reads), x)
            yield rows

    def _values(
        self, linear: Linear, target: FitTarget, inputs: InputRows
    ) -> Iterator[tuple[int, Arrays, int, np.ndarray | None]]:
        """Yield per batch its number, its inputs, how many rows the node reads, and what is there already."""
        others = self._pruned.values(target.other) if target.other else iter([None] * len(self._original.sizes))
        for number, (batch, count, other) in enumerate(zip(self.batches, inputs.counts, others, strict=False)):
            yield number, batch, count, other

    def _wanted(
        self, linear: Linear, target: FitTarget, number: int, batch: Arrays, count: int, other: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Return float32[rows, channels] twice: what is to come out and what is there; None where rows do not match ``count``."""
        sought = linear.sought(target.value)
        wanted = self._original.rows(sought, number, self.effort.positions)
        offset = target.shift.astype(np.float32)
        if other is not None:
            sampler = self._original.sampler(number, batch, self.effort.positions)
            offset = offset + sought.rows(other, sampler)
        if len(wanted) != count or (other is not None and len(offset) != count):
            self.unmatched[linear.node.label] = self.unmatched.get(linear.node.label, 0) + self._original.sizes[number]
            return None
        axis = linear.axis % len(self.analysis.facts.shape(target.value) or ())
        kept = self._left.mask(target.value, axis)
        wanted = wanted if kept is None else wanted[:, kept]
        return wanted, np.broadcast_to(offset, wanted.shape)

    def _choose_blindly(self, linear: Linear, choice: Choice | None, old: np.ndarray) -> None:
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

    def _solver(self, linear: Linear, narrow: bool) -> Solver:
        """Return the solver of a node; ``narrow``: of the directions that it may read."""
        limit = self.limits.get(linear.weight)
        if limit is None:
            return self._solve
        return (limit.on_what_is_read() if narrow else limit).within(self._solve)

    def _write(
        self, linear: Linear, keep: np.ndarray, fitted: np.ndarray, change: np.ndarray, fit: NodeFit | None = None
    ) -> None:
        """Store weights and a change of the intercept, which takes on what rounding of the weights does to the means of ``fit``."""
        arrays = self._stored.arrays
        matrix = np.zeros((*fitted.shape[:2], len(keep)))
        matrix[:, :, keep] = fitted
        old, snap = arrays[linear.weight], self.snaps.get(linear.weight)
        if fit is None:
            weight = linear.stored(matrix, old)
        elif snap is not None:
            moments = fit.moments.covariance if linear.bias else fit.moments.second_moment
            weight = linear.stored(snap(linear.matrix(old), matrix, moments), old)
        else:
            weight = linear.stored(fit.on_grid(matrix, keep, linear.grids(old), old.dtype), old)
        if fit is not None and (snap is not None or linear.operands.weight.coarse(weight)):
            lost = matrix - linear.matrix(weight)
            change = change + np.einsum("god,gd->go", lost, fit.moments.mean_x)
        self._replace(linear.weight, weight)
        if linear.bias:
            self._replace(linear.bias, linear.shifted(arrays[linear.bias], change))

    def _replace(self, name: str, array: np.ndarray) -> None:
        self._stored.arrays[name] = array
        self._pruned.use(overwritten(self._stored.graph, self._pruned.model.weights, {name: array}))


def last_sites(graph: Graph, sites: Sequence[Node]) -> dict[str, int]:
    """Return value -> number of the last of ``sites`` that it depends on, itself included; -1 where it depends on none."""
    numbers = {site.outputs[0]: number for number, site in enumerate(sites)}
    found = dict.fromkeys(graph.inputs, -1)
    for node in graph.top:
        own = max((numbers[name] for name in node.outputs if name in numbers), default=-1)
        before = max((found.get(name, -1) for name in names_read(node.proto)), default=-1)
        found.update((name, max(own, before)) for name in node.outputs if name)
    return found


def ready_at(after: Mapping[str, int], number: int) -> Callable[[str], bool]:
    """Return what tells whether a value depends on sites before ``number`` alone; ``after``: see ``last_sites``."""
    return lambda name: after.get(name, number) < number


def _named(nodes: Sequence[str]) -> str:
    """Return the first names of a list, and how many more there are."""
    return ", ".join(nodes[:NAMED]) + (f" and {len(nodes) - NAMED} more" if len(nodes) > NAMED else "")
