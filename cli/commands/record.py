"""``onnxprune record``: the real inputs of a program's models, as calibration data."""

from __future__ import annotations

from typing import Any

import click

from onnxprune.cli.options import MESSAGES, options
from onnxprune.cli.sections import Sectioned
from onnxprune.cli.values import SIZE, File


@click.command(
    cls=Sectioned,
    short_help="Record what a program feeds its models, as calibration data.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED, metavar="[--] PROGRAM [ARGUMENT]...")
@click.option(
    "-o", "--output", "folder", type=File(dir_okay=True), default="calib", show_default=True,
    help="Folder for the recording: a folder per model in it, each ready for --calib.",
)  # fmt: skip
@click.option("--samples", type=int, help="Samples to keep of each model, drawn at random from all. Default: 512.")
@click.option("--max-bytes", type=SIZE, help="Bytes to keep of each model, e.g. 200MB. Default: 1GiB.")
@click.option("--outputs", is_flag=True, help="Also keep what the models gave, in a folder beside.")
@click.option("--seed", type=int, help="Seed of the choice. Default: 0.")
@click.option("--force", is_flag=True, help="Replace an earlier recording (nothing else is ever replaced).")
@options(MESSAGES)
@click.pass_context
def command(ctx: click.Context, program: tuple[str, ...], folder: str, **values: Any) -> None:
    """Run PROGRAM as ever, and save what every ONNX Runtime session of every Python interpreter in it is fed.

    Ends with the program's exit code; with 3 where it ended well without running a session. What is said goes to stderr.
    """
    from onnxprune.api import record_program
    from onnxprune.cli.options import given
    from onnxprune.report.visible import visible

    code, recording = record_program(program, folder, **given(values))
    warnings = recording.problems if recording else [f"the program ended with {code} and ran no session"]
    if not ctx.meta.get("quiet"):
        for text in [*(recording.lines() if recording else ()), *(f"warning: {text}" for text in warnings)]:
            click.echo(visible(text), err=True)
    ctx.exit(code)
