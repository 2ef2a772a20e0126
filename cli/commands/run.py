"""``onnxprune run``: all jobs of a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from onnxprune.cli.options import BASELINE, FILE, MESSAGES, OUTPUT, options
from onnxprune.cli.sections import Sectioned


@click.command(cls=Sectioned, short_help="Run the jobs of onnxprune.toml or pyproject.toml.")
@click.argument("names", metavar="[JOB]...", nargs=-1)
@click.option("--config", type=FILE, help="Default: onnxprune.toml, or [tool.onnxprune] in pyproject.toml, here.")
@options(BASELINE, OUTPUT, MESSAGES)
@click.pass_context
def command(
    ctx: click.Context, names: Sequence[str], config: str | None, baseline: str | None, tolerance: float | None
) -> None:
    """Run all jobs of a configuration, or the named ones, to the end, and judge every budget.

    Ends with 1 when a budget is missed, with the highest exit code of its jobs when one of them cannot be run.
    """
    from onnxprune.api import read_report
    from onnxprune.cli.config import find, read
    from onnxprune.cli.console import Terminal, write_documents
    from onnxprune.cli.paths import settle_jobs
    from onnxprune.cli.tables import show_jobs
    from onnxprune.cli.typed import given_words
    from onnxprune.errors import UsageError
    from onnxprune.registry import near_names
    from onnxprune.report.entries import header

    place = Path(config) if config else find(Path.cwd())
    jobs = {job.name: job for job in read(place)}
    for name in names:
        if name not in jobs:
            raise UsageError(f"there is no job {name!r}{near_names(name, list(jobs))}")
    before = None if baseline is None else read_report(baseline).get("jobs")
    if baseline is not None and not isinstance(before, dict):
        raise UsageError(f"{baseline} is no report of 'run': --baseline takes what 'onnxprune run --json' wrote")
    settle_jobs(ctx, place, [(name, jobs[name].values) for name in names or jobs])
    terminal, reports = Terminal(ctx), {}
    with terminal.progress() as progress:
        for number, name in enumerate(names or jobs):
            own = progress.part(number, len(names or jobs), f"{name}: ")
            own = terminal.told_to_expect(own, jobs[name].values)
            earlier = {} if before is None or name not in before else {"baseline": before[name]}
            reports[name] = _report(jobs[name].command, jobs[name].values | earlier | _given(tolerance), own)
            reports[name] |= {"argv": ["run", name, *given_words(ctx, leave_out=("names",))]}
    report = header("run") | {"exit_code": max(job["exit_code"] for job in reports.values()), "jobs": reports}
    terminal.warn([f"{name}: {text}" for name, job in reports.items() for text in job.get("warnings", ())])
    show_jobs(terminal, reports)
    write_documents(ctx, report)
    ctx.exit(report["exit_code"])


def _given(tolerance: float | None) -> dict[str, Any]:
    return {} if tolerance is None else {"tolerance": tolerance}


def _report(command: str, values: dict[str, Any], progress: Any) -> dict[str, Any]:
    """Run one job; an error becomes its report, so that the other jobs still run."""
    from onnxprune.cli.failures import failure

    try:
        return import_module(f"onnxprune.cli.commands.{command}").evaluate(values, progress)
    except (Exception, SystemExit) as error:
        message, exit_code, _ = failure(error)
        return {"schema_version": 1, "command": command, "exit_code": exit_code, "error": message}
