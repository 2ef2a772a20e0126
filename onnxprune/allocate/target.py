"""What the user asks for: a share of the units, or a budget for the result."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from onnxprune.errors import UsageError
from onnxprune.registry import Registry

KINDS: Registry[str] = Registry("target")  # name -> total of allocate.cost
for _kind, _total in {"macs": "macs", "params": "parameters", "size": "bytes", "latency": "latency"}.items():
    KINDS.add(_kind, _total)

FACTORS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
BINARY = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
NUMBER = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(?:e([+-]?\d{1,2}))?\s*([a-z%]*)", re.IGNORECASE)


@dataclass(frozen=True)
class Target:
    """``kind`` ratio: the share of units that go; otherwise what may remain, as a share (``relative``) or absolute."""

    kind: str
    value: float
    relative: bool = True

    def budget(self, original: float) -> float:
        """Return what may remain of ``original``."""
        return self.value * original if self.relative else self.value

    def __str__(self) -> str:
        return f"{self.kind}={self.value:g}{'x' if self.relative and self.kind != 'ratio' else ''}"


def parse_ratio(value: str | float) -> Target:
    """Read the share of units to remove, more than 0 and less than 1; raises UsageError."""
    try:
        ratio = float(value)
    except ValueError:
        ratio = math.nan
    if not 0 < ratio < 1:
        raise UsageError(f"--ratio {value}: give the share of units to remove, more than 0 and less than 1, e.g. 0.5")
    return Target("ratio", ratio)


def parse_target(text: str) -> Target:
    """Read KIND=VALUE such as macs=50%, macs=0.5x, params=2M, size=8MB; raises UsageError."""
    kind, equals, value = (part.strip() for part in text.partition("="))
    KINDS[kind]
    if not equals:
        raise UsageError(f"--target {text}: give what may remain, e.g. {kind}=50%")
    match = NUMBER.fullmatch(value)
    number, relative = _quantity(match, kind) if match else (math.nan, False)
    if not number > 0:
        units = "KB, MB, GB, KiB, MiB, GiB" if kind == "size" else "k, M, G"
        raise UsageError(f"--target {text}: {value!r} is not a positive amount; use 50%, 0.5x or a number ({units})")
    if kind == "latency" and not relative:
        raise UsageError(f"--target {text}: latency is a share of the original's on this machine, e.g. latency=0.6x")
    if relative and number >= 1:
        raise UsageError(f"--target {text}: a share of the original is what remains; give less than 100% or 1x")
    return Target(kind, number, relative)


def parse_expected(text: str) -> Target:
    """Read what a sample may take on average, macs=75% or latency=0.8x of the original's; raises UsageError."""
    found = parse_target(text) if "=" in text else Target("", 0.0)
    if found.kind not in ("macs", "latency") or not found.relative:
        raise UsageError(f"--dynamic {text}: give what a sample may take on average, such as macs=75% or latency=80%")
    return found


def _quantity(match: re.Match[str], kind: str) -> tuple[float, bool]:
    """Return (value, whether it is a share), not a number where the unit is unknown."""
    number = float(match[1]) * 10.0 ** int(match[2] or 0)
    unit = match[3].lower()
    if unit in ("%", "x"):
        return number / 100 if unit == "%" else number, True
    if kind == "size" and unit.endswith("b"):
        unit = unit[:-1]
        return number * {**FACTORS, **BINARY}.get(unit, math.nan), False
    return number * FACTORS.get(unit, math.nan), False
