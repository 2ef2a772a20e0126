"""Where words go: results to stdout, progress and warnings to stderr; colours as NO_COLOR and FORCE_COLOR say."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from typing import Any

import click

from onnxprune.cli.progress import bar, each, lines
from onnxprune.cli.streams import write_document
from onnxprune.cli.typed import given_words
from onnxprune.progress import STAGES, Progress, silent
from onnxprune.report.visible import visible


class Terminal:
    """The two consoles of a command; where a document goes to stdout (``--json -``), that carries nothing else."""

    def __init__(self, ctx: click.Context):
        from rich.console import Console

        plain = bool(ctx.meta.get("no_color"))
        self.quiet, self.verbose = bool(ctx.meta.get("quiet")), bool(ctx.meta.get("verbose"))
        silent = self.quiet or "-" in documents(ctx).values()
        self.results = Console(no_color=plain or None, highlight=False, quiet=silent)
        self.messages = Console(no_color=plain or None, highlight=False, stderr=True, quiet=self.quiet)

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """Yield what a run tells its progress; see ``progress.py``. With -v every stage is a line.

        What scripts that are run meanwhile print goes to stderr: stdout carries results only.
        """
        in_place = sys.stderr is not None and sys.stderr.isatty() and not self.messages.is_dumb_terminal
        with redirect_stdout(sys.stderr):
            if self.quiet or sys.stderr is None:
                yield silent
            elif self.verbose:
                told = each(self._note)
                told("starting")
                yield told
            else:
                with bar(self.messages) if in_place else lines(self._note) as progress:
                    yield progress

    def told_to_expect(self, progress: Progress, values: Mapping[str, Any]) -> Progress:
        """Return a progress that says, where a preset is named, how long the run is expected to take."""
        return replace(progress, told=self._note) if values.get("preset") and not self.quiet else progress

    def _note(self, text: str, style: str | None = None) -> None:
        self.messages.print(self._plain(text), style=style, soft_wrap=True)

    def _plain(self, text: object) -> Any:
        from rich.text import Text

        return Text(visible(str(text)))

    def warn(self, texts: Sequence[str]) -> None:
        for text in texts:
            self._note(f"warning: {text}", style="yellow")

    def say(self, text: str = "") -> None:
        self.results.print(self._plain(text), soft_wrap=True)

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
        """Print a table, all columns but the first to the right where they hold numbers; where words would be cut, a paragraph per row."""
        from rich import box
        from rich.table import Table

        widths = [_narrowest([name, *(row[n] for row in rows)], n > 0) for n, name in enumerate(head)]
        if 1 + sum(widths) + len(widths) * BESIDE > self.results.width:
            self._paragraphs(head, rows, title)
            return
        shown = self._plain(title) if title else None
        table = Table(box=box.SIMPLE_HEAD, title=shown, title_justify="left", title_style="bold")
        for number, name in enumerate(head):
            numeric = number > 0 and all(_is_number(row[number]) for row in rows)
            table.add_column(
                self._plain(name), justify="right" if numeric else "left", overflow="fold", no_wrap=numeric,
                min_width=widths[number],
            )  # fmt: skip
        for row in rows:
            table.add_row(*map(self._plain, row))
        self.results.print(table)

    def _paragraphs(self, head: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
        """Print every row as its first cell, and below it the others with what they are."""
        from rich.padding import Padding

        if title:
            self.results.print(self._plain(title), style="bold")
        for row in rows:
            self.results.print(self._plain(f"{head[0]} {row[0]}".strip()))
            rest = [f"{name} {cell}".strip() for name, cell in zip(head[1:], row[1:], strict=True) if cell]
            self.results.print(Padding(self._plain(", ".join(rest)), (0, 0, 0, 2)))
        self.results.print()


BESIDE = 3  # columns of a terminal between two columns of a table
LONG = 24  # letters of a name, from which on it may be cut in a table


def _narrowest(cells: Sequence[str], after_first: bool) -> int:
    """Return the width at which no word of a column is cut: of numbers none with its unit, of others no short one."""
    if after_first and all(_is_number(cell) for cell in cells[1:]):
        words = [*cells[0].split(), *cells[1:]]
    else:
        words = [word[:LONG] for cell in cells for word in cell.split()]
    return max(map(len, words), default=0)


def _is_number(cell: str) -> bool:
    return cell[:1] in "+-0123456789" if cell else True


def write_documents(ctx: click.Context, report: dict[str, Any]) -> None:
    """Write the report where ``--json``, ``--markdown``, ``--html`` and the like say."""
    from onnxprune.model.paths import WRITTEN, check_document
    from onnxprune.model.write import write_text
    from onnxprune.report.documents import render

    if ctx.meta.get("verbose"):
        for text in details(report):
            click.echo(visible(text), err=True)
    if not isinstance(ctx.command, click.Group):  # else no command was begun
        report = report | {"argv": [str(ctx.info_name), *given_words(ctx)]}
    for kind, path in documents(ctx).items():
        text = render(kind, report)
        if path == "-":
            write_document(text)
        else:
            check_document(
                path, kind, WRITTEN[kind]
            )  # as it is now: much may have happened since it was first looked at
            write_text(text, path)
    ctx.meta["reported"] = True


def details(report: Mapping[str, Any], whose: str = "") -> Iterator[str]:
    """Yield what -v says at the end: the options that decided, those left out with what they came to, seconds of each stage, memory."""
    from onnxprune.report.documents.commandline import options_of

    if report.get("settings"):
        yield f"{whose}options: {' '.join(options_of(report['settings'])) or 'none'}"
    if report.get("repair"):
        yield f"{whose}repair that was chosen: {report['repair']['method']}"
    if report.get("seconds"):
        spent = (f"{STAGES.get(stage, stage)} {seconds:.1f}" for stage, seconds in report["seconds"].items())
        yield f"{whose}seconds: {', '.join(spent)}"
    if report.get("peak_rss_bytes"):
        yield f"{whose}memory at its peak: {report['peak_rss_bytes'] / 1e6:,.0f} MB"
    for name, job in (report.get("jobs") or {}).items():
        yield from details(job, f"{name}: ")


def documents(ctx: click.Context) -> dict[str, str]:
    """Return kind -> path of the documents that were asked for."""
    return ctx.meta.setdefault("documents", {})
