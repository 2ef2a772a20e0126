"""Gradients against torch autograd as a second oracle; skipped where torch is not installed."""

from __future__ import annotations

import numpy as np
import pytest
from cases import GRADIENTS
from onnx import numpy_helper, parser
from support.gradients import Case, Normal

from onnxprune.grad import backward, gradient_name, losses
from onnxprune.model.runtime import session

torch = pytest.importorskip("torch")
from support import torch_reference  # noqa: E402

TOLERANCE = 1e-4
"""Relative to the largest element: both sides compute in float32."""

NETWORKS = {
    "convolutional": (
        "net (float[4,3,16,16] x, float[8,3,3,3] w, float[8] b, float[16,8,3,3] v, float[16] c, float[10,256] u) "
        "=> (float[4,10] y) { h = Conv<pads=[1,1,1,1]>(x, w, b)\n r = Relu(h)\n"
        " p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)\n q = Conv<pads=[1,1,1,1], strides=[2,2]>(p, v, c)\n"
        " s = HardSwish(q)\n f = Flatten(s)\n y = Gemm<transB=1>(f, u) }"
    ),
    "attention": (
        "net (float[2,5,8] x, float[8,24] w, float[8] g, float[8] b, float[8,8] u) => (float[2,5,8] y) "
        "{ n = LayerNormalization(x, g, b)\n a = MatMul(n, w)\n q, k, v = Split<axis=2, num_outputs=3>(a)\n"
        " t = Transpose<perm=[0,2,1]>(k)\n s = MatMul(q, t)\n p = Softmax(s)\n o = MatMul(p, v)\n m = MatMul(o, u)\n"
        " r = Add(x, m)\n e = Erf(r)\n y = Mul(r, e) }"
    ),
    "upsampling": (
        "net (float[2,4,5,5] x, float[4,3,2,2] w, float[3] s, float[3] b) => (float[2,3,10,10] y) "
        "{ t = ConvTranspose<strides=[2,2]>(x, w)\n n = InstanceNormalization(t, s, b)\n y = Sigmoid(n) }"
    ),
}


def close(ours: np.ndarray, theirs: np.ndarray) -> bool:
    return bool(np.abs(ours - theirs).max() <= TOLERANCE * max(np.abs(theirs).max(), 1e-6))


@pytest.mark.parametrize("name", NETWORKS)
def test_network_agrees_with_autograd(name: str):
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]>\n{NETWORKS[name]}')
    random = np.random.default_rng(0)
    feeds = {
        value.name: random.standard_normal([d.dim_value for d in value.type.tensor_type.shape.dim]).astype(np.float32)
        for value in model.graph.input
    }
    targets = random.standard_normal([d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim])
    wanted = torch.tensor(targets, dtype=torch.float32)
    theirs = torch_reference.gradients(model, feeds, list(feeds), lambda y: ((y - wanted) ** 2).mean())
    ours = session(backward(model, list(feeds), losses.mse())).run({**feeds, "targets": targets.astype(np.float32)})
    for value in feeds:
        assert close(ours[gradient_name(value)], theirs[value]), value


NOT_INTERPRETED = {"AveragePool-include", "Clip", "Pad-axes", "ReduceSum-none", "DepthToSpace"}
"""Rows whose form torch lacks: uneven pads, a range of differentiable limits, ..."""


def comparable(case: Case) -> bool:
    """Whether the interpreter covers a row: its operator, in a current opset, with explicit sizes and pads."""
    free = any(getattr(operand, "free", ()) for operand in case.inputs)
    implicit = {"auto_pad", "output_shape", "ceil_mode"} & set(case.attributes)
    plain = case.opset >= 18 and not free and not implicit and case.kept is None
    return plain and case.op in torch_reference.OPERATORS and case.name not in NOT_INTERPRETED


@pytest.mark.parametrize(
    "case", [c for rows in GRADIENTS.values() for c in rows if comparable(c)], ids=lambda case: case.name
)
def test_rule_agrees_with_autograd(case: Case):
    model, feeds = case.model(), case.feeds()
    names = [f"x{k}" for k, operand in enumerate(case.inputs) if isinstance(operand, Normal)]
    graph = backward(model, names, losses.total("y0", weights="g"))
    shape = [dim.dim_value for dim in next(v for v in graph.graph.input if v.name == "g").type.tensor_type.shape.dim]
    weights = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    ours = session(graph).run({**feeds, "g": weights})
    theirs = torch_reference.gradients(model, feeds, names, lambda y: (y * torch.tensor(weights)).sum())
    for name in names:
        assert close(ours[gradient_name(name)], theirs[name]), name


def test_stored_parameters_take_part():
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]>\n'
        "net (float[3,4] x) => (float[3,2] y) <float[4,2] w> { y = MatMul(x, w) }"
    )
    del model.graph.initializer[:]
    model.graph.initializer.append(numpy_helper.from_array(np.arange(8, dtype=np.float32).reshape(4, 2), "w"))
    feeds = {"x": np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)}
    theirs = torch_reference.gradients(model, feeds, ["w"], lambda y: (y**2).sum())
    ours = session(backward(model, ["w"], losses.total(weights="g")))
    y = feeds["x"] @ np.arange(8, dtype=np.float32).reshape(4, 2)
    assert close(ours.run({**feeds, "g": 2 * y})["w:grad"], theirs["w"])
