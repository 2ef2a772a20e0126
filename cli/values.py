"""What option values may look like: shares, sizes, shapes, lists and pattern=share pairs."""

from __future__ import annotations

import errno
import math
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

from onnxprune.choices import AUTO, CHOICES, TARGETS
from onnxprune.cli.kinds import ENDINGS
from onnxprune.cli.shells import ending_in

UNITS = {
    "": 1, "b": 1, "k": 10**3, "kb": 10**3, "m": 10**6, "mb": 10**6, "g": 10**9, "gb": 10**9,
    "kib": 2**10, "mib": 2**20, "gib": 2**30,
}  # fmt: skip


class OptionValue(click.ParamType):
    """An option value read by a plain function that raises ValueError with the form it expects.

    A number, from a file, is read as its text; a list, where ``listed``, as its items with commas between.
    """

    def __init__(self, name: str, read: Callable[[str], Any], listed: bool = False, names: Sequence[str] = ()):
        self.name, self._read, self.listed, self.names = name, read, listed, names

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return completed(self.names, incomplete, self.listed)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value  # read already
        items = value if self.listed and isinstance(value, list) else [value]
        if any(isinstance(item, bool) or not isinstance(item, str | int | float) for item in items):
            self.fail(f"{value!r} is no {self.name}", param, ctx)
        try:
            return self._read(",".join(map(str, items)).strip())
        except (ValueError, OverflowError) as error:
            self.fail(f"{value!r}: {error}", param, ctx)


def completed(names: Sequence[str], incomplete: str, listed: bool = False) -> list[CompletionItem]:
    """Return the names that begin like a word, of a list like the last word in it."""
    before, comma, last = incomplete.rpartition(",") if listed else ("", "", incomplete)
    return [CompletionItem(f"{before}{comma}{name}") for name in names if name and name.startswith(last)]


class Word(click.types.StringParamType):
    """Text in which names stand that a shell can complete; what it says is read elsewhere."""

    def __init__(self, names: Sequence[str], listed: bool = False):
        self.names, self.listed = names, listed

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return completed(self.names, incomplete, self.listed)


class File(click.Path):
    """A path; one that no system takes is refused while options are read. Shells complete those of the kind that its place takes."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        if param.name not in ENDINGS:
            return super().shell_complete(ctx, param, incomplete)
        return [ending_in(incomplete, ENDINGS[param.name])]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str | os.PathLike) or "\0" in str(value):
            self.fail(f"{value!r} is no path", param, ctx)
        try:
            os.stat(value)
        except OSError as error:
            if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
                self.fail(f"{os.fspath(value)[:80]!r}...: {error.strerror}", param, ctx)
        return super().convert(value, param, ctx)


def ratio(text: str) -> float:
    """Read ``50%`` or ``0.5``."""
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise ValueError("expected a number such as 0.02, or a percentage such as 2%") from None


def share(text: str) -> float:
    """Read ``2%`` or ``0.02``, any finite number."""
    return _finite(ratio(text))


def _finite(number: str | float) -> float:
    """Return a number; raise ValueError for one that no float holds."""
    if not math.isfinite(float(number)):
        raise ValueError("expected a finite number")
    return float(number)


def size(text: str) -> int:
    """Read a number of bytes: ``8MB``, ``2.5MiB``, ``4096``."""
    match = re.fullmatch(r"([\d.]+)\s*([a-zA-Z]*)", text)
    if not match or match[2].lower() not in UNITS:
        raise ValueError("expected a size such as 8MB, 2.5MiB or 4096")
    return round(_finite(match[1]) * UNITS[match[2].lower()])


def seconds(text: str) -> float:
    """Read a time: ``60``, ``60s``, ``2.5m``, ``1h``."""
    match = re.fullmatch(r"([\d.]+)\s*([smh]?)", text.lower())
    if not match:
        raise ValueError("expected a time such as 60s or 2m")
    return _finite(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def named_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Read ``name:1,3,224,224`` or ``name:1x3x224x224``."""
    name, _, dims = text.rpartition(":")
    if not name or not re.fullmatch(r"\d+([,x]\d+)*", dims):
        raise ValueError("expected NAME:1,3,224,224")
    return name, tuple(int(dim) for dim in re.split("[,x]", dims))


def named_value(text: str) -> tuple[str, tuple[int | float | bool, ...]]:
    """Read ``name:16000``, ``name:0.5``, ``name:true`` or several with commas between: ``name:320,320``."""
    name, _, content = text.rpartition(":")
    flags = {"true": True, "false": False}
    try:
        if not name:
            raise ValueError
        return name, tuple(
            flags[part] if part in flags else int(part) if re.fullmatch(r"[+-]?\d+", part) else _finite(part)
            for part in (part.strip().lower() for part in content.split(","))
        )
    except ValueError:
        raise ValueError("expected NAME:16000, NAME:0.5, NAME:true or NAME:320,320") from None


def numbers(text: str) -> tuple[float, ...]:
    """Read ``0.5`` or ``0.485,0.456,0.406``."""
    try:
        return tuple(_finite(part) for part in text.split(","))
    except ValueError:
        raise ValueError("expected finite numbers separated by commas") from None


def names(text: str) -> tuple[str, ...]:
    """Read ``flip,shift``."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def pattern_share(text: str) -> tuple[str, float]:
    """Read ``PATTERN=0.2``."""
    pattern, _, value = text.rpartition("=")
    if not pattern:
        raise ValueError("expected PATTERN=0.2")
    return pattern, share(value)


def output_weight(text: str) -> tuple[str, float]:
    """Read ``NAME=2`` or ``NAME[4:84]=2``."""
    name, _, value = text.rpartition("=")
    if not name:
        raise ValueError("expected NAME=2 or NAME[4:84]=2")
    return name, _finite(value)


def alignment(text: str) -> str | int:
    """Read a whole number; ``auto`` and the names of targets stay as they are."""
    return int(text) if text.isascii() and text.isdigit() else text


def shares(text: str) -> tuple[float, ...]:
    """Read ``0.25,0.5`` or ``25%,50%``."""
    return tuple(share(part.strip()) for part in text.split(","))


RATIO = OptionValue("share", ratio)
SHARE = OptionValue("share", share)
SIZE = OptionValue("size", size)
SECONDS = OptionValue("seconds", seconds)
NAMED_SHAPE = OptionValue("name:shape", named_shape)
NAMED_VALUE = OptionValue("name:value", named_value)
NAMES = OptionValue("list of names", names, listed=True)
NUMBERS = OptionValue("list of numbers", numbers, listed=True)
PATTERN_SHARE = OptionValue("pattern=share", pattern_share)
OUTPUT_WEIGHT = OptionValue("name[channels]=weight", output_weight)
ALIGNMENT = OptionValue("auto|n|target", alignment, names=(AUTO, *TARGETS))
SCRIPT = OptionValue("script.py:function", str)
AUGMENTATIONS = OptionValue("list of names", names, listed=True, names=(AUTO, "flip", "shift", "none"))
PROVIDERS = OptionValue("list of names", names, listed=True, names=("CPU", "CUDA", "TensorRT", "OpenVINO", "CoreML"))
CRITERIA = OptionValue("list of names", names, listed=True, names=CHOICES["criterion"].names)
REPAIRS = OptionValue("list of names", names, listed=True, names=CHOICES["repair"].names)
SHARES = OptionValue("list of shares", shares, listed=True)
