"""Weights that become zero as a kind of change (``--sparsity``): the network and all its shapes stay what they are."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from onnxprune.allocate import Target
from onnxprune.allocate.account import model_totals
from onnxprune.changes.analysing import grouped, plain_facts
from onnxprune.changes.change import NOWHERE, Change, Space, Takes, Totals, selected
from onnxprune.changes.context import Context
from onnxprune.changes.zeros.contents import differs_beside_zeros
from onnxprune.changes.zeros.earlier import TRAVEL_SCORES, likeness
from onnxprune.changes.zeros.fitting import ZeroFit
from onnxprune.changes.zeros.gradients import GRADIENT_SCORES
from onnxprune.changes.zeros.layers import WeightLayer, weight_layers
from onnxprune.changes.zeros.learned import LEARNED_SCORES, OF_TRAINING
from onnxprune.changes.zeros.masks import read_masks, taking_zero
from onnxprune.changes.zeros.patterns import Pattern, parse_pattern
from onnxprune.changes.zeros.scores import SCORES
from onnxprune.changes.zeros.signs import signed_constants
from onnxprune.changes.zeros.spreads import SPREADS
from onnxprune.changes.zeros.weighing import WeightScores, contents
from onnxprune.choices import REWOUND_SIGNS
from onnxprune.coupling.groups import Analysis
from onnxprune.errors import PlanError, TargetError
from onnxprune.model.model import Model
from onnxprune.model.write import stored_bytes
from onnxprune.proof.check import SurgeryCheck
from onnxprune.proof.prover import NothingRunError
from onnxprune.repair.support import Support
from onnxprune.report.entries import Report
from onnxprune.settings import AUTO, BY_ERROR

GIVEN = "given"
EXCLUDED = "left alone by --include or --exclude"
UNRUN = (
    "the model takes no drawn input and there is no other: that zeros are all that differs was seen by comparing nodes and "
    "stored tensors one by one, not by running both models"
)
NAMED = 3  # layers in a warning


@dataclass(frozen=True)
class Emptied(Change[WeightLayer]):
    """Layers of which the weights outside of ``masks`` (bool[groups, o, d] by name) are zero.

    ``fitted``: the model with the weights that are left refitted (None: they are as they were).
    """

    masks: Mapping[str, np.ndarray] = field(default_factory=dict)
    fitted: Model | None = None


class Zeros(Space[WeightLayer]):
    """The layers that multiply by stored weights."""

    kind, name, noun, verb, changed = "zeros", "zeros", "layer", "empties", "pruned"
    takes: ClassVar[Takes] = {
        "criterion": (AUTO, *SCORES, *GRADIENT_SCORES, *TRAVEL_SCORES, *LEARNED_SCORES), "repair": (AUTO, "none", "least-squares"),
        "scope": (AUTO, "layer", "global", BY_ERROR, *SPREADS),
        "max_divergence": (None,), "schedule": ("one-shot",), "search": (0.0,), "search_recover": (0,),
        "selection": ("independent",), "layer_ratio": ((),), "max_layer_ratio": (1.0,),
    }  # fmt: skip
    aims: ClassVar[tuple[str, ...]] = ()
    saves: ClassVar[bool] = False
    passes: ClassVar[Mapping[str, float] | None] = {"repair": 5.0}
    recovers: ClassVar[bool] = True

    def __init__(self, context: Context):
        super().__init__(context)
        self.analysis: Analysis = context.once("plain", self._plain)
        layers, kept = weight_layers(self.analysis, context.settings.embeddings)
        chosen = selected({layer: (layer.node,) for layer in layers}, context, "layer with weights of its own")
        self.kept = [(node.label, reason) for node, reason in kept]
        self.kept += [(layer.name, EXCLUDED) for layer in layers if layer not in chosen]
        self.layers = chosen

    def _plain(self) -> Analysis:
        """Return the analysis of the model without what was added to analyse it."""
        facts = plain_facts(self.context)
        return self.context.analysis if facts is self.context.analysis.facts else grouped(facts, self.context.settings)

    def parts(self) -> Sequence[WeightLayer]:
        return self.layers

    @property
    def pattern(self) -> Pattern:
        return parse_pattern(self.context.settings.pattern)

    def choose(self, aim: Target) -> Emptied:
        """Decide which weights of every layer go; raises TargetError where no layer has any to lose."""
        settings = self.context.settings
        if settings.pattern.endswith(".npz"):
            return self._given(read_masks(Path(settings.pattern), self.open, self._array))
        pattern = self._aimed(aim)
        able = [layer for layer in self.open if not pattern.misfit(layer.shape, layer.inputs)]
        if not able:
            raise TargetError(
                f"no layer of this model can have zeros in the pattern {pattern}; ask for another (--sparsity 0.5), or relax "
                "--include and --exclude"
            )
        shares = self.weighed.shares(able, pattern)
        found = self._emptied(able, dict.fromkeys((layer.name for layer in able), pattern), shares)
        if self.context.rewind is not None:
            earlier, now = contents(self.weighed.earlier), contents(self.analysis.facts.model)
            self.context.notes.entries["overlap"] = likeness(able, found.masks, pattern, shares, (earlier, now))
        return found

    def _aimed(self, aim: Target) -> Pattern:
        """Return the pattern, with as many zeros as leave the parameters that ``aim`` counts; raises TargetError."""
        if aim.kind != "params" or self.context.settings.narrows:
            return self.pattern
        whole = self.totals()["parameters"]
        zeros, most = whole - aim.budget(whole), sum(layer.size for layer in self.open)
        if not 0 < zeros < most:
            raise TargetError(
                f"--target {aim} is out of reach: {most:,} of {whole:,} parameters are weights that can become zero; ask for less"
            )
        return Pattern(zeros / most)

    @property
    def weighed(self) -> WeightScores:
        return WeightScores(self.layers, self.analysis, self.context)

    def _array(self, layer: WeightLayer) -> np.ndarray:
        return self.analysis.facts.content(layer.name)

    def _emptied(
        self, layers: Sequence[WeightLayer], patterns: Mapping[str, Pattern], shares: Mapping[str, float]
    ) -> Emptied:
        """Decide by data where there is any, else by the weights."""
        weighed, settings = self.weighed, self.context.settings
        decided = weighed.decide
        alone = {one.name: patterns[one.name].kept(weighed.of(one), shares[one.name]) for one in layers}
        refits = settings.repair != "none" and self.context.rewind is None
        if self.context.data.calibration is None or not (refits or not decided):
            return Emptied(self, tuple(layers), alone)
        score = None if weighed.by_data is None else weighed.by_data.of

        def support(layer: WeightLayer) -> Support:
            pattern, share = patterns[layer.name], shares[layer.name]
            return Support(lambda scores: pattern.kept(scores, share), alone[layer.name] if decided else None, score)

        return self._fitted(layers, {one.name: support(one) for one in layers if not one.by_size}, alone)

    def _given(self, masks: Mapping[str, np.ndarray]) -> Emptied:
        layers = [layer for layer in self.open if layer.name in masks]
        if self.context.data.calibration is None or self.context.settings.repair == "none":
            return Emptied(self, tuple(layers), masks)
        supports = {one.name: Support(lambda scores: scores > 0, masks[one.name]) for one in layers if not one.by_size}
        return self._fitted(layers, supports, masks)

    def _fitted(
        self, layers: Sequence[WeightLayer], supports: Mapping[str, Support], alone: Mapping[str, np.ndarray]
    ) -> Emptied:
        """Walk through the network: each layer chooses its weights, or has them chosen, and they are refitted to the original's outputs."""
        calibration = self.context.data.calibration
        assert calibration is not None
        fit = ZeroFit(self.analysis, calibration, self.context)
        start = self._masked({one.name: alone[one.name] for one in layers if one.name not in supports or one.shared})
        fitted = fit.walked(fit.together(start, layers, supports), supports)
        self.context.notes.warn(self._by_size())
        content = contents(fitted)
        masks = {one.name: self._mask_of(one, content(one.name), alone[one.name]) for one in layers}
        if self.context.rewind is not None:
            return Emptied(self, tuple(layers), masks)
        fitted = self._masked(masks, fitted)
        return Emptied(self, tuple(layers), masks, fitted if fit.better(fitted, self._masked(masks)) else None)

    def _by_size(self) -> str:
        """Say which layers are not refitted ("": all are)."""
        others = [layer.name for layer in self.open if layer.by_size]
        by_size = f"the largest weights stay, and are not refitted, of {', '.join(others[:NAMED])}" if others else ""
        return by_size + (f" and {len(others) - NAMED} more layers" if len(others) > NAMED else "")

    def _mask_of(self, layer: WeightLayer, fitted: np.ndarray, alone: np.ndarray) -> np.ndarray:
        """Return what stays of a layer: as it was fitted, or by the weights alone where no row told anything of it."""
        left = layer.matrix(fitted) != 0
        return left if left.sum() <= alone.sum() else alone

    # --- the change -------------------------------------------------------------------------------------------------

    def _masked(self, masks: Mapping[str, np.ndarray], model: Model | None = None) -> Model:
        """Return the model, or another of the same network, in which the weights outside of the masks are zero."""
        model, known = model or self.analysis.facts.model, {layer.name: layer for layer in self.layers}
        content = contents(model)
        arrays = {name: known[name].emptied(mask, content(name)) for name, mask in masks.items()}
        return model.replaced(arrays)

    def made(self, change: Change[WeightLayer]) -> Model:
        assert isinstance(change, Emptied)
        return self._masked({layer.name: change.masks[layer.name] for layer in change.parts})

    def silent(self, change: Change[WeightLayer]) -> Model:
        """The original, which leaves out what its weights hold at the places that become zero."""
        assert isinstance(change, Emptied)
        left = {layer.name: layer.left(change.masks[layer.name], self._array(layer)) for layer in change.parts}
        return taking_zero(self.analysis.facts.model, left)

    def checked(self, change: Change[WeightLayer], small: Model) -> SurgeryCheck:
        """Run both; where no drawn input is taken by the model, compare what both hold."""
        try:
            return self.context.prover.compare(self.silent(change), small, None)
        except NothingRunError:
            assert isinstance(change, Emptied)
            self.context.notes.warn(UNRUN)
            masks = [(layer.block, change.masks[layer.name]) for layer in change.parts]
            problem = differs_beside_zeros(self.analysis.facts.model, small, masks)
            return SurgeryCheck(not problem, 0.0, 0.0, 0.0, problem=problem)

    def repaired(self, change: Change[WeightLayer], small: Model) -> Model:
        """Return the model with the weights that were fitted; of a change that lost parts, those of the others."""
        assert isinstance(change, Emptied)
        if self.context.rewind is not None:
            earlier = self.weighed.earlier
            if self.context.settings.rewind_as == REWOUND_SIGNS:
                earlier = signed_constants(earlier, self.layers)
            return self._masked({layer.name: change.masks[layer.name] for layer in change.parts}, earlier)
        if change.fitted is None:
            return small
        if len(change.parts) == len(change.masks):
            return change.fitted
        again = self._given({layer.name: change.masks[layer.name] for layer in change.parts})
        return again.fitted or small

    def masks(self, change: Change[WeightLayer]) -> Mapping[str, np.ndarray]:
        """Return stored tensor -> bool of its shape: what may differ from zero, which a recovery keeps to."""
        assert isinstance(change, Emptied)
        return {layer.name: layer.left(change.masks[layer.name], self._array(layer)) for layer in change.parts}

    # --- what is said of it -----------------------------------------------------------------------------------------

    def totals(self, change: Change[WeightLayer] | None = None, small: Model | None = None) -> Totals:
        """Return what all weights cost, zero or not: as runtimes count them."""
        found = model_totals(self.analysis, self.analysis.widths, self.analysis.facts.model)
        if small is not None:
            found["bytes"] += stored_bytes(small, NOWHERE) - stored_bytes(self.analysis.facts.model, NOWHERE)
        return found

    def prunable(self) -> dict[str, float]:
        """Return the share of the parameters that may become zero; no MACs go."""
        whole = self.totals()["parameters"]
        return {"parameters": sum(layer.size for layer in self.open) / max(whole, 1), "macs": 0.0}

    def probes(self) -> Iterator[tuple[str, int, dict[int, Change[WeightLayer]]]]:
        """Yield every layer with some shares of its weights left, the largest."""
        for layer in self.open:
            scores = SCORES["l1"].of(layer.matrix(self._array(layer)), None)
            lefts = {round(layer.size * share): share for share in (0.5, 0.3, 0.1)}
            yield (
                layer.name,
                layer.size,
                {
                    left: Emptied(self, (layer,), {layer.name: Pattern(1 - share).kept(scores)})
                    for left, share in lefts.items()
                },
            )

    def record(self, change: Change[WeightLayer]) -> Mapping[str, Any]:
        assert isinstance(change, Emptied)
        zeros = {one.name: [str(self._told), int((~change.masks[one.name]).sum())] for one in change.parts}
        by = "weights" if self.context.data.calibration is None else "data"
        earlier = {} if self.context.rewind is None else {"rewind": ["earlier"]}
        settings = self.context.settings.to_json()
        trained = {"training": {name: settings[name] for name in OF_TRAINING}} if self.weighed.trained else {}
        return {"zeros": zeros, "by": [by], "criterion": [self.context.settings.criterion]} | earlier | trained

    @property
    def _told(self) -> str:
        return GIVEN if self.context.settings.pattern.endswith(".npz") else str(self.pattern)

    def read(self, record: Mapping[str, Any]) -> Emptied:
        """Return what a plan records, decided anew on the same data; raises PlanError where the model or the data is another."""
        known, told = {layer.name: layer for layer in self.layers}, record.get("zeros", {})
        by = "weights" if self.context.data.calibration is None else "data"
        if record.get("by") != [by]:
            need = "leave calibration data out" if by == "data" else "give the calibration data it was made with"
            raise PlanError(f"the plan takes weights out by {', '.join(map(str, record.get('by', ())))}; {need}")
        if record.get("rewind") and self.context.rewind is None:
            raise PlanError("the plan's zeros have earlier weights, which it does not hold; prune with --rewind again")
        for name, (_, zeros) in told.items():
            if name not in known or not 0 <= zeros <= known[name].size:
                raise PlanError(f"the plan makes {zeros} weights of {name!r} zero, which this model does not have")
        layers = [layer for layer in self.open if layer.name in told]
        if any(pattern == GIVEN for pattern, _ in told.values()):
            raise PlanError(
                "the plan's zeros came from a file of masks, which it does not hold; prune with --sparsity FILE.npz again"
            )
        patterns = {layer.name: parse_pattern(told[layer.name][0]) for layer in layers}
        shares = {layer.name: told[layer.name][1] / layer.size for layer in layers}
        again = copy.copy(self)
        settings, criterion = self.context.settings, str(next(iter(record.get("criterion", ())), AUTO))
        repair = settings.repair if settings.repair in self.takes["repair"] else AUTO
        trained = dict(record.get("training", {}))
        settings = replace(settings, criterion=criterion, repair=repair, structured=False, **trained)
        again.context = replace(self.context, settings=settings)
        return again._emptied(layers, patterns, shares)

    def entries(self, change: Change[WeightLayer] | None = None) -> Report:
        """Describe every layer: its pattern, how many weights it has, and how many are zero afterwards."""
        chosen = {layer.name: layer for layer in change.parts} if change else {}
        rows = []
        for layer in self.layers:
            row = self.standing(layer, layer.name in chosen)
            zeros = (
                int((~change.masks[layer.name]).sum()) if isinstance(change, Emptied) and layer.name in chosen else 0
            )
            if layer.name not in chosen and change is not None and not row["reason"]:
                row["reason"] = self._misfit(layer)
            by_size = layer.by_size if zeros and self.context.data.calibration is not None else ""
            row |= {"node": layer.node.label, "op": layer.node.op, "weights": layer.size, "zeros": zeros}
            rows.append(row | {"by_size": by_size or None})
        nothing = {"op": "", "weights": 0, "zeros": 0, "by_size": None}
        kept = [{"name": n, "status": "kept", "reason": reason, "node": n} | nothing for n, reason in self.kept]
        return {"zeros": [*rows, *kept]}

    def _misfit(self, layer: WeightLayer) -> str | None:
        given = self.context.settings.pattern.endswith(".npz")
        return "the masks say nothing of it" if given else self.pattern.misfit(layer.shape, layer.inputs) or None
