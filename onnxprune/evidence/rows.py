"""From a batch of a value to the rows a statistic is fed: channels last, padding left out, positions sampled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from onnxprune.evidence.needs import Need, Window

POSITIONS = 64  # of each sample that second moments go over
LARGEST = 1e15  # of values whose products are summed in float32


@dataclass
class Sampler:
    """Random positions per sample, the same for every value with as many of them.

    ``first``: number of the batch's first sample; the positions of a sample depend on the seed and its number alone.
    ``mask``: bool[samples, steps], True where a step of a sequence counts. ``drawn``: so many are drawn in random order, of which
    the first ``positions`` are taken, so that rows for few positions are among those for many (0: as many as are taken,
    in ascending order).
    """

    samples: int
    positions: int = POSITIONS
    seed: int = 0
    first: int = 0
    mask: np.ndarray | None = None
    drawn: int = 0

    def choose(self, size: int, count: int) -> np.ndarray:
        """Return integers [count, min(size, positions)]: different positions below ``size`` for each sample.

        ``count``: samples of the value at hand; a model may fold other axes into the first, or unfold it.
        """
        if size <= self.positions and not self.drawn:
            return np.broadcast_to(np.arange(size), (count, size))
        first = self.unfolded(count).first
        if self.drawn:
            each = min(size, self.positions)
            return np.array([self._permuted(first + i, size)[:each] for i in range(count)])
        return np.array([_draw(self.seed, first + i, size, self.positions) for i in range(count)])

    def _permuted(self, sample: int, size: int) -> np.ndarray:
        return _draw(self.seed, sample, size, min(size, self.drawn), ascending=False)

    def unfolded(self, count: int) -> Sampler:
        """Return the sampler of ``count`` parts that the samples of a value fall into, each with positions of its own."""
        each = max(count // self.samples, 1) if count % self.samples == 0 else 1
        return replace(self, samples=count, first=self.first * each)

    def places(self, valid: np.ndarray) -> list[np.ndarray]:
        """Return per sample integers: at most ``positions`` of the positions that ``valid``, bool[samples, size], leaves."""
        if not self.drawn:
            return [np.flatnonzero(row) for row in self.choose_valid(valid)]
        rows = [np.flatnonzero(row) for row in valid]
        return [row[self._permuted(self.first + i, len(row))[: self.positions]] for i, row in enumerate(rows)]

    def choose_valid(self, valid: np.ndarray) -> np.ndarray:
        """Return bool[samples, size]: at most ``positions`` of the valid positions of each sample."""
        result = np.zeros_like(valid)
        for sample, row in enumerate(valid):
            places = np.flatnonzero(row)
            if len(places) > self.positions:
                rng = np.random.default_rng([self.seed, self.first + sample])
                places = rng.choice(places, self.positions, replace=False)
            result[sample, places] = True
        return result


@lru_cache(maxsize=1 << 16)
def _draw(seed: int, sample: int, size: int, count: int, ascending: bool = True) -> np.ndarray:
    """Return int32[count]: a sample's random positions below ``size``; asked for at every value and in every pass."""
    found = np.random.default_rng([seed, sample]).choice(size, count, replace=False)
    return (np.sort(found) if ascending else found).astype(np.int32)


def by_sample(value: np.ndarray, axis: int, samples: int) -> np.ndarray:
    """Return [samples, p, c]: all other axes as positions; one sample where they do not divide evenly."""
    rows = np.moveaxis(value, axis, -1)
    count = rows.size // max(rows.shape[-1], 1)
    return rows.reshape(samples if samples and count % samples == 0 else 1, -1, rows.shape[-1])


def usable(array: np.ndarray, limit: float = np.inf) -> bool:
    """Whether all values are finite and their sizes are at most ``limit``."""
    return not array.size or bool(max(array.max(), -array.min()) <= min(limit, np.finfo(np.float64).max))


def valid_positions(value: np.ndarray, axis: int, mask: np.ndarray | None) -> np.ndarray | None:
    """Return bool[samples, p] for the positions of ``by_sample``, None where the mask does not apply to this value.

    It applies to [samples, .., steps, ..] (the first other axis with as many steps) and to [samples * steps, c].
    """
    if mask is None:
        return None
    samples, steps = mask.shape
    shape = tuple(size for a, size in enumerate(value.shape) if a != axis % value.ndim)
    if shape[:1] == (samples,) and axis % value.ndim != 0 and steps in shape[1:]:
        at = shape.index(steps, 1)
        spread = mask.reshape(samples, *(steps if a == at else 1 for a in range(1, len(shape))))
        return np.broadcast_to(spread, shape).reshape(samples, -1)
    return mask if shape == (samples * steps,) else None


def all_rows(value: np.ndarray, need: Need, sampler: Sampler) -> np.ndarray:
    """Return [r, c]: every position of every sample but padding."""
    rows = by_sample(value, need.axis, sampler.samples)
    valid = valid_positions(value, need.axis, sampler.mask)
    return rows.reshape(-1, rows.shape[-1]) if valid is None else rows[valid]


def sampled_rows(value: np.ndarray, need: Need, sampler: Sampler) -> np.ndarray:
    """Return [g, r, c / g]: the sampled positions, or with a window the patches they read, channel by channel, tap by tap."""
    if need.window is None or need.window.is_point:
        rows = _some_rows(value, need.axis, sampler)
        return np.moveaxis(rows.reshape(len(rows), need.groups, rows.shape[-1] // need.groups), 1, 0)
    found = patches(value, need.window, need.groups, sampler)
    return found.swapaxes(2, 3).reshape(*found.shape[:2], -1)


def taps_first(moment: np.ndarray, taps: int) -> np.ndarray:
    """Return the second moments [.., d, d] of ``sampled_rows`` with the channels of each tap side by side."""
    d = moment.shape[-1]
    if taps == 1:
        return moment
    order = np.arange(d).reshape(-1, taps).T.reshape(-1)
    return moment[..., order[:, None], order]


def _some_rows(value: np.ndarray, axis: int, sampler: Sampler) -> np.ndarray:
    rows = by_sample(value, axis, sampler.samples)
    valid = valid_positions(value, axis, sampler.mask)
    if valid is not None:
        places = sampler.places(valid)
        samples = np.repeat(np.arange(len(rows)), [len(own) for own in places])
        return rows[samples, np.concatenate(places)]
    chosen = sampler.choose(rows.shape[1], len(rows))
    return rows[np.arange(len(rows))[:, None], chosen].reshape(-1, rows.shape[-1])


def patches(value: np.ndarray, window: Window, groups: int, sampler: Sampler) -> np.ndarray:
    """Return [g, r, taps, c / g]: what a convolution reads at the sampled output positions, zeros outside the input.

    ``value``: [samples, c, space..]. All channels of one tap lie side by side, so that they are copied in one run.
    """
    count, channels = value.shape[:2]
    space = window.out_shape(value.shape[2:])
    inner = tuple(slice(before, before + size) for (before, _), size in zip(window.pads, value.shape[2:], strict=True))
    sizes = [size + sum(pad) for size, pad in zip(value.shape[2:], window.pads, strict=True)]
    padded = np.zeros((count, *sizes, channels), value.dtype)
    padded[(slice(None), *inner)] = np.moveaxis(value, 1, -1)
    places = sampler.choose(int(np.prod(space, dtype=np.int64)), count)
    corner = np.stack(np.unravel_index(places, space), axis=-1) * np.array(window.strides)
    first = np.ravel_multi_index(tuple(np.moveaxis(corner, -1, 0)), sizes)  # [samples, positions]
    first = first + np.arange(count)[:, None] * int(np.prod(sizes, dtype=np.int64))
    steps = np.ravel_multi_index(tuple(window.offsets().T), sizes)
    flat = first.reshape(-1, 1) + steps
    found = np.take(padded.reshape(-1, channels), flat.reshape(-1), axis=0, mode="clip")
    found = found.reshape(len(flat), window.taps, groups, channels // groups)
    return np.moveaxis(found, 2, 0)


def row_pairs(pair: tuple[np.ndarray, np.ndarray], need: Need, sampler: Sampler) -> tuple[np.ndarray, np.ndarray]:
    """Return ([r, a], [r, b]): both values at the same positions."""
    return _some_rows(pair[0], need.axis, sampler), _some_rows(pair[1], need.other_axis, sampler)


def sample_means(value: np.ndarray, need: Need, sampler: Sampler) -> np.ndarray:
    """Return float64[samples, c]: the mean over the positions of each sample (global average pooling)."""
    rows = by_sample(value, need.axis, sampler.samples)
    valid = valid_positions(value, need.axis, sampler.mask)
    weight = np.ones(rows.shape[:2]) if valid is None else valid.astype(np.float64)
    return np.einsum("spc,sp->sc", rows, weight) / np.maximum(weight.sum(axis=1), 1.0)[:, None]


def feature_maps(value: np.ndarray, need: Need, sampler: Sampler) -> np.ndarray:
    """Return [samples, c, h, w]: the last other axis against all those between it and the first."""
    maps = np.moveaxis(value, need.axis, 1 if value.ndim > 1 and need.axis % value.ndim else 0)
    if need.axis % value.ndim == 0:
        maps = maps[None]
    return maps.reshape(*maps.shape[:2], -1, maps.shape[-1] if maps.ndim > 2 else 1)


FORMS: dict[str, Callable] = {
    "all": all_rows,
    "maps": feature_maps,
    "means": sample_means,
    "pair": row_pairs,
    "rows": sampled_rows,
}
"""How a value becomes what a statistic is fed: (value or pair of values, need, sampler) -> rows."""
