"""Where and of what a report was made: date, machine, versions, and digests of the data."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import onnx

from onnxprune.data import Dataset
from onnxprune.model.runtime import runtime_version
from onnxprune.spread.machine import processor_name

DIGESTED = 1 << 26
"""Bytes of rows that are hashed for a report alone; the digest of more is in it where a run has needed it anyway."""


def made() -> dict[str, Any]:
    """Return when, on what and with which versions a report is made."""
    versions = {"python": platform.python_version(), "onnx": onnx.__version__, "onnxruntime": runtime_version()}
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "machine": f"{processor_name()}, {platform.system()}",
        "cores": os.cpu_count(),
        "versions": versions | {"numpy": np.__version__},
    }


def data_entry(data: Mapping[str, Dataset | None]) -> dict[str, Any]:
    """Describe data by what it is for: how many rows, and the digest of all of them (None: too many to hash for that alone)."""
    return {
        name: {"rows": len(dataset), "sha256": dataset.known_digest(DIGESTED)}
        for name, dataset in data.items()
        if dataset is not None
    }
