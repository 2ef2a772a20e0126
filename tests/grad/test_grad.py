"""Gradients: every rule against central differences, the driver's laws, each loss against numbers computed by hand."""

from __future__ import annotations

import ast
import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from cases import GRADIENTS
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser
from support.gradients import Case

import onnxprune.grad
from onnxprune.errors import ModelError, UsageError
from onnxprune.grad import backward, check_grads, gradient_name, losses
from onnxprune.grad.rules.constant import CONSTANT
from onnxprune.grad.view import VJPS, VjpRule
from onnxprune.means import Means
from onnxprune.model.runtime import session

CASES = [case for cases in GRADIENTS.values() for case in cases]
ROW_TOLERANCE = 1e-3
"""For rows that ONNX Runtime computes in float32 only; the others have to meet the tighter default of float64."""


def text(body: str, opset: int = 18) -> ModelProto:
    return parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]>\n{body}')


def grads(model: ModelProto, wrt: list[str], feeds: dict, **options) -> dict[str, np.ndarray]:
    found = session(backward(model, wrt, **options)).run(feeds)
    return {name.removesuffix(":grad"): value for name, value in found.items()}


def identity(*shape: int | str) -> ModelProto:
    dims = ", ".join(map(str, shape))
    return text(f"net (float[{dims}] x) => (float[{dims}] y) {{ y = Identity(x) }}")


# --- rules ----------------------------------------------------------------------------------------------------------


def is_free(case: Case) -> bool:
    return any(getattr(operand, "free", ()) for operand in case.inputs)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rule_agrees_with_central_differences(case: Case):
    feeds = None if is_free(case) else case.feeds()
    check = check_grads(case.model(), list(case.feeds()), feeds=feeds)
    if check.dtype == "FLOAT":
        check = check_grads(case.model(), list(case.feeds()), feeds=feeds, tolerance=ROW_TOLERANCE)
    assert check.passed, check
    assert abs(check.analytic) > 1e-3  # a row whose derivative vanishes would show nothing


def test_every_rule_has_a_row_and_every_row_a_rule():
    rows = {case.op for case in CASES} - {case.op for case in GRADIENTS["rewritten"]}
    assert rows == set(VJPS) - set(CONSTANT)
    assert set(GRADIENTS) - {"rewritten"} == set(onnxprune.grad.rules.__all__) - {"constant"}


def test_names_of_rows_are_unique():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)


def test_check_grads_finds_a_wrong_rule(monkeypatch):
    wrong = VjpRule(lambda emit, node, g: [g * emit("Sin", node.x)], False)
    monkeypatch.setitem(VJPS._entries, "Sin", wrong)
    case = next(case for case in CASES if case.op == "Sin")
    assert not check_grads(case.model(), feeds=case.feeds()).passed


@pytest.mark.parametrize("op", ["Floor", "Sign", "Round", "Ceil"])
def test_steps_have_zero_gradient(op):
    model = text(f"net (float[3] x) => (float[3] y) {{ y = {op}(x) }}")
    assert not grads(model, ["x"], {"x": np.asarray([0.3, -1.2, 2.7], np.float32)})["x"].any()


# --- the driver -----------------------------------------------------------------------------------------------------


def test_fan_out_adds_up():
    model = text("net (float[3] x) => (float[3] y) { a = Mul(x, x)\n b = Add(a, x)\n y = Add(b, x) }")
    x = np.asarray([1, -2, 3], np.float32)
    np.testing.assert_array_equal(grads(model, ["x"], {"x": x})["x"], 2 * x + 2)


def test_a_weight_that_every_step_reads_has_one_product_of_all_steps():
    steps = "\n".join(
        f"i{k} = Constant<value_int={k}>()\n x{k} = Gather(x, i{k})\n p{k} = Gemm(x{k}, w, b)" for k in range(4)
    )
    model = text(
        f"net (float[4,2,3] x, float[3,5] w, float[5] b) => (float[2,5] y) {{ {steps}\n y = Max(p0, p1, p2, p3) }}"
    )
    found = backward(model, ["x", "w", "b"])
    count = Counter(node.op_type for node in found.graph.node)
    assert (count["Gemm"], count["Pad"]) == (4 + 4 + 1, 0)
    assert check_grads(model, ["x", "w", "b"]).passed


def test_pieces_that_cover_an_axis_twice_are_added_up_before_they_are_joined():
    body = "a, c = Split<axis=1>(x, s)\n d = Slice(x, z, t, o)\n e = Slice(x, t, u, o)\n p = Mul(a, d)\n q = Mul(c, e)\n y = Concat<axis=1>(p, q)"
    stored = "int64[2] s = {1, 2}, int64[1] z = {0}, int64[1] t = {1}, int64[1] u = {3}, int64[1] o = {1}"
    model = text(f"net (float[2,3] x) => (float[2,3] y) <{stored}> {{ {body} }}")
    x = np.asarray([[1, -2, 3], [4, 5, -6]], np.float32)
    np.testing.assert_array_equal(grads(model, ["x"], {"x": x})["x"], 2 * x)


def test_broadcast_axes_are_summed_back():
    model = text("net (float[2,3] x, float[3] b, float[1,1,1] c) => (float[1,2,3] y) { a = Add(x, b)\n y = Mul(a, c) }")
    feeds = {"x": np.ones((2, 3), np.float32), "b": np.ones(3, np.float32), "c": np.full((1, 1, 1), 2, np.float32)}
    found = grads(model, ["x", "b", "c"], feeds)
    np.testing.assert_array_equal(found["x"], np.full((2, 3), 2))
    np.testing.assert_array_equal(found["b"], np.full(3, 4))
    np.testing.assert_array_equal(found["c"], np.full((1, 1, 1), 12))


def mlp(batch: int | str = "n", dtype: str = "float") -> ModelProto:
    weight = np.random.default_rng(0).standard_normal((4, 3))
    model = text(
        f"net ({dtype}[{batch},4] x) => ({dtype}[{batch},3] y) <{dtype}[4,3] w, {dtype}[3] b> "
        "{ h = MatMul(x, w)\n a = Add(h, b)\n y = Relu(a) }"
    )
    kind = helper.tensor_dtype_to_np_dtype(model.graph.input[0].type.tensor_type.elem_type)
    del model.graph.initializer[:]
    model.graph.initializer.append(numpy_helper.from_array(weight.astype(kind), "w"))
    model.graph.initializer.append(numpy_helper.from_array(np.asarray([0.1, 0.2, -0.3], kind), "b"))
    return model


def test_one_graph_serves_every_batch_size():
    running = session(backward(mlp(), ["x", "w"], losses.mse()))
    random = np.random.default_rng(1)
    x, t = random.standard_normal((5, 4)).astype(np.float32), random.standard_normal((5, 3)).astype(np.float32)
    whole = running.run({"x": x, "targets": t})
    rows = [running.run({"x": x[k : k + 1], "targets": t[k : k + 1]}) for k in range(5)]
    for name in ("loss", "w:grad"):
        np.testing.assert_allclose(whole[name], np.mean([row[name] for row in rows], axis=0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(whole["x:grad"], np.concatenate([row["x:grad"] for row in rows]) / 5, rtol=1e-5)


def test_gradient_of_an_activation_and_its_value_come_out_together():
    graph = backward(mlp(), ["a"], outputs=["a", "y"])
    found = session(graph).run({"x": np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)})
    np.testing.assert_array_equal(found["a:grad"], (found["a"] > 0).astype(np.float32))
    np.testing.assert_array_equal(found["y"], np.maximum(found["a"], 0))
    assert not any(node.op_type == "Gemm" or "MatMul" in node.name for node in graph.graph.node[1:])


def test_fed_parameters_can_be_trained():
    graph = backward(mlp(), ["w", "b"], losses.mse(), parameters_as_inputs=True)
    assert not {t.name for t in graph.graph.initializer} & {"w", "b"}
    running, random = session(graph), np.random.default_rng(0)
    feeds = {"x": random.standard_normal((8, 4)).astype(np.float32), "targets": np.ones((8, 3), np.float32)}
    feeds |= {"w": random.standard_normal((4, 3)).astype(np.float32), "b": np.zeros(3, np.float32)}
    history = []
    for _ in range(20):
        found = running.run(feeds)
        history.append(float(found["loss"]))
        feeds |= {name: feeds[name] - 0.05 * found[gradient_name(name)] for name in ("w", "b")}
    assert all(later < earlier for earlier, later in itertools.pairwise(history))


def test_half_precision_is_computed_in_single():
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float16)
    half = session(backward(mlp(dtype="float16"), ["x", "w"])).run({"x": x})
    full = session(backward(mlp(), ["x", "w"])).run({"x": x.astype(np.float32)})
    assert half["w:grad"].dtype == np.float32 and half["x:grad"].dtype == np.float16
    np.testing.assert_allclose(half["w:grad"], full["w:grad"], rtol=1e-6)  # the weights' rounding does not reach dW
    np.testing.assert_allclose(half["x:grad"], full["x:grad"], rtol=2e-3, atol=2e-3)


def test_second_derivatives():
    """f = sum x^3: the gradient is 3 x^2, and <v, gradient> has the gradient 6 x v."""
    model = text("net (float[3] x) => (float[3] y) { s = Mul(x, x)\n y = Mul(s, x) }")
    first = backward(model, ["x"])
    second = backward(first, ["x"], losses.total("x:grad", weights="v"), order=2)
    x, v = np.asarray([1, 2, 3], np.float32), np.asarray([1, -1, 2], np.float32)
    found = session(second).run({"x": x, "v": v})
    np.testing.assert_allclose(found["x:grad2"], 6 * x * v)
    np.testing.assert_allclose(found["loss2"], np.sum(3 * x**2 * v))


def test_second_derivatives_of_a_convolutional_net():
    model = text(
        "net (float[2,8,6,6] x, float[8,8,3,3] w) => (float[2,8] y) "
        "{ c = Conv<pads=[1,1,1,1]>(x, w)\n s = Softplus(c)\n p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(s)\n"
        " g = GlobalAveragePool(p)\n y = Flatten(g) }"
    )
    first = backward(model, ["w"])
    assert check_grads(first, ["w", "x"], losses.total("w:grad", weights="v"), means=Means(seed=1)).passed


def test_value_beside_the_loss_has_a_zero_gradient():
    model = text("net (float[2] x, float[3] z) => (float[2] y, float[3] u) { y = Exp(x)\n u = Neg(z) }")
    feeds = {"x": np.ones(2, np.float32), "z": np.ones(3, np.float32)}
    assert not grads(model, ["x", "z"], feeds, loss=losses.total("y"))["z"].any()


def test_operator_without_a_rule_is_named_with_its_node():
    model = text("net (float[3,3] x) => (float y) { h = Exp(x)\n [volume] y = Det(h) }")
    with pytest.raises(ModelError, match=r"Det \(node 'volume'\).*no gradient rule"):
        backward(model, ["x"])


def test_operators_before_the_targets_need_no_rule():
    model = text("net (float[3,3] x) => (float y) { d = Det(x)\n y = Exp(d) }")
    found = session(backward(model, ["d"])).run({"x": np.eye(3, dtype=np.float32)})
    np.testing.assert_allclose(found["d:grad"], np.e, rtol=1e-6)


def test_unknown_and_integer_values_are_refused():
    with pytest.raises(UsageError, match=r"no value 'wx'; did you mean"):
        backward(mlp(), ["wx"])
    model = text("net (int64[2] i, float[3] x) => (float[2] y) { y = Gather(x, i) }")
    with pytest.raises(UsageError, match=r"'i' is of type INT64"):
        backward(model, ["i"])
    with pytest.raises(UsageError, match=r"no float output 'z'"):
        backward(mlp(), ["w"], losses.mse(output="z"))


def test_recurrent_layer_of_free_length_says_what_to_do():
    case = next(case for case in CASES if case.op == "RNN")
    model = case.model()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "steps"
    with pytest.raises(ModelError, match=r"RNN \(node 'node'\).*give fixed input shapes"):
        backward(model, ["x0"])
    feeds, shapes = case.feeds(), {"x0": (4, 2, 3)}
    assert check_grads(model, list(feeds), losses.total("y0"), feeds, input_shapes=shapes).passed


def test_if_with_a_known_condition_becomes_its_branch():
    model = text(
        "net (float[2,3] x) => (float[2,3] y) { s = Shape(x)\n two = Constant<value_int=2>()\n"
        " zero = Constant<value_int=0>()\n"
        " n = Gather(s, zero)\n c = Equal(n, two)\n"
        " y = If(c)<then_branch = a () => (float[2,3] t) { t = Exp(x) },"
        " else_branch = b () => (float[2,3] e) { e = Neg(x) }> }"
    )
    x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    np.testing.assert_allclose(grads(model, ["x"], {"x": x})["x"], np.exp(x), rtol=1e-6)


def test_result_is_a_valid_model_and_the_same_every_time():
    one, two = (backward(mlp(), ["x", "w", "b"], losses.kl(temperature=2.0)) for _ in range(2))
    onnx.checker.check_model(one, full_check=True)
    assert one.SerializeToString(deterministic=True) == two.SerializeToString(deterministic=True)


def test_the_model_given_is_left_alone():
    model = mlp()
    before = model.SerializeToString(deterministic=True)
    backward(model, ["w"], parameters_as_inputs=True)
    assert model.SerializeToString(deterministic=True) == before


# --- losses ---------------------------------------------------------------------------------------------------------

LOG3 = np.log(3.0)


def loss_and_grad(loss, x: np.ndarray, **given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    found = session(backward(identity(*x.shape), ["x"], loss)).run({"x": x.astype(np.float32), **given})
    return found["loss"], found["x:grad"]


def test_cross_entropy():
    """softmax(0, ln 3) = (1/4, 3/4)."""
    x = np.asarray([[0, LOG3], [LOG3, 0]])
    loss, grad = loss_and_grad(losses.cross_entropy(), x, labels=np.asarray([1, 1]))
    np.testing.assert_allclose(loss, -(np.log(3 / 4) + np.log(1 / 4)) / 2, rtol=1e-6)
    np.testing.assert_allclose(grad, [[1 / 8, -1 / 8], [3 / 8, -3 / 8]], rtol=1e-6)


def test_cross_entropy_per_sample_and_over_places():
    x = np.zeros((2, 3, 4))
    loss, grad = loss_and_grad(losses.cross_entropy(axis=1, per_sample=True), x, labels=np.zeros((2, 4), np.int64))
    np.testing.assert_allclose(loss, [LOG3, LOG3], rtol=1e-6)
    np.testing.assert_allclose(grad[:, 0], np.full((2, 4), (1 / 3 - 1) / 4), rtol=1e-6)


def test_sampled_labels_follow_the_softmax():
    """With uniform noise below e^-1 for one class and near 1 for the other, the other is drawn."""
    loss, grad = loss_and_grad(
        losses.sampled_cross_entropy(), np.asarray([[0, LOG3]]), uniform=np.asarray([[0.999, 0.1]], np.float32)
    )
    np.testing.assert_allclose(loss, np.log(4), rtol=1e-6)
    np.testing.assert_allclose(grad, [[-3 / 4, 3 / 4]], rtol=1e-6)
    uniform = np.random.default_rng(0).uniform(size=(4000, 2)).astype(np.float32)
    _, grad = loss_and_grad(losses.sampled_cross_entropy(), np.tile([[0, LOG3]], (4000, 1)), uniform=uniform)
    assert abs((grad[:, 1] < 0).mean() - 3 / 4) < 0.03  # four standard deviations of 4,000 draws


def test_divergence_from_targets():
    """T = 2: softmax(0, ln 3) against (1/2, 1/2), times 4, with gradient T (q - p)."""
    targets = np.asarray([[0, 2 * LOG3]], np.float32)
    loss, grad = loss_and_grad(losses.kl(temperature=2.0), np.zeros((1, 2)), target_logits=targets)
    np.testing.assert_allclose(loss, 4 * (np.log(1 / 2) / 4 + 3 * np.log(3 / 2) / 4), rtol=1e-5)
    np.testing.assert_allclose(grad, [[2 * (1 / 2 - 1 / 4), 2 * (1 / 2 - 3 / 4)]], rtol=1e-5)


def test_divergence_from_oneself_is_flat_but_curved():
    """Value and gradient vanish; the Hessian is diag p - p p^T = 3/16 [[1, -1], [-1, 1]]."""
    x = np.asarray([[0, LOG3]], np.float32)
    loss, grad = loss_and_grad(losses.self_kl(), x)
    np.testing.assert_allclose([loss, *grad.ravel()], 0, atol=1e-7)
    first = backward(identity(1, 2), ["x"], losses.self_kl())
    second = backward(first, ["x"], losses.total("x:grad", weights="v"), order=2)
    hessian = session(second).run({"x": x, "v": np.asarray([[1, 0]], np.float32)})["x:grad2"]
    np.testing.assert_allclose(hessian, [[3 / 16, -3 / 16]], rtol=1e-5)


def test_gauss_newton_gradients_have_the_right_second_moment():
    """Averaged over all four signs: E[g g^T] = diag p - p p^T."""
    x = np.asarray([[0, LOG3]], np.float32)
    signs = [np.asarray([z], np.float32) for z in itertools.product((1, -1), repeat=2)]
    found = [loss_and_grad(losses.gauss_newton(), x, signs=z)[1].ravel() for z in signs]
    np.testing.assert_allclose(
        np.mean([np.outer(g, g) for g in found], axis=0), 3 / 16 * np.asarray([[1, -1], [-1, 1]]), rtol=1e-5
    )


def test_mean_squared_error():
    loss, grad = loss_and_grad(losses.mse(), np.asarray([[1.0, 2.0]]), targets=np.asarray([[0, 4]], np.float32))
    np.testing.assert_allclose(loss, 2.5)
    np.testing.assert_allclose(grad, [[1, -2]])


def test_cosine():
    """cos between (3, 4) and (1, 0) is 3/5; its gradient is (1, 0)/5 - 3/5 (3, 4)/25."""
    loss, grad = loss_and_grad(losses.cosine(), np.asarray([[3.0, 4.0]]), targets=np.asarray([[1, 0]], np.float32))
    np.testing.assert_allclose(loss, 2 / 5, rtol=1e-6)
    np.testing.assert_allclose(grad, [[9 / 125 - 1 / 5, 12 / 125]], rtol=1e-5)


def test_total_with_an_output_gradient():
    weights = np.asarray([[2, -1], [0, 3]], np.float32)
    loss, grad = loss_and_grad(losses.total(weights="g"), np.asarray([[1.0, 2.0], [3.0, 4.0]]), g=weights)
    assert loss == 12
    np.testing.assert_array_equal(grad, weights)
    loss, _ = loss_and_grad(losses.total(per_sample=True), np.asarray([[1.0, 2.0], [3.0, 4.0]]))
    np.testing.assert_array_equal(loss, [3, 7])


def test_labels_keep_the_free_batch():
    graph = backward(identity("n", 3), ["x"], losses.cross_entropy())
    labels = next(value for value in graph.graph.input if value.name == "labels")
    assert labels.type.tensor_type.elem_type == TensorProto.INT64
    assert not labels.type.tensor_type.shape.dim[0].HasField("dim_value")


# --- the layer ------------------------------------------------------------------------------------------------------


def test_gradients_know_nothing_of_coupling():
    for file in Path(onnxprune.grad.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            module = getattr(node, "module", None) or ""
            assert not module.startswith("onnxprune.coupling"), file
