"""Calibration and validation data: any source, as batches that fit the model, in bounded memory."""

from onnxprune.data.dataset import DEFAULT_BATCH, Dataset, Feed, open_dataset, random_dataset, shared_rows
from onnxprune.data.images import ImageOptions
from onnxprune.data.inputs import InputSpec, input_specs
from onnxprune.data.sounds import AudioOptions
from onnxprune.data.texts import TextOptions

__all__ = [
    "DEFAULT_BATCH",
    "AudioOptions",
    "Dataset",
    "Feed",
    "ImageOptions",
    "InputSpec",
    "TextOptions",
    "input_specs",
    "open_dataset",
    "random_dataset",
    "shared_rows",
]
