"""A report as one HTML file: no scripts, nothing loaded from elsewhere, light and dark, size bounded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePath
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from onnxprune.report.documents.bars import bar_tables
from onnxprune.report.documents.commandline import chosen_line, command_line
from onnxprune.report.documents.graph.sections import SHOWN, Picture, picture_of
from onnxprune.report.documents.headline import badges, decided_by, headlines, origin, outcome
from onnxprune.report.documents.plots import plots
from onnxprune.report.documents.stays import staying
from onnxprune.report.documents.tables import (
    PASTE,
    POINT,
    STAYING,
    WARNINGS,
    Table,
    exclude_lines,
    parts,
    points,
    shortened,
    tables,
)
from onnxprune.report.entries import proof_sentence, verdict
from onnxprune.report.gated import gate_sentences
from onnxprune.report.quantising import quantised_sentences
from onnxprune.report.sizes import sizes_sentence
from onnxprune.report.tasks import task_sentence

LIMIT = 1_000_000
"""Bytes of the file."""
ATTEMPTS = ((1000, 0), (1000, 1), (200, 1), (200, 2), (50, 2), (50, 3), (10, 3), (3, None))
"""How many rows a table may have and how much of a graph is drawn (None: nothing), the first that keeps within the limit."""
LONGEST_TEXT = 1000
UNFOLDED, BARS = 3, 120  # rows of details, and of bars, that are not worth folding
DRAWN = 8  # jobs of a run whose graphs and plots are drawn
OPENED = ("Proof", "Drift", "Task", "Latency in µs", "Memory in bytes")
"""Tables of details that are open where they are short."""
NOT_AS_TABLES = {PASTE, STAYING, WARNINGS, "Gates", "Divergence per tensor"}
"""Tables that a page shows by other means."""


def render(report: Mapping[str, Any]) -> str:
    """Return a report as an HTML document of at most ``LIMIT`` bytes; every text from a model is escaped."""
    environment = Environment(
        loader=PackageLoader("onnxprune.report.documents", "templates"),
        autoescape=select_autoescape(("html", "css")),
        undefined=StrictUndefined,
        finalize=lambda value: shortened(value, LONGEST_TEXT) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["parting"] = _parting
    template = environment.get_template("report.html")
    found = parts(report)
    sections = [_section(name, part, number < DRAWN) for number, (name, part) in enumerate(found)]
    about = {
        "command": str(report["command"] or ""),
        "subject": _subject(report),
        "tool": report.get("tool", {}),
        "paste": PASTE,
        "bars": BARS,
        "percent": lambda share: f"{100 * share:.4g}",
    }
    for rows, level in ATTEMPTS:
        for number, (section, (_, part)) in enumerate(zip(sections, found, strict=True)):
            section["graph"] = (
                None if level is None or number >= DRAWN else _picture(part, level, len(found), f"b{number}")
            )
        text = template.render(about, sections=sections, rows=rows)
        if len(text.encode()) <= LIMIT:
            break
    return text


def _parting(name: str) -> Markup:
    """Return a name that lines break behind its slashes, rather than within words."""
    return Markup("/<wbr>").join(shortened(name, LONGEST_TEXT).split("/"))


def _picture(report: Mapping[str, Any], level: int, jobs: int, ids: str) -> Picture | None:
    """Return the picture of a graph; of many jobs none needs every block of its own."""
    return picture_of(report, level if jobs <= 2 else max(level, len(SHOWN) - 2), ids)


def _subject(report: Mapping[str, Any]) -> str:
    """Return the name of the model that a report is of; nothing where it is of several."""
    path = (report.get("model") or {}).get("path")
    return PurePath(str(path)).name if path else ""


def _section(name: str, report: Mapping[str, Any], drawn: bool) -> dict[str, Any]:
    """Return what the template shows of one job."""
    found = [table for table in tables(report) if table.title not in NOT_AS_TABLES]
    said = [
        "" if report.get("error") else verdict(dict(report)),
        task_sentence(report),
        sizes_sentence(report),
        *quantised_sentences(report),
        *gate_sentences(report),
        proof_sentence(dict(report["surgery"])) if report.get("surgery") else "",
    ]
    return {
        "name": name,
        "error": report.get("error") or "",
        "outcome": outcome(report),
        "headlines": headlines(report),
        "badges": badges(report),
        "sentences": [text for text in said if text],
        "plots": plots(report) if drawn else [],
        "bars": bar_tables(report),
        "warnings": list(report.get("warnings") or ()),
        "open": [_without_failed(table) for table in found if _is_open(table)],
        "failed": [(label, why) for label, share, *_, why in points(report) if share == "-"],
        "chosen": chosen_line(report).splitlines(),
        "folded": [table for table in found if not _is_open(table)],
        "staying": staying(report),
        "excludes": exclude_lines(report),
        "decided": list(decided_by(report)),
        "origin": list(origin(report)),
        "command_line": command_line(report).splitlines(),
    }


def _without_failed(table: Table) -> Table:
    """Return a table without the points of a sweep that could not be done, whose reasons are told below it."""
    done = tuple(row for row in table.rows if row[1] != "-") if table.head[0] == POINT else table.rows
    return replace(table, rows=done)


def _is_open(table: Table) -> bool:
    return not table.folded or (table.title in OPENED and len(table.rows) <= UNFOLDED)
