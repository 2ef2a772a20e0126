"""``onnxprune stats``: what data shows about a model, gathered in parts and put together."""

from __future__ import annotations

from typing import Any

import click

from onnxprune.cli.options import (
    ATTACK,
    AUDIO,
    CRITERION,
    FILE,
    IMAGES,
    JUDGE,
    KINDS,
    LOSSY,
    MESSAGES,
    OUTPUT,
    RUN,
    SHAPES,
    TEXT,
    given,
    options,
    take_reading,
)
from onnxprune.cli.sections import Sectioned
from onnxprune.errors import UsageError

MERGE = "merge"
OF_MERGING = ("statistics", "progress")


@click.command(cls=Sectioned, short_help="Gather what data shows in parts, anywhere, and merge them.")
@click.argument("parts", nargs=-1, required=True, type=FILE, metavar="MODEL | merge PART...")
@click.option("--calib", type=FILE, help="The data; see prune.")
@click.option("--shard", metavar="I/N", help="Which of N equal parts of the rows, such as 2/7. Default: all rows.")
@click.option("-o", "--output", "statistics", type=FILE, required=True, help="The file to write, .npz.")
@click.option("--labels", type=FILE, help="Labels of the data: .npy, .npz or .txt.")
@click.option("--samples", type=int, help="Use so many random rows of --calib.")
@click.option("--batch", type=int, help="Rows that go through the model at once, where it leaves that open.")
@options(CRITERION, ATTACK, KINDS[:1], LOSSY, SHAPES, IMAGES, AUDIO, TEXT, JUDGE, RUN, OUTPUT[:1], MESSAGES)
@click.pass_context
def command(ctx: click.Context, parts: tuple[str, ...], statistics: str, **values: Any) -> None:
    """Write what a criterion gathers from data, or from one of N parts of it, for 'prune --stats'.

    'onnxprune stats merge PART... -o WHOLE' puts the parts together, in whatever order they are named: the result is, byte for
    byte, that of one process. Parts of other models, options or data are refused, rows that are there twice, and rows that are missing.
    """
    from onnxprune.cli.console import Terminal, write_documents

    merging = parts[0] == MERGE
    reading = take_reading(values)
    told = given(values)
    _check(parts, {**told, **reading}, merging)
    terminal = Terminal(ctx)
    with terminal.progress() as progress:
        from onnxprune import api

        if merging:
            report = api.merge_stats(parts[1:], statistics, progress=progress)
        else:
            report = api.stats(parts[0], told.pop("calib"), statistics, progress=progress, **reading, **told)
    terminal.warn(report["warnings"])
    rows = ", ".join(f"{first:,} to {end - 1:,}" for first, end in report["rows"]) or "none"
    terminal.say(
        f"rows {rows} of {report['samples']:,}: {', '.join(report['needs'])}; written to {report['output']['path']}"
    )
    write_documents(ctx, report)


def _check(parts: tuple[str, ...], told: dict[str, Any], merging: bool) -> None:
    """Raise UsageError where options and arguments do not go together."""
    if merging and told:
        name = next(iter(told)).replace("_", "-")
        raise UsageError(f"merge takes files of parts and -o alone, which say all else; leave --{name} out")
    if not merging and len(parts) > 1:
        raise UsageError(
            f"one model, not {len(parts)} files; to put parts together: onnxprune stats merge PART... -o WHOLE"
        )
    if not merging and "calib" not in told:
        raise UsageError("stats looks at data; name it with --calib")
