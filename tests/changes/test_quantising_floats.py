"""What is done to the float model around the quantiser: channels made alike, which changes nothing, and biases that make up for rounding."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto, numpy_helper
from support.networks import network

from onnxprune.changes.analysing import facts_of
from onnxprune.changes.quantising.correcting import bias_corrected
from onnxprune.changes.quantising.equalising import LARGEST, equalisable, rescaled, scales_by
from onnxprune.changes.quantising.nearness import dequantised, weight_error
from onnxprune.coupling.groups import Analysis, analyse
from onnxprune.data import input_specs, open_dataset
from onnxprune.means import Means
from onnxprune.model.model import Model
from onnxprune.model.quantiser import Quantiser, Rounding8
from onnxprune.settings import Settings

ROWS = np.random.default_rng(1).standard_normal((16, 3, 8, 8)).astype(np.float32)
LAYERS = "p = Conv(x, %8x3x3x3, %8); {} y = Conv(r, %5x8x1x1, %5)"
PASSING = {
    "relu": "r = Relu(p);",
    "leaky relu": "r = LeakyRelu<alpha = 0.1>(p);",
    "slopes": "r = PRelu(p, %8x1x1);",
    "pools": "a = MaxPool<kernel_shape = [2, 2]>(p); r = AveragePool<kernel_shape = [2, 2]>(a);",
    "a residual sum": "a = Relu(p); b = Conv<pads = [1, 1, 1, 1]>(a, %8x8x3x3, %8); s = Add(a, b); r = Relu(s);",
    "a depthwise convolution": "a = Relu(p); b = Conv<group = 8>(a, %8x1x3x3, %8); r = Relu(b);",
    "zeros around": "a = Relu(p); r = Pad(a, @[0, 0, 1, 1, 0, 0, 1, 1]);",
    "a factor": "a = Mul(p, %8x1x1); r = Relu(a);",
    "a part": "a = Relu(p); r = Slice(a, @[0], @[4], @[2]);",
}
BENDING = {
    "sigmoid": "r = Sigmoid(p);",
    "clip": "r = Clip(p, @0.0, @6.0);",
    "a sum with the input's": "a = ReduceMean<keepdims = 1>(x, @[1, 2, 3]); r = Add(p, a);",
    "a product of channels": "a = Relu(p); b = GlobalAveragePool(a); r = Mul(a, b);",
    "a norm": "r = InstanceNormalization(p, %8, %8);",
    "softmax": "r = Softmax<axis = 1>(p);",
}


def analysis_of(model: ModelProto) -> Analysis:
    return analyse(facts_of(Model.of(model), Settings()))


def layers(between: str) -> ModelProto:
    return network(LAYERS.format(between), "float[N,3,8,8] x")


def rows_for(model: ModelProto) -> object:
    return open_dataset({"x": ROWS}, input_specs(model))


def run(model: Model) -> np.ndarray:
    return ort.InferenceSession(model.proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, {"x": ROWS}
    )[0]


@pytest.mark.parametrize("by", ["weights", "values"])
@pytest.mark.parametrize("between", PASSING.values(), ids=PASSING.keys())
def test_channels_between_layers_are_scaled_without_a_trace(between: str, by: str) -> None:
    model = layers(between)
    analysis = analysis_of(model)
    groups = equalisable(analysis)
    assert len(groups) == 1 and groups[0].width == 8, "the channels of p"
    scales = {groups[0].index: np.exp2(np.arange(8) - 3.0)}
    np.testing.assert_allclose(
        run(rescaled(analysis, scales, list(scales))), run(analysis.facts.model), rtol=2e-5, atol=2e-5
    )
    found = scales_by(by, analysis, rows_for(model), Means())
    assert all(
        np.log2(scale).is_integer() if np.isscalar(scale) else (np.log2(scale) % 1 == 0).all()
        for scale in found.values()
    )
    np.testing.assert_allclose(
        run(rescaled(analysis, found, list(found))), run(analysis.facts.model), rtol=2e-5, atol=2e-5
    )


@pytest.mark.parametrize("between", BENDING.values(), ids=BENDING.keys())
def test_what_is_not_homogeneous_is_left_alone(between: str) -> None:
    assert equalisable(analysis_of(layers(between))) == ()


def test_scales_by_hand() -> None:
    """Channel 0 is written 16 times as large as it is read, channel 1 alike, channel 2 a 16th: sqrt of the ratio, about the median."""
    model = network(
        "a = MatMul(x, w); r = Relu(a); y = MatMul(r, v)\nw = %2x3\nv = %3x2", "float[N,2] x", "float[N,2] y"
    )
    arrays = {"w": [[1, 0.25, 0.0625], [0, 0, 0]], "v": [[0.0625, 0], [0.25, 0], [1, 0]]}
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(np.array(arrays[tensor.name], np.float32), tensor.name))
    analysis = analysis_of(model)
    scales = scales_by("weights", analysis, None, Means())
    assert {name: scale.tolist() for name, scale in scales.items()} == {0: [4.0, 1.0, 0.25]}
    alike = rescaled(analysis, scales, [0]).weights
    assert np.asarray(alike["w"].read())[0].tolist() == [0.25, 0.25, 0.25]
    assert np.asarray(alike["v"].read())[:, 0].tolist() == [0.25, 0.25, 0.25]


def test_a_channel_of_zeros_and_large_ratios_do_no_harm() -> None:
    model = layers(PASSING["relu"])
    kernel = next(t for t in model.graph.initializer if list(t.dims) == [8, 3, 3, 3])
    array = numpy_helper.to_array(kernel).copy()
    array[0], array[1] = 0, array[1] * 1e-12
    kernel.CopyFrom(numpy_helper.from_array(array, kernel.name))
    (scale,) = scales_by("weights", analysis_of(model), None, Means()).values()
    assert scale[0] == 1 and scale[1] == 2.0**-LARGEST


def test_equal_channels_per_tensor_lose_less() -> None:
    """What the paper shows: scales per tensor fit channels of one size."""
    model = layers(PASSING["relu"])
    kernel, reader = (
        next(t for t in model.graph.initializer if list(t.dims) == dims) for dims in ([8, 3, 3, 3], [5, 8, 1, 1])
    )
    factors = np.exp2(np.arange(8.0) - 4).astype(np.float32)
    for tensor, form in ((kernel, factors[:, None, None, None]), (reader, 1 / factors[None, :, None, None])):
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * form, tensor.name))
    analysis = analysis_of(model)
    errors = []
    for floats in (
        analysis.facts.model,
        rescaled(analysis, scales := scales_by("weights", analysis, None, Means()), list(scales)),
    ):
        with Quantiser(floats) as own:
            made = own.static(Rounding8(), own.ranges("minmax", [{"x": ROWS}]))
        errors.append(float(np.abs(run(made) - run(floats)).mean()))
    assert errors[1] < errors[0] / 3


# --- biases -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "y = Conv(x, %8x3x3x3, %8)",
        "y = Conv(x, %8x3x3x3)",
        "f = Flatten(x); y = Gemm<transB = 1>(f, %6x192, %6)",
        "f = Flatten(x); y = Gemm(f, %192x6)",
        "m = MatMul(x, %8x6); y = Add(m, %6)",
    ],
)
def test_biases_make_up_for_the_mean_of_what_rounding_changes(body: str) -> None:
    """Weights are rounded, values are not: the mean of every output channel is the float model's again."""
    floats = Model.of(network(body, "float[N,3,8,8] x"))
    rows = [
        {"x": ROWS[:8] + np.float32(2)},
        {"x": ROWS[8:] + np.float32(2)},
    ]  # what has no mean has nothing to make up for
    with Quantiser(floats) as own:
        rounded = own.static(Rounding8(), own.ranges("minmax", rows))
    (name,) = (n for n, t in floats.weights.items() if len(t.shape) > 1)
    (near,) = dequantised(rounded, name, floats.weights[name].shape)
    better = bias_corrected(floats, rounded, rows)
    assert len(better.weights) == len(floats.weights) + ("%8x3x3x3)" in body or "%192x6)" in body)
    coarse = [model.replaced({name: near.astype(np.float32)}) for model in (floats, better)]
    axis = (0, 2, 3) if "Conv" in body else (0,) if "Gemm" in body else (0, 1, 2)
    session = [
        ort.InferenceSession(m.proto.SerializeToString(), providers=["CPUExecutionProvider"]) for m in (floats, *coarse)
    ]
    want, plain, made_up = (np.mean([s.run(None, feed)[0].mean(axis=axis) for feed in rows], axis=0) for s in session)
    assert np.abs(plain - want).max() > 50 * np.abs(made_up - want).max()


def test_a_bias_that_others_read_stays_theirs() -> None:
    body = "p = Conv<pads = [1, 1, 1, 1]>(x, %3x3x3x3, b); r = Relu(p); y = Conv(r, %3x3x3x3, b)\nb = %3"
    floats = Model.of(network(body, "float[N,3,8,8] x"))
    with Quantiser(floats) as own:
        rounded = own.static(Rounding8(), own.ranges("minmax", [{"x": ROWS}]))
    better = bias_corrected(floats, rounded, [{"x": ROWS}])
    biases = [node.input[2] for node in better.structure.graph.node if node.op_type == "Conv"]
    assert len(set(biases)) == 2 and "b" not in better.weights


def test_errors_of_weights_by_hand() -> None:
    floats = Model.of(network("y = MatMul(x, w)\nw = %1x2", "float[N,1] x", "float[N,2] y"))
    floats = floats.replaced({"w": np.array([[3.0, 4.0]], np.float32)})
    parts = {
        "w_quantized": np.array([[3, 5]], np.int8),
        "w_scale": np.array(1, np.float32),
        "w_zero_point": np.array(0, np.int8),
    }
    proto = floats.proto
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in parts.items())
    assert weight_error(floats, Model.of(proto)) == pytest.approx(1 / 25)
    assert weight_error(floats, floats) == np.inf
