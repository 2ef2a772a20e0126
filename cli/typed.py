"""The command that runs, in words that a shell takes again: as it was typed, with what variables and files of options have added."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import click
from click.core import ParameterSource

TYPED, CONFIGURED = "typed", "configured"
"""Where a context keeps the words behind a command, and what a file of options says by the names of parameters."""


def given_words(ctx: click.Context, leave_out: Collection[str] = ()) -> list[str]:
    """Return the words of every argument and option that was given: on the line, by a variable, or in a file of options.

    Paths are as they were typed. Where documents go and what is said on the way is left out: it changes nothing of what is done.
    """
    said = ctx.command.make_parser(ctx).parse_args(list(ctx.meta.get(TYPED, ())))[0]
    found: list[str] = []
    for param in sorted(ctx.command.params, key=lambda param: isinstance(param, click.Option)):  # arguments first
        if param.name in leave_out or not param.expose_value:
            continue
        value = _value(ctx, param, said)
        if value is not None:
            found += _words(param, value)
    return found


def _value(ctx: click.Context, param: click.Parameter, said: Mapping[str, Any]) -> Any:
    """Return what a parameter was given, not yet read; None where it was not."""
    name = str(param.name)
    match ctx.get_parameter_source(name):
        case ParameterSource.COMMANDLINE:
            return said.get(name)
        case ParameterSource.ENVIRONMENT:
            return param.value_from_envvar(ctx)
        case ParameterSource.DEFAULT_MAP:
            flag = isinstance(param, click.Option) and param.is_flag
            return ctx.lookup_default(name) if flag else ctx.meta.get(CONFIGURED, {}).get(name)
    return None


def _words(param: click.Parameter, value: Any) -> Iterator[str]:
    """Yield the words that give a parameter a value: that of the parser, of a variable or of a file."""
    several = list(value) if isinstance(value, list | tuple) else [value]
    if isinstance(param, click.Argument):
        yield from map(str, several)
        return
    option = max(param.opts, key=len)
    if isinstance(param, click.Option) and param.is_flag:
        on = click.BOOL.convert(value, param, None) is (param.flag_value is not False)
        if on or param.secondary_opts:
            yield option if on else max(param.secondary_opts, key=len)
    elif param.multiple:
        for one in several:
            yield from (option, str(one))
    else:
        yield from (option, ",".join(map(str, several)))
