"""The runs behind ``stats``: what data shows about a model's units, for a share of the rows or for all, written to a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onnxprune.changes.context import Data
from onnxprune.changes.units.choose import about_evidence, evidence_of
from onnxprune.data import Dataset
from onnxprune.errors import UsageError
from onnxprune.evidence.gathered import Gathered, Gathering, joined
from onnxprune.evidence.sites import REQUESTS
from onnxprune.model.memory import peak_rss_bytes
from onnxprune.model.model import Model
from onnxprune.report.entries import Report, header, model_entry
from onnxprune.report.stages import Stages
from onnxprune.runs.run import Run
from onnxprune.settings import UNITS, Settings
from onnxprune.spread.machine import doubts_about

Shard = tuple[int, int]
"""Which part, counted from 1, of how many."""


def parse_shard(text: str) -> Shard:
    """Return the part that ``i/n`` names; raises UsageError."""
    first, slash, second = text.partition("/")
    if not (slash and first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second)):
        raise UsageError(f"shard {text!r}: give which part of how many, from 1/7 to 7/7")
    return int(first), int(second)


def gather_shard(
    model: Model, settings: Settings, dataset: Dataset, shard: Shard, output: Path, stages: Stages
) -> Report:
    """Gather what the criterion asks for from one part of the data, write it, and return the report of ``stats``."""
    if settings.spaces != (UNITS,) or not settings.scorer.needs or settings.scorer.learned:
        raise UsageError(
            "stats gathers what a criterion of units asks of data; name one that looks at data, such as --criterion obs or wanda "
            "('onnxprune criteria' lists them)"
        )
    run = Run("stats", model, settings, Data(dataset), stages)
    context = run.context(compares=not REQUESTS.keys() >= set(settings.scorer.needs))
    with stages("evidence"):
        gathering = Gathering(shard, context.means.spread)
        _, told = evidence_of(context, context.analysis, dataset, context.means.through(gathering))
        found = gathering.gathered(about_evidence(context, context.analysis, dataset), dataset)
    with stages("save"):
        found.save(output)
    about = {"model": model_entry(model), "shard": f"{shard[0]}/{shard[1]}"}
    return _report(found, run.settings, output, stages) | about | {"warnings": [*run.notes.warnings, *told]}


def merge_shards(paths: Sequence[Path], output: Path, stages: Stages) -> Report:
    """Put all parts together, write them as one file, and return the report; raises DataError where they do not belong together."""
    if not paths:
        raise UsageError("there is nothing to merge; name the files of all parts")
    with stages("merge"):
        found = joined(paths)
    with stages("save"):
        found.save(output)
    report = _report(found, None, output, stages)
    return report | {"merged": [str(path) for path in paths], "warnings": doubts_about(found.machines)}


def _report(found: Gathered, settings: Settings | None, output: Path, stages: Stages) -> Report:
    return header("stats", None if settings is None else settings.to_json()) | {
        "samples": found.samples,
        "rows": [list(run) for run in found.rows],
        "needs": found.about["needs"],
        "output": {"path": str(output), "bytes": output.stat().st_size},
        "seconds": stages.seconds,
        "peak_rss_bytes": peak_rss_bytes(),
    }
