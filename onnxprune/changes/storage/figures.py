"""What a file of packed tensors takes: bytes, raw, zipped and at the least, time to load, and distance from the original."""

from __future__ import annotations

import time
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxprune.changes.change import NOWHERE
from onnxprune.changes.context import Context
from onnxprune.changes.judging import trial
from onnxprune.model.model import Model
from onnxprune.model.runtime import session
from onnxprune.model.write import stored_bytes
from onnxprune.report.entries import Report

LOADS = 3
LEVEL = 6  # of zlib, which zip takes by default; 9 takes eight times as long where half of the numbers are zeros


def file_figures(context: Context, plain: Model, packed: Model, contents: Mapping[str, np.ndarray]) -> Report:
    """Return what the same model takes as it was, stored ``plain`` with the same numbers, and ``packed``.

    ``contents``: the numbers of the tensors that changed.
    """
    models = {"before": context.facts.model, "plain": plain, "after": packed}
    size = {name: stored_bytes(model, NOWHERE) for name, model in models.items()}
    told = {
        "bytes": {name: size[name] for name in ("before", "after")},
        "zipped_bytes": {name: zipped_bytes(models[name]) for name in ("before", "after")},
        "entropy_bytes": size["plain"] - sum(a.nbytes for a in contents.values()) + entropy_bytes(contents),
        "load_seconds": None,
        "divergence": None,
    }
    if context.settings.latency:
        told["load_seconds"] = {name: load_seconds(models[name], context) for name in ("before", "after")}
    if context.data.calibration is not None and context.outputs is not None:
        _, judge = trial(context)
        told["divergence"] = {name: judge.divergence(models[name]) for name in ("before", "after")}
    return told


def zipped_bytes(model: Model) -> int:
    """Return the bytes of the model's file compressed by zlib, about: external data counts as if it lay inside."""
    packer, size = zlib.compressobj(LEVEL), 0
    for content in _content(model):
        size += len(packer.compress(content))
    return size + len(packer.flush())


def _content(model: Model) -> Any:
    yield model.structure.SerializeToString(deterministic=True)
    for tensor in model.weights.values():
        yield from (tensor.blocks() if tensor.raw else ())


def entropy_bytes(contents: Mapping[str, np.ndarray]) -> int:
    """Return the bytes below which no code of single numbers comes: each tensor's count times the Shannon entropy of its values, zeros too."""
    return sum(-(-int(np.ceil(array.size * entropy(array))) // 8) for array in contents.values())


def entropy(array: np.ndarray) -> float:
    """Return the bits of one number of an array, where the shares of its values are known."""
    bits = np.ascontiguousarray(array).view(np.dtype(f"u{array.dtype.itemsize}"))
    share = np.unique(bits, return_counts=True)[1] / max(array.size, 1)
    return float(-(share * np.log2(share)).sum())


def load_seconds(model: Model, context: Context) -> float:
    """Return the least time of several in which ONNX Runtime loads a model at its default level, decoding included."""
    found = []
    for _ in range(LOADS):
        start = time.perf_counter()
        session(model, threads=context.settings.threads)
        found.append(time.perf_counter() - start)
    return min(found)
