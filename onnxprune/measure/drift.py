"""How far one model's outputs are from another's, and what that does to the task: one pass, fixed-size accumulators."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxprune.data import Dataset
from onnxprune.data.observe import observe
from onnxprune.errors import DataError
from onnxprune.means import Means
from onnxprune.measure.accumulators import ErrorHistogram, Mean
from onnxprune.measure.bootstrap import RESAMPLES, Proof, paired_interval, prove
from onnxprune.measure.compared import Compared, Runnable, TwoModels, TwoModelsInTurn, pair_outputs
from onnxprune.measure.inside import ChannelDrift, OutputRows, finite
from onnxprune.measure.metrics import ROW_METRICS, RowMetric, TaskMetric, label_metric
from onnxprune.measure.outputs import CLASSES, VARYING, Output, Outputs
from onnxprune.measure.tasks.agreement import TaskAgreement
from onnxprune.measure.tasks.task import Answered

AT_ONCE = 1 << 20  # entries that a metric looks at together: it makes many arrays of as many


@dataclass
class OutputDrift:
    """Drift of one output, over every batch added so far.

    ``how``: where its samples and channels are (None: samples first, nothing else known). ``non_finite``: elements that are
    NaN or Inf in one model only; such a row counts as wholly wrong. ``incomparable``: batches in which the two outputs had
    different shapes; nothing else includes them. ``varies``: its entries are up to the data, so that little can be said.
    """

    how: Output | None = None
    varies: bool = False
    signal: float = 0.0
    noise: float = 0.0
    max_abs: float = 0.0
    elements: int = 0
    non_finite: int = 0
    incomparable: int = 0
    errors: ErrorHistogram = field(default_factory=ErrorHistogram)
    rows: dict[str, Mean] = field(default_factory=lambda: {name: Mean() for name in ROW_METRICS})
    channels: ChannelDrift | None = None

    def add(self, before: np.ndarray, after: np.ndarray, samples: int, mask: np.ndarray | None = None) -> None:
        """Add one batch of ``samples`` samples; where no axis follows them, the output is one row.

        ``mask``: [samples, steps], 0 where a step is padding: no class is chosen there, and channels are not compared.
        """
        if before.shape != after.shape:
            self.incomparable += 1
            return
        if not before.size:
            return
        error, a, b = _absolute_error(before, after)
        self.elements += error.size
        self.signal += float(np.square(a, where=np.isfinite(a), out=np.zeros_like(a)).sum())
        self.noise += float(np.square(error).sum())
        self.max_abs = max(self.max_abs, float(error.max()))
        self.non_finite += int(np.isinf(error).sum())
        self.errors.add(error)
        views = self._views(OutputRows(before, error, a, b), samples, mask)
        for name, metric in ROW_METRICS.items():
            view = views.get(metric.view)
            if view is not None and len(view.before) and metric.applies(view.before):
                self.rows[name].add(np.concatenate([_of_rows(metric, part) for part in view.in_parts(AT_ONCE)]))

    def _views(self, whole: OutputRows, samples: int, mask: np.ndarray | None) -> dict[str, OutputRows]:
        """Return the batch in every form that a metric may ask for; a form that the output does not have is absent."""
        how = self.how
        if how is None or not how.fits(whole.before.shape):
            rows = whole if whole.before.shape[:1] == (samples,) else OutputRows(*(part[None] for part in whole))
            return dict.fromkeys(("samples", "choices", "scores", "maps"), rows)
        rows, valid = OutputRows(*map(how.rows, whole)), how.valid(whole.before, mask)
        valid = None if valid is None or valid.all() else valid  # else all is copied
        if self.channels is None:
            self.channels = ChannelDrift.of(how)
        self.channels.add(rows, valid)
        views = {"samples": rows.shaped(len(rows.before), -1)}
        if how.classes:
            views["choices"] = rows.shaped(-1, len(how.weight)).only(None if valid is None else valid.reshape(-1))
        if how.kind in CLASSES:
            views["scores"] = views["choices"]
        if whole.before.ndim == 4 and how.channel_axis is not None and how.samples_axis is not None:
            views["maps"] = OutputRows(*(np.moveaxis(how.laid(part), -1, 1) for part in whole))
        return views

    def merge(self, other: OutputDrift) -> None:
        if self.channels and other.channels:
            self.channels.merge(other.channels)
        self.channels = self.channels or other.channels
        self.signal += other.signal
        self.noise += other.noise
        self.max_abs = max(self.max_abs, other.max_abs)
        self.elements += other.elements
        self.non_finite += other.non_finite
        self.incomparable += other.incomparable
        self.errors.merge(other.errors)
        for name, mean in other.rows.items():
            self.rows[name].merge(mean)

    def __getitem__(self, name: str) -> float | None:
        """Return a mean per-row metric by name; None where it does not apply to this output."""
        return self.rows[name].value

    @property
    def relative_l2(self) -> float:
        """|after - before| / |before|."""
        if self.noise == 0:
            return 0.0
        return math.sqrt(self.noise / self.signal) if self.signal else math.inf

    @property
    def sqnr_db(self) -> float:
        """10 log10(signal / noise): infinite for equal outputs."""
        ratio = self.relative_l2
        return math.inf if ratio == 0 else -math.inf if math.isinf(ratio) else -20 * math.log10(ratio)

    @property
    def p99_abs(self) -> float:
        """The absolute error that 99 % of the elements do not exceed, at most 1.6 % too large."""
        return min(self.errors.quantile(0.99), self.max_abs)

    def to_json(self) -> dict[str, Any]:
        """Return the numbers; null: does not apply, or infinite (``sqnr_db`` of equal outputs, or ``non_finite``).

        Where the channels are known also ``kind``, the axes, ``groups`` and ``worst_channel``, see ``ChannelDrift``.
        """
        names = ("sqnr_db", "relative_l2", "max_abs", "p99_abs")
        scalars = {name: getattr(self, name) if self.elements else None for name in names}
        means = {name: mean.value for name, mean in self.rows.items()}
        counts = {name: getattr(self, name) for name in ("elements", "non_finite", "incomparable")}
        known = self.channels.facts() if self.channels else {"kind": VARYING} if self.varies else {}
        return {name: finite(value) for name, value in (scalars | means).items()} | counts | known


def _of_rows(metric: RowMetric, view: OutputRows) -> np.ndarray:
    """Return float64[rows]."""
    broken = np.isinf(view.error).reshape(len(view.error), -1).any(axis=1)
    return np.where(broken, metric.worst, metric.compute(view.a, view.b))


def _absolute_error(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return |before - after| and both as float64: 0 where both are the same, even NaN; Inf where one is not finite."""
    a, b = before.astype(np.float64), after.astype(np.float64)
    with np.errstate(invalid="ignore"):
        error = np.asarray(np.abs(a - b))
    odd = ~np.isfinite(error)
    if odd.any():
        one, two = a[odd], b[odd]
        error[odd] = np.where((one == two) | (np.isnan(one) & np.isnan(two)), 0.0, np.inf)
    return error, a, b


@dataclass
class TaskDrift:
    """A task metric of both models; one value per sample and model is kept, which is what the interval needs."""

    metric: str
    seed: int = 0
    resamples: int = RESAMPLES
    parts: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def add(self, before: np.ndarray, after: np.ndarray) -> None:
        """Add float64[samples] of both models; samples without an answer (NaN before) are left out."""
        answered = ~np.isnan(before)
        if not (np.isfinite(before[answered]).all() and np.isfinite(after[answered]).all()):
            raise DataError(f"metric {self.metric!r} returned NaN or Inf; every sample needs a number for both models")
        self.parts.append((before[answered], after[answered]))

    def merge(self, other: TaskDrift) -> None:
        self.parts.extend(other.parts)

    @property
    def values(self) -> tuple[np.ndarray, np.ndarray]:
        before, after = (np.concatenate(parts) for parts in zip(*self.parts, strict=True))
        return before, after

    @property
    def drop(self) -> float:
        """mean(before) - mean(after); for an accuracy a share of 1."""
        before, after = self.values
        return float(before.mean() - after.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the drop, from a paired bootstrap."""
        return paired_interval(*self.values, resamples=self.resamples, seed=self.seed)

    def prove(self, budget: float) -> Proof:
        """Tell whether these samples prove that the drop is within ``budget``; for metrics between 0 and 1."""
        return prove(*self.values, self.interval, budget)

    def to_json(self) -> dict[str, Any]:
        before, after = self.values
        if not before.size:
            return dict.fromkeys(("before", "after", "drop", "interval")) | {"metric": self.metric, "samples": 0}
        return {
            "metric": self.metric,
            "before": float(before.mean()),
            "after": float(after.mean()),
            "drop": self.drop,
            "interval": list(self.interval),
            "samples": len(before),
            "resamples": self.resamples,
            "seed": self.seed,
        }


@dataclass(frozen=True)
class Question:
    """What is asked of two models' outputs: see ``compare``; ``how``: where samples and channels are."""

    metric: TaskMetric | None = None
    output: str | None = None
    seed: int = 0
    how: Outputs | None = None


@dataclass
class DriftReport:
    """Drift per output; of the task by labels or a metric of one's own, and without either by what the task is known to be."""

    samples: int = 0
    outputs: dict[str, OutputDrift] = field(default_factory=dict)
    task: TaskDrift | None = None
    synthetic: bool = False
    warnings: list[str] = field(default_factory=list)
    question: Question = Question()
    asked: TaskMetric | None = None
    agreement: TaskAgreement | None = None

    def fresh(self) -> DriftReport:
        """Return a report of the same that has seen nothing."""
        return DriftReport(synthetic=self.synthetic, warnings=list(self.warnings), question=self.question)

    def update(self, seen: Compared) -> None:
        """Add one batch."""
        for part in seen.parts(self.question.how):
            self._add(part)

    def _add(self, seen: Compared) -> None:
        samples, labels = seen.batch.samples, seen.batch.labels
        self.samples += samples
        self._add_outputs(seen)
        self.asked = self.asked or self.question.metric
        if self.asked is None and labels is not None:
            self.asked = label_metric({name: seen.old[name] for name in seen.new}, self.question.output)
        if self.asked is not None:
            self.task = self.task or TaskDrift(self.asked.name, self.question.seed)
            self.task.add(*(self.asked.values(outputs, labels, samples) for outputs in (seen.old, seen.new)))
        self._add_agreement(seen)

    def _add_agreement(self, seen: Compared) -> None:
        how, inputs = self.question.how, seen.batch.inputs
        if how is None or how.task is None or any(name not in seen.new for name in how.task.reads):
            return
        self.agreement = self.agreement or TaskAgreement(how.task, self.question.seed)
        self.agreement.update(*(Answered(found, inputs.get(how.mask), inputs) for found in (seen.old, seen.new)))

    def _add_outputs(self, seen: Compared) -> None:
        how, batch = self.question.how, seen.batch
        known, varying, mask = (how.of, how.varying, batch.inputs.get(how.mask)) if how else ({}, (), None)
        for name, value in seen.new.items():
            if _is_numeric(seen.old[name]) and _is_numeric(value):
                drift = self.outputs.setdefault(name, OutputDrift(known.get(name), name in varying))
                drift.add(seen.old[name], value, batch.samples, mask)
                continue
            text = f"output {name!r} is not a tensor of numbers and is not compared"
            self.warnings += [text] if text not in self.warnings else []

    def merge(self, other: DriftReport) -> None:
        """Add what another report saw of the same two models on later data."""
        self.samples += other.samples
        self.synthetic |= other.synthetic
        for name, drift in other.outputs.items():
            self.outputs.setdefault(name, OutputDrift(drift.how, drift.varies)).merge(drift)
        if self.task and other.task:
            self.task.merge(other.task)
        self.task = self.task or other.task
        if self.agreement and other.agreement:
            self.agreement.merge(other.agreement)
        self.agreement = self.agreement or other.agreement
        self.warnings += [text for text in other.warnings if text not in self.warnings]

    def to_json(self) -> dict[str, Any]:
        drift = {
            "samples": self.samples,
            "outputs": {name: drift.to_json() for name, drift in self.outputs.items()},
            "synthetic": self.synthetic,
            "warnings": self.warnings,
        }
        unknown = self.question.how.unknown if self.question.how else ""
        if self.question.how and self.question.how.state:
            drift["fed_again"] = list(self.question.how.state)
        return {"drift": drift | ({"task_unknown": unknown} if unknown else {}), "task": self._task()}

    def _task(self) -> dict[str, Any] | None:
        """Return what is known of the task: by labels or a metric, else how far it agrees with the original's."""
        if self.agreement is None:
            return self.task.to_json() | {"judge": "metric"} if self.task else None
        agreement = self.agreement.to_json()
        own = (
            self.task.to_json() | {"judge": "metric"} if self.task else self.agreement.as_drop() | {"judge": "original"}
        )
        return own | {"agreement": agreement}


def compare(
    before: Runnable,
    after: Runnable,
    dataset: Dataset,
    means: Means = Means(),
    *,
    metric: TaskMetric | None = None,
    output: str | None = None,
    outputs: Outputs | None = None,
) -> DriftReport:
    """Run both models on all data and return how far ``after`` is from ``before``.

    With labels the task metric is the accuracy of ``output`` (None: the first that looks like a classifier's);
    ``metric`` replaces it. ``outputs``: where their samples and channels are, and what they are. Raises ModelError when the models share no output or cannot be run, DataError for labels
    that do not fit.
    """
    pairs = pair_outputs(before.outputs, after.outputs)
    said = ["the inputs are random: the drift says nothing about accuracy on real data"] if dataset.synthetic else []
    empty = DriftReport(
        synthetic=dataset.synthetic, warnings=said, question=Question(metric, output, means.seed, outputs)
    )

    apart = before.by_segments or after.by_segments
    look = TwoModelsInTurn(before, after, pairs, means) if apart else TwoModels(before, after, pairs)
    (report,) = observe(look, dataset, [empty], means.quiet)
    report.warnings += _warnings(report, dataset.has_labels)
    return report


def _is_numeric(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiub"


def _warnings(report: DriftReport, has_labels: bool) -> list[str]:
    """Say what a reader of the numbers has to know."""
    texts = []
    for name, drift in report.outputs.items():
        if drift.non_finite:
            texts.append(f"output {name!r}: {drift.non_finite} elements are NaN or Inf in one of the models only")
        if drift.incomparable:
            texts.append(f"output {name!r}: shapes differ in {drift.incomparable} batches, which are left out")
    if has_labels and report.task is None:
        texts.append("labels were given, but no output looks like a classifier's; pass --metric script.py:function")
    return texts
