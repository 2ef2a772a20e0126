"""Jobs and budgets in ``onnxprune.toml`` or ``[tool.onnxprune]`` of pyproject.toml: keys are the options of the commands.

[tool.onnxprune.defaults]         options of every job that has them
[tool.onnxprune.budgets]          budgets of every job that has them
[tool.onnxprune.jobs.NAME]        command = "prune" (default), "validate" or "check", its arguments and options
[tool.onnxprune.jobs.NAME.budgets]
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from onnxprune.cli.values import SCRIPT
from onnxprune.errors import UsageError
from onnxprune.registry import near_names

LARGEST = 1 << 22  # bytes of a file
FILES = ("onnxprune.toml", "pyproject.toml")
JOBS = ("prune", "validate", "check")
TOP = ("defaults", "budgets", "jobs")
BUDGETS = ("max_", "min_")
NOT_BUDGETS = ("max_layer_ratio", "max_divergence", "min_width")
OUTSIDE = frozenset(
    {
        "config",
        "help",
        "structured",
        "json",
        "markdown",
        "junit",
        "html",
        "model_explorer",
        "model_explorer_macs",
        "verbose",
        "quiet",
        "no_color",
    }
)


@dataclass(frozen=True)
class Job:
    """One run of a command, its values converted as the command line would."""

    name: str
    command: str
    values: dict[str, Any]


def parameters(command: str) -> dict[str, click.Parameter]:
    """Return the names that a job of a command may set, as in the file, with the parameter each stands for."""
    found = import_module(f"onnxprune.cli.commands.{command}").command.params
    named = {_name(parameter): parameter for parameter in found}
    return {name: parameter for name, parameter in named.items() if name.replace("-", "_") not in OUTSIDE}


def _name(parameter: click.Parameter) -> str:
    """Return the name in the file: the option's, without dashes before it; the argument's own."""
    longest = max(parameter.opts, key=len)
    return longest.removeprefix("--").replace("_", "-")


def is_budget(name: str) -> bool:
    plain = name.replace("-", "_")
    return plain.startswith(BUDGETS) and plain not in NOT_BUDGETS


def find(folder: Path) -> Path:
    """Return the configuration of a folder; raises UsageError where there is none."""
    for name in FILES:
        path = folder / name
        if path.is_file() and (name != "pyproject.toml" or _content(path) is not None):
            return path
    raise UsageError("no onnxprune.toml and no [tool.onnxprune] in pyproject.toml here; name a file with --config")


def read(path: Path) -> list[Job]:
    """Return the jobs of a configuration; raises UsageError for what it may not say, with near names."""
    content = _content(path)
    if content is None:
        raise UsageError(f"{path} has no [tool.onnxprune]")
    _known(content, TOP, str(path))
    jobs = _table(content, "jobs", str(path))
    if not jobs:
        raise UsageError(f"{path} has no jobs; add a table [jobs.NAME] with at least a model")
    shared = {part: _table(content, part, str(path)) for part in ("defaults", "budgets")}
    anywhere = {name for command in JOBS for name in parameters(command)}
    for part, table in shared.items():
        allowed = {name for name in anywhere if part == "defaults" or is_budget(name)}
        _known(table, allowed, f"{path}, {part}")
    return [_job(name, _table(jobs, name, str(path)), shared, path) for name in jobs]


def toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; raises UsageError where that cannot be done."""
    from onnxprune.model.read import read_text

    try:
        return tomllib.loads(read_text(path, LARGEST, UsageError, "a configuration"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read as TOML: {error}") from None


def _content(path: Path) -> dict[str, Any] | None:
    """Return the part of a TOML file that is ours."""
    content = toml(path)
    if path.name != "pyproject.toml":
        return content
    tools = _table(content, "tool", str(path))
    return _table(tools, "onnxprune", f"{path}, tool") if "onnxprune" in tools else None


def _table(content: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    found = content.get(name, {})
    if not isinstance(found, dict):
        raise UsageError(f"{where}: {name} is to be a table, not {found!r}")
    return found


def _known(table: Mapping[str, Any], allowed: Iterable[str], where: str) -> None:
    names = sorted(allowed)
    for key in table:
        if key.replace("_", "-") not in names:
            hint = near_names(key, names) or f"; known: {', '.join(names)}"
            raise UsageError(f"{where}: there is no key {key!r}{hint}")


def _job(name: str, own: dict[str, Any], shared: Mapping[str, dict[str, Any]], path: Path) -> Job:
    where = f"{path}, jobs.{name}"
    command = own.get("command", JOBS[0])
    if command not in JOBS:
        raise UsageError(
            f"{where}: unknown command {command!r}{near_names(str(command), list(JOBS))}; {', '.join(JOBS)}"
        )
    allowed = parameters(command)
    budgets = _table(own, "budgets", where)
    _known(budgets, [key for key in allowed if is_budget(key)], f"{where}, budgets")
    options = {key: value for key, value in own.items() if key not in ("command", "budgets")}
    _known(options, allowed, where)
    merged: dict[str, Any] = {}
    for table in (shared["defaults"], shared["budgets"], options, budgets):
        merged |= {key: value for key, value in _dashed(table).items() if key in allowed}
    missing = [key for key, parameter in allowed.items() if parameter.required and key not in merged]
    if missing:
        raise UsageError(f"{where}: {', '.join(missing)} is missing")
    values = {str(parameter.name): _default(parameter) for parameter in allowed.values()}
    for key, value in merged.items():
        values[str(allowed[key].name)] = converted(allowed[key], value, f"{where}, {key}", path.parent)
    return Job(name, command, values)


def _dashed(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key.replace("_", "-"): value for key, value in table.items()}


def _default(parameter: click.Parameter) -> Any:
    """Return what a command is given where nothing was said; click marks the lack of a default by an object of its own."""
    found = parameter.get_default(click.Context(click.Command("job")))
    return () if parameter.multiple else found if isinstance(found, bool | int | float | str) else None


def converted(parameter: click.Parameter, value: Any, where: str, folder: Path | None = None) -> Any:
    """Return a value as the command line gives it, paths taken from ``folder``; raises UsageError for one it could not be."""
    if isinstance(parameter, click.Option) and parameter.is_flag:
        if not isinstance(value, bool):
            raise UsageError(f"{where}: expected true or false, not {value!r}")
        return parameter.flag_value is not False if value else _default(parameter)
    items = value if isinstance(value, list) and parameter.multiple else [value]
    if not all(_may_be(parameter.type, item) for item in items):
        raise UsageError(f"{where}: {value!r} is not what --{_name(parameter)} takes")
    try:
        found = tuple(parameter.type.convert(_read(parameter, item), parameter, None) for item in items)
    except click.BadParameter as error:
        raise UsageError(f"{where}: {error.message}") from None
    placed = found if folder is None else tuple(_placed(parameter.type, item, folder) for item in found)
    return placed if parameter.multiple else placed[0]


def _may_be(kind: click.ParamType, item: Any) -> bool:
    """Whether a value of a file may stand for text of the command line: no fraction for a whole number, nothing but plain values."""
    if isinstance(item, list):
        return bool(item) and getattr(kind, "listed", False)
    if kind is click.INT and isinstance(item, float):
        return False
    return isinstance(item, str | int | float) and not isinstance(item, bool)


def _read(parameter: click.Parameter, item: Any) -> Any:
    """A number is as good as its text where the command line reads text."""
    return str(item) if isinstance(parameter.type, click.types.StringParamType) else item


def _placed(kind: click.ParamType, item: Any, folder: Path) -> Any:
    return str(folder / item) if isinstance(kind, click.Path) or kind is SCRIPT else item
