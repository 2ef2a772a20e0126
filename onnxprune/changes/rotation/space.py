"""Streams in another basis as a kind of change, which saves nothing by itself: what comes after cuts directions instead of channels."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from onnxprune.allocate import Costs, Target
from onnxprune.changes.analysing import facts_of
from onnxprune.changes.change import Change, Refuted, Space
from onnxprune.changes.context import Context
from onnxprune.coupling.links import Links, build_links
from onnxprune.coupling.streams.centring import centred, with_root_mean_squares
from onnxprune.coupling.streams.rotation import (
    Turnable,
    principal,
    random_basis,
    turnable_streams,
    turned,
    with_shifts_behind,
)
from onnxprune.errors import PlanError
from onnxprune.evidence import Cache, gather
from onnxprune.evidence.needs import Need
from onnxprune.model.model import Model
from onnxprune.proof.check import SurgeryCheck
from onnxprune.report.entries import Report

PRINCIPAL, RANDOM = "principal", "random"
NOTHING_GOES = "none of its channels can go"


@dataclass(frozen=True, eq=False)
class Spun:
    """The model of RMS norms that is turned: its ``links``, and its ``streams`` with the reasons of those that stay."""

    links: Links
    streams: tuple[Turnable, ...]


class Rotation(Space[Turnable]):
    """The residual streams between norms."""

    kind, name, noun, verb, changed = "rotate", "streams", "stream", "rotates", "rotated"
    aims: ClassVar[tuple[str, ...]] = ()
    saves: ClassVar[bool] = False

    def __init__(self, context: Context):
        super().__init__(context)
        self.spun = context.once("streams", self._spun)

    def _spun(self) -> Spun:
        context = self.context
        analysis = centred(context.analysis, range(len(context.analysis.groups)))
        model = with_root_mean_squares(analysis.solution.links) if analysis.facts.mean_free else analysis.facts.model
        settings = context.settings
        shifted = with_shifts_behind(build_links(facts_of(model, settings), settings.allowed))
        links = build_links(facts_of(shifted, settings), settings.allowed)
        streams = tuple(turnable_streams(links))
        for stream in streams:
            if not self._can_lose(stream):
                stream.reason = stream.reason or NOTHING_GOES
        return Spun(links, streams)

    def _can_lose(self, stream: Turnable) -> bool:
        """Whether any of a stream's channels is a unit of the model."""
        analysis = self.context.analysis
        known = [place for place in stream.stream.places if place in analysis.solution.links.axes]
        return any((analysis.unit[analysis.solution.links.axis(*place)] >= 0).any() for place in known)

    def parts(self) -> Sequence[Turnable]:
        return [stream for stream in self.spun.streams if not stream.reason]

    def without(self, refuted: Refuted) -> Self:
        """Return what is left; where that is nothing, the streams are cut as they are."""
        rest = copy.copy(self)
        rest.barred = {**self.barred, **refuted.parts}
        return rest

    def choose(self, aim: Target) -> Change[Turnable]:
        """Turn every stream that can be turned; say where there is none."""
        if self.barred:
            self.context.notes.warn(
                f"streams are cut as they are whose rotation is not exact: {', '.join(map(self.label, self.barred))}"
            )
        elif not self.open:
            reasons = dict.fromkeys(f"{s.name}: {s.reason}" for s in self.spun.streams)
            told = "; ".join(list(reasons)[:3]) or "it has no norm over channels whose stream is a sum of linear layers"
            self.context.notes.warn(f"no residual stream of this model can be rotated ({told}); it is cut as it is")
        return Change(self, self.open)

    def made(self, change: Change[Turnable]) -> Model:
        if not change.parts:
            return self.context.facts.model
        bases = self.bases()
        return turned(self.spun.links, [(part, bases[part.name]) for part in change.parts])

    def checked(self, change: Change[Turnable], small: Model) -> SurgeryCheck:
        """The result has to equal the original."""
        return self.context.prover.compare(self.context.facts.model, small, None)

    def bases(self) -> Mapping[str, np.ndarray]:
        """Return stream -> float64[width, width]: the directions of most energy first, with data; else random ones."""
        return self.context.once("bases", self._principal if self.basis == PRINCIPAL else self._random)

    @property
    def basis(self) -> str:
        return RANDOM if self.context.data.calibration is None else PRINCIPAL

    def _random(self) -> Mapping[str, np.ndarray]:
        seed = self.context.settings.seed
        return {stream.name: random_basis(stream.stream.size, seed) for stream in self.parts()}

    def _principal(self) -> Mapping[str, np.ndarray]:
        """Take the eigenvectors of the mean second moment of what the norms give, before their gains."""
        data, context = self.context.data, self.context
        assert data.calibration is not None
        places = [(stream, place, gain) for stream in self.parts() for place, gain in stream.normalised]
        needs = [Need("gram", *place) for _, place, _ in places]
        cache = None if data.cache is None else Cache(data.cache)
        with context.stages("evidence"):
            seen = gather(self.spun.links.facts, data.calibration, needs, context.means.quiet, cache=cache)
        moments: dict[str, np.ndarray] = {}
        for need, (stream, _, gain) in zip(needs, places, strict=True):
            moment = seen[need].second_moment[0]
            plain = moment if gain is None else moment / np.outer(gain, gain)
            part = plain / max(float(np.trace(plain)), np.finfo(np.float64).tiny)
            moments[stream.name] = moments.get(stream.name, 0.0) + part
        context.notes.warn(*seen.warnings)
        return {name: principal(moment) for name, moment in moments.items()}

    def prunable(self) -> dict[str, float]:
        return Costs(self.context.analysis).prunable()

    def probes(self) -> Iterator[tuple[str, int, dict[int, Change[Turnable]]]]:
        """Yield nothing: a rotation loses nothing."""
        return iter(())

    def record(self, change: Change[Turnable]) -> Mapping[str, Any]:
        return {"streams": {part.name: [self.basis, part.stream.size] for part in change.parts}}

    def read(self, record: Mapping[str, Any]) -> Change[Turnable]:
        """Return the rotation that a plan records; raises PlanError where the model or the data is another."""
        known = {part.name: part for part in self.parts()}
        for name, (basis, width) in record.get("streams", {}).items():
            if name not in known or known[name].stream.size != width:
                raise PlanError(
                    f"the plan rotates the stream {name!r} of width {width}, which this model does not have"
                )
            if basis != self.basis:
                need = (
                    "give the calibration data it was made with" if basis == PRINCIPAL else "leave calibration data out"
                )
                raise PlanError(f"the plan rotates {name!r} to a {basis} basis; {need}")
        chosen = tuple(known[name] for name in record.get("streams", {}))
        return Change(self, tuple(part for part in chosen if part not in self.barred))

    def entries(self, change: Change[Turnable] | None = None) -> Report:
        chosen = set(map(id, change.parts)) if change is not None else set()
        rows = []
        for stream in self.spun.streams:
            row = self.standing(stream, id(stream) in chosen)
            width = {"width": stream.stream.size, "norms": len(stream.stream.norms), "basis": self.basis}
            rows.append(row | width | ({"status": "kept", "reason": stream.reason} if stream.reason else {}))
        return {"streams": rows}
