"""``onnxprune validate``: how far one model is from another."""

from __future__ import annotations

from typing import Any

import click

from onnxprune.cli.options import (
    ATTACK,
    BASELINE,
    DATA,
    FILE,
    MESSAGES,
    OUTPUT,
    QUALITY_GATES,
    RUN,
    SHAPES,
    given,
    options,
    take_reading,
)
from onnxprune.cli.sections import Sectioned
from onnxprune.cli.values import SCRIPT


@click.command(cls=Sectioned, short_help="Compare two models on data.")
@click.argument("before", type=FILE)
@click.argument("after", type=FILE)
@click.option("--data", type=FILE, required=True, help="What to feed both models; formats as for 'prune --calib'.")
@click.option(
    "--metric", type=SCRIPT, metavar="SCRIPT.py:FUNCTION", help="Your own task metric: one number per sample."
)
@click.option("--calib", "calibration", type=FILE, help="Data that decided: warn where --data shares rows with it.")
@click.option("--layers", is_flag=True, default=None, help="Also compare every inner tensor that both models have.")
@options(ATTACK, SHAPES, DATA, QUALITY_GATES, BASELINE, RUN)
@click.option("--latency", is_flag=True, default=None, help="Measure the latency of both as well.")
@options(OUTPUT, MESSAGES)
@click.pass_context
def command(ctx: click.Context, **values: Any) -> None:
    """Run BEFORE and AFTER on the same data and report how far their outputs are apart.

    With labels (or a metric) it reports the task metric of both, with an interval for the difference.
    """
    from onnxprune.cli.console import Terminal, write_documents

    terminal = Terminal(ctx)
    with terminal.progress() as progress:
        from onnxprune.cli.tables import show_comparison, show_layers

        report = evaluate(values, progress)
    terminal.warn(report["warnings"])
    show_comparison(terminal, report)
    show_layers(terminal, report)
    write_documents(ctx, report)
    ctx.exit(report["exit_code"])


def evaluate(values: dict[str, Any], progress: Any) -> dict[str, Any]:
    """Return the report of a comparison."""
    from onnxprune.api import validate

    reading = take_reading(values)
    return validate(progress=progress, **reading, **given(values))
