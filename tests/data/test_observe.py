"""Laws of the one fold over data: how it is shared out, and in which order parts come together, changes no bit."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.data import Dataset, InputSpec, observe, open_dataset
from onnxprune.errors import DataError
from onnxprune.means import Means

ROWS = 53


@dataclass
class Walked:
    """A sum that depends on the order of its terms, with what it was made of."""

    total: Any = 0.0
    firsts: list[int] = field(default_factory=list)

    def fresh(self) -> Walked:
        return Walked()

    def update(self, seen: observe.Batch) -> None:
        self.total = np.float32(self.total + seen.inputs["x"].sum(dtype=np.float32))
        self.firsts += range(seen.first, seen.first + seen.samples)

    def merge(self, other: Walked) -> None:
        self.total = np.float32(self.total + other.total)
        self.firsts += other.firsts


def rows(count: int = ROWS) -> Dataset:
    values = np.random.default_rng(0).standard_normal((count, 3), np.float32) * 10.0 ** np.arange(-3, 3, 2)
    return open_dataset(values.astype(np.float32), (InputSpec("x", np.dtype(np.float32), (None, 3)),))


def ragged() -> Dataset:
    """Rows of two lengths, in runs that end within leaves."""
    random = np.random.default_rng(0)
    feeds = [random.standard_normal((n, w)).astype(np.float32) for n, w in ((5, 2), (9, 3), (2, 2), (21, 3), (16, 2))]
    return open_dataset([{"x": feed} for feed in feeds], (InputSpec("x", np.dtype(np.float32), (None, None)),))


def walked(dataset: Dataset, means: Means) -> Walked:
    (found,) = observe.observe(lambda batch: batch, dataset, [Walked()], means)
    return found


@pytest.fixture(autouse=True, scope="module")
def small_leaves() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(observe, "LEAF", 8)
        yield


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_any_split_into_shards_and_any_order_give_the_same_bytes(data: st.DataObject) -> None:
    make = data.draw(st.sampled_from([rows, ragged]))
    means = Means(batch=data.draw(st.sampled_from([None, 1, 3, 4, 16])))
    whole, dataset = walked(make(), means), make()
    assert whole.firsts == list(range(ROWS))
    numbers = data.draw(st.permutations(range(observe.leaves(dataset, means))))
    cuts = sorted(data.draw(st.sets(st.integers(1, max(len(numbers) - 1, 1)), max_size=4)))
    shares = np.split(np.array(numbers, int), cuts)
    found: observe.Parts = observe.Parts()
    for share in shares:
        found.merge(observe.observe_leaves(lambda batch: batch, dataset, [Walked()], means, share.tolist()))
    (merged,) = found.whole().all
    assert merged.firsts == whole.firsts and np.float32(merged.total).tobytes() == np.float32(whole.total).tobytes()


@pytest.mark.parametrize("make", [rows, ragged])
def test_threads_give_the_same_bytes(make) -> None:
    whole = walked(make(), Means(batch=3))
    with ThreadPoolExecutor(3) as pool:
        spread = walked(make(), Means(batch=3, spread=pool.map))
    backwards = walked(make(), Means(batch=3, spread=lambda look, parts: map(look, reversed(parts))))
    assert whole == spread == backwards


def test_up_to_a_leaf_the_sum_is_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe, "LEAF", 64)
    plain = Walked()
    first = 0
    for inputs, labels in rows().labelled(4):
        plain.update(observe.Batch(inputs, labels, first, len(inputs["x"])))
        first += len(inputs["x"])
    assert walked(rows(), Means(batch=4)) == plain


def test_a_node_is_its_left_part_with_its_right_one_merged_into_it() -> None:
    """By hand: leaves 0 to 4 are ((0 1)(2 3)) 4."""
    found: observe.Parts = observe.Parts()
    for number in (3, 0, 4, 2, 1):
        found.add((0, number), Walked(np.float32(number), [number]))
    assert sorted(found.known) == [(0, 4), (2, 0)]
    assert found.whole().firsts == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("missing", [0, 2, 3])
def test_a_missing_part_is_said(missing: int) -> None:
    found: observe.Parts = observe.Parts()
    for number in {0, 1, 2, 3, 4} - {missing}:
        found.add((0, number), Walked())
    with pytest.raises(DataError, match="a part of the data is missing"):
        found.whole()


def test_rows_that_fill_no_fixed_batch_are_left_out_of_every_share() -> None:
    values = np.arange(2 * ROWS, dtype=np.float32).reshape(ROWS, 2)
    fixed = open_dataset(values, (InputSpec("x", np.dtype(np.float32), (4, 2)),))
    whole = walked(fixed, Means())
    assert whole.firsts == list(range(52))
    assert walked(fixed, Means(spread=map)) == whole
