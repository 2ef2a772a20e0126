"""``onnxprune apply``: carry out a plan."""

from __future__ import annotations

from typing import Any

import click

from onnxprune.cli.options import CALIBRATION, DATA, FILE, MESSAGES, OUTPUT, QUALITY_GATES, RESULT, RUN, SHAPES, options
from onnxprune.cli.sections import Sectioned


@click.command(cls=Sectioned, short_help="Carry out a plan.")
@click.argument("plan", type=FILE)
@click.argument("model", type=FILE)
@click.argument("out", type=FILE, required=False)
@options(SHAPES, CALIBRATION, DATA, QUALITY_GATES, RUN, RESULT, OUTPUT, MESSAGES)
@click.pass_context
def command(ctx: click.Context, plan: str, **values: Any) -> None:
    """Cut MODEL as PLAN says; the same plan and model give the same bytes. PLAN may come after MODEL too.

    A model with another digest than the plan's is refused, unless --force is given and all shapes agree.
    """
    from onnxprune.cli.results import produce
    from onnxprune.cli.reversed import files_in_order

    values = files_in_order("apply", {"plan": plan, **values})
    produce(ctx, "apply", values.pop("plan"), **values)
