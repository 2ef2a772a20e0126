"""Training block after block: inputs from the pruned model as far as it is trained, targets from the original.

A block ends where one float value carries all that comes after. Its graph is small, so memory and the time of a step are those of
a block, not of the model; what is lost is that later blocks cannot make up for earlier ones. Source: the block-wise reconstruction of
Li et al. 2021, "BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction", section 3.2, here for pruned models.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from onnx import ModelProto, TensorProto, helper

from onnxprune.coupling.blocks import Flow
from onnxprune.data import Dataset
from onnxprune.data.repeated import Batches
from onnxprune.errors import ModelError
from onnxprune.means import Means
from onnxprune.measure.kinds import as_wholes
from onnxprune.model.facts import Facts, gather_facts
from onnxprune.model.graph import Graph
from onnxprune.model.model import Model, overwritten
from onnxprune.model.runtime import session
from onnxprune.model.tensors import FLOATS
from onnxprune.progress import Progress, Share
from onnxprune.recover.hints import Positions, comparable
from onnxprune.recover.lessons import Arrays, Part, WholeModel, mean_loss
from onnxprune.recover.objective import Objective, objective
from onnxprune.recover.parameters import as_stored, stored_weights, to_train, with_parameters
from onnxprune.recover.recipe import Recipe
from onnxprune.recover.train import Training, TrainingState
from onnxprune.repair.lockstep import Lockstep

CARRIERS = FLOATS | {TensorProto.UNDEFINED}
"""Element types of values that may carry what comes after: floats, and sequences, which have none."""


@dataclass(frozen=True)
class Segment:
    """The nodes from number ``start`` up to ``stop``; ``inputs``: computed values that they read; ``outputs``: what is compared."""

    start: int
    stop: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def segments(facts: Facts, comparable: Callable[[str], bool]) -> tuple[Segment, ...]:
    """Return the finest partition into runs of nodes that hold a trained matrix each and end in a single comparable float value."""
    flow = Flow(facts.graph)
    last = {name: max(users) for name, users in flow.users.items()} | dict.fromkeys(facts.graph.outputs, len(flow.top))
    ends: list[tuple[int, str]] = []
    held, live = False, set[str]()
    waiting: tuple[int, str] | None = None  # the last place where the block could end
    for number, node in enumerate(flow.top):
        matrix = any(len(facts.graph.tensors[name].dims) > 1 for name in stored_weights(node, facts.graph))
        if matrix and held and waiting is not None:
            ends.append(waiting)
            held = False
        held |= matrix
        waiting = None if matrix else waiting
        live |= {
            name for name in node.outputs if name and name not in facts.constants and facts.dtype(name) in CARRIERS
        }
        live = {name for name in live if last.get(name, -1) > number}
        if len(live) == 1 and held and comparable(*live):
            waiting = number + 1, next(iter(live))
    computed = tuple(name for name in facts.graph.outputs if name in flow.maker and name not in facts.constants)
    stops = [(stop, (name,)) for stop, name in ends] + [(len(flow.top), computed)]
    starts = [0, *(stop for stop, _ in stops)]
    return tuple(
        Segment(start, stop, _reads(facts, flow, start, stop), outputs)
        for start, (stop, outputs) in zip(starts, stops, strict=False)
    )


def _reads(facts: Facts, flow: Flow, start: int, stop: int) -> tuple[str, ...]:
    """Return the values that a run of nodes reads and does not make, constants and what bodies make left out."""
    made = {name for node in flow.top[start:stop] for name in node.outputs}
    given = (flow.inputs | flow.maker.keys()) - made - facts.constants
    return tuple(dict.fromkeys(name for names in flow.reads[start:stop] for name in sorted(names) if name in given))


def extracted(facts: Facts, segment: Segment, samples: Sequence[Arrays]) -> Model:
    """Return a run of nodes as a model of its own, with what it needs of the constant nodes before it.

    ``samples``: its inputs on all batches; sizes that differ between them stay free.
    """
    flow, source = Flow(facts.graph), facts.model.structure
    chosen = set(range(segment.start, segment.stop))
    todo = [name for place in chosen for name in flow.reads[place]]
    while todo:
        name = todo.pop()
        place = flow.maker.get(name)
        if place is not None and place not in chosen and name in facts.constants:
            chosen.add(place)
            todo.extend(flow.reads[place])
    read = {name for place in chosen for name in flow.reads[place]}
    result = ModelProto(ir_version=max(source.ir_version, 4), opset_import=source.opset_import)
    result.functions.extend(source.functions)
    result.graph.name = "block"
    result.graph.node.extend(flow.top[place].proto for place in sorted(chosen))
    result.graph.initializer.extend(tensor for tensor in source.graph.initializer if tensor.name in read)
    for name in segment.inputs:
        shapes = [np.shape(batch[name]) for batch in samples]
        sizes = [_size(found) for found in zip(*shapes, strict=True)]
        dtype = helper.np_dtype_to_tensor_dtype(samples[0][name].dtype)
        result.graph.input.append(helper.make_tensor_value_info(name, dtype, sizes))
    for name in segment.outputs:
        result.graph.output.append(helper.make_tensor_value_info(name, facts.dtype(name), None))
    return facts.model.derived(result)


def _size(found: Sequence[int]) -> int | str:
    """Return a size, or a symbol that all sizes share which change alike."""
    return found[0] if len(set(found)) == 1 else "x".join(map(str, found))


def elements(facts: Facts, segment: Segment) -> int:
    """Return how many numbers a run of nodes computes, by which time is shared out: about as many steps for every block."""
    made = (name for node in facts.graph.top[segment.start : segment.stop] for name in node.outputs if name)
    return max(sum(int(np.prod(facts.shape(name) or (), dtype=np.int64)) for name in made), 1)


def own_parameters(facts: Facts, segment: Segment) -> list[str]:
    """Return the trainable parameters that no node outside the run reads, be it through constant nodes."""
    flow = Flow(facts.graph)

    def inside(name: str) -> bool:
        return name not in facts.graph.outputs and all(
            segment.start <= place < segment.stop
            or all(out in facts.constants and inside(out) for out in flow.top[place].outputs if out)
            for place in flow.users[name]
        )

    found = (name for node in flow.top[segment.start : segment.stop] for name in stored_weights(node, facts.graph))
    return [name for name in dict.fromkeys(found) if inside(name)]


@dataclass(frozen=True)
class Pairs:
    """Per batch of a dataset: what a block reads in the pruned model, and what it should give; sliced only when asked for."""

    inputs: Sequence[dict[str, np.ndarray]]
    targets: Sequence[dict[str, np.ndarray]]
    kept: Mapping[str, Mapping[int, np.ndarray]]

    def at(self, number: int) -> tuple[Arrays, Arrays]:
        return self.inputs[number], {n: sliced(a, self.kept[n]) for n, a in self.targets[number].items()}


def sliced(array: np.ndarray, kept: Mapping[int, np.ndarray]) -> np.ndarray:
    """Return the positions that are left of each axis."""
    for axis, indices in kept.items():
        array = np.take(array, indices, axis)
    return array


class BlockLessons:
    """Lessons for one block: mean squared error to ``fit``'s targets; ``last``: distance to the original's outputs."""

    def __init__(self, fit: Pairs, judge: Pairs, whole: WholeModel, last: bool):
        self.fit, self.judge, self.whole = fit, judge, whole
        seen, loss, temperature = judge.at(0)[1], "distill" if last else "mse", whole.recipe.temperature
        how = whole.outputs if last else as_wholes(seen)
        self.objective: Objective = objective(seen, None, loss, temperature, how=how)
        fixed = whole.fit.schema.fixed_batch
        self.runs = min(max(whole.recipe.rows // fixed, 1), len(fit.inputs)) if fixed else 1
        self.shapes: Mapping[str, Sequence[int]] | None
        self.shapes, self.places = alike(fit.inputs)

    def feeds(self, start: int, rows: int) -> Iterator[dict[str, np.ndarray]]:
        """Yield batches as they were read, whatever ``rows`` says."""
        count = len(self.places)
        for step in itertools.count(start):
            order = np.random.default_rng([self.whole.recipe.seed, step // count]).permutation(count)
            inputs, expected = self.fit.at(self.places[int(order[step % count])])
            yield {**inputs, **self.objective.targets(expected)}

    def fitted(self, gradients: Model) -> str:
        """Nothing is parted: what a block computes is small."""
        return ""

    def parts(self, batch: Arrays) -> list[Part]:
        """Return the batch as it was read: its first axis may not count samples."""
        return [Part(self.objective.fed(batch), 1)]

    def score(self, model: Model) -> float:
        opened = session(model, threads=self.whole.means.threads)
        return mean_loss(
            (self.whole.fit.samples(expected), self.objective.score(expected, opened.run(inputs), None))
            for inputs, expected in map(self.judge.at, range(len(self.judge.inputs)))
        )


def alike(batches: Sequence[Arrays]) -> tuple[dict[str, tuple[int, ...]] | None, list[int]]:
    """Return the shapes that all batches have, but for a last one that is not full, and the numbers of those that have them.

    Where rows differ in shape: None, and the numbers of all batches.
    """
    shapes = [{name: array.shape for name, array in batch.items()} for batch in batches]
    places = [number for number, own in enumerate(shapes) if own == shapes[0]]
    few = len(places) < len(shapes) - 1
    return (None, list(range(len(shapes)))) if few else (shapes[0], places)


def even(dataset: Dataset, most: int) -> int:
    """Return the rows of a batch, at most ``most``, so that all rows but a few make full batches."""
    if not dataset.schema.samples or dataset.schema.fixed_batch:
        return most
    return len(dataset) // -(-len(dataset) // most)


class Walk:
    """Both models on one dataset, run as far as the blocks go."""

    def __init__(self, original: Model, pruned: Model, dataset: Dataset, whole: WholeModel):
        batches = Batches(dataset, even(dataset, whole.recipe.rows))
        self.dense = Lockstep(original, batches, whole.means)
        self.pruned = Lockstep(pruned, batches, whole.means)

    def pairs(self, segment: Segment, positions: Positions) -> Pairs:
        self.pruned.advance(segment.inputs)
        self.dense.advance(segment.outputs)
        kept = {name: positions(name) for name in segment.outputs}
        return Pairs(_rows(self.pruned, segment.inputs), _rows(self.dense, segment.outputs), kept)


def _rows(walk: Lockstep, names: Sequence[str]) -> list[dict[str, np.ndarray]]:
    values = [walk.values(name) for name in names]
    return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]


class BlockTraining:
    """Like ``Training``, but block after block; ``at.evaluations`` counts the blocks that are done."""

    def __init__(self, pruned: Model, lessons: WholeModel, positions: Positions, masks: Arrays | None = None):
        self.original, self.judge = lessons.teaching.original, lessons.teaching.judge
        self.lessons, self.positions, self.masks = lessons, positions, masks or {}
        found = to_train(pruned, self.original, self.masks)
        self.parameters = {n: a * self.masks[n] if n in self.masks else a.copy() for n, a in found.items()}
        self.pruned = with_parameters(pruned, self.parameters) if masks else pruned
        self.best = {name: array.copy() for name, array in self.parameters.items()}
        self.at = TrainingState()
        self.left_out: list[str] = []

    @property
    def arrays(self) -> dict[str, Arrays]:
        return {"now": self.parameters, "best": self.best}

    @property
    def state(self) -> dict[str, float]:
        return asdict(self.at)

    def restore(self, facts: Mapping[str, float]) -> None:
        self.at = TrainingState(**facts)  # type: ignore[arg-type]

    def run(self) -> Iterator[None]:
        """Train all blocks, the later on what the earlier have become; yield after each.

        Blocks without a gradient are left out; raises ModelError where none has one.
        """
        if not self.at.evaluations:
            self.at.before = self.at.best = self.lessons.score(self.pruned)
        self._began = time.perf_counter() - self.at.seconds
        working = with_parameters(self.pruned, self.parameters)
        facts, dense = (gather_facts(model, Graph(model.structure)) for model in (working, self.original))
        parts = segments(facts, lambda name: self._comparable(name, facts, dense))
        work = np.array([elements(facts, part) for part in parts], np.float64)
        shares = work / work[::-1].cumsum()[::-1]
        fit, judge = (Walk(self.original, working, data, self.lessons) for data in (self.lessons.fit, self.judge))
        for number in range(int(self.at.evaluations), len(parts)):
            trained = self._train(
                facts, parts[number], fit, judge, f"block {number + 1} of {len(parts)}", shares[number]
            )
            weights = overwritten(facts.graph, facts.model.weights, as_stored(facts.graph, trained))
            facts = replace(facts, model=replace(facts.model, weights=weights))
            for walk in (fit, judge):
                walk.pruned.use(weights)
            self.at.evaluations = number + 1
            self._look(facts.model)
            self.at.seconds = time.perf_counter() - self._began
            yield
        if self.left_out and not self.at.steps:
            raise ModelError(self.left_out[0])

    def _look(self, working: Model) -> None:
        """Judge the whole model as it is now; the best is kept, though later blocks go on from here all the same."""
        score = self.lessons.score(working)
        if score < self.at.best:
            self.at.best = score
            for name, array in self.parameters.items():
                self.best[name][...] = array

    def _comparable(self, name: str, facts: Facts, dense: Facts) -> bool:
        return comparable(name, facts, dense, self.positions(name))

    def _train(self, facts: Facts, segment: Segment, fit: Walk, judge: Walk, name: str, share: float) -> Arrays:
        """Return the parameters of a block as they are trained; none where it has none, or no gradient."""
        own = [name for name in own_parameters(facts, segment) if name in self.parameters]
        if not own:
            return {}
        pairs, held = fit.pairs(segment, self.positions), judge.pairs(segment, self.positions)
        block = extracted(facts, segment, [*pairs.inputs, *held.inputs])
        lessons = BlockLessons(pairs, held, self.lessons, segment.stop == len(facts.graph.top))
        try:
            training = Training(
                block,
                {parameter: self.parameters[parameter] for parameter in own},
                lessons,
                self._recipe(share),
                self._means(name),
                {parameter: mask for parameter, mask in self.masks.items() if parameter in own},
            )
        except ModelError as error:
            self.left_out.append(f"{name} was not trained: {error}")
            return {}
        for _ in training.run():
            pass
        for parameter, array in training.best.items():
            self.parameters[parameter][...] = array
        self.at.steps += training.at.steps
        self.at.went_back += training.at.went_back
        self.at.not_finite += training.at.not_finite
        return training.best

    def _means(self, name: str) -> Means:
        """Return the means with a progress that names the block."""
        means = self.lessons.means

        def show(text: str, share: Share) -> None:
            means.progress.at(text.replace("recovering", f"recovering {name}", 1), share)

        return replace(means, progress=Progress(show))

    def _recipe(self, share: float) -> Recipe:
        """As many steps for each block as asked for, or a ``share`` of the time that is left."""
        recipe = replace(self.lessons.recipe, batch=self.lessons.recipe.rows)
        if recipe.steps:
            return recipe
        rest = recipe.seconds - (time.perf_counter() - self._began)
        return replace(recipe, seconds=max(rest * share, 1e-3))

    @property
    def trained(self) -> Model | None:
        """The best model found after any block, None where none is better."""
        if not self.at.best < self.at.before:
            return None
        return with_parameters(self.pruned, self.best)
