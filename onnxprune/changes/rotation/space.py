"""Streams, and heads, in another basis as a kind of change, which saves nothing by itself: what comes after cuts directions instead of channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from onnxprune.allocate import Costs, Target
from onnxprune.changes.analysing import facts_of
from onnxprune.changes.change import Change, Space
from onnxprune.changes.context import Context
from onnxprune.changes.rotation.heads import HeadBases, head_bases, narrowing_heads
from onnxprune.coupling.heads.spaces import Heads, HeadSpace
from onnxprune.coupling.heads.turning import with_head_bases
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

PRINCIPAL, RANDOM, WEIGHTS = "principal", "random", "weights"
WHAT = {"streams": "stream", "heads": "heads"}
"""Key of a plan -> what stands under it."""
NOTHING_GOES = "none of its channels can go"


@dataclass(frozen=True, eq=False)
class Spun:
    """The model of RMS norms that is turned: its ``links``, and its ``streams`` with the reasons of those that stay."""

    links: Links
    streams: tuple[Turnable, ...]


RotationPart = Turnable | HeadSpace


class Rotation(Space[RotationPart]):
    """The residual streams between norms, and the width inside of heads."""

    kind, name, noun, verb, changed = "rotate", "streams", "stream", "rotates", "rotated"
    aims: ClassVar[tuple[str, ...]] = ()
    loses: ClassVar[bool] = False
    passes: ClassVar[Mapping[str, float] | None] = {"evidence": 2.0}
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

    @property
    def streams(self) -> list[Turnable]:
        """The streams that can be turned."""
        return [stream for stream in self.spun.streams if not stream.reason]

    @property
    def turns_streams(self) -> bool:
        """Whether any stream is turned, so that heads are turned in the model of RMS norms; else they are as the model is."""
        return any(stream not in self.barred for stream in self.streams)

    @property
    def heads(self) -> Heads:
        analysis, spun = self.context.analysis, self.turns_streams
        links = self.spun.links if spun else analysis.solution.links
        return self.context.once(f"heads {spun}", lambda: narrowing_heads(analysis, links))

    def parts(self) -> Sequence[RotationPart]:
        return [*self.streams, *(space for space in self.heads.spaces if not space.reason)]

    def choose(self, aim: Target) -> Change[RotationPart]:
        """Turn everything that can be turned; say where that is nothing."""
        if self.barred:
            self.context.notes.warn(
                f"streams and heads are cut as they are whose rotation is not exact: {', '.join(map(self.label, self.barred))}"
            )
        elif not self.open:
            every: list[RotationPart] = [*self.spun.streams, *self.heads.spaces]
            reasons = dict.fromkeys(f"{part.name}: {part.reason}" for part in every)
            told = "; ".join(list(reasons)[:3]) or "it has no norm over channels whose stream is a sum of linear layers"
            self.context.notes.warn(
                f"no residual stream and no width of heads of this model can be rotated ({told}); it is cut as it is"
            )
        return Change(self, self.open)

    def made(self, change: Change[RotationPart]) -> Model:
        model = self.context.facts.model
        streams = [part for part in change.parts if isinstance(part, Turnable)]
        heads = [part for part in change.parts if isinstance(part, HeadSpace)]
        if change.parts and self.turns_streams:
            bases = self.bases() if streams else {}
            model = turned(self.spun.links, [(part, bases[part.name]) for part in streams])
        if heads:
            inside = self.head_bases()
            model = with_head_bases(
                self.heads, model, {block: inside[block] for part in heads for block in part.blocks}
            )
        return model

    def checked(self, change: Change[RotationPart], small: Model) -> SurgeryCheck:
        """The result has to equal the original."""
        return self.context.prover.compare(self.context.facts.model, small, None)

    def bases(self) -> Mapping[str, np.ndarray]:
        """Return stream -> float64[width, width]: the directions of most energy first, with data; else random ones."""
        return self.context.once("bases", self._principal if self.basis == PRINCIPAL else self._random)

    def head_bases(self) -> HeadBases:
        heads = self.heads
        spaces = [space for space in heads.spaces if not space.reason]
        return self.context.once(f"head bases {self.turns_streams}", lambda: head_bases(heads, spaces, self.context))

    @property
    def basis(self) -> str:
        return RANDOM if self.context.data.calibration is None else PRINCIPAL

    @property
    def head_basis(self) -> str:
        return WEIGHTS if self.context.data.calibration is None else PRINCIPAL

    def _random(self) -> Mapping[str, np.ndarray]:
        seed = self.context.settings.seed
        return {stream.name: random_basis(stream.stream.size, seed) for stream in self.streams}

    def _principal(self) -> Mapping[str, np.ndarray]:
        """Take the eigenvectors of the mean second moment of what the norms give, before their gains."""
        data, context = self.context.data, self.context
        assert data.calibration is not None
        places = [(stream, place, gain) for stream in self.streams for place, gain in stream.normalised]
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

    def record(self, change: Change[RotationPart]) -> Mapping[str, Any]:
        found: dict[str, dict[str, Any]] = {"streams": {}}
        for part in change.parts:
            key, entry = self._described(part)
            found.setdefault(key, {})[part.name] = entry
        return found

    def _described(self, part: RotationPart) -> tuple[str, list[Any]]:
        """Return the key of a plan that a part stands under, and its entry: the kind of basis, and sizes."""
        if isinstance(part, Turnable):
            return "streams", [self.basis, part.stream.size]
        return "heads", [self.head_basis, part.heads, part.width]

    def read(self, record: Mapping[str, Any]) -> Change[RotationPart]:
        """Return the rotation that a plan records; raises PlanError where the model or the data is another."""
        known = {part.name: part for part in self.parts()}
        recorded = [(key, *item) for key, what in WHAT.items() for item in record.get(key, {}).items()]
        for key, name, (basis, *sizes) in recorded:
            own, (wanted, *rest) = self._described(known[name]) if name in known else ("", [basis])
            if own != key or rest != sizes:
                size = " x ".join(map(str, sizes))
                raise PlanError(
                    f"the plan rotates the {WHAT[key]} {name!r} of width {size}, which this model does not have"
                )
            if basis != wanted:
                need = (
                    "give the calibration data it was made with" if basis == PRINCIPAL else "leave calibration data out"
                )
                raise PlanError(f"the plan rotates {name!r} to a {basis} basis; {need}")
        return Change(self, tuple(known[name] for _, name, _ in recorded if known[name] not in self.barred))

    def entries(self, change: Change[RotationPart] | None = None) -> Report:
        chosen = set(map(id, change.parts)) if change is not None else set()

        def row(part: RotationPart, about: Report) -> Report:
            kept = {"status": "kept", "reason": part.reason} if part.reason else {}
            return self.standing(part, id(part) in chosen) | about | kept

        streams = [
            row(one, {"width": one.stream.size, "norms": len(one.stream.norms), "basis": self.basis})
            for one in self.spun.streams
        ]
        heads = [
            row(one, {"between": one.between, "heads": one.heads, "width": one.width, "basis": self.head_basis})
            for one in self.heads.spaces
        ]
        return {"streams": streams} | ({"heads": heads} if heads else {})
