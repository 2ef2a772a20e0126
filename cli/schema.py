"""The JSON Schema of the configuration, made of the commands' own options, for editors and for CI."""

from __future__ import annotations

from typing import Any

import click

from onnxprune.cli.config import JOBS, is_budget, parameters

TYPES = {click.INT: "integer", click.FLOAT: "number", click.BOOL: "boolean"}


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of ``onnxprune.toml`` and of ``[tool.onnxprune]``."""
    everything = {name: parameter for command in JOBS for name, parameter in parameters(command).items()}
    budgets = {name: parameter for name, parameter in everything.items() if is_budget(name)}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "onnxprune jobs and budgets",
        "type": "object",
        "additionalProperties": False,
        "required": ["jobs"],
        "properties": {
            "defaults": _table(everything),
            "budgets": _table(budgets),
            "jobs": {"type": "object", "additionalProperties": {"oneOf": [_job(command) for command in JOBS]}},
        },
    }


def _job(command: str) -> dict[str, Any]:
    known = parameters(command)
    table = _table(known)
    table["properties"] |= {
        "command": {"const": command},
        "budgets": _table({name: parameter for name, parameter in known.items() if is_budget(name)}),
    }
    required = [
        name for name, parameter in known.items() if parameter.required and isinstance(parameter, click.Argument)
    ]
    return {"title": command, **table, "required": required + (["command"] if command != JOBS[0] else [])}


def _table(known: dict[str, click.Parameter]) -> dict[str, Any]:
    properties = {name: _property(parameter) for name, parameter in known.items()}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _property(parameter: click.Parameter) -> dict[str, Any]:
    """Return what one key may hold; what the command line reads from text may be a number as well."""
    flag = isinstance(parameter, click.Option) and parameter.is_flag
    kind: Any = "boolean" if flag else TYPES.get(parameter.type, ["string", "number"])
    found: dict[str, Any] = {"type": kind}
    if parameter.multiple:
        found = {"oneOf": [found, {"type": "array", "items": found}]}
    text = parameter.help if isinstance(parameter, click.Option) else None
    return found | ({"description": text} if text else {})
