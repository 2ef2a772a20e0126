"""Finding and running commands: the default command, hints for mistyped ones, and one line for every error."""

from __future__ import annotations

import os
import pkgutil
import traceback
from importlib import import_module
from typing import Any, NoReturn

import click

from onnxprune.cli import commands
from onnxprune.errors import OnnxPruneError
from onnxprune.registry import near_names

DEFAULT = "prune"
ENVIRONMENT = "ONNXPRUNE"  # ONNXPRUNE_RATIO is the default of --ratio, for every command
OWN_OPTIONS = ("-h", "--help", "--version")
INTERRUPTED = 130
UNEXPECTED = 3


class Application(click.Group):
    """Commands found by file name; a first word that names no command is the model of the default one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(module.name for module in pkgutil.iter_modules(commands.__path__))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command = import_module(f"{commands.__name__}.{cmd_name}").command
        command.context_settings["auto_envvar_prefix"] = ENVIRONMENT
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in OWN_OPTIONS and args[0] not in self.list_commands(ctx) and _is_for_default(args[0]):
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        known = self.list_commands(ctx)
        if args[0] not in known:
            hint = near_names(args[0], known) or f"; commands: {', '.join(known)}"
            ctx.fail(f"{args[0]!r} is neither a command nor a model file{hint}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; turn every error into one message, a documented exit code and, if asked for, JSON."""
        try:
            return super().invoke(ctx)
        except OnnxPruneError as error:
            _fail(ctx, str(error), error.exit_code, getattr(error, "best", None))
        except KeyboardInterrupt:
            _fail(ctx, "interrupted; nothing was left half-written", INTERRUPTED)
        except MemoryError:
            _fail(ctx, "out of memory; try fewer --samples, a smaller --batch or a machine with more of it", UNEXPECTED)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:
            _fail(ctx, f"unexpected {type(error).__name__}: {_first_line(error)} {_hint(ctx)}", UNEXPECTED)


def _is_for_default(word: str) -> bool:
    """Whether a first word is an option, or looks like or is a file, rather than a mistyped command."""
    return word.startswith("-") or any(c in word for c in "./\\") or not word or os.path.exists(word)


def _fail(ctx: click.Context, message: str, exit_code: int, best: float | None = None) -> NoReturn:
    if ctx.meta.get("verbose"):
        click.echo(traceback.format_exc(), err=True)
    click.echo(f"error: {message}", err=True)
    _write_failure(ctx, message, exit_code, best)
    ctx.exit(exit_code)


def _write_failure(ctx: click.Context, message: str, exit_code: int, best: float | None) -> None:
    """Give pipelines that asked for documents the failure in them too, unless a report was written already."""
    if not ctx.meta.get("documents") or ctx.meta.get("reported"):
        return
    from onnxprune.cli.console import write_documents

    failure = {"schema_version": 1, "command": ctx.invoked_subcommand, "exit_code": exit_code, "error": message}
    try:
        write_documents(ctx, failure | ({} if best is None else {"best": best}))
    except OnnxPruneError as error:
        click.echo(f"error: {error}", err=True)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]


def _hint(ctx: click.Context) -> str:
    return "" if ctx.meta.get("verbose") else "(run again with -v for the traceback, and please report it)"


def _show_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        from onnxprune import __version__

        click.echo(f"onnxprune {__version__}")
        ctx.exit()


@click.command(
    cls=Application,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="'onnxprune COMMAND --help' explains a command. Exit codes: 0 done, 1 a gate failed, 2 wrong usage, "
    "3 a file cannot be read or processed, 4 target out of reach or nothing prunable, 5 inconclusive (with --strict).",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version."
)
def main() -> None:
    """Make ONNX models smaller and faster by removing whole channels, heads and neurons.

    'onnxprune MODEL [OUT]' prunes: it is short for 'onnxprune prune MODEL [OUT]'.
    """
