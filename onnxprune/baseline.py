"""A report against an earlier one: what got worse by more than a tolerance is a missed gate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from onnxprune.errors import DataError

TOLERANCE = 0.02
LATENCY_TOLERANCE = 0.10
"""The least tolerance of latency ratios, whatever is asked for: repeated measurements differ by that much."""

Report = Mapping[str, Any]


def _after(key: str) -> Callable[[Report], float | None]:
    """What the result of a run has, or where nothing was changed, the model itself."""
    return lambda report: (report.get("after") or report.get("before") or {}).get(key)


def _drift(report: Report) -> float | None:
    """The largest relative error of any output."""
    outputs = ((report.get("drift") or {}).get("outputs") or {}).values()
    return max((output["relative_l2"] for output in outputs if output["relative_l2"] is not None), default=None)


def _drop(report: Report) -> float | None:
    return (report.get("task") or {}).get("drop")


# name -> (value, whether the tolerance is a share of the earlier value or absolute, least tolerance)
COMPARED: dict[str, tuple[Callable[[Report], float | None], bool, float]] = {
    "bytes": (_after("bytes"), True, 0.0),
    "parameters": (_after("parameters"), True, 0.0),
    "macs": (_after("macs"), True, 0.0),
    "latency_ratio": (lambda report: (report.get("latency") or {}).get("ratio_p10"), True, LATENCY_TOLERANCE),
    "relative_l2": (_drift, True, 0.0),
    "drop": (_drop, False, 0.0),
}


@dataclass(frozen=True)
class Baseline:
    """An earlier report that a new one must not be worse than, and by how much it may be all the same."""

    report: Report
    tolerance: float = TOLERANCE

    def judge(self, report: Report) -> list[dict[str, Any]]:
        """Return a gate for everything both reports have; raises DataError where they have nothing in common."""
        gates = list(self._gates(report))
        if not gates:
            raise DataError("the baseline and this report have nothing in common that could be compared")
        return gates

    def _gates(self, report: Report) -> Iterator[dict[str, Any]]:
        for name, (read, relative, least) in COMPARED.items():
            now, then = read(report), read(self.report)
            if now is None or then is None:
                continue
            slack = max(self.tolerance, least)
            limit = then + (slack * abs(then) if relative else slack)
            yield {"name": f"baseline_{name}", "limit": limit, "value": now, "passed": now <= limit}
