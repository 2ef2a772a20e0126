"""Measured latency: two models in one process, run in turns, so that whatever disturbs one disturbs the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxprune.means import Means
from onnxprune.model.runtime import ModelLike, session

MIN_WARMUP_RUNS = 10
MIN_WARMUP_SECONDS = 0.5
MIN_ROUNDS = 10
"""Fewer timed rounds than this decide nothing."""
MAX_SPREAD = 1.5
"""Largest p90 / p10 of a quiet machine."""
MAX_SPREAD_RATIO = 1.25
"""Largest factor between the spreads of two models measured side by side."""

TimedCall = Callable[[], Any]
Clock = Callable[[], int]
"""Monotonic nanoseconds."""


@dataclass(frozen=True)
class Latency:
    """Percentiles of one model's run times, in microseconds."""

    p10: float
    p50: float
    p90: float
    p99: float
    min: float
    runs: int

    @classmethod
    def of(cls, nanoseconds: Sequence[int]) -> Latency:
        """Summarise run times; percentiles are interpolated linearly."""
        micro = np.asarray(nanoseconds, np.float64) / 1000
        p10, p50, p90, p99 = np.percentile(micro, (10, 50, 90, 99)).tolist()
        return cls(p10, p50, p90, p99, float(micro.min()), len(micro))

    @property
    def spread(self) -> float:
        """p90 / p10: 1 for a machine without noise; infinite where runs are faster than the clock ticks."""
        return self.p90 / self.p10 if self.p10 > 0 else float("inf")

    def to_json(self) -> dict[str, float | int]:
        return {name: getattr(self, name) for name in ("p10", "p50", "p90", "p99", "min", "runs")}


@dataclass(frozen=True)
class LatencyReport:
    """Latency of one model, or of two measured in turns."""

    before: Latency
    after: Latency | None = None
    threads: int = 1
    providers: tuple[str, ...] = field(default=())

    @property
    def ratio_p10(self) -> float | None:
        """after / before of the 10th percentiles, the least disturbed of robust statistics; None for one model."""
        return self.after.p10 / self.before.p10 if self.after and self.before.p10 > 0 else None

    @property
    def ratio_min(self) -> float | None:
        """after / before of the fastest runs; None for one model."""
        return self.after.min / self.before.min if self.after and self.before.min > 0 else None

    @property
    def reasons(self) -> list[str]:
        """Why nothing can be concluded from this measurement; empty when something can."""
        models = {"before": self.before} | ({"after": self.after} if self.after else {})
        found = [f"{name}: {m.runs} runs, {MIN_ROUNDS} are needed" for name, m in models.items() if m.runs < MIN_ROUNDS]
        found += [
            f"{name}: p90 / p10 is {m.spread:.2f}, above {MAX_SPREAD}: the machine is busy"
            for name, m in models.items()
            if m.spread > MAX_SPREAD
        ]
        spreads = sorted(m.spread for m in models.values())
        if spreads[-1] > MAX_SPREAD_RATIO * spreads[0]:
            found.append(f"the models' spreads differ by more than a factor of {MAX_SPREAD_RATIO}")
        return found

    @property
    def conclusive(self) -> bool:
        return not self.reasons

    def to_json(self) -> dict[str, Any]:
        pair = {"after": self.after and self.after.to_json(), "ratio_p10": self.ratio_p10, "ratio_min": self.ratio_min}
        return {
            "unit": "us",
            "before": self.before.to_json(),
            **(pair if self.after else {}),
            "threads": self.threads,
            "providers": list(self.providers),
            "conclusive": self.conclusive,
            "reasons": self.reasons,
        }


def measure_pair(
    before: ModelLike,
    after: ModelLike,
    feeds: Mapping[str, np.ndarray],
    means: Means = Means(),
    *,
    providers: Sequence[str] | None = None,
    pairs: int = 100,
    max_seconds: float = 10.0,
) -> LatencyReport:
    """Time two models on the same feeds, in turns: before, after, after, before, ...

    Stops after ``pairs`` runs of each or ``max_seconds``, whichever comes first. Raises ModelError when one fails.
    """
    sessions = [session(model, threads=means.threads, providers=providers) for model in (before, after)]
    first, second = interleave([_runner(s, feeds) for s in sessions], rounds=pairs, max_seconds=max_seconds)
    return LatencyReport(Latency.of(first), Latency.of(second), means.threads, sessions[0].providers)


def measure(
    model: ModelLike,
    feeds: Mapping[str, np.ndarray],
    means: Means = Means(),
    *,
    providers: Sequence[str] | None = None,
    runs: int = 100,
    max_seconds: float = 10.0,
) -> LatencyReport:
    """Time one model; stops after ``runs`` or ``max_seconds``. Raises ModelError when it cannot be run."""
    single = session(model, threads=means.threads, providers=providers)
    (times,) = interleave([_runner(single, feeds)], rounds=runs, max_seconds=max_seconds)
    return LatencyReport(Latency.of(times), None, means.threads, single.providers)


def _runner(loaded: Any, feeds: Mapping[str, np.ndarray]) -> TimedCall:
    return lambda: loaded.run(feeds)


def interleave(
    runs: Sequence[TimedCall],
    *,
    rounds: int = 100,
    max_seconds: float = 10.0,
    warmup_runs: int = MIN_WARMUP_RUNS,
    warmup_seconds: float = MIN_WARMUP_SECONDS,
    clock: Clock = time.perf_counter_ns,
) -> list[list[int]]:
    """Return the nanoseconds of each run, per callable: all of them once per round, the order turned after every round.

    Every callable is warmed up first, for at least ``warmup_runs`` calls and ``warmup_seconds``. At least one round is
    timed; none is begun after ``max_seconds``.
    """
    for run in runs:
        _warm_up(run, warmup_runs, warmup_seconds, clock)
    times: list[list[int]] = [[] for _ in runs]
    order = list(range(len(runs)))
    end = clock() + round(max_seconds * 1e9)
    for _ in range(max(1, rounds)):
        for which in order:
            start = clock()
            runs[which]()
            times[which].append(clock() - start)
        order.reverse()
        if clock() >= end:
            break
    return times


def _warm_up(run: TimedCall, runs: int, seconds: float, clock: Clock) -> None:
    end = clock() + round(seconds * 1e9)
    done = 0
    while done < runs or clock() < end:
        run()
        done += 1
