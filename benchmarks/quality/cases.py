"""The trained models that quality is measured on, with their calibration and test data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

BUNDLED = Path(__file__).parents[2] / "models"
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])

Arrays = tuple[np.ndarray, np.ndarray | None]


@dataclass(frozen=True)
class Case:
    """A model with its data: files under ``models`` and ``data`` of the shared folder, or all beside the bundled models."""

    name: str
    calibration: str
    test: str
    ratios: tuple[float, ...]
    bundled: bool = False

    def model(self, shared: Path) -> Path:
        return (BUNDLED if self.bundled else shared / "models") / f"{self.name}.onnx"

    def load(self, file: str, shared: Path) -> Arrays:
        """Return (images float32[n, c, h, w], labels int[n] or None)."""
        with np.load((BUNDLED if self.bundled else shared / "data" / "cifar10") / file, allow_pickle=False) as archive:
            if self.bundled:
                return archive["image"], archive.get("labels")
            pixels, labels = archive["x"], archive["y"]
        return np.ascontiguousarray(((pixels / np.float32(255) - MEAN) / STD).transpose(0, 3, 1, 2)), labels


CASES = (
    Case("resnet20_cifar10_jpeg", "jpeg_train.npz", "jpeg_test.npz", (4 / 3, 1.5, 2.0, 3.0)),
    Case("resnet56_cifar10", "train.npz", "test.npz", (1.5, 2.0, 3.0)),
    Case("resnet20_cifar10", "train.npz", "test.npz", (2.0,)),
    Case("digits_cnn", "digits_calib.npz", "digits_test.npz", (2.0,), bundled=True),
    Case("digits_transformer", "digits_calib.npz", "digits_test.npz", (2.0,), bundled=True),
)
