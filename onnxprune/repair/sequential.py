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
from onnx import AttributeProto

from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.kept import Kept
from onnxprune.criteria.curvature import Order, Problem, joint_order
from onnxprune.data import Feed
from onnxprune.data.repeated import Remembered
from onnxprune.errors import DataError
from onnxprune.evidence.needs import Need
from onnxprune.evidence.rows import LARGEST, POSITIONS, Sampler, usable
from onnxprune.evidence.unusable import refusal
from onnxprune.means import Means
from onnxprune.model.graph import Graph, Node
from onnxprune.model.model import Model, overwritten
from onnxprune.model.runtime import Arrays
from onnxprune.model.tensors import NATIVE_FLOATS
from onnxprune.repair.linear import Linear, as_linear
from onnxprune.repair.lockstep import Lockstep
from onnxprune.repair.moments import SOLVERS, CrossMoments, Solver, Subspace, squared_error
from onnxprune.repair.targets import DEAD_SCALE, FitTarget, Stored, on_own_scales, own_output, target_of

DAMPING = (1e-3, 1e-2, 1e-1, 1.0)  # of the mean diagonal; chosen per node on held-out rows
TURNS = 3  # of moving rectified targets
MULTIPLY = frozenset(
    {"Conv", "ConvInteger", "ConvTranspose", "Gemm", "MatMul", "MatMulInteger", "QLinearConv", "QLinearMatMul"}
)
NAMED = 3  # nodes that a warning names
ROWS_IN_MEMORY = 1 << 28  # bytes of a node's rows that are kept between turns

FittedRows = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Effort:
    """How much work a fit is worth: output ``positions`` sampled of each sample, and ``turns`` of moving rectified targets."""

    positions: int = POSITIONS
    turns: int = TURNS


@dataclass(frozen=True)
class Choice:
    """Units that a node may choose among: ``units`` int64[inputs channels], how many stay, and where they are reported.

    ``order``: units, the first to go first, where no row of the data tells.
    """

    group: int
    units: np.ndarray
    width: int
    order: np.ndarray

    def inputs(self, inputs: int) -> np.ndarray:
        """Return int64[units, taps]: which of a node's ``inputs`` belong to each unit."""
        taps = inputs // len(self.units)
        places = [np.flatnonzero(self.units == unit)[:, None] * taps for unit in range(int(self.units.max()) + 1)]
        return np.stack([(place + np.arange(taps)).reshape(-1) for place in places])


@dataclass(frozen=True)
class NodeRepair:
    """What happened at one node: relative error before and after, and the removal order if it chose."""

    before: float
    after: float
    order: Order | None = None
    energy: float = 0.0


@dataclass
class Sequential:
    """Refits a cut model against the original of ``analysis``, from which the units outside ``kept`` are gone.

    ``subspaces``: weight -> what its repair must keep to, at nodes that are visited whether anything before them is cut or not.
    ``batches``: calibration inputs, samples along the first axis; every second batch is held out where the damping is chosen,
    all count in the final solve. ``everything``: visit every linear node; ``frozen``: look, but change no weight. ``choices``: weight -> units to choose among at the node that reads them (they are then still in
    the model; those that go are zeroed where they are read, see ``chosen``). ``unmatched``: node -> samples left out, because
    the two models' values cannot be matched row by row. ``unrepaired``: nodes whose weights are stored in a type that is not
    refitted. ``importance``: weight -> float64[channels that it writes], where these are outputs of the model on scales of
    their own.
    """

    analysis: Analysis
    kept: Sequence[np.ndarray]
    batches: Iterable[Arrays]
    choices: Mapping[str, Choice] = field(default_factory=dict)
    subspaces: Mapping[str, Subspace] = field(default_factory=dict)
    method: str = "least-squares"
    effort: Effort = Effort()
    means: Means = Means()
    importance: Mapping[str, np.ndarray] = field(default_factory=dict)
    everything: bool = False
    frozen: bool = False
    observe: Callable[[Linear, FitTarget, CrossMoments], None] | None = None
    steps: dict[str, NodeRepair] = field(default_factory=dict)
    chosen: dict[int, np.ndarray] = field(default_factory=dict)
    unmatched: dict[str, int] = field(default_factory=dict)
    unrepaired: list[str] = field(default_factory=list)

    def run(self, small: Model) -> Model:
        """Return the repaired model; ``steps`` and ``chosen`` (group -> bool[width]) tell what was done."""
        working = small.derived(small.draft())
        graph = Graph(working.structure)
        stored = {name: tensor for name, tensor in graph.tensors.items() if _is_stored(graph, name)}
        self._stored = Stored(graph, {name: working.array(tensor) for name, tensor in stored.items()})
        self._solve = SOLVERS[self.method]
        self._left = Kept.of(self.analysis, self.kept)
        self._sizes = [_samples(batch) for batch in self.batches]
        self._numbers = _row_numbers(self.batches, self._sizes)
        self._masks = [batch[self.means.mask] != 0 if self.means.mask else None for batch in self.batches]
        self._dense = Lockstep(self.analysis.facts.model, self.batches, self.means)
        self._pruned = Lockstep(working, self.batches, self.means)
        sites = self._sites(graph)
        done = set(graph.inputs)
        waiting = iter(graph.top)
        for number, linear in enumerate(sites):
            for node in waiting:
                if node is linear.node:
                    break
                done.update(node.outputs)
            self.means.progress(f"{self.method}: node {number + 1} of {len(sites)}", number, len(sites))
            self._refit(linear, self._target(linear, done))
            done.update(linear.node.outputs)
        return self._pruned.model

    @property
    def warnings(self) -> tuple[str, ...]:
        """Say at which nodes rows of the data were left out, and which kept their weights."""
        counted = [f"{node} ({count})" for node, count in self.unmatched.items()]
        texts = {
            "data rows were left out at nodes whose values in the original and in the pruned model cannot be matched "
            "position by position: ": counted,
            "weights that are quantised or stored in bfloat16 are not repaired, those of these nodes stay as they were: ": (
                self.unrepaired
            ),
        }
        return tuple(text + _named(nodes) for text, nodes in texts.items() if nodes)

    # --- which nodes ------------------------------------------------------------------------------------------------

    def _sites(self, graph: Graph) -> list[Linear]:
        """Linear nodes whose inputs differ from the original's, or are to be chosen among."""
        touched: set[str] = set(graph.inputs) if self.everything else set()
        own = {*self.choices, *self.subspaces}
        found = []
        for node in graph.top:
            if self._is_cut(node.outputs) or any(name in touched for name in node.inputs) or node.input(1) in own:
                linear = as_linear(node, self._stored, self.analysis.facts)
                if linear is not None and (node.inputs[0] in touched or linear.weight in own):
                    found.append(linear)
                elif linear is None and not self.frozen and self._is_foreign(graph, node, touched):
                    self.unrepaired.append(node.label)
                touched.update(node.outputs)
        return found

    def _is_foreign(self, graph: Graph, node: Node, touched: set[str]) -> bool:
        """Whether a node multiplies what ``touched`` holds by a matrix that is stored in a type that is not refitted."""
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

    def _target(self, linear: Linear, done: set[str]) -> FitTarget:
        if self.method != "least-squares":
            return own_output(linear.node, linear.channels)
        rank = len(self.analysis.facts.shape(linear.node.outputs[0]) or ())
        return target_of(self.analysis, self._stored, linear.node, linear.channels, linear.axis, rank, done)

    # --- rows -------------------------------------------------------------------------------------------------------

    def _rows(self, linear: Linear, target: FitTarget, start: int) -> Iterator[FittedRows]:
        """Yield per batch x float32[groups, rows, d], the target's value and the offset already there, float32[rows, o] each.

        A batch in which the two models' values cannot be matched row by row (what is found there decides how many) is left out.
        """
        axis = linear.axis % len(self.analysis.facts.shape(target.value) or ())
        kept = self._left.mask(target.value, axis)
        others = self._pruned.values(target.other) if target.other else [None] * len(self._sizes)
        firsts = np.cumsum([0, *self._sizes[:-1]]).tolist()
        values = zip(self._pruned.values(linear.source), self._dense.values(target.value), others, strict=True)
        batches = zip(values, firsts, self._sizes, self._masks, self._numbers, strict=True)
        for number, ((x, t, other), first, samples, mask, numbers) in enumerate(islice(batches, start, None)):
            sampler = Sampler(
                samples, self.effort.positions, self.means.seed, first, mask if linear.by_position else None
            )
            wanted, inputs = linear.outputs(t, sampler), linear.rows(x, sampler)
            for need, value, rows in (
                (Need("gram", linear.source, linear.reads), x, inputs),
                (Need("gram", target.value, linear.axis), t, wanted),
            ):
                if not usable(rows, LARGEST):
                    raise self._refusal(start + number, numbers, need, value)
            if inputs.shape[1] != len(wanted):
                self.unmatched[linear.node.label] = self.unmatched.get(linear.node.label, 0) + len(numbers)
                continue
            offset = target.shift.astype(np.float32)
            if other is not None:
                offset = offset + linear.outputs(other, sampler)
            wanted = wanted if kept is None else wanted[:, kept]
            yield inputs, wanted, np.broadcast_to(offset, wanted.shape)

    def _refusal(self, number: int, rows: np.ndarray, need: Need, value: np.ndarray) -> DataError:
        """Return what to tell about a value of batch ``number`` whose products are no floats."""
        inputs = next(islice(self.batches, number, None))
        return refusal(self.analysis.facts, inputs, rows, need, value, limit=LARGEST, means=self.means)

    def _moments(self, linear: Linear, target: FitTarget, rows: Iterable[FittedRows]) -> list[CrossMoments]:
        """Moments of the even and of the odd batches."""
        scale = _divisor(target)
        halves: list[CrossMoments] = []
        for number, (x, wanted, offset) in enumerate(rows):
            if not x.shape[1]:
                continue
            t = _grouped((wanted - offset) / scale, linear.groups)
            if not halves:
                halves = [CrossMoments.around(x, t) for _ in range(2)]
            halves[number % 2].update(x, t)
        return [half for half in halves if half.count]

    # --- one node ---------------------------------------------------------------------------------------------------

    def _refit(self, linear: Linear, target: FitTarget) -> None:
        self._pruned.advance([linear.source, *([target.other] if target.other else [])])
        self._dense.advance([target.value])
        rows = Remembered(lambda start: self._rows(linear, target, start), _bytes, ROWS_IN_MEMORY)
        halves = self._moments(linear, target, rows)
        if not halves:
            self._choose_blindly(linear)
            return
        moments = halves[0] + halves[1] if len(halves) > 1 else halves[0]
        if self.observe is not None:
            self.observe(linear, target, moments)
        if self.frozen:
            return
        weight = self._stored.arrays[linear.weight]
        old, offset, intercept = linear.matrix(weight), linear.offset(self._stored), bool(linear.bias)
        keep, order = self._choose(linear, target, moments, old, intercept)
        solve = self._solver(linear)
        emphasis = _grouped(self._emphasis(linear, target, moments)[None], linear.groups)[:, 0]
        damping = self._damping(solve, [half.only(keep) for half in halves], old[:, :, keep], intercept, emphasis)
        reduced = moments.only(keep)
        fitted, bias = solve(reduced, old[:, :, keep], damping, intercept)
        if not intercept:
            bias = offset
        for _ in range(self.effort.turns if target.rectified else 0):
            turned = _majorised(linear, target, _of_inputs(rows, keep), reduced.retarget(), fitted, bias)
            fitted, free = solve(turned, old[:, :, keep], damping, intercept)
            bias = free if intercept else offset
        energy = max(float(moments.variance.sum()) * moments.count, 1e-30)
        before = float(squared_error(moments, old, offset).sum()) / energy
        after = float(squared_error(reduced, fitted, bias).sum()) / energy
        power = float((moments.variance.reshape(-1) * target.scale**2).sum())
        self.steps[linear.node.label] = NodeRepair(before, after, order, power)
        self._write(linear, keep, fitted, bias - offset)

    def _choose(
        self, linear: Linear, target: FitTarget, moments: CrossMoments, old: np.ndarray, intercept: bool
    ) -> tuple[np.ndarray, Order | None]:
        """Return bool[d], the inputs that stay, and the order in which units would go."""
        keep = np.ones(old.shape[2], bool)
        choice = self.choices.get(linear.weight)
        if choice is None:
            return keep, None
        blocks = choice.inputs(old.shape[2])
        refitted, _ = self._solve(moments, old, DAMPING[1], intercept)
        loud = target.scale * self._emphasis(linear, target, moments)
        order = joint_order([Problem(moments.covariance[0], refitted[0] * loud[:, None], blocks)], damping=DAMPING[1])
        self._leave_out(choice, order.order, keep)
        return keep, order

    def _emphasis(self, linear: Linear, target: FitTarget, moments: CrossMoments) -> np.ndarray:
        """Return float64[channels]: how much louder each output channel counts than it is."""
        variance = moments.variance.reshape(-1) * target.scale**2
        return on_own_scales(variance, self.importance.get(linear.weight))

    def _leave_out(self, choice: Choice, order: np.ndarray, keep: np.ndarray) -> None:
        """Report the units that stay, and take the inputs of the others out of ``keep``, bool[d]."""
        blocks = choice.inputs(len(keep))
        gone = order[: len(blocks) - choice.width]
        keep[blocks[gone].reshape(-1)] = False
        self.chosen[choice.group] = np.isin(np.arange(len(blocks)), gone, invert=True)

    def _choose_blindly(self, linear: Linear) -> None:
        """Without any row to go by, leave out units in the order that was known before."""
        choice = self.choices.get(linear.weight)
        if choice is None or self.frozen:
            return
        old = linear.matrix(self._stored.arrays[linear.weight])
        keep = np.ones(old.shape[2], bool)
        self._leave_out(choice, choice.order, keep)
        self._write(linear, keep, old[:, :, keep], np.zeros(old.shape[:2]))

    def _solver(self, linear: Linear) -> Solver:
        subspace = self.subspaces.get(linear.weight)
        return self._solve if subspace is None else subspace.within(self._solve)

    def _damping(
        self, solve: Solver, halves: Sequence[CrossMoments], old: np.ndarray, intercept: bool, emphasis: np.ndarray
    ) -> float:
        """The strength that predicts the held-out rows best when fitted on the others."""
        if len(halves) < 2 or self.method != "least-squares":
            return DAMPING[1]
        fits = (solve(halves[0], old, damping, intercept) for damping in DAMPING)
        errors = [float((squared_error(halves[1], *fit) * emphasis**2).sum()) for fit in fits]
        return DAMPING[int(np.argmin(errors))]

    def _write(self, linear: Linear, keep: np.ndarray, fitted: np.ndarray, change: np.ndarray) -> None:
        arrays = self._stored.arrays
        matrix = np.zeros((*fitted.shape[:2], len(keep)))
        matrix[:, :, keep] = fitted
        self._replace(linear.weight, linear.stored(matrix, arrays[linear.weight]))
        if linear.bias:
            old = arrays[linear.bias]
            moved = old.astype(np.float64).reshape(-1) + linear.sign * change.reshape(-1)
            self._replace(linear.bias, moved.reshape(old.shape).astype(old.dtype))

    def _replace(self, name: str, array: np.ndarray) -> None:
        self._stored.arrays[name] = array
        self._pruned.use(overwritten(self._stored.graph, self._pruned.model.weights, {name: array}))


def _is_stored(graph: Graph, name: str) -> bool:
    """Whether a name stands for a tensor of the file that can be replaced: lists of numbers in attributes cannot."""
    producer = graph.producer.get(name)
    plain = producer is None or producer.proto.attribute[0].type == AttributeProto.TENSOR
    return plain and graph.tensors[name].data_type in NATIVE_FLOATS


def _named(nodes: Sequence[str]) -> str:
    """Return the first names of a list, and how many more there are."""
    return ", ".join(nodes[:NAMED]) + (f" and {len(nodes) - NAMED} more" if len(nodes) > NAMED else "")


def _row_numbers(batches: Iterable[Arrays], sizes: Sequence[int]) -> list[np.ndarray]:
    """Return the numbers of each batch's rows in the data that it comes from."""
    firsts = np.cumsum([0, *sizes[:-1]]).tolist()
    return [
        batch.rows if isinstance(batch, Feed) else np.arange(first, first + size)
        for batch, first, size in zip(batches, firsts, sizes, strict=True)
    ]


def _samples(batch: Mapping[str, np.ndarray]) -> int:
    """How many samples a batch holds: its inputs' common first size; one where they have none."""
    sizes = {np.shape(array)[:1] for array in batch.values()}
    return next(iter(sizes), (1,))[0] if len(sizes) == 1 and () not in sizes else 1


def _bytes(rows: FittedRows) -> int:
    return sum(array.nbytes for array in rows)


def _divisor(target: FitTarget) -> np.ndarray:
    """Return float32[channels]: the scale of a target, infinite where the channel is as good as dead."""
    return np.where(np.abs(target.scale) < DEAD_SCALE, np.inf, target.scale).astype(np.float32)


def _of_inputs(rows: Iterable[FittedRows], keep: np.ndarray) -> Iterator[FittedRows]:
    """Yield rows without the inputs outside ``keep``, bool[d]."""
    return ((x if keep.all() else x[:, :, keep], wanted, offset) for x, wanted, offset in rows)


def _majorised(
    linear: Linear,
    target: FitTarget,
    rows: Iterable[FittedRows],
    moments: CrossMoments,
    fitted: np.ndarray,
    bias: np.ndarray,
) -> CrossMoments:
    """Fill ``moments`` with targets of which those below zero become what is predicted now, but at most zero.

    There is no error where both are rectified away.
    """
    weights, shift, scale = fitted.astype(np.float32), bias.astype(np.float32), _divisor(target)
    for x, wanted, offset in rows:
        predicted = np.moveaxis(x @ weights.swapaxes(1, 2), 0, 1) + shift
        predicted = predicted.reshape(len(wanted), -1) * target.scale.astype(np.float32) + offset
        z = np.where(wanted <= 0, np.minimum(predicted, 0), wanted)
        moments.update_target(x, _grouped((z - offset) / scale, linear.groups))
    return moments


def _grouped(values: np.ndarray, groups: int) -> np.ndarray:
    """Return [groups, rows, o / groups] of [rows, o]."""
    return np.moveaxis(values.reshape(len(values), groups, values.shape[1] // groups), 1, 0)
