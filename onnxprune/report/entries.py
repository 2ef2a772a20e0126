"""What a run found and did, as JSON (schema_version 1; keys are only ever added) and as rows of text."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import onnx

from onnxprune.allocate.account import frozen_stakes, group_stakes
from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.kept import Kept
from onnxprune.coupling.links import RULES
from onnxprune.coupling.streams.centring import normed_streams
from onnxprune.coupling.streams.widening import matrices
from onnxprune.model.read import Model
from onnxprune.proof.check import OutputProof, SurgeryCheck
from onnxprune.report.latency import OPEN, believed_ratio, latency_doubt, latency_rows
from onnxprune.report.remedies import remedies
from onnxprune.report.visible import visible_json
from onnxprune.version import __version__

SCHEMA_VERSION = 1

Report = dict[str, Any]
ReportView = Mapping[str, Any]
"""A report that is only read."""


def header(command: str, settings: Mapping[str, Any] | None = None) -> Report:
    """Return the keys every command's report begins with."""
    report: Report = {
        "schema_version": SCHEMA_VERSION,
        "tool": {"name": "onnxprune", "version": __version__},
        "command": command,
        "exit_code": 0,
    }
    return report if settings is None else report | {"settings": dict(settings)}


def model_entry(model: Model, *, quick: bool = False) -> Report:
    """Describe a model; ``quick``: without the digest where a lot of data would have to be read for it alone."""
    opsets = {opset.domain: opset.version for opset in model.structure.opset_import}
    return {
        "path": str(model.path) if model.path else None,
        "sha256": None if quick and model.digest is not None and model.digest.large else model.source_sha256,
        "opset": opsets.get("", opsets.get("ai.onnx")),
        "ir_version": model.structure.ir_version,
    }


def group_entries(
    analysis: Analysis, kept: Sequence[np.ndarray] | None = None, reasons: Mapping[int, str] | None = None
) -> list[Report]:
    """Describe every group; ``kept``: bool[width] each (None: undecided), ``reasons``: of those the check froze."""
    entries = []
    for group, stake in zip(analysis.groups, group_stakes(analysis), strict=True):
        after = group.width if kept is None else int(np.count_nonzero(kept[group.index]))
        reason = (reasons or {}).get(group.index)
        entries.append(
            {
                "name": group.name,
                "width_before": group.width,
                "width_after": after,
                "status": "frozen" if reason else "pruned" if after < group.width else "kept",
                "reason": reason,
                "node": group.writer.node.label,
                "op": group.writer.node.op,
                "multiplicity": group.multiplicity,
                "lossy_nodes": [node.label for node in group.lossy],
                "parameters": stake.parameters,
                "macs": stake.macs,
                "members": [{"parameter": m.parameter, "axis": m.axis, "role": m.role} for m in group.members],
            }
        )
    return entries


def frozen_entries(analysis: Analysis) -> list[Report]:
    """Describe every axis that stays, the costliest first."""
    remedy = remedies(analysis.facts)
    return [
        {
            "axis": f"{frozen.parameter}[{frozen.axis}]",
            "node": frozen.barrier.node.label if frozen.barrier.node else None,
            "op": frozen.barrier.node.op if frozen.barrier.node else None,
            "reason": frozen.barrier.reason,
            "kind": frozen.barrier.kind,
            "positions": frozen.positions,
            "size": frozen.size,
            "macs": stake.macs,
            "parameters": stake.parameters,
            "remedy": remedy(frozen.barrier),
        }
        for frozen, stake in frozen_stakes(analysis)
    ]


def stream_entries(analysis: Analysis, kept: Sequence[np.ndarray] | None = None) -> list[Report]:
    """Describe every stream of layer norms: what the norms are where it is cut, and why they are no root mean squares."""
    rows = []
    for one in normed_streams(analysis):
        stream, label = one.stream, next(iter(one.stream.norms.values())).node.label
        cut = kept is not None and any(not kept[group].all() for group in one.groups)
        rows.append(
            {
                "name": label,
                "status": "pruned" if cut else "kept" if one.groups else "frozen",
                "reason": stream.not_centrable or None,
                "width": stream.size,
                "norms": len(stream.norms),
                "form": "spelled out" if stream.not_centrable else "root mean square",
            }
        )
    return rows


def widened_entries(analysis: Analysis, kept: Kept | None = None) -> list[Report]:
    """Describe every value that an output is read from through a matrix: its width, and how many channels the matrix reads."""
    rows = []
    for value, (weight, axis) in matrices(analysis).items():
        mask = None if kept is None else kept.mask(weight, axis)
        width = (analysis.facts.shape(weight) or ())[axis]
        reads = width if mask is None else int(mask.sum())
        rows.append({"name": value, "status": "kept" if mask is None else "widened", "width": width, "reads": reads})
    return rows


def keeper(row: Report) -> str:
    """Return what keeps an axis of ``frozen_entries``, in words."""
    if row["node"]:
        return f"{row['node']} ({row['op']})"
    return "its only unit" if row["kind"] == "single" else "the model's boundary"


def coverage() -> Report:
    """Return every operator of the installed onnx's default domain and every other one that has a rule."""
    opset = onnx.defs.onnx_opset_version()
    known = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    names = sorted({*known, *RULES}, key=lambda name: ("::" in name, name))
    rows = []
    for name in names:
        rule = RULES.get(name)
        domain, _, op = name.rpartition("::")
        rows.append({"domain": domain, "op": op, "family": rule.family if rule else None})
    with_rule = sum(row["family"] is not None for row in rows)
    return {"operators": rows, "counts": {"total": len(rows), "with_rule": with_rule, "opset": opset}}


def joined_entries(parts: Sequence[Report]) -> Report:
    """Return the entries of several steps as one: what a later step says of the same name counts, what it lacks is gone."""
    result: Report = {}
    for key in dict.fromkeys(key for part in parts for key in part):
        there = [part[key] for part in parts if key in part]
        named = all("name" in row for rows in there for row in rows)
        result[key] = list({row["name"]: row for rows in there for row in rows}.values()) if named else there[-1]
    return result


def surgery_entry(check: SurgeryCheck) -> Report:
    """Describe the proof; ``exact``: all is proven, and no node takes statistics that the cut has changed."""
    return {
        "exact": check.exact and not check.lossy_nodes,
        "proven": check.exact,
        "unproven": check.unproven or None,
        "skipped": list(check.skipped),
        "outputs": {output.name: _proof(output) for output in check.outputs},
        "max_abs_error": check.max_abs_error,
        "max_relative_error": check.error,
        "tolerance": check.tolerance,
        "lossy_nodes": list(check.lossy_nodes),
        "frozen_by_check": list(check.frozen_by_check),
    }


def _proof(output: OutputProof) -> Report:
    return {name: value for name, value in asdict(output).items() if name != "name"}


def dumps(report: Report) -> str:
    """Return a report as JSON; infinities and NaN become null, what a console would not show is escaped."""
    return visible_json(json.dumps(_plain(report), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


# --- rows -------------------------------------------------------------------------------------------------------

TOTALS = {"channels": "channels", "parameters": "parameters", "macs": "MACs", "bytes": "bytes"}


def comparison(report: Report) -> list[tuple[str, str, str, str]]:
    """Return (what, before, after, change) for everything that a report compares."""
    before, after = report.get("before") or {}, report.get("after") or {}
    rows = [
        (title, f"{before[key]:,}", f"{after[key]:,}", _change(before[key], after[key]))
        for key, title in TOTALS.items()
        if key in before and key in after
    ]
    rows += [
        (title, f"{one:,.0f}", f"{two:,.0f}", _change(one, two) if told else OPEN)
        for title, one, two, told in latency_rows(report)
    ]
    task = report.get("task") or {}
    if task.get("before") is not None:
        rows.append(
            (task["metric"], f"{task['before']:.2%}", f"{task['after']:.2%}", f"{0.0 - task['drop'] * 100:+.2f} points")
        )
    rows += perplexity_rows(task)
    if report.get("unjudged"):
        rows.append(("does it still work?", "yes", "nothing says so: give --calib", ""))
    return rows


def perplexity_rows(task: Report) -> list[tuple[str, str, str, str]]:
    """Return the perplexity of a language model before and after, where it is known."""
    found = (task.get("agreement") or {}).get("perplexity")
    if not found:
        return []
    one, two = (f"{found[key]:.2f}" if found[key] is not None else "not finite" for key in ("before", "after"))
    return [("perplexity", one, two, "-" if found["ratio"] is None else f"{found['ratio'] - 1:+.1%}")]


def _change(before: float, after: float) -> str:
    return f"{(after - before) / before:+.1%}" if before else "-"


DRIFT = ("output", "SQNR dB", "cosine", "same class", "worst channel")


def drift_rows(outputs: Mapping[str, Report]) -> list[tuple[str, str, str, str, str]]:
    """Return the rows below ``DRIFT``, one more for each group of channels of an output that has several.

    Equal outputs have no SQNR. The worst channel is the one that moved most beside its own deviation.
    """
    rows = []
    for name, drift in outputs.items():
        equal = "equal" if drift["max_abs"] == 0 else "-"
        sqnr, cosine = _number(drift["sqnr_db"], ".1f", equal), _number(drift["cosine"], ".4f")
        rows.append((name, sqnr, cosine, _number(drift["top1_agreement"], ".2%"), _worst_channel(drift, equal)))
        groups = drift.get("groups") or ()
        for group in groups if len(groups) > 1 else ():
            ratio = group["relative_l2"]
            sqnr = f"{-20 * math.log10(ratio):.1f}" if ratio else "equal" if ratio == 0 else "-"
            rows.append((group["name"], sqnr, _number(group["cosine"], ".4f"), "-", str(group["worst_channel"])))
    return rows


def _worst_channel(drift: Report, equal: str) -> str:
    """Name the worst channel and its error in deviations."""
    channel, error = drift.get("worst_channel"), drift.get("worst_channel_error")
    if channel is None or equal == "equal":
        return "-"
    return str(channel) if error is None else f"{channel} ({error:.2g} sd)"


def proof_rows(surgery: Report) -> list[tuple[str, str, str, str]]:
    """Return (output, what silencing did to it, largest error, verdict) for every output of a proof."""
    return [
        (
            name,
            _number(proof["moved"], ".1%"),
            _number(proof["error"], ".1e"),
            _judgement(proof),
        )
        for name, proof in (surgery.get("outputs") or {}).items()
    ]


def _judgement(proof: Report) -> str:
    reason = f": {proof['reason']}" if proof["reason"] else ""
    return f"{'proven' if proof['proven'] else 'not proven'}{reason}"


def proof_sentence(surgery: Report) -> str:
    """Say in a sentence what a proof says; reports of 0.1.0 know only exact ones."""
    error = _number(surgery["max_relative_error"], ".1e")
    left_out = (
        f"; not run, since ONNX Runtime does not have them: {some(surgery['skipped'])}"
        if surgery.get("skipped")
        else ""
    )
    if not surgery.get("proven", surgery["exact"]):
        return f"surgery not proven: {surgery.get('unproven')}{left_out}"
    if surgery["lossy_nodes"]:
        nodes = some(surgery["lossy_nodes"])
        return (
            f"surgery as decided, but not silence: statistics changed in {nodes}; else largest error {error}{left_out}"
        )
    return f"surgery exact: largest error {error} of a position's own scale{left_out}"


def some(names: Sequence[str], most: int = 5) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


STEPS = ("step", "changed", "MACs left", "parameters", "bytes", "exact", "repair")
SHARES = ("shares of what is saved", "divergence", "")
WAYS = ("streams", "divergence", "")


def step_rows(report: ReportView) -> list[tuple[str, ...]]:
    """Return a row per step of a run: what it changed, and what is left then; none where units went in one step."""
    steps = report.get("steps") or []
    if [step["kind"] for step in steps] == ["units"]:
        return []
    return [
        (
            step["kind"],
            f"{step['changed']} of {step['of']}",
            *(f"{step['after'][key]:,}" for key in ("macs", "parameters", "bytes")),
            "yes" if step["exact"] else "not proven",
            (step.get("repair") or {}).get("method", "none"),
        )
        for step in steps
    ]


def share_rows(report: ReportView) -> list[tuple[str, ...]]:
    """Return a row per mix of kinds that was tried."""
    return [
        (
            ", ".join(f"{name} {share:.0%}" for name, share in mix["shares"].items()),
            "out of reach" if mix["divergence"] is None else f"{mix['divergence']:.3g}",
            "chosen" if mix["chosen"] else "",
        )
        for mix in report.get("shares") or ()
    ]


def way_rows(report: ReportView) -> list[tuple[str, ...]]:
    """Return a row for streams as they are and one for streams turned first, where both were tried."""
    return [
        (
            "turned first" if way["rotate"] else "as they are",
            "out of reach" if way["divergence"] is None else f"{way['divergence']:.3g}",
            "chosen" if way["chosen"] else "",
        )
        for way in report.get("rotation") or ()
    ]


def part_tables(report: ReportView) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    """Yield what became of the parts of kinds of change that say no more of them than that: key, (name, status, reason) each."""
    for key, rows in report.items():
        if isinstance(rows, list) and rows and isinstance(rows[0], dict) and set(rows[0]) == set(PART):
            yield key, [(row["name"], row["status"], row["reason"] or "") for row in rows]


PART = ("name", "status", "reason")


def amount(value: float) -> str:
    """Return a small number with six digits, a count in full."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.6g}"


def _number(value: float | None, spec: str, absent: str = "-") -> str:
    return absent if value is None else format(value, spec)


def verdict(report: Report) -> str:
    """Return the result of a run in one plain sentence; empty where there is nothing to compare."""
    before, after = report.get("before"), report.get("after")
    if not before or not after:
        return ""
    told = [key for key in TOTALS if key != "channels" and key in before and key in after]
    gone = [f"{TOTALS[key]} {_change(before[key], after[key])}" for key in told]
    ratio = believed_ratio(report)
    speed = f", {1 / ratio:.2f}x as fast" if ratio else f", how fast is {OPEN}" if latency_doubt(report) else ""
    failed = [gate["name"] for gate in report.get("gates", ()) if not gate["passed"]]
    nothing = "; nothing was written" if "output" in report else ""
    doubt = "; nothing says that it still works: give --calib" if report.get("unjudged") else ""
    end = f"{doubt}; gate failed: {', '.join(failed)}{nothing}" if failed else doubt
    return f"{', '.join(gone)}{speed}{end}."
