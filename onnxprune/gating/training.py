"""Gates trained by the steps of recovery, weights frozen or moving with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.allocate import Target
from onnxprune.gating.budget import Budget, least_multiplier
from onnxprune.gating.families import FAMILIES
from onnxprune.gating.gated import GatedUnits
from onnxprune.means import Means
from onnxprune.model.model import Model
from onnxprune.model.runtime import Arrays
from onnxprune.recover.descent import Descent
from onnxprune.recover.lessons import Lessons
from onnxprune.recover.optimisers import OPTIMISERS
from onnxprune.recover.recipe import Recipe

GateScores = list[np.ndarray | None]

NARROWED, DECIDED = (
    0.5,
    0.7,
)  # shares of the training at which the budget is down to the aim, and after which moving weights see gates shut
TIE = 1e-3  # what counts of the pressure on a gate that is at its bound


@dataclass(frozen=True)
class GateStart:
    """``kept``: bool[width] per group, the units that are open at first; ``model``: weights for these, in the shapes that all units have."""

    kept: Sequence[np.ndarray]
    model: Model


@dataclass(frozen=True)
class GatePlan:
    """``family``: a name of FAMILIES; ``aim``: the budget.

    ``decide``: scores (None: a group without gates) -> bool[width] per group, what stays. ``moving``: weights are trained too.
    ``mended``: readers see what a repair by least squares would make of the gates. ``movable``: groups that may become narrower (None: all);
    the others are held open. ``start``: where the gates begin, their budget being held from the first step on (None: all open, and the
    budget shrinks to the aim).
    """

    family: str
    aim: Target
    decide: Callable[[GateScores], Sequence[np.ndarray]]
    moving: bool = False
    mended: bool = False
    movable: frozenset[int] | None = None
    start: GateStart | None = None


class GateTraining(Descent):
    """One training of the gates of a model, and of ``weights`` where these move."""

    doing = "training gates"

    def __init__(
        self,
        gated: GatedUnits,
        weights: Arrays,
        plan: GatePlan,
        lessons: Lessons,
        recipe: Recipe,
        means: Means = Means(),
    ):
        self.analysis, self.gated, self.plan = gated.analysis, gated, plan
        self.family, self.budget = FAMILIES[plan.family], Budget(gated.analysis, plan.aim)
        groups = [gated.analysis.groups[index] for index in gated.gates]
        self.logits = {
            gated.gates[g.index]: self.family.begun(
                np.ones(g.width, bool) if plan.start is None else plan.start.kept[g.index]
            )
            for g in groups
        }
        self.beyond = {name: np.zeros(len(array)) for name, array in self.logits.items()}
        self.steps = OPTIMISERS[self.family.optimiser](self.logits)
        self.random = np.random.default_rng([means.seed, 71])
        self.shut: Arrays | None = None
        self.spent = 1.0
        self._draw()
        super().__init__(gated.model, weights, lessons, recipe, means)

    def fed(self) -> Arrays:
        return {**self.parameters, **self.gated.fed(self.shut or self._gates)}

    def pulled(self, gradients: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Press the gates by loss and budget; return the gradients of the weights."""
        own = {} if self.shut else self.gated.pulled(self._gates, gradients)
        if self.shut is None and all(np.isfinite(found).all() for found in own.values()):
            self._press(own)
        return {name: gradients[name] for name in self.parameters}

    def look(self) -> bool:
        """Shut the gates where moving weights are to get used to what stays; else draw them anew."""
        if self.shut is None and self.plan.moving and self.share >= DECIDED:
            kept = self.plan.decide(self.scores())
            self.shut = {name: kept[group].astype(np.float64) for group, name in self.gated.gates.items()}
        elif self.shut is None:
            self._draw()
        return False

    def scores(self) -> GateScores:
        """Return float64[width] per group, higher is more open; higher than all others for groups held open, None for those without gates."""
        movable, found = self.plan.movable, GateScores()
        for group in self.analysis.groups:
            name = self.gated.gates.get(group.index)
            if name is not None:
                found.append(self.logits[name] + TIE * self.beyond[name])
            else:
                held = movable is not None and group.index not in movable
                found.append(np.full(group.width, self.family.bounds[1] + 1) if held else None)
        return found

    def message(self) -> str:
        return f"{super().message()}, {self.spent:.0%} of {self.budget.limit:.0%} open"

    @property
    def _gates(self) -> Arrays:
        return {name: drawn.gates for name, drawn in self.drawn.items()}

    def _draw(self) -> None:
        self.drawn = {name: self.family.drawn(array, self.random) for name, array in self.logits.items()}

    def _press(self, gradients: Mapping[str, np.ndarray]) -> None:
        """Take a step of the gates against the loss, then shut as much as is open beyond the budget, dear units first."""
        units = sum(array.size for array in self.logits.values())
        mean = sum(float(array.sum()) for array in self.logits.values()) / max(units, 1)
        pull = self.family.pull(mean, units, self.budget.limit)
        slopes = {name: gradients[name] * self.drawn[name].slopes + pull for name in self.logits}
        self.steps.update(slopes, self.family.rate)
        amounts = self._excess() if self.family.held else np.zeros(len(self.analysis.groups))
        for name, array in self._shut_by(amounts).items():
            inside = np.clip(array, *self.family.bounds)
            self.beyond[name] += array - inside
            self.logits[name][...] = inside
        self.spent = self.budget.spent(self._widths(self.logits))

    def _excess(self) -> np.ndarray:
        """Return float64[groups]: how far the gates of each have to be pressed so that no more is open than allowed by now."""
        narrowed = 1.0 if self.plan.start is not None else min(self.share / NARROWED, 1.0)
        allowed = 1 - (1 - self.budget.limit) * narrowed
        slopes = self.budget.slopes(self._widths(self.logits))
        multiplier = least_multiplier(lambda m: self.budget.spent(self._widths(self._shut_by(m * slopes))), allowed)
        return multiplier * slopes

    def _shut_by(self, amounts: np.ndarray) -> Arrays:
        """Return the parameters less float64[groups] amounts, the same for all units of a group."""
        return {
            name: self.family.pressed(self.logits[name], amounts[group]) for group, name in self.gated.gates.items()
        }

    def _widths(self, parameters: Arrays) -> np.ndarray:
        """Return float64[groups]: how many units are open, as the gates' bounds allow."""
        found = self.analysis.widths.astype(np.float64)
        for group, name in self.gated.gates.items():
            found[group] = self.family.opened(np.clip(parameters[name], *self.family.bounds)).sum()
        return found
