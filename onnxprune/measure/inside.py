"""How far two models' values of one output are apart inside it: per channel on its own scale, per group of channels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from onnxprune.measure.accumulators import Mean
from onnxprune.measure.metrics import cosine_of_rows
from onnxprune.measure.outputs import Output, spans


def finite(value: float | None) -> float | None:
    """Return a number, None for none that JSON holds."""
    return value if value is not None and math.isfinite(value) else None


class OutputRows(NamedTuple):
    """One batch of an output as rows: the original's values as they are, both models' and their distance as float64."""

    before: np.ndarray
    error: np.ndarray
    a: np.ndarray
    b: np.ndarray

    def only(self, rows: np.ndarray | None) -> OutputRows:
        return self if rows is None else OutputRows(*(part[rows] for part in self))

    def shaped(self, *shape: int) -> OutputRows:
        return OutputRows(*(part.reshape(shape) for part in self))

    def in_parts(self, entries: int) -> Iterator[OutputRows]:
        """Yield some rows after the other, with no more than so many ``entries`` where one row has no more."""
        step = max(entries // max(self.before[:1].size, 1), 1)
        for start in range(0, len(self.before), step):
            yield OutputRows(*(part[start : start + step] for part in self))


def _as_slice(channels: np.ndarray) -> np.ndarray | slice:
    """Return a run of channels as a slice, which copies nothing."""
    run = len(channels) > 0 and np.array_equal(channels, np.arange(channels[0], channels[0] + len(channels)))
    return slice(int(channels[0]), int(channels[-1]) + 1) if run else channels


@dataclass
class ChannelDrift:
    """Drift inside one output: per channel, each on its own scale, and per group of channels.

    ``signal``, ``noise``, ``count``: float64[channels], sums of squares and how many; ``cosines``: one mean per group.
    """

    how: Output
    signal: np.ndarray
    noise: np.ndarray
    count: np.ndarray
    cosines: list[Mean]

    @classmethod
    def of(cls, how: Output) -> ChannelDrift:
        zeros = np.zeros(len(how.weight))
        return cls(how, zeros, zeros.copy(), zeros.copy(), [Mean() for _ in how.groups])

    def add(self, view: OutputRows, valid: np.ndarray | None) -> None:
        """Add [samples, positions, channels]; ``valid``: bool[samples, positions], what is no padding."""
        rows = view.shaped(-1, view.before.shape[-1]).only(None if valid is None else valid.reshape(-1))
        self.signal += np.square(rows.a, where=np.isfinite(rows.a), out=np.zeros_like(rows.a)).sum(0)
        self.noise += np.square(rows.error).sum(0)
        self.count += len(rows.a)
        for mean, group in zip(self.cosines, self.how.groups, strict=True):
            parts = [part[:, :, _as_slice(group.channels)] for part in (view.a, view.b, view.error)]
            if valid is not None:
                parts = [np.where(valid[:, :, None], part, 0.0) for part in parts]
            broken = np.isinf(parts[2]).reshape(len(parts[2]), -1).any(axis=1)
            mean.add(np.where(broken, 0.0, cosine_of_rows(*parts[:2])))

    def merge(self, other: ChannelDrift) -> None:
        for name in ("signal", "noise", "count"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for mean, found in zip(self.cosines, other.cosines, strict=True):
            mean.merge(found)

    @property
    def errors(self) -> np.ndarray:
        """float64[channels]: root mean square error over the channel's deviation."""
        return np.sqrt(self.noise / np.maximum(self.count, 1)) / self.how.scale

    def facts(self) -> dict[str, Any]:
        """Return what an output is and which of its channels has drifted most, beside its own deviation."""
        worst = int(np.argmax(self.errors))
        error = finite(float(self.errors[worst]))
        axes = {"samples_axis": self.how.samples_axis, "channel_axis": self.how.channel_axis}
        return axes | {
            "kind": self.how.kind,
            "worst_channel": worst,
            "worst_channel_error": error,
            "groups": self.groups(),
        }

    def groups(self) -> list[dict[str, Any]]:
        """Return the figures of every group; ``error``: root mean square over its channels of ``errors``."""
        found = []
        for mean, group in zip(self.cosines, self.how.groups, strict=True):
            signal, noise = (float(part[group.channels].sum()) for part in (self.signal, self.noise))
            ratio = 0.0 if noise == 0 else math.sqrt(noise / signal) if signal else math.inf
            own = self.errors[group.channels]
            figures = {"cosine": mean.value, "relative_l2": ratio, "error": float(np.sqrt(np.square(own).mean()))}
            worst = int(group.channels[int(np.argmax(own))])
            names = {"name": group.label, "channels": spans(group.channels), "worst_channel": worst}
            found.append(names | {name: finite(value) for name, value in figures.items()})
        return found
