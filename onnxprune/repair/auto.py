"""Repair a cut model by a named method, or by whichever brings the outputs back best on held-out data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from onnxprune.coupling.channels import row_importance
from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.kept import Kept
from onnxprune.data import Dataset
from onnxprune.data.repeated import Batches, held_out, in_batches
from onnxprune.evidence.journal import Journal
from onnxprune.means import Means
from onnxprune.measure.divergence import Reference
from onnxprune.measure.outputs import Outputs
from onnxprune.model.model import Identity, Model
from onnxprune.model.runtime import runtime_version
from onnxprune.repair.moments import SOLVERS, Limit
from onnxprune.repair.sequential import TURNS, Effort, Sequential
from onnxprune.repair.teacher import batch_of, positions_of
from onnxprune.version import __version__

DAMPED, DAMPINGS = "least-squares", (1.0, 0.1)  # the solver that is damped, and how strongly, times the usual
HELD_OUT = 0.25  # of the calibration data, to choose a method by
MOST, FEW = 512, 128  # samples that judge a method, and that fit one whose solver needs moments of channels alone
MOST_ROWS = 8192  # of the data that a repair looks at: what it keeps of them is in memory, or in mapped files
FITTED_ON = {"least-squares": MOST, "batchnorm": FEW, "bias": FEW}  # at most; the best is then fitted on everything


@dataclass(frozen=True)
class Repaired:
    """The model, the method that made it, and the held-out divergence of every method that was tried.

    ``warnings``: what the method could not look at. ``held_out``: whether the rows that judged took no part in the fits that
    they judged. ``refitted``: whether the best was fitted once more with these rows too, so that its divergence is that of
    the fit before.
    """

    model: Model
    method: str
    divergences: dict[str, float]
    warnings: tuple[str, ...] = ()
    held_out: bool = True
    refitted: bool = False


@dataclass(frozen=True)
class Method:
    """``name``: a solver, or ``auto``: whichever brings the outputs back best on held-out data.

    ``fitted``: the model as least squares has repaired it already, and its held-out divergence; other solvers, for which it
    was not made, are then left out. ``fitted_by``: the name of what repaired it. ``limits``: see ``Sequential``. ``journals``: folder for
    what is solved; a repair within limits has none.
    """

    name: str = "auto"
    fitted: tuple[Model, float] | None = None
    fitted_by: str = "least-squares"
    limits: Mapping[str, Limit] = field(default_factory=dict)
    journals: Path | None = None


def repair(
    analysis: Analysis,
    kept: Sequence[np.ndarray],
    small: Model,
    dataset: Dataset,
    method: Method = Method(),
    means: Means = Means(),
    outputs: Outputs | None = None,
) -> Repaired:
    """Return ``small`` repaired by ``method``; ``auto`` never returns a model worse than no repair on held-out data.

    ``outputs``: how the model's outputs are compared.
    """
    importance = {} if outputs is None else row_importance(analysis.solution.links, outputs)
    means, batch = means.masked(dataset.schema.padding_mask), batch_of(analysis, dataset, means)
    trial = _Trial(analysis, Kept.of(analysis, kept), small, method, means, importance, batch)
    if method.name != "auto":
        return Repaired(trial.by(method.name, dataset), method.name, {}, trial.warned.get(method.name, ()))
    fit, judge = held_out(dataset, HELD_OUT, MOST, means.seed)
    reference = Reference(analysis.facts.model, in_batches(judge, analysis.facts, means), means, outputs=outputs)
    known = {} if method.fitted is None else {method.fitted_by: method.fitted[1]}
    damping, tried = (1.0, {}) if known else _tried(trial, fit, reference)
    found = known | tried | {"none": reference.divergence(small)}
    best = min(found, key=lambda name: found[name])
    model = small if best == "none" else trial.by(best, dataset, damping=damping)
    refitted = judge is not fit and best not in known and best != "none"
    warnings = trial.warned.get("least-squares" if best == "none" else best, ())
    return Repaired(model, best, found, warnings, judge is not fit, refitted)


def _tried(trial: _Trial, fit: Dataset, reference: Reference) -> tuple[float, dict[str, float]]:
    """Return the damping that suits least squares best, and the divergence of every solver on rows that it was not fitted to.

    Within limits there are better weights than scaled ones, and least squares alone looks for them.
    """
    rows = {name: fit.take(most, trial.means.seed) for name, most in FITTED_ON.items()}
    others = [name for name in SOLVERS if name != DAMPED and not trial.method.limits]
    found = {name: reference.divergence(trial.by(name, rows[name], 1)) for name in others}
    by_damping = {damping: reference.divergence(trial.by(DAMPED, rows[DAMPED], 1, damping)) for damping in DAMPINGS}
    best = min(DAMPINGS, key=lambda damping: by_damping[damping])
    return best, {name: by_damping[best] if name == DAMPED else found[name] for name in (DAMPED, *others)}


@dataclass(frozen=True)
class _Trial:
    """Solvers tried on one cut model, ``batch`` rows at a time; ``warned``: solver -> what it could not look at."""

    analysis: Analysis
    kept: Kept
    small: Model
    method: Method
    means: Means
    importance: Mapping[str, np.ndarray]
    batch: int
    warned: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def by(self, name: str, data: Dataset, turns: int = TURNS, damping: float = 1.0) -> Model:
        """Return the model repaired by the solver ``name``."""
        if self.method.fitted is not None and name == self.method.fitted_by:
            return self.method.fitted[0]
        effort = Effort(positions_of(len(data)), turns, damping)
        walk = Sequential(
            self.analysis, self.kept, Batches(data, self.batch), limits=self.method.limits, method=name,
            effort=effort, means=self.means, importance=self.importance, journal=self._journal(name, data, effort),
        )  # fmt: skip
        repaired = walk.run(self.small)
        self.warned[name] = walk.warnings
        return repaired

    def _journal(self, name: str, data: Dataset, effort: Effort) -> Journal | None:
        if self.method.journals is None or self.method.limits:
            return None
        how = (self.means.threads, self.means.seed, self.means.mask, self.means.memory, self.batch, effort, name)
        weighed = [part for weight, worth in sorted(self.importance.items()) for part in (weight, worth)]
        parts = (*self._models, __version__, runtime_version(), data.digest(), how, *self.kept, *weighed)
        return Journal.of(self.method.journals, parts)

    @cached_property
    def _models(self) -> tuple[Identity, Identity]:
        return self.analysis.facts.model.identity, self.small.identity
