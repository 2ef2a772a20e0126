"""All paths of a command are settled once: after its options are read, before any work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

import click

from onnxprune.cli.foreseen import foresee

REQUESTED = "requested documents"  # as options name them; ``documents`` once nothing speaks against them


def settled(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return a command that refuses, before anything else, what cannot work and to write what it reads."""

    @wraps(command)
    def run(*arguments: Any, **values: Any) -> Any:
        ctx = click.get_current_context()
        steps = (
            (settle, foresee) if ctx.meta.get(REQUESTED) else (foresee, settle)
        )  # documents tell of failures, once settled
        for step in steps:
            step(ctx)
        return command(*arguments, **values)

    return run


def settle(ctx: click.Context) -> None:
    """Raise UsageError where a path of the command is read and written; else its documents may be written from now on."""
    requested = ctx.meta.get(REQUESTED, {})
    given = any(isinstance(one.type, click.Path) and ctx.params.get(str(one.name)) for one in ctx.command.params)
    if given or requested:
        _settle(ctx, requested)
    ctx.meta["documents"] = requested


def _settle(ctx: click.Context, requested: Mapping[str, str]) -> None:
    from onnxprune.model.paths import refuse_overlap, uses  # after help, which needs none of it

    refuse_overlap(uses({"config": ctx.meta.get("config"), **_with_output(ctx.params), **requested}))


def settle_jobs(ctx: click.Context, config: Path, jobs: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
    """Raise UsageError where a job writes what it reads, or one file is written by two jobs, or also by the command."""
    from onnxprune.errors import UsageError
    from onnxprune.model.paths import Uses, refuse_overlap, uses

    own = uses({**ctx.params, **ctx.meta.get(REQUESTED, {}), "config": config})
    read, written, folders = own.read, own.written, own.folders
    try:
        refuse_overlap(own)
        for name, values in jobs:
            found = uses(_with_output(values)).of(name)
            refuse_overlap(found)
            read, written, folders = read + found.read, written + found.written, folders + found.folders
        refuse_overlap(Uses(read, own.written, ()))
        refuse_overlap(Uses(own.read, written, folders))
    except UsageError:
        ctx.meta["documents"] = {}
        raise


def _with_output(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with the output that a command writes where none is named, and without one in a dry run."""
    if "dry_run" not in values:
        return dict(values)
    if values["dry_run"]:
        return {**values, "out": None, "output": None}
    model, named = Path(str(values["model"])), values.get("out") or values.get("output")
    default = model.with_name(f"{model.stem}.pruned.onnx") if model.name else None
    return {**values, "out": None, "output": named or default}
