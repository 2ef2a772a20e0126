"""``onnxprune bench``: latency of one model, or of two measured in turns."""

from __future__ import annotations

from typing import Any

import click

from onnxprune.cli.options import FILE, MESSAGES, OUTPUT, RUN, SHAPES, given, options
from onnxprune.cli.sections import Sectioned
from onnxprune.cli.values import PROVIDERS, SECONDS, SHARE


@click.command(cls=Sectioned, short_help="Measure latency of one or two models.")
@click.argument("model", type=FILE)
@click.argument("other", type=FILE, required=False)
@options(SHAPES, RUN)
@click.option("--pairs", type=int, default=100, show_default=True, help="Timed runs of each model.")
@click.option(
    "--seconds", type=SECONDS, default=10.0, show_default=True, help="Time after which no run begins, e.g. 2m."
)
@click.option("--providers", type=PROVIDERS, help="Execution providers of ONNX Runtime, e.g. CUDA,CPU. Default: CPU.")
@click.option("--memory", is_flag=True, help="Also measure the peak resident memory of each in a fresh process.")
@click.option("--max-latency-ratio", type=SHARE, help="Gate: p10 of OTHER over that of MODEL, e.g. 0.6.")
@click.option("--strict", is_flag=True, help="End with exit code 5 when the measurement is inconclusive.")
@options(OUTPUT, MESSAGES)
@click.pass_context
def command(
    ctx: click.Context, model: str, other: str | None, providers: tuple[str, ...] | None, **values: Any
) -> None:
    """Measure the latency of MODEL on one random sample; with OTHER both in turns, so that noise hits both alike.

    p10 and the fastest run are steady enough to judge by; p50, p90 and p99 show how busy the machine was.
    """
    from onnxprune.cli.console import Terminal, write_documents

    terminal = Terminal(ctx)
    if providers:
        values["providers"] = [_full_name(name) for name in providers]
    with terminal.progress() as progress:
        from onnxprune.api import bench
        from onnxprune.cli.tables import show_latency, show_sizes

        report = bench(model, other, progress=progress, **given(values))
    show_latency(terminal, report, (model, other))
    show_sizes(terminal, report)
    found = report["latency"]
    terminal.warn([f"inconclusive: {reason}" for reason in (found["cpu"] or found)["reasons"]])
    write_documents(ctx, report)
    ctx.exit(report["exit_code"])


def _full_name(provider: str) -> str:
    """``CUDA`` is short for ``CUDAExecutionProvider``."""
    return provider if provider.endswith("Provider") else f"{provider}ExecutionProvider"
