"""Arguments in another order than a command takes them: understood where the files say which is which, else refused with the right line."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from onnxprune.cli.sections import COMMANDS
from onnxprune.errors import UsageError

DATA = (".npz", ".npy", ".wav", ".txt", ".pb", ".png", ".jpg", ".jpeg")
MODELS = ("model", "other", "before", "after")
WRITING = ("prune", "expand")


def is_plan(path: str) -> bool:
    """Whether a file begins like a plan, which is a JSON object; no model begins with a brace."""
    return _head(path).lstrip().startswith(b"{")


def is_checkpoint(path: str) -> bool:
    """Whether a file begins like one of safetensors: the length of its header, and a JSON object."""
    head = _head(path)
    return Path(path).suffix == ".safetensors" or (head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 40)


def _head(path: str) -> bytes:
    try:
        with open(path, "rb") if Path(path).is_file() else BytesIO() as stream:
            return stream.read(64)
    except OSError:
        return b""


def by_kind(values: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Return values with a plan, a model and a checkpoint each under its own name, in whatever order they were given."""
    paths = [str(values[name]) for name in names]
    tests = {"plan": is_plan, "weights": is_checkpoint}
    found: dict[str, str] = {}
    for name, test in tests.items():
        fitting = [path for path in paths if test(path)]
        if name in names and len(fitting) == 1:
            found[name] = fitting[0]
    rest = [path for path in paths if path not in found.values()]
    if len(found) == len(names) - 1 and len(rest) == 1:
        return values | found | {next(name for name in names if name not in found): rest[0]}
    return values


def refuse_reversed(command: str, values: Mapping[str, Any]) -> None:
    """Raise UsageError, with the line that was meant, where a path is not what its place takes."""
    for word in values.get("names", ()) if command == "run" else ():
        _refuse_as_job(word)
    for name in MODELS:
        path = values.get(name)
        if isinstance(path, str):
            _refuse_data(command, path, values)
    model, out = values.get("model"), values.get("out")
    if command in WRITING and isinstance(out, str) and isinstance(model, str):
        _refuse_written(command, model, out)


def _refuse_as_job(word: str) -> None:
    """Refuse what is no name of a job, but a file that goes elsewhere."""
    suffix = Path(word).suffix
    if suffix == ".onnx" and Path(word).exists():
        raise UsageError(f"{word} is a model, not a job: {line('prune', word)}")
    if suffix == ".toml" and Path(word).exists():
        raise UsageError(f"{word} is a file of jobs, not a job: {line('run', '--config', word)}")


def _refuse_data(command: str, path: str, values: Mapping[str, Any]) -> None:
    option = "data" if "data" in values else "calib"
    if Path(path).suffix.lower() in DATA and option in values:
        raise UsageError(f"{path} is data, not a model; give it with --{option}, and the model in its place")


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
    if there and command == "prune" and Path(out).suffix.lower() in DATA:
        raise UsageError(
            f"{out} is data, where the result would go; give it with --calib: {line(command, model, '--calib', out)}"
        )
    if there and command == "prune" and is_plan(out):
        raise UsageError(f"{out} is a plan, where the result would go; carry it out: {line('apply', out, model)}")


def data_among(words: str, options: set[str]) -> str:
    """Return which option takes the data among words that are too many; "" where there is none."""
    option = next((name for name in ("data", "calib") if name in options), "")
    found = [word for word in words.split() if Path(word).suffix.lower() in DATA]
    return f"; give data with --{option}" if option and found else ""


def line(*words: str) -> str:
    """Return a command as it is typed."""
    return shlex.join(("onnxprune", *words))
