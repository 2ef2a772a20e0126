"""One pass of the data through the model that gathers every statistic asked for, in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np

from onnxprune.data import DEFAULT_BATCH, Dataset
from onnxprune.data.observe import Batch, InputsOf, Pass, fold, observe
from onnxprune.errors import UsageError
from onnxprune.evidence.needs import Need, merged
from onnxprune.evidence.probe import Probe, build_probe, reduced_moments
from onnxprune.evidence.rows import FORMS, POSITIONS, Sampler, usable
from onnxprune.evidence.stats import STATISTICS, Statistic
from onnxprune.evidence.store import Cache, Evidence
from onnxprune.evidence.unusable import refusal
from onnxprune.means import Means
from onnxprune.model.facts import Facts
from onnxprune.model.read import Identity
from onnxprune.model.runtime import Session, runtime_version, session
from onnxprune.model.segmented import runs_in_segments

BUDGET = 128 << 20  # bytes of observed values held at a time
SYNTHETIC = "the calibration inputs are random: what was gathered says little about real data; give --calib"


def gather(
    facts: Facts,
    dataset: Dataset,
    needs: Sequence[Need],
    means: Means = Means(),
    *,
    positions: int = POSITIONS,
    cache: Cache | None = None,
) -> Evidence:
    """Return the statistics asked for; ``cache`` spares what is already known.

    ``positions``: so many of each sample, drawn by its number, make up second moments.
    Raises DataError for NaN or infinite activations, UsageError for values or masks that do not exist.
    """
    wanted = merged([needs])
    if means.mask is not None and means.mask not in facts.graph.inputs:
        raise UsageError(f"the mask {means.mask!r} is no input of the model; inputs: {', '.join(facts.graph.inputs)}")
    model = facts.model.identity
    origin = None if cache is None else _origin(model, dataset, means, positions)
    known = {} if cache is None or origin is None else cache.find(origin, wanted)
    missing = [need for need in wanted if need not in known]

    def keep(fresh: Evidence) -> None:
        if cache is not None and origin is not None:
            cache.keep(origin, fresh)
        known.update(dict.fromkeys(fresh.statistics, fresh))

    if missing and runs_in_segments(facts.model) and means.spread is None:
        _by_segments(ValueObserver.of(model, facts, dataset, wanted, means, positions), dataset, missing, keep)
    elif missing:
        keep(_stream(model, facts, dataset, missing, means, positions))
    first = next(iter(known.values()), _nothing(model, dataset, ()))
    found = {need: known[need][need] for need in wanted}
    return Evidence(first.model, first.samples, first.synthetic, found, first.warnings)


def _origin(model: Identity, dataset: Dataset, means: Means, positions: int) -> dict[str, Any]:
    """Everything but the need that decides a statistic; ``model``: the identity of what is run, which may not be the file's."""
    choice = {"positions": positions, "seed": means.seed, "mask": means.mask, "batch": means.batch}
    data = {"data": dataset.digest(), "synthetic": dataset.synthetic}
    return {"model": model, "runtime": runtime_version(), **data, **choice}


def _stream(
    model: Identity, facts: Facts, dataset: Dataset, needs: Sequence[Need], means: Means, positions: int
) -> Evidence:
    if not needs:
        return _nothing(model, dataset, needs)
    stream = ValueObserver.of(model, facts, dataset, needs, means, positions)
    return observe(stream.look, dataset, [stream], stream.means)[0].evidence


def _by_segments(
    stream: ValueObserver, dataset: Dataset, missing: Sequence[Need], keep: Callable[[Evidence], None]
) -> None:
    """Show all of the data to one segment of the model after the other, and keep what every segment shows of what is missing.

    All that the ``stream`` asks for is made, missing or not: which values are given out decides how products are rounded.
    """
    whole = Pass(stream.look, dataset, (stream,), stream.means)
    names = {need: stream.probe.reduced.get(need, tuple(need.values)) for need in stream.evidence.statistics}
    done = 0
    batches = partial(whole.batches, dataset)
    for due, shown in stream.session.stages(InputsOf(batches), list(dict.fromkeys(names.values()))):
        own = [need for need in missing if names[need] in due]
        if not own:
            continue  # what is left of a segment is run all the same
        seen = ((batch.samples, (batch, found)) for batch, found in zip(batches(), shown, strict=True))
        keep(fold(seen, [stream.alone(own)], whole.leaf).whole(whole.count).all[0].evidence)
        done += len(own)
        stream.means.progress(f"observing: {done:,} of {len(missing):,} statistics", done, len(missing))


def _nothing(model: Identity, dataset: Dataset, needs: Sequence[Need]) -> Evidence:
    statistics = {need: STATISTICS[need.kind]() for need in needs}
    return Evidence(model, 0, dataset.synthetic, statistics, (SYNTHETIC,) if dataset.synthetic else ())


@dataclass
class ValueObserver:
    """Looks at what the ``probe`` hands out, and gathers it."""

    seen: ClassVar[tuple[str, ...]] = ("evidence",)
    facts: Facts
    probe: Probe
    session: Session
    means: Means
    positions: int
    evidence: Evidence

    @classmethod
    def of(
        cls, model: Identity, facts: Facts, dataset: Dataset, needs: Sequence[Need], means: Means, positions: int
    ) -> ValueObserver:
        """Open the probe for the needs; without a batch size the means get the one that fits."""
        probe = build_probe(facts, needs, means.mask is not None)
        opened = session(facts.model.derived(probe.proto), threads=means.threads)
        sized = replace(means, batch=means.batch or _batch(opened, probe, dataset))
        return cls(facts, probe, opened, sized, positions, _nothing(model, dataset, needs))

    def alone(self, needs: Sequence[Need]) -> ValueObserver:
        """Return one that looks at some of the needs."""
        evidence = self.evidence.fresh()
        return replace(self, evidence=replace(evidence, statistics={n: evidence.statistics[n] for n in needs}))

    def look(self, batch: Batch) -> tuple[Batch, dict[str, np.ndarray]]:
        return batch, self.session.run(batch.inputs, self.probe.outputs)

    def fresh(self) -> ValueObserver:
        return replace(self, evidence=self.evidence.fresh())

    def merge(self, other: ValueObserver) -> None:
        self.evidence.merge(other.evidence)

    def update(self, seen: tuple[Batch, dict[str, np.ndarray]]) -> None:
        batch, found = seen
        mask = None if self.means.mask is None else _mask(batch.inputs[self.means.mask], self.means.mask)
        sampler = Sampler(batch.samples, self.positions, self.means.seed, batch.first, mask)
        for need, statistic in self.evidence.statistics.items():
            doubtful = _update(statistic, need, self.probe, {**batch.inputs, **found}, sampler)
            if doubtful is not None:
                raise refusal(self.facts, batch.inputs, batch.inputs.rows, doubtful, means=self.means)
        self.evidence.samples += batch.samples


def _batch(opened: Session, probe: Probe, dataset: Dataset) -> int:
    """Return how many samples at a time keep the observed values within the budget, from a first look at one."""
    found = opened.run(next(iter(dataset.batches(1))), probe.outputs)
    size = sum(np.asarray(value).nbytes for value in found.values())
    return int(np.clip(BUDGET // max(size, 1), 1, DEFAULT_BATCH))


def _update(
    statistic: Statistic, need: Need, probe: Probe, values: Mapping[str, np.ndarray], sampler: Sampler
) -> Need | None:
    """Add a batch; return the need instead where a value is NaN or infinite, the other one's of a pair where that is."""
    if need in probe.reduced:
        batch = reduced_moments(*(values[name] for name in probe.reduced[need]))
        if not (usable(batch.mean) and usable(batch.squares)):
            return need
        statistic.merge(batch)
        return None
    pair = tuple(_numbers(values[name]) for name in need.values)
    rows = FORMS[statistic.form](pair if need.other else pair[0], need, sampler)
    parts = rows if need.other else (rows,)
    if not all(map(usable, parts)):
        return need if usable(parts[-1]) or not need.other else Need(need.kind, need.other, need.other_axis)
    statistic.update(rows)
    return None


def _numbers(value: Any) -> np.ndarray:
    array = np.asarray(value)
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


def _mask(array: np.ndarray, name: str) -> np.ndarray:
    if array.ndim != 2:
        raise UsageError(f"the mask {name!r} has shape {list(array.shape)}; it must be [samples, steps]")
    return array != 0
