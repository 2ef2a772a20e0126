"""``onnxprune prune``: the default command."""

from __future__ import annotations

from typing import Any

import click

from onnxprune.cli.options import (
    BASELINE,
    CALIBRATION,
    DATA,
    FILE,
    MESSAGES,
    OUTPUT,
    QUALITY_GATES,
    REPAIR,
    RESULT,
    RUN,
    SHAPES,
    STATS,
    WHAT,
    WHERE,
    options,
)
from onnxprune.cli.sections import Sectioned


@click.command(cls=Sectioned, short_help="Make a model smaller (the default command).")
@click.argument("model", type=FILE)
@click.argument("out", type=FILE, required=False)
@options(WHAT, WHERE, SHAPES, CALIBRATION, STATS, REPAIR, DATA, QUALITY_GATES, BASELINE, RUN, RESULT, OUTPUT, MESSAGES)
@click.pass_context
def command(ctx: click.Context, **values: Any) -> None:
    """Remove the least important channels, heads and neurons of MODEL and write a smaller model to OUT.

    Every run proves that the surgery was exact before it writes anything. With data (--calib, --eval) it reports how
    far the outputs moved, with labels the accuracy. A gate that fails ends with exit code 1, and nothing is written.
    """
    from onnxprune.cli.results import produce

    produce(ctx, "prune", **values)


def evaluate(values: dict[str, Any], progress: Any) -> dict[str, Any]:
    """Return the report of a job."""
    from onnxprune.api import prune
    from onnxprune.cli.results import perform

    return perform(prune, progress, **values)
