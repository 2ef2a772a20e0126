"""``onnxprune checkpoint``: a training checkpoint, sliced as a plan says."""

from __future__ import annotations

from typing import Any

import click

from onnxprune.cli.options import FILE, MESSAGES, OUTPUT, options
from onnxprune.cli.sections import Sectioned
from onnxprune.cli.values import Word


@click.command(cls=Sectioned, short_help="Slice a training checkpoint as a plan says.")
@click.argument("plan", type=FILE)
@click.argument("model", type=FILE)
@click.argument("weights", type=FILE, metavar="WEIGHTS.safetensors")
@click.option("-o", "--output", type=FILE, required=True, help="The file to write, .safetensors.")
@click.option(
    "--masks", type=FILE, help="Which weights become zero, as prune --masks wrote it beside a plan of --sparsity."
)
@click.option(
    "--untold",
    type=Word(("refuse", "copy", "drop")),
    metavar="refuse|copy|drop",
    help="What becomes of tensors that may have to be cut, and are none of the model's: refuse (the default), copy or drop.",
)
@click.option("--all", "everything", is_flag=True, help="List every tensor.")
@click.option(
    "--force", is_flag=True, help="Replace what exists; use a plan made for another file, if all shapes agree."
)
@options(OUTPUT, MESSAGES)
@click.pass_context
def command(ctx: click.Context, **values: Any) -> None:
    """Write what PLAN leaves of a checkpoint that MODEL was exported from, for a module of the new widths.

    Tensors are told by their names, or by what they hold: equal, transposed, with a BatchNorm folded in. States of optimisers and
    averages of the weights beside them are cut alike. MODEL is the file that was pruned, not the result. The three may come in any order.
    """
    from onnxprune.cli.console import Terminal, write_documents
    from onnxprune.cli.reversed import files_in_order

    values = files_in_order("checkpoint", values)
    terminal, everything = Terminal(ctx), values.pop("everything")
    with terminal.progress() as progress:
        from onnxprune.api import slice_checkpoint
        from onnxprune.cli.options import given
        from onnxprune.cli.tables import show_checkpoint

        first = [values.pop(name) for name in ("plan", "model", "weights", "output")]
        report = slice_checkpoint(*first, progress=progress, **given(values))
    terminal.warn(report["warnings"])
    show_checkpoint(terminal, report, everything)
    write_documents(ctx, report)
