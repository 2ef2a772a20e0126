"""``onnxprune completion``: what a shell needs to complete commands, options and their values."""

from __future__ import annotations

import click

from onnxprune.cli.options import MESSAGES, options
from onnxprune.cli.sections import Sectioned
from onnxprune.cli.shells import SHELLS
from onnxprune.cli.values import Word
from onnxprune.errors import UsageError
from onnxprune.registry import near_names


@click.command(cls=Sectioned, short_help="Print what a shell needs to complete commands and options.")
@click.argument("shell", type=Word(tuple(SHELLS)), metavar="bash|zsh|fish")
@options(MESSAGES)
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the script by which a shell completes commands, options, files of the kind that fits and names (criteria, repairs, targets, ...).

    Write it where the shell looks for such files: for bash ~/.local/share/bash-completion/completions/onnxprune, for zsh a file
    _onnxprune in a folder of $fpath, for fish ~/.config/fish/completions/onnxprune.fish.
    """
    found = SHELLS.get(shell)
    if found is None:
        hint = near_names(shell, list(SHELLS)) or f"; known: {', '.join(SHELLS)}"
        raise UsageError(f"unknown shell {shell!r}{hint}")
    root = ctx.find_root()
    # the script is written out as it is: bash is not asked for its version, which may not be there to answer
    script = found(root.command, {}, "onnxprune", "_ONNXPRUNE_COMPLETE")
    click.echo(script.source_template % script.source_vars())
