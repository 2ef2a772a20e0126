"""From decoded pictures to what an image model is fed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.data.inputs import InputSpec
from onnxprune.errors import DataError, UsageError

EXTENSIONS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
CHANNEL_AXIS = {"NCHW": 1, "NHWC": 3}
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
ORDERS = {"RGB": (0, 1, 2), "BGR": (2, 1, 0)}
GREY = 114
"""What letterboxes are filled with, as detectors are trained (YOLOv5 and later)."""


@dataclass(frozen=True)
class ImageOptions:
    """How uint8 pixels become model input: ``(pixel * scale - mean) / std``, then the layout the model wants.

    ``layout`` None: read off the model's input. ``scale`` None: 1/255 for float inputs, 1 for integer inputs.
    ``mean``, ``std``: one value per channel or one for all. ``size``: (height, width) where the model's are dynamic.
    ``channel_order``: of the colours that the model takes; pixels come as RGB. ``fit``: how a picture comes to the model's size, see
    ``FITS``. ``resize``: shorter side in pixels before the centre crop; None: as small as covers the crop. ``fill``: what a letterbox
    is filled with.
    """

    layout: str | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    scale: float | None = None
    size: tuple[int, int] | None = None
    resize: int | None = None
    channel_order: str = "RGB"
    fit: str = "crop"
    fill: int = GREY

    def __post_init__(self) -> None:
        if self.layout not in (None, *CHANNEL_AXIS):
            raise UsageError(f"image layout {self.layout!r} is not one of {', '.join(CHANNEL_AXIS)}")
        if self.channel_order not in ORDERS:
            raise UsageError(f"channel order {self.channel_order!r} is not one of {', '.join(ORDERS)}")
        if self.fit not in FITS:
            raise UsageError(f"image fit {self.fit!r} is not one of {', '.join(FITS)}")
        if self.resize is not None and (self.resize < 1 or self.fit != "crop"):
            raise UsageError(f"--resize {self.resize}: give the shorter side in pixels, such as 256, and --fit crop")
        if not 0 <= self.fill <= 255:
            raise UsageError(f"--fill {self.fill}: give a number from 0 to 255")
        if any(value <= 0 for value in self.std):
            raise UsageError("every --std value must be above zero")
        if not np.isfinite([*self.mean, *self.std, self.scale or 0.0]).all():
            raise UsageError("--mean, --std and --scale are finite numbers")

    def apply(self, pixels: np.ndarray, spec: InputSpec) -> np.ndarray:
        """Convert uint8[n, h, w, c] (or already [n, c, h, w]) to the input's layout and scale; raise DataError."""
        layout = self.layout_of(spec)
        nhwc = _channels_last(pixels, spec, layout)
        if nhwc.shape[3] == len(ORDERS[self.channel_order]):
            nhwc = nhwc[..., ORDERS[self.channel_order]]
        is_float = np.issubdtype(spec.dtype, np.floating)
        scale = self.scale if self.scale is not None else 1 / 255 if is_float else 1.0
        if is_float or self.mean or self.std or scale != 1.0:
            nhwc = nhwc.astype(np.float32) * np.float32(scale)
            nhwc = (nhwc - self._per_channel("mean", nhwc, 0.0)) / self._per_channel("std", nhwc, 1.0)
        return np.ascontiguousarray(nhwc.transpose(0, 3, 1, 2) if layout == "NCHW" else nhwc)

    def geometry(self, spec: InputSpec) -> tuple[int, int, int]:
        """Return (height, width, channels) to decode for an input; raise DataError where the model leaves them open."""
        layout = self.layout_of(spec)
        axis = CHANNEL_AXIS[layout]
        shape = spec.shape or ()
        height, width = shape[1:3] if axis == 3 else shape[2:4]
        if self.size and not (isinstance(height, int) and isinstance(width, int)):
            height, width = self.size
        if not isinstance(height, int) or not isinstance(width, int):
            raise DataError(
                f"input {spec} has no fixed image size: give the one it is used at, such as --input-shape {spec.name}:1,3,224,224"
            )
        channels = shape[axis]
        return height, width, channels if isinstance(channels, int) else 3

    def layout_of(self, spec: InputSpec) -> str:
        """Return NCHW or NHWC, as said or as the input's shape tells; raise DataError where neither does."""
        shape = spec.shape
        if shape is None or len(shape) != 4:
            raise DataError(f"input {spec} does not take images: four dimensions are needed")
        fitting = [name for name, axis in CHANNEL_AXIS.items() if shape[axis] in MODES]
        if self.layout is None and len(fitting) != 1:
            raise DataError(f"input {spec} does not tell where its channels are: say --layout NCHW or --layout NHWC")
        return self.layout or fitting[0]

    def _per_channel(self, what: str, nhwc: np.ndarray, default: float) -> np.ndarray:
        values = getattr(self, what) or (default,)
        if len(values) not in (1, nhwc.shape[3]):
            raise DataError(f"--{what} has {len(values)} values, the images have {nhwc.shape[3]} channels")
        return np.asarray(values, np.float32)


def pixel_ranges(options: ImageOptions) -> tuple[tuple[float, float], ...]:
    """Return what black and white become in the input of a model of floats, one pair for all channels or one for each."""
    scale = 1 / 255 if options.scale is None else options.scale
    count = max(len(options.mean), len(options.std), 1)
    means, stds = (values * (count // len(values)) for values in (options.mean or (0.0,), options.std or (1.0,)))
    ends = [((0.0 - mean) / std, (255 * scale - mean) / std) for mean, std in zip(means, stds, strict=True)]
    return tuple((min(pair), max(pair)) for pair in ends)


def _channels_last(pixels: np.ndarray, spec: InputSpec, layout: str) -> np.ndarray:
    """Return a [n, h, w, c] view of pixels stored either way: where both are possible, NHWC unless only NCHW fits."""
    shape = spec.shape or ()
    channels = shape[CHANNEL_AXIS[layout]]
    allowed = {channels} if isinstance(channels, int) else set(MODES)
    stored = [order for order in ("NHWC", "NCHW") if pixels.shape[CHANNEL_AXIS[order]] in allowed]
    if not stored:
        raise DataError(f"images of shape {list(pixels.shape[1:])} have no axis with the channels of input {spec}")
    views = [pixels.transpose(0, 2, 3, 1) if order == "NCHW" else pixels for order in stored]
    size = shape[2:4] if layout == "NCHW" else shape[1:3]
    return next((view for view in views if _sizes_fit(view.shape[1:3], size)), views[0])


def _sizes_fit(actual: tuple[int, ...], wanted: tuple[int | str | None, ...]) -> bool:
    return all(not isinstance(want, int) or want == got for want, got in zip(wanted, actual, strict=True))


def decode(path: Path, height: int, width: int, channels: int, options: ImageOptions) -> np.ndarray:
    """Return a picture as uint8[height, width, channels], brought to that size as ``options.fit`` says.

    Raises DataError for a file that is no picture, or when pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError("reading images needs pillow: pip install 'onnxprune[images]'") from error
    if channels not in MODES:
        raise DataError(f"pictures have {', '.join(map(str, MODES))} channels, the model wants {channels}")
    try:
        with Image.open(path) as picture:
            image = picture.convert(MODES[channels])
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be decoded as an image: {error}") from error
    fitted = FITS[options.fit](image, height, width, options)
    return np.asarray(fitted, np.uint8).reshape(height, width, channels)


def _crop(image: Any, height: int, width: int, options: ImageOptions) -> Any:
    """Resize to cover the size, or so that the shorter side is as long as was said; cut out the centre."""
    factor = max(height / image.height, width / image.width)
    if options.resize is not None:
        factor = max(factor, options.resize / min(image.height, image.width))
    wide, high = max(width, round(image.width * factor)), max(height, round(image.height * factor))
    left, top = (wide - width) // 2, (high - height) // 2
    return _resized(image, high, wide).crop((left, top, left + width, top + height))


def _letterbox(image: Any, height: int, width: int, options: ImageOptions) -> Any:
    """Resize to fit into the size with both sides in proportion; the rest, shared by both ends, is filled."""
    from PIL import Image

    factor = min(height / image.height, width / image.width)
    wide, high = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    colours = (*[options.fill] * 3, 255)[: len(image.getbands())]
    whole = Image.new(image.mode, (width, height), colours if len(colours) > 1 else options.fill)
    whole.paste(_resized(image, high, wide), ((width - wide) // 2, (height - high) // 2))
    return whole


def _stretch(image: Any, height: int, width: int, options: ImageOptions) -> Any:
    """Resize each side by itself."""
    return _resized(image, height, width)


def _resized(image: Any, height: int, width: int) -> Any:
    from PIL import Image

    return image.resize((width, height), Image.Resampling.BILINEAR)


FITS: dict[str, Callable[[Any, int, int, ImageOptions], Any]] = {
    "crop": _crop,
    "letterbox": _letterbox,
    "stretch": _stretch,
}
"""How a picture (of pillow) comes to a size: the centre of it, all of it with a border, all of it out of proportion."""
