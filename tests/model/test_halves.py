"""Halves are as_single as numpy does it, only faster."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from onnxprune.model import halves


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("few", [0, 1 << 20], ids=["by ONNX Runtime", "by numpy"])
def test_every_half(dtype: type, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(halves, "FEW", few)
    every = np.arange(1 << 16, dtype=np.uint16).view(dtype).reshape(256, 256)
    for array in (every, every.T, every[::3, 5:], every[:0]):
        wide, wanted = halves.as_single(array), array.astype(np.float32)
        assert wide.dtype == np.float32 and halves.is_half(array.dtype)
        np.testing.assert_array_equal(wide, wanted)
        assert (np.signbit(wide) == np.signbit(wanted))[~np.isnan(wanted)].all()
        wide[...] = 1.0  # nobody else's memory
