"""Weights that become zero as a kind of change (``--sparsity``): the network and all its shapes stay what they are."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from onnxprune.changes.zeros.earlier import TRAVEL_SCORES, earlier_model
from onnxprune.changes.zeros.gradients import GRADIENT_SCORES, gradient_scores
from onnxprune.changes.zeros.layers import WeightLayer, weight_layers
from onnxprune.changes.zeros.masks import read_masks, taking_zero
from onnxprune.changes.zeros.patterns import Pattern, parse_pattern
from onnxprune.changes.zeros.scores import SCORES
from onnxprune.changes.zeros.sensitivity import shares_by_error
from onnxprune.changes.zeros.spreads import SPREADS, shares_by_size, shares_of_layers
from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.kept import Kept
from onnxprune.data import Dataset
from onnxprune.data.repeated import Batches, held_out, in_batches
from onnxprune.errors import DataError, PlanError, TargetError
from onnxprune.measure.divergence import Reference
from onnxprune.model.graph import Graph
from onnxprune.model.model import Model
from onnxprune.model.write import stored_bytes
from onnxprune.proof.check import SurgeryCheck
from onnxprune.proof.prover import NothingRunError
from onnxprune.repair import Effort, Sequential
from onnxprune.repair.support import Support
from onnxprune.repair.teacher import batch_of, positions_of
from onnxprune.report.entries import Report
from onnxprune.settings import AUTO, BY_ERROR

GIVEN = "given"
BLIND = "class-blind"
EXCLUDED = "left alone by --include or --exclude"
HELD_OUT, MOST_HELD = 1 / 16, 64  # of the calibration rows, and samples at most: what the result is judged by
DENSER = (
    4  # times as many positions of each sample as other repairs look at: there is a choice to make for every weight
)
UNRUN = (
    "the model takes no drawn input and there is no other: that zeros are all that differs was seen by comparing nodes and "
    "stored tensors one by one, not by running both models"
)
NAMED = 3  # layers in a warning
MOST_ROWS = 1024  # that decide which weights go, and refit the others


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
        "criterion": (AUTO, *SCORES, *GRADIENT_SCORES, *TRAVEL_SCORES), "repair": (AUTO, "none", "least-squares"),
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
        layers, kept = weight_layers(self.analysis)
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
        shares = dict.fromkeys((layer.name for layer in able), pattern.share)
        scope = "global" if settings.scope == AUTO and settings.threshold != BLIND else settings.scope
        if scope == "global" and pattern.of is None:
            scores = {layer.name: self._scores(layer) for layer in able}
            shares = shares_of_layers(scores, pattern, settings.threshold)
        elif scope in SPREADS and pattern.of is None:
            shares = shares_by_size(able, pattern.share, scope)
        elif scope == BY_ERROR and pattern.of is None:
            with self.context.stages("shares"):
                shares = shares_by_error(able, pattern, self.analysis, self.context)
        return self._emptied(able, dict.fromkeys(shares, pattern), shares)

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
    def earlier(self) -> Model:
        """The model of which the result has the weights."""
        return self.context.once("earlier", lambda: earlier_model(self.context))

    def _array(self, layer: WeightLayer) -> np.ndarray:
        return self.analysis.facts.content(layer.name)

    def _scores(self, layer: WeightLayer) -> np.ndarray:
        """Return float64[groups, o, d]: what the weights alone say, their gradients, or the way they came."""
        name = self.context.settings.criterion
        if name in GRADIENT_SCORES:
            known = self.context.once(
                f"gradients {name}", lambda: gradient_scores(self.layers, self.analysis.facts, self.context)
            )
            if layer.name in known:
                return known[layer.name]
        if name in TRAVEL_SCORES:
            then = layer.matrix(_contents(self.earlier)(layer.name))
            return TRAVEL_SCORES[name].of(layer.matrix(self._array(layer)), then)
        scored = SCORES.get(name)
        return (scored if scored is not None and not scored.data else SCORES["l1"]).of(
            layer.matrix(self._array(layer)), None
        )

    def _emptied(
        self, layers: Sequence[WeightLayer], patterns: Mapping[str, Pattern], shares: Mapping[str, float]
    ) -> Emptied:
        """Decide by data where there is any, else by the weights."""
        settings, scored = self.context.settings, SCORES.get(self.context.settings.criterion)
        named = scored is not None or settings.criterion in {*GRADIENT_SCORES, *TRAVEL_SCORES}
        by_data = scored is not None and scored.data if named else self.context.data.calibration is not None
        if by_data and self.context.data.calibration is None:
            raise DataError(f"criterion {settings.criterion!r} looks at data; give calibration data (--calib)")
        alone = {one.name: patterns[one.name].kept(self._scores(one), shares[one.name]) for one in layers}
        refits = settings.repair != "none" and self.context.rewind is None
        if self.context.data.calibration is None or not (refits or by_data):
            return Emptied(self, tuple(layers), alone)

        def support(layer: WeightLayer) -> Support:
            pattern, share = patterns[layer.name], shares[layer.name]
            fixed = None if by_data else alone[layer.name]
            return Support(
                lambda scores: pattern.kept(scores, share), fixed, scored.of if by_data and scored is not None else None
            )

        return self._fitted(layers, {one.name: support(one) for one in layers if one.linear is not None}, alone)

    def _given(self, masks: Mapping[str, np.ndarray]) -> Emptied:
        layers = [layer for layer in self.open if layer.name in masks]
        if self.context.data.calibration is None or self.context.settings.repair == "none":
            return Emptied(self, tuple(layers), masks)
        supports = {
            one.name: Support(lambda scores: scores > 0, masks[one.name]) for one in layers if one.linear is not None
        }
        return self._fitted(layers, supports, masks)

    def _fitted(
        self, layers: Sequence[WeightLayer], supports: Mapping[str, Support], alone: Mapping[str, np.ndarray]
    ) -> Emptied:
        """Walk through the network: each layer chooses its weights, or has them chosen, and they are refitted to the original's outputs."""
        context, calibration = self.context, self.context.data.calibration
        assert calibration is not None
        fit, judge = held_out(calibration, HELD_OUT, MOST_HELD, context.settings.seed)
        start = self._masked({one.name: alone[one.name] for one in layers if one.name not in supports})
        fitted = self._walked(start, supports, fit)
        content = _contents(fitted)
        masks = {one.name: self._mask_of(one, content(one.name), alone[one.name]) for one in layers}
        if context.rewind is not None:
            return Emptied(self, tuple(layers), masks)
        fitted, plain = self._masked(masks, fitted), self._masked(masks)
        batches = in_batches(judge, self.analysis.facts, context.means)
        reference = Reference(self.analysis.facts.model, batches, context.means.quiet, outputs=context.outputs)
        found = {"least-squares": reference.divergence(fitted), "none": reference.divergence(plain)}
        best = "none" if context.settings.repair == "none" else min(found, key=lambda name: found[name])
        context.notes.entries["repair"] = {
            "method": best, "divergence": found, "held_out": judge is not fit, "refitted": False,
        }  # fmt: skip
        return Emptied(self, tuple(layers), masks, fitted if best != "none" else None)

    def _walked(self, start: Model, supports: Mapping[str, Support], data: Dataset) -> Model:
        """Return the model in which every linear layer is refitted in order, those of ``supports`` within them."""
        means, rows = self.context.means, data.take(MOST_ROWS, self.context.settings.seed)
        walk = Sequential(
            self.analysis, Kept.whole(self.analysis), Batches(rows, batch_of(self.analysis, rows, means)),
            limits=supports, effort=Effort(DENSER * positions_of(len(rows))), means=means,
        )  # fmt: skip
        with self.context.stages("repair"):
            fitted = walk.run(start)
        others = [layer.name for layer in self.open if layer.linear is None]
        by_size = f"the largest weights stay, and are not refitted, of {', '.join(others[:NAMED])}" if others else ""
        more = f" and {len(others) - NAMED} more layers" if len(others) > NAMED else ""
        self.context.notes.warn(*walk.warnings, by_size + more)
        return fitted

    def _mask_of(self, layer: WeightLayer, fitted: np.ndarray, alone: np.ndarray) -> np.ndarray:
        """Return what stays of a layer: as it was fitted, or by the weights alone where no row told anything of it."""
        left = layer.matrix(fitted) != 0
        return left if left.sum() <= alone.sum() else alone

    # --- the change -------------------------------------------------------------------------------------------------

    def _masked(self, masks: Mapping[str, np.ndarray], model: Model | None = None) -> Model:
        """Return the model, or another of the same network, in which the weights outside of the masks are zero."""
        model, known = model or self.analysis.facts.model, {layer.name: layer for layer in self.layers}
        content = _contents(model)
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
            return self._masked({layer.name: change.masks[layer.name] for layer in change.parts}, self.earlier)
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
        return {"zeros": zeros, "by": [by], "criterion": [self.context.settings.criterion]} | earlier

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
        settings = replace(settings, criterion=criterion, repair=repair, structured=False)
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


def _contents(model: Model) -> Callable[[str], np.ndarray]:
    """Return what reads the stored tensors of a model by name, those that nodes hold too."""
    tensors = Graph(model.structure).tensors
    return lambda name: model.array(tensors[name])
