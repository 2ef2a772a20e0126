"""A task: which outputs answer it, how they are read, and the form in which it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.errors import UsageError
from onnxprune.registry import near_names

if TYPE_CHECKING:
    from onnxprune.measure.outputs import Output

AUTO, NONE = "auto", "none"
FOUND, NAMED = "outputs", "named"

OPTIONS: Mapping[str, Mapping[str, float]] = {
    "classes": {},
    "ctc": {"blank": -1},
    "detection": {"confidence": 0.25, "iou": 0.5, "overlap": 0.5, "objectness": -1},
    "segmentation": {"threshold": 0.5},
    "embedding": {"neighbours": 5},
    "multilabel": {"threshold": 0.5},
    "sequence": {},
    "tokens": {},
    "regression": {"tolerance": 0.1},
}
"""Kind of task -> its thresholds; -1: told from the outputs."""
WHOLE = {"blank": (-1, 2**31), "objectness": (-1, 1), "neighbours": (1, 1000)}
"""Options that are whole numbers, least and largest; the others lie between 0 and 1."""


@dataclass(frozen=True)
class Asked:
    """What was asked for: a kind of task, ``auto`` or ``none``, and the thresholds that were given."""

    kind: str = AUTO
    options: Mapping[str, float] = field(default_factory=dict)


AS_FOUND = Asked()


def parse_task(text: str) -> Asked:
    """Read ``auto``, ``none``, ``ctc`` or ``detection:confidence=0.25,iou=0.5``; raises UsageError."""
    kind, colon, rest = text.partition(":")
    if kind not in (AUTO, NONE, *OPTIONS):
        hint = near_names(kind, [AUTO, NONE, *OPTIONS]) or f"; known: {AUTO}, {NONE}, {', '.join(OPTIONS)}"
        raise UsageError(f"unknown task {kind!r}{hint}")
    known = OPTIONS.get(kind, {})
    options = dict(_option(text, kind, part, known) for part in rest.split(",")) if colon else {}
    return Asked(kind, options)


def _option(text: str, kind: str, part: str, known: Mapping[str, float]) -> tuple[str, float]:
    name, _, value = (piece.strip() for piece in part.partition("="))
    if name not in known:
        hint = near_names(name, list(known)) or (f"; it has {', '.join(known)}" if known else "; it has none")
        raise UsageError(f"task {text!r}: {kind} has no option {name!r}{hint}")
    least, most = WHOLE.get(name, (0, 1))
    try:
        number = float(value.removesuffix("%")) / (100 if value.endswith("%") else 1)
    except ValueError:
        number = np.nan
    if not least <= number <= most or (name in WHOLE and not number.is_integer()):
        what = "a whole number" if name in WHOLE else "a number"
        raise UsageError(
            f"task {text!r}: give {name} as {what} from {max(least, 0)} to {most}, such as {kind}:{name}={most}"
        )
    return name, number


@dataclass(frozen=True)
class Task:
    """What a model is for.

    ``outputs``: those that answer it, how each is laid out; ``head``: where a detector's boxes and scores are. ``found``: how the
    task is known, with the ``reason``; ``alone``: a run of the model takes one sample. ``tokens``: the input that scores are told of.
    """

    kind: str
    outputs: Mapping[str, Output]
    options: Mapping[str, float] = field(default_factory=dict)
    head: Any = None
    found: str = NAMED
    reason: str = ""
    alone: bool = False
    tokens: str = ""

    @property
    def reads(self) -> tuple[str, ...]:
        """The outputs that are read."""
        planes = self.head.planes if self.head is not None else ()
        return tuple(dict.fromkeys([*self.outputs, *(plane.name for plane in planes)]))

    def __getitem__(self, option: str) -> float:
        return self.options.get(option, OPTIONS[self.kind][option])


@dataclass(frozen=True)
class Answered:
    """What a model gave for one batch; ``mask``: [samples, steps], 0 where a step is padding. ``inputs``: what it was given."""

    results: Mapping[str, Any]
    mask: np.ndarray | None = None
    inputs: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Scored:
    """How much of the task is left in one batch.

    ``scores``: float64[samples] from 0 to 1, NaN where a sample says nothing (no boxes in either model, all padding).
    ``parts``: name -> (what agrees, of how much), summed over the batch: classes, outputs, or a second figure.
    ``losses``: float64[samples, 3] of language models: of the original, of so many tokens, of the other (None: there are none).
    """

    scores: np.ndarray
    parts: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    losses: np.ndarray | None = None
