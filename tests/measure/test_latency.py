"""Latency: the order of runs, the statistics and the verdict, on a clock that the tests turn themselves."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.errors import ModelError, UsageError
from onnxprune.means import Means
from onnxprune.measure.latency import Clocked, Latency, LatencyReport, interleave, measure, measure_pair, rounds_of
from onnxprune.model.runtime import CPU, session
from onnxprune.report.baseline import Baseline
from onnxprune.report.entries import verdict
from onnxprune.report.gates import judge
from onnxprune.report.latency import latency_rows
from onnxprune.report.limits import gate_rows
from onnxprune.settings import make_settings

MS = 1_000_000

DOUBLE = onnx.parser.parse_model("""
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[n,2] x) => (float[n,2] y) { y = Add(x, x) }""")


class Bench:
    """Models that take fixed times on a clock of their own; ``log`` is who ran when."""

    def __init__(self, **milliseconds: float):
        self.now, self.log = 0, ""
        self.runs = [self._run(name, round(duration * MS)) for name, duration in milliseconds.items()]

    def _run(self, name: str, duration: int) -> Callable[[], None]:
        def run() -> None:
            self.now += duration
            self.log += name

        return run

    def clock(self) -> int:
        return self.now


def test_runs_take_turns() -> None:
    bench = Bench(a=1, b=3)
    times = interleave(bench.runs, rounds=4, warmup_runs=0, warmup_seconds=0, clock=bench.clock)
    assert bench.log == "abbaabba"
    assert times == [[MS] * 4, [3 * MS] * 4]


@given(
    durations=st.lists(st.floats(0.1, 50), min_size=1, max_size=3),
    rounds=st.integers(1, 40),
    seconds=st.floats(0.0, 1.0),
    warmup=st.integers(0, 12),
    warmup_seconds=st.floats(0, 0.2),
)
def test_limits_hold(durations: list[float], rounds: int, seconds: float, warmup: int, warmup_seconds: float) -> None:
    bench = Bench(**dict(zip("abc", durations, strict=False)))
    times = interleave(
        bench.runs,
        rounds=rounds,
        max_seconds=seconds,
        warmup_runs=warmup,
        warmup_seconds=warmup_seconds,
        clock=bench.clock,
    )
    timed = len(times[0])
    round_ms = sum(duration for duration in durations)
    assert all(len(column) == timed for column in times) and 1 <= timed <= rounds
    assert timed == rounds or timed * round_ms >= seconds * 1000 - 1e-3
    assert timed == 1 or (timed - 1) * round_ms < seconds * 1000 + 1e-3
    for name, duration in zip("abc", durations, strict=False):
        warm = bench.log.count(name) - timed
        assert warm >= warmup and warm * duration >= warmup_seconds * 1000 - 1e-3


def test_percentiles_by_hand() -> None:
    latency = Latency.of([1000 * value for value in range(101)])
    assert latency == Latency(p10=10, p50=50, p90=90, p99=99, min=0, runs=101)
    assert latency.spread == 9
    assert Latency.of([2500] * 3) == Latency(2.5, 2.5, 2.5, 2.5, 2.5, 3)


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=50))
def test_percentiles_are_ordered_and_scale(times: list[int]) -> None:
    latency = Latency.of(times)
    assert latency.min <= latency.p10 <= latency.p50 <= latency.p90 <= latency.p99 <= max(times) / 1000
    assert Latency.of([7 * value for value in times]).p50 == pytest.approx(7 * latency.p50)
    assert Latency.of(times[::-1]) == latency


def quiet(p10: float, spread: float = 1.1, runs: int = 100) -> Latency:
    return Latency(p10=p10, p50=p10, p90=p10 * spread, p99=p10 * spread, min=p10, runs=runs)


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (quiet(100), quiet(60), None),
        (quiet(100, 1.5), quiet(60, 1.5), None),
        (quiet(100, 1.6), quiet(60, 1.5), "before: p90 / p10 is 1.60"),
        (quiet(100, 1.4), quiet(60, 1.6), "after: p90 / p10 is 1.60"),
        (quiet(100, 1.05), quiet(60, 1.45), "spreads differ"),
        (quiet(100), quiet(60, runs=9), "after: 9 runs"),
        (quiet(0.0), quiet(60), "before: p90 / p10 is inf"),
    ],
)
def test_verdict(before: Latency, after: Latency, reason: str | None) -> None:
    report = LatencyReport(before, after)
    assert report.conclusive == (reason is None)
    assert reason is None or any(reason in text for text in report.reasons)


def test_json() -> None:
    pair = LatencyReport(quiet(100), quiet(60), threads=2, providers=CPU).to_json()
    assert (
        pair["unit"] == "us"
        and pair["ratio_p10"] == pair["ratio_min"] == 0.6
        and pair["threads"] == 2
        and pair["conclusive"] is True
    )
    assert set(pair["before"]) == set(pair["after"]) == {"p10", "p50", "p90", "p99", "min", "runs"}
    single = LatencyReport(quiet(100)).to_json()
    assert "after" not in single and "ratio_p10" not in single
    json.dumps([pair, single], allow_nan=False)


class Busy(Bench):
    """The same on a machine on which other programs run: what a run waits is on the wall clock alone; ``waits``: per run, in turn."""

    def __init__(self, waits: list[int], **milliseconds: float):
        super().__init__(**milliseconds)
        self.waited, self.waits, self.number = 0, waits, 0

    def _run(self, name: str, duration: int) -> Callable[[], None]:
        run = super()._run(name, duration)

        def disturbed() -> None:
            run()
            self.waited += self.waits[self.number % len(self.waits)] * MS
            self.number += 1

        return disturbed

    def wall(self) -> int:
        return self.now + self.waited


def report_of(bench: Busy, threads: int = 1) -> LatencyReport:
    both = rounds_of(
        bench.runs, rounds=50, warmup_runs=0, warmup_seconds=0, max_seconds=1e6, clocks=(bench.wall, bench.clock)
    )
    wall, cpu = ([[found[clock] for found in column] for column in both] for clock in (0, 1))
    whole = Clocked.of(*wall)
    return LatencyReport(
        whole.before, whole.after, whole.drift, threads, CPU, Clocked.of(*cpu) if threads == 1 else None
    )


@given(st.lists(st.integers(0, 100), min_size=1, max_size=7))
def test_cpu_time_is_the_same_however_busy_the_machine_is(waits: list[int]) -> None:
    report = report_of(Busy(waits, a=10, b=6))
    assert (report.by, report.ratio) == ("cpu", pytest.approx(0.6))
    assert report.to_json()["cpu"]["ratio_p10"] == pytest.approx(0.6)


def test_noisy_times_give_no_factor() -> None:
    waits = [0, 90, 40, 7, 0, 30]
    alone, several = (report_of(Busy(waits, a=10, b=6), threads).to_json() for threads in (1, 2))
    assert (alone["ratio_p10"], alone["ratio_min"], alone["conclusive"]) == (None, None, False)
    assert (alone["by"], alone["ratio"]) == ("cpu", pytest.approx(0.6))
    assert (several["by"], several["ratio"], several["ratio_p10"], several["cpu"]) == (None, None, None, None)
    assert verdict({"before": {"macs": 2}, "after": {"macs": 1}, "latency": several}) == (
        "MACs -50.0%, how fast is too noisy to say."
    )
    assert verdict({"before": {"macs": 2}, "after": {"macs": 1}, "latency": alone}) == "MACs -50.0%, 1.67x as fast."
    rows = latency_rows({"latency": alone})
    assert [(row[0], row[3]) for row in rows] == [("latency p10 (µs, 1 thread)", False), ("CPU time p10 (µs)", True)]


def test_quiet_walls_tell_where_several_threads_work() -> None:
    report = report_of(Busy([0], a=10, b=6), threads=4)
    assert (report.by, report.ratio, report.cpu) == ("wall", pytest.approx(0.6), None)
    assert "4 threads work side by side" in report.cpu_reasons[0]


def test_cpu_times_that_stray_give_no_factor() -> None:
    """As where the processor's own speed changes between any two runs."""
    times = [[10, 17, 10, 21, 33, 9] * 3, [6, 15, 30, 3, 6, 14] * 3]
    pair = Clocked.of(*[[t * MS for t in column] for column in times])
    report = LatencyReport(quiet(100), quiet(60), threads=1, providers=CPU, cpu=pair)
    assert (report.by, report.ratio) == (None, None)
    assert "leave the factor open" in report.to_json()["cpu"]["reasons"][0]


def test_a_clock_that_ticks_too_seldom_tells_nothing() -> None:
    pair = Clocked.of([0] * 20, [0] * 20)
    report = LatencyReport(quiet(100), quiet(60), threads=1, providers=CPU, cpu=pair)
    assert (report.by, report.ratio) == (None, None)
    assert report.to_json()["cpu"]["reasons"][0] == "a run is shorter than this system's clock of CPU time ticks"


@pytest.mark.parametrize(
    ("latency", "passed", "value"),
    [
        ({"ratio": 0.5}, True, 0.5),
        ({"ratio": 0.7}, False, 0.7),
        ({"ratio": None, "after": {}, "cpu": None, "reasons": ["noise"], "threads": 2}, False, None),
    ],
)
def test_a_gate_on_latency_goes_by_what_is_believed_or_is_missed(
    latency: dict, passed: bool, value: float | None
) -> None:
    if value is None:
        latency["after"] = {"p10": 1.0}
    (gate,) = judge(make_settings({"max_latency_ratio": 0.6}), {"latency": latency})
    assert (gate["passed"], gate["value"]) == (passed, value)
    before = {"latency": {"ratio_p10": 0.6, "conclusive": True}}
    (again,) = Baseline(before, 0.0).judge({"latency": latency})
    assert (again["name"], again["passed"]) == ("baseline_latency_ratio", passed if value is None else value <= 0.66)
    assert gate_rows([gate])[0][2] == ("too noisy to say" if value is None else f"{value:.1%}")


def test_real_models_are_measured() -> None:
    feeds = {"x": np.ones((1, 2), np.float32)}
    pair = measure_pair(DOUBLE, DOUBLE.SerializeToString(), feeds, pairs=20)
    assert (
        pair.before.runs == pair.after.runs == pair.cpu.before.runs == pair.cpu.after.runs == 20 and pair.ratio_p10 > 0
    )
    assert pair.sizes == {"x": (1, 2)}
    assert measure_pair(DOUBLE, DOUBLE, feeds, Means(threads=2), pairs=10).cpu is None
    assert measure(DOUBLE, feeds, runs=11).before.runs == 11


def test_sessions_run_and_explain(tmp_path) -> None:
    onnx.save(DOUBLE, tmp_path / "double.onnx")
    for model in (DOUBLE, DOUBLE.SerializeToString(), tmp_path / "double.onnx", str(tmp_path / "double.onnx")):
        loaded = session(model, optimise=False)
        assert (loaded.inputs, loaded.outputs) == (("x",), ("y",))
        np.testing.assert_array_equal(loaded.run({"x": np.ones((1, 2), np.float32)})["y"], [[2, 2]])
    with pytest.raises(ModelError, match=r"double\.onnx cannot be run: Got invalid dimensions for input: x"):
        loaded.run({"x": np.ones((1, 3), np.float32)})
    with pytest.raises(ModelError, match=r"cannot be run: Required inputs"):
        loaded.run({})
    with pytest.raises(ModelError, match=r"cannot be loaded by ONNX Runtime: (?!\[ONNXRuntimeError\])"):
        session(b"not a model")
    with pytest.raises(ModelError, match=r"missing\.onnx cannot be loaded"):
        session(tmp_path / "missing.onnx")
    with pytest.raises(UsageError, match="did you mean 'CPUExecutionProvider'"):
        session(DOUBLE, providers=["CpuExecutionProvider"])


def test_weights_outlive_the_making_of_a_session() -> None:
    width = 20_000  # 80 kB: handed over as memory, not inside the model
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[n,{width}] x) => (float[n,{width}] y) {{ a = Add(x, w1) b = Add(a, w2) y = Add(b, w3) }}""")
    for value in (1.0, 2.0, 3.0):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.full(width, value, np.float32), f"w{value:.0f}"))
    loaded = [session(model, optimise=optimise) for optimise in (True, False)]
    del model
    for one in loaded:
        np.testing.assert_array_equal(one.run({"x": np.zeros((1, width), np.float32)})["y"], np.full((1, width), 6.0))


def test_nothing_imports_onnxruntime_early() -> None:
    code = "import sys, onnxprune.measure.latency, onnxprune.measure.drift, onnxprune.data; sys.exit('onnxruntime' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
