"""How much outputs and channels count, said by hand: ``NAME=2``, ``NAME[3]=2``, ``NAME[4:84]=2``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxprune.errors import UsageError
from onnxprune.measure.outputs import Outputs
from onnxprune.registry import near_names

Channels = tuple[int, int] | None


def weighed(outputs: Outputs, weights: Sequence[tuple[str, float]]) -> Outputs:
    """Return the same with outputs or channels weighed by hand, ``NAME`` or ``NAME[3]`` or ``NAME[4:84]``; raises UsageError."""
    factors: dict[str, dict[Channels, float]] = {}
    for text, factor in weights:
        name, channels = _addressed(outputs, text)
        if not 0 <= factor < np.inf:
            raise UsageError(f"output weight {text}={factor:g}: give a number of at least 0")
        factors.setdefault(name, {})[channels] = factor
    found = {name: output.weighed(factors.get(name, {})) for name, output in outputs.of.items()}
    result = replace(outputs, of=found)
    if weights and not any(output.importance for output in result.judged):
        raise UsageError("output weights leave nothing to compare: give one of them more than 0")
    return result


def _addressed(outputs: Outputs, text: str) -> tuple[str, Channels]:
    """Return the output and the channels (None: all) that a text names; an output's exact name comes first."""
    name, _, inside = (text, "", "") if text in outputs.of else text.removesuffix("]").rpartition("[")
    if name not in outputs.of:
        left_out = next((reason for reason in outputs.left_out if repr(text.partition("[")[0]) in reason), "")
        hint = near_names(name or text, list(outputs.of)) or f"; compared are {', '.join(outputs.of)}"
        raise UsageError(f"output weight {text!r}: " + (left_out or f"the model has no such output{hint}"))
    if name == text:
        return name, None
    size = len(outputs.of[name].weight)
    start, colon, stop = inside.partition(":")
    try:
        first = int(start) if start or not colon else 0
        last = (int(stop) if stop else size) if colon else first + 1
    except ValueError:
        raise UsageError(f"output weight {text!r}: give channels as {name}[3] or {name}[4:84]") from None
    if not 0 <= first < last <= size:
        has = f"channels 0 to {size - 1}" if outputs.of[name].channel_axis is not None else "no channels that are known"
        raise UsageError(f"output weight {text!r}: {name} has {has}")
    return name, (first, last)
