"""Divergence inside two models, and the doubts about what their numbers prove."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.networks import network

import onnxprune
from onnxprune.data import input_specs, open_dataset
from onnxprune.errors import DataError
from onnxprune.means import Means
from onnxprune.measure.layers import LayerDrift, common_tensors, compare_layers
from onnxprune.model.read import Model

MODELS = Path(__file__).parents[2] / "models"
CNN, TEST = MODELS / "digits_cnn.onnx", MODELS / "digits_test.npz"


def scaled(factor: float) -> Model:
    """x -> a = x + 1 -> b = factor * a -> y = b - 1."""
    text = f"one = @1.\nfactor = @{factor}\na = Add(x, one)\nb = Mul(a, factor)\ny = Sub(b, one)"
    return Model.of(network(text, inputs="float[N,4] x"))


def test_by_hand() -> None:
    rows = np.full((20, 4), 2.0, np.float32)
    before, after = scaled(2.0), scaled(2.5)
    data = open_dataset({"x": rows}, input_specs(before.proto))
    found = compare_layers(before, after, data)
    assert found["compared"] == 3
    ratios = {row["name"]: row["relative_l2"] for row in found["tensors"]}
    assert ratios == {"a": 0.0, "b": 0.25, "y": 1.5 / 5}  # a = 3; b = 6 and 7.5; y = 5 and 6.5
    assert found["tensors"][0]["sqnr_db"] is None
    assert found["tensors"][1]["sqnr_db"] == pytest.approx(20 * np.log10(4))


def test_batches_do_not_matter() -> None:
    rows = np.random.default_rng(0).normal(size=(21, 4)).astype(np.float32)
    data = open_dataset({"x": rows}, input_specs(scaled(1.0).proto))
    one, many = (compare_layers(scaled(1.0), scaled(0.9), data, Means(batch=batch)) for batch in (1, 8))
    for a, b in zip(one["tensors"], many["tensors"], strict=True):
        assert a["relative_l2"] == pytest.approx(b["relative_l2"], rel=1e-12)


def test_other_shapes_are_counted_not_compared() -> None:
    small = onnxprune.prune(CNN, latency=False).model
    report = onnxprune.validate(CNN, small, TEST, layers=True, samples=8)
    layers = report["layers"]
    assert layers["reshaped"] > 0
    assert [row["name"] for row in layers["tensors"]][-1] == "logits"
    whole = report["drift"]["outputs"]["logits"]["sqnr_db"]
    assert layers["tensors"][-1]["sqnr_db"] == pytest.approx(whole, rel=1e-4)


def test_what_is_not_finite_is_infinitely_far_and_equal_to_itself() -> None:
    a = np.array([1.0, np.nan], np.float32)
    same, other = LayerDrift("a", "Add"), LayerDrift("a", "Add")
    same.add(a, a)
    other.add(a, np.array([1.0, 2.0], np.float32))
    assert (same.relative_l2, other.to_json()["sqnr_db"]) == (0.0, -1000.0)


def test_names_in_one_model_only_are_left_out() -> None:
    renamed = scaled(1.0)
    renamed.structure.graph.node[0].output[0] = renamed.structure.graph.node[1].input[0] = "other"
    assert [name for name, _ in common_tensors(scaled(1.0).proto, renamed.proto)] == ["b", "y"]


def test_rows_that_also_decided_are_named(tmp_path: Path) -> None:
    with np.load(TEST) as found:
        part = {name: found[name][:30] for name in found.files}
    np.savez(tmp_path / "part.npz", **part)
    report = onnxprune.validate(CNN, CNN, TEST, calibration=tmp_path / "part.npz")
    assert any(text.startswith("30 of 497 evaluation rows") for text in report["warnings"])
    apart = onnxprune.validate(CNN, CNN, TEST, calibration=MODELS / "digits_calib.npz")
    assert not any("calibration rows" in text for text in apart["warnings"])
    with pytest.raises(DataError, match="take them out"):
        onnxprune.validate(CNN, CNN, TEST, calibration=tmp_path / "part.npz", strict=True)


def test_too_few_samples_for_a_budget_are_named() -> None:
    tight = onnxprune.validate(CNN, CNN, TEST, max_drop=0.001, min_agreement=0.999)
    assert sum("cannot prove" in text for text in tight["warnings"]) == 2
    loose = onnxprune.validate(CNN, CNN, TEST, max_drop=0.05, min_agreement=0.9)
    assert not any("cannot prove" in text for text in loose["warnings"])


def test_a_metric_of_ones_own(tmp_path: Path) -> None:
    script = tmp_path / "metric.py"
    script.write_text("def margin(outputs, labels):\n    return outputs['logits'].max(axis=1)\n")
    task = onnxprune.validate(CNN, CNN, TEST, metric=f"{script}:margin")["task"]
    assert task["metric"] == "margin"
    assert (task["drop"], task["samples"]) == (0.0, 497)
