"""What ``prune``, ``apply`` and jobs share: settle the output, run, write the plan, show and write the report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from onnxprune.cli.options import given, take_reading
from onnxprune.errors import OnnxPruneError, UsageError
from onnxprune.progress import Progress


def produce(ctx: click.Context, function: str, *first: Any, **values: Any) -> None:
    """Call a function of the API (prune, or apply with a plan), show the result, and end with the report's exit code."""
    from onnxprune.cli.console import Terminal, write_documents

    terminal = Terminal(ctx)
    with terminal.progress() as progress:  # what follows is imported when something is to be seen already
        run = getattr(import_module("onnxprune.api"), function)
        report = perform(partial(run, *first), terminal.told_to_expect(progress, values), **values)
    from onnxprune.cli.tables import show_result

    terminal.warn(report["warnings"])
    show_result(terminal, report)
    with _said_what_was_written(report):
        write_documents(ctx, report)
    ctx.exit(report["exit_code"])


def perform(run: Callable[..., Any], progress: Progress, **values: Any) -> dict[str, Any]:
    """Settle the output, call ``run``, write the plan, and return the report."""
    from onnxprune.model.paths import check_document
    from onnxprune.model.places import output_path
    from onnxprune.model.write import write_text

    model, out, output = (values.pop(name) for name in ("model", "out", "output"))
    dry_run, plan_path, force = (values.pop(name) for name in ("dry_run", "plan_path", "force"))
    masks_path = values.pop("masks_path")
    if out is not None and output is not None and out != output:
        raise UsageError(f"two outputs, {out} and {output}; give one")
    values["output"] = None if dry_run else output_path(Path(model), out or output, force)
    if plan_path is not None:
        check_document(plan_path, "plan", "--plan", force)
    if masks_path is not None:
        check_document(masks_path, "masks", "--masks", force)
        if values.get("permute", True) is None:  # a trainer has the channels as they are
            values["permute"] = False
    values |= {"calibration": values.pop("calib"), **take_reading(values), "force": force}
    result = run(model, progress=progress, **given(values))
    if plan_path is not None:
        with _said_what_was_written(result.report):
            write_text(result.plan.to_json(), plan_path)
    if masks_path is not None:
        with _said_what_was_written(result.report):
            result.write_masks(masks_path)
    return result.report


@contextmanager
def _said_what_was_written(report: Mapping[str, Any]) -> Iterator[None]:
    """Let an error about a document say that the model is there."""
    try:
        yield
    except OnnxPruneError as error:
        if report.get("output"):
            error.args = (f"{error}. The model {report['output']['path']} was written before",)
        raise
