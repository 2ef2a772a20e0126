"""``onnxprune apply``: carry out a plan."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
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

    if _is_plan(values["model"]) and not _is_plan(plan):
        plan, values["model"] = values["model"], plan
    produce(ctx, "apply", plan, **values)


def _is_plan(path: str) -> bool:
    """Whether a file begins like a plan, which is a JSON object; no model begins with a brace."""
    try:
        with open(path, "rb") if Path(path).is_file() else BytesIO() as stream:
            return stream.read(64).lstrip().startswith(b"{")
    except OSError:
        return False
