"""``onnxprune sensitivity``: how much each group can lose."""

from __future__ import annotations

from typing import Any

import click

from onnxprune.cli.options import (
    AUDIO,
    FILE,
    IMAGES,
    JUDGE,
    KINDS,
    MESSAGES,
    OUTPUT,
    RUN,
    SHAPES,
    TEXT,
    WHERE,
    given,
    options,
    take_reading,
)
from onnxprune.cli.sections import Sectioned


@click.command(cls=Sectioned, short_help="Show how much each group can lose.")
@click.argument("model", type=FILE)
@click.option("--calib", type=FILE, required=True, help="Data to repair and to judge on (different rows of it).")
@click.option("--samples", type=int, help="Use so many random rows of --calib.")
@options(KINDS[:1], IMAGES, AUDIO, TEXT, JUDGE, WHERE, SHAPES, RUN, OUTPUT, MESSAGES)
@click.pass_context
def command(ctx: click.Context, model: str, calib: str, **values: Any) -> None:
    """Cut each group of MODEL alone to three quarters, half and a quarter of its units, repair, and judge the outputs.

    Prints a line of --exclude for what costs far more than the rest.
    """
    from onnxprune.cli.console import Terminal, write_documents

    reading = take_reading(values)
    terminal = Terminal(ctx)
    with terminal.progress() as progress:
        from onnxprune.api import sensitivity
        from onnxprune.cli.tables import show_curves, show_sizes
        from onnxprune.report.documents.tables import exclude_lines

        report = sensitivity(model, calib, progress=progress, **reading, **given(values))
    terminal.warn(report["warnings"])
    show_curves(terminal, report["curves"])
    show_sizes(terminal, report)
    if report["exclude"]:
        terminal.say("the most sensitive, to be left alone:")
        terminal.say(" ".join(exclude_lines(report)))
    write_documents(ctx, report)
