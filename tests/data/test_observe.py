"""Laws of the one fold over data: how it is shared out, and in which order parts come together, changes no bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.spreads import Shuffled, threads

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
    (found,) = observe.observe(itself, dataset, [Walked()], means)
    return found


def itself(batch: observe.Batch) -> observe.Batch:
    return batch


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
    work = observe.Pass(itself, dataset, (Walked(),), means)
    cuts = sorted(data.draw(st.sets(st.integers(1, max(work.count - 1, 1)), max_size=4)) | {0, work.count})
    found: observe.Parts = observe.Parts()
    for first, end in data.draw(st.permutations(list(pairwise(cuts)))):
        found.merge(work((first, end)))
    (merged,) = found.whole(work.count).all
    assert merged.firsts == whole.firsts and np.float32(merged.total).tobytes() == np.float32(whole.total).tobytes()


@pytest.mark.parametrize("make", [rows, ragged])
def test_threads_give_the_same_bytes(make) -> None:
    whole = walked(make(), Means(batch=3))
    with threads() as pool:
        spread = walked(make(), Means(batch=3, spread=pool))
    backwards = walked(make(), Means(batch=3, spread=Shuffled()))
    assert whole == spread == backwards


def test_up_to_a_leaf_the_sum_is_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe, "LEAF", 64)
    plain = Walked()
    first = 0
    for inputs, labels in rows().labelled(4):
        plain.update(observe.Batch(inputs, labels, first, len(inputs["x"])))
        first += len(inputs["x"])
    assert walked(rows(), Means(batch=4)) == plain


@dataclass
class Bracketed:
    """Says how it was put together."""

    text: str

    def merge(self, other: Bracketed) -> None:
        self.text = f"({self.text}{other.text})"


def test_leaves_are_joined_in_one_order_whenever_they_come() -> None:
    """By hand: four leaves from left to right are a node, nodes from left to right the whole."""
    expected = "((((01)2)3)(((45)6)7))"
    for count, text in ((8, expected), (10, f"({expected}(89))"), (3, "((01)2)"), (1, "0")):
        for seed in range(20):
            found: observe.Parts = observe.Parts()
            for number in np.random.default_rng(seed).permutation(count).tolist():
                found.add((number, number + 1), Bracketed(str(number)))
            assert found.whole(count).text == text


def test_one_process_holds_three_records_however_much_data_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    real = observe.Parts.add
    monkeypatch.setattr(observe.Parts, "add", lambda self, *of: (held.append(len(self.known) + 1), real(self, *of))[1])
    for count in (60, 600, 6000):
        assert walked(rows(count), Means(batch=2)).firsts == list(range(count))
    assert max(held) == 3


def test_leaves_grow_where_there_are_many_samples() -> None:
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(observe, "MOST_LEAVES", 5)
    try:
        work = observe.Pass(itself, rows(), (Walked(),), Means(batch=2))
        assert (work.leaf, work.count) == (12, 5)  # 53 rows, in whole batches
        assert walked(rows(), Means(batch=2)) == walked(rows(), Means(batch=2, spread=Shuffled()))
    finally:
        monkeypatch.undo()


@pytest.mark.parametrize("of", [1, 2, 3, 5, 7, 9])
def test_shards_are_whole_and_apart(of: int) -> None:
    work = observe.Pass(itself, rows(), (Walked(),), Means(batch=2))
    shards = [work.shard(number, of) for number in range(of)]
    assert [leaf for first, end in shards for leaf in range(first, end)] == list(range(work.count))


def test_a_part_that_is_there_twice_is_said() -> None:
    found: observe.Parts = observe.Parts()
    found.add((0, 2), Walked())
    with pytest.raises(DataError, match="counted twice"):
        found.add((1, 2), Walked())


@pytest.mark.parametrize("missing", [0, 2, 3, 4])
def test_a_missing_part_is_said(missing: int) -> None:
    found: observe.Parts = observe.Parts()
    for number in {0, 1, 2, 3, 4} - {missing}:
        found.add((number, number + 1), Walked())
    with pytest.raises(DataError, match="a part of the data is missing"):
        found.whole(5)


def test_rows_that_fill_no_fixed_batch_are_left_out_of_every_share() -> None:
    values = np.arange(2 * ROWS, dtype=np.float32).reshape(ROWS, 2)
    fixed = open_dataset(values, (InputSpec("x", np.dtype(np.float32), (4, 2)),))
    whole = walked(fixed, Means())
    assert whole.firsts == list(range(52))
    assert walked(fixed, Means(spread=Shuffled())) == whole
