"""8-bit weights and values as a kind of change (``--quantize``), behind all others: the float model is proven, then its numbers are rounded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from onnx import TensorProto

from onnxprune.allocate import Costs, Target
from onnxprune.changes.change import Change, Space, Totals
from onnxprune.changes.context import Context
from onnxprune.changes.quantising.able import (
    KEPT_FLOAT,
    WeighingNode,
    kept_float,
    names_kept,
    require_quantisable,
    weighing_nodes,
)
from onnxprune.changes.quantising.recipes import BY_NAME, DYNAMIC
from onnxprune.changes.quantising.trials import QuantChoice, RecipeTrials, TriedRecipe
from onnxprune.coupling.prepare import restore
from onnxprune.errors import PlanError
from onnxprune.model.facts import Facts
from onnxprune.model.graph import Graph
from onnxprune.model.model import Model
from onnxprune.model.quantiser import PRODUCTS
from onnxprune.proof.check import SurgeryCheck
from onnxprune.report.entries import Report

STAYED = "ONNX Runtime's quantiser left it alone"
BETWEEN = "the recipe quantises products and convolutions alone"


@dataclass(frozen=True)
class Quantisation(Change[WeighingNode]):
    """The nodes whose weights become integers, and by what recipe."""

    choice: QuantChoice


class Quantising(Space[WeighingNode]):
    """The nodes that weigh by a stored matrix or kernel, by name."""

    kind, name, noun, verb, changed = "quantize", "quantised", "node", "quantises", "quantised"
    aims: ClassVar[tuple[str, ...]] = ()
    loses: ClassVar[bool] = False
    passes: ClassVar[Mapping[str, float] | None] = {}
    trains: ClassVar[bool] = False

    def __init__(self, context: Context):
        super().__init__(context)
        self.mode = context.settings.quantize
        require_quantisable(self.base)
        self.kept: frozenset[str] = names_kept(Graph(self.base.structure), context.settings.keep_float)

    @property
    def base(self) -> Model:
        """The float model as it would be written."""
        model = self.context.facts.model
        return restore(model, replace(model, sparse=()))

    @property
    def nodes(self) -> tuple[WeighingNode, ...]:
        return self.context.once("weighing", lambda: tuple(self._weighing(self.context.facts.graph)))

    def _weighing(self, graph: Graph) -> Iterator[WeighingNode]:
        return weighing_nodes(graph, self.mode, kept_float(graph, self.kept))

    def parts(self) -> Sequence[WeighingNode]:
        return [node for node in self.nodes if not node.reason]

    def choose(self, aim: Target) -> Quantisation:
        """Try recipes and take the one that loses least; raises ModelError where none can be made."""
        with self.context.stages("quantise"):
            return self._changed(self._trials().chosen())

    def _trials(self) -> RecipeTrials:
        return RecipeTrials(self.context, self.base, self.mode, self.kept)

    def _changed(self, choice: QuantChoice) -> Quantisation:
        found = self._weighing(Graph(choice.floats.structure))
        left = set(Graph(choice.quantised.structure).tensors)
        return Quantisation(
            self, tuple(node for node in found if node.weight not in left and node.reason != KEPT_FLOAT), choice
        )

    def silent(self, change: Change[WeighingNode]) -> Model:
        return self.context.facts.model

    def made(self, change: Change[WeighingNode]) -> Model:
        """Return the float model that is quantised: norms folded in, channels equalised."""
        assert isinstance(change, Quantisation)
        return change.choice.floats

    def checked(self, change: Change[WeighingNode], small: Model) -> SurgeryCheck:
        """The float model has to compute what it did; what rounding changes is measured, not proven."""
        return self.context.prover.compare(self.silent(change), small, None)

    def repaired(self, change: Change[WeighingNode], small: Model) -> Model:
        """Return the quantised model; say by which recipe."""
        assert isinstance(change, Quantisation)
        choice, notes = change.choice, self.context.notes
        notes.entries["quantisation"] = {
            "mode": self.mode,
            "recipe": choice.recipe.name,
            "candidates": [_candidate(one, choice) for one in choice.tried],
            "rows": {"ranges": choice.rows[0], "judged": choice.rows[1]},
            "equalised": list(choice.equalised),
            "float_operators": float_operators(choice.quantised, self.context.facts),
        }
        if not change.parts:
            notes.warn(
                f"no node of this model was quantised ({'; '.join(self._reasons()) or 'it has no float weights'})"
            )
        return choice.quantised

    def _reasons(self) -> list[str]:
        return list(dict.fromkeys(node.reason or STAYED for node in self.nodes))[:3]

    def totals(self, change: Change[WeighingNode] | None = None, small: Model | None = None) -> Totals:
        """Return what the float model costs, with the bytes of the quantised one."""
        found = super().totals(change, small)
        if small is not None:
            found["weight_bytes"] = sum(tensor.nbytes for tensor in small.weights.values())
        return found

    def prunable(self) -> dict[str, float]:
        return Costs(self.context.analysis).prunable()

    def record(self, change: Change[WeighingNode]) -> Mapping[str, Any]:
        assert isinstance(change, Quantisation)
        return {"recipe": [change.choice.recipe.name], "quantised": [part.name for part in change.parts]}

    def read(self, record: Mapping[str, Any]) -> Quantisation:
        """Return the quantisation that a plan records; raises PlanError where recipe, model or data is another."""
        name = next(iter(record.get("recipe", ())), None)
        recipe = BY_NAME.get(str(name))
        if recipe is None or (self.mode == DYNAMIC) == bool(recipe.method):
            raise PlanError(f"the plan quantises by {name!r}, which is no recipe of this release")
        needs = recipe.method or recipe.corrected
        if needs and self.context.data.calibration is None:
            raise PlanError(
                "the plan quantises by ranges of data; give the calibration data it was made with (--calib)"
            )
        change = self._changed(self._trials().replayed(recipe))
        if [part.name for part in change.parts] != list(record.get("quantised", ())):
            raise PlanError(
                "the plan quantises other nodes than this model has; apply it to the model it was made from"
            )
        return change

    def entries(self, change: Change[WeighingNode] | None = None) -> Report:
        if not isinstance(change, Quantisation):
            return {"quantised": [self._row(node, False, False) for node in self.nodes]}
        taken, nodes = set(change.parts), self._weighing(Graph(change.choice.floats.structure))
        narrow = change.choice.recipe.how.products
        return {"quantised": [self._row(_left_out(node) if narrow else node, node in taken, True) for node in nodes]}

    def _row(self, node: WeighingNode, taken: bool, decided: bool) -> Report:
        stays = node.reason or (STAYED if decided and not taken else None)
        status = self.changed if taken else "kept"
        return {"name": node.name, "op": node.op, "weight": node.weight, "bytes": node.bytes, "status": status,
                "reason": None if taken else stays}  # fmt: skip


def _left_out(node: WeighingNode) -> WeighingNode:
    """Return a node with the reason why a recipe of products alone leaves it float, where it does."""
    return node if node.reason or node.op in PRODUCTS else replace(node, reason=BETWEEN)


def _candidate(tried: TriedRecipe, choice: QuantChoice) -> Report:
    judged = tried.judged
    known = judged is not None and np.isfinite(judged.divergence)
    return {
        "recipe": tried.recipe.name,
        "divergence": judged.divergence if judged is not None and known else None,
        "cost": judged.cost if judged is not None and known else None,
        "score": None if judged is None else judged.score,
        "chosen": tried.recipe == choice.recipe,
        "reason": tried.reason or None,
    }


RENAMED = "_QuantizeLinear_Input"
"""What ONNX Runtime's quantiser puts behind the name of an output that it quantises."""


def float_operators(model: Model, facts: Facts) -> dict[str, int]:
    """Return operator -> how many nodes of the main graph give floats and read no integers that stand for floats; ``facts``: of the float model."""
    graph, found = Graph(model.structure), Counter[str]()
    for node in graph.top:
        name = node.outputs[0].removesuffix(RENAMED)
        makers = [graph.producer[name].op for name in node.inputs if name in graph.producer]
        if facts.dtype(name) == TensorProto.FLOAT and not any("quantize" in op.lower() for op in (node.op, *makers)):
            found[node.op] += 1
    return dict(sorted(found.items()))
