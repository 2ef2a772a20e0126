"""How help lists commands and options: in sections, those that most runs need first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from shutil import get_terminal_size

import click

from onnxprune.cli.typed import TYPED

FEW = 15
"""A command with no more options than this shows all of them at once."""
COMMANDS = {
    "Make a model smaller": "prune apply run expand checkpoint",
    "Look first": "inspect sensitivity sweep record stats",
    "Judge": "validate bench check report",
    "About onnxprune": "doctor criteria ops schema completion",
}
"""Title -> the commands under it, in this order."""
OPTIONS = {
    "What to remove": "preset ratio ratios target max-divergence criterion criteria roles selection scope threshold "
    "granularity share low-rank lossless vocabulary token-numbers structured sparsity embeddings permute "
    "rotate allow-lossy cut-cache untrained gate-training gate-weights schedule may-return",
    "Where": "include exclude max-layer-ratio layer-ratio round-to min-width",
    "How the result is stored and run": "storage quantize keep-float matmul-as dynamic",
    "Data": "data calib eval labels samples batch shard stats cache folder input-shape input-value "
    "output-weight task metric attack layers max-bytes outputs",
    "Pictures, recordings and text": "layout mean std scale channel-order fit resize fill audio-rate audio-window "
    "audio-hop audio-scale tokenizer text-length",
    "Repair and recovery": "repair repairs search search-recover recover recover-loss learning-rate augment "
    "rewind rewind-as checkpoint",
    "Gates": "max-drop min-agreement min-cosine max-latency-ratio max-size max-params max-macs min-prunable "
    "baseline tolerance strict allow-unproven",
    "Output": "output force dry-run plan masks untold all json markdown junit html model-explorer model-explorer-macs",
    "Run": "latency no-latency pairs seconds providers memory seed threads spread config",
    "Messages": "verbose quiet no-color help help-all",
}
"""Title -> the options under it, by their long names without dashes, in this order."""
COMMON = frozenset(
    "preset ratio target granularity exclude calib eval recover max-drop output force plan dry-run json html "
    "ratios criteria repairs folder data metric layers latency pairs seconds providers shard all "
    "help help-all".split()
)
"""What help lists of a command with many options; --help-all lists the rest."""


def long_name(option: click.Parameter) -> str:
    """Return the name that an option goes by: ``output`` of ``-o, --output``."""
    return next((name for name in option.opts if name.startswith("--")), option.opts[0]).lstrip("-")


def in_sections(options: Sequence[click.Parameter], everything: bool) -> Iterator[tuple[str, list[click.Option]]]:
    """Yield every title with the options of a command that belong there; unless ``everything``, those of ``COMMON`` where they are many."""
    named = {long_name(option): option for option in options if isinstance(option, click.Option)}
    whole = everything or len(named) <= FEW
    for title, names in OPTIONS.items():
        found = [
            named[name] for name in names.split() if name in named and (whole or name in COMMON or named[name].required)
        ]
        if found:
            yield title, found


class Formatter(click.HelpFormatter):
    """Help as wide as the terminal, however narrow that is, and 80 columns at most."""

    def __init__(self, *_: object, **__: object):
        super().__init__(width=max(min(get_terminal_size().columns, 80) - 2, 20))


class Helped(click.Context):
    """The context of a command whose help is laid out here."""

    formatter_class = Formatter


class Sectioned(click.Command):
    """A command whose options are listed in sections; ``--help-all`` lists all of them."""

    context_class = Helped

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[TYPED] = tuple(args)
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx  # some of click's errors do not say whose option it is
            raise

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*super().get_params(ctx), _HELP_ALL]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        everything, options = bool(ctx.meta.get("everything")), self.get_params(ctx)
        shown = 0
        for title, found in in_sections(options, everything):
            records = [record for option in found if (record := option.get_help_record(ctx)) is not None]
            shown += len(records)
            write_section(formatter, title, records)
        rest = sum(isinstance(option, click.Option) for option in options) - shown
        if rest:
            formatter.write_paragraph()
            formatter.write_text(f"{rest} more options: {ctx.command_path} --help-all")


NARROW = 60
"""Columns below which a name has a line of its own."""


def write_section(formatter: click.HelpFormatter, title: str, rows: Sequence[tuple[str, str]]) -> None:
    """Write a title and rows of names and what they are."""
    with formatter.section(title):
        if formatter.width >= NARROW:
            formatter.write_dl(rows)
            return
        for name, text in rows:
            formatter.write(f"{'':>{formatter.current_indent}}{name}\n")
            with formatter.indentation():
                formatter.write_text(text)


def _show_everything(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        ctx.meta["everything"] = True
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()


_HELP_ALL = click.Option(
    ["--help-all"], is_flag=True, is_eager=True, expose_value=False, callback=_show_everything,
    help="Show every option and exit.",
)  # fmt: skip
