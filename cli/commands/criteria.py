"""``onnxprune criteria``: how units can be scored."""

from __future__ import annotations

import click

from onnxprune.cli.options import MESSAGES, options
from onnxprune.cli.sections import Sectioned


@click.command(cls=Sectioned, short_help="List how units can be scored.")
@options(MESSAGES)
@click.pass_context
def command(ctx: click.Context) -> None:
    """List what --criterion takes: scores, and how the weights of a unit and the groups of a model are combined."""
    from onnxprune.cli.console import Terminal
    from onnxprune.criteria import CRITERIA
    from onnxprune.criteria.combine import NORMALISERS, REDUCTIONS

    terminal = Terminal(ctx)
    rows = [(name, ", ".join(CRITERIA[name].needs) or "-", CRITERIA[name].summary) for name in CRITERIA]
    terminal.table(("criterion", "needs", "what it is"), rows)
    terminal.say(f"reductions: {', '.join(REDUCTIONS)}; normalisers: {', '.join(NORMALISERS)}")
