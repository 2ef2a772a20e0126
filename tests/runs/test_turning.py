"""Whether streams are turned before they are cut, where the settings leave that to the data."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper
from support.networks import network

import onnxprune

LAYER = "{0}g = %+16; {0}b = %16; {0}n = LayerNormalization({1}, {0}g, {0}b); "
X = "float[N,4,5] x"
ROWS = {"x": np.random.default_rng(1).standard_normal((256, 4, 5)).astype(np.float32)}
HALF = {"round_to": 1, "latency": False, "include": ["w0"], "ratio": 0.5}


def stream_of_few_directions(along_channels: bool) -> ModelProto:
    """Return a network whose stream of 16 channels uses six directions: those of channels, or others."""
    text = "w0 = %5x16; x0 = MatMul(x, w0); {}w2 = %16x16; h = MatMul(an, w2); e = Add(x0, h); {}wy = %16x3; y = MatMul(zn, wy)"
    model = network(text.format(LAYER.format("a", "x0"), LAYER.format("z", "e")), X, "float[N,4,3] y", opset=18)
    draw = np.random.default_rng(5)
    basis = np.eye(16)[:, :6] if along_channels else np.linalg.qr(draw.standard_normal((16, 6)))[0]
    for tensor in model.graph.initializer:
        if tensor.name in ("w0", "w2"):
            inside = numpy_helper.to_array(tensor) @ basis @ basis.T
            tensor.CopyFrom(numpy_helper.from_array(inside.astype(np.float32), tensor.name))
    return model


def kinds(result: onnxprune.Result) -> list[str]:
    return [row["kind"] for row in result.report["steps"]]


def test_data_says_that_streams_are_turned() -> None:
    """What is written is what ``rotate`` alone would have written, and its plan says so."""
    model = stream_of_few_directions(along_channels=False)
    found = onnxprune.prune(model, calibration=ROWS, **HALF)
    assert kinds(found) == ["rotate", "units"]
    plain, turned = found.report["rotation"]
    assert turned["chosen"] and not plain["chosen"] and turned["divergence"] < 0.1 * plain["divergence"]
    assert onnxprune.prune(model, calibration=ROWS, rotate=True, **HALF).model == found.model
    assert onnxprune.apply(found.plan, model, calibration=ROWS, latency=False).model == found.model


WHOLE = {
    "by weights alone": {},
    "asked not to": {"calibration": ROWS, "rotate": False},
    "by scores": {"calibration": ROWS, "criterion": "wanda"},
    "a kind of its own": {"calibration": ROWS, "granularity": ["eigen"], "include": []},
}


@pytest.mark.parametrize("case", WHOLE, ids=str)
def test_nothing_is_tried(case: str) -> None:
    found = onnxprune.prune(stream_of_few_directions(along_channels=False), **(HALF | WHOLE[case]))
    assert "rotate" not in kinds(found) and "rotation" not in found.report


def test_nothing_is_turned_where_nothing_can_be() -> None:
    model = network("p = Conv(x, %8x3x1x1); r = Relu(p); y = Conv(r, %4x8x1x1)")
    size = [d.dim_value or 1 for d in model.graph.input[0].type.tensor_type.shape.dim]
    rows = {"x": np.random.default_rng(0).standard_normal((32, *size[1:])).astype(np.float32)}
    found = onnxprune.prune(model, calibration=rows, ratio=0.5, round_to=1, latency=False)
    assert kinds(found) == ["units"] and "rotation" not in found.report and not found.report["warnings"]


@pytest.mark.parametrize("aim", [{"target": "macs=60%"}, {"target": "params=60%"}, {"max_divergence": 0.2}], ids=str)
def test_targets_of_every_kind_are_tried(aim: dict) -> None:
    found = onnxprune.prune(
        stream_of_few_directions(along_channels=False), calibration=ROWS, **(HALF | {"ratio": None} | aim)
    )
    assert [way["rotate"] for way in found.report["rotation"]] == [False, True]
    assert kinds(found)[-1] == "units"
