"""``onnxprune inspect``: what can be cut, what stays, and why."""

from __future__ import annotations

from typing import Any

import click

from onnxprune.choices import CHOICES
from onnxprune.cli.options import (
    AUDIO,
    FILE,
    IMAGES,
    MESSAGES,
    OUTPUT,
    SHAPES,
    TEXT,
    given,
    options,
    take_reading,
)
from onnxprune.cli.sections import Sectioned
from onnxprune.cli.values import Word


@click.command(cls=Sectioned, short_help="Show what can be cut, what stays, and why.")
@click.argument("model", type=FILE)
@click.option(
    "--granularity",
    type=Word(CHOICES["granularity"].names, listed=True),
    metavar="NAME",
    multiple=True,
    help="heads (default), width, groups, paired, stream, block, rank, eigen, experts, lossless. Repeatable.",
)
@click.option("--calib", type=FILE, help="Data whose sizes costs are counted at, where the file leaves some open.")
@options(SHAPES, IMAGES, AUDIO, TEXT)
@click.option("--all", "everything", is_flag=True, help="Show every group and every axis.")
@options(OUTPUT, MESSAGES)
@click.pass_context
def command(
    ctx: click.Context,
    model: str,
    calib: str | None,
    everything: bool,
    **values: Any,
) -> None:
    """Show the groups of MODEL, the share that can be pruned, and every weight axis that stays.

    For each axis that stays: the node that keeps it, the reason, the MACs and parameters at stake, and the way out.
    """
    from onnxprune.cli.console import Terminal, write_documents

    reading = take_reading(values)
    terminal = Terminal(ctx)
    with terminal.progress() as progress:
        from onnxprune.api import inspect
        from onnxprune.cli.tables import show_frozen, show_groups, show_parts, show_sizes

        report = inspect(model, calibration=calib, progress=progress, **reading, **given(values))
    share, before = report["prunable"], report["before"]
    terminal.say(f"{model}: {before['parameters']:,} parameters, {before['macs']:,} MACs, {before['bytes']:,} bytes")
    terminal.say(f"prunable: {share['macs']:.1%} of the MACs, {share['parameters']:.1%} of the parameters")
    show_sizes(terminal, report)
    if {"block", "rank", "eigen", "experts"}.isdisjoint(report["settings"]["granularity"]):
        show_groups(terminal, report["groups"], everything)
        show_frozen(terminal, report["frozen"], everything)
    asked = {
        key: rows for key, rows in report.items() if key != "blocks" or "block" in report["settings"]["granularity"]
    }
    show_parts(terminal, asked, everything)
    write_documents(ctx, report)
