"""The settings of a report as options of the command line, to be copied."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from onnxprune.report.entries import ReportView
from onnxprune.report.visible import visible
from onnxprune.settings import Settings

UNSAID = ("round_to", "round_to_profile", "row_shape", "spread")
"""Settings that are said otherwise, or follow from the data."""
FLAGS = {"structured": ("--structured", "--unstructured"), "latency": ("", "--no-latency")}
NAMES = {"memory_limit": "--memory"}
SETTLED = ("rotate", "structured", "permute", "input_value")
"""Settings that a run settles by itself where they are left to it: only what differs from nothing is worth a word."""
OPTION = re.compile(r"--[a-z]|-[a-z]$")
DATA = {"calibration": "--calib", "evaluation": "--eval"}


def options_of(settings: Mapping[str, Any]) -> list[str]:
    """Return every option that differs from its default, quoted for a shell, one or two words each."""
    found = _of(settings, [field.name for field in fields(Settings)])
    step = settings.get("round_to_profile") or settings.get("round_to")
    return found + ([_words("--round-to", step)] if step else [])


def _of(settings: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    found: list[str] = []
    for field in fields(Settings):
        value = settings.get(field.name)
        if field.name not in names:
            continue
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        if field.name in UNSAID or value is None or value == default or (field.name in SETTLED and not value):
            continue
        if field.name == "ratio" and settings.get("lossless"):
            continue
        found += _options(field.name, value)
    return found


def _options(name: str, value: Any) -> Iterator[str]:
    option = NAMES.get(name, f"--{name.replace('_', '-')}")
    if isinstance(value, bool):
        yield FLAGS.get(name, (option, f"--no-{name}"))[not value]
    elif isinstance(value, list) and name == "augment":
        yield f"{option} {shlex.quote(','.join(map(str, value)) or 'none')}"
    elif isinstance(value, list):
        yield from (f"{option} {shlex.quote(_item(name, item))}" for item in value)
    else:
        yield _words(option, value)


def _words(option: str, value: Any) -> str:
    return f"{option} {shlex.quote(str(value))}"


def _item(name: str, item: Any) -> str:
    """Return one of several values: a name, or a name with a number or numbers behind it."""
    if not isinstance(item, list):
        return str(item)
    key, value = item
    if isinstance(value, list):
        return f"{key}:{','.join(str(one).lower() if isinstance(one, bool) else str(one) for one in value)}"
    return f"{key}={value}"


def command_line(report: ReportView) -> str:
    """Return a command that does the same again, a line per option: as it was typed, where it was.

    Elsewhere (in Python) it is made of the settings, and data, which a report does not know by name, is named in capitals.
    """
    if report.get("argv"):
        return _joined(_by_option(["onnxprune", *report["argv"]]))
    command = report.get("command")
    if command not in ("prune", "inspect") or not report.get("settings"):
        return ""
    path = (report.get("model") or {}).get("path") or "MODEL.onnx"
    words = [f"onnxprune {command} {shlex.quote(str(path))}"]
    if command == "inspect":
        return _joined([*words, *_of(report["settings"], ("granularity", "input_shape", "input_value"))])
    if command == "prune":
        words[0] += f" {shlex.quote(str((report.get('output') or {}).get('path') or 'OUT.onnx'))}"
    words += [f"{DATA[name]} {name.upper()}" for name in report.get("data") or {} if name in DATA]
    return _joined([*words, *options_of(report["settings"])])


def chosen_line(report: ReportView) -> str:
    """Return the command that makes the chosen point of a sweep of the command line; empty where there is none."""
    words = report.get("chosen_argv")
    return _joined(_by_option(["onnxprune", *words])) if words else ""


def _by_option(words: Sequence[str]) -> Iterator[str]:
    """Yield the words in front of all options, then every option with its values, quoted for a shell."""
    line: list[str] = []
    for word in words:
        if OPTION.match(word) and line:
            yield shlex.join(line)
            line = []
        line.append(word)
    yield shlex.join(line)


def _joined(words: Iterable[str]) -> str:
    """Put words in lines that a shell reads as one; what would not be seen in them is escaped."""
    return " \\\n  ".join(map(visible, words))
