"""A gate as a kind of change (``--dynamic``), behind all that prune: the pruned model runs first, the original where a sample needs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np

from onnxprune.allocate import Costs, Target
from onnxprune.allocate.account import model_totals
from onnxprune.changes.analysing import facts_of
from onnxprune.changes.change import Change, Refuted, Space, Totals
from onnxprune.changes.context import Context
from onnxprune.changes.dynamic.budget import PassCosts, macs_of, threshold_for, times_of
from onnxprune.changes.dynamic.evidence import Damages, FastPass, damages
from onnxprune.changes.dynamic.features import GateView, gate_view
from onnxprune.changes.dynamic.joining import Joining, Passes, outputs_taken, require_gateable
from onnxprune.changes.dynamic.layout import blocked_shortcuts
from onnxprune.changes.dynamic.predictor import GatePredictor
from onnxprune.coupling.links import build_links
from onnxprune.coupling.prepare import prepare, restore
from onnxprune.data import Dataset
from onnxprune.errors import DataError, ModelError, PlanError
from onnxprune.model.facts import Facts
from onnxprune.model.gated import EVERY, NO, forced
from onnxprune.model.model import Model
from onnxprune.model.tensors import FLOATS
from onnxprune.proof.check import SurgeryCheck
from onnxprune.proof.verdict import all_of
from onnxprune.report.entries import Report


@dataclass(frozen=True)
class Gated(Change[str]):
    """The gate with its predictor; ``share``: of the rows that taught it, those that ran the full pass; ``threshold`` for that."""

    predictor: GatePredictor
    threshold: float
    share: float


class Gating(Space[str]):
    """One gate in front of what the original does beyond the pruned model."""

    kind, name, noun, verb, changed = "dynamic", "gate", "gate", "adds", "added"
    aims: ClassVar[tuple[str, ...]] = ()
    saves: ClassVar[bool] = False
    passes: ClassVar[Mapping[str, float] | None] = {"evidence": 2.0}
    trains: ClassVar[bool] = False

    def __init__(self, context: Context):
        super().__init__(context)
        model = context.facts.model
        self.plain = Passes(restore(model, replace(model, sparse=())), prepare(context.original))
        self.halves = Passes(*(blocked_shortcuts(one, context.settings) for one in (self.plain.fast, self.plain.full)))
        require_gateable(self.facts, context.original.name)

    @cached_property
    def facts(self) -> Facts:
        """The facts of the fast pass as it is written."""
        return facts_of(self.halves.fast, self.context.settings)

    @cached_property
    def kinds(self) -> dict[str, tuple[int, int]]:
        """Gated output -> its element type and how many axes it has."""
        return outputs_taken(self.halves.gated, self.facts)

    @cached_property
    def view(self) -> GateView:
        assert self.context.outputs is not None
        found = gate_view(self.facts, build_links(self.facts), self.context.outputs)
        if not found.width:
            raise ModelError(
                f"{self.context.original.name}: a gate finds nothing to look at: no layer in front of an output, and no output, has floats by samples "
                "and channels; leave dynamic out"
            )
        return found

    @property
    def rows(self) -> Dataset:
        """The rows that teach the gate, which decided nothing else."""
        data = self.context.data
        found = data.taught or data.calibration
        if found is None:
            raise DataError("--dynamic teaches a gate on data; give calibration data (--calib)")
        return found

    def parts(self) -> Sequence[str]:
        return ["gate"]

    def choose(self, aim: Target) -> Gated:
        """Teach the gate, and let through what the budget has room for; raises TargetError where it has none."""
        context, budget = self.context, self.context.settings.expected
        predictor, scores = self._taught()
        if budget.kind == "macs":
            share = self._macs.share(budget)
        else:
            trial = self._written(predictor, 0.0)
            share = times_of(context.original, trial, self.rows, context.settings).share(budget)
        return self._gated(predictor, scores, share)

    def _taught(self) -> tuple[GatePredictor, np.ndarray]:
        """Return the predictor, and float32[rows], scores as rows have them that it did not learn from."""
        seed = self.context.settings.seed
        with self.context.stages("evidence"):
            seen = self._damages()
            predictor = GatePredictor.fitted(seen.features, seen.damage, seed)
            return predictor, GatePredictor.judged(seen.features, seen.damage, seed)

    def _gated(self, predictor: GatePredictor, scores: np.ndarray, share: float) -> Gated:
        return Gated(self, ("gate",), predictor, threshold_for(scores, share), share)

    def _damages(self) -> Damages:
        assert self.context.outputs is not None
        into = Joining(self.halves, self.kinds)
        features = self.view.written(into, self.facts.graph.versions[""])
        fast = FastPass(into.looking(features), features, into.fast)
        return damages(self.halves.full, fast, self.rows, self.context.outputs, self.context.means)

    @cached_property
    def _macs(self) -> PassCosts:
        context = self.context
        fast = model_totals(context.analysis, context.analysis.widths)["macs"]
        return macs_of(self.halves, context.original, fast, context.settings)

    def _written(self, predictor: GatePredictor, threshold: float) -> Model:
        into = Joining(self.halves, self.kinds)
        scores = predictor.written(self.view.written(into, self.facts.graph.versions[""]), into)
        return into.guarded(scores, threshold)

    def made(self, change: Change[str]) -> Model:
        assert isinstance(change, Gated)
        return self._written(change.predictor, change.threshold)

    def checked(self, change: Change[str], small: Model) -> SurgeryCheck:
        """With its gate forced each way the file has to be the original, and the pruned model, which is proven already."""
        ways = ((self.plain.full, EVERY), (self.plain.fast, NO))
        prover = self.context.prover
        return all_of([prover.compare(reference, forced(small, way), None) for reference, way in ways])

    def without(self, refuted: Refuted) -> Self:
        """A model without its gate would be another model than was asked for."""
        raise refuted.nothing_left("gate")

    def repaired(self, change: Change[str], small: Model) -> Model:
        """Return the model as it is; say what it is made of."""
        assert isinstance(change, Gated)
        costs, settings = self._macs, self.context.settings
        self.context.notes.entries["dynamic"] = {
            "budget": settings.dynamic,
            "outputs": list(self.kinds),
            "macs": {"original": int(costs.whole), "fast": int(costs.fast), "full": int(costs.fast + costs.further)}
            | {
                "expected": round(costs.expected(change.share)),
                "share": costs.expected(change.share) / max(costs.whole, 1),
            },
            "gate": {
                "features": self.view.width,
                "reads": [*(one.name for one in self.view.pooled), *(one.name for one in self.view.certain)],
            }
            | {"rows": len(self.rows), "threshold": change.threshold},
            "full_share": {"taught": change.share},
        }
        return small

    def totals(self, change: Change[str] | None = None, small: Model | None = None) -> Totals:
        """Return what a sample costs on average, and what is stored of both passes."""
        found = super().totals(change, small)
        if isinstance(change, Gated):
            own, before = small or change.made(), self.plain.fast.weights
            added = [tensor for name, tensor in own.weights.items() if name not in before and tensor.dtype in FLOATS]
            found["macs"] = round(self._macs.expected(change.share))
            found["parameters"] += sum(int(np.prod(tensor.shape)) for tensor in added)
            found["weight_bytes"] = sum(tensor.nbytes for tensor in own.weights.values())
        return found

    def entries(self, change: Change[str] | None = None) -> Report:
        """The entry ``dynamic`` says all that there is to say."""
        return {}

    def prunable(self) -> dict[str, float]:
        return Costs(self.context.analysis).prunable()

    def record(self, change: Change[str]) -> Mapping[str, Any]:
        assert isinstance(change, Gated)
        return {"gate": list(change.parts), "share": [change.share]}

    def read(self, record: Mapping[str, Any]) -> Gated:
        """Return the gate that a plan records, taught anew by the same data; raises PlanError where there is none."""
        share = next(iter(record.get("share", ())), None)
        if not isinstance(share, int | float) or not 0 <= share <= 1:
            raise PlanError(f"the plan's gate lets through {share!r} of the samples, which is no share")
        if self.context.data.calibration is None:
            raise PlanError("the plan teaches a gate; give the calibration data it was made with (--calib)")
        return self._gated(*self._taught(), float(share))
