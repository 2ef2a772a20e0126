"""Many runs of one model: ratios, criteria and repairs, one file per point, and which of them are worth having."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from onnxprune.errors import OnnxPruneError, UsageError
from onnxprune.means import Spread
from onnxprune.model.write import write_text
from onnxprune.progress import Progress
from onnxprune.report.entries import ReportView
from onnxprune.settings import Settings
from onnxprune.version import __version__


@dataclass(frozen=True)
class Point:
    """One combination of settings; ``settings``: what differs from point to point."""

    settings: Mapping[str, Any]

    @property
    def label(self) -> str:
        return " ".join(f"{self.settings[name]}" for name in ("criterion", "repair", "ratio"))

    def id(self, shared: Mapping[str, Any]) -> str:
        """Return the hash of everything that decides this point; ``shared``: what is the same for all of them."""
        content = json.dumps([__version__, dict(shared), dict(self.settings)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:20]


def grid(ratios: Sequence[float], criteria: Sequence[str], repairs: Sequence[str]) -> list[Point]:
    """Return every combination, each once; raises UsageError where there is none."""
    combined = dict.fromkeys(itertools.product(criteria, repairs, ratios))
    if not combined:
        raise UsageError("a sweep needs at least one ratio, one criterion and one repair")
    return [Point({"criterion": c, "repair": r, "ratio": q}) for c, r, q in combined]


def at_point(point: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """Return the settings of a point. A ratio is of one kind of change; where several share a target it is what goes of the MACs."""
    own = dict(point)
    return own | {"target": f"macs={1 - own.pop('ratio'):.6f}x"} if settings.mixes else own


@dataclass(frozen=True)
class ClosingIn:
    """Halves, for every criterion and repair, the gap between the largest ratio that loses at most ``max_drop`` and the next that loses more.

    Ratios 0 and 1 stand at the ends of what was measured; ``rounds`` halvings of a gap of a quarter leave a thirty-second.
    """

    max_drop: float
    rounds: int = 3

    def most(self, points: Sequence[Point]) -> int:
        """Return how many points there can be in the end."""
        return len(points) + self.rounds * len({_combined(point.settings) for point in points})

    def next(self, entries: Sequence[dict[str, Any]]) -> list[Point]:
        """Return the ratios in the middle of the gaps."""
        measured: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
        for found in judged(entries)["points"]:
            measured[_combined(found["settings"])].append(found)
        return [
            Point({"criterion": criterion, "repair": repair, "ratio": sum(self._gap(points)) / 2})
            for (criterion, repair), points in measured.items()
        ]

    def _gap(self, points: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
        good = [p["settings"]["ratio"] for p in points if p["quality"] is not None and p["quality"] <= self.max_drop]
        holds = max(good, default=0.0)
        return holds, min((p["settings"]["ratio"] for p in points if p["settings"]["ratio"] > holds), default=1.0)


def _combined(settings: Mapping[str, Any]) -> tuple[str, str]:
    return settings["criterion"], settings["repair"]


def run_points(
    points: Sequence[Point],
    shared: Mapping[str, Any],
    evaluate: Callable[..., ReportView],
    folder: Path | None,
    progress: Progress,
    spread: Spread | None = None,
    closing: ClosingIn | None = None,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return an entry per point, read from ``folder`` where it is there already, else run and written there; and warnings.

    ``evaluate``: from the settings of a point, and its ``progress``, to the report of a run; ``spread`` runs points elsewhere;
    ``closing``: adds points by what the others lose.

    A point that cannot be run has ``error``; such points are tried again the next time. A file that is not what a sweep wrote
    is replaced, with a warning.
    """
    entries: list[dict[str, Any]] = []
    warnings, of = list[str](), closing.most(points) if closing else len(points)
    for number in range(1 + (closing.rounds if closing else 0)):
        asked = closing.next(entries) if closing and number else points
        names = [point.id(shared) for point in asked]
        found, damaged = _kept_points(asked, names, folder)
        warnings += damaged
        left = [(place, asked[place], names[place]) for place in range(len(asked)) if place not in found]
        for place, entry in _run(left, evaluate, (len(entries), of), progress, spread):
            found[place] = entry
            if folder is not None and entry["error"] is None:
                write_text(json.dumps(entry, indent=1, sort_keys=True) + "\n", folder / f"{names[place]}.json")
        entries += [found[place] for place in range(len(asked))]
    return entries, warnings


def _kept_points(
    points: Sequence[Point], names: Sequence[str], folder: Path | None
) -> tuple[dict[int, dict[str, Any]], list[str]]:
    """Return the entries that a folder has, by place, and warnings of damaged ones."""
    found, warnings = dict[int, dict[str, Any]](), list[str]()
    for place, (point, name) in enumerate(zip(points, names, strict=True)):
        path = None if folder is None else folder / f"{name}.json"
        if path is None or not path.exists():
            continue
        kept = _kept(path, name)
        if kept is None:
            warnings.append(f"{path} is damaged; the point ({point.label}) was run again")
        else:
            found[place] = kept
    return found, warnings


def _run(
    asked: Sequence[tuple[int, Point, str]],
    evaluate: Callable[..., ReportView],
    count: tuple[int, int],
    progress: Progress,
    spread: Spread | None,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (place, entry) of points, here and in order, or as they come from where they are run; ``count``: before these, and in all."""
    before, of = count
    if spread is None:
        for place, point, name in asked:
            number = before + place
            own = progress.part(number, of, f"point {number + 1} of {of}, {point.label}: ")
            own("load")
            yield place, _entry(partial(evaluate, progress=own), (point, name))
        return
    progress(f"{before} of {of} points", before, of)
    found = spread.each(partial(_entry, evaluate), [(point, name) for _, point, name in asked])
    for done, (number, entry) in enumerate(found, before + 1):
        progress(f"{done} of {of} points", done, of)
        yield asked[number][0], entry


def _kept(path: Path, name: str) -> dict[str, Any] | None:
    """Return the entry of an earlier sweep; None where the file holds something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(found, dict) and found.get("id") == name and MEASURED.keys() <= found.keys()
    return found if whole else None


def _entry(evaluate: Callable[[Mapping[str, Any]], ReportView], asked: tuple[Point, str]) -> dict[str, Any]:
    point, name = asked
    entry = {"id": name, "label": point.label, "settings": dict(point.settings), "error": None}
    try:
        report = evaluate(point.settings)
    except OnnxPruneError as error:
        return entry | {"error": str(error)}
    return entry | {key: read(report) for key, read in MEASURED.items()}


def _macs_share(report: ReportView) -> float:
    before = report["before"]["macs"]
    return report["after"]["macs"] / before if before else 1.0


def _task(key: str) -> Callable[[ReportView], Any]:
    return lambda report: (report.get("task") or {}).get(key)


def _worst(report: ReportView) -> float | None:
    """The largest relative error of any output, or of a group of channels inside one."""
    outputs = ((report.get("drift") or {}).get("outputs") or {}).values()
    parts = [part for output in outputs for part in (output, *output.get("groups", ()))]
    return max((part["relative_l2"] for part in parts if part["relative_l2"] is not None), default=None)


MEASURED: Mapping[str, Callable[[ReportView], Any]] = {
    "macs": lambda report: report["after"]["macs"],
    "macs_share": _macs_share,
    "parameters": lambda report: report["after"]["parameters"],
    "bytes": lambda report: report["after"]["bytes"],
    "metric": _task("metric"),
    "score": _task("after"),
    "drop": _task("drop"),
    "relative_l2": _worst,
    "repaired": lambda report: (report.get("repair") or {}).get("method", "none"),
    "seconds": lambda report: round(sum(report["seconds"].values()), 3),
}
"""What an entry keeps of the report of its run."""


def judged(entries: Sequence[dict[str, Any]], max_drop: float | None = None) -> dict[str, Any]:
    """Return ``points`` with quality and Pareto marks, ``quality`` (what is lost) and ``chosen``.

    Lost is the drop of the task metric where labels gave one, else the relative error of the outputs. Chosen is the point
    with the fewest MACs whose loss is at most ``max_drop``; null without such a limit or such a point.
    """
    measured = [entry for entry in entries if entry["error"] is None]
    labelled = bool(measured) and all(entry["drop"] is not None for entry in measured)
    key = "drop" if labelled else "relative_l2"
    points = [entry | {"quality": entry.get(key), "pareto": False} for entry in entries]
    usable = [point for point in points if point["quality"] is not None]
    for point in usable:
        point["pareto"] = not any(_beats(other, point) for other in usable)
    within = [point for point in usable if max_drop is not None and point["quality"] <= max_drop]
    chosen = min(within, key=lambda p: (p["macs"], p["quality"], p["id"]), default=None)
    title = f"drop of {measured[0]['metric']}" if labelled else "relative error of the outputs"
    return {"points": points, "quality": title, "chosen": chosen and chosen["id"]}


def nothing_within(found: Mapping[str, Any], max_drop: float | None) -> list[str]:
    """Say what to try where a limit was given and no point of what ``judged`` returned loses so little; empty where one does."""
    usable = [point for point in found["points"] if point["quality"] is not None]
    if max_drop is None or found["chosen"] is not None or not usable:
        return []
    best = min(usable, key=lambda point: (point["quality"], point["id"]))
    return [
        f"no point loses {max_drop:.2%} or less ({best['label']} loses {best['quality']:.2%}): allow more by --max-drop, "
        "take smaller --ratios, give more rows, or train what is left (prune --recover 5m)"
    ]


def _beats(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether ``one`` is at least as good in both and better in one."""
    a, b = (one["macs"], one["quality"]), (other["macs"], other["quality"])
    return a[0] <= b[0] and a[1] <= b[1] and a != b
