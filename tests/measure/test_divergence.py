"""The one number by which proposals are compared."""

from __future__ import annotations

import numpy as np
import pytest
from support.networks import feeds, network

from onnxprune.measure.divergence import Reference, mean_divergence
from onnxprune.model.read import Model

RNG = np.random.default_rng(0)
LOGITS, MAPS = RNG.standard_normal((6, 4), np.float32), RNG.standard_normal((6, 3, 5), np.float32)


@pytest.mark.parametrize("value", [LOGITS, MAPS, LOGITS[:, 0], np.arange(6)])
def test_equal_outputs_diverge_by_nothing(value):
    assert mean_divergence([{"y": value}], [{"y": value}]) == 0


def test_class_scores_by_hand():
    even, sure = np.log([[0.5, 0.5]]), np.log([[0.25, 0.75]])
    expected = 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
    assert mean_divergence([{"y": even}], [{"y": sure}]) == pytest.approx(expected)
    assert mean_divergence([{"y": np.exp(even)}], [{"y": np.exp(sure)}]) == pytest.approx(expected)  # probabilities
    assert mean_divergence([{"y": even}], [{"y": sure + 3}]) == pytest.approx(expected)  # scores have no origin


def test_other_outputs_are_compared_by_variance_by_hand():
    original, pruned = np.array([[[0.0, 2.0]]]), np.array([[[1.0, 2.0]]])
    assert mean_divergence([{"y": original}], [{"y": pruned}]) == pytest.approx(1 / 2)


def test_whole_numbers_count_only_where_nothing_else_does():
    classes = [{"label": np.array([1, 2, 3, 4])}], [{"label": np.array([1, 2, 3, 0])}]
    assert mean_divergence(*classes) == pytest.approx(1 / 4)
    assert mean_divergence([classes[0][0] | {"y": LOGITS}], [classes[1][0] | {"y": LOGITS}]) == 0


def test_batches_weigh_by_their_size():
    other = LOGITS + RNG.standard_normal(LOGITS.shape)
    parts = [{"y": LOGITS[:2]}, {"y": LOGITS[2:]}], [{"y": other[:2]}, {"y": other[2:]}]
    assert mean_divergence(*parts) == pytest.approx(mean_divergence([{"y": LOGITS}], [{"y": other}]))


@pytest.mark.parametrize("bad", [np.full((6, 4), np.nan), np.full((6, 4), np.inf), np.zeros((6, 3))])
def test_what_cannot_be_compared_is_infinitely_far(bad):
    assert mean_divergence([{"y": LOGITS}], [{"y": bad}]) == np.inf


@pytest.mark.parametrize("limit", [0, 100, 1 << 20])
def test_a_reference_gives_the_same_with_and_without_memory(limit):
    original, pruned = (Model.of(network("y = Conv(x, %2x3x1x1)", seed=seed)) for seed in (0, 1))
    batches = [feeds(original.proto, seed) for seed in range(3)]
    reference = Reference(original, batches, limit=limit)
    found = [reference.divergence(pruned) for _ in range(2)]
    assert found[0] == found[1] == Reference(original, batches).divergence(pruned) > 0
    assert reference.divergence(original) == 0
