"""The sizes that costs and latency are counted at, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxprune.data.survey import Survey
from onnxprune.model.facts import Facts
from onnxprune.model.sizes import free_dimensions
from onnxprune.report.entries import Report, ReportView
from onnxprune.settings import Settings

MOST_INPUTS = 3  # named in a sentence
FILE, OPTION, SETTING = "the file", "--input-shape", "the setting row_shape"
TRIED = "trial runs"
REAL = " (--input-shape or --calib gives real sizes)"


def sizes_entry(facts: Facts, settings: Settings, survey: Survey | None = None, rows: str = "the rows") -> Report:
    """Return the shapes of the inputs that costs are told of, and their source; ``rows``: what the surveyed rows are called."""
    found: Report = {
        "inputs": {name: list(shape) for name, shape in facts.told.items()},
        "from": _source(facts, settings),
    }
    if found["from"] != SETTING or survey is None or dict(settings.row_shape) != survey.shapes:
        return found
    found["from"] = rows
    if survey.smallest != survey.largest:
        found |= {
            "smallest": {name: list(shape) for name, shape in survey.smallest.items()},
            "largest": {name: list(shape) for name, shape in survey.largest.items()},
        }
    return found


def _source(facts: Facts, settings: Settings) -> str:
    left = {name for name, axis, _ in free_dimensions(facts.graph) if (name, axis) not in facts.batch_axes}
    left |= {name for name, _ in facts.batch_axes} if facts.batch == 1 else set()
    if not left:
        return FILE
    if left <= dict(settings.input_shape).keys():
        return OPTION
    return SETTING if settings.row_shape else TRIED


def sizes_sentence(report: ReportView) -> str:
    """Say at what sizes costs are counted; "" in reports that do not know it."""
    sizes = report.get("sizes")
    if not sizes or not sizes["inputs"]:
        return ""
    between = ""
    if "smallest" in sizes:
        ends = (_named(sizes[end]) for end in ("smallest", "largest"))
        between = f", which go from {' to '.join(ends)}"
    advice = REAL if sizes["from"] == TRIED else ""
    return f"costs at {_named(sizes['inputs'])}, from {sizes['from']}{between}{advice}"


def _named(inputs: Mapping[str, Sequence[int]]) -> str:
    """Return shapes such as 1x3x320x320, with the names where there are several inputs; those without axes are left out."""
    shapes = {name: "x".join(map(str, shape)) for name, shape in inputs.items() if shape}
    if len(inputs) == 1:
        return next(iter(shapes.values()), "a single number")
    named = [f"{name} {shape}" for name, shape in shapes.items()]
    more = f" and {len(named) - MOST_INPUTS} more" if len(named) > MOST_INPUTS else ""
    return ", ".join(named[:MOST_INPUTS]) + more
