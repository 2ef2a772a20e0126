"""Random changes of images that keep their meaning; each sees [n, c, h, w] and returns a new array."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from onnxprune.data import InputSpec
from onnxprune.data.images import CHANNEL_AXIS, MODES
from onnxprune.errors import UsageError
from onnxprune.registry import Registry

Augmentation = Callable[[np.ndarray, np.random.Generator], np.ndarray]
AUGMENTATIONS: Registry[Augmentation] = Registry("augmentation")

SHIFT = 8  # images move by up to 1/8 of their size


@AUGMENTATIONS.register("flip")
def flip(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Mirror every second image or so left to right."""
    mirrored = random.random(len(images)) < 0.5
    return np.where(mirrored[:, None, None, None], images[..., ::-1], images)


@AUGMENTATIONS.register("shift")
def shift(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Move each image by up to 1/8 of its height and width; what comes in is its mirrored border."""
    count, _, *sizes = images.shape
    reach = [max(size // SHIFT, 1) for size in sizes]
    padded = np.pad(images, ((0, 0), (0, 0), *((r, r) for r in reach)), mode="symmetric")
    rows, columns = (
        random.integers(0, 2 * r + 1, count)[:, None] + np.arange(size) for r, size in zip(reach, sizes, strict=True)
    )
    moved = padded[np.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return np.ascontiguousarray(moved.transpose(0, 3, 1, 2))


def image_axes(specs: Sequence[InputSpec]) -> dict[str, int]:
    """Return float image input -> its channel axis (1 or 3)."""
    found = {}
    for spec in specs:
        shape = spec.shape or ()
        if len(shape) == 4 and np.issubdtype(spec.dtype, np.floating):
            axis = next((axis for axis in CHANNEL_AXIS.values() if shape[axis] in MODES), None)
            if axis is not None:
                found[spec.name] = axis
    return found


def augmenter(
    names: Sequence[str], specs: Sequence[InputSpec]
) -> Callable[[Mapping[str, np.ndarray], np.random.Generator], dict[str, np.ndarray]]:
    """Return a function (inputs, generator) -> inputs with images changed; raises UsageError where there are none."""
    axes = image_axes(specs)
    if names and not axes:
        expected = ", ".join(map(str, specs))
        raise UsageError(f"augmentation {','.join(names)} needs an image input; the inputs are {expected}")

    def augment(inputs: Mapping[str, np.ndarray], random: np.random.Generator) -> dict[str, np.ndarray]:
        result = dict(inputs)
        for name, axis in axes.items():
            images = np.moveaxis(result[name], axis, 1)
            for augmentation in names:
                images = AUGMENTATIONS[augmentation](images, random)
            result[name] = np.ascontiguousarray(np.moveaxis(images, 1, axis))
        return result

    return augment
