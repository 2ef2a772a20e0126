"""Axes that stay, put together where the reason and the way out are the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from onnxprune.report.entries import ReportView, keeper
from onnxprune.report.remedies import WINDOW

NAMED = 3


class Staying(NamedTuple):
    """Axes that stay for one ``reason``: what depends on them in ``macs`` and ``parameters``, each weight counted once."""

    reason: str
    remedy: str
    macs: int
    parameters: int
    axes: tuple[tuple[str, str], ...]

    @property
    def share(self) -> str:
        return f"{len(self.axes)} {'axis' if len(self.axes) == 1 else 'axes'}"


def staying(report: ReportView) -> list[Staying]:
    """Return the reasons for which axes stay, the costliest first; windows that slide are not worth a word."""
    rows = defaultdict(list)
    for row in report.get("frozen", ()):
        if row["reason"] != WINDOW:
            rows[row["reason"], row["remedy"]].append(row)
    found = []
    for (reason, remedy), members in rows.items():
        costs: dict[str, tuple[int, int]] = {}
        for row in members:
            weight = row["axis"].rpartition("[")[0]
            one = costs.get(weight, (0, 0))
            costs[weight] = max(one[0], row["macs"]), max(one[1], row["parameters"])
        macs, parameters = (sum(cost[at] for cost in costs.values()) for at in (0, 1))
        found.append(Staying(reason, remedy, macs, parameters, tuple((row["axis"], keeper(row)) for row in members)))
    return sorted(found, key=lambda one: (-one.macs, -one.parameters))


def staying_rows(report: ReportView) -> Iterator[tuple[str, ...]]:
    """Yield (reason, way out, how many axes and which, MACs) of every reason."""
    for one in staying(report):
        names = ", ".join(axis for axis, _ in one.axes[:NAMED])
        more = f" and {len(one.axes) - NAMED} more" if len(one.axes) > NAMED else ""
        yield one.reason, one.remedy, f"{one.share}: {names}{more}", f"{one.macs:,}"
