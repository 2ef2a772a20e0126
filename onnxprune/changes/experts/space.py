"""Whole experts of mixtures as a kind of change (``--granularity experts``)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import numpy as np

from onnxprune.allocate import Target
from onnxprune.allocate.account import model_totals
from onnxprune.allocate.target import KINDS
from onnxprune.changes.change import NOWHERE, Change, Space, Takes, Totals, selected
from onnxprune.changes.context import Context
from onnxprune.changes.experts.choose import ExpertOrder, by_budget, in_order, least_share, places_to_go
from onnxprune.changes.experts.find import Expert, Mixtures
from onnxprune.changes.experts.scores import BY_WEIGHTS, MASS, of_experts, relative, routing_mass
from onnxprune.changes.experts.surgery import masked, without_experts
from onnxprune.changes.experts.together import Lost, losses, one_after_the_other
from onnxprune.changes.proven import positions_left
from onnxprune.changes.repairing import repaired
from onnxprune.errors import TargetError
from onnxprune.evidence.ablation import MEASURES
from onnxprune.model.graph import Graph
from onnxprune.model.model import Model
from onnxprune.model.write import stored_bytes
from onnxprune.proof.check import SurgeryCheck
from onnxprune.proof.witnesses import of_cut
from onnxprune.report.entries import Report
from onnxprune.settings import AUTO

NONE = (
    "no expert of this model can go: it has no mixture of experts whose scores and numbers can be followed (docs/experts.md), or as many "
    "experts as are picked for every token; onnxprune inspect MODEL --granularity experts says which and why"
)
FEWER = "{gone} of {asked} experts go: {floor} of each layer stay, as many as are picked for a token or --min-width and --max-layer-ratio leave"


MOST_ROWS, FEWEST_ROWS = 512, 16  # that judge experts one by one, each of which takes a pass of its own over them
MOST_RUNS = 8192  # of a row, for all experts together


class Experts(Space[Expert]):
    """The experts of a model that may go, and how much each matters."""

    kind, name, noun, verb, changed = "experts", "experts", "expert", "removes", "removed"
    takes: ClassVar[Takes] = {
        "criterion": (AUTO, MASS, *MEASURES, *BY_WEIGHTS), "search": (0.0,), "search_recover": (0,), "selection": ("independent",),
        "scope": (AUTO, "layer", "global"), "threshold": ("class-blind",), "layer_ratio": ((),),
        "repair": (AUTO, "none", "least-squares", "batchnorm", "bias"),
    }  # fmt: skip

    def __init__(self, context: Context):
        super().__init__(context)
        self.mixtures: Mixtures = context.once("mixtures", self._mixtures)
        nodes = {e: [p.node for p in e.layer.pickers] + self._reading(e) for e in self.mixtures.experts}
        self.experts: tuple[Expert, ...] = tuple(selected(nodes, context, "expert that can go"))
        self.mass: list[np.ndarray] | None = None
        self.values: np.ndarray | None = None

    def _mixtures(self) -> Mixtures:
        return Mixtures(self.context.facts, partial(positions_left, self.context.earlier))

    def _reading(self, expert: Expert) -> list[Any]:
        """Return the nodes that read what is stored for an expert, by which patterns find it."""
        names = [*expert.stored, *(m.parameter for m in expert.layer.group.members)]
        return [node for name in names for node, _ in self.mixtures.facts.graph.consumers.get(name, ())]

    def parts(self) -> Sequence[Expert]:
        return self.experts

    # --- what goes --------------------------------------------------------------------------------------------------

    def scores(self) -> np.ndarray:
        """Return float64[experts]: share of the routing or size of the weights as multiples of the layer's mean, or the effect on the outputs."""
        context, layers = self.context, self.mixtures.layers
        name, data = self.criterion, context.data.calibration
        if data is not None and layers:
            mask = context.outputs.mask if context.outputs else ""
            self.mass = context.once("mass", lambda: routing_mass(self.mixtures, data, context.means.quiet, mask))
        lost = self._lost()
        if lost is not None:
            return np.asarray(context.once("alone", lambda: lost([[expert] for expert in self.experts])))
        if name == MASS and self.mass is not None:
            return of_experts(self.experts, layers, relative(self.mass))
        return of_experts(self.experts, layers, relative(BY_WEIGHTS[name](self.mixtures, context.settings.seed)))

    @property
    def criterion(self) -> str:
        """What experts are chosen by: with data what it does to the outputs where no token is sent to one, unless there are very many."""
        if self.context.settings.criterion != AUTO:
            return self.context.settings.scorer.name
        if self.context.data.calibration is None:
            return "l2"
        return "kl" if len(self.experts) * FEWEST_ROWS <= MOST_RUNS else MASS

    @property
    def evenly(self) -> bool:
        """Whether every layer loses the same share: unless effects on the outputs, which are of one unit, say which loses how many."""
        scope = self.context.settings.scope
        return scope == "layer" or (scope == AUTO and self.criterion not in MEASURES)

    def _lost(self) -> Lost | None:
        """Return what the outputs lose without sets of experts; None where these are not chosen by that."""
        context, data = self.context, self.context.data.calibration
        if self.criterion not in MEASURES or data is None:
            return None
        rows = data.take(min(MOST_ROWS, max(FEWEST_ROWS, MOST_RUNS // len(self.experts))), context.settings.seed)
        make = partial(losses, self.mixtures, self.criterion, rows, context.means.quiet, context.outputs)
        found: Lost = context.once("lost", make)
        return found

    def choose(self, aim: Target) -> Change[Expert]:
        """Take the experts that matter least, or of every layer the same share; raises TargetError."""
        if not self.open:
            raise TargetError(NONE)
        with self.context.stages("evidence"):
            self.values = self.scores()
        with self.context.stages("allocate"):
            ranked = self._ranked()
            if not any(True for _ in ranked):
                raise TargetError(NONE)
            if aim.kind == "ratio":
                taken = least_share(ranked, self.mixtures.layers, aim.value, self.evenly)
            else:
                key = KINDS[aim.kind]
                taken = by_budget(ranked, aim, lambda gone: self.totals(Change(self, tuple(gone)))[key])
            return Change(self, self._sorted(taken))

    def _ranked(self) -> Iterable[Expert]:
        """Return the experts that can go, the first to go first."""
        assert self.values is not None
        scores = self.values[[expert not in self.barred for expert in self.experts]]
        spaces, lost = places_to_go(self.mixtures.layers, self.open, self.context.settings.options), self._lost()
        if lost is None or self.evenly:
            return in_order(self.open, scores, spaces, self.evenly)
        what = "order without " + " ".join(sorted(expert.name for expert in self.barred))
        return self.context.once(what, lambda: ExpertOrder(one_after_the_other(self.open, scores, spaces, lost)))

    def _sorted(self, taken: Sequence[Expert]) -> tuple[Expert, ...]:
        return tuple(expert for expert in self.experts if expert in set(taken))

    def most(self) -> tuple[Expert, ...]:
        spaces = places_to_go(self.mixtures.layers, self.open, self.context.settings.options)
        return self._sorted(in_order(self.open, np.zeros(len(self.open)), spaces, True))

    def reached(self, change: Change[Expert], aim: Target) -> str:
        asked = int(aim.value * len(self.experts) + 0.5) if aim.kind == "ratio" else 0
        if len(change.parts) >= asked:
            return ""
        floors = sorted({max(layer.fewest, self.context.settings.min_width) for layer in self.mixtures.layers})
        return FEWER.format(gone=len(change.parts), asked=asked, floor=" or ".join(map(str, floors)))

    # --- what becomes of the model ----------------------------------------------------------------------------------

    def made(self, change: Change[Expert]) -> Model:
        return without_experts(self.mixtures, change.parts)

    def silent(self, change: Change[Expert]) -> Model:
        """The original in which no token is sent to the experts that go: their scores are minus infinity."""
        return masked(self.mixtures, change.parts)

    def checked(self, change: Change[Expert], small: Model) -> SurgeryCheck:
        """Compare outputs and inner values; numbers of experts count others in the result."""
        kept = self.mixtures.keeping(change.parts)
        seen = of_cut(self.mixtures.analysis, kept)
        made = {name for node in Graph(small.structure).top for name in node.outputs}
        values = {n: node for n, node in seen.values.items() if n in made and n not in self.mixtures.routing.numbers}
        return self.context.prover.compare(self.silent(change), small, replace(seen, values=values))

    def repaired(self, change: Change[Expert], small: Model) -> Model:
        return repaired(self.context, self.mixtures.analysis, self.mixtures.keeping(change.parts), small)

    def positions(self, change: Change[Expert], value: str) -> dict[int, np.ndarray]:
        return self.mixtures.keeping(change.parts).positions(value)

    def totals(self, change: Change[Expert] | None = None, small: Model | None = None) -> Totals:
        """Return what is left: of axes by their widths, without what only experts read that go."""
        analysis = self.mixtures.analysis
        gone = change.parts if change else ()
        follows = self.mixtures.without(gone)
        widths, unread = follows.kept.widths, self.mixtures.gone(follows)
        found = model_totals(analysis, widths, small)
        volumes = [volume for volume in analysis.parameters if volume.name in unread]
        stored = [volume for volume in volumes if volume.name in analysis.facts.graph.tensors]
        size = sum(int(volume.at(widths) * volume.itemsize) for volume in stored)
        idle = [v for v in analysis.macs if v.node is not None and unread.issuperset(filter(None, v.node.outputs))]
        found["parameters"] -= sum(volume.at(widths) for volume in volumes)
        found["macs"] -= sum(volume.at(widths) for volume in idle) // analysis.facts.batch
        found["weight_bytes"] -= size
        found["bytes"] -= size
        if small is not None:
            model = self.mixtures.facts.model
            found["bytes"] = (
                model_totals(analysis, analysis.widths)["bytes"]
                + stored_bytes(small, NOWHERE)
                - stored_bytes(model, NOWHERE)
            )
        return found

    # --- what is said of it -----------------------------------------------------------------------------------------

    def entries(self, change: Change[Expert] | None = None) -> Report:
        """Describe every expert, and the mixtures of which none can go."""
        chosen = set(change.parts) if change is not None else set()
        mass = None if self.mass is None else of_experts(self.experts, self.mixtures.layers, self.mass)
        rows: list[Report] = []
        for number, expert in enumerate(self.experts):
            rows.append(
                self.standing(expert, expert in chosen)
                | {
                    "layer": expert.layer.name,
                    "expert": expert.number,
                    "experts": expert.layer.width,
                    "parameters": self.mixtures.parameters_of(expert),
                    "routing": None if mass is None else float(mass[number]),
                    "score": None if self.values is None else float(self.values[number]),
                }
            )
        kept: list[Report] = [
            {"name": row.node.label, "status": "kept", "reason": row.reason, "layer": row.node.label, "expert": None, "experts": row.experts,
             "parameters": None, "routing": None, "score": None}
            for row in self.mixtures.kept
        ]  # fmt: skip
        return {"experts": [*rows, *kept]}
