"""Singular values of layers before and after a cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.networks import network

import onnxprune
from onnxprune.errors import UsageError
from onnxprune.measure.isometry import as_matrix, isometry, spectrum, weights_of
from onnxprune.model.read import load
from onnxprune.repair.spectrum import with_values

MODELS = Path(__file__).parents[2] / "models"


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


# --- repair ---------------------------------------------------------------------------------------------------------


def test_singular_values_are_replaced_by_hand() -> None:
    found = with_values(np.array([[3.0, 0.0], [0.0, -1.0]]), np.array([5.0, 2.0, 1.0]))
    np.testing.assert_allclose(found, [[5.0, 0.0], [0.0, -2.0]], atol=1e-12)


def test_no_matrix_with_these_singular_values_is_nearer() -> None:
    random = np.random.default_rng(0)
    weight, values = random.standard_normal((4, 6)), np.array([4.0, 3.0, 2.0, 1.0])
    found = with_values(weight, values)
    np.testing.assert_allclose(np.linalg.svd(found, compute_uv=False), values)
    for _ in range(50):
        left, right = (np.linalg.qr(random.standard_normal((n, n)))[0] for n in (4, 6))
        assert np.linalg.norm(left * values @ right[:4] - weight) >= np.linalg.norm(found - weight)


def test_values_of_an_isometry_make_the_polar_factor() -> None:
    weight = np.random.default_rng(1).standard_normal((3, 5))
    left, _, right = np.linalg.svd(weight, full_matrices=False)
    np.testing.assert_allclose(with_values(weight, np.ones(3)), left @ right, atol=1e-12)


def test_a_direction_that_is_gone_stays_gone() -> None:
    weight = np.outer([1.0, 0.0], [1.0, 1.0])
    assert np.linalg.matrix_rank(with_values(weight, np.array([3.0, 2.0]))) == 1


def test_what_the_surviving_outputs_had_comes_back() -> None:
    """The second layer loses inputs: its singular values return. The first loses outputs alone: it stays as it is."""
    body = "w = %8x6; v = %6x8; p = MatMul(x, v); h = Relu(p); y = MatMul(h, w)"
    model = network(body, "float[n,6] x", "float[n,6] y")
    options = {"ratio": 0.5, "round_to": 1, "latency": False}
    plain = onnxprune.prune(model, **options)
    repaired = onnxprune.prune(model, repair="isometry", **options)
    old, cut, new = (weights_of(load(m)) for m in (model, plain.model, repaired.model))
    np.testing.assert_array_equal(new["v"], cut["v"])
    whole = np.linalg.svd(as_matrix(old["w"]), compute_uv=False)
    np.testing.assert_allclose(np.linalg.svd(as_matrix(new["w"]), compute_uv=False), whole[:4], rtol=1e-5)
    rows = {row["weight"]: row for row in repaired.report["isometry"]}
    assert rows["w"]["original"]["largest"] == pytest.approx(rows["w"]["repaired"]["largest"])
    assert rows["w"]["cut"]["largest"] < rows["w"]["original"]["largest"]
    assert repaired.report["repair"] == {"method": "isometry", "divergence": {}}


def test_a_bundled_model_without_data() -> None:
    """Every layer that lost inputs passes on as much as before; what that is worth differs (docs/literature.md)."""
    options = {"target": "macs=66.7%", "round_to": 1, "latency": False}
    report = onnxprune.prune(MODELS / "digits_cnn.onnx", repair="isometry", **options).report
    raised = [row for row in report["isometry"] if row["repaired"]["mean"] > row["cut"]["mean"] * 1.001]
    assert len(raised) > 5
    assert all(row["repaired"]["largest"] <= row["original"]["largest"] * 1.001 for row in report["isometry"])


def test_directions_take_no_such_repair() -> None:
    with pytest.raises(UsageError, match="repair isometry does not go with granularity eigen"):
        onnxprune.prune(MODELS / "digits_cnn.onnx", repair="isometry", granularity=("eigen",))
