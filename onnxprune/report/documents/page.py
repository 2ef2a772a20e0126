"""A report as one HTML file: no scripts, nothing loaded from elsewhere, light and dark, size bounded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from onnxprune.report.documents.figures import figures
from onnxprune.report.documents.tables import PASTE, exclude_lines, parts, shortened, tables
from onnxprune.report.entries import proof_sentence, verdict
from onnxprune.report.gated import gate_sentences
from onnxprune.report.quantising import quantised_sentences
from onnxprune.report.sizes import sizes_sentence
from onnxprune.report.tasks import task_sentence

LIMIT = 1_000_000
"""Bytes of the file."""
ROWS = (1000, 200, 50, 10, 3)
"""How many rows a table may have, the first that keeps within the limit."""
LONGEST_TEXT = 1000
UNFOLDED = 3  # rows of details that are not worth folding
FIGURED = 8  # jobs of a run whose figures are drawn


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
    template = environment.get_template("report.html")
    sections = [_section(name, part, number) for number, (name, part) in enumerate(parts(report))]
    command, tool = str(report["command"] or ""), report.get("tool", {})
    plain = [section | {"figures": []} for section in sections]
    attempts = [*((sections, rows) for rows in ROWS), (plain, 0)]
    for shown, rows in attempts:
        text = template.render(command=command, tool=tool, sections=shown, rows=rows, paste=PASTE, unfolded=UNFOLDED)
        if len(text.encode()) <= LIMIT:
            break
    return text


def _section(name: str, report: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Return what the template shows of one job."""
    failed = [gate["name"] for gate in report.get("gates", ()) if not gate["passed"]]
    found = [table for table in tables(report) if table.title != PASTE]
    models = [report[key] for key in ("model", "other", "output") if report.get(key)]
    return {
        "name": name,
        "error": report.get("error") or "",
        "failed": failed,
        "gated": bool(report.get("gates")),
        "proof": proof_sentence(dict(report["surgery"])) if report.get("surgery") else "",
        "sentences": [*quantised_sentences(report), *gate_sentences(report)],
        "sizes": sizes_sentence(report),
        "verdict": "" if report.get("error") else verdict(dict(report)),
        "task": task_sentence(report),
        "models": [(shortened(str(m["path"] or "a model in memory")), m["sha256"]) for m in models],
        "figures": [(title, Markup(svg)) for title, svg in figures(report, number)] if number < FIGURED else [],
        "open": [table for table in found if not table.folded],
        "folded": [table for table in found if table.folded],
        "excludes": exclude_lines(report),
    }
