"""Where words go: results to stdout, progress and warnings to stderr; colours as NO_COLOR and FORCE_COLOR say."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

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
    "layers": "comparing inner tensors",
    "latency": "measuring latency",
    "memory": "measuring memory",
    "save": "writing",
}


class Terminal:
    """The two consoles of a command; where a document goes to stdout (``--json -``), that carries nothing else."""

    def __init__(self, ctx: click.Context):
        from rich.console import Console

        plain = bool(ctx.meta.get("no_color"))
        self.quiet = bool(ctx.meta.get("quiet"))
        self.results = Console(no_color=plain or None, highlight=False, quiet="-" in documents(ctx).values())
        self.messages = Console(no_color=plain or None, highlight=False, stderr=True, quiet=self.quiet)

    @contextmanager
    def progress(self) -> Iterator[Callable[[str], None]]:
        """Yield a function that shows the stage which begins; nothing is shown where stderr is not a terminal."""
        if self.quiet or not sys.stderr.isatty():
            yield lambda stage: None
            return
        with self.messages.status("starting") as status:
            yield lambda stage: status.update(STAGES.get(stage, stage))

    def warn(self, texts: Sequence[str]) -> None:
        for text in texts:
            self.messages.print(f"warning: {text}", style="yellow", markup=False, soft_wrap=True)

    def say(self, text: str = "") -> None:
        self.results.print(text, markup=False, soft_wrap=True)

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
        """Print a table, all columns but the first to the right where they hold numbers."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", title_style="bold")
        for number, name in enumerate(head):
            numeric = number > 0 and all(_is_number(row[number]) for row in rows)
            table.add_column(name, justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        self.results.print(table)


def _is_number(cell: str) -> bool:
    return cell[:1] in "+-0123456789" if cell else True


def write_documents(ctx: click.Context, report: dict[str, Any]) -> None:
    """Write the report where ``--json``, ``--markdown``, ``--junit`` and ``--html`` say."""
    from onnxprune.documents import render
    from onnxprune.output import write_text

    for kind, path in documents(ctx).items():
        text = render(kind, report)
        if path == "-":
            click.echo(text, nl=False)
        else:
            write_text(text, path)
    ctx.meta["reported"] = True


def documents(ctx: click.Context) -> dict[str, str]:
    """Return kind -> path of the documents that were asked for."""
    return ctx.meta.setdefault("documents", {})
