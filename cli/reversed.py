"""Arguments in another order than a command takes them, or of another kind: understood where the files say which is which, else refused with what was meant."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxprune.cli.kinds import MODEL, MODELS, PLACES, PLAN, ROWS, is_checkpoint, is_data, kind_of_path, may_be_plan
from onnxprune.cli.sections import COMMANDS
from onnxprune.errors import UsageError

WRITING = ("prune", "expand")
IN_ANY_ORDER: Mapping[str, tuple[str, ...]] = {"apply": ("plan", "model"), "checkpoint": ("plan", "model", "weights")}
"""Commands that take files of several kinds, which say themselves which is which."""


def files_in_order(command: str, values: dict[str, Any]) -> dict[str, Any]:
    """Return values with a plan, a model and a checkpoint each under its own name, in whatever order they were given."""
    names = IN_ANY_ORDER.get(command, ())
    paths = [str(values[name]) for name in names]
    found: dict[str, str] = {}
    for name, test in (("plan", may_be_plan), ("weights", is_checkpoint)):
        fitting = [path for path in paths if test(path)]
        if name in names and len(fitting) == 1:
            found[name] = fitting[0]
    rest = [path for path in paths if path not in found.values()]
    if found and len(found) == len(names) - 1 and len(rest) == 1:
        return values | found | {next(name for name in names if name not in found): rest[0]}
    return values


def lacking(command: str, paths: Sequence[str]) -> str:
    """Return which of the files that a command takes in any order is none of ``paths``; "" where each may be there."""
    kinds = [kind_of_path(path) for path in paths]
    for name in IN_ANY_ORDER.get(command, ()):
        if "" not in kinds and PLACES[name].kind not in kinds:
            return name
    return ""


def told_lacking(command: str, name: str, paths: Sequence[str], usage: str) -> str:
    """Say which file is missing, what was given instead, and where one comes from."""
    kinds = {path: kind_of_path(path) for path in paths}
    given = ", ".join(f"{path} is {kind}" for path, kind in kinds.items())
    model = next((path for path, kind in kinds.items() if kind == MODEL), "MODEL")
    way = PLACES[name].way.replace("MODEL", shlex.quote(model))
    return f"{name.upper()} is missing ({given}); usage: onnxprune {command} {usage}; {way}"


def refuse_reversed(command: str, values: dict[str, Any], usage: str) -> None:
    """Raise UsageError, with the line that was meant, where a path is not what its place takes."""
    for word in values.get("names", ()) if command == "run" else ():
        _refuse_as_job(word)
    names = IN_ANY_ORDER.get(command, ())
    given = [str(values[name]) for name in names]
    if name := lacking(command, given):
        raise UsageError(told_lacking(command, name, given, usage))
    for name, path in _placed(command, files_in_order(command, values)):
        _refuse_kind(command, name, path, values)
    model, out = values.get("model"), values.get("out")
    if command in WRITING and isinstance(out, str) and isinstance(model, str):
        _refuse_written(command, model, out)


def _placed(command: str, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (name of an argument or option, path) of all files that are read."""
    if command == "stats":
        first, *rest = values["parts"]
        values = {**values, "stats": tuple(rest)} if first == "merge" else {**values, "model": None if rest else first}
    for name in PLACES:
        found = values.get(name)
        for path in (found,) if isinstance(found, str) else found if isinstance(found, tuple) else ():
            yield name, path


def _refuse_kind(command: str, name: str, path: str, values: Mapping[str, Any]) -> None:
    """Refuse a file that is surely of another kind than its place takes."""
    kind, place = kind_of_path(path), PLACES[name]
    if kind not in place.refused:
        return
    option = "data" if "data" in values else "calib"
    if place is MODELS and kind == ROWS and option in values:
        raise UsageError(f"{path} is data, not a model; give it with --{option}, and the model in its place")
    if command == "prune" and name == "model" and kind == PLAN:
        raise UsageError(f"{path} is a plan, not a model; carry it out: {line('apply', path, 'MODEL')}")
    raise UsageError(f"{path} is {kind}, not {place.what}; {place.way}")


def _refuse_as_job(word: str) -> None:
    """Refuse what is no name of a job, but a file that goes elsewhere."""
    suffix = Path(word).suffix
    if suffix == ".onnx" and Path(word).exists():
        raise UsageError(f"{word} is a model, not a job: {line('prune', word)}")
    if suffix == ".toml" and Path(word).exists():
        raise UsageError(f"{word} is a file of jobs, not a job: {line('run', '--config', word)}")


def _refuse_written(command: str, model: str, out: str) -> None:
    there = Path(out).exists()
    if not there and out in " ".join(COMMANDS.values()).split():
        raise UsageError(
            f"{out} is a command, which comes first: {line(out, model)}; for a file of that name write ./{out}"
        )
    if there and not Path(model).exists():
        raise UsageError(
            f"{model}: no such file, but {out} is there; the model comes first: {line(command, out, model)}"
        )
    if there and command == "prune" and is_data(out):
        raise UsageError(
            f"{out} is data, where the result would go; give it with --calib: {line(command, model, '--calib', out)}"
        )
    if there and command == "prune" and may_be_plan(out):
        raise UsageError(f"{out} is a plan, where the result would go; carry it out: {line('apply', out, model)}")


def data_among(words: Sequence[str], options: Collection[str]) -> str:
    """Return which option takes the data among words that are no options; "" where there is none."""
    option = next((name for name in ("data", "calib") if name in options), "")
    found = [word for word in words if is_data(word)]
    return f"; give data with --{option}" if option and found else ""


def line(*words: str) -> str:
    """Return a command as it is typed."""
    return shlex.join(("onnxprune", *words))
