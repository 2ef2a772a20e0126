"""``--storage``: smaller files that compute the same, in plans, gates and reports; ``expand`` and pruning give plain weights back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from support.networks import network
from support.oracles import LEVELS

import onnxprune
from onnxprune.errors import ModelError, PlanError, UsageError
from onnxprune.settings import STORAGE_NAMES

BODY = (
    "p = Conv(x, %12x3x3x3, %12); r = Relu(p); q = Conv(r, %24x12x3x3); s = Relu(q); "
    "f = GlobalAveragePool(s); g = Flatten(f); w = %24x40; m = MatMul(g, w); wy = %40x8; y = MatMul(m, wy)"
)
X = "float[N,3,9,9] x"
ROWS = {"x": np.random.default_rng(2).standard_normal((24, 3, 9, 9)).astype(np.float32)}
ALONE = {"ratio": 0, "latency": False}
FORMS_LEFT = [name for name in STORAGE_NAMES if name != "plain"]


def sparse_network(zeros: float = 0.7, opset: int = 17, body: str = BODY) -> ModelProto:
    """Return a network with that share of zeros in its matrices and kernels."""
    model = network(body, X, "float[N,8] y", opset=opset, ir_version={11: 6, 13: 7, 17: 8}.get(opset, 10))
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.ndim > 1:
            draw = np.random.default_rng(array.size)
            array = draw.standard_normal(array.shape).astype(np.float32) * 0.2
            array[draw.random(array.shape) < zeros] = 0
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return model


def at_level(model: ModelProto | bytes, level: ort.GraphOptimizationLevel, inputs: np.ndarray) -> np.ndarray:
    """Run without the layouts that ONNX Runtime makes of constants alone before any run, which round otherwise."""
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.add_session_config_entry("session.disable_prepacking", "1")
    content = model if isinstance(model, bytes) else model.SerializeToString()
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": inputs})[0]


@pytest.mark.parametrize("storage", FORMS_LEFT)
def test_a_packed_model_is_smaller_and_equal_at_every_level(storage: str) -> None:
    """To the plain model of the same numbers, bit for bit, which ``expand`` gives."""
    model = sparse_network()
    found = onnxprune.prune(model, storage=storage, **ALONE)
    assert found.report["after"]["bytes"] < 0.75 * found.report["before"]["bytes"]
    assert found.report["surgery"]["proven"] and found.report["surgery"]["max_relative_error"] == 0
    assert [step["kind"] for step in found.report["steps"]] == ["storage"]
    plain = onnxprune.expand(found.model)
    assert {row["name"] for row in plain.report["expanded"]} == {
        row["name"] for row in found.report["storage"] if row["status"] == "packed"
    }
    assert [node.op_type for node in plain.model.graph.node] == [node.op_type for node in model.graph.node]
    for level in LEVELS:
        packed, expected = (at_level(proto, level, ROWS["x"][:2]) for proto in (found.model, plain.model))
        np.testing.assert_array_equal(packed, expected)


@pytest.mark.parametrize("opset", [11, 13, 17, 21])
def test_the_file_keeps_its_opset_and_ir(opset: int) -> None:
    model = sparse_network(opset=opset)
    found = onnxprune.prune(model, storage="packed:16", **ALONE)
    assert found.model.opset_import == model.opset_import and found.model.ir_version == model.ir_version
    onnx.checker.check_model(found.model, full_check=True)
    packed = [row for row in found.report["storage"] if row["status"] == "packed"]
    assert packed and all("codes" in row["form"] for row in packed)


def test_what_an_opset_lacks_is_said() -> None:
    body = "w = %40x40; wy = %40x8; f = GlobalAveragePool(x); v = %3x40; g = Flatten(f); h = MatMul(g, v); m = MatMul(h, w); y = MatMul(m, wy)"
    model = sparse_network(0.9, opset=9, body=body)
    model.ir_version = 4
    found = onnxprune.prune(model, storage="packed:16", **ALONE)
    row = next(row for row in found.report["storage"] if row["name"] == "w")
    assert row["form"] == "8-bit codes", "what takes bytes apart, and running sums, are younger"
    model = network("w = %16x16:float16; y = MatMul(x, w)", "float16[2,16] x", "float16[2,16] y", opset=9, ir_version=4)
    array = np.zeros((16, 16), np.float16)
    array[:4] = np.random.default_rng(0).standard_normal((4, 16))
    big = np.kron(array, np.ones((8, 8))).astype(np.float16) * np.random.default_rng(1).standard_normal((128, 128))
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(big.astype(np.float16), "w"))
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[1].dim_value = 128
    rows = onnxprune.prune(model, storage="auto", **ALONE).report["storage"]
    assert rows[0]["form"] == "plain" and "need opset 11, and the file is of opset 9" in rows[0]["reason"]


def test_a_plan_repeats_it_byte_for_byte(tmp_path: Path) -> None:
    model = sparse_network(0.5)
    for storage, data in (("auto", None), ("packed:16", ROWS), ("codebook", ROWS)):
        options = {"calibration": data, "repair": "none", "latency": False, "force": True}
        out = tmp_path / f"{storage}.onnx"
        found = onnxprune.prune(model, storage=storage, ratio=0.5, round_to=1, output=out, **options)
        assert [step.kind for step in found.plan.steps] == ["units", "storage"]
        (tmp_path / "plan.json").write_text(found.plan.to_json())
        onnxprune.apply(tmp_path / "plan.json", model, output=tmp_path / "again.onnx", **options)
        assert (tmp_path / "again.onnx").read_bytes() == out.read_bytes()


def test_a_plan_that_does_not_fit_is_refused() -> None:
    model = sparse_network()
    found = onnxprune.prune(model, storage="auto", **ALONE)
    with pytest.raises(PlanError, match="does not fit this model"):
        onnxprune.apply(found.plan, sparse_network(0.0), force=True, latency=False)


def test_gates_judge_the_file_that_is_written(tmp_path: Path) -> None:
    model = sparse_network()
    found = onnxprune.prune(model, storage="auto", output=tmp_path / "small.onnx", **ALONE)
    size = (tmp_path / "small.onnx").stat().st_size
    assert found.report["after"]["bytes"] == size
    held = onnxprune.prune(model, storage="auto", max_size=size, output=tmp_path / "held.onnx", **ALONE)
    missed = onnxprune.prune(model, storage="auto", max_size=size - 1, output=tmp_path / "missed.onnx", **ALONE)
    assert held.passed and not missed.passed and not (tmp_path / "missed.onnx").exists()


def test_what_is_packed_is_pruned_as_plain_and_packed_only_where_asked() -> None:
    model = sparse_network(0.6)
    packed = onnxprune.prune(model, storage="packed:16", **ALONE).model
    plain = onnxprune.expand(packed).model
    settings = {"ratio": 0.5, "round_to": 1, "latency": False}
    one, two = (onnxprune.prune(proto, **settings) for proto in (packed, plain))
    assert {group.name: group.kept for group in one.plan.groups} == {g.name: g.kept for g in two.plan.groups}
    assert {t.name: t.raw_data for t in one.model.graph.initializer} == {
        t.name: t.raw_data for t in two.model.graph.initializer
    }
    again = onnxprune.prune(packed, storage="packed:16", **settings)
    assert again.report["after"]["bytes"] < one.report["after"]["bytes"] < two.report["before"]["bytes"]
    repacked = onnxprune.prune(packed, storage="auto", **ALONE)
    assert repacked.report["packing"]["largest_error"] == 0, "its numbers are those of tables"
    assert repacked.report["after"]["bytes"] == pytest.approx(repacked.report["before"]["bytes"], rel=0.05)


def test_expand_says_where_nothing_is_packed(tmp_path: Path) -> None:
    model = sparse_network()
    found = onnxprune.expand(model, tmp_path / "same.onnx")
    assert "nothing in" in found.report["warnings"][0] and found.model.graph == model.graph
    assert onnx.load(tmp_path / "same.onnx").graph == model.graph
    with pytest.raises(UsageError, match="add --force"):
        onnxprune.expand(model, tmp_path / "same.onnx")


def test_expand_knows_what_others_packed() -> None:
    """Stored as float16 and cast, with names of their own; what quantisers scale stays."""
    model = network(
        "wh = %40x40:float16; w = Cast<to = 1>(wh); t = Transpose<perm = [1, 0]>(w); m = MatMul(x, t); q = %40x8:int8; s = %+; "
        "d = DequantizeLinear(q, s); y = MatMul(m, d)",
        "float[2,40] x", "float[2,8] y",
    )  # fmt: skip
    found = onnxprune.expand(model)
    assert [row["name"] for row in found.report["expanded"]] == ["t"]
    assert [node.op_type for node in found.model.graph.node] == ["MatMul", "DequantizeLinear", "MatMul"]


def test_a_file_that_claims_more_than_it_holds_is_refused() -> None:
    """Before anything of that size is made."""
    model = onnxprune.prune(sparse_network(0.97), storage="auto", **ALONE).model
    changed = next(t for t in model.graph.initializer if t.name.endswith("/count"))
    changed.CopyFrom(numpy_helper.from_array(np.array([10**15]), changed.name))
    with pytest.raises(ModelError, match="claims more elements"):
        onnxprune.expand(model)
    grows = (
        "i = %8:uint8; c = Cast<to = 6>(i); n = NonZero(c); s = Squeeze(n); v = %90; a = Gather(v, s); y = Add(x, a)"
    )
    assert not onnxprune.expand(network(grows, "float[8] x", "float[8] y")).report["expanded"], (
        "a size that is not told"
    )
    body = "i = %8x8:uint8; c = Cast<to = 6>(i); v = %90000; a = Gather(v, c); y = Add(x, a)"
    assert onnxprune.expand(network(body, "float[8,8] x", "float[8,8] y")).report["expanded"]
    table = network(body.replace("%90000", "%300x300:float16"), "float[8,8,300] x", "float16[8,8,300] y")
    assert not onnxprune.expand(table).report["expanded"], "rows of a matrix are no codes"


def test_what_stays_plain_says_why() -> None:
    body = (
        "wd = %30x30:double; xd = Cast<to = 11>(x); md = MatMul(xd, wd); m = Cast<to = 1>(md); "
        "big = %30x30; a = MatMul(m, big); given = %30x30; b = MatMul(a, given); q = %30x30:int8; s = %+; d = DequantizeLinear(q, s); "
        "c = MatMul(b, d); k = @true; y = If(k) <then_branch = t () => (float[2,30] e) { e = Neg(c) }, "
        "else_branch = u () => (float[2,30] f) { f = Identity(c) }>"
    )
    model = network(body, "float[2,30] x", "float[2,30] y")
    big = next(tensor for tensor in model.graph.initializer if tensor.name == "big")
    big.CopyFrom(numpy_helper.from_array(1e6 * numpy_helper.to_array(big), "big"))
    model.graph.input.append(helper.make_tensor_value_info("given", TensorProto.FLOAT, [30, 30]))
    rows = {row["name"]: row for row in onnxprune.prune(model, storage="auto", **ALONE).report["storage"]}
    assert {name: row["reason"] for name, row in rows.items()} == {
        "wd": "stored as double",
        "big": "float16 cannot hold its values",
        "given": "declared as an input, so that a caller may replace it",
        "q": "stored as int8",
    }
    assert all(row["form"] == "plain" and row["bytes_before"] == row["bytes_after"] for row in rows.values())


def test_shared_captured_and_constant_tensors_are_packed() -> None:
    """Read by two nodes, by a body, and held by a Constant node."""
    body = (
        "w = %30x30; a = MatMul(x, w); k = @true; b = If(k) <then_branch = t () => (float[2,30] e) { e = MatMul(a, w) }, "
        "else_branch = u () => (float[2,30] f) { f = Identity(a) }>; c = Constant<value = float[1,1] {0.5}>(); y = MatMul(b, c)"
    )
    model = network(body.replace("y = MatMul(b, c)", "y = MatMul(b, c)"), "float[2,30] x", "float[2,30] y")
    constant = next(node for node in model.graph.node if node.op_type == "Constant")
    array = np.random.default_rng(0).standard_normal((30, 30)).astype(np.float16).astype(np.float32)
    constant.attribute[0].t.CopyFrom(numpy_helper.from_array(array))
    found = onnxprune.prune(model, storage="fp16", **ALONE)
    assert {row["name"]: row["status"] for row in found.report["storage"]} == {"w": "packed", "c": "packed"}
    assert "Constant" not in {node.op_type for node in found.model.graph.node} and found.report["surgery"]["proven"]
    plain = onnxprune.expand(found.model).model
    assert {tensor.name for tensor in plain.graph.initializer} >= {"w", "c"}


def test_external_data_stays_external(tmp_path: Path) -> None:
    model = sparse_network(0.8)
    onnx.save(model, tmp_path / "big.onnx", save_as_external_data=True, size_threshold=0, location="big.data")
    found = onnxprune.prune(tmp_path / "big.onnx", storage="auto", output=tmp_path / "small.onnx", **ALONE)
    data = list(tmp_path.glob("small.*.data"))
    assert len(data) == 1 and data[0].stat().st_size < 0.6 * (tmp_path / "big.data").stat().st_size
    same = onnxprune.prune(sparse_network(0.8), storage="auto", **ALONE)
    assert [row["form"] for row in found.report["storage"]] == [row["form"] for row in same.report["storage"]]
    onnxprune.expand(tmp_path / "small.onnx", tmp_path / "plain.onnx")
    run = ort.InferenceSession(tmp_path / "plain.onnx").run(None, {"x": ROWS["x"]})[0]
    np.testing.assert_array_equal(run, ort.InferenceSession(tmp_path / "small.onnx").run(None, {"x": ROWS["x"]})[0])


def test_the_report_says_what_it_takes() -> None:
    model = sparse_network()
    found = onnxprune.prune(model, storage="codebook:16", calibration=ROWS, ratio=0).report["packing"]
    assert found["bytes"]["after"] < found["bytes"]["before"] and found["largest_error"] > 0
    assert found["entropy_bytes"] < found["bytes"]["after"] and found["zipped_bytes"]["after"] < found["bytes"]["after"]
    assert found["load_seconds"]["after"] > 0 and found["divergence"]["after"] > found["divergence"]["before"] == 0


def test_a_tensor_at_fault_stays_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxprune.changes.storage import space

    real = space.wrongly_decoded
    monkeypatch.setattr(
        space, "wrongly_decoded", lambda small, wanted: [n for n in wanted if n == "w"] or real(small, wanted)
    )
    found = onnxprune.prune(sparse_network(), storage="auto", **ALONE)
    row = next(row for row in found.report["storage"] if row["name"] == "w")
    assert row["status"] == "frozen" and row["form"] == "plain" and "is not decoded to what it was" in row["reason"]
    assert found.report["surgery"]["frozen_by_check"] == ["w"] and found.passed


def test_it_goes_with_other_kinds_and_schedules() -> None:
    model = sparse_network(0.5)
    for options in (
        {"lossless": True, "ratio": None},
        {"granularity": "eigen", "target": "macs=80%", "calibration": ROWS},
    ):
        found = onnxprune.prune(model, storage="auto", latency=False, **options)
        assert found.report["steps"][-1]["kind"] == "storage" and found.report["surgery"]["proven"]
    options = {"calibration": ROWS, "repair": "none", "latency": False, "recover": 1}
    found = onnxprune.prune(model, storage="auto", ratio=0.5, criterion="l1", **options)
    again = onnxprune.apply(found.plan, model, **options)
    assert again.report["steps"][0]["recover"] and "recover" not in again.report["steps"][1], (
        "what is packed is not trained"
    )
    with pytest.raises(UsageError, match="unknown storage 'autp'; did you mean 'auto'"):
        onnxprune.prune(model, storage="autp")
    with pytest.raises(UsageError, match="more than 0"):
        onnxprune.prune(model, ratio=0)
