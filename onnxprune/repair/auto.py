"""Repair a cut model by a named method, or by whichever brings the outputs back best on held-out data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from onnx import ModelProto

from onnxprune.coupling.channels import row_importance
from onnxprune.coupling.cut import Kept
from onnxprune.coupling.groups import Analysis
from onnxprune.data import Dataset
from onnxprune.data.repeated import Batches, held_out
from onnxprune.measure.divergence import Reference
from onnxprune.measure.outputs import Outputs
from onnxprune.model.read import Model
from onnxprune.repair.moments import SOLVERS, Subspace
from onnxprune.repair.sequential import TURNS, Progress, Sequential

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

    model: ModelProto
    method: str
    divergences: dict[str, float]
    warnings: tuple[str, ...] = ()
    held_out: bool = True
    refitted: bool = False


def repair(
    analysis: Analysis,
    kept: Kept,
    small: ModelProto,
    dataset: Dataset,
    method: str = "auto",
    *,
    fitted: tuple[ModelProto, float] | None = None,
    subspaces: Mapping[str, Subspace] | None = None,
    seed: int = 0,
    threads: int = 1,
    outputs: Outputs | None = None,
    progress: Callable[[str], Progress] = lambda method: lambda done, total: None,
) -> Repaired:
    """Return ``small`` repaired by ``method``; ``auto`` never returns a model worse than no repair on held-out data.

    ``fitted``: ``small`` as least squares has repaired it already, and its held-out divergence; other solvers, for which it
    was not made, are then left out. ``subspaces``: see ``Sequential``. ``outputs``: how the model's outputs are compared.
    """
    path, mask = analysis.facts.model.path, dataset.schema.padding_mask
    importance = {} if outputs is None else row_importance(analysis.solution.links, outputs)
    warned: dict[str, tuple[str, ...]] = {}

    def by(name: str, data: Dataset, turns: int = TURNS) -> ModelProto:
        if fitted is not None and name == "least-squares":
            return fitted[0]
        walk = Sequential(
            analysis, kept, Batches(data), subspaces=subspaces or {}, method=name, turns=turns,
            seed=seed, threads=threads, mask=mask, importance=importance,
        )  # fmt: skip
        walk.progress = progress(name)
        repaired = walk.run(small)
        warned[name] = walk.warnings
        return repaired

    if method != "auto":
        return Repaired(by(method, dataset), method, {}, warned.get(method, ()))
    fit, judge = held_out(dataset, HELD_OUT, MOST, seed)
    reference = Reference(analysis.facts.model, Batches(judge), threads, outputs=outputs)
    known = {} if fitted is None else {"least-squares": fitted[1]}
    names = () if known else SOLVERS
    trials = {name: by(name, fit.take(FITTED_ON[name], seed), turns=1) for name in names} | {"none": small}
    found = known | {name: reference.divergence(Model(trial, "", path)) for name, trial in trials.items()}
    best = min(found, key=lambda name: found[name])
    model = small if best == "none" else by(best, dataset)
    refitted = judge is not fit and best not in known and best != "none"
    warnings = warned.get("least-squares" if best == "none" else best, ())
    return Repaired(model, best, found, warnings, judge is not fit, refitted)
