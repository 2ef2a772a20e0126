"""``onnxprune check``: budgets of models as they are, for hooks and pipelines that prune nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from onnxprune.cli.options import FILE, MESSAGES, OUTPUT, SHAPES, options
from onnxprune.cli.sections import Sectioned
from onnxprune.cli.values import SHARE, SIZE


@click.command(cls=Sectioned, short_help="Check models against budgets of size, MACs and prunability.")
@click.argument("model", type=FILE, nargs=-1, required=True)
@click.option("--max-size", type=SIZE, help="Bytes of the file, e.g. 8MB.")
@click.option("--max-params", type=SIZE, help="Parameters, e.g. 2M.")
@click.option("--max-macs", type=SIZE, help="MACs of one sample, e.g. 500M.")
@click.option("--min-prunable", type=SHARE, help="Share of the MACs that depends on something that can be cut.")
@options(SHAPES, OUTPUT, MESSAGES)
@click.pass_context
def command(ctx: click.Context, model: Sequence[str], **values: Any) -> None:
    """Check every MODEL against the budgets; nothing is pruned, nothing but the model is needed."""
    from onnxprune.cli.console import Terminal, write_documents
    from onnxprune.cli.tables import show_jobs
    from onnxprune.report.entries import header

    terminal = Terminal(ctx)
    with terminal.progress() as progress:
        reports = {
            path: evaluate({"model": path, **values}, progress.part(number, len(model), f"{path}: "))
            for number, path in enumerate(model)
        }
    show_jobs(terminal, reports)
    report = header("check") | {"exit_code": max(found["exit_code"] for found in reports.values()), "jobs": reports}
    write_documents(ctx, report)
    ctx.exit(report["exit_code"])


def evaluate(values: dict[str, Any], progress: Any) -> dict[str, Any]:
    """Return the report of one model, its budgets judged."""
    from onnxprune.api import check
    from onnxprune.cli.options import given

    return check(progress=progress, **given(values))
