"""``onnxprune expand``: a packed file in its plain form."""

from __future__ import annotations

from typing import Any

import click

from onnxprune.cli.options import FILE, MESSAGES, OUTPUT, options
from onnxprune.cli.sections import Sectioned


@click.command(cls=Sectioned, short_help="Give a packed file back with plain weights.")
@click.argument("model", type=FILE)
@click.argument("out", type=FILE)
@click.option("--force", is_flag=True, help="Replace what exists.")
@options(OUTPUT, MESSAGES)
@click.pass_context
def command(ctx: click.Context, model: str, out: str, **values: Any) -> None:
    """Write MODEL, whose tensors --storage has packed, to OUT with every weight as a plain constant.

    For converters that take no other weights (TensorRT, QNN, TensorFlow Lite). The weights are those that the packed file
    is computed with, bit for bit.
    """
    from onnxprune.cli.console import Terminal, write_documents

    terminal = Terminal(ctx)
    with terminal.progress() as progress:
        from onnxprune.api import expand
        from onnxprune.report.entries import comparison

        report = expand(model, out, progress=progress, **values).report
    terminal.warn(report["warnings"])
    terminal.table(("", "before", "after", "change"), comparison(report))
    terminal.say(f"{len(report['expanded'])} tensors were packed; written to {report['output']['path']}")
    write_documents(ctx, report)
