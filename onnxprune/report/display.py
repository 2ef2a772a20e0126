"""Reports as they are looked at in an interpreter and in a notebook; they stay the dictionaries that they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

from onnxprune.notebook import notebook_bar, watched_options
from onnxprune.report.documents.tables import parts, tables
from onnxprune.report.entries import ReportView, proof_sentence, verdict
from onnxprune.report.tasks import task_sentence
from onnxprune.sheet import SeenAsSheet, Sheet, SheetTable

P = ParamSpec("P")
R = TypeVar("R")
SAID = "Warnings"  # in lines of their own
TABLES = 6
"""Tables at most, of those that documents do not fold."""


class ShownReport(SeenAsSheet, dict[str, Any]):
    """A report that says in a screen what it holds; ``dict(report)`` shows all of it."""

    @property
    def sheet(self) -> Sheet:
        """What it has to say first."""
        return sheet_of(self)


def sheet_of(report: ReportView) -> Sheet:
    """Return what a report of any command has to say first."""
    lines, grids = [], list[SheetTable]()
    for name, part in parts(report):
        lines += [f"{name}: {line}" if name else line for line in _lines(part)]
        grids += [
            SheetTable(table.title, table.head, table.rows)
            for table in tables(part)
            if not table.folded and table.title != SAID
        ]
    return Sheet(tuple(lines), tuple(grids[:TABLES]))


def _lines(report: ReportView) -> Iterator[str]:
    path = (report.get("model") or {}).get("path")
    yield f"onnxprune {report.get('command') or ''}{f' of {path}' if path else ''}".rstrip()
    told = [verdict(dict(report)), task_sentence(report)]
    if report.get("surgery"):
        told.append(proof_sentence(dict(report["surgery"])))
    if report.get("output"):
        told.append(f"written to {report['output']['path']}")
    told += [f"warning: {text}" for text in report.get("warnings", ())]
    yield from filter(None, told)


def displayed(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function of the API show a bar in a notebook unless ``progress`` is given, and its report a screen."""

    @wraps(function)
    def run(*arguments: P.args, **options: P.kwargs) -> R:
        if watched_options(options):
            with notebook_bar() as progress:
                watched: dict[str, Any] = {**options, "progress": progress}
                found = cast(Callable[..., R], function)(*arguments, **watched)
        else:
            found = function(*arguments, **options)
        return cast(R, ShownReport(cast(dict[str, Any], found))) if type(found) is dict else found

    return run
