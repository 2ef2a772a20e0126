"""Latency as a cost: tables read between measured widths, nodes timed alone, budgets corrected by what is measured."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper
from support.networks import network

import onnxprune
from onnxprune.allocate import Costs, parse_target, timing
from onnxprune.allocate.times import NodeTime, Times, Width
from onnxprune.changes import latency
from onnxprune.changes.latency import next_budget
from onnxprune.errors import TargetError, UsageError
from onnxprune.means import Means
from onnxprune.measure.latency import Latency, LatencyReport
from onnxprune.model.read import Model
from onnxprune.model.runtime import session

MODEL = Path(__file__).parents[2] / "models" / "digits_cnn.onnx"


def test_width_follows_the_units_of_each_group() -> None:
    width = Width(3, {0: 1, 2: 4})
    assert width.at(np.array([5, 9, 2])) == 3 + 5 + 8
    assert width.at(np.array([[5, 1], [9, 9], [2, 0]])).tolist() == [16, 4]


def test_time_is_linear_between_measured_widths() -> None:
    node = NodeTime("n", (Width(0, {0: 1}),), ((4, 8, 16),), np.array([10.0, 12.0, 40.0]))
    assert node.at(np.array([4])) == 10
    assert node.at(np.array([6])) == pytest.approx(11)  # half way from 10 to 12
    assert node.at(np.array([12])) == pytest.approx(26)  # half way from 12 to 40
    assert node.at(np.array([[6, 12]])).tolist() == pytest.approx([11, 26])


def test_rest_follows_the_channels() -> None:
    times = Times((NodeTime("n", (Width(0, {0: 1}),), ((1, 2),), np.array([1.0, 2.0])),), rest=10.0, scale=0.5)
    assert times.at(np.array([2]), np.array(0.5)) == pytest.approx(0.5 * 2 + 10 * 0.5)


def test_a_single_node_runs_at_every_width() -> None:
    analysis = onnxprune.analyze(MODEL)
    for node, spec in analysis.solution.links.specs:
        if spec.cost:
            for share in (0.5, 1.0):
                sizes = {letter: max(1, round(size * share)) for letter, size in spec.sizes.items()}
                proto, feeds = timing.single_node(
                    analysis, node, spec, spec.sizes | {k: sizes[k] for k in spec.cost if k in "goc"}
                )
                assert session(proto).run(feeds)


def test_measured_times_are_kept_between_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    analysis = onnxprune.analyze(MODEL)
    first = timing.with_times(analysis, 100.0, cache=tmp_path / "times.json")
    monkeypatch.setattr(timing, "interleave", lambda *_, **__: pytest.fail("measured again"))
    second = timing.with_times(analysis, 100.0, cache=tmp_path / "times.json")
    full = analysis.widths
    assert Costs(first).total("latency", full) == Costs(second).total("latency", full)
    assert Costs(first).total("latency", full) == pytest.approx(100.0)


def test_an_unreadable_cache_only_costs_time(tmp_path: Path) -> None:
    (tmp_path / "times.json").write_text("[1, 2")
    assert timing.with_times(onnxprune.analyze(MODEL), 100.0, cache=tmp_path / "times.json").times.nodes


def test_budgets_are_corrected_by_what_is_measured() -> None:
    assert next_budget(0.6, [(0.8, 0.6)]) < 0.6  # too slow: ask for less
    assert next_budget(0.6, [(0.3, 0.6)]) > 0.6  # too fast: ask for more
    assert next_budget(0.6, [(0.3, 0.6), (0.9, 1.0)]) == pytest.approx(0.8)  # between the two


def test_a_latency_target_is_a_share() -> None:
    assert parse_target("latency=0.6x").value == 0.6
    with pytest.raises(UsageError, match="share of the original"):
        parse_target("latency=5")


def by_size(before: Model, after: Model, *_: object) -> SimpleNamespace:
    """A clock that never wavers: time is the model's size."""
    return SimpleNamespace(
        before=SimpleNamespace(p10=100.0),
        after=SimpleNamespace(p10=100.0),
        cpu=None,
        ratio=after.proto.ByteSize() / before.proto.ByteSize(),
    )


def test_a_latency_target_is_met_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(latency, "measure_latency", by_size)
    with pytest.raises(TargetError, match="out of reach"):
        onnxprune.prune(MODEL, target="latency=0.001x", latency=False)
    result = onnxprune.prune(MODEL, target="latency=0.7x", latency=False)
    assert result.report["after"]["bytes"] <= 0.7 * result.report["before"]["bytes"]
    assert result.report["surgery"]["exact"]


def test_times_of_one_element_type_are_not_those_of_another(tmp_path: Path) -> None:
    timed = []
    for kind in ("float", "double", "float16"):
        model = network("w1 = %3x8; p = MatMul(x, w1); w2 = %8x5; y = MatMul(p, w2)", "float[2,3] x")
        for tensor in model.graph.initializer:
            array = numpy_helper.to_array(tensor).astype({"float": "f4", "double": "f8", "float16": "f2"}[kind])
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.elem_type = TensorProto.DataType.Value(kind.upper())
        timing.with_times(
            onnxprune.analyze(model),
            100.0,
            Means(progress=lambda _, kind=kind: timed.append(kind)),
            cache=tmp_path / "times.json",
        )
    assert timed.count("float") == timed.count("double") == timed.count("float16") > 0
    assert [path.name for path in tmp_path.iterdir()] == ["times.json"]


def test_a_latency_target_that_cannot_be_judged_is_not_met(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With several threads only the wall clock tells latency, and here that tells nothing."""
    noisy, tried = Latency(100.0, 300.0, 900.0, 900.0, 90.0, 50), []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(timing, "interleave", lambda *_, **__: [[1000] * 3])
    monkeypatch.setattr(
        latency, "measure_latency", lambda *_: tried.append(1) or LatencyReport(noisy, noisy, threads=2)
    )
    with pytest.raises(TargetError, match=r"cannot be judged: .* too noisy to say .*--threads 1"):
        onnxprune.prune(MODEL, target="latency=0.7x", latency=False, threads=2)
    assert len(tried) == 1 + latency.LATENCY_TRIES


def test_nodes_are_timed_by_cpu_time_where_one_thread_does_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = []
    monkeypatch.setattr(timing, "interleave", lambda *_, clock, **__: clocks.append(clock) or [[1000] * 3])
    for threads, expected in ((1, time.thread_time_ns), (2, time.perf_counter_ns)):
        clocks.clear()
        timing.with_times(onnxprune.analyze(MODEL), 100.0, Means(threads), cache=tmp_path / f"{threads}.json")
        assert set(clocks) == {expected}
    assert timing.cache_file(Means(1)) != timing.cache_file(Means(2))
