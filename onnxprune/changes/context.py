"""What a change is decided from: the model as it is now, the settings, the data, and where a run keeps what it has to say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from onnxprune.allocate import Target
from onnxprune.allocate.account import batch_size
from onnxprune.coupling.groups import Analysis
from onnxprune.data import Dataset
from onnxprune.data.repeated import held_out
from onnxprune.data.survey import Survey
from onnxprune.data.tokens import TokenList
from onnxprune.evidence.known import KnownStatistics
from onnxprune.means import Means
from onnxprune.measure.outputs import Outputs
from onnxprune.model.early import NO_EARLY_DATA, EarlyData
from onnxprune.model.facts import Facts
from onnxprune.model.read import Model
from onnxprune.proof.check import Prover
from onnxprune.recover import split_judge
from onnxprune.report.entries import Report
from onnxprune.report.stages import Stages
from onnxprune.settings import Settings

T = TypeVar("T")
TAUGHT, MOST_TAUGHT = 0.25, 2048
"""Share of the calibration rows that teach a gate, and how many at most."""
FITTED = "too few rows to hold any out: {} judged on the {} rows that it was fitted to, which makes it look better than it is"


@dataclass(frozen=True)
class Data:
    """``calibration`` may decide what stays and repair weights; ``evaluation`` is measured on, never chosen by.

    ``judge`` is what recovery is judged by; ``cache`` the folder for what was gathered from the calibration data, ``stats`` a file
    that holds it.
    ``taught``: rows that teach a gate and decide nothing else.
    ``tokens``: those that are to stay.
    """

    calibration: Dataset | None = None
    evaluation: Dataset | None = None
    judge: Dataset | None = None
    cache: Path | None = None
    stats: KnownStatistics | None = None
    tokens: TokenList | None = None
    taught: Dataset | None = None

    @property
    def measured(self) -> Dataset | None:
        return self.evaluation or self.calibration

    def teaching(self, seed: int) -> Data:
        """Return the data with a part of the calibration rows kept from all that decides and trains, to teach a gate by."""
        if self.calibration is None:
            return self
        rest, taught = held_out(self.calibration, TAUGHT, MOST_TAUGHT, seed)
        return replace(self, calibration=rest, taught=taught)

    def parted(self, seed: int) -> Data:
        """Return the data with a part of the calibration rows kept from all that decides, for ``judge``."""
        if self.calibration is None:
            return self
        rest, judge = split_judge(self.calibration, seed)
        return replace(self, calibration=rest, judge=judge)


@dataclass
class Notes:
    """What is to be reported beside the result: ``entries`` of the report by key, and warnings, each once."""

    entries: Report = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def warn(self, *texts: str) -> None:
        self.warnings += [text for text in dict.fromkeys(texts) if text and text not in self.warnings]


@dataclass(frozen=True)
class Context:
    """``analysis``: of the model to be changed now; ``original``: what the result is compared with, and learns from.

    ``outputs``: how outputs are compared (None: no data). ``rewind``: the same network with the weights to start from.
    ``earlier``: the changes that led from the original to this model. ``survey``: what real rows look like. ``memory``: what ``once`` has made, while the data is the same.
    ``early``: writes the data of a result while it is proven.
    """

    analysis: Analysis
    original: Model
    settings: Settings
    data: Data = Data()
    stages: Stages = field(default_factory=Stages)
    notes: Notes = field(default_factory=Notes)
    outputs: Outputs | None = None
    checkpoint: Path | None = None
    rewind: Model | None = None
    earlier: tuple[Any, ...] = ()
    survey: Survey | None = None
    memory: dict[tuple[str, int], tuple[Analysis, Any]] = field(default_factory=dict)
    early: EarlyData = NO_EARLY_DATA

    @property
    def facts(self) -> Facts:
        return self.analysis.facts

    @property
    def means(self) -> Means:
        """With what work is done: as the settings say, with the data's padding mask, telling the stages' progress."""
        mask = "" if self.data.calibration is None else self.data.calibration.schema.padding_mask
        return replace(self.settings.means.masked(mask), progress=self.stages.progress)

    @property
    def prover(self) -> Prover:
        return self.once("prover", self._prover)

    def _prover(self) -> Prover:
        rows, integers = first_rows(self.data.measured), self.survey.integers if self.survey else {}
        seed, threads = self.settings.seed, self.settings.threads
        prover = Prover(self.facts, seed=seed, threads=threads, rows=rows, integers=integers)
        prover.progress = self.stages.progress
        return prover

    def on(self, analysis: Analysis, **changes: Any) -> Context:
        """Return the context of another model; what was made of this one is not kept for it."""
        return replace(self, analysis=analysis, memory={}, **changes)

    def once(self, what: str, make: Callable[[], T]) -> T:
        """Return what was made of this analysis and this data before, or make it."""
        key = what, id(self.analysis)
        if key not in self.memory:
            self.memory[key] = self.analysis, make()
        return self.memory[key][1]

    def per_run(self, target: Target) -> Target:
        """Costs count MACs of the batch that the analysis ran with; a user's number means one sample."""
        absolute_macs = target.kind == "macs" and not target.relative
        return replace(target, value=target.value * batch_size(self.facts)) if absolute_macs else target

    def per_sample(self, totals: Mapping[str, int]) -> dict[str, int]:
        """Return totals of a run with the MACs of one sample."""
        return {**totals, "macs": totals["macs"] // batch_size(self.facts)}


def first_rows(dataset: Dataset | None, most: int = 2) -> list[dict[str, np.ndarray]]:
    """Return a few real rows for the proof, as one run takes them; none without data."""
    return [] if dataset is None else [dict(next(iter(dataset.batches(most))))]
