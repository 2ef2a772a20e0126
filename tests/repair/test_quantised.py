"""Weights that are stored as integers or in 16 bits: read as floats, repaired, written back on the grid they came from."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from support.networks import feeds, network

import onnxprune
from onnxprune.evidence.rows import Sampler
from onnxprune.model import read
from onnxprune.model.facts import gather_facts
from onnxprune.model.graph import Graph
from onnxprune.model.runtime import session
from onnxprune.repair.linear import Linear, as_linear
from onnxprune.repair.rounding import rounded
from onnxprune.repair.stored import Encoding, IntegerGrid, Stored, limits

# --- how constants are stored -----------------------------------------------------------------------------------------

DTYPES = [np.dtype(np.int8), np.dtype(np.uint8), np.dtype(np.int32), helper.tensor_dtype_to_np_dtype(TensorProto.INT4)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_grid_reads_what_it_wrote_and_stays_within_its_type(dtype):
    grid = IntegerGrid.of(np.float32([0.5, 2.0]), np.int8([1, -1]) if dtype.name[0] == "i" else None, 2, 0)
    low, high = limits(dtype)
    inside = grid.read(np.array([[0, 1, 5], [2, 3, 0]], dtype))
    assert np.array_equal(grid.read(grid.nearest(inside, dtype)), inside)
    far = grid.nearest(np.array([[1e12, -1e12, 0], [1e13, 0.0, -1e13]]), dtype).astype(np.int64)
    assert [far[0, 0], far[0, 1], far[1, 0], far[1, 2]] == [high, low, high, low]


def test_a_position_that_is_scaled_by_zero_gets_the_zero_point():
    grid = IntegerGrid.of(np.float32([0.0, 1.0]), np.uint8([7, 9]), 2, 0)
    assert grid.nearest(np.ones((2, 2)), np.dtype(np.uint8)).tolist() == [[7, 7], [10, 10]]


def test_floats_are_rounded_to_the_type_they_are_stored_in():
    like = np.zeros(1, helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16))
    written = Encoding("w").write(np.array([1 + 2**-9]), like)
    assert written.dtype == like.dtype and Encoding("w").read(written)[0] == 1.0


def _grid(outputs: int, inputs: int, scale: float) -> IntegerGrid:
    return IntegerGrid(np.full((outputs, inputs), scale), np.zeros((outputs, inputs)))


def test_inputs_still_to_come_make_up_for_rounding_by_hand():
    """Two inputs that are nearly one: what the first, which varies more, loses the second takes on."""
    gram = np.array([[1.0001, 1.0], [1.0, 1.0]])
    found = rounded(np.array([[0.4, 0.4]]), gram, 1e-6, _grid(1, 2, 1.0), np.dtype(np.int8))
    assert found.tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("scale", [0.5, 0.01])
def test_rounding_one_after_the_other_beats_rounding_each(scale, dtype):
    """Where ends of the type cut weights off too; on the grid in any case."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((400, 6)) @ rng.standard_normal((6, 90)) + 0.1 * rng.standard_normal((400, 90))
    gram, weights = rows.T @ rows / 400, rng.standard_normal((5, 90))
    grid = _grid(5, 90, scale)
    zero = IntegerGrid(grid.scale, grid.zero + (100 if dtype == np.uint8 else 0))
    found = rounded(weights, gram.copy(), 1e-2, zero, np.dtype(dtype))
    nearest = zero.read(zero.nearest(weights, np.dtype(dtype)))
    assert np.array_equal(zero.read(zero.nearest(found, np.dtype(dtype))), found)
    errors = [np.einsum("od,de,oe->", w - weights, gram, w - weights) for w in (found, nearest)]
    assert errors[0] < 0.5 * errors[1]


CONSTANTS = {
    "per tensor": ("w = %4x6:int8; d = DequantizeLinear(w, @0.5, @3:int8)", "w"),
    "per column": ("w = %4x6:uint8; s = %+6; z = %6:uint8; d = DequantizeLinear<axis = 1>(w, s, z)", "w"),
    "per row": ("w = %4x6:int8; s = %+4; d = DequantizeLinear<axis = 0>(w, s)", "w"),
    "blocked": ("w = %4x6:int8; s = %+2x6; d = DequantizeLinear<axis = 0, block_size = 2>(w, s)", "w"),
    "float16": ("w = %4x6:float16; d = Cast<to = 1>(w)", "w"),
    "bfloat16": ("w = %4x6:bfloat16; d = Cast<to = 1>(w)", "w"),
    "both": ("w = %4x6:int8; h = DequantizeLinear(w, @0.5:float16); d = Cast<to = 1>(h)", "w"),
}


def _stored(model: ModelProto) -> Stored:
    return Stored.of(read.load(model), Graph(model))


@pytest.mark.parametrize("case", CONSTANTS)
def test_a_constant_is_what_the_runtime_makes_of_it(case):
    body, name = CONSTANTS[case]
    model = network(f"{body}; y = MatMul(x, d)", "float[4,4] x")
    stored = _stored(model)
    encoding = stored.encoding("d")
    made = encoding.read(stored.arrays[encoding.name])
    assert encoding.name == name
    np.testing.assert_allclose(session(model).run({"x": np.eye(4, dtype=np.float32)})["y"], made, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(stored.content("d"), made)
    again = encoding.write(made, stored.arrays[name])
    assert again.dtype == stored.arrays[name].dtype and np.array_equal(again, stored.arrays[name])


@pytest.mark.parametrize(
    "body",
    [
        "w = %4x4:int8; d = DequantizeLinear(w, @0.5); h = MatMul(x, d); y = MatMul(h, d)",  # two nodes read it
        "w = %4x4:int8; d = DequantizeLinear(w, @0.5); e = DequantizeLinear(w, @0.25); h = MatMul(x, d); y = MatMul(h, e)",
        "m = ReduceMax<keepdims=0>(x); w = %4x4:int8; d = DequantizeLinear(w, m); y = MatMul(x, d)",  # its scale is computed
        "i = Cast<to=6>(x); h = MatMul(i, %4x4:int32); y = Cast<to=1>(h)",  # integers that stand for themselves
    ],
)
def test_what_cannot_be_written_alone_is_left(body):
    model = network(body, "float[4,4] x")
    graph = Graph(model)
    facts = gather_facts(read.load(model), graph)
    assert not any(as_linear(node, Stored.of(facts.model, graph), facts) for node in graph.top)


# --- nodes that multiply integers -------------------------------------------------------------------------------------

SHAPES = {"Conv": [2, 4, 5, 5], "Mat": [3, 2, 4], "Gemm": [5, 4]}
DYNAMIC = "q, s, z = DynamicQuantizeLinear(x); "
STATIC = "q = QuantizeLinear(x, @0.02, @128:uint8); "
INTEGER_NODES = {
    "MatMulInteger": (
        DYNAMIC
        + "w = %4x6:int8; n = MatMulInteger(q, w, z); c = Cast<to=1>(n); m = Mul(s, @0.03); p = Mul(c, m); y = Add(p, %6)"
    ),
    "MatMulInteger, per column": (
        DYNAMIC
        + "w = %4x6:uint8; n = MatMulInteger(q, w, z, %6:uint8); c = Cast<to=1>(n); m = Mul(s, %+6); y = Mul(c, m)"
    ),
    "ConvInteger": (
        DYNAMIC + "w = %6x4x3x3:uint8; n = ConvInteger<pads=[1,1,1,1]>(q, w, z, @100:uint8); c = Cast<to=1>(n); "
        "m = Mul(s, @0.03); p = Mul(c, m); b = %6; r = Reshape(b, @[1, 6, 1, 1]); y = Add(p, r)"
    ),
    "ConvInteger, bias among integers": (
        DYNAMIC
        + "w = %6x4x3x3:uint8; n = ConvInteger(q, w, z, @100:uint8); k = @0.03; m = Mul(s, k); b = %6; d = Div(b, m); "
        "f = Floor(d); i = Cast<to=6>(f); r = Reshape(i, @[1, 6, 1, 1]); a = Add(n, r); c = Cast<to=1>(a); e = Mul(s, k); "
        "y = Mul(c, e)"
    ),
    "QLinearConv": (
        STATIC + "w = %6x2x3x3:int8; ws = %+6; b = %6:int32; "
        "y = QLinearConv<pads=[1,1,1,1], group=2>(q, @0.02, @128:uint8, w, ws, @0:int8, @2.5, @128:uint8, b)"
    ),
    "QLinearMatMul": (
        STATIC + "w = %4x6:int8; y = QLinearMatMul(q, @0.02, @128:uint8, w, @0.1, @0:int8, @0.04, @128:uint8)"
    ),
    "QGemm": (
        STATIC + "w = %6x4:int8; b = %6:int32; "
        "y = com.microsoft.QGemm<transB=1>(q, @0.02, @128:uint8, w, @0.1, @0:int8, b, @0.04, @128:uint8)"
    ),
    "DynamicQuantizeMatMul": ("w = %4x6:int8; y = com.microsoft.DynamicQuantizeMatMul(x, w, @0.03, @0:int8, %6)"),
    "MatMulIntegerToFloat": (
        DYNAMIC + "w = %4x6:int8; y = com.microsoft.MatMulIntegerToFloat(q, w, s, @0.03, z, @0:int8, %6)"
    ),
}


def _linear(case: str) -> tuple[ModelProto, Linear, Stored]:
    shape = next(shape for op, shape in SHAPES.items() if op in case)
    domains = {"com.microsoft": 1} if "com.microsoft" in INTEGER_NODES[case] else None
    kind = "uint8" if case[0] == "Q" else "float"
    model = network(INTEGER_NODES[case], f"float[{','.join(map(str, shape))}] x", f"{kind}[] y", domains=domains)
    graph = Graph(model)
    facts = gather_facts(read.load(model), graph)
    stored = Stored.of(facts.model, graph)
    found = [linear for node in graph.top if (linear := as_linear(node, stored, facts)) is not None]
    assert len(found) == 1
    return model, found[0], stored


@pytest.mark.parametrize("case", INTEGER_NODES)
def test_rows_matrix_and_offset_give_what_the_integers_stand_for(case):
    """As near as the steps of the activations allow."""
    model, linear, stored = _linear(case)
    wanted = [name for name in {linear.source, linear.output} - {"x"}]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name != "y")
    feed = feeds(model)
    values = feed | session(model).run(feed)
    sampler = Sampler(feed["x"].shape[0], positions=1000)
    weight = linear.matrix(stored.arrays[linear.weight])
    rows = linear.rows(values[linear.source], sampler)
    made = np.moveaxis(rows @ weight.swapaxes(1, 2) + linear.offset(stored)[:, None], 0, 1)
    expected = linear.sought(linear.output).rows(values[linear.output], sampler)
    made = made.reshape(expected.shape)
    gives = linear.operands.gives
    if gives is not None:
        low, high = gives.read(np.array([0, 255]))
        made = np.clip(made, low, high)
    assert np.abs(made - expected).max() < 0.03 * np.abs(expected).max()
    assert np.array_equal(linear.stored(weight, stored.arrays[linear.weight]), stored.arrays[linear.weight])


@pytest.mark.parametrize(
    "case", ["MatMulInteger", "ConvInteger", "ConvInteger, bias among integers", "QLinearConv", "QGemm"]
)
def test_an_intercept_goes_into_the_bias_as_it_is_stored(case):
    _, linear, stored = _linear(case)
    old, change = stored.arrays[linear.bias], np.full((linear.groups, 6 // linear.groups), 1.0)
    moved = linear.shifted(old, change)
    assert moved.dtype == old.dtype and moved.shape == old.shape
    gained = linear.shift.read(moved) - linear.shift.read(old)
    np.testing.assert_allclose(gained.reshape(-1), 1.0, atol=0.05)


# --- whole models -----------------------------------------------------------------------------------------------------

BODY = """
    a = Conv<pads=[1,1,1,1]>(x, %16x4x3x3, %16); b = Relu(a); c = Conv<pads=[1,1,1,1]>(b, %12x16x3x3, %12); d = Relu(c)
    e = Conv(d, %12x12x1x1, %12); f = Add(d, e); g = Relu(f); h = GlobalAveragePool(g); i = Flatten(h); y = Gemm(i, %12x5, %5)
"""
Maker = Callable[[Path, Path], object]


@cache
def _images() -> np.ndarray:
    rng = np.random.default_rng(0)
    mixed = rng.standard_normal((96, 3, 36)) @ rng.standard_normal((3, 3, 36, 12)).sum(0)[0][:, :12].repeat(3, 1)
    return (mixed[:, :1] * rng.standard_normal((96, 4, 1)) + 0.5 * mixed[:, 1:2]).reshape(96, 4, 6, 6).astype(
        np.float32
    ) / 6


class _Reader(CalibrationDataReader):
    def __init__(self) -> None:
        self._rows = iter([{"x": image[None]} for image in _images()])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._rows, None)


def _static(layout: QuantFormat, per_channel: bool, activations: QuantType = QuantType.QInt8) -> Maker:
    return lambda source, target: quantize_static(
        source, target, _Reader(), quant_format=layout, per_channel=per_channel, activation_type=activations
    )


def _sixteen(kind: int) -> Maker:
    """Matrices and kernels stored in 16 bits, from which a Cast beside each makes floats."""

    def store(source: Path, target: Path) -> None:
        model = onnx.load(source)
        matrices = [tensor for tensor in model.graph.initializer if len(tensor.dims) > 1]
        for place, tensor in enumerate(matrices):
            name, array = f"{tensor.name}_stored", numpy_helper.to_array(tensor)
            model.graph.node.insert(place, helper.make_node("Cast", [name], [tensor.name], to=TensorProto.FLOAT))
            tensor.CopyFrom(numpy_helper.from_array(array.astype(helper.tensor_dtype_to_np_dtype(kind)), name))
        onnx.save(model, target)

    return store


FORMS: dict[str, Maker] = {
    "QDQ": _static(QuantFormat.QDQ, False),
    "QDQ, per channel": _static(QuantFormat.QDQ, True),
    "QOperator": _static(QuantFormat.QOperator, True, QuantType.QUInt8),
    "dynamic": lambda source, target: quantize_dynamic(source, target),
    "float16": _sixteen(TensorProto.FLOAT16),
    "bfloat16": _sixteen(TensorProto.BFLOAT16),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("quantised")
    onnx.save(network(BODY, "float[n,4,6,6] x", "float[n,5] y", opset=17, ir_version=8), folder / "float.onnx")

    @cache
    def make(form: str) -> Path:
        path = folder / f"{form}.onnx"
        FORMS[form](folder / "float.onnx", path)
        return path

    return make


def _outputs(model: Path) -> np.ndarray:
    opened = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    return opened.run(None, {"x": _images()})[0]


def _contents(model: Path) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(model).graph.initializer}


def _pruned(source: Path, output: Path, **settings: object) -> onnxprune.Result:
    plan = {"ratio": 0.4, "criterion": "l2"} | settings
    return onnxprune.prune(source, output=output, calibration=_images(), latency=False, round_to=1, **plan)


@pytest.mark.parametrize("form", FORMS)
def test_repair_brings_a_quantised_model_nearer_on_its_own_grid(form, made, tmp_path):
    source, (plain, repaired) = made(form), (tmp_path / "plain.onnx", tmp_path / "repaired.onnx")
    _pruned(source, plain, repair="none")
    result = _pruned(source, repaired, repair="least-squares")
    wanted = _outputs(source)
    before, after = (np.square(_outputs(path) - wanted).mean() for path in (plain, repaired))
    assert after < 0.5 * before
    assert not any("quantised" in text for text in result.report["warnings"])
    kept, old, new = _contents(source), _contents(plain), _contents(repaired)
    assert {name: (a.dtype, a.shape) for name, a in old.items()} == {
        name: (a.dtype, a.shape) for name, a in new.items()
    }
    changed = {name for name, array in old.items() if not np.array_equal(array, new[name])}
    narrow = {name for name in changed if old[name].dtype.itemsize < 4 and old[name].ndim > 1}
    assert len(narrow) >= 3 and changed <= kept.keys()
    assert not any("scale" in name or "zero_point" in name for name in changed)


@pytest.mark.parametrize("form", ["QDQ, per channel", "QOperator", "dynamic"])
def test_equal_runs_give_equal_bytes(form, made, tmp_path):
    files = [tmp_path / f"{number}.onnx" for number in range(2)]
    for path in files:
        _pruned(made(form), path, ratio=None, target="macs=60%", criterion="auto")
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("form", ["QDQ", "QOperator", "dynamic"])
def test_widths_are_chosen_by_what_quantised_readers_lose(form, made, tmp_path):
    """The weights that a search has found on the way are those that are written."""
    result = _pruned(made(form), tmp_path / "small.onnx", ratio=None, target="macs=60%", criterion="auto")
    found = result.report["repair"]["divergence"]
    assert found["least-squares"] < 0.6 * found["none"]
    assert not any("no weight reads" in text for text in result.report["warnings"])


def test_weights_go_through_the_steps_of_a_schedule(made, tmp_path):
    source, wanted = made("QDQ, per channel"), _outputs(made("QDQ, per channel"))
    errors = []
    for repair in ("none", "least-squares"):
        path = tmp_path / f"{repair}.onnx"
        _pruned(source, path, repair=repair, schedule="linear:2")
        errors.append(np.square(_outputs(path) - wanted).mean())
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sparsity", ["0.5", "2:4"])
def test_zeros_stay_zeros_on_the_grid(form, sparsity, made, tmp_path):
    """Weights that go are the grid's zero, those that stay are numbers of the same type, and what is left is nearer than without a refit."""
    source, whole, apart = made(form), _outputs(made(form)), []
    for repair in ("auto", "none"):
        out = tmp_path / f"{repair}.onnx"
        found = onnxprune.prune(
            source, output=out, sparsity=sparsity, repair=repair, criterion="l1", calibration=_images(), latency=False
        )
        apart.append(float(np.square(_outputs(out) - whole).mean()))
        before, after = _contents(source), _contents(out)
        assert found.report["surgery"]["proven"] and len(found.masks) >= 3
        for name, left in found.masks.items():
            zero = after[name.replace("_quantized", "_zero_point")] if name.endswith("_quantized") else np.zeros(1)
            nothing = after[name].astype(np.float64) == (zero.astype(np.float64).reshape(-1)[0])
            assert after[name].dtype == before[name].dtype and nothing[~left].all()
            assert left.mean() == pytest.approx(0.5, abs=0.03)
    assert apart[0] <= 1.02 * apart[1]  # judged on rows held out
