"""What option values may look like: shares, sizes, shapes, lists and pattern=share pairs."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import click

UNITS = {
    "": 1, "b": 1, "k": 10**3, "kb": 10**3, "m": 10**6, "mb": 10**6, "g": 10**9, "gb": 10**9,
    "kib": 2**10, "mib": 2**20, "gib": 2**30,
}  # fmt: skip


class Value(click.ParamType):
    """An option value read by a plain function that raises ValueError with the form it expects."""

    def __init__(self, name: str, read: Callable[[str], Any]):
        self.name, self._read = name, read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._read(value.strip())
        except ValueError as error:
            self.fail(f"{value!r}: {error}", param, ctx)


def share(text: str) -> float:
    """Read ``2%`` or ``0.02``."""
    try:
        number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise ValueError("expected a number such as 0.02, or a percentage such as 2%") from None
    if not math.isfinite(number):
        raise ValueError("expected a finite number")
    return number


def size(text: str) -> int:
    """Read a number of bytes: ``8MB``, ``2.5MiB``, ``4096``."""
    match = re.fullmatch(r"([\d.]+)\s*([a-zA-Z]*)", text)
    if not match or match[2].lower() not in UNITS:
        raise ValueError("expected a size such as 8MB, 2.5MiB or 4096")
    return round(float(match[1]) * UNITS[match[2].lower()])


def seconds(text: str) -> float:
    """Read a time: ``60``, ``60s``, ``2.5m``, ``1h``."""
    match = re.fullmatch(r"([\d.]+)\s*([smh]?)", text.lower())
    if not match:
        raise ValueError("expected a time such as 60s or 2m")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def named_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Read ``name:1,3,224,224`` or ``name:1x3x224x224``."""
    name, _, dims = text.rpartition(":")
    if not name or not re.fullmatch(r"\d+([,x]\d+)*", dims):
        raise ValueError("expected NAME:1,3,224,224")
    return name, tuple(int(dim) for dim in re.split("[,x]", dims))


def numbers(text: str) -> tuple[float, ...]:
    """Read ``0.5`` or ``0.485,0.456,0.406``."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError("expected numbers separated by commas") from None


def names(text: str) -> tuple[str, ...]:
    """Read ``flip,shift``."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def pattern_share(text: str) -> tuple[str, float]:
    """Read ``PATTERN=0.2``."""
    pattern, _, value = text.rpartition("=")
    if not pattern:
        raise ValueError("expected PATTERN=0.2")
    return pattern, share(value)


def alignment(text: str) -> str | int:
    """Read a whole number; ``auto`` and the names of targets stay as they are."""
    return int(text) if text.isascii() and text.isdigit() else text


def shares(text: str) -> tuple[float, ...]:
    """Read ``0.25,0.5`` or ``25%,50%``."""
    return tuple(share(part.strip()) for part in text.split(","))


SHARE = Value("share", share)
SIZE = Value("size", size)
SECONDS = Value("seconds", seconds)
NAMED_SHAPE = Value("name:shape", named_shape)
NAMES = Value("names", names)
NUMBERS = Value("numbers", numbers)
PATTERN_SHARE = Value("pattern=share", pattern_share)
ALIGNMENT = Value("auto|n|target", alignment)
SCRIPT = Value("script.py:function", str)
SHARES = Value("shares", shares)
