"""Mistakes that can be seen without a model: files that are not there, names that stand for nothing, options that need others.

Each is told as the work itself would tell it, before anything heavy is loaded; ``tests/cli/test_foreseen.py`` compares the two.
"""

from __future__ import annotations

import glob
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from onnxprune.choices import AUTO, CHOICES, SCORES_OF_DATA, of_preset, score_named
from onnxprune.cli.kinds import PLACES
from onnxprune.cli.misuse import usage_of
from onnxprune.cli.reversed import refuse_reversed
from onnxprune.errors import DataError, InputError, ModelError, OnnxPruneError, PlanError, UsageError

MODELS = ("model", "other", "before", "after", "rewind")
PLANS = ("plan",)
FILES = ("labels", "tokenizer", "vocabulary", "weights", "baseline", "stats", "masks", "reports")
WRITTEN = ("plan_path", "masks_path", "statistics", "checkpoint")
SOURCES = ("calib", "calibration", "evaluation", "data")
"""What may be a folder, too."""


def foresee(ctx: click.Context) -> None:
    """Raise what can be told at once of a command line that was read; UsageError, ModelError, DataError, OutputError."""
    command, values = str(ctx.info_name), ctx.params
    refuse_reversed(command, values, usage_of(ctx))
    _refuse_unknown(values)
    _refuse_missing(values)
    if command == "prune":
        if values.get("preset"):
            values = {**values, **of_preset(values["preset"], values)}
        _refuse_shares(values)
        _refuse_without_data(values)
    if command == "sweep" and not (values.get("calib") or values.get("evaluation")):
        raise UsageError("a sweep compares by what the outputs lose; give data (--calib or --eval)")
    for name in WRITTEN:
        if values.get(name):
            _refuse_folder(Path(values[name]))
    if "dry_run" in values and not values["dry_run"] and values.get("model"):
        _refuse_output(values)


def _refuse_unknown(values: Mapping[str, Any]) -> None:
    """Refuse names that the tables do not have; kinds of change that a program has added are told by the work itself."""
    loaded = sys.modules.get("onnxprune.settings")
    added = () if loaded is None else tuple(loaded.GRANULARITIES)
    for name, choice in CHOICES.items():
        for text in _texts(values.get(name)):
            if name != "granularity" or not set(choice.within(text)) <= {*choice.names, *added}:
                choice.refuse_unknown(text)
    for several, name in (("criteria", "criterion"), ("repairs", "repair")):
        for text in _texts(values.get(several)):
            CHOICES[name].refuse_unknown(text)


def _texts(value: Any) -> Iterable[str]:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, tuple) else ()


def _refuse_missing(values: Mapping[str, Any]) -> None:
    """Refuse files that are read and are not there, and folders in their place."""
    measured = any(values.get(name) for name in SOURCES)
    for names, error in ((MODELS, ModelError), (PLANS, PlanError), (FILES, DataError), (SOURCES, DataError)):
        for name in names:
            for path in _texts(values.get(name)) if name != "labels" or measured else ():
                _require(Path(path), error)
                if path and names is not SOURCES and name in PLACES and Path(path).is_dir():
                    inside = "the .onnx file" if names is MODELS else "the file"
                    raise error(f"{path}: a folder, not {PLACES[name].what}; give {inside} inside it")


def _require(path: Path, error: type[InputError]) -> None:
    from onnxprune.model.files import status

    if str(path) and status(path, error) is None:
        raise error(f"{path}: no such file{_near(path)}")


def _near(path: Path) -> str:
    """Return a hint to files of its kind with like names beside it."""
    from onnxprune.registry import near_names

    try:
        beside = [entry.name for entry in path.parent.glob(f"*{glob.escape(path.suffix)}")]
    except (OSError, ValueError):
        return ""
    return near_names(path.name, beside[:10_000])


def _refuse_shares(values: Mapping[str, Any]) -> None:
    aims = [name for name in ("ratio", "target", "max_divergence") if values.get(name) is not None]
    if len(aims) > 1:
        raise UsageError("give one of ratio, target and max_divergence")
    ratio = values.get("ratio")
    if ratio is not None and not 0 <= ratio < 1:
        raise UsageError(f"--ratio {ratio}: give the share of units to remove, more than 0 and less than 1, e.g. 0.5")


def _of_zeros(values: Mapping[str, Any]) -> bool:
    """Whether single weights go, whose criteria need other things than those of units of the same names."""
    return bool(values.get("sparsity")) or values.get("structured") is False


def _is_effort(text: str | None) -> bool:
    """Whether steps or a time are given, more than none; what is neither is told by what reads it."""
    return text not in (None, "0") and re.fullmatch(r"\d{1,9}(\.\d+)?[a-z]*", str(text)) is not None


Asks = tuple[Callable[[Mapping[str, Any]], Any], Callable[[Mapping[str, Any]], str], type[OnnxPruneError]]
READERS: tuple[Asks, ...] = (
    (
        lambda v: not _of_zeros(v) and score_named(v.get("criterion") or "") in SCORES_OF_DATA,
        lambda v: f"criterion {score_named(v['criterion'])!r} looks at data",
        UsageError,
    ),
    (
        lambda v: 0 < (v.get("max_divergence") or 0.0) < math.inf,
        lambda v: "--max-divergence is judged on data",
        DataError,
    ),
    (lambda v: v.get("search") or v.get("search_recover"), lambda v: "--search judges widths on data", DataError),
    (
        lambda v: v.get("repair") not in (None, AUTO, "none", "isometry"),
        lambda v: f"--repair {v['repair']} looks at data",
        DataError,
    ),
    (lambda v: v.get("dynamic"), lambda v: "--dynamic teaches a gate on data", DataError),
    (lambda v: _is_effort(v.get("recover")), lambda v: "--recover trains on data", DataError),
    (
        lambda v: v.get("quantize") == "int8",
        lambda v: "--quantize int8 finds ranges of values on data, which dynamic does not need",
        DataError,
    ),
)
"""Whether an option looks at calibration data, what is said without, and how that counts."""
GATES = {
    "max_drop": "labelled data, or data and a task that the outputs tell or --task names",
    "min_agreement": "data for a classifier",
    "min_cosine": "data",
}
"""Gate -> what it cannot be judged without."""


def _refuse_without_data(values: Mapping[str, Any]) -> None:
    if values.get("calib"):
        return
    for asked, says, error in READERS:
        if asked(values):
            raise error(f"{says(values)}; give calibration data (--calib)")
    for name, needs in GATES.items():
        if values.get(name) is not None and not values.get("evaluation"):
            raise UsageError(f"the gate {name} needs {needs}, which was not given")


def _refuse_folder(path: Path) -> None:
    from onnxprune.model.places import check_folder

    if not path.parent.is_dir():
        check_folder(path)


def _refuse_output(values: Mapping[str, Any]) -> None:
    from onnxprune.model.places import output_path

    model, out = Path(values["model"]), values.get("out") or values.get("output")
    if out is None or Path(out).resolve() != model.resolve():  # what is read and written is told with all other paths
        output_path(model, out, bool(values.get("force")))
