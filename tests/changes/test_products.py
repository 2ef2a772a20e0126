"""``--matmul-as``: products with stored weights in another operator, each under the name of its value, and nothing that is computed changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper
from support.networks import network
from support.oracles import run

import onnxprune
from onnxprune.errors import PlanError, UsageError
from onnxprune.model.read import load

FORMS = ("gemm", "conv")
ALONE = {"ratio": 0, "latency": False}
TRANSFORMER = Path(__file__).parents[2] / "models" / "digits_transformer.onnx"
DRAW = np.random.default_rng(3)

INPUTS = {
    "rows": ("float[N,6] x", (3, 6)),
    "sequences": ("float[N,S,6] x", (2, 5, 6)),
    "sequences of one length": ("float[N,5,6] x", (2, 5, 6)),
    "images, channels last": ("float[N,4,5,6] x", (2, 4, 5, 6)),
    "films": ("float[N,2,4,5,6] x", (2, 2, 4, 5, 6)),
}
BODIES = {
    "plain": "w = %6x8; y = MatMul(x, w)",
    "with a bias": "w = %6x8; b = %8; m = MatMul(x, w); y = Add(b, m)",
    "a bias of all axes": "w = %6x8; b = %1x8; m = MatMul(x, w); y = Add(m, b)",
    "read twice": "w = %6x8; b = %8; m = MatMul(x, w); a = Add(m, b); y = Mul(a, m)",
    "transposed": "w = %8x6; t = Transpose<perm=[1,0]>(w); y = MatMul(x, t)",
    "as integers": "w = %6x8:int8; s = %+8; d = DequantizeLinear<axis=1>(w, s); y = MatMul(x, d)",
    "as transposed integers": "w = %8x6:int8; s = %+8; z = %8:int8; d = DequantizeLinear<axis=0>(w, s, z); "
    "t = Transpose(d); b = %8; m = MatMul(x, t); y = Add(m, b)",
    "in blocks": "w = %6x8:int8; s = %+2x8; d = DequantizeLinear<axis=0, block_size=3>(w, s); y = MatMul(x, d)",
}


def operators(model: ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", BODIES)
@pytest.mark.parametrize("of", INPUTS)
def test_it_computes_the_same(form: str, case: str, of: str) -> None:
    inputs, shape = INPUTS[of]
    net = network(BODIES[case], inputs, "float[] y")
    feeds = {"x": DRAW.standard_normal(shape).astype(np.float32)}
    result = onnxprune.prune(net, matmul_as=form, **ALONE)
    assert result.report["rewritten"] == [
        {"name": result.report["rewritten"][0]["name"], "status": "rewritten", "reason": None}
    ]
    kinds = operators(result.model)
    assert ("Gemm" if form == "gemm" else "Conv") in kinds and not {"MatMul"} & set(kinds)
    np.testing.assert_allclose(run(result.model, feeds)["y"], run(net, feeds)["y"], rtol=1e-5, atol=1e-5)
    read = {name for node in result.model.graph.node for name in node.input}
    assert {tensor.name for tensor in result.model.graph.initializer} <= read
    other = {"x": feeds["x"][:1]}
    np.testing.assert_allclose(run(result.model, other)["y"], run(net, other)["y"], rtol=1e-5, atol=1e-5)
    onnx.checker.check_model(result.model, full_check=True)


@pytest.mark.parametrize(("form", "opset"), [(form, opset) for form in FORMS for opset in (7, 10, 11, 12, 13, 18)])
def test_every_opset_has_its_form(form: str, opset: int) -> None:
    net = network(
        "w = %6x8; m = MatMul(x, w); y = Relu(m)", "float[N,S,6] x", "float[N,S,8] y", opset=opset, ir_version=4
    )
    result = onnxprune.prune(net, matmul_as=form, **ALONE)
    assert [o.version for o in result.model.opset_import if not o.domain] == [opset]
    feeds = {"x": DRAW.standard_normal((2, 3, 6)).astype(np.float32)}
    np.testing.assert_allclose(run(result.model, feeds)["y"], run(net, feeds)["y"], rtol=1e-5, atol=1e-5)


def test_a_gemm_becomes_a_convolution_too() -> None:
    net = network("w = %8x6; b = %8; y = Gemm<transB=1>(x, w, b)", "float[N,6] x", "float[N,8] y")
    result = onnxprune.prune(net, matmul_as="conv", **ALONE)
    assert operators(result.model) == ["Unsqueeze", "Conv", "Squeeze"]
    feeds = {"x": DRAW.standard_normal((3, 6)).astype(np.float32)}
    np.testing.assert_allclose(run(result.model, feeds)["y"], run(net, feeds)["y"], rtol=1e-5, atol=1e-5)


STAYS = {
    "its weights stand on the left": ("w = %8x5; y = MatMul(w, x)", "float[N,5,6] x"),
    "its weights are no single matrix": ("w = %2x6x8; y = MatMul(x, w)", "float[N,2,5,6] x"),
    "its weights are read by other nodes too": ("w = %6x6; a = MatMul(x, w); y = Add(a, w)", "float[N,6,6] x"),
    "it scales or transposes what it reads": ("w = %6x8; y = Gemm<alpha=2.0>(x, w)", "float[N,6] x"),
    "its bias is no stored number per column": ("w = %6x8; b = %1; y = Gemm(x, w, b)", "float[N,6] x"),
    "it multiplies 6 axes, and a convolution takes 2 to 5": ("w = %6x8; y = MatMul(x, w)", "float[N,1,2,1,2,6] x"),
}


@pytest.mark.parametrize("reason", STAYS)
def test_why_a_product_stays(reason: str) -> None:
    body, inputs = STAYS[reason]
    result = onnxprune.prune(network(body, inputs), matmul_as="conv", **ALONE)
    rows = result.report["rewritten"]
    assert [row["reason"] for row in rows] == [reason] and rows[0]["status"] == "kept"
    assert any(reason in warning for warning in result.report["warnings"])


def test_shared_weights_are_stored_once() -> None:
    """A Gemm reads what the MatMul read; a tied head keeps its table."""
    net = network(
        "w = %9x6; e = Gather(w, i); t = Transpose<perm=[1,0]>(w); y = MatMul(e, t)", "int64[N,S] i", "float[N,S,9] y"
    )
    result = onnxprune.prune(net, matmul_as="gemm", input_value={"i": 1}, **ALONE)
    assert operators(result.model) == ["Gather", "Reshape", "Gemm", "Shape", "Gather", "Concat", "Reshape"]
    assert sum(tensor.dims == [9, 6] for tensor in result.model.graph.initializer) == 1
    feeds = {"i": np.array([[1, 8, 0]])}
    np.testing.assert_allclose(run(result.model, feeds)["y"], run(net, feeds)["y"], rtol=1e-5, atol=1e-5)
    kept = onnxprune.prune(net, matmul_as="conv", **ALONE)
    assert kept.report["rewritten"][0]["reason"] == "its weights are read by other nodes too"


def test_patterns_stay_along_the_contraction() -> None:
    """Two of every four weights beside each other along the channels that a convolution reads."""
    net = network(
        "w = %8x12; b = %12; m = MatMul(x, w); a = Add(m, b); r = Relu(a); v = %12x4; y = MatMul(r, v)",
        "float[N,5,8] x",
    )
    result = onnxprune.prune(net, sparsity="2:4", matmul_as="conv", latency=False)
    assert [step["kind"] for step in result.report["steps"]][-2:] == ["zeros", "rewrite"]
    kernels = [numpy_helper.to_array(tensor) for tensor in result.model.graph.initializer if len(tensor.dims) == 4]
    assert len(kernels) == 2
    for kernel in kernels:
        blocks = kernel.reshape(kernel.shape[0], -1, 4)
        assert ((blocks != 0).sum(axis=2) == 2).all()


@pytest.mark.parametrize("form", FORMS)
def test_behind_widths_and_before_storage(form: str, tmp_path: Path) -> None:
    out = tmp_path / "small.onnx"
    result = onnxprune.prune(TRANSFORMER, output=out, ratio=0.3, matmul_as=form, storage="fp16", latency=False)
    assert [step["kind"] for step in result.report["steps"]] == ["units", "rewrite", "storage"]
    assert result.report["surgery"]["exact"] and load(out).size < load(TRANSFORMER).size
    again = onnxprune.apply(result.plan, TRANSFORMER, latency=False)
    assert again.model.SerializeToString() == result.model.SerializeToString()


def test_what_is_excluded_stays() -> None:
    net = network("w = %6x8; m = MatMul(x, w); r = Relu(m); v = %8x4; y = MatMul(r, v)", "float[N,5,6] x")
    result = onnxprune.prune(net, matmul_as="gemm", exclude=("v",), **ALONE)
    assert operators(result.model) == ["Reshape", "Gemm", "Reshape", "Relu", "MatMul"]


def test_a_plan_of_another_form_is_refused() -> None:
    net = network("w = %6x8; y = MatMul(x, w)", "float[N,5,6] x")
    plan = onnxprune.prune(net, matmul_as="gemm", **ALONE).plan
    plan.steps[0].record["form"][0] = "conv"
    with pytest.raises(PlanError, match="writes products as 'conv'"):
        onnxprune.apply(plan, net, latency=False)


def test_unknown_forms_are_refused() -> None:
    with pytest.raises(UsageError, match="did you mean 'gemm'"):
        onnxprune.prune(network("w = %6x8; y = MatMul(x, w)", "float[N,5,6] x"), matmul_as="gem")
