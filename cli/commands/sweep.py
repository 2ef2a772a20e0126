"""``onnxprune sweep``: what many settings leave and lose."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import click

from onnxprune.cli.options import (
    CALIBRATION,
    DATA,
    FILE,
    KINDS,
    MESSAGES,
    OUTPUT,
    RUN,
    SHAPES,
    WHERE,
    given,
    options,
    take_reading,
)
from onnxprune.cli.sections import Sectioned
from onnxprune.cli.typed import given_words
from onnxprune.cli.values import CRITERIA, REPAIRS, SHARE, SHARES

TRIED = ("ratios", "criteria", "repairs", "folder")
"""What a sweep alone takes."""
MADE_BY = ("criterion", "repair", "ratio", "target")
"""The options that make a point, in this order, wherever the point comes from."""


@click.command(cls=Sectioned, short_help="Compare ratios, criteria and repairs.")
@click.argument("model", type=FILE)
@click.option(
    "--ratios",
    type=SHARES,
    help="Shares to remove. Default 0.25,0.5,0.75, and with --max-drop three more that close in on it.",
)
@click.option("--criteria", type=CRITERIA, help="Names as for 'prune --criterion', separated by commas. Default auto.")
@click.option("--repairs", type=REPAIRS, help="Names as for 'prune --repair', separated by commas. Default auto.")
@click.option("--folder", type=FILE, help="Keeps one JSON file per point; a sweep goes on from what is there.")
@click.option("--max-drop", type=SHARE, help="Choose the fewest MACs that lose no more than this.")
@options(KINDS, WHERE, SHAPES, CALIBRATION, DATA, RUN, OUTPUT, MESSAGES)
@click.pass_context
def command(ctx: click.Context, calib: str | None, **values: Any) -> None:
    """Prune MODEL in every combination, write no model, and show what each leaves and loses, and which are worth having.

    Lost is the drop of the task metric with labels, else the relative error of the outputs.
    """
    from onnxprune.cli.console import Terminal, write_documents

    reading = take_reading(values)
    terminal = Terminal(ctx)
    with terminal.progress() as progress:
        from onnxprune.api import sweep
        from onnxprune.report.documents.tables import POINT, points

        report = sweep(calibration=calib, progress=progress, **reading, **given(values))
    terminal.warn(report["warnings"])
    head = (POINT, "MACs left", "bytes", "lost", "")
    terminal.table(head, list(points(report)), f"lost: {report['quality']}")
    if report["chosen"] is not None:
        report["chosen_argv"] = _as_command(ctx, report)
        terminal.say(shlex.join(["onnxprune", *report["chosen_argv"]]))
    write_documents(ctx, report)


def _as_command(ctx: click.Context, report: Mapping[str, Any]) -> list[str]:
    """Return the words of the command that makes the chosen point: what the sweep was given, with the point's options in place of what it tried."""
    by_task = report["quality"].startswith("drop")  # which --max-drop judges in a run too
    given = given_words(ctx, TRIED if by_task else (*TRIED, "max_drop"))
    asked = report["chosen_options"]
    own = [word for name in MADE_BY if name in asked for word in (f"--{name}", str(asked[name]))]
    return ["prune", *given, *own]
