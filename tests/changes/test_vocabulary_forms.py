"""Tables and heads of every stored form: rows go with their scales and zero points, and what stays gives the same bits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto
from support.networks import network

import onnxprune
from onnxprune.changes.plan import from_json
from onnxprune.changes.vocabulary import numbering, space
from onnxprune.errors import ModelError, TargetError, UsageError
from onnxprune.runs import tokens as runs

IDS = np.array([1, 3, 7, 20, 39])
BATCH = np.array([[1, 3, 39, 7], [20, 20, 1, 3]])
END = "; r = Relu(s); y = MatMul(r, %32x5)"
BLOCKED = "com.microsoft.GatherBlockQuantized"
EMBED = "typ = %2x32; pos = %9x32; g = %+32; b = %32; i = Cast<to=6>(ids); t = Sub(i, i)"
TABLES = {
    "int8, one scale": "e = %40x32:int8; d = DequantizeLinear(e, @0.05, @3:int8); s = Gather(d, ids)",
    "int8, a scale per token": "e = %40x32:int8; c = %+40; z = %40:int8; d = DequantizeLinear<axis = 0>(e, c, z); s = Gather(d, ids)",
    "int8, a scale per channel": "e = %40x32:int8; c = %+32; d = DequantizeLinear<axis = 1>(e, c); s = Gather(d, ids)",
    "uint8, in blocks": "e = %40x32:uint8; c = %+40x2; z = %40x2:uint8; d = DequantizeLinear<axis = 1, block_size = 16>(e, c, z); s = Gather(d, ids)",
    "int4, in blocks": "e = %40x32:int4; c = %+40x2; d = DequantizeLinear<axis = 1, block_size = 16>(e, c); s = Gather(d, ids)",
    "uint8, dequantised behind": "e = %40x32:uint8; q = Gather(e, ids); s = DequantizeLinear(q, @0.05, @7:uint8)",
    "scales beside": "e = %40x32:int8; q = Gather(e, ids); f = Cast<to=1>(q); c = %+40x1; k = Gather(c, ids); s = Mul(f, k)",
    "scales beside, a vector": "e = %40x32:int8; q = Gather(e, ids); f = Cast<to=1>(q); c = %+40; k = Gather(c, ids); u = Unsqueeze(k, @[2]); s = Mul(f, u)",
    "float16": "e = %40x32:float16; d = Cast<to=1>(e); s = Gather(d, ids)",
    "transposed": "e = %32x40; d = Transpose<perm=[1,0]>(e); s = Gather(d, ids)",
    "along the second axis": "e = %32x40; q = Gather<axis = 1>(e, ids); s = Transpose<perm=[1,2,0]>(q)",
    "4-bit": f"e = %40x32:uint4; c = %+40x2; z = %40x2:uint4; s = {BLOCKED}<block_size = 16, gather_axis = 0, quantize_axis = 1>(e, ids, c, z)",
    "4-bit, signed": f"e = %40x32:int4; c = %+40x2; s = {BLOCKED}<block_size = 16, gather_axis = 0, quantize_axis = 1>(e, ids, c)",
    "4-bit, along the second axis": f"e = %32x40:uint4; c = %+2x40; z = %2x40:uint4; q = {BLOCKED}<block_size = 16, gather_axis = 1, quantize_axis = 0>(e, ids, c, z); "
    "s = Transpose<perm=[1,2,0]>(q)",
    "4-bit, packed": f"e = %40x16:uint8; c = %+40x2; z = %40x1:uint8; s = {BLOCKED}<bits = 4, block_size = 16, gather_axis = 0, quantize_axis = 1>(e, ids, c, z)",
    "8-bit in blocks": f"e = %40x32:uint8; c = %+40x2; z = %40x2:uint8; s = {BLOCKED}<bits = 8, block_size = 16, gather_axis = 0, quantize_axis = 1>(e, ids, c, z)",
    "fused": f"e = %40x32; {EMBED}; s, n = com.microsoft.EmbedLayerNormalization(i, t, e, pos, typ, g, b)",
    "fused, 8 bits": f"e = %40x32:uint8; {EMBED.replace('%2x32', '%2x32:uint8').replace('%9x32', '%9x32:uint8').replace('%+32', '%32:uint8').replace('b = %32', 'b = %32:uint8')}; "
    "z = @9:uint8; c = @0.05; s, n = com.microsoft.QEmbedLayerNormalization(i, t, e, pos, typ, g, b, , c, c, c, c, c, z, z, z, z, z)",
}
NBITS = "com.microsoft.MatMulNBits<N = 40, K = 32, bits = 4, block_size = 16>"
DYNAMIC = "q, qs, qz = DynamicQuantizeLinear(r)"
HEADS = {
    "integers, one scale": f"{DYNAMIC}; w = %32x40:int8; i = MatMulInteger(q, w, qz, @2:int8); f = Cast<to=1>(i); k = Mul(qs, @0.03); logits = Mul(f, k)",
    "integers, a scale per token": f"{DYNAMIC}; w = %32x40:int8; z = %40:int8; i = MatMulInteger(q, w, qz, z); f = Cast<to=1>(i); c = %+40; k = Mul(qs, c); "
    "m = Mul(f, k); b = %40; logits = Add(m, b)",
    "integers to float": f"{DYNAMIC}; w = %32x40:int8; c = %+40; z = %40:int8; b = %40; logits = com.microsoft.MatMulIntegerToFloat(q, w, qs, c, qz, z, b)",
    "quantised inside": "w = %32x40:int8; c = %+40; z = %40:int8; b = %40; logits = com.microsoft.DynamicQuantizeMatMul(r, w, c, z, b)",
    "quantised in and out": "q = QuantizeLinear(r, @0.05, @9:uint8); w = %32x40:int8; c = %+40; z = %40:int8; "
    "o = QLinearMatMul(q, @0.05, @9:uint8, w, c, z, @0.5, @99:uint8); logits = DequantizeLinear(o, @0.5, @99:uint8)",
    "quantised Gemm": "v = Reshape(r, @[-1, 32]); q = QuantizeLinear(v, @0.05, @9:uint8); w = %40x32:int8; c = %+40; z = %40:int8; b = %40:int32; "
    "logits = com.microsoft.QGemm<transB = 1>(q, @0.05, @9:uint8, w, c, z, b)",
    "QDQ, a scale per token": "w = %32x40:int8; c = %+40; d = DequantizeLinear<axis = 1>(w, c); m = MatMul(r, d); o = QuantizeLinear(m, @0.5, @0:int8); logits = DequantizeLinear(o, @0.5, @0:int8)",
    "QDQ Gemm": "v = Reshape(r, @[-1, 32]); w = %40x32:int8; c = %+40; d = DequantizeLinear<axis = 0>(w, c); b = %40:int32; k = %+40; f = DequantizeLinear<axis = 0>(b, k); "
    "logits = Gemm<transB = 1>(v, d, f)",
    "4-bit": f"w = %40x2x8:uint8; c = %+40x2; z = %40x1:uint8; b = %40; logits = {NBITS}(r, w, c, z, , b)",
    "4-bit, flat scales": f"w = %40x2x8:uint8; c = %+80; z = %40:uint8; logits = {NBITS}(r, w, c, z)",
    "4-bit, short block": "w = %40x1x32:uint8; c = %+40x1; logits = com.microsoft.MatMulNBits<N = 40, K = 32, bits = 4, block_size = 64>(r, w, c)",
    "8-bit in blocks": f"w = %40x2x16:uint8; c = %+40x2; z = %40x2:uint8; logits = {NBITS.replace('bits = 4', 'bits = 8')}(r, w, c, z)",
    "QDQ, 4-bit in blocks": "w = %32x40:int4; c = %+2x40; d = DequantizeLinear<axis = 0, block_size = 16>(w, c); logits = MatMul(r, d)",
    "QDQ, 4-bit in blocks, transposed": "w = %40x32:uint4; c = %+40x2; z = %40x2:uint4; d = DequantizeLinear<axis = 1, block_size = 16>(w, c, z); t = Transpose<perm=[1,0]>(d); "
    "m = MatMul(r, t); b = %40; a = Add(m, b); l = Cast<to=10>(a); logits = Cast<to=1>(l)",
    "transposed in the product": "w = %40x32; logits = com.microsoft.FusedMatMul<transB = 1>(r, w)",
    "two heads in one": "w = %32x40; v = %32x40; m = MatMul(r, w); n = MatMul(s, v); logits = Add(m, n)",
}  # fmt: skip
TIED = {
    "QDQ": "e = %40x32:int8; c = %+40; d = DequantizeLinear<axis = 0>(e, c); s = Gather(d, ids); r = Relu(s); t = Transpose<perm=[1,0]>(d); logits = MatMul(r, t)",
    "4-bit": f"w = %40x2x8:uint8; c = %+40x2; z = %40x1:uint8; e = Reshape(w, @[40, 16]); s = {BLOCKED}<bits = 4, block_size = 16, gather_axis = 0, quantize_axis = 1>(e, ids, c, z); "
    f"r = Relu(s); logits = {NBITS}(r, w, c, z)",
    "in a product": "e = %40x32; s = Gather(e, ids); r = Relu(s); logits = com.microsoft.FusedMatMul<transB = 1>(r, e)",
}  # fmt: skip


def language(body: str, outputs: str) -> ModelProto:
    return network(body, "int64[N,L] ids", outputs, domains={"com.microsoft": 1})


@pytest.fixture
def keep(tmp_path: Path) -> str:
    np.save(tmp_path / "keep.npy", IDS)
    return str(tmp_path / "keep.npy")


def run(model: ModelProto, ids: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"ids": ids})[0]


def cut(model: ModelProto, keep: str, **options: Any) -> onnxprune.Result:
    return onnxprune.prune(model, vocabulary=keep, **{"latency": False, **options})


def require_cut(found: onnxprune.Result, names: set[str]) -> None:
    assert {row["name"] for row in found.report["vocabulary"] if row["status"] == "cut"} == names
    assert found.report["surgery"]["proven"] and all(
        40 not in tensor.dims and 80 not in tensor.dims
        for tensor in found.model.graph.initializer
        if tensor.data_type != onnx.TensorProto.INT32 or len(tensor.dims) > 1
    )


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_every_form_lose_their_rows(name: str, keep: str) -> None:
    model = language(TABLES[name] + END, "float[N,L,5] y")
    found = cut(model, keep)
    np.testing.assert_array_equal(run(found.model, BATCH), run(model, BATCH))
    require_cut(found, {"e", "c"} if "scales beside" in name else {"e"})
    with pytest.raises(Exception, match=r"out of data bounds|out of range"):
        run(found.model, BATCH + 1)


@pytest.mark.parametrize("name", HEADS)
def test_heads_of_every_form_lose_their_columns(name: str, keep: str) -> None:
    model = language(f"e = %40x32; s = Gather(e, ids); r = Relu(s); {HEADS[name]}", "float[] logits")
    found = cut(model, keep)
    np.testing.assert_allclose(run(found.model, BATCH), run(model, BATCH)[..., IDS], rtol=1e-5, atol=1e-5)
    require_cut(found, {"e", "w"})


@pytest.mark.parametrize("name", TIED)
def test_a_tied_table_is_cut_once(name: str, keep: str) -> None:
    model = language(TIED[name], "float[] logits")
    found = cut(model, keep)
    np.testing.assert_allclose(run(found.model, BATCH), run(model, BATCH)[..., IDS], rtol=1e-5, atol=1e-5)
    require_cut(found, {"w" if name == "4-bit" else "e"})
    assert [row["tied"] for row in found.report["vocabulary"]] == [True]


WHOLE = {
    "a map of an earlier run": ("m = %60:int32; n = Abs(m); e = %40x32; i = Gather(n, ids); s = Gather(e, i)" + END, r"does not have \(e: its rows are looked up by numbers that Gather 'i' computes"),
    "scales of blocks of tokens": (
        "e = %40x32:int8; c = %+20x32; d = DequantizeLinear<axis = 0, block_size = 2>(e, c); s = Gather(d, ids)" + END,
        "blocks of tokens share their scales",
    ),
    "packed blocks of tokens": (
        f"e = %48x32:uint4; c = %+3x32; s = {BLOCKED}<block_size = 16, gather_axis = 0, quantize_axis = 0>(e, ids, c)" + END,
        "blocks of tokens share their scales",
    ),
    "added to an input": ("e = %40x32; s = Gather(e, ids); t = Transpose<perm=[1,0]>(e); m = MatMul(s, t); y = Add(m, x)", "joined with the input 'x'"),
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_what_stays_whole_says_why(name: str, keep: str) -> None:
    body, reason = WHOLE[name]
    inputs = "int64[N,L] ids" + (", float[40] x" if "'x'" in reason else "")
    with pytest.raises(ModelError, match=reason):
        cut(network(body, inputs, "float[] y", domains={"com.microsoft": 1}), keep)


def test_rows_that_are_looked_up_by_their_place_stay(keep: str) -> None:
    """Positions of a fused embedding have no numbers at all; segments have others."""
    body = TABLES["fused"].replace("pos = %9x32", "pos = %40x32")
    found = cut(language(body + END, "float[N,L,5] y"), keep).report
    rows = {row["name"]: row["reason"] for row in found["vocabulary"]}
    assert rows["e"] is None and rows["pos"] == "its rows are looked up by their place" and "Sub" in rows["typ"]


NUMBERS = {
    "plain": "e = %40x32; s = Gather(e, ids)",
    "int32": "e = %40x32; i = Cast<to=6>(ids); s = Gather(e, i)",
    "a mask of the numbers": "e = %40x32; g = Gather(e, ids); q = Equal(ids, @39); n = Not(q); m = Cast<to=1>(n); u = Unsqueeze(m, @[2]); s = Mul(g, u)",
    "their size alone": "e = %40x32; g = Gather(e, ids); z = Shape(ids); c = ConstantOfShape(z); u = Unsqueeze(c, @[2]); f = Cast<to=1>(u); s = Add(g, f)",
    "another table of computed numbers": "e = %40x32; g = Gather(e, ids); k = Div(ids, @2); o = %20x32; h = Gather(o, k); s = Add(g, h)",
    "a table that stays": "e = %40x32; i = Cast<to=6>(ids); g = Gather(e, i); o = %40x32; h = Gather(o, i); n = ReduceMean<keepdims=1>(o); f = Add(g, n); s = Add(f, h)",
    "rows that nothing refuses": TABLES["4-bit"],
    "fused": TABLES["fused"],
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_file_of_new_numbers_gives_the_same_under_them(name: str, keep: str, tmp_path: Path) -> None:
    """No map is looked up inside; what else reads the numbers gets the original's."""
    model = language(NUMBERS[name] + END, "float[N,L,5] y")
    found = cut(model, keep, token_numbers="new", output=tmp_path / "small.onnx")
    with np.load(tmp_path / "small.onnx.vocabulary.npz") as stored:
        new = stored["old_to_new"][BATCH]
    np.testing.assert_array_equal(run(found.model, new), run(model, BATCH))
    assert onnx.load(tmp_path / "small.onnx") == found.model
    told = found.report["vocabulary_map"]
    assert told["numbers"] == "new" and found.report["after"]["bytes"] == (tmp_path / "small.onnx").stat().st_size
    assert json.loads(Path(told["json"]).read_text())["old_to_new"] == {str(old): at for at, old in enumerate(IDS)}
    assert any("takes new numbers" in warning for warning in found.report["warnings"])
    assert not any(
        tensor.data_type == onnx.TensorProto.INT32 and list(tensor.dims) == [40]
        for tensor in found.model.graph.initializer
    )
    with pytest.raises(Exception, match=r"out of data bounds|out of range"):
        run(found.model, new + 1)


def test_data_of_a_run_has_the_original_s_numbers(keep: str, tmp_path: Path) -> None:
    """Whatever the file takes in the end: all that measures, repairs and chooses feeds the numbers it was given; a plan gives the same bytes."""
    body = NUMBERS["plain"] + "; h = MatMul(s, %32x24); r = Relu(h); y = MatMul(r, %24x5)"
    onnx.save(language(body, "float[N,L,5] y"), tmp_path / "model.onnx")
    rows = {"ids": np.random.default_rng(0).choice(IDS, (24, 4))}
    options: dict[str, Any] = {"ratio": 0.5, "evaluation": rows, "token_numbers": "new", "output": tmp_path / "a.onnx"}
    found = cut(tmp_path / "model.onnx", keep, **options)  # type: ignore[arg-type]
    plain = cut(tmp_path / "model.onnx", keep, **{**options, "token_numbers": "original", "output": None})  # type: ignore[arg-type]
    new = np.searchsorted(IDS, BATCH)
    np.testing.assert_array_equal(run(found.model, new), run(plain.model, BATCH))
    assert found.report["drift"]["outputs"] == plain.report["drift"]["outputs"]
    again = onnxprune.apply(
        from_json(found.plan.to_json()), tmp_path / "model.onnx", latency=False, output=tmp_path / "b.onnx"
    )
    assert again.report["vocabulary_map"]["numbers"] == "new"
    for suffix in ("", ".vocabulary.npz", ".vocabulary.json"):
        assert (tmp_path / f"a.onnx{suffix}").read_bytes() == (tmp_path / f"b.onnx{suffix}").read_bytes()


INNER = "e = %40x32; g = Gather(e, ids); c = ReduceMin<keepdims=0>(ids); b = Greater(c, @5)\n"
REFUSED = {
    "in a body": (
        INNER
        + "k = If(b) <then_branch = t () => (int64[N,L] a) { a = Identity(ids) }, else_branch = f () => (int64[N,L] d) { d = Neg(ids) }>\n"
        "m = Cast<to=1>(k); u = Unsqueeze(m, @[2]); s = Add(g, u)",
        "If 'k' reads the numbers of tokens",
    ),
    "nothing to renumber": (
        "e = %40x32; w = %32x40; g = Gather(e, ids); logits = MatMul(g, w); other = Mul(e, @2.)",
        "no table of the model loses rows",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_take_new_numbers_is_refused(name: str, keep: str) -> None:
    body, message = REFUSED[name]
    scored = "logits" in body
    model = language(body if scored else body + END, "float[] logits, float[] other" if scored else "float[N,L,5] y")
    with pytest.raises(ModelError, match=message):
        cut(model, keep, token_numbers="new")
    cut(model, keep)


def test_new_numbers_need_a_vocabulary(keep: str) -> None:
    with pytest.raises(UsageError, match="is of tokens that stay when others go"):
        onnxprune.prune(language(NUMBERS["plain"] + END, "float[N,L,5] y"), token_numbers="new")
    with pytest.raises(UsageError, match="unknown token_numbers 'nwe'"):
        cut(language(NUMBERS["plain"] + END, "float[N,L,5] y"), keep, token_numbers="nwe")


def test_a_model_that_gives_something_else_under_new_numbers_is_refused(
    keep: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = numbering.renumbered

    def wrong(model: Any, inputs: Any, tokens: Any) -> Any:
        return right(model, inputs, replace(tokens, ids=tokens.ids[::-1].copy()))

    monkeypatch.setattr(runs, "renumbered", wrong)
    with pytest.raises(TargetError, match="other outputs under new numbers"):
        cut(language(NUMBERS["a mask of the numbers"] + END, "float[N,L,5] y"), keep, token_numbers="new")


@pytest.mark.parametrize("numbers", ["original", "new"])
@pytest.mark.parametrize("kind", ["int32", "weights as inputs"])
def test_inputs_of_other_files(kind: str, numbers: str, keep: str) -> None:
    """Numbers of 32 bits are drawn and looked up as such; files of IR 3 declare what they store."""
    body = (
        "e = %40x32; g = Gather(e, ids); q = Equal(ids, @39"
        + (":int32" if kind == "int32" else "")
        + "); m = Cast<to=1>(q); "
    )
    old = kind != "int32"
    body += ("u = Unsqueeze<axes=[2]>(m)" if old else "u = Unsqueeze(m, @[2])") + "; s = Add(g, u)" + END
    model = network(
        body,
        f"{'int64' if old else 'int32'}[N,L] ids",
        "float[N,L,5] y",
        **({"opset": 11, "ir_version": 3} if old else {}),
    )
    for tensor in model.graph.initializer if old else ():
        model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    found = cut(model, keep, token_numbers=numbers).model
    onnx.checker.check_model(found)
    given = BATCH.astype(np.int64 if old else np.int32)
    new = given if numbers == "original" else np.searchsorted(IDS, given).astype(given.dtype)
    np.testing.assert_array_equal(run(found, new), run(model, given))


@pytest.mark.parametrize(
    ("body", "tensor"),
    [(TABLES["int8, a scale per token"] + END, "c"), (TABLES["4-bit"] + END, "z"), (f"e = %40x32; s = Gather(e, ids); r = Relu(s); {HEADS['4-bit']}", "z")],
)  # fmt: skip
def test_scales_and_zero_points_of_other_tokens_are_refuted(
    body: str, tensor: str, keep: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = space.narrowed

    def swapped(*given: Any) -> Any:
        found = whole(*given)
        return found.replaced({tensor: np.asarray(found.weights[tensor].read())[::-1].copy()})

    monkeypatch.setattr(space, "narrowed", swapped)
    with pytest.raises(TargetError, match="not exact"):
        cut(language(body, "float[] logits" if "logits" in body else "float[N,L,5] y"), keep)
