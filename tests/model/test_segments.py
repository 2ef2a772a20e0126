"""Models that are loaded segment by segment give what they give as a whole."""

from __future__ import annotations

import numpy as np
import pytest
from support.decoders import Form, decoder, token_rows
from support.networks import network

from onnxprune.data.dataset import open_dataset
from onnxprune.data.inputs import input_specs
from onnxprune.data.repeated import Batches
from onnxprune.means import Means
from onnxprune.measure.divergence import Reference
from onnxprune.measure.drift import compare
from onnxprune.measure.kinds import outputs_like
from onnxprune.model import segmented
from onnxprune.model.facts import gather_facts
from onnxprune.model.graph import Graph, made_of_weights
from onnxprune.model.read import load
from onnxprune.model.runtime import session
from onnxprune.model.segmented import memory_allowed, runs_in_segments
from onnxprune.model.segments import model_segments, taken_out
from onnxprune.proof.inputs import random_feeds

MODELS = {
    "a chain": network("a = Relu(x); b = Conv(a, %6x3x1x1); c = Conv(b, %6x6x1x1); d = Add(c, b); y = Conv(d, %2x6x1x1)"),
    "weights made of weights": network("w = Transpose<perm=[1, 0]>(%8x3); m = MatMul(x, w); r = MatMul(m, %8x8); s = MatMul(r, %8x8); y = Add(s, m)", "float[2,3] x"),
    "an If that reads outside": network(
        "a = Conv(x, %6x3x1x1); b = If (f) <then_branch = g () => (p) { p = Conv(a, w2) }, else_branch = h () => (q) { q = Neg(a) }>;"
        "w2 = %6x6x1x1; y = Conv(b, %2x6x1x1)", "float[2,3,4,4] x, bool f",
    ),
    "a decoder": decoder(),
    "a decoder in half precision": decoder(Form(dtype=np.float16)),
}  # fmt: skip


@pytest.fixture
def in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmented, "WHOLE", 1)
    monkeypatch.setattr(segmented, "HELD", 200)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("optimise", [True, False])
def test_segments_give_what_the_whole_gives(name: str, optimise: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(MODELS[name])
    given = random_feeds(gather_facts(model, Graph(model.structure)), 0)
    want = session(model, optimise=optimise).run(given)
    monkeypatch.setattr(segmented, "WHOLE", 1)
    monkeypatch.setattr(segmented, "HELD", 100)
    opened = session(model, optimise=optimise)
    assert len(opened._inference._segments) > 1
    assert opened.outputs == tuple(want) and set(opened.inputs) == set(given)
    tolerance = 2e-2 if "half" in name else 1e-5
    for key, value in opened.run(given).items():
        np.testing.assert_allclose(np.float32(value), np.float32(want[key]), rtol=tolerance, atol=tolerance)
    one = opened.outputs[-1]
    assert list(opened.run(given, [one])) == [one]


def test_what_memory_is_allowed_says_what_is_loaded_at_once() -> None:
    model = load(decoder(Form(hidden=64)))
    assert not runs_in_segments(model)
    token = memory_allowed.set(segmented.loaded_bytes(model))
    try:
        assert runs_in_segments(model)
        assert session(model, whole=True)._inference.__class__ is not segmented.Segmented
    finally:
        memory_allowed.reset(token)


def test_half_precision_counts_as_what_it_is_computed_in() -> None:
    one, two = (segmented.loaded_bytes(load(decoder(Form(dtype=kind)))) for kind in (np.float32, np.float16))
    assert one == two


def test_a_segment_ends_where_little_is_passed_on() -> None:
    text = "a = Conv(x, %64x3x1x1); b = Concat<axis=1>(a, a, a); c = Relu(b); d = Conv(c, %4x192x1x1); y = Conv(d, %64x4x1x1)"
    graph = Graph(network(text))
    weights = {"Conv": 1000}
    sizes = {"a": 64, "b": 192, "c": 192, "d": 4}
    found = model_segments(graph, made_of_weights(graph), lambda node: weights.get(node.op, 0), 2000, sizes.__getitem__)
    assert [segment.takes for segment in found] == [(), ("d",)]
    assert [segment.gives for segment in found] == [("d",), ("y",)]


def test_a_part_takes_values_of_any_shape() -> None:
    model = load(MODELS["a chain"])
    part = taken_out(model, {"b": 1}, ["y"])
    assert [value.name for value in part.structure.graph.input] == ["b"] and len(part.weights) == 2
    found = session(part).run({"b": np.ones((1, 6, 9, 2), np.float32)})
    assert found["y"].shape == (1, 2, 9, 2)


def test_a_run_on_data_is_the_same_in_segments(in_pieces: None, tmp_path) -> None:
    import onnxprune

    form = Form()
    np.savez(tmp_path / "rows.npz", input_ids=token_rows(form, 24))
    options = {
        "criterion": "obs",
        "repair": "least-squares",
        "ratio": 0.3,
        "calibration": tmp_path / "rows.npz",
        "latency": False,
    }
    small = onnxprune.prune(decoder(form), **options)
    segmented.WHOLE = 1 << 40
    whole = onnxprune.prune(decoder(form), **options)
    assert small.report["after"] == whole.report["after"]
    for name, drift in whole.report["drift"]["outputs"].items():
        assert small.report["drift"]["outputs"][name]["cosine"] == pytest.approx(drift["cosine"], abs=1e-3)


def test_models_are_compared_with_each_segment_loaded_once(in_pieces: None, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a = Relu(x); b = Conv(a, %6x3x1x1); c = Conv(b, %6x6x1x1); d = Add(c, b); y = Conv(d, %2x6x1x1); z = Neg(c)"
    models = [load(network(text, "float[n,3,4,4] x", "float[] y, float[] z", seed=seed)) for seed in (0, 1)]
    loaded: list[object] = []
    load_one = segmented.Segmented._open
    monkeypatch.setattr(segmented.Segmented, "_open", lambda self, *rest: loaded.append(self) or load_one(self, *rest))
    one, two = map(session, models)
    parts = len(one._inference._segments)
    rows = open_dataset(
        np.random.default_rng(0).normal(size=(12, 3, 4, 4)).astype(np.float32), input_specs(models[0].structure)
    )
    told: list[str] = []
    report = compare(one, two, rows, Means(batch=2, progress=lambda text, *_: told.append(text)))
    assert report.samples == 12 and report.outputs["y"].relative_l2 > 0
    assert parts > 1 and len(loaded) == 2 * parts and told[-1].startswith("outputs of the result")
    loaded.clear()
    outputs = outputs_like(one.run(feeds) for feeds in rows.batches(12))
    loaded.clear()
    reference = Reference(models[0], Batches(rows, 2), outputs=outputs)
    assert reference.divergence(models[1]) > 0 == reference.divergence(models[0])
    assert len(loaded) == 3 * parts
