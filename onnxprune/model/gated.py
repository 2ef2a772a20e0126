"""Files that decide per sample how much is run: where their gate is, and how it is forced."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto

from onnxprune.model.model import Model

THRESHOLD, ASKS = "onnxprune.dynamic.threshold", "onnxprune.dynamic.asks"
"""Entries of a file's metadata: the stored threshold of its gate, and the value bool[samples, 1] that says who is above it."""
EVERY, NO = (float(sign * np.finfo(np.float32).max) for sign in (-1, 1))
"""Thresholds at which every sample asks for all that there is, and none."""


def mark(proto: ModelProto, threshold: str, asks: str) -> None:
    """Say in a file's metadata where its gate is."""
    for key, value in ((THRESHOLD, threshold), (ASKS, asks)):
        proto.metadata_props.add(key=key, value=value)


def asking_value(model: Model) -> str:
    """Return the name of the value that says which samples ask for more, "" where the model has no gate."""
    found = _entry(model, ASKS)
    return found if any(found in node.output for node in model.structure.graph.node) else ""


def forced(model: Model, threshold: float) -> Model:
    """Return a model with a gate at another threshold, such as EVERY or NO."""
    return model.replaced({_entry(model, THRESHOLD): np.array(threshold, np.float32)})


def _entry(model: Model, key: str) -> str:
    return next((entry.value for entry in model.structure.metadata_props if entry.key == key), "")
