"""``--quantize``: 8 bits as the last step of a run, by the recipe that loses least, never worse than ONNX Runtime's own by hand."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from support.networks import network

import onnxprune
from onnxprune.changes.plan import from_json
from onnxprune.changes.quantising.nearness import dequantised
from onnxprune.errors import DataError, ModelError, PlanError, UsageError
from onnxprune.model.model import Model
from onnxprune.model.quantiser import Quantiser, Rounding8, fused

BODY = (
    "p = Conv<pads=[1,1,1,1]>(x, %8x3x3x3); b = BatchNormalization(p, %+8, %8, %8, %+8); r = Relu(b); "
    "q = Conv(r, %16x8x3x3, %16); s = Relu(q); f = GlobalAveragePool(s); g = Flatten(f); y = Gemm<transB=1>(g, %5x16, %5)"
)
X = "float[N,3,9,9] x"
ROWS = np.random.default_rng(2).standard_normal((48, 3, 9, 9)).astype(np.float32)
DATA = {"x": ROWS}
ALONE = {"ratio": 0, "latency": False}


def small_network(opset: int = 17, body: str = BODY, **how: object) -> ModelProto:
    return network(body, X, "float[N,5] y", opset=opset, ir_version={11: 6, 12: 7, 13: 7, 17: 8}.get(opset, 8), **how)


def run(model: ModelProto | bytes | str, rows: np.ndarray = ROWS) -> np.ndarray:
    content = model.SerializeToString() if isinstance(model, ModelProto) else model
    return ort.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, {"x": rows})[0]


def recipe_of(found: onnxprune.Result, **wanted: object) -> dict:
    return next(row for row in found.report["quantisation"]["candidates"] if wanted.items() <= row.items())


class Reader:
    def __init__(self, rows: np.ndarray, size: int = 16):
        self.rows = [rows[start : start + size] for start in range(0, len(rows), size)]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return {"x": self.rows.pop(0)} if self.rows else None


@pytest.fixture(scope="module")
def chosen() -> onnxprune.Result:
    return onnxprune.prune(small_network(), quantize="int8", calibration=DATA, **ALONE)


# --- the quantiser --------------------------------------------------------------------------------------------------


def by_hand(model: ModelProto, folder: Path, per_channel: bool, signed: bool) -> onnx.ModelProto:
    """Return what ONNX Runtime's functions give where they are called as its documentation does."""
    paths = [str(folder / name) for name in ("float.onnx", "pre.onnx", "int8.onnx")]
    onnx.save(model, paths[0])
    quant_pre_process(paths[0], paths[1], skip_symbolic_shape=True)
    values = QuantType.QInt8 if signed else QuantType.QUInt8
    with contextlib.redirect_stdout(io.StringIO()):
        quantize_static(paths[1], paths[2], Reader(ROWS), per_channel=per_channel, activation_type=values)
    return onnx.load(paths[2])


@pytest.mark.parametrize(("per_channel", "signed"), [(False, True), (True, False)])
def test_it_is_quantize_static_number_for_number(tmp_path: Path, per_channel: bool, signed: bool) -> None:
    """Called once for the ranges, once for the integers, so that several recipes share what a pass over the data showed."""
    model = small_network()
    theirs = by_hand(model, tmp_path, per_channel, signed)
    with Quantiser(fused(Model.of(model))) as quantiser:
        ranges = quantiser.ranges("minmax", [{"x": ROWS[start : start + 16]} for start in range(0, 48, 16)])
        ours = quantiser.static(Rounding8(per_channel, signed), ranges).proto
    assert [node.op_type for node in ours.graph.node] == [node.op_type for node in theirs.graph.node]
    want = {tensor.name: numpy_helper.to_array(tensor) for tensor in theirs.graph.initializer}
    have = {tensor.name: numpy_helper.to_array(tensor) for tensor in ours.graph.initializer}
    assert want.keys() == have.keys()
    for name, array in want.items():
        np.testing.assert_array_equal(have[name], array)
    np.testing.assert_array_equal(run(ours), run(theirs))


def test_it_is_quantize_dynamic_number_for_number(tmp_path: Path) -> None:
    model = network(
        "m = MatMul(x, %12x20); r = Relu(m); y = MatMul(r, %20x6)",
        "float[N,12] x",
        "float[N,6] y",
    )
    onnx.save(model, tmp_path / "float.onnx")
    quantize_dynamic(tmp_path / "float.onnx", tmp_path / "theirs.onnx", per_channel=True)
    with Quantiser(Model.of(model)) as quantiser:
        ours = quantiser.dynamic(Rounding8(True, True)).proto
    rows = np.random.default_rng(0).standard_normal((4, 12)).astype(np.float32)
    np.testing.assert_array_equal(run(ours, rows), run(onnx.load(tmp_path / "theirs.onnx"), rows))


def test_nothing_is_printed_logged_or_left(
    tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    handlers = list(logging.root.handlers)
    for mode in ("int8", "dynamic"):
        onnxprune.prune(small_network(), quantize=mode, calibration=DATA, **ALONE)
    told = capfd.readouterr()
    assert told.out == "" and "pre-process" not in told.err
    assert logging.root.handlers == handlers and os.listdir(tmp_path) == []


# --- one command ----------------------------------------------------------------------------------------------------


def test_prune_and_quantise_in_one_run(tmp_path: Path) -> None:
    out = tmp_path / "small.onnx"
    found = onnxprune.prune(small_network(), ratio=0.5, quantize="int8", calibration=DATA, latency=False, output=out)
    report = found.report
    assert [step["kind"] for step in report["steps"]] == ["units", "quantize"]
    assert report["surgery"]["proven"] and report["after"]["bytes"] == out.stat().st_size
    assert all(row["status"] == "quantised" and row["reason"] is None for row in report["quantised"])
    told = report["quantisation"]
    assert told["float"]["bytes"] > report["after"]["bytes"] or report["after"]["bytes"] < report["before"]["bytes"]
    # drift is of the file; what pruning alone lost stands beside it
    original, written = run(small_network()), run(str(out))
    drift = report["drift"]["outputs"]["y"]
    assert drift["max_abs"] == pytest.approx(float(np.abs(original - written).max()), rel=1e-5)
    assert told["float"]["drift"]["outputs"]["y"]["max_abs"] != drift["max_abs"]


def test_never_worse_than_by_hand(chosen: onnxprune.Result) -> None:
    """The plain recipe is among those tried, and the chosen one has not more of what they are judged by."""
    rows = chosen.report["quantisation"]["candidates"]
    best = recipe_of(chosen, chosen=True)
    costs = {row["recipe"]: row["cost"] for row in rows}
    assert best["cost"] <= 1.05 * min(
        cost for name, cost in costs.items() if "int8 values" not in name or "uint8" in name
    )
    assert best["cost"] <= costs["minmax, weights per tensor, uint8 values"]
    assert costs["minmax, weights per tensor, int8 values"] is not None, "what quantize_static does unasked"
    assert sum(row["chosen"] for row in rows) == 1


def test_nothing_to_remove(chosen: onnxprune.Result) -> None:
    assert [step["kind"] for step in chosen.report["steps"]] == ["quantize"]
    assert chosen.report["settings"]["ratio"] == 0
    step = chosen.report["steps"][0]
    assert step["changed"] == step["of"] == 3 and step["after"]["weight_bytes"] < step["before"]["weight_bytes"] / 2
    quantised, original = run(chosen.model), run(small_network())
    assert np.abs(quantised - original).max() < 0.1 * np.abs(original).max()


def test_dynamic_needs_no_data() -> None:
    body = "m = MatMul(x, %12x20); r = Relu(m); y = MatMul(r, %20x6)"
    model = network(body, "float[N,12] x", "float[N,6] y")
    found = onnxprune.prune(model, quantize="dynamic", **ALONE)
    assert {node.op_type for node in found.model.graph.node} >= {"DynamicQuantizeLinear", "MatMulInteger"}
    best = recipe_of(found, chosen=True)
    assert best["divergence"] == min(row["divergence"] for row in found.report["quantisation"]["candidates"])
    assert found.report["quantisation"]["rows"] == {"ranges": 0, "judged": 0}


def test_equal_inputs_give_equal_bytes(chosen: onnxprune.Result) -> None:
    again = onnxprune.prune(small_network(), quantize="int8", calibration=DATA, **ALONE)
    assert again.model.SerializeToString(deterministic=True) == chosen.model.SerializeToString(deterministic=True)


@pytest.mark.parametrize("mode", ["int8", "dynamic"])
def test_a_plan_repeats_it_byte_for_byte(tmp_path: Path, mode: str) -> None:
    options = {"calibration": DATA, "repair": "none", "latency": False, "force": True}
    out = tmp_path / "small.onnx"
    found = onnxprune.prune(small_network(), quantize=mode, ratio=0.5, output=out, **options)
    assert [step.kind for step in found.plan.steps] == ["units", "quantize"]
    (tmp_path / "plan.json").write_text(found.plan.to_json())
    onnxprune.apply(tmp_path / "plan.json", small_network(), output=tmp_path / "again.onnx", **options)
    assert (tmp_path / "again.onnx").read_bytes() == out.read_bytes()


def test_a_plan_without_its_data_or_of_another_recipe_is_refused(chosen: onnxprune.Result) -> None:
    with pytest.raises(PlanError, match="give the calibration data it was made with"):
        onnxprune.apply(chosen.plan, small_network(), latency=False)
    text = chosen.plan.to_json().replace(recipe_of(chosen, chosen=True)["recipe"], "magic")
    with pytest.raises(PlanError, match="no recipe of this release"):
        onnxprune.apply(from_json(text), small_network(), calibration=DATA, latency=False)
    (step,) = chosen.plan.steps
    other = replace(chosen.plan, steps=(step._replace(record={**step.record, "quantised": ["elsewhere"]}),))
    with pytest.raises(PlanError, match="other nodes than this model has"):
        onnxprune.apply(other, small_network(), calibration=DATA, latency=False)


def test_gates_judge_the_file_that_is_written(tmp_path: Path) -> None:
    out = tmp_path / "small.onnx"
    found = onnxprune.prune(
        small_network(), quantize="int8", calibration=DATA, min_cosine=0.9999999, output=out, **ALONE
    )
    assert not found.passed and not out.exists(), "the float model has cosine 1"
    assert found.report["quantisation"]["float"]["drift"]["outputs"]["y"]["cosine"] == pytest.approx(1)
    passed = onnxprune.prune(small_network(), quantize="int8", calibration=DATA, min_cosine=0.9, output=out, **ALONE)
    assert passed.passed and out.exists()


# --- beside others --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["int8", "dynamic"])
def test_zeros_stay_zeros(mode: str) -> None:
    found = onnxprune.prune(small_network(), sparsity="2:4", quantize=mode, calibration=DATA, latency=False)
    assert [step["kind"] for step in found.report["steps"]][-2:] == ["zeros", "quantize"] and found.masks
    result, seen = Model.of(found.model), 0
    for name, mask in found.masks.items():
        for near in dequantised(result, name, mask.shape) or []:
            assert (near[~mask] == 0).all()
            seen += int((~mask).sum())
    assert seen


def test_recovered_weights_are_quantised() -> None:
    found = onnxprune.prune(
        small_network(), ratio=0.5, recover=3, quantize="int8", criterion="l2", calibration=DATA, latency=False
    )
    assert "recover" in found.report["steps"][0] and "recover" not in found.report["steps"][-1]
    assert found.report["quantisation"]["recipe"]


def test_steps_of_a_schedule_end_in_it() -> None:
    found = onnxprune.prune(
        small_network(), ratio=0.5, schedule="linear:2", quantize="dynamic", calibration=DATA, latency=False
    )
    assert [step["kind"] for step in found.report["steps"]][-1] == "quantize"


def test_packed_storage_is_refused() -> None:
    with pytest.raises(UsageError, match="leave one of them out"):
        onnxprune.prune(small_network(), quantize="int8", storage="auto", calibration=DATA)


# --- what it does not take ------------------------------------------------------------------------------------------


def test_ranges_need_data() -> None:
    with pytest.raises(DataError, match=r"which dynamic does not need; give calibration data \(--calib\)"):
        onnxprune.prune(small_network(), quantize="int8")


def test_a_quantised_model_is_refused(chosen: onnxprune.Result) -> None:
    with pytest.raises(ModelError, match="is quantised already"):
        onnxprune.prune(chosen.model, quantize="int8", calibration=DATA, **ALONE)


def test_half_precision_is_refused() -> None:
    model = network("p = MatMul(x, %4x4:float16); y = MatMul(p, %4x4:float16)", "float16[2,4] x", "float16[2,4] y")
    with pytest.raises(ModelError, match="computes in float16"):
        onnxprune.prune(model, quantize="dynamic", **ALONE)


@pytest.mark.parametrize("opset", [11, 12])
def test_a_low_opset_has_no_scale_per_channel(opset: int) -> None:
    found = onnxprune.prune(small_network(opset), quantize="int8", calibration=DATA, **ALONE)
    assert found.model.opset_import[0].version == opset and found.model.ir_version == small_network(opset).ir_version
    refused = recipe_of(found, recipe="minmax, weights per channel, uint8 values")
    assert refused["divergence"] is None and "needs opset 13, and the file is of opset" in refused["reason"]


def test_no_opset_is_raised() -> None:
    with pytest.raises(
        ModelError, match="has opset 9, and ONNX Runtime's quantiser needs 11: no file is raised unasked"
    ):
        onnxprune.prune(
            network("y = MatMul(x, %4x4)", "float[2,4] x", "float[2,4] y", opset=9), quantize="dynamic", **ALONE
        )


def test_what_stays_float_is_said() -> None:
    body = "w = %1x20x6; r = %1x20x5; q = LSTM<hidden_size = 5>(x, w, r); h = Squeeze(q, @[1]); y = MatMul(h, %5x4)"
    model = network(body, "float[2,4,6] x", "float[A,B,C] y")
    rows = {"x": np.random.default_rng(0).standard_normal((8, 4, 6)).astype(np.float32)}
    found = onnxprune.prune(model, quantize="int8", calibration=rows, **ALONE)
    reasons = {row["op"]: row["reason"] for row in found.report["quantised"]}
    assert "has no 8-bit LSTM with fixed ranges" in reasons["LSTM"] and reasons["MatMul"] is None
    assert found.report["quantisation"]["float_operators"]["LSTM"] == 1


def test_what_no_message_holds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxprune.model.quantiser.PROTOBUF_LIMIT", 100)
    with pytest.raises(
        ModelError, match=r"are more than ONNX Runtime's quantiser takes .*prune it further, or leave quantize out"
    ):
        onnxprune.prune(small_network(), quantize="dynamic", **ALONE)


def test_a_recipe_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Older releases of ONNX Runtime do not load convolutions of int8 weights by values as they come."""
    import onnxruntime.quantization as theirs

    whole = theirs.quantize_dynamic

    def fails(*given: object, **how: object) -> None:
        if how["weight_type"] == QuantType.QInt8:
            raise ValueError("not implemented")
        whole(*given, **how)

    monkeypatch.setattr(theirs, "quantize_dynamic", fails)
    found = onnxprune.prune(small_network(), quantize="dynamic", **ALONE)
    assert "uint8" in found.report["quantisation"]["recipe"]
    assert "not implemented" in recipe_of(found, recipe="weights per tensor, int8 weights")["reason"]


def test_a_failure_of_the_quantiser_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime.quantization as theirs

    def fails(*_: object, **__: object) -> None:
        raise KeyError("first line\nsecond")

    monkeypatch.setattr(theirs, "quantize_dynamic", fails)
    with pytest.raises(ModelError, match=r"ONNX Runtime's quantiser cannot process .*; leave quantize out"):
        onnxprune.prune(small_network(), quantize="dynamic", **ALONE)


def test_what_lies_between_products_stays_float_where_8_bits_do_not_hold_it() -> None:
    """A mask of large negative numbers takes the range of what it is added to, as attention's does."""
    body = (
        "q = MatMul(x, %16x16); k = Transpose<perm = [0, 2, 1]>(q); a = MatMul(q, k); b = Add(a, mask); s = Softmax(b); "
        "m = MatMul(s, q); n = Add(m, x); y = MatMul(n, %16x5)\nmask = %1x6x6"
    )
    model = network(body, "float[N,6,16] x", "float[N,6,5] y")
    hidden = next(tensor for tensor in model.graph.initializer if tensor.name == "mask")
    hidden.CopyFrom(numpy_helper.from_array(np.triu(np.full((1, 6, 6), -1e6, np.float32), 1), "mask"))
    rows = {"x": np.random.default_rng(0).standard_normal((40, 6, 16)).astype(np.float32)}
    found = onnxprune.prune(model, quantize="int8", calibration=rows, **ALONE)
    assert "nodes with weights alone" in found.report["quantisation"]["recipe"]
    assert found.report["quantisation"]["float_operators"]["Softmax"] == 1
    plain = recipe_of(found, recipe="minmax, weights per tensor, uint8 values")
    assert recipe_of(found, chosen=True)["cost"] < plain["cost"] / 2


def test_what_a_body_reads_is_there_and_before_it() -> None:
    """ONNX Runtime's quantiser would remove the Relu that only a body reads, and sorts nodes by what they read themselves."""
    body = (
        "p = Conv(x, %8x3x3x3, %8); b = Relu(p); s = ReduceMean<keepdims = 0>(p); k = Greater(s, @0.0); "
        "r = If (k) <then_branch = yes () => (float[N,8,7,7] u) { u = Identity(b) }, else_branch = no () => (float[N,8,7,7] v) { v = Neg(b) }>; "
        "y = Conv(r, %5x8x1x1, %5)"
    )
    model = network(body.replace("; ", "\n"), X, "float[N,5,7,7] y", opset=17, ir_version=8)
    found = onnxprune.prune(model, quantize="int8", calibration=DATA, **ALONE)
    onnx.checker.check_model(found.model, full_check=True)
    assert recipe_of(found, recipe="minmax, weights per tensor, uint8 values")["divergence"] is not None
    assert np.abs(run(found.model) - run(model)).max() < 0.1 * np.abs(run(model)).max()


# --- what stays float -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["int8", "dynamic"])
@pytest.mark.parametrize("pattern", ["op:Gemm", "last", "re:^la", "y", "w5"])
def test_what_is_kept_float_computes_in_floats(mode: str, pattern: str) -> None:
    """By its operator, its name, what it makes or what it weighs by; all else is quantised."""
    net = small_network(body=BODY.replace("%5x16", "w5") + "; w5 = %5x16")
    net.graph.node[-1].name = "last"
    found = onnxprune.prune(net, quantize=mode, keep_float=pattern, calibration=DATA, **ALONE)
    rows = {row["name"]: row for row in found.report["quantised"]}
    assert rows["last"]["status"] == "kept" and rows["last"]["reason"] == "kept float, as asked for"
    assert {row["status"] for name, row in rows.items() if name != "last"} == {"quantised"}
    (product,) = (node for node in found.model.graph.node if node.op_type in ("Gemm", "MatMul"))
    stored = {tensor.name: tensor for tensor in found.model.graph.initializer}
    assert stored[product.input[1]].data_type == onnx.TensorProto.FLOAT
    plan = from_json(found.plan.to_json())
    assert onnxprune.apply(plan, net, calibration=DATA, latency=False).model == found.model


def test_a_product_that_becomes_a_gemm_is_still_kept(tmp_path: Path) -> None:
    """ONNX Runtime's preparation joins MatMul and Add under another name."""
    body = "f = Flatten(x); w = %243x8; h = MatMul(f, w); a = Add(h, %8); r = Relu(a); v = %8x5; m = MatMul(r, v); y = Add(m, %5)"
    net = small_network(body=body)
    net.graph.node[1].name = "first"
    found = onnxprune.prune(net, quantize="int8", keep_float="first", calibration=DATA, **ALONE)
    stored = {tensor.name: tensor.data_type for tensor in found.model.graph.initializer}
    assert stored.get("w") == onnx.TensorProto.FLOAT and "v" not in stored


def test_patterns_of_what_stays_float_are_looked_at_first() -> None:
    with pytest.raises(UsageError, match="matches no node of the model"):
        onnxprune.prune(small_network(), quantize="int8", keep_float="nothing*", calibration=DATA, **ALONE)
    with pytest.raises(UsageError, match="add quantize int8 or dynamic"):
        onnxprune.prune(small_network(), keep_float="op:Gemm", ratio=0.5)
