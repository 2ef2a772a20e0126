"""Codebooks by data: what a layer gives moves less, whatever the layer; zeros stay, biases take the mean, rows are held out."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper
from support.networks import network
from support.oracles import run

import onnxprune
from onnxprune.changes.storage import snapping
from onnxprune.errors import PlanError

LAYERS = {
    "convolution": ("y = Conv<pads = [1, 1, 1, 1]>(x, %8x6x3x3, %8)", "float[N,6,5,5] x", "float[N,8,5,5] y"),
    "groups": ("y = Conv<group = 3>(x, %9x2x3x3, %9)", "float[N,6,5,5] x", "float[N,9,3,3] y"),
    "points": ("y = Conv(x, %16x6x1x1)", "float[N,6,5,5] x", "float[N,16,5,5] y"),
    "product": ("h = MatMul(x, %12x20); y = Add(h, %20)", "float[N,12] x", "float[N,20] y"),
    "transposed product": ("y = Gemm<transB = 1>(x, %20x12, %20)", "float[N,12] x", "float[N,20] y"),
}
ALONE = {"ratio": 0, "latency": False, "storage": "codebook:16"}


def rows_for(model: ModelProto, count: int = 200) -> dict[str, np.ndarray]:
    """Draw inputs that are correlated, of unequal variances, and not of mean zero."""
    draw = np.random.default_rng(7)
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim][1:]
    mixing = draw.standard_normal((shape[0], shape[0])) * np.geomspace(3, 0.1, shape[0])
    rows = np.einsum("nc...,cd->nd...", draw.standard_normal((count, *shape)), mixing) + 0.5
    return {"x": rows.astype(np.float32)}


def with_zeros(model: ModelProto) -> ModelProto:
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.ndim > 1:
            keeps = np.random.default_rng(array.size).random(array.shape) < 0.6
            tensor.CopyFrom(numpy_helper.from_array(array * keeps, tensor.name))
    return model


@pytest.mark.parametrize("layer", LAYERS)
def test_what_a_layer_gives_moves_less_with_data(layer: str) -> None:
    """On rows that decided nothing."""
    body, inputs, outputs = LAYERS[layer]
    model = with_zeros(network(body, inputs, outputs))
    rows = rows_for(model)
    seen, unseen = {"x": rows["x"][:150]}, {"x": rows["x"][150:]}
    expected = run(model, unseen)["y"]
    errors = {}
    for name, data in (("blind", None), ("by data", seen)):
        found = onnxprune.prune(model, calibration=data, repair="none", **ALONE)
        plain = onnxprune.expand(found.model).model
        weights = {t.name: numpy_helper.to_array(t) for t in plain.graph.initializer}
        for tensor in model.graph.initializer:
            array = numpy_helper.to_array(tensor)
            if array.ndim > 1:
                assert ((weights[tensor.name] == 0) >= (array == 0)).all()
                assert len(np.unique(weights[tensor.name])) <= 16
        errors[name] = float(np.square(run(found.model, unseen)["y"] - expected).mean())
    assert errors["by data"] < 0.75 * errors["blind"], errors


def test_the_bias_takes_the_mean() -> None:
    body, inputs, outputs = LAYERS["product"]
    model = network(body, inputs, outputs)
    rows = rows_for(model)
    found = onnxprune.prune(model, calibration=rows, **ALONE).model
    gap = run(found, rows)["y"] - run(model, rows)["y"]
    assert np.abs(gap.mean(0)).max() < 0.3 * gap.std(0).min(), "three quarters of these rows decided"
    before, after = (
        {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer if len(t.dims) == 1}
        for proto in (model, found)
    )
    assert any((before[name] != after[name]).any() for name in before)


def test_a_plan_by_data_needs_the_data() -> None:
    model = network("h = MatMul(x, %24x40); y = MatMul(h, %40x30)", "float[N,24] x", "float[N,30] y")
    rows = rows_for(model)
    found = onnxprune.prune(model, calibration=rows, **ALONE)
    again = onnxprune.apply(found.plan, model, calibration=rows, latency=False)
    assert again.model == found.model
    with pytest.raises(PlanError, match="give the calibration data"):
        onnxprune.apply(found.plan, model, latency=False)
    blind = onnxprune.prune(model, **ALONE)
    assert onnxprune.apply(blind.plan, model, latency=False).model == blind.model
    with pytest.raises(PlanError, match="leave calibration data out"):
        onnxprune.apply(blind.plan, model, calibration=rows, latency=False)


def test_later_layers_make_up_for_earlier_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a second layer is fitted on comes from the first one as it is stored."""
    model = network("h = MatMul(x, %24x40); r = Relu(h); y = MatMul(r, %40x30)", "float[N,24] x", "float[N,30] y")
    rows = rows_for(model, 400)
    seen, unseen = {"x": rows["x"][:300]}, {"x": rows["x"][300:]}
    expected, errors, real = run(model, unseen)["y"], [], snapping.made_up_for
    for refits in (True, False):
        if not refits:
            monkeypatch.setattr(snapping, "made_up_for", lambda old, fitted, *rest: real(old, old, *rest))
        found = onnxprune.prune(model, calibration=seen, **ALONE).model
        errors.append(float(np.square(run(found, unseen)["y"] - expected).mean()))
    assert errors[0] < 0.9 * errors[1], errors


def test_a_tensor_that_takes_the_mean_is_not_snapped() -> None:
    """A bias of two axes, which would be looked at as a matrix is."""
    model = network("h = MatMul(x, %24x300); b = %1x300; y = Add(h, b)", "float[N,24] x", "float[N,300] y")
    found = onnxprune.prune(model, calibration=rows_for(model), **ALONE)
    rows = {row["name"]: row for row in found.report["storage"]}
    assert rows["b"]["form"] == "plain" and found.report["surgery"]["proven"]
    after = next(t for t in found.model.graph.initializer if t.name == "b")
    before = next(t for t in model.graph.initializer if t.name == "b")
    assert (numpy_helper.to_array(after) != numpy_helper.to_array(before)).any()
