"""``onnxprune bench``: latency of one model, or of two measured in turns."""

from __future__ import annotations

from typing import Any

import click

from onnxprune.cli.options import FILE, MESSAGES, OUTPUT, RUN, SHAPES, given, options
from onnxprune.cli.values import NAMES, SECONDS, SHARE


@click.command(short_help="Measure latency of one or two models.")
@click.argument("model", type=FILE)
@click.argument("other", type=FILE, required=False)
@options(SHAPES, RUN)
@click.option("--pairs", type=int, default=100, show_default=True, help="Timed runs of each model.")
@click.option(
    "--seconds", type=SECONDS, default=10.0, show_default=True, help="Time after which no run begins, e.g. 2m."
)
@click.option("--providers", type=NAMES, help="Execution providers of ONNX Runtime, e.g. CUDA,CPU. Default: CPU.")
@click.option("--memory", is_flag=True, help="Also measure the peak resident memory of each in a fresh process.")
@click.option("--max-latency-ratio", type=SHARE, help="Gate: p10 of OTHER over that of MODEL, e.g. 0.6.")
@click.option("--strict", is_flag=True, help="End with exit code 5 when the measurement is inconclusive.")
@options(OUTPUT, MESSAGES)
@click.pass_context
def command(
    ctx: click.Context,
    model: str,
    other: str | None,
    pairs: int,
    seconds: float,
    strict: bool,
    providers: tuple[str, ...] | None,
    memory: bool,
    **settings: Any,
) -> None:
    """Measure the latency of MODEL on one random sample; with OTHER both in turns, so that noise hits both alike.

    p10 and the fastest run are steady enough to judge by; p50, p90 and p99 show how busy the machine was.
    """
    from onnxprune.api import bench
    from onnxprune.cli.console import Terminal, write_documents
    from onnxprune.report.documents.tables import memory_rows
    from onnxprune.report.entries import gate_rows

    terminal = Terminal(ctx)
    with terminal.progress() as progress:
        report = bench(
            model,
            other,
            pairs=pairs,
            seconds=seconds,
            strict=strict,
            providers=providers and [_full_name(name) for name in providers],
            memory=memory,
            progress=progress,
            **given(settings),
        )
    latency = report["latency"]
    percentiles = ("p10", "min", "p50", "p90", "p99")
    rows = [
        (str(name), *(f"{latency[key][p]:,.0f}" for p in percentiles), str(latency[key]["runs"]))
        for name, key in ((model, "before"), (other, "after"))
        if key in latency
    ]
    title = f"latency, threads: {latency['threads']}, on {', '.join(latency['providers'])}"
    terminal.table(("µs", *percentiles, "runs"), rows, title)
    terminal.table(("bytes", "weights", "peak activations", "peak resident"), list(memory_rows(report)))
    if report["gates"]:
        terminal.table(("gate", "limit", "value", "passed"), gate_rows(report["gates"]))
    if latency.get("ratio_p10"):
        doubt = "" if latency["conclusive"] else ": inconclusive"
        shares = (
            f"{latency['ratio_p10']:.3f} of the time of {model} by p10, {latency['ratio_min']:.3f} by the fastest run"
        )
        terminal.say(f"{other} takes {shares}{doubt}")
    terminal.warn([f"inconclusive: {reason}" for reason in latency["reasons"]])
    write_documents(ctx, report)
    ctx.exit(report["exit_code"])


def _full_name(provider: str) -> str:
    """``CUDA`` is short for ``CUDAExecutionProvider``."""
    return provider if provider.endswith("Provider") else f"{provider}ExecutionProvider"
