"""What a page says first: large figures, gates and proof as badges, and what decided the result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from onnxprune.report.documents.graph.picture import counted
from onnxprune.report.entries import ReportView
from onnxprune.report.latency import OPEN, believed_ratio, latency_doubt, latency_rows
from onnxprune.report.limits import gate_words

GOOD, BAD, UNSURE = "good", "bad", "unsure"
MARKS = {GOOD: "✓", BAD: "✗", UNSURE: "?"}
"""A sign beside every colour."""


class Headline(NamedTuple):
    """A large figure: what it is, what it is now, what it was, and what to know beside it."""

    label: str
    now: str
    was: str = ""
    beside: str = ""


class Badge(NamedTuple):
    """Something that was judged: how it came out, in a word, and the numbers."""

    tone: str
    word: str
    text: str

    @property
    def mark(self) -> str:
        return MARKS[self.tone]


def headlines(report: ReportView) -> list[Headline]:
    """Return the large figures of a report, the task first."""
    found = [_task(report), _latency(report), _chosen(report), *_sizes(report)]
    return [one for one in found if one is not None]


def _task(report: ReportView) -> Headline | None:
    task = report.get("task") or {}
    if task.get("judge") == "metric" or (task.get("before") is not None and "judge" not in task):
        low, high = task["interval"]
        beside = f"{0.0 - task['drop'] * 100:+.2f} points ({-high * 100:+.2f} to {-low * 100:+.2f}), {task['samples']:,} samples"
        return Headline(str(task["metric"]), f"{task['after']:.2%}", f"{task['before']:.2%}", beside)
    agreement = task.get("agreement") or {}
    if agreement.get("score") is not None:
        low, high = agreement["interval"]
        beside = f"{low:.1%} to {high:.1%}, {agreement['samples']:,} rows"
        return Headline(f"{agreement['figure']} as the original", f"{agreement['score']:.1%}", "", beside)
    if report.get("unjudged"):
        return Headline("Does it still work?", "not judged", "", "no data was run")
    return None


def _latency(report: ReportView) -> Headline | None:
    ratio, rows = believed_ratio(report), latency_rows(report)
    if not rows:
        return None
    told = next((row for row in reversed(rows) if row[3]), rows[-1])
    times = f"{told[1]:,.0f} µs", f"{told[2]:,.0f} µs"
    if ratio:
        return Headline("Speed", f"{1 / ratio:.2f}x", "", f"{times[0]} to {times[1]}: {told[0]}")
    return Headline("Speed", OPEN, "", f"{latency_doubt(report)}")


def _chosen(report: ReportView) -> Headline | None:
    """Return the point that a sweep has chosen."""
    if "points" not in report:
        return None
    point = next((one for one in report["points"] if one["id"] == report.get("chosen")), None)
    if point is None:
        return Headline("Chosen point", "none", "", "no limit was given, or none is within it")
    lost = "" if point["quality"] is None else f", {point['quality']:.2%} lost"
    return Headline("Chosen point", f"{point['macs_share']:.1%} of the MACs", "", f"{point['label']}{lost}")


def _sizes(report: ReportView) -> Iterator[Headline]:
    before, after = report.get("before") or {}, report.get("after") or {}
    shares = report.get("prunable") or {}
    for key, label in (("bytes", "File"), ("macs", "MACs"), ("parameters", "Parameters")):
        if key not in before:
            continue
        unit = "B" if key == "bytes" else ""
        if key in after:
            change = f"{(after[key] - before[key]) / before[key]:+.1%}" if before[key] else ""
            yield Headline(label, counted(after[key]) + unit, counted(before[key]) + unit, change)
        else:
            can = f"{shares[key]:.1%} can be pruned" if key in shares else ""
            yield Headline(label, counted(before[key]) + unit, "", can)


def badges(report: ReportView) -> list[Badge]:
    """Return the proof and every gate."""
    found = []
    surgery = report.get("surgery")
    if surgery:
        if not surgery.get("proven", surgery["exact"]):
            found.append(Badge(BAD, "not proven", str(surgery.get("unproven") or "")))
        elif surgery["lossy_nodes"]:
            found.append(Badge(UNSURE, "as decided", "statistics of other nodes changed, so that it is not silence"))
        else:
            error = surgery["max_relative_error"]
            found.append(Badge(GOOD, "proven", "" if error is None else f"largest error {error:.1e}"))
    return found + [gate_badge(gate) for gate in report.get("gates") or ()]


def gate_badge(gate: Mapping[str, Any]) -> Badge:
    """Return how a gate came out; one without a value was measured, but too noisy to say."""
    value, limit = gate_words(gate)
    if gate["value"] is None:
        return Badge(UNSURE, "inconclusive", f"{gate['name']}: limit {limit}, {value}")
    tone, word = (GOOD, "passed") if gate["passed"] else (BAD, "failed")
    return Badge(tone, word, f"{gate['name']}: {value}, limit {limit}")


def outcome(report: ReportView) -> Badge | None:
    """Return how a run came out as a whole; None where nothing was judged."""
    if report.get("error"):
        return Badge(BAD, "error", "")
    tones = [badge.tone for badge in badges(report)]
    if BAD in tones:
        return Badge(BAD, "failed", "")
    if report.get("gates"):
        return Badge(UNSURE, "inconclusive", "") if UNSURE in tones else Badge(GOOD, "passed", "")
    return Badge(GOOD, "proven", "") if GOOD in tones else None


def decided_by(report: ReportView) -> Iterator[tuple[str, str]]:
    """Yield (what, how) of all that decided a result."""
    settings, repair = report.get("settings") or {}, report.get("repair") or {}
    if "after" not in report and "points" not in report:  # nothing was decided
        return
    asked = ("granularity", "scope") if "points" in report else ("criterion", "granularity", "scope", "target", "ratio")
    for key in asked:  # points of a sweep differ in the rest
        value = settings.get(key)
        if value not in (None, "", [], ()):
            yield key, ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    if repair:
        told = (repair.get("divergence") or {}).get(repair["method"])
        where = "on held-out rows" if repair.get("held_out") else "on the rows it was fitted to"
        yield "repair", repair["method"] + ("" if told is None else f": divergence {told:.3g} {where}")
    recover = report.get("recover") or {}
    if recover:
        yield "recovery", f"{recover['steps']:,} steps, kept: {recover['kept']}"
    for key in ("seed", "threads"):
        if key in settings:
            yield key, str(settings[key])


def origin(report: ReportView) -> Iterator[tuple[str, str]]:
    """Yield (what, which) of all that a result came from: files, data, versions, machine, date."""
    for key, word in (("model", "original"), ("other", "compared"), ("output", "written")):
        found = report.get(key)
        if found and "path" in found:
            digest = f", sha256 {found['sha256']}" if found.get("sha256") else ""
            yield word, f"{found['path'] or 'a model in memory'}{digest}"
    for name, data in (report.get("data") or {}).items():
        digest = f", sha256 {data['sha256']}" if data.get("sha256") else ""
        yield name, f"{data['rows']:,} rows{digest}"
    made = report.get("made") or {}
    if made:
        yield "versions", ", ".join(f"{name} {version}" for name, version in made["versions"].items())
        yield "machine", f"{made['machine']}, {made['cores']} cores"
        yield "date", made["date"]
    seconds = sum((report.get("seconds") or {}).values())
    if seconds:
        yield "took", f"{seconds:,.1f} s"
