"""A report as Markdown for a pull request or a step summary: the verdict first, as wide as a phone, details folded, size bounded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from onnxprune.report.caches import cache_sentence
from onnxprune.report.documents.bars import bar_tables
from onnxprune.report.documents.commandline import command_line
from onnxprune.report.documents.headline import badges, headlines, origin, outcome
from onnxprune.report.documents.stays import NAMED, Staying, staying
from onnxprune.report.documents.tables import PASTE, POINT, STAYING, WARNINGS, Table, parts, points, shortened, tables
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
WIDE = ("Before and after", "Points")
"""Tables that say in full what stands above them in short, which are folded."""
FENCED = re.compile("[<`@]")
"""What is not to stand in a block of code, whatever reads it."""
MOST_LINES, LONGEST_AXIS = 40, 60
ROWS = (1000, 200, 50, 10, 3)
"""How many rows a table may have, the first that keeps within the limit."""


def render(report: Mapping[str, Any]) -> str:
    """Return a report as a Markdown document of at most ``LIMIT`` bytes."""
    texts = (_document(report, rows) for rows in ROWS)
    return next((text for text in texts if len(text.encode()) <= LIMIT), _document(report, 0))


def _document(report: Mapping[str, Any], rows: int) -> str:
    jobs = report.get("jobs")
    found = [f"# onnxprune {escaped(report['command'] or '')}{_came_out(report) if jobs is None else ''}"]
    if jobs is not None:
        found.append(_table(("job", "result"), [(name, _result(job)) for name, job in jobs.items()]))
    for name, part in parts(report):
        found += ([f"## {escaped(shortened(name))}{_came_out(part)}"] if name else []) + _part(part, rows)
    return "\n\n".join(text for text in (*found, MARK) if text) + "\n"


def _came_out(report: Mapping[str, Any]) -> str:
    badge = outcome(report)
    return f": {badge.mark} {badge.word}" if badge else ""


def _result(job: Mapping[str, Any]) -> str:
    failed = [gate["name"] for gate in job.get("gates", ()) if not gate["passed"]]
    error = shortened(job.get("error") or "")
    badge = outcome(job)
    return error or (f"missed: {', '.join(failed)}" if failed else badge.word if badge else "done")


def _part(report: Mapping[str, Any], rows: int) -> list[str]:
    if report.get("error"):
        return [f"**error:** {escaped(shortened(report['error'], 1000))}"]
    said = [
        task_sentence(report),
        sizes_sentence(report),
        proof_sentence(report["surgery"]) if report.get("surgery") else "",
        *quantised_sentences(report),
        *gate_sentences(report),
        cache_sentence(report),
    ]
    shown = [table for table in tables(report) if table.title not in ("Gates", WARNINGS, PASTE, STAYING)]
    first = verdict(dict(report))
    return [
        f"**{escaped(first)}**" if first else "",
        _judged(report),
        _headlines(report),
        *map(escaped, said),
        *_points(report, rows),
        *(_section(table, rows) for table in shown if not table.folded and table.title not in WIDE),
        *(_folded(table.title, len(table.rows), _rows(table, rows)) for table in shown if table.title in WIDE),
        *_layers(report, rows),
        *(_section(table, rows) for table in shown if table.folded),
        _staying(report, rows),
        *(_section(table, rows) for table in tables(report) if table.title == PASTE),
        *_made(report),
    ]


def _judged(report: Mapping[str, Any]) -> str:
    """List the proof, every gate and every warning, which wrap where a table would not."""
    lines = [f"- {badge.mark} **{badge.word}** {escaped(badge.text)}" for badge in badges(report)]
    lines += [f"- ! **warning** {escaped(shortened(text, 1000))}" for text in report.get("warnings") or ()]
    return "\n".join(lines[:MOST_LINES]) + (
        f"\n- and {len(lines) - MOST_LINES} more" if len(lines) > MOST_LINES else ""
    )


def _headlines(report: Mapping[str, Any]) -> str:
    """Return the large figures as a table of three columns that a phone is wide enough for."""
    if "after" not in report:
        return ""
    rows = [
        (one.label, f"{one.was} → {one.now}" if one.was else one.now, _short(one.beside)) for one in headlines(report)
    ]
    return _table(("", "before → after", ""), rows) if rows else ""


def _points(report: Mapping[str, Any], count: int) -> list[str]:
    """Return the chosen point of a sweep, and a narrow table of all, those that could not be done below it."""
    found = [f"**{one.label}: {escaped(one.now)}, {escaped(one.beside)}**" for one in headlines(report)[:1]]
    every = list(points(report))
    done = [
        (f"{label}{f' ({mark})' if mark else ''}", share, lost) for label, share, _, lost, mark in every if share != "-"
    ]
    failed = [
        f"- {escaped(shortened(label))}: {escaped(shortened(why))}" for label, share, _, _, why in every if share == "-"
    ]
    if not every:
        return []
    table = _table((POINT, "MACs left", "lost"), done[:count]) + _more(len(done) - count) if done else ""
    return [*found, table, "\n".join(failed[:count])]


def _short(text: str) -> str:
    """Return a change, without what is said beside it."""
    return text.partition(" (")[0] if text[:1] in "+-" else ""


def _layers(report: Mapping[str, Any], count: int) -> list[str]:
    found = []
    for table in bar_tables(report)[:1] if report.get("graph") else ():
        rows, more = table.first(count)
        cells = [(row.name, *(bar.text for bar in row.bars)) for row in rows]
        found.append(_folded(table.title, len(table.rows), _table(table.head, cells) + _more(more)))
    return found


def _staying(report: Mapping[str, Any], count: int) -> str:
    """List the reasons for which axes stay."""
    found = staying(report)
    lines = [_reason(one) for one in found[:count]]
    return _folded(STAYING, len(found), "\n".join(lines) + _more(len(found) - len(lines))) if found else ""


def _reason(one: Staying) -> str:
    names = ", ".join(shortened(axis, LONGEST_AXIS) for axis, _ in one.axes[:NAMED])
    more = f" and {len(one.axes) - NAMED} more" if len(one.axes) > NAMED else ""
    return f"- **{escaped(shortened(one.reason))}**: {escaped(shortened(one.remedy))} ({escaped(names)}{more})"


def _made(report: Mapping[str, Any]) -> list[str]:
    """Return the settings as a command line, and what the result came from."""
    found, line = [], command_line(report)
    if line and FENCED.search(line):
        found.append(_folded("The same again", 0, "\\\n".join(map(escaped, line.splitlines()))))
    elif line:
        found.append(_folded("The same again", 0, f"```sh\n{line}\n```"))
    lines = [f"- {escaped(what)}: {escaped(shortened(how, 1000))}" for what, how in origin(report)]
    return [*found, _folded("Made of", 0, "\n".join(lines))] if lines else found


def _rows(table: Table, count: int) -> str:
    rows, more = table.first(count)
    return _table(table.head, rows) + _more(more)


def _more(count: int) -> str:
    return f"\n\n... and {count} more" if count > 0 else ""


def _section(table: Table, count: int) -> str:
    if not table.folded:
        return f"**{table.title}**\n\n{_rows(table, count)}"
    return _folded(table.title, len(table.rows), _rows(table, count))


def _folded(title: str, count: int, body: str) -> str:
    return f"<details><summary>{title}{f' ({count})' if count else ''}</summary>\n\n{body}\n\n</details>"


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
