"""Random changes of images that keep their meaning; each sees [n, c, h, w] and returns a new array."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from onnxprune.data import Dataset, InputSpec
from onnxprune.data.images import CHANNEL_AXIS, MODES
from onnxprune.data.inputs import Rows
from onnxprune.errors import UsageError
from onnxprune.measure.outputs import CLASSES, Outputs
from onnxprune.model.runtime import Results
from onnxprune.registry import Registry

Augmentation = Callable[[np.ndarray, np.random.Generator], np.ndarray]
AUGMENTATIONS: Registry[Augmentation] = Registry("augmentation")

AUTO, NONE = "auto", "none"
ROWS = 64  # by which it is seen whether a change does harm
ODD = (
    0.25  # how far outputs may move on average, in deviations of their channels, or in nats of entropy for class scores
)

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


# --- which changes do no harm ---------------------------------------------------------------------------------------


def harmless(
    names: Sequence[str], dataset: Dataset, run: Callable[[Rows], Results], outputs: Outputs
) -> tuple[str, ...]:
    """Return the augmentations that ``names`` stand for: ``auto`` is those after which pictures still look real to a model.

    ``run`` gives its outputs. What it says of changed rows may differ from row to row, but not as a whole: neither how sure it is
    of classes, nor mean and deviation of the channels of other outputs.
    """
    if AUTO not in names:
        return tuple(name for name in names if name != NONE)
    if not image_axes(dataset.schema.fresh) or not dataset.schema.samples:
        return ()
    inputs = next(dataset.batches(dataset.schema.fixed_batch or ROWS))
    plain = _looks(run(inputs), outputs)

    def odd(name: str) -> float:
        changed = augmenter([name], dataset.schema.fresh)(inputs, np.random.default_rng(0))
        return max(map(_difference, plain, _looks(run(changed), outputs)), default=np.inf)

    return tuple(name for name in AUGMENTATIONS if odd(name) <= ODD)


def _looks(found: Results, outputs: Outputs) -> list[np.ndarray]:
    """Return per output float64[2, channels]: mean and deviation on each channel's scale, the mean entropy of class scores."""
    looks = []
    for output in outputs.judged:
        if output.kind in CLASSES:
            logs = output.log_probabilities(found[output.name])
            looks.append(np.array([[-(np.exp(logs) * logs).sum(-1).mean()], [0.0]]))
        else:
            rows = output.rows(found[output.name]).astype(np.float64) / output.scale
            looks.append(np.stack([rows.mean((0, 1)), rows.std((0, 1))]))
    return looks


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    """Return how far two looks are apart, the mean over channels; infinite where that is no number."""
    found = float(np.abs(one - other).sum(0).mean()) if one.shape == other.shape else np.inf
    return found if np.isfinite(found) else np.inf
