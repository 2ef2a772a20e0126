"""A command line that click cannot read, said as every other error is: what is wrong, and what to do next."""

from __future__ import annotations

from typing import IO, Any

import click
from click.core import ParameterSource

from onnxprune.cli.kinds import PLACES, ROWS, is_data
from onnxprune.cli.reversed import data_among, lacking, told_lacking
from onnxprune.cli.sections import long_name
from onnxprune.cli.typed import TYPED
from onnxprune.registry import near_names
from onnxprune.report.visible import visible


class Misuse(click.UsageError):
    """An error of click's, in one line."""

    def __init__(self, error: click.UsageError):
        super().__init__(visible(_told(error)), error.ctx)

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"error: {self.message}", file=file, err=True)


def _told(error: click.UsageError) -> str:
    """Return what is wrong and where to look."""
    ctx = error.ctx
    path = ctx.command_path if ctx else "onnxprune"
    if isinstance(error, click.NoSuchOption):
        hint = near_names(error.option_name, _names(ctx)) or f"; '{path} --help-all' lists all"
        return f"{path} has no option {error.option_name}{hint}"
    if isinstance(error, click.MissingParameter):
        return _told_missing(error, ctx, path)
    if isinstance(error, click.BadParameter):
        what = f"{_called(error.param, ctx)} " if error.param else ""
        return f"{what}{error.message.rstrip('.')}{'' if ';' in error.message else _looked_up(path)}"
    if isinstance(error, click.BadOptionUsage):
        takes = "no value" if "not take" in error.message else "a value"
        return f"{error.option_name} takes {takes}{_looked_up(path)}"
    text = error.format_message().rstrip(".")
    if ";" in text:
        return text
    if text.startswith("Got unexpected extra argument"):
        words = text.partition("(")[2].rstrip(")")
        return f"too many arguments: {words}{data_among(words.split(), _parameters(ctx))}; usage: {path} {usage_of(ctx)}".rstrip()
    return f"{text[:1].lower()}{text[1:]}{_looked_up(path)}"


def _told_missing(error: click.MissingParameter, ctx: click.Context | None, path: str) -> str:
    """Say what is missing: where files may come in any order, the kind that none of them is."""
    what = _called(error.param, ctx) if error.param else "an argument"
    if ctx is None or error.param is None:
        return f"{what} is missing; usage: {path} {usage_of(ctx)}"
    if isinstance(error.param, click.Argument):
        names = [str(param.name) for param in ctx.command.params if isinstance(param, click.Argument)]
        paths = [found for found in map(ctx.params.get, names) if isinstance(found, str)]
        command = str(ctx.info_name)
        if paths and (name := lacking(command, paths)):
            return told_lacking(command, name, paths, usage_of(ctx))
    place = PLACES.get(str(error.param.name))
    loose = [word for word in ctx.meta.get(TYPED, ()) if is_data(word)] if place and place.kind == ROWS else []
    beside = f" ({loose[0]} is data)" if loose else ""
    return f"{what} is missing{beside}; usage: {path} {usage_of(ctx)}"


def _parameters(ctx: click.Context | None) -> set[str]:
    return {str(param.name) for param in (ctx.command.params if ctx else ())}


def _looked_up(path: str) -> str:
    return f"; '{path} --help-all' explains it"


def _called(param: click.Parameter, ctx: click.Context | None) -> str:
    """Return --ratio, or the variable that stood for it, or MODEL."""
    if isinstance(param, click.Option):
        source = ctx.get_parameter_source(str(param.name)) if ctx else None
        return str(param.envvar) if source is ParameterSource.ENVIRONMENT else f"--{long_name(param)}"
    return param.make_metavar(ctx or click.Context(_NOTHING))


def _names(ctx: click.Context | None) -> list[str]:
    """Return the long names of the options of a command."""
    return [name for option in (ctx.command.params if ctx else ()) for name in option.opts if name.startswith("--")]


def usage_of(ctx: click.Context | None) -> str:
    """Return the arguments of a command, and the options that it cannot do without."""
    if ctx is None:
        return ""
    needed = [p for p in ctx.command.params if isinstance(p, click.Option) and p.required]
    pieces = ctx.command.collect_usage_pieces(ctx)
    return " ".join([*pieces[1:], *(f"--{long_name(option)} {option.make_metavar(ctx)}" for option in needed)])


_NOTHING = click.Command("onnxprune")
