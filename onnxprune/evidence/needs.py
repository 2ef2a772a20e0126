"""What criteria and repairs ask for: values that say which statistic of which axis of which tensor is wanted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from onnxprune.model.graph import Node


class Window(NamedTuple):
    """How a convolution looks at its input: one entry per spatial axis, ``pads`` as (before, after) pairs."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]

    @property
    def taps(self) -> int:
        return int(np.prod(self.kernel, dtype=np.int64))

    @property
    def is_point(self) -> bool:
        """Whether every output position reads exactly the input position of the same number."""
        return self.taps == 1 and set(self.strides) <= {1} and not any(map(any, self.pads))

    def out_shape(self, space: Sequence[int]) -> tuple[int, ...]:
        """Return the output's spatial shape for an input's spatial shape."""
        ends = zip(space, self.kernel, self.strides, self.dilations, self.pads, strict=True)
        return tuple((size + sum(pad) - (k - 1) * d - 1) // s + 1 for size, k, s, d, pad in ends)

    def offsets(self) -> np.ndarray:
        """Return int64[taps, axes]: where each tap looks, relative to the first, in the weight's order."""
        steps = product(*(range(0, k * d, d) for k, d in zip(self.kernel, self.dilations, strict=True)))
        return np.array(list(steps), np.int64).reshape(self.taps, len(self.kernel))


@dataclass(frozen=True, order=True)
class Need:
    """One statistic: ``kind`` (a name in STATISTICS) of the axis ``axis`` of ``value``.

    ``window``: unfold the axis over a convolution's taps. ``groups``: so many equal runs of the axis, each on its own.
    ``other``, ``other_axis``: the second value of a cross moment.
    """

    kind: str
    value: str
    axis: int
    groups: int = 1
    window: Window | None = None
    other: str = ""
    other_axis: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(replace(self, window=None)) | {"window": self.window}

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> Need:
        """Raises TypeError, KeyError or ValueError where the entry is not one that ``to_json`` wrote."""
        window = entry["window"]
        if window is not None:
            kernel, strides, dilations, pads = window
            window = Window(tuple(kernel), tuple(strides), tuple(dilations), tuple((a, b) for a, b in pads))
        return cls(**{**entry, "window": window})

    @property
    def values(self) -> tuple[str, ...]:
        return (self.value, self.other) if self.other else (self.value,)


def merged(requests: Iterable[Iterable[Need]]) -> tuple[Need, ...]:
    """Return all needs of several requests, each once, in a fixed order."""
    found = {need for request in requests for need in request}
    return tuple(
        sorted(found, key=lambda n: (n.value, n.axis, n.kind, n.groups, n.window or (), n.other, n.other_axis))
    )


def convolution_window(node: Node, kernel: Sequence[int], space: Sequence[int]) -> Window:
    """Return the window of a convolution node with this kernel on an input with this spatial shape."""
    rank = len(kernel)
    strides = tuple(node.attribute("strides") or [1] * rank)
    dilations = tuple(node.attribute("dilations") or [1] * rank)
    mode = node.attribute("auto_pad", "NOTSET")
    pads = node.attribute("pads") or [0] * (2 * rank)
    pairs = tuple((pads[i], pads[i + rank]) for i in range(rank))
    if mode.startswith("SAME"):
        ends = zip(space, kernel, strides, dilations, strict=True)
        totals = [max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0) for size, k, s, d in ends]
        halves = [(total // 2, total - total // 2) for total in totals]
        pairs = tuple(half if mode == "SAME_UPPER" else half[::-1] for half in halves)
    elif mode == "VALID":
        pairs = ((0, 0),) * rank
    return Window(tuple(kernel), strides, dilations, pairs)
