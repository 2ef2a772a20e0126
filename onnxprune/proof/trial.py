"""Running one result beside its reference, on the same inputs, and comparing all that both give."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import ModelProto

from onnxprune.errors import ModelError
from onnxprune.model.model import Model
from onnxprune.model.runtime import Session, release_memory
from onnxprune.proof.inputs import Feeds, random_feeds, severed_values
from onnxprune.proof.positions import WRONG, Difference, difference, step_difference
from onnxprune.proof.rounding import shaken, shaken_weights, with_inputs
from onnxprune.proof.stand_ins import compressed
from onnxprune.proof.verdict import Observations
from onnxprune.proof.witnesses import LIVE_BYTES, Witnesses, drawable, steps

if TYPE_CHECKING:
    from onnxprune.proof.prover import Prover

SHAKES = 3  # runs of the reference that tell what rounding does


class NotRun(Exception):
    """The reference or the result cannot be run, though the original can."""

    def __init__(self, model: str, error: ModelError):
        super().__init__(str(error))
        self.model = model


@contextmanager
def suppress_not_run(model: str) -> Iterator[None]:
    """Go on where it is this model that cannot be run."""
    try:
        yield
    except NotRun as error:
        if error.model != model:
            raise


class SideBySide:
    """One result and its reference, run on the same inputs; ``seen``: what was found."""

    def __init__(self, prover: Prover, reference: Model, small: Model, witnesses: Witnesses | None):
        self.prover, self.reference, self.small = prover, reference, small
        self.witnesses = witnesses or Witnesses(prover.facts, {}, ())
        self.seen = Observations(prover.stand_ins, self.witnesses, witnesses is None)
        self._declared = False  # whether the result has run at the sizes that it declares

    # --- running ----------------------------------------------------------------------------------------------------

    def run(self, runs: Sequence[tuple[Feeds, dict[str, Any]]]) -> None:
        """Run both models on inputs that the original takes, and compare what they give."""
        if not runs:
            return
        feeds = [self._given(*run) for run in runs]
        wanted = self._compare_on(feeds)
        for (_, before), values in zip(runs, wanted, strict=True):
            for name in set(before) & set(self._counting(values)):
                self.seen.note_movement(name, before[name], values[name])

    def sever(self, kind: str) -> None:
        """Draw what the nodes read of which nothing was seen, so that they are seen whatever stands before them."""
        facts, prover = self.prover.facts, self.prover
        reads = dict.fromkeys(name for node in self.seen.unseen() for name in node.inputs)
        names = [n for n in reads if drawable(facts, n) or (n in self._deciding and facts.array(n) is None)]
        names = names[: _within(LIVE_BYTES, [facts.shape(name) or () for name in names])]
        base = next(iter(prover.original(prover.kinds)), None)
        if names and base is not None:
            drawn = severed_values(facts, names, prover.seed, kind)
            with suppress_not_run("reference"):  # what was drawn may be a size: then nothing is learnt
                self._compare_on([self._given(*base)], drawn)

    def _compare_on(
        self, feeds: Sequence[Feeds], severed: Mapping[str, np.ndarray] | None = None
    ) -> list[dict[str, Any]]:
        """Compare all that both models give; ``severed``: what nodes read instead of values. Return what the reference gives."""
        stand_ins, masks, severed = self.prover.stand_ins, self.witnesses.masks, severed or {}
        names = [n for n in self.witnesses.values if not self._is_output(n)]
        names += [*self._owned, *self._deciding]
        reference = stand_ins.severed(self._given_out(self.reference, names), severed)
        small = stand_ins.severed(
            self._given_out(self.small, names),
            {name: compressed(value, masks(name)) for name, value in severed.items()},
        )
        wanted = list(self._values("reference", reference, feeds))
        given = [{name: compressed(value, masks(name)) for name, value in feed.items()} for feed in feeds]
        apart = [
            {name: self._apart(name, a[name], b[name]) for name in self._counting(a)}
            for a, b in zip(wanted, self._values("result", small, given), strict=True)
        ]
        for number, found in enumerate(apart):
            if any(self._doubtful(found)):
                apart[number] = found | self._in_step(reference, small, feeds[number], wanted[number])
        noise = self._noises(reference, feeds, wanted, [self._doubtful(found) for found in apart])
        fed = {name for name, node in self.witnesses.values.items() if not severed.keys().isdisjoint(node.inputs)}
        for number, found in enumerate(apart):
            for name, one in found.items():
                one = replace(one, seen=one.finite) if name in fed else one  # given anything, it gives zero
                self.seen.judge(name, one, noise[number].get(name, 0.0))
            self.seen.note_branches({**feeds[number], **wanted[number], **severed})
        return wanted

    def _doubtful(self, found: Mapping[str, Difference]) -> list[str]:
        return [name for name, one in found.items() if one.error > self.seen.base]

    def _in_step(self, reference: Model, small: Model, feed: Feeds, wanted: Mapping[str, Any]) -> dict[str, Difference]:
        """Compare once more with the reference's own results of quantisers and the like in both models; {} where there are none.

        What lies near a step falls on either side by rounding alone, and moves all that follows; each part between two steps
        is then compared on equal operands, the steps themselves too, of which few may fall otherwise.
        """
        stand_ins, masks, names = self.prover.stand_ins, self.witnesses.masks, steps(self.prover.facts)
        if not names or self.seen.shapes:
            return {}
        opened = self.prover.open(reference.derived(with_outputs(reference.structure, names)))
        taken = opened.run(feed, [name for name in names if name in opened.outputs])
        del opened
        replayed = stand_ins.severed(small, {name: compressed(value, masks(name)) for name, value in taken.items()})
        given = {name: compressed(value, masks(name)) for name, value in feed.items()}
        replayed = replayed.derived(with_outputs(replayed.structure, names))
        have = next(self._values("result", replayed, [given]))
        others = [name for name in taken if name in have and name not in self.witnesses.values]
        if any(step_difference(taken[name], have[name]).error for name in others):
            return {}  # more than rounding: the result goes other ways
        return {name: self._apart(name, wanted[name], have[name]) for name in self._counting(wanted)}

    @property
    def _deciding(self) -> list[str]:
        """Values that decide what is run of nodes with bodies."""
        return [name for names in self.witnesses.conditions.values() for name in names]

    @property
    def _owned(self) -> list[str]:
        """Outputs of nodes inside whose bodies something was cut."""
        return [name for node in self.witnesses.hidden for name in node.outputs if name]

    def _given(self, feed: Feeds, before: Mapping[str, Any]) -> Feeds:
        return {**feed, **{name: before[name] for name in self.prover.stand_ins.recorded}}

    def _given_out(self, model: Model, names: Sequence[str]) -> Model:
        """Return a model that takes all stand-ins as inputs, with further outputs."""
        return model.derived(self.prover.stand_ins.given(with_outputs(model.structure, names)))

    def _values(self, which: str, model: Model, feeds: Sequence[Feeds]) -> Iterator[dict[str, Any]]:
        """Yield outputs whole and witnesses in part, for each feed; ``which``: whose fault it is where it cannot be run."""
        inner = {name for name in self.witnesses.values if not self._is_output(name)}
        try:
            opened = self.prover.open(model)
            plain, given_out = [name for name in opened.outputs if name not in inner], set(opened.outputs)
            for feed in feeds:
                values: dict[str, Any] = {}
                for number, part in enumerate([*self.witnesses.parts(self._scale(feed))] or [[]]):
                    names = [name for name in part if name in inner and name in given_out]
                    if names := [*(plain if number == 0 else ()), *names]:
                        given = opened.run(feed, names)
                        values |= {n: self.witnesses.sample(n, v) if n in inner else v for n, v in given.items()}
                        del given
                yield values
            if which == "result":
                self._run_as_declared(opened, plain)
        except ModelError as error:
            raise NotRun(which, error) from error
        del opened
        release_memory()

    def _run_as_declared(self, opened: Session, outputs: Sequence[str]) -> None:
        """Run the result once on inputs as large as it declares, where smaller ones stand in for them; raises ModelError."""
        facts = self.prover.facts
        if not self.prover.smaller or self._declared:
            return
        self._declared = True
        given = opened.run(random_feeds(facts, self.prover.seed, facts.told, integers=self.prover.integers), outputs)
        for name, value in given.items():
            shape = facts.shape(name)
            if not self._is_output(name) or not isinstance(value, np.ndarray) or shape is None:
                continue
            fixed = [
                axis for axis in range(min(value.ndim, len(shape))) if facts.static(name, axis)
            ]  # samples may be anywhere
            if value.ndim != len(shape) or any(value.shape[axis] != shape[axis] for axis in fixed):
                self.seen.shapes[name] = f"has shape {list(value.shape)} instead of {list(shape)}"
                self.seen.judge(name, WRONG, 0.0)

    def _is_output(self, name: str) -> bool:
        return name in self.prover.facts.graph.outputs

    def _scale(self, feed: Feeds) -> float:
        """How many times larger an input is than that of the analysis; one that had no numbers there, such as an empty cache, says nothing."""
        whole = {name: math.prod(shape) for name, shape in self.prover.facts.sizes.items() if name in feed}
        return max((feed[name].size / size for name, size in whole.items() if size), default=1.0)

    def _noises(
        self,
        reference: Model,
        feeds: Sequence[Feeds],
        wanted: Sequence[Mapping[str, Any]],
        doubtful: Sequence[Sequence[str]],
    ) -> list[dict[str, float]]:
        """Return for each feed how far rounding alone moves its doubtful values, as a share of their positions' scales."""
        noises: list[dict[str, float]] = [dict.fromkeys(names, 0.0) for names in doubtful]
        asked = [(i, self.prover.seed + turn) for i, names in enumerate(doubtful) if names for turn in range(SHAKES)]
        for weights in (shaken_weights(self.prover.facts, reference), {}) if asked else ():
            opened = with_inputs(reference, weights)
            turns = [{**shaken(feeds[i], seed), **shaken(weights, seed)} for i, seed in asked]
            with suppress_not_run("reference"):  # the runtime may want some weights stored: then inputs alone are moved
                for (i, _), moved in zip(asked, self._values("reference", opened, turns), strict=True):
                    for name, most in noises[i].items():
                        apart = self._apart(name, wanted[i][name], self._kept(name, moved[name]))
                        noises[i][name] = max(most, apart.error)
                break
        return noises

    # --- comparing --------------------------------------------------------------------------------------------------

    def _counting(self, values: Mapping[str, Any]) -> list[str]:
        """Names of what is compared, of all that a run gives."""
        return [name for name in values if name not in self.prover.stand_ins.unknown]

    def _apart(self, name: str, want: Any, have: Any) -> Difference:
        try:
            want = self._kept(name, want)
        except ValueError:  # at these sizes nobody can say which positions stay
            return Difference()
        if isinstance(want, np.ndarray) and want.shape != np.shape(have):
            self.seen.shapes[name] = f"has shape {list(np.shape(have))} instead of {list(want.shape)}"
        return difference(want, have)

    def _kept(self, name: str, value: Any) -> Any:
        return compressed(value, self.witnesses.masks(name)) if isinstance(value, np.ndarray) else value


def _within(limit: int, shapes: Sequence[tuple[int, ...]]) -> int:
    """Return how many of the tensors hold no more than ``limit`` bytes together."""
    return int(np.searchsorted(np.cumsum([4 * math.prod(shape) for shape in shapes]), limit, "right"))


def with_outputs(proto: ModelProto, names: Sequence[str]) -> ModelProto:
    """Return the model with further outputs, as far as its outer graph computes them."""
    known = {value.name for value in proto.graph.output}
    fresh = [name for name in dict.fromkeys(names) if name not in known]
    if not fresh:
        return proto
    computed = {name for node in proto.graph.node for name in node.output}
    result = ModelProto()
    result.CopyFrom(proto)
    result.graph.output.extend(onnx.ValueInfoProto(name=name) for name in fresh if name in computed)
    return result
