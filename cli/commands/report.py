"""``onnxprune report``: reports of several runs as one document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from onnxprune.cli.options import FILE, MESSAGES, OUTPUT, options
from onnxprune.cli.sections import Sectioned


@click.command(cls=Sectioned, short_help="Join JSON reports into one document.")
@click.argument("reports", type=FILE, metavar="REPORT...", nargs=-1, required=True)
@options(OUTPUT, MESSAGES)
@click.pass_context
def command(ctx: click.Context, reports: Sequence[str]) -> None:
    """Join each REPORT (of any command, written with --json) into one page or table: a section per run, under the file's name.

    Nothing is run again and nothing is judged: ends with 0 whatever the reports say.
    """
    from onnxprune.api import read_report
    from onnxprune.cli.console import Terminal, documents, write_documents
    from onnxprune.cli.tables import show_jobs
    from onnxprune.report.documents.tables import parts
    from onnxprune.report.entries import header

    stems = [Path(path).stem for path in reports]
    found = {}
    for path, stem in zip(reports, stems, strict=True):
        name = stem if stems.count(stem) == 1 else path
        for job, report in parts(read_report(path)):
            found[f"{name}: {job}" if job else name] = _showable(report, path, {"markdown", *documents(ctx)})
    show_jobs(Terminal(ctx), found)
    write_documents(ctx, header("report") | {"jobs": found})


def _showable(report: Mapping[str, Any], path: str, kinds: set[str]) -> Mapping[str, Any]:
    """Return a report out of a file; raises DataError where it lacks what every report of its kind has."""
    from onnxprune.errors import DataError
    from onnxprune.report.documents import render

    try:
        for kind in kinds:
            render(kind, report)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is damaged: {type(error).__name__} {error}; write it again with --json") from error
    return report
