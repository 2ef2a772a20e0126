"""Where words go: results to stdout, progress and warnings to stderr; colours as NO_COLOR and FORCE_COLOR say."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from threading import Event, Thread
from time import monotonic
from typing import Any

import click

from onnxprune.cli.streams import write_document
from onnxprune.report.visible import visible

STAGES = {
    "load": "reading the model",
    "analyze": "finding what can be cut",
    "evidence": "watching the model on data",
    "allocate": "scoring and choosing",
    "cut": "cutting",
    "check": "proving the cut exact",
    "repair": "repairing",
    "recover": "recovering",
    "drift": "comparing outputs",
    "outputs": "looking at the outputs",
    "layers": "comparing inner tensors",
    "latency": "measuring latency",
    "memory": "measuring memory",
    "save": "writing",
}
SILENCE = 30.0
"""Seconds after which a run that nobody watches says what it is doing."""


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
    def progress(self) -> Iterator[Callable[[str], None]]:
        """Yield a function that shows the stage which begins: in a terminal one line that changes, elsewhere now and then a line.

        With -v every stage is a line.

        What scripts that are run meanwhile print goes to stderr: stdout carries results only.
        """
        with redirect_stdout(sys.stderr):
            if self.verbose:
                yield self._line_per_stage()
            elif self.quiet or sys.stderr is None:
                yield lambda stage: None
            elif not sys.stderr.isatty():
                with _ticking(self._note, SILENCE) as progress:
                    yield progress
            else:
                with (
                    self.messages.status("starting") as status,
                    _ticking(lambda text: status.update(self._plain(text[: self.messages.width - 4])), 1.0) as progress,
                ):
                    yield progress

    def _line_per_stage(self) -> Callable[[str], None]:
        started = monotonic()
        return lambda stage: self._note(f"{monotonic() - started:6.1f} s  {STAGES.get(stage, stage)}")

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
        """Print a table, all columns but the first to the right where they hold numbers."""
        from rich import box
        from rich.table import Table

        shown = self._plain(title) if title else None
        table = Table(box=box.SIMPLE_HEAD, title=shown, title_justify="left", title_style="bold")
        for number, name in enumerate(head):
            numeric = number > 0 and all(_is_number(row[number]) for row in rows)
            table.add_column(
                self._plain(name), justify="right" if numeric else "left", overflow="fold", no_wrap=numeric
            )
        for row in rows:
            table.add_row(*map(self._plain, row))
        self.results.print(table)


@contextmanager
def _ticking(show: Callable[[str], None], every: float) -> Iterator[Callable[[str], None]]:
    """Yield a function that takes the stage which begins; every so many seconds that is shown with the time so far."""
    begun, current, ended = monotonic(), ["starting"], Event()

    def tick() -> None:
        while not ended.wait(every):
            show(f"{monotonic() - begun:.0f} s  {current[0]}")

    def begin(stage: str) -> None:
        current[0] = STAGES.get(stage, stage)

    thread = Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield begin
    finally:
        ended.set()
        thread.join()


def _is_number(cell: str) -> bool:
    return cell[:1] in "+-0123456789" if cell else True


def write_documents(ctx: click.Context, report: dict[str, Any]) -> None:
    """Write the report where ``--json``, ``--markdown``, ``--junit`` and ``--html`` say."""
    from onnxprune.model.paths import check_document
    from onnxprune.model.write import write_text
    from onnxprune.report.documents import render

    for kind, path in documents(ctx).items():
        text = render(kind, report)
        if path == "-":
            write_document(text)
        else:
            check_document(path, kind, f"--{kind}")  # as it is now: much may have happened since it was first looked at
            write_text(text, path)
    ctx.meta["reported"] = True


def documents(ctx: click.Context) -> dict[str, str]:
    """Return kind -> path of the documents that were asked for."""
    return ctx.meta.setdefault("documents", {})
