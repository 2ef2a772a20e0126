"""What gates say: the value and the limit as an engineer reads them, points of a drop, per cent of a share, bytes of a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from onnxprune.report.entries import amount
from onnxprune.report.latency import OPEN

TYPED = 6
"""Decimals that a limit may have been typed with; one with more was computed."""
MOST_DECIMALS = 12


class Gauge(NamedTuple):
    """How the numbers of a gate are told: times ``scale``, to so many decimals at least, with ``unit`` behind."""

    scale: float
    decimals: int
    unit: str


POINTS = Gauge(100.0, 2, " points")
SHARE = Gauge(100.0, 2, "%")
TIMES = Gauge(100.0, 1, "%")
BYTES = Gauge(1.0, 0, " bytes")
GAUGES: dict[str, Gauge] = {
    "max_drop": POINTS,
    "min_agreement": SHARE,
    "min_cosine": Gauge(1.0, 4, ""),
    "max_latency_ratio": TIMES,
    "max_size": BYTES,
    "min_prunable": SHARE,
    "baseline_bytes": BYTES,
    "baseline_latency_ratio": TIMES,
    "baseline_relative_l2": SHARE,
    "baseline_relative_l2_of_groups": SHARE,
    "baseline_drop": POINTS,
    "baseline_task_lost": POINTS,
}
"""Gates whose numbers are no plain counts."""


def gate_words(gate: Mapping[str, Any]) -> tuple[str, str]:
    """Return the value of a gate and its limit in words; a value that is not the limit never reads as if it were."""
    value, limit, gauge = gate["value"], gate["limit"], GAUGES.get(gate["name"])
    if gauge is None:
        return OPEN if value is None else amount(value), amount(limit)
    decimals = _decimals(gauge, limit if value is None else value, limit)
    told = OPEN if value is None else _with_unit(_rounded(value, gauge, decimals), gauge)
    bound = _rounded(limit, gauge, decimals)
    return told, _with_unit(bound.rstrip("0").rstrip(".") if "." in bound else bound, gauge)


def _decimals(gauge: Gauge, value: float, limit: float) -> int:
    """Return to how many decimals a limit is all there that was typed, and a value stands on its own side of it."""
    exact = limit * gauge.scale
    typed = abs(round(exact, TYPED) - exact) <= 1e-9 * abs(exact)
    for decimals in range(gauge.decimals, MOST_DECIMALS):
        near, bound = (round(number * gauge.scale, decimals) for number in (value, limit))
        whole = not typed or decimals >= TYPED or abs(bound - exact) <= 1e-9 * abs(exact)
        if whole and (near < bound, near > bound) == (value < limit, value > limit):
            return decimals
    return MOST_DECIMALS


def _rounded(number: float, gauge: Gauge, decimals: int) -> str:
    return f"{round(number * gauge.scale, decimals) + 0.0:,.{decimals}f}"  # + 0.0: no minus before a nought


def _with_unit(number: str, gauge: Gauge) -> str:
    """Return a number and its unit, which has no s behind a single one."""
    return number + (gauge.unit.removesuffix("s") if number == "1" else gauge.unit)


def gate_rows(gates: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str, str]]:
    """Return (gate, limit, value, whether it was passed) in words."""
    rows = []
    for gate in gates:
        value, limit = gate_words(gate)
        rows.append((gate["name"], limit, value, "yes" if gate["passed"] else "no"))
    return rows
