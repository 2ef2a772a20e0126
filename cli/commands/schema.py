"""``onnxprune schema``: what a configuration may say."""

from __future__ import annotations

import json

import click

from onnxprune.cli.options import MESSAGES, options
from onnxprune.cli.sections import Sectioned


@click.command(cls=Sectioned, short_help="Print the JSON Schema of the configuration.")
@options(MESSAGES)
def command() -> None:
    """Print the JSON Schema of onnxprune.toml and of [tool.onnxprune] in pyproject.toml."""
    from onnxprune.cli.schema import schema

    click.echo(json.dumps(schema(), indent=1))
