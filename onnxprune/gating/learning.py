"""From a model and rows of data to gates: what each unit is worth once all are under a budget together."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from onnxprune.coupling.groups import Analysis
from onnxprune.data.repeated import drawn_apart
from onnxprune.errors import ModelError
from onnxprune.evidence.attacks.attacker import Attacked
from onnxprune.evidence.stream import gather
from onnxprune.gating.attacked import HalfAttacked
from onnxprune.gating.families import FAMILIES
from onnxprune.gating.gated import GatedUnits, gated
from onnxprune.gating.training import GatePlan, GateScores, GateTraining
from onnxprune.means import Means
from onnxprune.model.facts import gather_facts
from onnxprune.model.graph import Graph
from onnxprune.model.model import Model
from onnxprune.recover.lessons import Teaching, WholeModel
from onnxprune.recover.parameters import trainable, with_parameters
from onnxprune.recover.recipe import Recipe
from onnxprune.recover.statistics import with_statistics

LOOKED_AT = 512  # rows whose second moments are gathered each time that gates begin somewhere else


@dataclass(frozen=True)
class Learned:
    """``scores`` per group (None: without gates); ``model``: that of the analysis with the weights that moved (None: frozen).

    ``steps`` that were taken, in ``seconds``; ``spent``: the share of the whole cost that was open in the end, ``limit`` what was
    asked for. ``labels``: whether the task's loss took part.
    """

    scores: GateScores
    model: Model | None
    steps: int
    seconds: float
    spent: float
    limit: float
    labels: bool

    def to_json(self) -> dict[str, object]:
        found = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("scores", "model")}
        return found | {"weights": "frozen" if self.model is None else "moving"}


def learned_gates(
    analysis: Analysis,
    teaching: Teaching,
    plan: GatePlan,
    recipe: Recipe,
    means: Means = Means(),
    attacked: Attacked | None = None,
) -> Learned:
    """Train a gate for every unit under a budget, on rows of which half are ``attacked`` where that is given; raises ModelError where no gradient can be taken or nothing has a gate."""
    model = analysis.facts.model if plan.start is None else plan.start.model
    if not FAMILIES[plan.family].held:  # weights as drawn: norms see what they would see in training
        model = with_statistics(
            model, drawn_apart(teaching.dataset, LOOKED_AT, means.seed)[0].batches(recipe.rows), means
        )
    own = gated(analysis, plan.mended, plan.movable, model)
    if own.mendings:
        _look(own, teaching, plan, means)
    if not own.gates:
        raise ModelError(
            f"{analysis.facts.model.name}: no unit is read as a float by a node of the main graph, so that there is nothing to gate; "
            "name another criterion"
        )
    lessons = (
        WholeModel(teaching, recipe, means) if attacked is None else HalfAttacked(attacked, teaching, recipe, means)
    )
    weights = trainable(model) if plan.moving else {}
    training = GateTraining(own, weights, plan, lessons, recipe, means)
    for _ in training.run():
        pass
    moved = with_parameters(model, training.parameters) if plan.moving else None
    at, labels = training.at, bool(lessons.objective.classes)
    return Learned(
        training.scores(), moved, at.steps, round(at.seconds, 3), training.spent, training.budget.limit, labels
    )


def _look(own: GatedUnits, teaching: Teaching, plan: GatePlan, means: Means) -> None:
    """Gather second moments for readers to be mended by: of the original, or of the network in which the gates begin as they are there."""
    needs = [mending.need for mending in own.mendings]
    if plan.start is None:
        own.go_by(gather(own.analysis.facts, teaching.dataset, needs, means))
        return
    gates = {name: np.asarray(plan.start.kept[group], np.float64) for group, name in own.gates.items()}
    silent = own.silent(gates)
    facts = gather_facts(silent, Graph(silent.structure))
    own.go_by(gather(facts, drawn_apart(teaching.dataset, LOOKED_AT, means.seed)[0], needs, means), gates)
