"""What a report has to show, as tables: shared by Markdown and HTML, so that both say the same."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from onnxprune.allocate import literal
from onnxprune.report.caches import CACHES, cache_rows
from onnxprune.report.checkpoints import SLICED_TENSORS, slicing_rows
from onnxprune.report.documents.stays import staying_rows
from onnxprune.report.entries import (
    DRIFT,
    SHARES,
    STEPS,
    TOTALS,
    WAYS,
    ReportView,
    comparison,
    drift_rows,
    proof_rows,
    share_rows,
    step_rows,
    way_rows,
)
from onnxprune.report.experts import EXPERT_COLUMNS, expert_rows
from onnxprune.report.limits import gate_rows
from onnxprune.report.quantising import (
    FORMS_OF_MODEL,
    RECIPES_TRIED,
    WEIGHING_NODES,
    form_rows,
    recipe_rows,
    weighing_rows,
)
from onnxprune.report.robustness import ROBUSTNESS, robustness_rows
from onnxprune.report.storage import SIZES, TENSORS, packing_rows, tensor_rows
from onnxprune.report.tasks import PARTS, task_rows
from onnxprune.report.visible import visible
from onnxprune.report.vocabulary import TOKEN_TENSORS, token_rows

LONGEST_CELL = 160
LONGEST_OPTION = 1000
SHORT = 18
POINT = "criterion, repair, ratio"
STAYING = "Axes that stay"
PASTE = "To paste: leaves alone what is not worth cutting"
WARNINGS = "Warnings"
IN_FULL = (PASTE, STAYING, WARNINGS)
"""Tables of sentences and options."""
NUMBER = re.compile(r"[+-]?[\d.,]+([eE%].*| points?| bytes?)?$|-$|equal$|$")

TableRows = Sequence[Sequence[str]]


@dataclass(frozen=True)
class Table:
    """TableRows of text under a head; ``folded``: details that a reader opens."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    folded: bool = True

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """Return what each column holds: ``number`` (changes and dashes too), ``short`` texts, or anything."""
        return tuple(_kind([row[column] for row in self.rows]) for column in range(len(self.head)))

    def first(self, count: int) -> tuple[tuple[tuple[str, ...], ...], int]:
        """Return at most ``count`` rows and how many were left out."""
        return self.rows[:count], max(0, len(self.rows) - count)


def _kind(cells: Sequence[str]) -> str:
    if all(map(NUMBER.match, cells)):
        return "number"
    return "short" if max(map(len, cells)) <= SHORT else ""


def shortened(text: str, longest: int = LONGEST_CELL) -> str:
    """Return a name on one line, unprintable characters escaped, its middle left out where it is too long."""
    plain = visible(text)
    half = (longest - 1) // 2
    return plain if len(plain) <= longest else f"{plain[:half]}…{plain[-half:]}"


def exclude_lines(report: ReportView) -> list[str]:
    """Return the options, quoted for a shell, that leave alone what could not be cut exactly, or is by far the most sensitive."""
    by_check = (report.get("surgery") or {}).get("frozen_by_check", ())
    patterns = [*map(literal, by_check), *report.get("exclude", ())]
    return [f"--exclude {shlex.quote(pattern)}" for pattern in patterns]


def tables(report: ReportView) -> list[Table]:
    """Return every table that a report of any command gives rise to, those without rows left out."""
    found = []
    for title, head, build, folded in TABLES:
        longest = LONGEST_OPTION if title in IN_FULL else LONGEST_CELL
        rows = tuple(tuple(shortened(cell, longest) for cell in row) for row in build(report))
        if rows:
            found.append(Table(title, head, rows, folded))
    return found


def parts(report: ReportView) -> list[tuple[str, ReportView]]:
    """Return (name, report) of every job; a report of one command is a single part without a name."""
    jobs = report.get("jobs")
    return [("", report)] if jobs is None else list(jobs.items())


def _sizes(report: ReportView) -> Iterator[tuple[str, ...]]:
    """Yield what a model as it is has, and how much of that depends on something that can be cut."""
    shares = report.get("prunable")
    if shares and "after" not in report:
        for key, title in TOTALS.items():
            share = f"{shares[key]:.1%}" if key in shares else "-"
            yield title, f"{report['before'][key]:,}", share


def _gates(report: ReportView) -> TableRows:
    return gate_rows(report.get("gates") or ())


def _drift(report: ReportView) -> TableRows:
    return drift_rows((report.get("drift") or {}).get("outputs") or {})


def _layers(report: ReportView) -> Iterator[tuple[str, ...]]:
    for row in (report.get("layers") or {}).get("tensors", ()):
        sqnr = "equal" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f}"
        yield row["name"], row["op"], sqnr


def _latency(report: ReportView) -> Iterator[tuple[str, ...]]:
    latency = report.get("latency") or {}
    for name in ("before", "after"):
        if name in latency:
            found = latency[name]
            yield name, *(f"{found[key]:,.0f}" for key in ("min", "p10", "p50", "p90", "p99")), str(found["runs"])


def _proof(report: ReportView) -> TableRows:
    return proof_rows(report.get("surgery") or {})


def memory_rows(report: ReportView) -> Iterator[tuple[str, ...]]:
    for name, found in (report.get("memory") or {}).items():
        if found is not None:
            yield name, *(_count(found[key]) for key in ("weight_bytes", "peak_activation_bytes", "peak_rss_bytes"))


def _label(point: ReportView) -> str:
    """Return a point's label, with the repair that ``auto`` came to."""
    settings = point.get("settings") or {}
    if settings.get("repair") != "auto" or "repaired" not in point:
        return point["label"]
    return f"{settings['criterion']} auto ({point['repaired']}) {settings['ratio']}"


def points(report: ReportView) -> Iterator[tuple[str, ...]]:
    for point in report.get("points", ()):
        if point["error"] is not None:
            yield point["label"], "-", "-", "-", point["error"]
            continue
        mark = "chosen" if point["id"] == report.get("chosen") else "Pareto" if point["pareto"] else ""
        lost = "-" if point["quality"] is None else f"{point['quality']:.2%}"
        share, size = f"{point['macs_share']:.1%}", f"{point['bytes']:,}"
        yield _label(point), share, size, lost, mark


def _curves(report: ReportView) -> Iterator[tuple[str, ...]]:
    for curve in report.get("curves", ()):
        points = zip(curve["widths"], curve["fitted"], strict=True)
        yield curve["group"], str(curve["width"]), ", ".join(f"{width}: {value:.3g}" for width, value in points)


def _groups(report: ReportView) -> Iterator[tuple[str, ...]]:
    for group in report.get("groups", ()):
        widths = str(group["width_before"]), str(group["width_after"])
        yield group["name"], *widths, group["status"], f"{group['macs']:,}", f"{group['parameters']:,}"


def _excludes(report: ReportView) -> Iterator[tuple[str, ...]]:
    for line in exclude_lines(report):
        yield (line,)


def _warnings(report: ReportView) -> Iterator[tuple[str, ...]]:
    for text in report.get("warnings", ()):
        yield (text,)


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


TABLES: tuple[tuple[str, tuple[str, ...], Callable[[ReportView], Any], bool], ...] = (
    ("Before and after", ("", "before", "after", "change"), lambda r: comparison(dict(r)), False),
    ("Size", ("", "now", "prunable"), _sizes, False),
    ("Steps", STEPS, step_rows, False),
    ("Shares tried", SHARES, share_rows, True),
    ("Rotation tried", WAYS, way_rows, True),
    ("Vocabulary", TOKEN_TENSORS, token_rows, False),
    ("Cache", CACHES, cache_rows, True),
    ("Experts", EXPERT_COLUMNS, expert_rows, True),
    ("Storage", SIZES, packing_rows, False),
    ("Quantised", FORMS_OF_MODEL, form_rows, False),
    ("Gates", ("gate", "limit", "value", "passed"), _gates, False),
    ("Points", (POINT, "MACs left", "bytes", "lost", ""), points, False),
    (WARNINGS, ("warning",), _warnings, False),
    ("Proof", ("output", "moved by silencing", "error", "proof"), _proof, True),
    ("Latency in µs", ("model", "min", "p10", "p50", "p90", "p99", "runs"), _latency, True),
    ("Memory in bytes", ("model", "weights", "peak activations", "peak resident"), memory_rows, True),
    ("Robustness", ROBUSTNESS, robustness_rows, False),
    ("Task", PARTS, task_rows, True),
    ("Drift", DRIFT, _drift, True),
    ("Divergence per tensor", ("tensor", "operator", "SQNR dB"), _layers, True),
    ("Each group narrowed alone", ("group", "units", "divergence with so many left"), _curves, True),
    ("Groups", ("group", "before", "after", "status", "MACs", "parameters"), _groups, True),
    ("Tensors of the checkpoint", SLICED_TENSORS, slicing_rows, True),
    ("Stored tensors", TENSORS, tensor_rows, True),
    ("Quantisation tried", RECIPES_TRIED, recipe_rows, True),
    ("Nodes with weights", WEIGHING_NODES, weighing_rows, True),
    (STAYING, ("reason", "way out", "axes", "MACs"), staying_rows, True),
    (PASTE, ("options",), _excludes, True),
)
