"""Measured latency: two models in one process, run in turns, so that whatever disturbs one disturbs the other.

With one thread every run is timed by the CPU time of that thread beside the wall clock: other programs take time from a run, and
time waiting is on the wall alone, so that CPU time tells the same on a busy machine as on a quiet one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxprune.means import Means
from onnxprune.model.runtime import CPU, ModelLike, Session, session

MIN_WARMUP_RUNS = 10
MIN_WARMUP_SECONDS = 0.5
PAIRS, FAST_SECONDS = 50, 0.4
"""How often two models are run where nothing else is asked for, and how long those are of which that takes less."""
MIN_ROUNDS = 10
"""Fewer timed rounds than this decide nothing."""
MAX_SPREAD = 1.5
"""Largest p90 / p10 of a quiet machine."""
MAX_SPREAD_RATIO = 1.25
"""Largest factor between the spreads of two models measured side by side."""

MAX_DRIFT = 0.1
"""How far the factor between two models may be left open by the ratios of single rounds, in CPU time."""

TimedCall = Callable[[], Any]
Clock = Callable[[], int]
"""Monotonic nanoseconds."""
CLOCKS: tuple[Clock, ...] = (time.perf_counter_ns, getattr(time, "thread_time_ns", time.process_time_ns))
"""What every run is timed by: the wall clock, and the CPU time of the thread that calls."""


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
class Clocked:
    """Run times of one model, or of two measured in turns, by one clock."""

    before: Latency
    after: Latency | None = None
    drift: float = 0.0
    """By how much the ratios of single rounds stray from their median, as a share of it; 0 for one model."""

    @classmethod
    def of(cls, before: Sequence[int], after: Sequence[int] | None = None) -> Clocked:
        """Summarise nanoseconds per round, of one model or of two."""
        if after is None:
            return cls(Latency.of(before))
        return cls(Latency.of(before), Latency.of(after), _straying(before, after))

    @property
    def models(self) -> dict[str, Latency]:
        return {"before": self.before} | ({"after": self.after} if self.after else {})

    @property
    def ratio_p10(self) -> float | None:
        """after / before of the 10th percentiles, the least disturbed of robust statistics; None for one model."""
        return self.after.p10 / self.before.p10 if self.after and self.before.p10 > 0 else None

    @property
    def ratio_min(self) -> float | None:
        """after / before of the fastest runs; None for one model."""
        return self.after.min / self.before.min if self.after and self.before.min > 0 else None

    @property
    def too_few(self) -> list[str]:
        """Say of which model there are too few runs to conclude anything."""
        return [
            f"{name}: {m.runs} runs, {MIN_ROUNDS} are needed" for name, m in self.models.items() if m.runs < MIN_ROUNDS
        ]

    def to_json(self) -> dict[str, Any]:
        pair = {"after": self.after and self.after.to_json(), "ratio_p10": self.ratio_p10, "ratio_min": self.ratio_min}
        return {"before": self.before.to_json(), **(pair if self.after else {})}


def _straying(before: Sequence[int], after: Sequence[int]) -> float:
    """Return how far the ratio of medians may be off: two standard errors of the median of the rounds' own ratios, as a share of it."""
    ratios = np.asarray(after, np.float64) / np.maximum(np.asarray(before, np.float64), 1)
    middle = float(np.median(ratios))
    deviation = 1.4826 * float(np.median(np.abs(ratios - middle)))  # of normal noise, whatever single rounds do
    return 2 * 1.2533 * deviation / max(middle, 1e-12) / np.sqrt(len(ratios))


@dataclass(frozen=True)
class LatencyReport(Clocked):
    """Latency of one model, or of two, by the wall clock, and where one thread did all the work by its own CPU time too.

    ``cpu`` is what is believed where it is there: it does not count what other programs do meanwhile. ``sizes``: of each input.
    """

    threads: int = 1
    providers: tuple[str, ...] = field(default=())
    cpu: Clocked | None = None
    sizes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def reasons(self) -> list[str]:
        """Why nothing can be concluded from the wall clock; empty when something can."""
        found = self.too_few + [
            f"{name}: p90 / p10 is {m.spread:.2f}, above {MAX_SPREAD}: the machine is busy"
            for name, m in self.models.items()
            if m.spread > MAX_SPREAD
        ]
        spreads = sorted(m.spread for m in self.models.values())
        if spreads[-1] > MAX_SPREAD_RATIO * spreads[0]:
            found.append(f"the models' spreads differ by more than a factor of {MAX_SPREAD_RATIO}")
        return found

    @property
    def conclusive(self) -> bool:
        return not self.reasons

    @property
    def cpu_reasons(self) -> list[str]:
        """Why nothing can be concluded from CPU time; empty when something can."""
        if self.cpu is None:
            return [self.without_cpu]
        found = self.cpu.too_few
        if min(m.p10 for m in self.cpu.models.values()) <= 0:
            found.append("a run is shorter than this system's clock of CPU time ticks")
        if self.cpu.drift > MAX_DRIFT:
            found.append(
                f"the ratios of single rounds leave the factor open by {self.cpu.drift:.0%}, more than {MAX_DRIFT:.0%}"
            )
        return found

    @property
    def without_cpu(self) -> str:
        """Say why CPU time tells nothing of latency here."""
        if self.threads != 1:
            return f"{self.threads} threads work side by side, so that CPU time is not latency"
        return f"work on {', '.join(self.providers)} is not CPU time of a thread"

    @property
    def by(self) -> str | None:
        """The clock that is believed: ``cpu``, where that tells nothing a quiet ``wall``, None where neither tells anything."""
        return "cpu" if not self.cpu_reasons else "wall" if self.cpu is None and self.conclusive else None

    @property
    def ratio(self) -> float | None:
        """after / before by the clock that is believed; None where there is no such clock, and for one model."""
        believed = {"cpu": self.cpu, "wall": self}.get(self.by or "")
        return believed.ratio_p10 if believed else None

    def to_json(self) -> dict[str, Any]:
        """Return the numbers; a ratio of which nothing can be concluded is null."""
        wall, cpu = super().to_json(), None
        if self.after and not self.conclusive:
            wall |= {"ratio_p10": None, "ratio_min": None}
        if self.cpu is not None:
            cpu = self.cpu.to_json() | {"conclusive": not self.cpu_reasons, "reasons": self.cpu_reasons}
            if self.after and self.cpu_reasons:
                cpu |= {"ratio_p10": None, "ratio_min": None}
        return {
            "unit": "us",
            **wall,
            "threads": self.threads,
            "providers": list(self.providers),
            "conclusive": self.conclusive,
            "reasons": self.reasons,
            "cpu": cpu,
            "by": self.by,
            **({"ratio": self.ratio} if self.after else {}),
            "sizes": {name: list(sizes) for name, sizes in self.sizes.items()},
        }


def measure_pair(
    before: ModelLike,
    after: ModelLike,
    feeds: Mapping[str, np.ndarray],
    means: Means = Means(),
    *,
    providers: Sequence[str] | None = None,
    pairs: int | None = None,
    max_seconds: float = 10.0,
) -> LatencyReport:
    """Time two models on the same feeds, in turns: before, after, after, before, ...

    Stops after ``pairs`` runs of each or ``max_seconds``, whichever comes first; None: after PAIRS, but not before FAST_SECONDS.
    Raises ModelError when one fails.
    """
    sessions = [session(model, threads=means.threads, whole=True, providers=providers) for model in (before, after)]
    return _timed(sessions, feeds, means.threads, pairs, max_seconds)


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
    single = session(model, threads=means.threads, whole=True, providers=providers)
    return _timed([single], feeds, means.threads, runs, max_seconds)


def _timed(
    sessions: Sequence[Session],
    feeds: Mapping[str, np.ndarray],
    threads: int,
    rounds: int | None,
    max_seconds: float,
) -> LatencyReport:
    """Time one or two sessions in turns, by both clocks."""
    runs = [_runner(s, feeds) for s in sessions]
    least = FAST_SECONDS if rounds is None else 0.0
    both = rounds_of(runs, rounds=rounds or PAIRS, max_seconds=max_seconds, min_seconds=least)
    wall, cpu = ([[found[clock] for found in column] for column in both] for clock in (0, 1))
    told, sizes = sessions[0].providers, {name: array.shape for name, array in feeds.items()}
    whole = Clocked.of(*wall)
    return LatencyReport(
        whole.before,
        whole.after,
        whole.drift,
        threads,
        told,
        Clocked.of(*cpu) if cpu_tells(threads, told) else None,
        sizes,
    )


def cpu_tells(threads: int, providers: Sequence[str] = CPU) -> bool:
    """Whether the CPU time of the thread that calls is all that a run takes: no other thread and no other device works for it."""
    return threads == 1 and tuple(providers) == CPU and hasattr(time, "thread_time_ns")


def clock_of(threads: int) -> Clock:
    """Return the clock by which runs on so many threads of the CPU are timed."""
    return CLOCKS[cpu_tells(threads)]


def _runner(loaded: Session, feeds: Mapping[str, np.ndarray]) -> TimedCall:
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
    """Return the nanoseconds of each run by one clock, see ``rounds_of``."""
    found = rounds_of(
        runs, rounds=rounds, max_seconds=max_seconds, warmup_runs=warmup_runs, warmup_seconds=warmup_seconds,
        clocks=(clock,),
    )  # fmt: skip
    return [[one for (one,) in column] for column in found]


def rounds_of(
    runs: Sequence[TimedCall],
    *,
    rounds: int = 100,
    max_seconds: float = 10.0,
    min_seconds: float = 0.0,
    warmup_runs: int = MIN_WARMUP_RUNS,
    warmup_seconds: float = MIN_WARMUP_SECONDS,
    clocks: Sequence[Clock] = CLOCKS,
) -> list[list[tuple[int, ...]]]:
    """Return the nanoseconds of each run by every clock, per callable: all of them once per round, the order turned after every round.

    Every callable is warmed up first, for at least ``warmup_runs`` calls and ``warmup_seconds`` of the first clock. At least one
    round is timed; none is begun after ``max_seconds`` of it, nor when ``rounds`` and ``min_seconds`` are over.
    """
    first = clocks[0]
    for run in runs:
        _warm_up(run, warmup_runs, warmup_seconds, first)
    times: list[list[tuple[int, ...]]] = [[] for _ in runs]
    order = list(range(len(runs)))
    begun, number = first(), 0
    while number < max(1, rounds) or first() < begun + round(min_seconds * 1e9):
        number += 1
        for which in order:
            start = [clock() for clock in clocks]
            runs[which]()
            now = [clock() for clock in reversed(clocks)]  # the last clock is read closest to the run
            times[which].append(tuple(after - before for after, before in zip(reversed(now), start, strict=True)))
        order.reverse()
        if first() >= begun + round(max_seconds * 1e9):
            break
    return times


def _warm_up(run: TimedCall, runs: int, seconds: float, clock: Clock) -> None:
    end = clock() + round(seconds * 1e9)
    done = 0
    while done < runs or clock() < end:
        run()
        done += 1
