"""Finding and running commands: the default command, hints for mistyped ones, and one line for every error."""

from __future__ import annotations

import logging
import os
import pkgutil
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from importlib import import_module
from typing import Any, NoReturn

import click
from click.shell_completion import CompletionItem

from onnxprune.cli import commands
from onnxprune.cli.failures import Failure, Terminated, failure
from onnxprune.cli.kinds import ENDINGS
from onnxprune.cli.misuse import Misuse
from onnxprune.cli.paths import settled
from onnxprune.cli.sections import COMMANDS, Helped, write_section
from onnxprune.cli.shells import ending_in
from onnxprune.cli.streams import guarded_streams
from onnxprune.errors import OnnxPruneError
from onnxprune.registry import near_names
from onnxprune.report.visible import visible

DEFAULT = "prune"
ENVIRONMENT = "ONNXPRUNE"  # ONNXPRUNE_RATIO is the default of --ratio, for every command
OWN_OPTIONS = ("-h", "--help", "--version")
EVERYWHERE = ("-h", "--help", "--help-all")


class Application(click.Group):
    """Commands found by file name; a first word that names no command is the model of the default one."""

    context_class = Helped

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(module.name for module in pkgutil.iter_modules(commands.__path__))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command = copy(import_module(f"{commands.__name__}.{cmd_name}").command)
        command.callback = settled(command.callback)
        for option in command.params:
            if isinstance(option, click.Option) and option.name != "help":
                option.envvar = environment_name(option)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        known = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        for title, names in COMMANDS.items():
            found = [(name, known[name]) for name in names.split()]
            write_section(
                formatter, title, [(name, command.get_short_help_str(100)) for name, command in found if command]
            )

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run with guarded streams and a log of its own; SIGTERM ends a run as Ctrl-C does."""
        with guarded_streams(), _own_log(), _ended_by_sigterm():
            return super().main(*args, **extra)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        try:
            with _usage_errors_as_ours():
                return super().make_context(*args, **extra)
        except KeyboardInterrupt as error:  # before a command is found; click would end with 1
            found = failure(error)
            click.echo(f"error: {found.message}", err=True)
            raise click.exceptions.Exit(found.exit_code) from None

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        known = self.list_commands(ctx)
        if args and args[0] not in OWN_OPTIONS and args[0] not in known and _is_for_default(args[0]):
            place = self._place_of_command(ctx, args)
            args = [DEFAULT, *args] if place is None else [args[place], *args[:place], *args[place + 1 :]]
        return super().parse_args(ctx, args)

    def _place_of_command(self, ctx: click.Context, args: list[str]) -> int | None:
        """Return the place of a command behind options: a command's name that is the first word by that command's own options.

        What the default command reads as the value of an option of its own is none, unless that option is the other's too.
        """
        known = self.list_commands(ctx)
        for name in dict.fromkeys(word for word in args if word in known):
            command = self.get_command(ctx, name)
            place = None if command is None else _first_word(command, args)
            if place is not None and args[place] == name:
                return place
        return None

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return commands, the options of the default command, and files, as the first word may be its model."""
        default = self.get_command(ctx, DEFAULT)
        if incomplete.startswith("-") and default is not None:
            own = default.make_context(DEFAULT, [], parent=ctx, resilient_parsing=True)
            return default.shell_complete(own, incomplete)
        found = super().shell_complete(ctx, incomplete)
        return found or [ending_in(incomplete, ENDINGS["model"])]

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        known = self.list_commands(ctx)
        if args[0] not in known and ctx.resilient_parsing:
            return None, None, args
        if args[0] not in known:
            hint = near_names(args[0], known) or f"; commands: {', '.join(known)}"
            ctx.fail(f"{args[0]!r} is neither a command nor a model file{hint}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; turn every error into one message, a documented exit code and, if asked for, JSON."""
        try:
            with _usage_errors_as_ours():
                return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except (Exception, KeyboardInterrupt, SystemExit) as error:
            _fail(ctx, failure(error, bool(ctx.meta.get("verbose"))))


def _first_word(command: click.Command, args: list[str]) -> int | None:
    """Return the place of the first word that is neither an option of a command nor the value of one; None behind what it does not take."""
    takes = {
        name: not p.is_flag
        for p in command.params
        if isinstance(p, click.Option)
        for name in (*p.opts, *p.secondary_opts)
    }
    place = 0
    while place < len(args):
        name = args[place].partition("=")[0]
        if not name.startswith("-") or name == "-":
            return place
        if name not in takes and name not in EVERYWHERE:
            return None
        place += 1 + (takes.get(name, False) and "=" not in args[place])
    return None


@contextmanager
def _usage_errors_as_ours() -> Iterator[None]:
    """Say what is wrong with a command line as every other error is said."""
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        raise error if isinstance(error, Misuse) else Misuse(error) from None


@contextmanager
def _own_log() -> Iterator[None]:
    """Leave the log of a program that calls a command as it was, whatever ``--quiet`` or ``--verbose`` made of it."""
    level, handlers = logging.root.level, list(logging.root.handlers)
    try:
        yield
    finally:
        logging.root.setLevel(level)
        logging.root.handlers[:] = handlers


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def environment_name(option: click.Option) -> str:
    """Return the variable that stands for an option: ``ONNXPRUNE_MAX_DROP`` for ``--max-drop``."""
    return f"{ENVIRONMENT}_{max(option.opts, key=len).removeprefix('--').replace('-', '_').upper()}"


def known_variables(ctx: click.Context) -> list[str]:
    """Return the variables of all options of all commands."""
    found = [main.get_command(ctx, name) for name in main.list_commands(ctx)]
    return sorted(
        {str(p.envvar) for command in found if command for p in command.params if isinstance(p, click.Option)}
    )


def _is_for_default(word: str) -> bool:
    """Whether a first word is an option, or looks like or is a file, rather than a mistyped command."""
    return word.startswith("-") or any(c in word for c in "./\\") or not word or os.path.exists(word)


def _fail(ctx: click.Context, found: Failure) -> NoReturn:
    if ctx.meta.get("verbose"):
        click.echo("\n".join(map(visible, traceback.format_exc().splitlines())), err=True)
    click.echo(f"error: {visible(found.message)}", err=True)
    _write_failure(ctx, found)
    ctx.exit(found.exit_code)


def _write_failure(ctx: click.Context, found: Failure) -> None:
    """Give pipelines that asked for documents the failure in them too, unless a report was written already."""
    if not ctx.meta.get("documents") or ctx.meta.get("reported"):
        return
    from onnxprune.cli.console import write_documents

    report = {
        "schema_version": 1,
        "command": ctx.invoked_subcommand,
        "exit_code": found.exit_code,
        "error": found.message,
    }
    try:
        write_documents(ctx, report | ({} if found.best is None else {"best": found.best}))
    except OnnxPruneError as error:
        click.echo(f"error: {visible(str(error))}", err=True)


def _show_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        from onnxprune import __version__

        click.echo(f"onnxprune {__version__}")
        ctx.exit()


@click.command(
    "onnxprune",
    cls=Application,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="'onnxprune COMMAND --help' explains a command, --help-all lists all its options. Exit codes: 0 done, 1 a gate failed, 2 wrong usage, "
    "3 a file cannot be read or processed, 4 target out of reach or nothing prunable, 5 inconclusive (with --strict).",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version."
)
def main() -> None:
    """Make ONNX models smaller and faster by removing whole channels, heads and neurons.

    'onnxprune MODEL [OUT]' prunes: it is short for 'onnxprune prune MODEL [OUT]'.
    """
