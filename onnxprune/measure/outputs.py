"""What an output of a model is, and how far two of its values are apart: the one answer for all that judges.

An output is rows of channels: one row per sample and position, whatever axis the samples follow. Errors of every channel
are taken on that channel's own scale, so that boxes in pixels do not drown class scores beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy

from onnxprune.measure.tasks.focus import Focus, focused, worth
from onnxprune.measure.tasks.task import Task
from onnxprune.model.runtime import Results

SCORES, PROBABILITIES, VALUES, INTEGERS = "scores", "probabilities", "values", "integers"
VARYING = (
    "varying"  # what is not compared element by element: how many entries there are, or their order, is up to the data
)
CLASSES = (SCORES, PROBABILITIES)
TINY_PROBABILITY = 1e-12
AT_ONCE = 1 << 22  # elements that are compared in float64 at a time


@dataclass(frozen=True)
class Layout:
    """What the graph alone says about an output: its channel axis (None: nothing), and who makes which channel.

    ``bare``: the layers that make it are known, and none of its axes has their channels; ``free``: axes of no fixed size.
    ``makers``: int64[channels], equal for channels that the same layers produce (-1: no layer known). ``scores``: something
    in the graph takes the channels for class scores; ``bounded``: they went through what makes no class scores of them.
    ``shares``: behind the layers something squashes values to between 0 and 1. ``by_product``: a matrix product makes them.
    ``varies``: its entries, or their order, are up to the data; ``sources``: inner float values from before, to be compared in
    its place. ``constant``: no input decides it. ``state``: what a client feeds the next run, the cache of a decoder.
    """

    axis: int | None = None
    bare: bool = False
    free: tuple[int, ...] = ()
    makers: np.ndarray | None = None
    scores: bool = False
    bounded: bool = False
    shares: bool = False
    by_product: bool = False
    varies: bool = False
    sources: tuple[str, ...] = ()
    constant: bool = False
    state: bool = False


@dataclass(frozen=True)
class ChannelGroup:
    """Channels of one kind that belong together; ``label`` such as ``y[4:84]``."""

    label: str
    channels: np.ndarray


@dataclass(frozen=True, eq=False)
class Output:
    """How one output is compared.

    ``samples_axis``: the axis that follows the samples (None: none does), ``folded`` of its places for each; ``channel_axis``
    (None: all is one channel). ``scale``: float64[channels], what an error is divided by; ``weight``: float64[channels] of sum
    1; ``importance`` among the outputs. ``classes``: whether a row may be read as a choice among its channels. ``shares``: all
    values that were seen lie between 0 and 1; ``unit_rows``: all rows have the length 1. ``temperature``: what logarithms of
    probabilities are divided by before they are compared, and errors multiplied by its square (Hinton et al. 2015, section 2.1).
    """

    name: str
    kind: str
    scale: np.ndarray
    weight: np.ndarray
    groups: tuple[ChannelGroup, ...]
    samples_axis: int | None = 0
    channel_axis: int | None = None
    folded: int = 1
    classes: bool = False
    importance: float = 1.0
    shares: bool = False
    unit_rows: bool = False
    temperature: float = 1.0

    @cached_property
    def factor(self) -> np.ndarray:
        """float64[channels]: the distance is the sum of mean errors times this."""
        if self.kind == VALUES:
            return self.weight / np.square(self.scale)
        return self.weight * (len(self.weight) if self.kind in CLASSES else 1)

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether a value of this shape has the axes and the channels."""
        if max(self.samples_axis or 0, self.channel_axis or 0) >= max(len(shape), 1):
            return False
        folds = self.samples_axis is None or not shape or shape[self.samples_axis] % self.folded == 0
        return folds and (self.channel_axis is None or shape[self.channel_axis] == len(self.weight))

    def order(self, rank: int) -> list[int]:
        """Return the axes of a value with the samples first and the channels last."""
        ends = [axis for axis in (self.samples_axis, self.channel_axis) if axis is not None]
        others = [axis for axis in range(rank) if axis not in ends]
        first = [] if self.samples_axis is None else [self.samples_axis]
        return first + others + ([] if self.channel_axis is None else [self.channel_axis])

    def laid(self, array: np.ndarray) -> np.ndarray:
        """Return [samples, positions.., channels] of an array, as far as it has such axes."""
        moved = array.transpose(self.order(array.ndim))
        return moved.reshape(-1, self.folded, *moved.shape[1:]) if self.folded > 1 else moved

    def flat(self, laid: np.ndarray) -> np.ndarray:
        """Return what ``laid`` gives with its first two axes joined again where one sample has several places on one axis."""
        return laid.reshape(-1, *laid.shape[2:]) if self.folded > 1 else laid

    def rows(self, array: np.ndarray) -> np.ndarray:
        """Return [samples, positions, channels]."""
        moved = self.laid(array)
        samples = 1 if self.samples_axis is None else moved.shape[0]
        channels = 1 if self.channel_axis is None else moved.shape[-1]
        return moved.reshape(samples, moved.size // max(samples * channels, 1), channels)

    def steps_axis(self, shape: Sequence[int], steps: int) -> int | None:
        """Return which axis of ``laid`` values has the steps that a padding mask [samples, steps] tells of."""
        inner = range(self.samples_axis is not None, len(shape) - (self.channel_axis is not None))
        found = (axis for axis in inner if shape[axis] == steps)
        return next(found, None) if self.samples_axis is not None else None

    def valid(self, array: np.ndarray, mask: np.ndarray | None) -> np.ndarray | None:
        """Return bool[samples, positions]: what a padding mask leaves of ``rows``; None where it says nothing."""
        shape = self.laid(array).shape
        at = None if mask is None else self.steps_axis(shape, mask.shape[1])
        if mask is None or at is None or len(mask) != shape[0]:
            return None
        inner = shape[: len(shape) - (self.channel_axis is not None)]
        spread = (mask != 0).reshape(len(mask), *(n if axis == at else 1 for axis, n in enumerate(inner) if axis))
        return np.broadcast_to(spread, inner).reshape(len(mask), -1)

    def errors(
        self, expected: np.ndarray, found: np.ndarray, mask: np.ndarray | None = None, focus: Focus | None = None
    ) -> Errors:
        """Return the errors of one batch; values of different shapes are infinitely far apart. ``focus``: how much rows count."""
        channels = len(self.weight)
        if np.shape(found) != np.shape(expected):
            return Errors(np.full(channels, np.inf), np.ones(channels))
        if not self.fits(np.shape(expected)):
            return self._errors_of_all(expected, found)
        total, start = Errors(np.zeros(channels), np.zeros(channels)), 0
        valid = self.valid(expected, mask)
        if focus is not None and valid is not None:
            focus = focus.only(valid.reshape(-1))
        for part in self._parts(expected, found, valid):
            if focus is None:
                total = total + Errors(np.nansum(part, 0), (~np.isnan(part)).sum(0).astype(np.float64))
            else:
                total = total + Errors(*focus.weighed(part, start))
            start += len(part)
        return total

    def _errors_of_all(self, expected: np.ndarray, found: np.ndarray) -> Errors:
        """Return errors that all channels share, for a value that does not have so many."""
        every = ERRORS[INTEGERS if self.kind == INTEGERS else VALUES](expected.reshape(-1, 1), found.reshape(-1, 1))
        share = np.full(len(self.weight), 1 / len(self.weight))
        return Errors(share * np.nansum(every), share * (~np.isnan(every)).sum())

    def _parts(self, expected: np.ndarray, found: np.ndarray, valid: np.ndarray | None) -> Iterator[np.ndarray]:
        """Yield float64[rows, channels]: errors of some rows at a time, NaN where nothing is to be compared."""
        a, b = (self.rows(x).reshape(-1, len(self.weight)) for x in (expected, found))
        if valid is not None:
            a, b = a[valid.reshape(-1)], b[valid.reshape(-1)]
        step = max(1, AT_ONCE // len(self.weight))
        for start in range(0, len(a), step):
            yield self._compared(a[start : start + step], b[start : start + step])

    def _compared(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return float64[rows, channels]: errors of [rows, channels] twice."""
        if self.temperature == 1.0 or self.kind not in CLASSES:
            return ERRORS[self.kind](a, b)
        if self.kind == PROBABILITIES:
            a, b = (np.log(np.clip(x.astype(np.float64), TINY_PROBABILITY, None)) for x in (a, b))
        return self.temperature**2 * _of_scores(a / self.temperature, b / self.temperature)

    def per_sample(self, expected: np.ndarray, found: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Return float64[samples]: the distance of every sample."""
        a, b, valid = self.rows(expected), self.rows(found), self.valid(expected, mask)
        errors = ERRORS[self.kind](a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])).reshape(a.shape)
        counted = np.ones(a.shape[:2], bool) if valid is None else valid
        sums = np.where(counted, np.nansum(errors * self.factor, axis=-1), 0.0).sum(axis=1)
        return sums / np.maximum(counted.sum(axis=1), 1)

    def log_probabilities(self, array: np.ndarray) -> np.ndarray:
        """Return float64[samples, positions, classes] of an output of class scores or probabilities."""
        rows = self.rows(array).astype(np.float64)
        if self.kind == PROBABILITIES:
            return np.log(np.clip(rows, TINY_PROBABILITY, None))
        return scipy.special.log_softmax(rows, axis=-1)

    def weighed(self, factors: Mapping[tuple[int, int] | None, float]) -> Output:
        """Return the same with ranges of channels (None: all of them) weighed by so much more."""
        weight = self.weight.copy()
        for channels, factor in factors.items():
            weight[slice(*(channels or (None,)))] *= factor
        total = float(weight.sum())
        return replace(self, weight=weight / max(total, 1e-300), importance=self.importance * total)


@dataclass(frozen=True)
class Errors:
    """float64[channels] each: errors summed over rows, and how many were summed, or how much these count."""

    total: np.ndarray
    count: np.ndarray

    def __add__(self, other: Errors) -> Errors:
        return Errors(self.total + other.total, self.count + other.count)

    @property
    def mean(self) -> np.ndarray:
        """Mean error per channel; 0 where nothing was compared."""
        return self.total / np.where(self.count > 0, self.count, 1)

    def distance(self, output: Output) -> float:
        """Return how far the two values are apart: KL per row of scores, squared error over variance of others."""
        with np.errstate(invalid="ignore", over="ignore"):
            return float(np.sum(np.where(output.weight > 0, self.mean * output.factor, 0.0)))


def _divergences(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Return the terms of KL(p || q) per class from logarithms [rows, classes], none below 0: p log(p / q) - p + q."""
    with np.errstate(invalid="ignore", over="ignore"):
        mass = np.exp(p)
        terms = np.where(mass > 0, mass * (p - q), 0.0) - mass + np.exp(q)
    left_out = np.isnan(p).any(axis=1, keepdims=True)
    return np.where(left_out, np.nan, np.where(np.isnan(terms), np.inf, terms))


def _of_scores(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return _divergences(*(scipy.special.log_softmax(x.astype(np.float64), 1) for x in (a, b)))


def _of_probabilities(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return _divergences(*(np.log(np.clip(x.astype(np.float64), TINY_PROBABILITY, None)) for x in (a, b)))


def _of_values(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", over="ignore"):
        squares = np.square(a.astype(np.float64) - b)
    compared = np.isfinite(a)
    return np.where(compared, np.where(np.isfinite(b) & np.isfinite(squares), squares, np.inf), np.nan)


def _of_integers(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a != b).astype(np.float64)


ERRORS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    SCORES: _of_scores,
    PROBABILITIES: _of_probabilities,
    VALUES: _of_values,
    INTEGERS: _of_integers,
}
"""Kind -> [rows, channels] twice -> float64[rows, channels]: NaN where nothing is compared, infinite where it cannot be."""


@dataclass(frozen=True)
class Outputs:
    """All outputs of a model that are compared, and why others are not.

    ``varying``: those of the others whose entries, or the order of these, are up to the data. ``inner``: those of them that are no outputs of the model but values inside it. ``mask``: the input that says which
    steps of a sequence count ("": none does). ``state``: outputs that are fed again, and judged by what comes of them. ``task``: what the outputs are for (None: not known, ``unknown`` says why).
    """

    of: Mapping[str, Output]
    left_out: tuple[str, ...] = ()
    varying: tuple[str, ...] = ()
    inner: tuple[str, ...] = ()
    mask: str = ""
    state: tuple[str, ...] = ()
    task: Task | None = None
    unknown: str = ""

    def softened(self, temperature: float) -> Outputs:
        """Return the same with class scores compared at a temperature."""
        of = {name: replace(output, temperature=temperature) for name, output in self.of.items()}
        return replace(self, of=of)

    @cached_property
    def judged(self) -> tuple[Output, ...]:
        """Outputs that make up the distance: floats, or whole numbers where nothing is a float."""
        floats = tuple(output for output in self.of.values() if output.kind != INTEGERS and output.importance)
        return floats or tuple(self.of.values())

    @property
    def classes(self) -> tuple[Output, ...]:
        """Outputs that choose among classes."""
        return tuple(output for output in self.of.values() if output.classes)

    def errors(self, expected: Results, found: Results, inputs: Results | None = None) -> dict[str, Errors]:
        """Return the errors of one batch per output; inner values whose shape has changed are left out."""
        mask = None if inputs is None or not self.mask else inputs[self.mask]
        same = (
            o for o in self.judged if o.name not in self.inner or np.shape(expected[o.name]) == np.shape(found[o.name])
        )
        focus = {} if self.task is None else focused(self.task, self.of, expected, found)
        return {o.name: o.errors(expected[o.name], found[o.name], mask, focus.get(o.name)) for o in same}

    def worth(self, expected: Results) -> dict[str, np.ndarray]:
        """Return output -> float64[samples, positions, channels]: how much errors of a detector count; other outputs are left out.

        Positions are in the order of ``Output.rows``.
        """
        found = {} if self.task is None else worth(self.task, self.of, expected)
        return {name: rows.reshape(self.of[name].rows(expected[name]).shape) for name, rows in found.items()}

    def distance(self, errors: Mapping[str, Errors]) -> float:
        """Return the mean of the outputs' distances, by importance; infinite where a value is not finite."""
        found = [(self.of[name].importance, each.distance(self.of[name])) for name, each in errors.items()]
        total = sum(importance for importance, _ in found)
        with np.errstate(invalid="ignore"):
            result = sum(share * distance for share, distance in found if share) / total if total else 0.0
        return float(result) if np.isfinite(result) else np.inf

    def worst(self, errors: Mapping[str, Errors]) -> dict[str, int]:
        """Return output -> the channel whose mean error is largest on its own scale."""
        relative = {name: each.mean / np.square(self.of[name].scale) for name, each in errors.items()}
        return {name: int(np.argmax(np.nan_to_num(found))) for name, found in relative.items() if found.size}


def spans(channels: np.ndarray) -> str:
    """Return channels as ``4:84`` or ``0:2,7``."""
    breaks = np.flatnonzero(np.diff(channels) != 1) + 1
    runs = [(int(run[0]), int(run[-1]) + 1) for run in np.split(channels, breaks) if len(run)]
    return ",".join(str(a) if b == a + 1 else f"{a}:{b}" for a, b in runs)
