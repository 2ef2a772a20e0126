"""Singular values of layers before and after a cut."""

from __future__ import annotations

import numpy as np
import pytest
from networks import network

import onnxprune
from onnxprune.io import load
from onnxprune.measure.isometry import isometry, spectrum


def test_a_rotation_is_an_isometry_at_any_scale():
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((6, 6)))[0]
    found = spectrum(3.0 * rotation)
    assert found.mean == pytest.approx(3.0) and found.spread == pytest.approx(0.0, abs=1e-12)


def test_singular_values_by_hand():
    found = spectrum(np.array([[3.0, 0.0], [0.0, 1.0]]))
    assert (found.mean, found.deviation, found.largest, found.smallest) == pytest.approx((2.0, 1.0, 3.0, 1.0))


def test_removing_filters_never_raises_the_largest_singular_value():
    """A submatrix has a smaller norm (interlacing); weights are told apart by name."""
    body = "h = Conv<kernel_shape=[3,3]>(x, %8x3x3x3)\nr = Relu(h)\ny = Conv<kernel_shape=[1,1]>(r, %4x8x1x1)"
    model = network(body, "float[1,3,6,6] x", "float[1,4,4,4] y")
    small = onnxprune.prune(model, ratio=0.5, round_to=1, latency=False).model
    found = isometry(load(model), load(small))
    assert [layer.weight for layer in found] == ["t1", "t2"]
    for layer in found:
        assert layer.after is not None and layer.after.largest <= layer.before.largest


def test_a_weight_that_is_gone_has_no_spectrum():
    one = network("w = %3x4\ny = MatMul(x, w)", "float[2,3] x", "float[2,4] y")
    other = network("v = %3x4\ny = MatMul(x, v)", "float[2,3] x", "float[2,4] y")
    assert isometry(load(one), load(other))[0].after is None
