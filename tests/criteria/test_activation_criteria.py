"""Criteria from forward passes: laws first, then each against numbers computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from support.networks import network

from onnxprune.coupling.groups import Analysis, Group, analyse
from onnxprune.criteria import CRITERIA, parse_criterion, score
from onnxprune.criteria.consumers import problems
from onnxprune.criteria.curvature import Problem
from onnxprune.criteria.reconstruction import contributions, dropped_order, lasso_solution, smallest_subsets
from onnxprune.criteria.spec import Scoring
from onnxprune.criteria.tensors import WeightReader
from onnxprune.data import input_specs, open_dataset
from onnxprune.errors import DataError
from onnxprune.evidence import collect
from onnxprune.evidence.ablation import ablate
from onnxprune.model.facts import gather_facts
from onnxprune.model.graph import Graph
from onnxprune.model.read import load

FORWARD = [
    *("activation-mean", "activation-rms", "activation-variance", "apoz", "entropy", "hrank"),
    *("wanda", "flap", "reconstruction", "obs", "thinet", "lasso"),
]

# x -> relu -> three hidden units -> one output: h_j = relu(a_j x_0 + b_j x_1), y = sum_j w_j h_j
MLP = "h = MatMul(x, a)\nr = Relu(h)\ny = MatMul(r, w)"


def _analysis(model) -> Analysis:
    loaded = load(model)
    return analyse(gather_facts(loaded, Graph(loaded.structure)))


def _mlp(first: list[list[float]], second: list[list[float]]) -> Analysis:
    body = f"a = @{first}\nw = @{second}\n{MLP}"
    return _analysis(network(body, f"float[n,{len(first)}] x", f"float[n,{len(second[0])}] y"))


def _scores(analysis: Analysis, data: np.ndarray, name: str) -> list[np.ndarray]:
    dataset = open_dataset(data, input_specs(analysis.facts.model.proto))
    return score(
        analysis, parse_criterion(f"{name}::none"), evidence=collect(analysis, CRITERIA[name].needs, dataset)
    ).values


def _convnet(seed: int = 0) -> tuple[Analysis, np.ndarray]:
    body = """
    h = Conv<pads=[1,1,1,1], kernel_shape=[3,3]>(x, %6x3x3x3)
    r = Relu(h)
    s = Conv<pads=[1,1,1,1], group=2, kernel_shape=[3,3]>(r, %8x3x3x3)
    t = Relu(s)
    u = ConvTranspose<kernel_shape=[2,2], strides=[2,2]>(t, %8x4x2x2)
    p = GlobalAveragePool(u)
    f = Flatten(p)
    y = Gemm<transB=1>(f, %3x4, %3)
    """
    data = np.random.default_rng(seed).standard_normal((16, 3, 6, 6)).astype(np.float32)
    return _analysis(network(body, "float[n,3,6,6] x", "float[n,3] y", seed=seed)), data


# --- laws -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORWARD)
def test_every_group_gets_finite_scores_of_its_width(name):
    analysis, data = _convnet()
    for group, values in zip(analysis.groups, _scores(analysis, data, name), strict=True):
        assert values.shape == (group.width,) and np.isfinite(values).all() and (values >= 0).all()


@pytest.mark.parametrize("name", FORWARD)
def test_a_silent_unit_scores_least(name):
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((4, 5)), rng.standard_normal((5, 3))
    first[:, 2] = 0.0
    analysis = _mlp(first.tolist(), second.tolist())
    data = rng.standard_normal((64, 4)).astype(np.float32)
    (values,) = _scores(analysis, data, name)
    assert values.argmin() == 2


@pytest.mark.parametrize("name", ["wanda", "flap", "reconstruction", "obs", "thinet"])
def test_a_unit_that_nobody_weighs_scores_least(name):
    rng = np.random.default_rng(1)
    first, second = rng.standard_normal((4, 5)), rng.standard_normal((5, 3))
    second[3] = 0.0
    (values,) = _scores(_mlp(first.tolist(), second.tolist()), rng.standard_normal((64, 4)).astype(np.float32), name)
    assert values.argmin() == 3


@pytest.mark.parametrize("name", FORWARD)
def test_permuting_units_permutes_scores(name):
    rng = np.random.default_rng(2)
    first, second, order = rng.standard_normal((4, 5)), rng.standard_normal((5, 3)), np.array([3, 0, 4, 1, 2])
    data = rng.standard_normal((50, 4)).astype(np.float32)
    (plain,) = _scores(_mlp(first.tolist(), second.tolist()), data, name)
    (moved,) = _scores(_mlp(first[:, order].tolist(), second[order].tolist()), data, name)
    np.testing.assert_allclose(moved, plain[order], rtol=1e-5)


@pytest.mark.parametrize("name", ["wanda", "flap", "reconstruction", "thinet", "lasso"])
def test_moving_scale_from_one_layer_to_the_next_changes_nothing(name):
    """relu(2 a x) w / 2 = relu(a x) w: criteria that weigh what is read do not notice."""
    rng = np.random.default_rng(3)
    first, second, scale = rng.standard_normal((4, 5)), rng.standard_normal((5, 3)), np.array([1, 2, 4, 0.5, 8])
    data = rng.standard_normal((50, 4)).astype(np.float32)
    (plain,) = _scores(_mlp(first.tolist(), second.tolist()), data, name)
    (moved,) = _scores(_mlp((first * scale).tolist(), (second / scale[:, None]).tolist()), data, name)
    np.testing.assert_allclose(moved, plain, rtol=1e-4)


def test_duplicated_units_go_first_with_obs_although_they_are_strong():
    rng = np.random.default_rng(4)
    first, second = rng.standard_normal((6, 5)), rng.standard_normal((5, 3))
    first[:, 4] = first[:, 1]
    second[[1, 4]] *= 3
    (values,) = _scores(_mlp(first.tolist(), second.tolist()), rng.standard_normal((400, 6)).astype(np.float32), "obs")
    assert values.argmin() in (1, 4)


def test_data_criteria_without_evidence_say_so():
    analysis, _ = _convnet()
    with pytest.raises(DataError, match="needs moments"):
        score(analysis, parse_criterion("wanda"))


def test_consumers_with_several_readers_add_up():
    """Two readers of the same units, one of them silent: the scores are those of the other, up to the common scale."""
    body = f"""
    a = %4x5
    w = %5x2
    h = MatMul(x, a)
    r = Relu(h)
    u = MatMul(r, w)
    v = MatMul(r, @{np.zeros((5, 2)).tolist()})
    y = Concat<axis=1>(u, v)
    """
    both = _analysis(network(body, "float[n,4] x", "float[n,4] y"))
    data = np.random.default_rng(5).standard_normal((60, 4)).astype(np.float32)
    w = both.facts.content("w")
    one = _mlp(both.facts.content("a").tolist(), w.tolist())
    np.testing.assert_allclose(_scores(both, data, "obs")[0], _scores(one, data, "obs")[0], rtol=1e-6)


# --- by hand --------------------------------------------------------------------------------------------------------

IDENTITY = [[1.0, 0.0], [0.0, 1.0]]
# relu(x): unit 0 sees 1, 3, 0, 0 (mean 1, power 2.5, variance 1.5); unit 1 sees 2, 2, 2, 0 (1.5, 3, 0.75)
ROWS = np.array([[1, 2], [3, 2], [-1, 2], [-4, -1]], np.float32)
WEIGHTS = [[2.0, -1.0], [0.5, 1.0]]  # row j: how unit j is read; sums of |w| 3 and 1.5, of w^2 5 and 1.25

BY_HAND = {
    "activation-mean": [1.0, 1.5],
    "activation-rms": [np.sqrt(2.5), np.sqrt(3.0)],
    "activation-variance": [1.5, 0.75],
    "apoz": [0.5, 0.75],
    "entropy": [1.5 * np.log(2), -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))],  # shares 1/2 1/4 1/4 and 3/4 1/4
    "hrank": [0.5, 0.75],
    "wanda": [3 * np.sqrt(2.5), 1.5 * np.sqrt(3.0)],
    "flap": [1.5 * 5, 0.75 * 1.25],
}


@pytest.mark.parametrize("name", BY_HAND)
def test_by_hand(name):
    (values,) = _scores(_mlp(IDENTITY, WEIGHTS), ROWS, name)
    np.testing.assert_allclose(values, BY_HAND[name], rtol=1e-6)


def test_reconstruction_by_hand():
    """Cov(h) = [[1.5, 0.5], [0.5, 0.75]]; <w_0, w_1> = 0, so the output energy is 7.5 + 0.9375."""
    (values,) = _scores(_mlp(IDENTITY, WEIGHTS), ROWS, "reconstruction")
    np.testing.assert_allclose(values, np.array([7.5, 0.9375]) / 8.4375, rtol=1e-6)


def test_obs_by_hand():
    """Damping 0.01 * 1.125: unit 1 leaves 0.76125 - 0.25 / 1.51125 of its power, times 1.25; then unit 0 is read by
    (2, -1) + 0.5 / 1.51125 * (0.5, 1)."""
    (values,) = _scores(_mlp(IDENTITY, WEIGHTS), ROWS, "obs")
    ridge = 0.01 * 1.125
    first = (0.75 + ridge - 0.25 / (1.5 + ridge)) * 1.25
    share = 0.5 / (1.5 + ridge)
    rest = (1.5 + ridge) * ((2 + 0.5 * share) ** 2 + (-1 + share) ** 2)
    np.testing.assert_allclose(values, np.array([first + rest, first]) / 8.4375, rtol=1e-6)


def test_thinet_takes_the_subset_whose_sum_is_smallest():
    """Contributions 5, -5 + small and 1: the 1 goes first (energy 1); then 5 next to nothing else costs (5 + 1)^2 = 36,
    -5 only (-5 + 1)^2 = 16."""
    gram = np.outer([5.0, -5.0, 1.0], [5.0, -5.0, 1.0])
    assert smallest_subsets(gram).tolist() == [2, 1, 0]


def test_lasso_by_hand():
    """Orthogonal contributions of power 4, 1 and 9: beta_u = max(1 - penalty / power, 0)."""
    gram = np.diag([4.0, 1.0, 9.0])
    np.testing.assert_allclose(lasso_solution(gram, gram.sum(axis=1), 2.0, np.zeros(3)), [0.5, 0, 7 / 9])
    assert dropped_order(gram).tolist() == [1, 0, 2]


def test_lasso_meets_its_optimality_conditions():
    rng = np.random.default_rng(6)
    design = rng.standard_normal((50, 8))
    gram = design.T @ design
    target, beta = gram.sum(axis=1), np.zeros(8)
    for _ in range(30):
        beta = lasso_solution(gram, target, 20.0, beta)
    gradient = target - gram @ beta
    np.testing.assert_allclose(gradient[beta != 0], 20.0 * np.sign(beta[beta != 0]), atol=0.1)
    assert (np.abs(gradient[beta == 0]) <= 20.1).all()


def _contributions(analysis: Analysis, group: Group, data: np.ndarray) -> np.ndarray:
    dataset = open_dataset(data, input_specs(analysis.facts.model.proto))
    context = Scoring(analysis, WeightReader(analysis), evidence=collect(analysis, ["gram"], dataset))
    return contributions(problems(group, context, context.evidence["gram"], centred=False))


def test_contributions_through_a_transposed_convolution_are_the_outputs_energy():
    """Kernel as large as the stride: no two inputs meet, so nothing is left out."""
    body = "h = Conv<kernel_shape=[1,1]>(x, %3x2x1x1)\nr = Relu(h)\nw = %3x4x2x2\n"
    body += "y = ConvTranspose<kernel_shape=[2,2], strides=[2,2]>(r, w)"
    analysis = _analysis(network(body, "float[n,2,5,5] x", "float[n,4,10,10] y"))
    data = np.random.default_rng(8).standard_normal((20, 2, 5, 5)).astype(np.float32)
    hidden = np.maximum(np.einsum("nchw,oc->nohw", data, analysis.facts.content("t1")[:, :, 0, 0]), 0)
    flat = np.einsum("nchw,coij->cnohiwj", hidden, analysis.facts.content("w")).reshape(3, -1).astype(np.float64)
    found = _contributions(analysis, analysis.groups[0], data)
    want = flat @ flat.T
    np.testing.assert_allclose(found / found.trace(), want / want.trace(), rtol=1e-4)


def test_grouped_convolutions_read_each_group_apart():
    """Units cut across both groups of the reader: their contributions are sums over the groups' own outputs."""
    body = "h = Conv<kernel_shape=[1,1]>(x, %6x2x1x1)\nr = Relu(h)\nw = %4x3x2x2\n"
    body += "y = Conv<group=2, kernel_shape=[2,2]>(r, w)"
    analysis = _analysis(network(body, "float[n,2,5,5] x", "float[n,4,4,4] y"))
    (group,) = [g for g in analysis.groups if any(m.parameter == "w" and m.role == "reads" for m in g.members)]
    data = np.random.default_rng(9).standard_normal((20, 2, 5, 5)).astype(np.float32)
    hidden = np.maximum(np.einsum("nchw,oc->nohw", data, analysis.facts.content("t1")[:, :, 0, 0]), 0)
    windows = np.lib.stride_tricks.sliding_window_view(hidden, (2, 2), axis=(2, 3)).reshape(20, 2, 3, 4, 4, 2, 2)
    weight = analysis.facts.content("w").reshape(2, 2, 3, 2, 2)
    flat = np.einsum("ngchwij,gocij->cngohw", windows, weight).reshape(3, -1).astype(np.float64)
    found = _contributions(analysis, group, data)
    want = flat @ flat.T
    np.testing.assert_allclose(found / found.trace(), want / want.trace(), rtol=1e-4)


def test_unfolded_reconstruction_is_the_variance_of_what_one_unit_adds():
    """On a convolution without padding at all positions: Var(conv(h_u, w_u)) summed over outputs, over the whole."""
    body = "h = Conv<kernel_shape=[1,1]>(x, %3x2x1x1)\nr = Relu(h)\ny = Conv<kernel_shape=[2,2]>(r, w)\nw = %4x3x2x2"
    analysis = _analysis(network(body, "float[n,2,5,5] x", "float[n,4,4,4] y"))
    data = np.random.default_rng(7).standard_normal((20, 2, 5, 5)).astype(np.float32)
    hidden = np.maximum(np.einsum("nchw,oc->nohw", data, analysis.facts.content("t1")[:, :, 0, 0]), 0)
    windows = np.lib.stride_tricks.sliding_window_view(hidden, (2, 2), axis=(2, 3))
    parts = np.einsum("nchwij,ocij->cnhwo", windows, analysis.facts.content("w")).reshape(3, -1, 4)
    want = parts.var(axis=1).sum(axis=1) / parts.sum(axis=0).var(axis=0).sum()
    np.testing.assert_allclose(_scores(analysis, data, "reconstruction")[0], want, rtol=1e-4)


def test_contributions_sum_over_blocks_and_consumers():
    gram = np.arange(16.0).reshape(4, 4)
    blocks = np.array([[0, 1], [2, 3]])
    found = contributions([Problem(gram, np.ones((1, 4)), blocks), Problem(gram, np.ones((2, 4)), blocks, 0.5)])
    np.testing.assert_allclose(found, 2 * np.array([[10, 18], [42, 50]]))


# --- ablation -------------------------------------------------------------------------------------------------------


def test_ablation_by_hand():
    """Logits (h_0, h_1) = relu(x): without unit 0 they are (0, h_1), without unit 1 (h_0, 0)."""
    analysis = _mlp(IDENTITY, IDENTITY)
    rows, labels = np.array([[1, 2], [3, 1]], np.float32), np.array([1, 0])
    dataset = open_dataset(rows, input_specs(analysis.facts.model.proto), labels=labels)
    found = ablate(analysis, ["kl", "loss"], dataset)

    def log_p(logits):
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    before = log_p(rows)
    for unit in (0, 1):
        after = log_p(np.where(np.arange(2) == unit, 0.0, rows))
        kl = (np.exp(before) * (before - after)).sum(axis=1).mean()
        loss = (before - after)[[0, 1], labels].mean()
        assert found["kl"][0][unit] == pytest.approx(kl, rel=1e-5)
        assert found["loss"][0][unit] == pytest.approx(loss, rel=1e-5)
    values = score(analysis, parse_criterion("kl"), evidence=found).values
    np.testing.assert_array_equal(values[0], found["kl"][0])
    np.testing.assert_array_equal(
        score(analysis, parse_criterion("loss"), evidence=found).values[0], np.abs(found["loss"][0])
    )


def test_ablation_covers_every_group_and_dead_units_cost_nothing():
    analysis, data = _convnet()
    dataset = open_dataset(data[:3], input_specs(analysis.facts.model.proto))
    found = ablate(analysis, ["kl"], dataset)["kl"]
    assert [len(values) for values in found] == [group.width for group in analysis.groups]
    assert all((values >= 0).all() and values.max() > 0 for values in found)
    silent = _mlp([[1.0, 0.0], [1.0, 0.0]], IDENTITY)
    rows = open_dataset(np.ones((2, 2), np.float32), input_specs(silent.facts.model.proto))
    assert ablate(silent, ["kl"], rows)["kl"][0][1] == 0


def test_loss_needs_labels():
    analysis = _mlp(IDENTITY, IDENTITY)
    dataset = open_dataset(ROWS, input_specs(analysis.facts.model.proto))
    with pytest.raises(DataError, match="needs labels"):
        ablate(analysis, ["loss"], dataset)
