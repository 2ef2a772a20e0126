"""Positions that share their fate: the components of a graph, as scipy finds them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from onnxprune.coupling.links import components


@pytest.mark.parametrize("density", [0.0, 0.3, 0.5, 1.0, 3.0])
def test_components_are_those_of_a_graph(density: float) -> None:
    for seed in range(40):
        rng = np.random.default_rng(seed)
        size = int(rng.integers(1, 200))
        left, right = rng.integers(0, size, (2, int(density * size)))
        found = components(size, left, right)
        check(size, left, right, found)


@pytest.mark.parametrize("order", ["rising", "falling", "mixed"])
def test_chains_are_one_component_in_few_turns(order: str) -> None:
    """However the members of a long chain are numbered."""
    members = np.arange(20_000)
    members = {"rising": members, "falling": members[::-1], "mixed": np.random.default_rng(0).permutation(members)}[
        order
    ]
    count, labels = components(len(members), members[:-1], members[1:])
    assert count == 1 and not labels.any()


def check(size: int, left: np.ndarray, right: np.ndarray, found: tuple[int, np.ndarray]) -> None:
    count, labels = found
    expected, theirs = connected_components(
        coo_array((np.ones(len(left), np.int8), (left, right)), shape=(size, size)), directed=False
    )
    assert count == expected == len({*zip(labels.tolist(), theirs.tolist(), strict=True)})
    firsts = [labels.tolist().index(number) for number in range(count)]
    assert firsts == sorted(firsts)  # numbered in order of first appearance
