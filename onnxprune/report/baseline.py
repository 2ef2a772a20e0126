"""A report against an earlier one: what got worse by more than a tolerance is a missed gate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from onnxprune.errors import DataError
from onnxprune.report.entries import ReportView
from onnxprune.report.latency import believed_ratio, latency_doubt

TOLERANCE = 0.02
SPEED = "latency_ratio"
LATENCY_TOLERANCE = 0.10
"""The least tolerance of latency ratios, whatever is asked for: repeated measurements differ by that much."""


def _part(report: ReportView, key: str) -> ReportView:
    """Return a part of a report, empty where it has none; raises DataError for what is no report."""
    found = report.get(key) or {}
    if not isinstance(found, Mapping):
        raise DataError(f"the baseline's {key} is {type(found).__name__}, not an object; write it again with --json")
    return found


def _number(report: ReportView, key: str) -> float | None:
    found = report.get(key)
    if found is not None and (isinstance(found, bool) or not isinstance(found, int | float) or not isfinite(found)):
        raise DataError(f"the baseline's {key} is {found!r}, not a number; write it again with --json")
    return found


def _after(key: str) -> Callable[[ReportView], float | None]:
    """What the result of a run has, or where nothing was changed, the model itself."""
    return lambda report: _number(_part(report, "after") or _part(report, "before"), key)


def _of(part: str, key: str) -> Callable[[ReportView], float | None]:
    return lambda report: _number(_part(report, part), key)


def _speed(report: ReportView) -> float | None:
    """The ratio of two latencies that can be believed, None where there is none."""
    latency = _part(report, "latency")
    for key in ("ratio", "ratio_p10"):
        _number(latency, key)
    return believed_ratio(report)


def _drift(report: ReportView) -> float | None:
    """The largest relative error of any output."""
    outputs = _part(_part(report, "drift"), "outputs")
    errors = [_number(_part(outputs, name), "relative_l2") for name in outputs]
    return max((error for error in errors if error is not None), default=None)


def _inside(report: ReportView) -> float | None:
    """The largest relative error of any group of channels, where outputs have several."""
    outputs = _part(_part(report, "drift"), "outputs")
    groups = [group for name in outputs for group in _part(outputs, name).get("groups") or ()]
    errors = [_number(group, "relative_l2") for group in groups if isinstance(group, Mapping)]
    return max((error for error in errors if error is not None), default=None) if len(errors) > len(outputs) else None


def _drop(report: ReportView) -> float | None:
    """The drop of a metric; that against the original is compared as what is lost, whatever labels there are."""
    task = _part(report, "task")
    return None if task.get("judge") == "original" else _number(task, "drop")


def _lost(report: ReportView) -> float | None:
    """How much of the task is lost against the original."""
    score = _number(_part(_part(report, "task"), "agreement"), "score")
    return None if score is None else 1 - score


# name -> (value, whether the tolerance is a share of the earlier value or absolute, least tolerance)
COMPARED: dict[str, tuple[Callable[[ReportView], float | None], bool, float]] = {
    "bytes": (_after("bytes"), True, 0.0),
    "parameters": (_after("parameters"), True, 0.0),
    "macs": (_after("macs"), True, 0.0),
    SPEED: (_speed, True, LATENCY_TOLERANCE),
    "relative_l2": (_drift, True, 0.0),
    "relative_l2_of_groups": (_inside, True, 0.0),
    "drop": (_drop, False, 0.0),
    "task_lost": (_lost, False, 0.0),
}


@dataclass(frozen=True)
class Baseline:
    """An earlier report that a new one must not be worse than, and by how much it may be all the same."""

    report: ReportView
    tolerance: float = TOLERANCE

    def judge(self, report: ReportView) -> list[dict[str, Any]]:
        """Return a gate for everything both reports have; raises DataError where they have nothing in common."""
        gates = list(self._gates(report))
        if not gates:
            raise DataError("the baseline and this report have nothing in common that could be compared")
        return gates

    def _gates(self, report: ReportView) -> Iterator[dict[str, Any]]:
        for name, (read, relative, least) in COMPARED.items():
            now, then = read(report), read(self.report)
            doubtful = name == SPEED and bool(latency_doubt(report))
            if then is None or (now is None and not doubtful):
                continue
            slack = max(self.tolerance, least)
            limit = then + (slack * abs(then) if relative else slack)
            yield {"name": f"baseline_{name}", "limit": limit, "value": now, "passed": now is not None and now <= limit}
