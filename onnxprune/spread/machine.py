"""What a number depends on beside model and data: versions and the instruction sets of the processor."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.model.runtime import runtime_version
from onnxprune.version import __version__

DECIDING = ("sse", "avx", "fma", "f16c", "amx", "asimd", "sve", "i8mm", "bf16", "neon", "dotprod", "sme")
"""Beginnings of the names of instruction sets that kernels are picked by."""
CPU_INFO = Path("/proc/cpuinfo")


@lru_cache(maxsize=1)
def this_machine() -> dict[str, Any]:
    """Return the versions of what computes, and ``cpu``: its architecture and the names of its vector instructions."""
    versions = {"onnxprune": __version__, "onnxruntime": runtime_version(), "numpy": np.__version__}
    return versions | {"cpu": [platform.machine(), *sorted(_flags())]}


def processor_name() -> str:
    """Return what the processor calls itself, its architecture where it has no name."""
    return _told("model name") or platform.processor() or platform.machine()


def _flags() -> set[str]:
    if not CPU_INFO.exists():
        return {platform.processor()}
    return {word for word in _told("flags", "features").split() if word.startswith(DECIDING)}


def _told(*keys: str) -> str:
    """Return what the system says of the first processor under one of some keys; nothing where it says nothing."""
    try:
        lines = CPU_INFO.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    line = next((line for line in lines if line.lower().startswith(keys)), "")
    return line.partition(":")[2].strip()


def other_versions(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """Return which versions differ, in words ("": none)."""
    names = ("onnxprune", "onnxruntime", "numpy")
    return ", ".join(f"{n} {theirs.get(n)} against {ours.get(n)}" for n in names if ours.get(n) != theirs.get(n))


def other_processor(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """Return which instructions only one of two processors has, in words ("": both have the same)."""
    first, second = set(ours.get("cpu", ())), set(theirs.get("cpu", ()))
    return ", ".join(sorted(first ^ second))


def doubts_about(machines: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return what is to be said of results that come from several machines."""
    first, *others = machines
    told = []
    for other in others:
        if cpu := other_processor(first, other):
            told.append(
                f"parts come from different processors ({cpu}): another run may differ from this one in the last bits"
            )
        if versions := other_versions(first, other):
            told.append(
                f"parts come from different versions ({versions}): another run may differ from this one in the last bits"
            )
    return list(dict.fromkeys(told))
