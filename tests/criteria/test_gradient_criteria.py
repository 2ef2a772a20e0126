"""Criteria from gradients: laws first, then each against numbers computed by hand or by central differences."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper
from support.networks import network

from onnxprune.coupling.groups import Analysis, analyse
from onnxprune.coupling.silence import silenced
from onnxprune.criteria import CRITERIA, parse_criterion, score
from onnxprune.data import Dataset, input_specs, open_dataset
from onnxprune.evidence import collect, sites
from onnxprune.evidence.ablation import ablate
from onnxprune.evidence.gradients import KINDS, sensitivities
from onnxprune.evidence.gradients.gather import batch_for
from onnxprune.means import Means
from onnxprune.model.facts import gather_facts
from onnxprune.model.graph import Graph
from onnxprune.model.read import load
from onnxprune.model.runtime import session

GRADIENT = ["taylor", "taylor-activation", "snip", "grasp", "fisher", "group-fisher", "obd"]
KRONECKER = ["kron-obd", "kron-obs", "eigendamage"]

# h = x a; y = h w: two inputs, hidden units without a bend, logits y
LINEAR = "a = @{}\nw = @{}\nh = MatMul(x, a)\ny = MatMul(h, w)"


def analysis_of(model) -> Analysis:
    loaded = load(model)
    return analyse(gather_facts(loaded, Graph(loaded.structure)))


def dataset_of(analysis: Analysis, data: np.ndarray, labels: np.ndarray | None = None) -> Dataset:
    return open_dataset(data, input_specs(analysis.facts.model.proto), labels=labels)


def scores(analysis: Analysis, dataset: Dataset, name: str, batch: int | None = None) -> list[np.ndarray]:
    means = Means(batch=batch)
    evidence = collect(analysis, CRITERIA[name].needs, dataset, means)
    found, _ = sensitivities(analysis, CRITERIA[name].needs, dataset, means)
    return score(analysis, parse_criterion(f"{name}:sum:none"), evidence={**evidence, **found}).values


def linear(a, w) -> Analysis:
    body = LINEAR.format(np.asarray(a, float).tolist(), np.asarray(w, float).tolist())
    return analysis_of(network(body, f"float[n,{len(a)}] x", f"float[n,{len(w[0])}] y"))


@pytest.fixture(scope="module")
def convnet() -> tuple[Analysis, np.ndarray, np.ndarray]:
    """A residual network with a grouped convolution, a gate and a classifier of three classes."""
    body = """
    h = Conv<pads=[1,1,1,1], kernel_shape=[3,3]>(x, %6x3x3x3, %6)
    r = Relu(h)
    s = Conv<pads=[1,1,1,1], group=2, kernel_shape=[3,3]>(r, %8x3x3x3)
    t = Relu(s)
    u = Conv<kernel_shape=[1,1]>(t, %6x8x1x1)
    v = Add(u, r)
    q = Conv<kernel_shape=[1,1]>(v, %5x6x1x1)
    g = Sigmoid(q)
    k = Mul(q, g)
    z = Conv<kernel_shape=[2,2], strides=[2,2]>(k, %4x5x2x2)
    p = GlobalAveragePool(z)
    f = Flatten(p)
    y = Gemm<transB=1>(f, %3x4, %3)
    """
    rng = np.random.default_rng(0)
    data = rng.standard_normal((12, 3, 6, 6)).astype(np.float32)
    return analysis_of(network(body, "float[n,3,6,6] x", "float[n,3] y")), data, rng.integers(0, 3, 12)


# --- laws -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("name", GRADIENT + KRONECKER)
def test_every_group_gets_finite_scores_of_its_width(convnet, name, labelled):
    analysis, data, labels = convnet
    found = scores(analysis, dataset_of(analysis, data, labels if labelled else None), name)
    for group, values in zip(analysis.groups, found, strict=True):
        assert values.shape == (group.width,) and np.isfinite(values).all() and values.any()
        assert name == "grasp" or (values >= 0).all()


@pytest.mark.parametrize("name", GRADIENT + KRONECKER)
def test_a_unit_that_nobody_reads_scores_zero_or_least(name):
    rng = np.random.default_rng(1)
    a, w = rng.standard_normal((4, 5)), rng.standard_normal((5, 3))
    a[:, 2] = w[2] = 0.0
    analysis = linear(a, w)
    (values,) = scores(analysis, dataset_of(analysis, rng.standard_normal((32, 4)).astype(np.float32)), name)
    assert np.abs(values).argmin() == 2 and abs(values[2]) < 1e-9 * np.abs(values).max()


@pytest.mark.parametrize("name", GRADIENT + KRONECKER)
def test_equal_runs_give_equal_bytes(convnet, name):
    analysis, data, _ = convnet
    first, second = (scores(analysis, dataset_of(analysis, data), name) for _ in range(2))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", ["taylor-activation", "fisher", "group-fisher"])
def test_means_over_samples_do_not_depend_on_the_batch(convnet, name):
    analysis, data, _ = convnet
    one, many = (scores(analysis, dataset_of(analysis, data), name, batch) for batch in (1, 5))
    for a, b in zip(one, many, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4)


def test_gates_are_the_sum_over_the_weights_that_read_the_unit(convnet):
    """sum(h * dL/dh) at a site is sum(W * dL/dW) over what reads it, also where others read the same value."""
    analysis, data, labels = convnet
    found, _ = sensitivities(analysis, ["task-gates", "task-weights"], dataset_of(analysis, data, labels))
    for group in analysis.groups:
        gates, products = found["task-gates"][group.index], found["task-weights"][group.index]
        for row, site in zip(gates.signed, sites(analysis)[group.index], strict=True):
            if site.weight:
                product = products[site.weight, site.weight_axis]
                np.testing.assert_allclose(row, product.signed, rtol=1e-4, atol=1e-7)


def test_gates_are_the_derivative_of_silencing(convnet):
    """-sum over sites of a is the slope of the loss where the unit's consumers read (1 - e) times as much."""
    analysis, data, labels = convnet
    dataset = dataset_of(analysis, data, labels)
    found, _ = sensitivities(analysis, ["task-gates"], dataset)
    small = [np.ones(width, bool) for width in analysis.widths]
    small[1][0] = False
    numeric = _slope(analysis, small, data, labels)
    np.testing.assert_allclose(found["task-gates"][1].signed.sum(axis=0)[0], numeric, rtol=2e-2)


def _slope(analysis: Analysis, kept: list[np.ndarray], data: np.ndarray, labels: np.ndarray) -> float:
    """Central difference of the loss over how much of the silenced unit its consumers read."""
    silent = silenced(analysis, kept)[0]
    proto = silent.draft()
    nodes = []
    for node in proto.graph.node:
        if node.op_type == "Where":
            node.input[2] = f"{node.output[0]}_scaled"
            nodes.append(helper.make_node("Mul", [node.input[1], "keep"], [node.input[2]]))
        nodes.append(NodeProto.FromString(node.SerializeToString()))
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    proto.graph.input.append(helper.make_tensor_value_info("keep", TensorProto.FLOAT, []))
    opened = session(silent.derived(proto))

    def loss(keep: float) -> float:
        logits = opened.run({"x": data, "keep": np.array(keep, np.float32)})["y"].astype(np.float64)
        logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return -logits[np.arange(len(labels)), labels].mean()

    return (loss(1.01) - loss(0.99)) / 0.02


def test_weak_units_change_the_loss_by_what_their_gates_say():
    rng = np.random.default_rng(3)
    a, w = rng.standard_normal((4, 6)), 0.01 * rng.standard_normal((6, 3))
    analysis, labels = linear(a, w), rng.integers(0, 3, 64)
    dataset = dataset_of(analysis, rng.standard_normal((64, 4)).astype(np.float32), labels)
    exact = ablate(analysis, ["loss"], dataset)["loss"][0]
    found, _ = sensitivities(analysis, ["task-gates"], dataset)
    np.testing.assert_allclose(-found["task-gates"][0].signed.sum(axis=0), exact, rtol=0.1, atol=1e-4)


# --- by hand --------------------------------------------------------------------------------------------------------

# x = (1, 0), labels 0: h = (2, 1), y = (2, 1) w, w = identity: logits (2, 1)
A, W = [[2.0, 1.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]
X = np.array([[1, 0]], np.float32)
P = np.exp(2) / (np.exp(2) + np.exp(1))  # probability of class 0
G = np.array([P - 1, 1 - P])  # dL/dy = p - onehot(0) = dL/dh


def _by_hand(name: str) -> np.ndarray:
    analysis = linear(A, W)
    return scores(analysis, dataset_of(analysis, X, np.array([0])), name)[0]


def test_taylor_by_hand():
    """Writing weights of unit u: a_0u with gradient x_0 G_u; reading ones: w_uu with gradient h_u G_u (others are zero)."""
    effects = np.array([2.0, 1.0]) * G
    np.testing.assert_allclose(_by_hand("taylor"), 2 * effects**2, rtol=1e-5)


def test_snip_by_hand():
    np.testing.assert_allclose(_by_hand("snip"), 2 * np.abs(np.array([2.0, 1.0]) * G), rtol=1e-5)


def test_taylor_activation_by_hand():
    np.testing.assert_allclose(_by_hand("taylor-activation"), np.abs(np.array([2.0, 1.0]) * G), rtol=1e-5)


def test_fisher_and_group_fisher_by_hand():
    """One site, one element per unit: both are a^2 / 2."""
    want = (np.array([2.0, 1.0]) * G) ** 2 / 2
    np.testing.assert_allclose(_by_hand("fisher"), want, rtol=1e-5)
    np.testing.assert_allclose(_by_hand("group-fisher"), want, rtol=1e-5)


def test_grasp_by_hand():
    """w (H g) over all weights by central differences of the gradient along itself, in closed form for this network."""

    def gradient(theta: np.ndarray) -> np.ndarray:
        a, w = theta[:4].reshape(2, 2), theta[4:].reshape(2, 2)
        h = X[0] @ a
        p = np.exp(h @ w) / np.exp(h @ w).sum()
        delta = p - np.array([1.0, 0.0])
        return np.concatenate([np.outer(X[0], w @ delta).reshape(-1), np.outer(h, delta).reshape(-1)])

    theta = np.concatenate([np.reshape(A, -1), np.reshape(W, -1)])
    g, e = gradient(theta), 1e-5
    product = theta * (gradient(theta + e * g) - gradient(theta - e * g)) / (2 * e)
    want = product[:4].reshape(2, 2).sum(axis=0) + product[4:].reshape(2, 2).sum(axis=1)
    np.testing.assert_allclose(_by_hand("grasp"), want, rtol=1e-4)


def test_obd_is_the_fisher_diagonal_in_expectation():
    """With many repeats of one sample the squared gradients average to E over labels of (dL/dw)^2; H_ww w^2 / 2 summed."""
    analysis = linear(A, W)
    found = scores(analysis, dataset_of(analysis, np.repeat(X, 6000, axis=0)), "obd", batch=4)[0]
    variance = P * (1 - P)  # of dL/dy_k when the label is drawn
    want = 0.5 * variance * 2 * np.array([2.0, 1.0]) ** 2
    np.testing.assert_allclose(found, want, rtol=0.1)


def test_kron_obd_by_hand():
    """One sample: A = h h^T and G = E g g^T over drawn labels; unit u costs G_uu h_u^2 / 2."""
    analysis = linear(A, W)
    found = scores(analysis, dataset_of(analysis, np.repeat(X, 4000, axis=0)), "kron-obd")[0]
    np.testing.assert_allclose(found, 0.5 * P * (1 - P) * np.array([2.0, 1.0]) ** 2, rtol=0.1)


def test_eigendamage_of_uncorrelated_inputs_is_kron_obd():
    """Where A is diagonal its eigenbasis is the units themselves."""
    analysis = linear(np.diag([2.0, 1.0]), [[1.0, 2.0, 0.0], [0.5, 0.0, 1.0]])
    data = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]] * 8, np.float32)
    one, other = (scores(analysis, dataset_of(analysis, data), name)[0] for name in ("eigendamage", "kron-obd"))
    np.testing.assert_allclose(one, other, rtol=1e-6)


def test_eigendamage_shares_out_all_damage():
    rng = np.random.default_rng(5)
    analysis = linear(rng.standard_normal((4, 4)), rng.standard_normal((4, 3)))
    dataset = dataset_of(analysis, rng.standard_normal((64, 4)).astype(np.float32))
    evidence = collect(analysis, ("gram",), dataset)
    found, _ = sensitivities(analysis, ["fisher-outputs"], dataset)
    (site,) = sites(analysis)[0]
    gram = evidence["gram"][site.gram].second_moment[0]
    metric = found["fisher-outputs"][0][site].moment[0]
    weight = analysis.facts.content(site.weight).astype(np.float64).T
    values = score(analysis, parse_criterion("eigendamage::none"), evidence={**evidence, **found}).values[0]
    np.testing.assert_allclose(values.sum(), 0.5 * np.trace(metric @ weight @ gram @ weight.T), rtol=1e-9)


def test_kron_obs_forgives_what_others_make_up_for():
    """Two equal units and one alone: either twin may go for nothing, the single one may not."""
    analysis = linear([[1, 1, 0], [0, 0, 1]], [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    rng = np.random.default_rng(0)
    (values,) = scores(analysis, dataset_of(analysis, rng.standard_normal((256, 2)).astype(np.float32)), "kron-obs")
    assert values[:2].min() < 0.05 * values[2]


# --- what is differentiated -----------------------------------------------------------------------------------------


def test_probabilities_give_the_gradients_of_their_logits():
    body = "a = @[[2., 1.], [0.5, 0.]]\nw = @[[1., 0.], [0.2, 1.]]\nh = MatMul(x, a)\nl = MatMul(h, w)\n"
    data, labels = np.float32([[1, 0], [0.5, -1]]), np.array([0, 1])
    plain, soft = (
        analysis_of(network(body + end, "float[n,2] x", "float[n,2] y"))
        for end in ("y = Identity(l)", "y = Softmax(l)")
    )
    for name in ("taylor", "fisher"):
        one, other = (scores(model, dataset_of(model, data, labels), name)[0] for model in (plain, soft))
        np.testing.assert_allclose(one, other, rtol=1e-4)


def test_outputs_that_are_no_classes_are_weighted_by_signs():
    """y = h w with one output of rank 3: E a^2 over signs is the squared effect on the output."""
    body = "a = @[[2., 1.]]\nw = @[[1.], [3.]]\nh = MatMul(x, a)\ny = MatMul(h, w)"
    analysis = analysis_of(network(body, "float[n,1,1] x", "float[n,1,1] y"))
    found, remarks = sensitivities(analysis, ["task-gates"], dataset_of(analysis, np.ones((4, 1, 1), np.float32)))
    np.testing.assert_allclose(found["task-gates"][0].square[0], np.array([2.0, 3.0]) ** 2)
    assert remarks == ("no labels: gradients are those of a loss drawn from the model's own outputs",)


def test_labels_that_do_not_fit_are_not_used_and_that_is_said():
    analysis = linear(A, W)
    _, remarks = sensitivities(analysis, ["task-gates"], dataset_of(analysis, X, np.array([7])))
    assert remarks[0].startswith("no labels of the calibration data fit")


def test_batches_shrink_where_activations_are_large():
    """Two values of 3 * 1000 * 1000 float32 per sample are 24 MB: 22 samples fit into 512 MiB."""
    body = "h = Relu(x)\ny = Conv<kernel_shape=[1,1]>(h, %3x3x1x1)"
    facts = analysis_of(network(body, "float[2,3,1000,1000] x", "float[2,3,1000,1000] y")).facts
    assert [batch_for(facts, most) for most in (32, 8)] == [22, 8]


def test_kinds_of_the_criteria_exist():
    needed = {kind for name in GRADIENT + KRONECKER for kind in CRITERIA[name].needs}
    assert set(KINDS) <= needed | {"gram"}
