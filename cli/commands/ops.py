"""``onnxprune ops``: which operators are understood."""

from __future__ import annotations

import click

from onnxprune.cli.options import MESSAGES, OUTPUT, options
from onnxprune.cli.sections import Sectioned


@click.command(cls=Sectioned, short_help="List the operators that are understood.")
@options(OUTPUT, MESSAGES)
@click.pass_context
def command(ctx: click.Context) -> None:
    """List every operator of the installed onnx, and what becomes of the axes it touches.

    An operator without a rule is no error: the axes it touches stay as they are, and 'inspect' says so.
    """
    from onnxprune.api import operators
    from onnxprune.cli.console import Terminal, write_documents

    terminal = Terminal(ctx)
    report = operators()
    rows = [(row["domain"] or "onnx", row["op"], row["family"] or "no rule: stays") for row in report["operators"]]
    terminal.table(("domain", "operator", "rule"), rows)
    counts = report["counts"]
    terminal.say(f"{counts['with_rule']} of {counts['total']} operators have a rule; opset {counts['opset']}")
    write_documents(ctx, report)
