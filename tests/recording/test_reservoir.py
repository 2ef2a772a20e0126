"""What stays of all that is offered: random, bounded, the same whatever the order and whoever offers it."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import numpy as np
import pytest

from onnxprune.data.inputs import InputSpec, Schema
from onnxprune.recording.inside.feeds import batch_axis, sample_count
from onnxprune.recording.inside.reservoir import Limits, Reservoir, read_array, read_head

NUMBERS = count()


def offered(folder: Path, values: np.ndarray, limits: Limits) -> Reservoir:
    """Return a reservoir of a folder after one float64 sample per value."""
    reservoir = Reservoir(str(folder), limits)
    for value in values:
        sample = {"x": np.full(4, value)}
        rank = reservoir.rank(sample)
        if rank < reservoir.bar:
            reservoir.add(rank, sample, {"y": np.array(value)})
    reservoir.sweep()
    return reservoir


def held(reservoir: Reservoir) -> list[float]:
    """Return the values of the samples by rank; input and output of each are one."""
    found = []
    for path in reservoir.paths():
        with open(path, "rb") as stream:
            head = read_head(stream)
            value = read_array(stream, head["inputs"]["x"])
            assert (value == read_array(stream, head["outputs"]["y"])).all()
        found.append(float(value[0]))
    return found


def test_a_choice_depends_on_the_seed_alone(tmp_path: Path) -> None:
    values, limits = np.arange(300.0), Limits(40, 1 << 20, 1)
    once = held(offered(tmp_path / "once", values, limits))
    assert len(once) == 40
    assert held(offered(tmp_path / "backwards", values[::-1], limits)) == once
    for part in (values[200:], values[:120], values[100:250]):  # three processes, some samples twice
        offered(tmp_path / "parts", part, limits)
    assert held(Reservoir(str(tmp_path / "parts"), limits)) == once
    assert held(offered(tmp_path / "seed", values, Limits(40, 1 << 20, 2))) != once


def test_early_and_late_samples_have_the_same_chance(tmp_path: Path) -> None:
    found = [held(offered(tmp_path / str(seed), np.arange(200.0), Limits(50, 1 << 20, seed))) for seed in range(8)]
    late = sum(value >= 100 for values in found for value in values)
    assert 160 <= late <= 240  # binomial: 200 +- 3 deviations of 9 and more
    assert all(values != sorted(values) for values in found)


def test_bytes_are_bounded_while_it_fills(tmp_path: Path) -> None:
    limits = Limits(10_000, 20_000)
    reservoir = Reservoir(str(tmp_path), limits)
    most = 0
    for value in range(600):
        sample = {"x": np.full(40, float(value))}
        rank = reservoir.rank(sample)
        if rank < reservoir.bar:
            reservoir.add(rank, sample, {})
        most = max(most, sum(path.stat().st_size for path in tmp_path.iterdir()))
    assert most <= 1.3 * limits.size
    reservoir.sweep()
    assert 0.9 * limits.size <= sum(path.stat().st_size for path in tmp_path.iterdir()) <= limits.size


def test_an_unfinished_file_is_no_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    reservoir = Reservoir(str(tmp_path), Limits(5, 1 << 20))
    monkeypatch.setattr("onnxprune.recording.inside.reservoir.write_sample", full)
    with pytest.raises(OSError, match="No space"):
        reservoir.add("0" * 32, {"x": np.ones(2)}, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("shapes", "fed", "samples"),
    [
        ({"x": ["N", 3]}, {"x": (5, 3)}, 5),
        ({"x": [1, 3]}, {"x": (1, 3)}, 1),
        ({"x": [4, 3]}, {"x": (4, 3)}, 4),
        ({"x": ["N", 3], "m": [None, 2]}, {"x": (5, 3), "m": (5, 2)}, 5),
        ({"x": ["N", 3], "rate": []}, {"x": (5, 3), "rate": ()}, None),
        ({"x": ["N", 3], "state": [2, "N", 8]}, {"x": (2, 3), "state": (2, 2, 8)}, None),
        ({"x": ["N", 3], "m": ["M", 2]}, {"x": (5, 3), "m": (4, 2)}, None),
    ],
)
def test_samples_of_a_call_are_those_that_readers_find(shapes: dict, fed: dict, samples: int | None) -> None:
    arrays = {name: np.zeros(shape, np.float32) for name, shape in fed.items()}
    assert sample_count(shapes, arrays) == samples
    if len({shape[:1] for shape in fed.values()}) == 1:
        schema = Schema(tuple(InputSpec(name, np.dtype("f4"), tuple(shape)) for name, shape in shapes.items()))
        assert schema.samples == (samples is not None)


@pytest.mark.parametrize(
    ("declared", "count", "shape", "axis"),
    [
        (["N", 4], 3, (3, 4), 0),
        (["T", "N", 4], 3, (7, 3, 4), 1),
        (["T", "N", 4], 3, (3, 3, 4), 1),
        ([None, 4], 3, (6, 4), None),
        ([], 3, (), None),
    ],
)
def test_the_axis_of_samples_of_an_output(declared: list, count: int, shape: tuple[int, ...], axis: int | None) -> None:
    assert batch_axis(declared, {"N"}, count, np.zeros(shape)) == axis
