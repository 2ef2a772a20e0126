"""Layer OBS against brute force: costs, greedy order, refitted weights, degenerate inputs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.criteria import consumers, curvature
from onnxprune.criteria.consumers import output_energy
from onnxprune.criteria.curvature import (
    Problem,
    _Removal,
    costs_alone,
    damped,
    inverse,
    joint_order,
    obs_order,
    solve_removed,
)


def _case(seed: int, inputs: int = 8, outputs: int = 3, rows: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (h float64[rows, inputs], gram, weight) with correlated inputs."""
    rng = np.random.default_rng(seed)
    h = rng.standard_normal((rows, inputs)) @ rng.standard_normal((inputs, inputs))
    return h, h.T @ h / rows, rng.standard_normal((outputs, inputs))


def _cost(matrix: np.ndarray, weight: np.ndarray, gone: np.ndarray) -> float:
    """min over W' on the kept inputs of tr((W - W') A (W - W')^T), by least squares on a square root of A."""
    root = np.linalg.cholesky(matrix)
    kept = np.setdiff1d(np.arange(len(matrix)), gone)
    _, left, _, _ = np.linalg.lstsq(root[kept].T, (weight @ root).T, rcond=None)
    return float(left.sum()) if len(kept) else float(np.square(weight @ root).sum())


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1, 2, 4]))
def test_error_curve_is_the_exact_cost_of_the_removed_set(seed, block):
    _, gram, weight = _case(seed)
    blocks = np.arange(8).reshape(-1, block)
    order, error = obs_order(gram, weight, blocks)
    for count in range(len(blocks) + 1):
        gone = blocks[order[:count]].reshape(-1)
        assert error[count] == pytest.approx(_cost(damped(gram, 1e-2), weight, gone), rel=1e-7, abs=1e-9)


def test_inputs_of_no_unit_stay_and_help():
    _, gram, weight = _case(43)
    blocks = np.array([[6, 1], [3, 4]])
    order, error = obs_order(gram, weight, blocks)
    for count in (1, 2):
        gone = blocks[order[:count]].reshape(-1)
        assert error[count] == pytest.approx(_cost(damped(gram, 1e-2), weight, gone), rel=1e-7)


def test_each_step_takes_the_unit_whose_removal_costs_least():
    _, gram, weight = _case(3)
    order, _ = obs_order(gram, weight)
    matrix = damped(gram, 1e-2)
    for count in range(7):
        gone = order[:count].tolist()
        costs = {u: _cost(matrix, weight, np.array([*gone, u])) for u in range(8) if u not in gone}
        assert order[count] == min(costs, key=costs.get)


def test_curves_rise_and_end_at_the_whole_output_energy():
    _, gram, weight = _case(5, inputs=12)
    error = obs_order(gram, weight).error
    assert error[0] == 0 and (np.diff(error) >= 0).all()
    assert error[-1] == pytest.approx(np.trace(weight @ damped(gram, 1e-2) @ weight.T))


def test_batches_reach_the_same_exact_errors():
    _, gram, weight = _case(7, inputs=12)
    order, error = obs_order(gram, weight, batch=4)
    for count in (4, 8, 12):
        assert error[count] == pytest.approx(_cost(damped(gram, 1e-2), weight, order[:count]), rel=1e-7)


def test_refactorisation_changes_nothing(monkeypatch):
    _, gram, weight = _case(11, inputs=12)
    once = obs_order(gram, weight)
    monkeypatch.setattr("onnxprune.criteria.curvature.DOWNDATES", 2)
    often = obs_order(gram, weight)
    assert np.array_equal(once.order, often.order)
    np.testing.assert_allclose(once.error, often.error, rtol=1e-9)


def test_two_consumers_add_up():
    _, first, weight = _case(13)
    _, second, other = _case(17)
    blocks = np.arange(8)[:, None]
    both = joint_order([Problem(first, weight, blocks, 2.0), Problem(second, other, blocks)])
    for count, gone in ((n, both.order[:n]) for n in (1, 3, 8)):
        want = 2 * _cost(damped(first, 1e-2), weight, gone) + _cost(damped(second, 1e-2), other, gone)
        assert both.error[count] == pytest.approx(want, rel=1e-7)


def test_dead_and_duplicate_inputs_go_first_and_free():
    h, _, weight = _case(19)
    h[:, 5] = 0.0
    h[:, 2] = h[:, 6]
    gram = h.T @ h / len(h)
    order, error = obs_order(gram, weight, damping=1e-6)
    assert order[0] == 5 and error[1] == 0
    assert order[1] in (2, 6) and error[2] < 1e-4 * error[-1]


def test_output_metric_weighs_outputs():
    _, gram, weight = _case(23)
    metric = np.diag([1.0, 0.0, 0.0])
    only = obs_order(gram, weight[:1])
    np.testing.assert_array_equal(obs_order(gram, weight, metric=metric).order, only.order)


def test_nothing_breaks_where_the_gram_is_zero_or_singular():
    weight = np.ones((2, 4))
    assert np.array_equal(obs_order(np.zeros((4, 4)), weight).order, np.arange(4))
    order, error = obs_order(np.ones((4, 4)), weight, damping=0.0)
    assert sorted(order) == [0, 1, 2, 3] and np.isfinite(error).all()


def test_inverse_of_an_ill_conditioned_matrix_is_symmetric_and_finite():
    matrix = np.ones((5, 5)) + 1e-12 * np.eye(5)
    result = inverse(matrix)
    assert np.isfinite(result).all() and np.array_equal(result, result.T)


@pytest.mark.parametrize("gone", list(itertools.combinations(range(4), 2)))
def test_solve_removed_is_the_ridge_solution(gone):
    h, gram, weight = _case(29, inputs=4)
    removed = np.isin(np.arange(4), gone)
    fold = solve_removed(gram, weight, removed, damping=1e-3)
    ridge = 1e-3 * np.trace(gram) / 4
    kept = h[:, ~removed]
    change = np.linalg.solve(
        kept.T @ kept / len(h) + ridge * np.eye(2), kept.T @ (h[:, removed] @ weight[:, removed].T) / len(h)
    )
    np.testing.assert_allclose(fold.weight, weight[:, ~removed] + change.T, rtol=1e-9)
    left = h @ weight.T - kept @ fold.weight.T
    assert fold.error == pytest.approx(np.square(left).sum(axis=1).mean())


def test_solve_removed_with_means_refits_the_bias():
    h, _, weight = _case(31, inputs=4)
    h = h + np.array([3.0, -1.0, 2.0, 5.0])
    removed = np.array([True, False, False, True])
    fold = solve_removed(np.cov(h.T, bias=True), weight, removed, mean=h.mean(axis=0), damping=0.0)
    design = np.hstack([h[:, ~removed], np.ones((len(h), 1))])
    want, *_ = np.linalg.lstsq(design, h @ weight.T, rcond=None)
    np.testing.assert_allclose(np.vstack([fold.weight.T, fold.shift]), want, rtol=1e-7)


def test_removing_nothing_changes_nothing():
    _, gram, weight = _case(37)
    fold = solve_removed(gram, weight, np.zeros(8, bool))
    assert np.array_equal(fold.weight, weight) and fold.error == 0 and not fold.shift.any()


def test_hand_computed():
    """Two inputs with correlation 1/2: removing either leaves 3/4 of its power, W' = w_kept + w_removed / 2."""
    gram = np.array([[1.0, 0.5], [0.5, 1.0]])
    order, error = obs_order(gram, np.array([[1.0, 2.0]]), damping=0.0)
    assert order.tolist() == [0, 1]
    np.testing.assert_allclose(error, [0, 0.75, 0.75 + 2.5**2])
    fold = solve_removed(gram, np.array([[1.0, 2.0]]), np.array([True, False]), damping=0.0)
    assert fold.weight == pytest.approx(2.5) and fold.error == pytest.approx(0.75)


def test_inputs_that_do_not_go_together_are_ordered_by_what_each_costs() -> None:
    rng = np.random.default_rng(5)
    problems = [
        Problem(np.diag(rng.random(9) + 0.1), rng.standard_normal((4, 9)), rng.permutation(9)[:, None], scale)
        for scale in (1.0, 3.0)
    ]
    found = joint_order(problems)
    nearly = [problem._replace(gram=problem.gram + 1e-13 * np.ones((9, 9))) for problem in problems]
    want = joint_order(nearly)  # the general way
    np.testing.assert_array_equal(found.order, want.order)
    np.testing.assert_allclose(found.error, want.error, rtol=1e-9)


def test_consumers_that_memory_does_not_hold_at_once_count_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    problems = [Problem(*_case(seed)[1:], np.arange(8)[:, None]) for seed in (1, 2, 3)]
    alone = [[_cost(damped(p.gram, 1e-2), p.weight, np.array([unit])) for unit in range(8)] for p in problems]
    monkeypatch.setattr(curvature, "MOST_HELD", 100)
    found = joint_order(problems)
    costs = np.sum(alone, axis=0)
    np.testing.assert_array_equal(found.order, np.argsort(costs, kind="stable"))
    np.testing.assert_allclose(np.diff(found.error), np.sort(costs), rtol=1e-6)


@pytest.mark.parametrize("block", [1, 3])
def test_what_units_cost_alone_is_what_a_removal_begins_with(block: int) -> None:
    rng = np.random.default_rng(0)
    blocks = rng.permutation(16)[: 4 * block].reshape(4, block)
    rows = rng.standard_normal((50, 16)) @ rng.standard_normal((16, 16))
    rows[:, blocks[1, 0]] = 0.0  # an input that carries nothing
    problems = [Problem(rows.T @ rows / 50, rng.standard_normal((30, 16)), blocks, scale) for scale in (1.0, 0.5)]
    shared = Problem(problems[1].gram[:], rng.standard_normal((7, 16)), blocks, 2.0)
    other = Problem(shared.gram, shared.weight, np.roll(blocks, 1, axis=0))
    problems += [shared, other]
    found = costs_alone(problems)
    want = sum(_Removal(problem, 1e-2).costs(np.ones(4, bool)) for problem in problems)
    np.testing.assert_allclose(found, want, rtol=1e-8)


def test_large_output_energies_are_those_of_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows, weight = 1e12 * rng.standard_normal((50, 16)), rng.standard_normal((9, 16))
    gram = rows.T @ rows / 50
    want = output_energy(weight, gram)
    assert want == pytest.approx(np.trace(weight @ gram @ weight.T))
    monkeypatch.setattr(consumers, "MANY_PRODUCTS", 0)
    monkeypatch.setattr(consumers, "ROWS_AT_ONCE", 4)
    assert output_energy(weight, gram) == pytest.approx(want, rel=1e-5)
    assert output_energy(weight, np.zeros_like(gram)) == 0
    alone = np.diag(gram.diagonal())
    assert output_energy(weight, alone) == pytest.approx(np.trace(weight @ alone @ weight.T))
