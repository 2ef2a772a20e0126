"""Laws of evidence from parts of the data: shards, threads, files and the order in which they come change no bit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto
from support.networks import network
from support.spreads import Shuffled, threads

import onnxprune
from onnxprune.data import Dataset, input_specs, observe, open_dataset
from onnxprune.evidence import REQUESTS, Need, gather, requested
from onnxprune.evidence.ablation import ablate
from onnxprune.evidence.gradients import KINDS, sensitivities
from onnxprune.evidence.gradients import gather as differentiation
from onnxprune.evidence.rows import Sampler, sampled_rows
from onnxprune.means import Means
from onnxprune.measure.drift import compare
from onnxprune.measure.layers import compare_layers
from onnxprune.model.read import load
from onnxprune.model.runtime import session

NET = """a = Conv<pads=[1,1,1,1]>(x, %6x3x3x3, %6); b = Relu(a); c = Conv(b, %8x6x1x1, %8); d = Relu(c)
e = GlobalAveragePool(d); f = Flatten(e); y = Gemm(f, %8x4, %4)"""
ROWS = 29


@pytest.fixture(autouse=True, scope="module")
def small_leaves() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(observe, "LEAF", 4)
        yield


@pytest.fixture(scope="module")
def model() -> ModelProto:
    return network(NET, "float[n,3,5,5] x", "float[n,4] y")


def rows(model: ModelProto, labelled: bool = False) -> Dataset:
    random = np.random.default_rng(0)
    x, labels = random.standard_normal((ROWS, 3, 5, 5)).astype(np.float32), random.integers(0, 4, ROWS)
    return open_dataset(x, input_specs(model), labels=labels if labelled else None)


def flat(found: Any) -> list[bytes]:
    """Return every array and number of a nested result as bytes, in order."""
    if isinstance(found, dict):
        return [part for key in found for part in (repr(key).encode(), *flat(found[key]))]
    if isinstance(found, list | tuple):
        return [part for each in found for part in flat(each)]
    if hasattr(found, "__dict__"):
        return flat(vars(found))
    return [np.asarray(found).tobytes() if not isinstance(found, str | None) else repr(found).encode()]


def spreads() -> Iterator[Means]:
    yield Means(batch=2, spread=Shuffled())
    with threads() as pool:
        yield Means(batch=2, spread=pool)


def test_evidence_of_every_kind_is_the_same_however_it_is_spread(model: ModelProto) -> None:
    analysis = onnxprune.analyze(model)
    other = load(network(NET, "float[n,3,5,5] x", "float[n,4] y", seed=1))

    def found(means: Means) -> list[bytes]:
        needs = requested(analysis, tuple(REQUESTS))
        gathered = gather(analysis.facts, rows(model), needs, means)
        gradients, _ = sensitivities(analysis, KINDS, rows(model, True), means)
        silenced = ablate(analysis, ["kl", "loss"], rows(model, True), means)
        first, second = session(load(model)), session(other)
        drift = compare(first, second, rows(model, True), means).to_json()
        layers = compare_layers(load(model), other, rows(model), means)
        curved = [[vars(each) for each in there.values()] for there in gradients.pop("fisher-outputs")]
        return flat([[gathered[need].arrays() for need in needs], gradients, curved, silenced, drift, layers])

    whole = found(Means(batch=2))
    assert len(whole) > 100
    for means in spreads():
        assert found(means) == whole


@pytest.mark.parametrize("batch", [1, 3, 4, 16])
def test_what_is_drawn_depends_on_a_sample_s_number_alone(model: ModelProto, batch: int, monkeypatch) -> None:
    """Labels drawn from the model's own outputs, and positions drawn of each sample."""
    drawn: dict[int, list[np.ndarray]] = {1: [], batch: []}
    for size, seen in drawn.items():
        real = differentiation.SampleLoss.targets

        def targets(self, outputs, labels, seed, first, real=real, seen=seen):
            result = real(self, outputs, labels, seed, first)
            seen.extend(result.values())
            return result

        monkeypatch.setattr(differentiation.SampleLoss, "targets", targets)
        sensitivities(onnxprune.analyze(model), ["fisher-weights"], rows(model), Means(batch=size))
        monkeypatch.undo()
    labels = {size: np.concatenate(parts) for size, parts in drawn.items()}
    np.testing.assert_array_equal(labels[1], labels[batch])
    assert len(labels[batch]) == ROWS


@pytest.mark.parametrize("folded", [1, 3])
def test_positions_of_values_that_fold_an_axis_into_the_samples_do_not_change_with_the_batch(folded: int) -> None:
    value = np.random.default_rng(0).standard_normal((8 * folded, 30, 2)).astype(np.float32)
    need = Need("gram", "v", 2)
    whole = sampled_rows(value, need, Sampler(8, 5, 1)) if folded == 1 else None
    first, rest = (Sampler(3, 5, 1), Sampler(5, 5, 1, 3))
    places = [
        np.concatenate([s.choose(30, s.samples * folded) for s in (first, rest)]),
        Sampler(8, 5, 1).choose(30, 8 * folded),
    ]
    np.testing.assert_array_equal(*places)
    if whole is not None:
        parts = [sampled_rows(part, need, s) for part, s in ((value[:3], first), (value[3:], rest))]
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
