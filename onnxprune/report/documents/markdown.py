"""A report as Markdown for a pull request or a step summary: short tables first, details folded, size bounded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from onnxprune.report.caches import cache_sentence
from onnxprune.report.documents.tables import Table, parts, shortened, tables
from onnxprune.report.entries import proof_sentence, verdict
from onnxprune.report.gated import gate_sentences
from onnxprune.report.quantising import quantised_sentences
from onnxprune.report.sizes import sizes_sentence
from onnxprune.report.tasks import task_sentence
from onnxprune.report.visible import visible

LIMIT = 1_000_000
"""Bytes; a step summary on GitHub may have 1 MiB."""
MARK = "<!-- written by onnxprune -->"
"""By which a later run knows that it may replace the file."""
ROWS = (1000, 200, 50, 10, 3)
"""How many rows a table may have, the first that keeps within the limit."""


def render(report: Mapping[str, Any]) -> str:
    """Return a report as a Markdown document of at most ``LIMIT`` bytes."""
    texts = (_document(report, rows) for rows in ROWS)
    return next((text for text in texts if len(text.encode()) <= LIMIT), _document(report, 0))


def _document(report: Mapping[str, Any], rows: int) -> str:
    found = [f"# onnxprune {escaped(report['command'] or '')}"]
    jobs = report.get("jobs")
    if jobs is not None:
        found.append(_table(("job", "result"), [(name, _result(job)) for name, job in jobs.items()]))
    for name, part in parts(report):
        found += ([f"## {escaped(shortened(name))}"] if name else []) + _part(part, rows)
    return "\n\n".join(text for text in (*found, MARK) if text) + "\n"


def _result(job: Mapping[str, Any]) -> str:
    failed = [gate["name"] for gate in job.get("gates", ()) if not gate["passed"]]
    error = shortened(job.get("error") or "")
    return error or (f"missed: {', '.join(failed)}" if failed else "passed")


def _part(report: Mapping[str, Any], rows: int) -> list[str]:
    if report.get("error"):
        return [f"**error:** {escaped(shortened(report['error'], 1000))}"]
    proof = proof_sentence(report["surgery"]) if report.get("surgery") else ""
    said = [
        verdict(dict(report)),
        task_sentence(report),
        sizes_sentence(report),
        proof,
        *quantised_sentences(report),
        *gate_sentences(report),
        cache_sentence(report),
    ]
    return [*map(escaped, said), *(_section(table, rows) for table in tables(report))]


def _section(table: Table, count: int) -> str:
    rows, more = table.first(count)
    body = _table(table.head, rows) + (f"\n\n... and {more} more" if more else "")
    if not table.folded:
        return f"**{table.title}**\n\n{body}"
    return f"<details><summary>{table.title} ({len(table.rows)})</summary>\n\n{body}\n\n</details>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [list(head), ["---"] * len(head), *([escaped(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def escaped(text: str) -> str:
    """Return text that Markdown shows as it is, in tables too."""
    plain = visible(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for mark in "\\`*_[]|~$#":
        plain = plain.replace(mark, f"\\{mark}")
    for text_of_links, entity in (("@", "&#64;"), ("://", "&#58;//"), ("www.", "www&#46;")):
        plain = plain.replace(text_of_links, entity)
    return plain
