"""What the pruned model is worth beside the original: drift, task metric, latency, and the gates they must pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from onnxprune.criteria.earlier import EARLIER
from onnxprune.data import Dataset, shared_rows
from onnxprune.data.survey import Survey
from onnxprune.errors import DataError, ModelError, OnnxPruneError, UsageError
from onnxprune.evidence.attacks.vulnerability import VULNERABILITY
from onnxprune.evidence.gradients import KINDS
from onnxprune.means import Means
from onnxprune.measure.bootstrap import unseen_bound
from onnxprune.measure.by_rows import measure_rows
from onnxprune.measure.drift import DriftReport, compare
from onnxprune.measure.latency import LatencyReport, measure_pair
from onnxprune.measure.metrics import script_metric
from onnxprune.measure.outputs import VARYING, Outputs
from onnxprune.measure.tasks.task import NONE, OPTIONS
from onnxprune.model.facts import Facts
from onnxprune.model.gated import asking_value
from onnxprune.model.read import Model
from onnxprune.model.runtime import revealing
from onnxprune.model.segmented import loaded_bytes, runs_in_segments
from onnxprune.model.thin import FROM
from onnxprune.proof.inputs import random_feeds
from onnxprune.report.latency import believed_ratio, latency_doubt
from onnxprune.settings import AUTO, Settings

LATENCY_SECONDS, ROWS_SECONDS = 2.0, 6.0

QUALITY = ("max_drop", "min_agreement", "min_cosine")
"""Gates on what data shows."""

Measured = dict[str, Any]


def single_feeds(facts: Facts, seed: int, survey: Survey | None = None) -> dict[str, np.ndarray]:
    """Return one sample of the sizes that costs are told of: a real row where there is one of these sizes, else random."""
    if survey is not None and survey.shapes == dict(facts.told):
        return dict(survey.feed)
    return random_feeds(facts, seed, facts.told, integers=survey.integers if survey else None)


def measure_drift(
    before: Model,
    after: Model,
    dataset: Dataset,
    means: Means,
    metric: str | None = None,
    outputs: Outputs | None = None,
) -> DriftReport:
    """Run both models on all data; compare outputs and, with labels or ``metric`` (script.py:function), their worth.

    ``outputs``: where their samples and channels are; values inside are compared in place of some, where both have them.
    """
    made = [{name for node in model.structure.graph.node for name in node.output} for model in (before, after)]
    inner = [name for name in (outputs.inner if outputs else ()) if all(name in there for there in made)]
    state = outputs.state if outputs else ()
    first, second = (revealing(model, inner, threads=means.threads).leaving(state) for model in (before, after))
    task = None if metric is None else script_metric(metric)
    return compare(first, second, dataset, means, metric=task, outputs=outputs)


def doubts(
    found: DriftReport, settings: Settings, calibration: Dataset | None, evaluation: Dataset | None
) -> list[str]:
    """Say why the numbers may prove less than they seem to: too few samples, or rows that also decided.

    Raises DataError for such rows when ``strict``.
    """
    texts = []
    if found.task is not None and settings.max_drop is not None and found.task.values[0].size:
        texts.append(found.task.prove(settings.max_drop).warning())
    elif found.agreement is not None and settings.max_drop is not None and len(found.agreement.known):
        texts.append(found.agreement.prove(settings.max_drop).warning())
    if settings.min_agreement is not None:
        seen = unseen_bound(max(found.samples, 1))
        if seen > 1 - settings.min_agreement:
            text = f"{found.samples:,} samples cannot prove an agreement of {settings.min_agreement:.2%}: even without a change"
            texts.append(f"{text}, {seen:.2%} of changed classes are not excluded")
    gated = [name for name in QUALITY if getattr(settings, name) is not None]
    if gated and calibration is not None and evaluation is None:
        texts.append(
            f"{', '.join(gated)}: judged on calibration rows, which decided too, so that the result looks better than it is; "
            "give others to judge by (--eval)"
        )
    shared = len(shared_rows(calibration, evaluation)) if calibration and evaluation else 0
    if shared:
        text = f"{shared:,} of {len(evaluation or ()):,} evaluation rows are calibration rows too: the result looks better than it is"
        if settings.strict:
            raise DataError(f"{text}; take them out of either")
        texts.append(text)
    return [text for text in texts if text]


def measure_latency(
    before: Model,
    after: Model,
    facts: Facts,
    settings: Settings,
    survey: Survey | None = None,
    rows: Dataset | None = None,
) -> LatencyReport:
    """Time both models in turns on one sample, on many of ``rows`` where it is up to these how much is run; raises ModelError where they are too large for one process to hold both."""
    if runs_in_segments(before):
        size = loaded_bytes(before) + loaded_bytes(after)
        raise ModelError(
            f"loaded, the weights of both take {size / 1e9:.1f} GB or more; 'onnxprune bench MODEL' times each alone"
        )
    as_stored = before.path if before.path is not None and before.size >= FROM else before  # takes less memory to load
    if rows is not None and any(asking_value(model) for model in (before, after)):
        return measure_rows(as_stored, after, rows, settings.means, max_seconds=ROWS_SECONDS)
    return measure_pair(
        as_stored,
        after,
        single_feeds(facts, settings.seed, survey),
        settings.means,
        max_seconds=LATENCY_SECONDS,
    )


# --- gates ----------------------------------------------------------------------------------------------------------


class Gate(NamedTuple):
    """``value`` out of what was measured; ``possible``: whether a run with these settings and data will know it.

    ``open``: whether it was measured and nothing can be concluded from it, so that the gate is not passed.
    """

    value: Callable[[Measured], float | None]
    possible: Callable[[Settings, Dataset | None], bool]
    at_least: bool
    needs: str
    open: Callable[[Measured], bool] = lambda _: False


def _of(part: str, key: str) -> Callable[[Measured], float | None]:
    return lambda measured: (measured.get(part) or {}).get(key)


def _worst(metric: str) -> Callable[[Measured], float | None]:
    """The worst of all outputs, and of all groups of channels inside one, that have the metric.

    Outputs whose entries are up to the data say nothing: what is compared in their place does.
    """

    def value(measured: Measured) -> float | None:
        outputs = (measured.get("drift") or {}).get("outputs") or {}
        settled = [drift for drift in outputs.values() if drift.get("kind") != VARYING]
        parts = [part for drift in settled for part in (drift, *drift.get("groups", ()))]
        return min((part[metric] for part in parts if part.get(metric) is not None), default=None)

    return value


def _has_data(_: Settings, data: Dataset | None) -> bool:
    return data is not None


GATES: dict[str, Gate] = {
    "max_drop": Gate(
        _of("task", "drop"),
        lambda s, data: data is not None and (data.has_labels or s.purpose.kind != NONE),
        False,
        "labelled data, or data and a task that the outputs tell or --task names",
    ),
    "min_agreement": Gate(_worst("top1_agreement"), _has_data, True, "data for a classifier"),
    "min_cosine": Gate(_worst("cosine"), _has_data, True, "data"),
    "max_latency_ratio": Gate(
        believed_ratio, lambda s, _: s.latency, False, "a latency measurement", lambda m: bool(latency_doubt(m))
    ),
    "max_size": Gate(_of("after", "bytes"), lambda _, data: True, False, "the size of the result"),
}


class Reader(NamedTuple):
    """What looks at calibration data: whether these settings ask for it, what to say without, and how that counts."""

    asked: Callable[[Settings], Any]
    says: Callable[[Settings], str]
    error: type[OnnxPruneError] = DataError


READERS: tuple[Reader, ...] = (
    Reader(
        lambda s: s.criterion != AUTO and set(s.scorer.needs) - {EARLIER},
        lambda s: f"criterion {s.scorer.name!r} looks at data",
        UsageError,
    ),
    Reader(lambda s: s.max_divergence is not None, lambda s: "--max-divergence is judged on data"),
    Reader(lambda s: s.search or s.search_recover, lambda s: "--search judges widths on data"),
    Reader(lambda s: s.repair not in (AUTO, "none", "isometry"), lambda s: f"--repair {s.repair} looks at data"),
    Reader(lambda s: s.dynamic, lambda s: "--dynamic teaches a gate on data"),
    Reader(lambda s: s.recipe, lambda s: "--recover trains on data"),
    Reader(
        lambda s: s.quantize == "int8",
        lambda s: "--quantize int8 finds ranges of values on data, which dynamic does not need",
    ),
)


def require_data(settings: Settings, given: bool) -> None:
    """Refuse, before any work, what cannot be done without calibration data; raises UsageError, DataError."""
    for reader in READERS if not given else ():
        if reader.asked(settings):
            raise reader.error(f"{reader.says(settings)}; give calibration data (--calib)")


def refuse_idle_attack(settings: Settings) -> None:
    """Refuse an attack that changes no rows which anything looks at; raises UsageError."""
    scorer = settings.scorer
    if settings.attack and not scorer.learned and {VULNERABILITY, *KINDS}.isdisjoint(scorer.needs):
        raise UsageError(
            f"attack {settings.attack} changes the rows that criterion vulnerability, criteria of gradients and trained gates look at, and this run names none; "
            "name one (--criterion group-fisher), or leave attack out"
        )


def require_measurable(settings: Settings, dataset: Dataset | None) -> None:
    """Refuse gates that nothing given can decide, before any work; raises UsageError."""
    for name, gate in GATES.items():
        if getattr(settings, name) is not None and not gate.possible(settings, dataset):
            raise _undecidable(name, gate)


def require_judges(settings: Settings, outputs: Outputs, *, labelled: bool) -> None:
    """Refuse to gate a choice among classes that no output makes, or a task that nobody knows, before any long work.

    Raises UsageError.
    """
    if settings.max_drop is not None and not labelled and outputs.task is None:
        raise UsageError(
            f"the gate max_drop needs labels, or to know what the model is for, and {outputs.unknown}; "
            f"say it: --task {', '.join(OPTIONS)}"
        )
    if settings.min_agreement is not None and not outputs.classes:
        kinds = ", ".join(f"{name} ({output.kind})" for name, output in outputs.of.items()) or "none that is compared"
        raise UsageError(
            f"the gate min_agreement needs an output of class scores, and the model has none: {kinds}; "
            "gate by min_cosine, or by max_drop with a metric of your own"
        )


def judge(settings: Settings, measured: Measured) -> list[dict[str, Any]]:
    """Return the verdict of every gate that was set; raises UsageError where nothing was measured to judge it by."""
    gates = []
    for name, gate in GATES.items():
        limit = getattr(settings, name)
        if limit is None:
            continue
        value = gate.value(measured)
        if value is None and not gate.open(measured):
            raise _undecidable(name, gate)
        passed = value is not None and (value >= limit if gate.at_least else value <= limit)
        gates.append({"name": name, "limit": limit, "value": value, "passed": bool(passed)})
    return gates


def _undecidable(name: str, gate: Gate) -> UsageError:
    return UsageError(f"the gate {name} needs {gate.needs}, which was not given")
