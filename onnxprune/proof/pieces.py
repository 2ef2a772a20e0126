"""A proof segment by segment, for models whose weights are not to be in memory all at once.

Each segment of the original, of the reference and of the result is loaded, run and left again, the original beside the reference, so
that what both read is read once. Where the result is the reference without the positions that go, its segments take what the reference
gave, so that rounding does not add up; else each model goes its own way. Everything is computed in float32, whatever the file stores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.errors import ModelError
from onnxprune.model.batched import owned
from onnxprune.model.facts import Facts
from onnxprune.model.halves import as_single, is_half
from onnxprune.model.model import Model
from onnxprune.model.runtime import release_memory, session
from onnxprune.model.segments import ModelSegment, model_segments, taken_out, weights_read
from onnxprune.proof.float32 import HALF, computed_in_float32
from onnxprune.proof.inputs import SIZED, Feeds, random_feeds
from onnxprune.proof.lines import merged_lines, with_joined_products
from onnxprune.proof.rounding import shaken
from onnxprune.proof.stand_ins import StandIns
from onnxprune.proof.trial import SHAKES, NotRun, SideBySide
from onnxprune.proof.verdict import tolerance_of_stored
from onnxprune.proof.witnesses import LIVE_BYTES, Witnesses, in_parts, steps

if TYPE_CHECKING:
    from onnxprune.proof.prover import Prover

LARGE = 1 << 28  # bytes of weights from which on a proof goes by segments
HELD = 1 << 26  # bytes of weights of one segment
KINDS = (("rows", "normal", "sizes", "cached"), ("unit", "image"), ("negative", "broken"))
"""Kinds of inputs, the next ones only where something has not been seen yet."""

Carried = dict[str, Any]


def goes_by_segments(facts: Facts, stand_ins: StandIns) -> bool:
    """Whether a model is large, and every value of it can be compared segment by segment."""
    size = sum(tensor.nbytes for tensor in facts.model.weights.values())
    alike = not (stand_ins.foreign or stand_ins.random or stand_ins.inner)
    return size >= LARGE and alike and not steps(facts)


@dataclass
class Line:
    """One model on one feed: ``values``: what has been given so far that other segments take, and the model's inputs."""

    model: Model
    values: Carried


class Pieces(SideBySide):
    """One result and its reference, compared segment by segment."""

    def __init__(self, prover: Prover, reference: Model, small: Model, witnesses: Witnesses | None):
        super().__init__(prover, reference, small, witnesses)
        self.in_step = witnesses is not None
        self.segments = _segments(prover.facts, [reference, small])
        if self.in_step:
            self.seen.base = tolerance_of_stored(prover.facts)

    def look(self, kinds: Sequence[str]) -> bool:
        """Compare on inputs of these kinds; return whether the original takes any.

        Raises NotRun where the reference or the result cannot be run on what the original takes.
        """
        longer = SIZED["cached"](self.prover.facts) is not None  # other sizes too, of fewer numbers
        feeds = [_wide(feed) for kind in kinds if not (longer and kind == "sizes") for feed in self._feeds(kind)]
        try:
            if feeds:
                self._look(feeds)
            return bool(feeds)
        except NotRun:
            taken = [feed for feed in feeds if not self._refused(feed)]
            if len(taken) == len(feeds):
                raise
        if taken:
            self._look(taken)
        return bool(taken)

    def _feeds(self, kind: str) -> list[Feeds]:
        """Return inputs of a kind, of few samples: there is no noise in them that more would even out."""
        facts = self.prover.facts
        sizes = SIZED[kind](facts) if kind in SIZED else facts.told if kind == "normal" else None
        if sizes is None:
            return [] if kind in SIZED else self.prover.feeds(kind)
        few = {
            name: tuple(min(n, 2) if (name, axis) in facts.batch_axes else n for axis, n in enumerate(shape))
            for name, shape in sizes.items()
        }
        return [random_feeds(facts, self.prover.seed, few, integers=self.prover.integers)]

    def _refused(self, feed: Feeds) -> bool:
        """Whether the original itself does not take an input."""
        line = Line(self.prover.facts.model, dict(feed))
        try:
            for number in range(len(self.segments)):
                self._run(number, [line], [()])
        except ModelError as error:
            self.prover.refusal = self.prover.refusal or str(error)
            return True
        return False

    def _look(self, feeds: Sequence[Feeds]) -> None:
        original = Line(self.prover.facts.model, dict(feeds[-1]))  # one tells whether silence moves an output
        references, results = ([Line(m, dict(feed)) for feed in feeds] for m in (self.reference, self.small))
        for number in range(len(self.segments)):
            self.prover.progress("proving the cut exact", number, len(self.segments))
            taken = [dict(line.values) for line in references]
            both = self._after_reference if self.in_step else self._each_by_itself
            before, wanted, have = both(number, original, references, results)
            for values, mine, origin, feed in zip(wanted, have, taken, feeds, strict=True):
                self._judge(values, mine, partial(self._noise, number, origin, values))
                self.seen.note_branches({**feed, **values})
            for name in filter(self._is_output, before):
                self.seen.note_movement(name, before[name], wanted[-1][name])

    def _after_reference(
        self, number: int, original: Line, references: Sequence[Line], results: Sequence[Line]
    ) -> tuple[Carried, list[Carried], list[Carried]]:
        """Run a segment; the result takes what the reference took, without the positions that go."""
        names, count = self._names(number), len(references)
        taken = [self._compressed(number, line.values) for line in references]
        for line, values in zip(results, taken, strict=True):
            line.values |= values
        with ThreadPoolExecutor(1) as beside:
            mine = beside.submit(self._run, number, results, [names] * count)
            with _as_of("reference"):
                before, *wanted = self._run(number, [original, *references], [(), *[names] * count])
            with _as_of("result"):
                return before, wanted, mine.result()

    def _each_by_itself(
        self, number: int, original: Line, references: Sequence[Line], results: Sequence[Line]
    ) -> tuple[Carried, list[Carried], list[Carried]]:
        """Run a segment; each model takes what it has given itself, and what both store is read once."""
        names, count = self._names(number), len(references)
        with _as_of("result"):
            given = self._run(number, [*references, *results], [names] * (2 * count))
        return {}, given[:count], given[count:]

    def _names(self, number: int) -> list[str]:
        """Return the values of a segment that are compared beside what it passes on."""
        own = {name for node in self.segments[number].nodes for name in node.outputs if name}
        return [name for name in dict.fromkeys((*self.witnesses.values, *self._owned, *self._deciding)) if name in own]

    def _compressed(self, number: int, values: Mapping[str, Any]) -> Carried:
        """Return what a segment takes, and the model's inputs, without the positions that go, as far as they are told there."""
        taken = (*self.segments[number].takes, *self.prover.facts.graph.inputs)
        found = {}
        for name in taken:
            if isinstance(values.get(name), np.ndarray):
                with suppress(ValueError):  # at these sizes nobody can say which stay: the result's own value is taken
                    found[name] = self._kept(name, values[name])
        return found

    def _judge(self, wanted: Carried, have: Carried, noise: Callable[[Sequence[str]], Mapping[str, float]]) -> None:
        apart = {name: self._apart(name, value, have[name]) for name, value in wanted.items() if name in have}
        shaken_by = noise(self._doubtful(apart))
        for name, one in apart.items():
            self.seen.judge(name, one, shaken_by.get(name, 0.0))

    def _noise(self, number: int, taken: Carried, wanted: Carried, names: Sequence[str]) -> Mapping[str, float]:
        """Return how far rounding of what a segment takes moves some of its values, as shares of their positions' scales."""
        found = dict.fromkeys(names, 0.0)
        for turn in range(SHAKES if names else 0):
            line = Line(self.reference, shaken(taken, self.prover.seed + turn))
            (moved,) = self._run(number, [line], [names])
            for name in names:
                found[name] = max(found[name], self._apart(name, wanted[name], self._kept(name, moved[name])).error)
        return found

    def _run(self, number: int, lines: Sequence[Line], names: Sequence[Sequence[str]]) -> list[Carried]:
        """Run one segment of several lines at once; return what it passes on and the ``names`` of each, a sample of inner values.

        What it passes on is put into the lines, and what no other segment takes is taken out. Raises ModelError.
        """
        segment, facts = self.segments[number], self.prover.facts
        types = {name: 1 if facts.dtype(name) in HALF else facts.dtype(name) for name in segment.takes}
        parts = [
            taken_out(o.model, types, _made(o.model, segment.gives, own)) for o, own in zip(lines, names, strict=True)
        ]
        found: list[Carried] = [{} for _ in lines]
        for part in _in_columns(merged_lines(parts), segment):
            for key, value in self._outputs(
                computed_in_float32(with_joined_products(part)), lines, segment.gives
            ).items():
                place, _, name = key.partition(":")
                known = found[int(place)]
                known[name] = np.concatenate([known[name], value], -1) if name in known else value
        later = segment.carried.union(facts.graph.inputs)
        for line, values in zip(lines, found, strict=True):
            line.values = {name: value for name, value in (line.values | values).items() if name in later}
        return found

    def _outputs(self, model: Model, lines: Sequence[Line], gives: Sequence[str]) -> Carried:
        """Run segments side by side and return what they give; samples of values that are not passed on."""
        feeds = {}
        for value in model.structure.graph.input:
            place, _, name = value.name.partition(":")
            feeds[value.name] = lines[int(place)].values[name]
        opened, found = session(model, threads=self.prover.threads, optimise=False, reuse=True), Carried()
        for some in in_parts(opened.outputs, self._sizes(feeds), LIVE_BYTES):
            for key, value in opened.run(feeds, some).items():
                name = key.partition(":")[2]
                inner = name in self.witnesses.values and name not in gives and isinstance(value, np.ndarray)
                found[key] = owned(self.witnesses.sample(name, value) if inner else value)
        del opened
        release_memory()
        return found

    def _sizes(self, feeds: Mapping[str, np.ndarray]) -> Callable[[str], float]:
        """Return what tells the bytes of a line's value, as far as they are known, for what the lines are fed."""
        scale = max((self._scale({k.partition(":")[2]: v}) for k, v in feeds.items()), default=1.0)
        return lambda key: self.witnesses.bytes_of(key.partition(":")[2], scale)


def _segments(facts: Facts, models: Sequence[Model]) -> list[ModelSegment]:
    """Return where to take the original and the other models apart: at values that all of them have."""
    known = [{name for node in model.structure.graph.node for name in node.output} for model in models]

    def size(name: str) -> float:
        shape = facts.shape(name) if all(name in one for one in known) else None
        return math.inf if shape is None else float(math.prod(shape))

    return model_segments(facts.graph, facts.constants, weights_read(facts.model), HELD, size)


def _in_columns(model: Model, segment: ModelSegment) -> Iterator[Model]:
    """Yield segments side by side; several times with some columns each where they end with a product with one large stored matrix."""
    (node, *others) = segment.nodes
    stored = node.input(1) if node.op == "MatMul" and not others else ""
    size = model.weights[stored].nbytes if stored in model.weights else 0
    readers = [reader for reader in model.structure.graph.node if stored in reader.input]
    alone = {reader.output[0] for reader in readers} == {value.name for value in model.structure.graph.output}
    if size <= 2 * HELD or not alone or {reader.op_type for reader in readers} != {"MatMul"}:
        yield model
        return
    columns = np.arange(model.weights[stored].shape[-1])
    for some in np.array_split(columns, -(-size // HELD)):
        axis = len(model.weights[stored].shape) - 1
        weights = model.weights.sliced({stored: {axis: (columns >= some[0]) & (columns <= some[-1])}})
        structure = model.draft()
        for header in structure.graph.initializer:
            header.dims[:] = weights[header.name].shape
        yield replace(model, structure=structure, weights=weights)


def _made(model: Model, passed: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return what is passed on, and of other names those that a model has; raises ModelError where something cannot be passed on."""
    known = {name for node in model.structure.graph.node for name in node.output}
    lost = [name for name in passed if name not in known]
    if lost:
        raise ModelError(f"{model.name}: no node makes the value {lost[0]!r}")
    return [name for name in dict.fromkeys((*passed, *names)) if name in known]


def _wide(feed: Feeds) -> Feeds:
    return {name: as_single(a) if is_half(a.dtype) else a for name, a in feed.items()}


@contextmanager
def _as_of(model: str) -> Iterator[None]:
    """Tell whose fault it is that a segment cannot be run."""
    try:
        yield
    except ModelError as error:
        raise NotRun(model, error) from error
