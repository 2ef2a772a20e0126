"""From recordings (.wav, PCM) to what an audio model is fed: one channel, at the model's rate, in windows of its size."""

from __future__ import annotations

import math
import wave
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from onnxprune.data.columns import Index
from onnxprune.data.inputs import DeclaredShape, InputSpec, Rows
from onnxprune.data.sources import RowSource
from onnxprune.errors import DataError, UsageError
from onnxprune.model.files import require_regular

EXTENSION = ".wav"
LONGEST = 1 << 28
"""Samples of one row, where the whole recording is one: 1 GiB as float32."""
HALF_LENGTH = 10
"""Half of the filter of ``scipy.signal.resample_poly``, in periods of the slower rate."""


@dataclass(frozen=True)
class AudioOptions:
    """``rate``: samples per second that the model wants (None: as recorded). ``window``: samples of a row (None: the model's size).

    ``hop``: samples from one window to the next (None: a window). ``scale``: samples, in [-1, 1], are multiplied by it; None: 1 for
    float inputs, 32768 for whole numbers.
    """

    rate: int | None = None
    window: int | None = None
    hop: int | None = None
    scale: float | None = None

    def __post_init__(self) -> None:
        for name in ("rate", "window", "hop"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--audio-{name} {value}: give a whole number above zero, such as 16000")
        if self.scale is not None and (not math.isfinite(self.scale) or self.scale == 0):
            raise UsageError(f"--audio-scale {self.scale}: give a finite number other than zero, such as 32768")


@dataclass
class WaveFile:
    """One .wav file of PCM samples, read at a rate of its own or resampled, from any place on."""

    path: Path
    rate: int | None

    def __post_init__(self) -> None:
        require_regular(self.path, DataError)
        with self._opened() as stream:
            self.channels, self.width = stream.getnchannels(), stream.getsampwidth()
            self.recorded, self.frames = stream.getframerate(), stream.getnframes()
        if self.recorded < 1 or not self.channels:
            raise DataError(f"{self.path} claims {self.channels} channels and {self.recorded} samples per second")
        self.frames = min(
            self.frames, self.path.stat().st_size // (self.width * self.channels)
        )  # a header may claim more
        if not self.frames:
            raise DataError(f"{self.path} has no samples")

    def _opened(self) -> wave.Wave_read:
        try:
            return wave.open(str(self.path), "rb")
        except (wave.Error, EOFError, OSError, RuntimeError) as error:
            reason = str(error) or "it ends too soon"
            raise DataError(
                f"{self.path} cannot be read as PCM sound: {reason}; convert it, e.g. with "
                "ffmpeg -i IN -acodec pcm_s16le OUT.wav"
            ) from error

    @cached_property
    def _ratio(self) -> tuple[int, int]:
        """Up, down: the rate that is wanted over the one recorded, in lowest terms."""
        wanted = self.rate or self.recorded
        common = math.gcd(wanted, self.recorded)
        return wanted // common, self.recorded // common

    @property
    def length(self) -> int:
        """Samples at the rate that is wanted."""
        up, down = self._ratio
        return -(-self.frames * up // down)

    def read(self, start: int, count: int) -> np.ndarray:
        """Return float32[count] in [-1, 1], the mean of all channels, from a sample on; zeros behind the end.

        Reading a part gives what resampling the whole recording does, since the filter sees all it would see.
        """
        up, down = self._ratio
        if up == down:
            found = self._frames(start, count)
        else:
            from scipy.signal import resample_poly

            margin = -(-HALF_LENGTH * max(up, down) // up) + 1
            first = max(start * down // up - margin, 0) // down * down  # where both rates have a sample
            last = -(-(start + count) * down // up) + margin
            skipped = start - first * up // down
            found = resample_poly(self._frames(first, last - first), up, down)[skipped : skipped + count]
        return np.pad(found, (0, count - len(found))).astype(np.float32)

    def _frames(self, start: int, count: int) -> np.ndarray:
        """Return float64[at most count] as recorded."""
        with self._opened() as stream:
            stream.setpos(min(start, self.frames))
            raw = stream.readframes(min(count, max(self.frames - start, 0)))
        return (
            _pcm(raw[: len(raw) // (self.width * self.channels) * self.width * self.channels], self.width)
            .reshape(-1, self.channels)
            .mean(axis=1)
        )


def _pcm(raw: bytes, width: int) -> np.ndarray:
    """Return PCM samples of so many bytes as float64 in [-1, 1); 8 bits are unsigned, others signed, little end first."""
    if width == 1:
        return (np.frombuffer(raw, np.uint8).astype(np.float64) - 128) / 128
    if width == 3:
        parts = np.frombuffer(raw, np.uint8).reshape(-1, 3).astype(np.int32)
        return ((parts[:, 0] << 8 | parts[:, 1] << 16 | parts[:, 2] << 24) >> 8) / float(1 << 23)
    return np.frombuffer(raw, f"<i{width}") / float(1 << (8 * width - 1))


class Sounds(RowSource):
    """Windows of recordings for one input; a recording shorter than a window is one row, filled up with zeros.

    ``shape``: of a row. Without a window every recording is one row. Raises DataError where rates differ and none is wanted, or an input takes no sound.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        spec: InputSpec,
        shape: DeclaredShape,
        options: AudioOptions,
        *,
        whole_feeds: bool = False,
    ):
        self.spec, self.options, self.whole_feeds = spec, options, whole_feeds
        self.files = [WaveFile(path, options.rate) for path in paths]
        rates = {file.recorded for file in self.files}
        if options.rate is None and len(rates) > 1:
            listed = ", ".join(map(str, sorted(rates)))
            raise DataError(
                f"the recordings have {listed} samples per second; say --audio-rate of what the model takes"
            )
        self.axis, size = _sample_axis(spec, shape)
        self.shape = shape
        self.window = size or options.window
        if size is not None and options.window not in (None, size):
            raise DataError(f"--audio-window {options.window}: input {spec} takes {size} samples; leave the option out")
        self.hop = options.hop or self.window or 0
        self._starts = np.cumsum([0, *map(self._windows, self.files)])
        self.count = int(self._starts[-1])

    def _windows(self, file: WaveFile) -> int:
        if self.window is not None:
            return max((file.length - self.window) // self.hop + 1, 1)
        if file.length > LONGEST:
            raise DataError(f"{file.path} has {file.length:,} samples, which are one row; say --audio-window 16000")
        return 1

    def read(self, keep: Index | None, size: int) -> Iterator[Rows]:
        keep = np.arange(self.count or 0) if keep is None else keep
        size = size if self.window is not None else 1  # recordings differ in length
        for start in range(0, len(keep), size):
            yield {self.spec.name: np.stack([self._row(int(row)) for row in keep[start : start + size]])}

    def _row(self, row: int) -> np.ndarray:
        number = int(np.searchsorted(self._starts, row, "right")) - 1
        file = self.files[number]
        count = file.length if self.window is None else self.window
        samples = file.read((row - int(self._starts[number])) * self.hop, count)
        whole = self.spec.dtype.kind in "iu"
        scale = self.options.scale or (32768.0 if whole else 1.0)
        samples = samples * np.float32(scale)
        if whole:
            limits = np.iinfo(self.spec.dtype)
            samples = np.clip(np.rint(samples.astype(np.float64)), limits.min, limits.max).astype(self.spec.dtype)
        shape = [1] * len(self.shape)
        if shape:
            shape[self.axis] = count
        return samples.reshape(shape)


def _sample_axis(spec: InputSpec, shape: DeclaredShape) -> tuple[int, int | None]:
    """Return the axis of one row that counts samples, and its size (None: open); the others have one position."""
    axes = [axis for axis, dim in enumerate(shape) if dim != 1]
    fixed = [axis for axis in axes if isinstance(shape[axis], int)]
    chosen = fixed if len(fixed) == 1 else axes
    if len(chosen) != 1 or any(isinstance(shape[axis], int) for axis in axes if axis not in chosen):
        raise DataError(
            f"input {spec} takes no plain sound: one axis beside the batch is needed; where features are computed of it, write "
            "a .py loader with load_data()"
        )
    size = shape[chosen[0]]
    return chosen[0], size if isinstance(size, int) else None
