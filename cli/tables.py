"""What people read: reports as tables and sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnxprune.cli.console import Terminal
from onnxprune.report.caches import CACHES, cache_rows, cache_sentence
from onnxprune.report.checkpoints import SLICED_TENSORS, slicing_rows, slicing_sentences
from onnxprune.report.documents.tables import memory_rows
from onnxprune.report.entries import (
    DRIFT,
    PART,
    SHARES,
    STEPS,
    WAYS,
    comparison,
    drift_rows,
    keeper,
    part_tables,
    proof_rows,
    proof_sentence,
    share_rows,
    some,
    step_rows,
    verdict,
    way_rows,
)
from onnxprune.report.experts import EXPERT_COLUMNS, expert_rows
from onnxprune.report.gated import gate_sentences
from onnxprune.report.latency import OPEN, latency_doubt, way_out
from onnxprune.report.limits import gate_rows, gate_words
from onnxprune.report.missed import way_on
from onnxprune.report.products import products_sentence
from onnxprune.report.quantising import (
    FORMS_OF_MODEL,
    RECIPES_TRIED,
    WEIGHING_NODES,
    form_rows,
    quantised_sentences,
    recipe_rows,
    weighing_rows,
)
from onnxprune.report.remedies import WINDOW
from onnxprune.report.robustness import ROBUSTNESS, robustness_rows, robustness_sentence
from onnxprune.report.sizes import sizes_sentence
from onnxprune.report.storage import SIZES, TENSORS, packing_rows, packing_sentence, tensor_rows
from onnxprune.report.tasks import task_sentence
from onnxprune.report.vocabulary import TOKEN_TENSORS, token_rows, token_sentence
from onnxprune.report.zeros import order_sentence, zeros_sentence

SHOWN = 12  # rows of a long table on a terminal without --all


def show_comparison(terminal: Terminal, report: dict[str, Any]) -> None:
    """Print how two models compare: before and after, drift, gates."""
    terminal.table(("", "before", "after", "change"), comparison(report))
    show_sizes(terminal, report)
    drift = (report["drift"] or {}).get("outputs")
    if drift:
        decided = " of --calib, which decided" if report["drift"].get("rows") == "calibration" else ""
        samples = f"drift over {report['drift']['samples']} samples{decided}"
        again = report["drift"].get("fed_again")
        samples += f"; {len(again)} outputs that are fed again are judged by what comes of them" if again else ""
        terminal.table(DRIFT, drift_rows(drift), samples)
    told = task_sentence(report)
    if told:
        terminal.say(told)
    for sentence in gate_sentences(report):
        terminal.say(sentence)
    if attacked := robustness_rows(report):
        terminal.table(ROBUSTNESS, attacked, robustness_sentence(report))
    if report["gates"]:
        terminal.table(("gate", "limit", "value", "passed"), gate_rows(report["gates"]))


def show_sizes(terminal: Terminal, report: dict[str, Any]) -> None:
    """Print at what sizes costs are counted, where the report knows."""
    if text := sizes_sentence(report):
        terminal.say(text)


def show_result(terminal: Terminal, report: dict[str, Any]) -> None:
    """Print what a run did: the comparison, exactness, what stays, and the verdict."""
    show_comparison(terminal, report)
    for head, rows in ((SHARES, share_rows(report)), (WAYS, way_rows(report)), (STEPS, step_rows(report))):
        if rows:
            terminal.table(head, rows)
    show_parts(terminal, report, everything=False)
    surgery = report["surgery"]
    show_proof(terminal, surgery)
    for line in _reconstruction(report):
        terminal.say(line)
    if "recover" in report:
        trained = report["recover"]
        terminal.say(
            f"trained for {trained['steps']} steps: held-out loss {trained['before']:.4g} -> {trained['after']:.4g}"
        )
    if surgery["frozen_by_check"]:
        terminal.say(f"kept whole because cutting was not exact: {some(surgery['frozen_by_check'], 4)}")
    _show_kept(terminal, report)
    if report["output"]:
        terminal.say(f"written to {report['output']['path']}")
    if advice := way_on(report):
        terminal.say(advice)
    terminal.say(verdict(report))


def show_proof(terminal: Terminal, surgery: dict[str, Any]) -> None:
    """Print what the proof saw of every output, and in a sentence what it says."""
    rows = proof_rows(surgery)
    hidden = rows[SHOWN:]
    terminal.table(("output", "moved by silencing", "error", "proof"), rows[:SHOWN])
    if hidden:
        proven = sum(row[-1].startswith("proven") for row in hidden)
        terminal.say(f"and {len(hidden)} more outputs, {proven} of them proven")
    terminal.say(proof_sentence(surgery))


def show_latency(terminal: Terminal, report: dict[str, Any], names: tuple[str, str | None]) -> None:
    """Print how long two models take and what they hold, ``names`` being what the user calls them."""
    latency, cpu = report["latency"], report["latency"]["cpu"]
    percentiles = ("p10", "min", "p50", "p90", "p99")
    rows = [
        (f"{name}{clock}", *(f"{found[key][p]:,.0f}" for p in percentiles), str(found[key]["runs"]))
        for clock, found in (("", latency), (", CPU time", cpu or {}))
        for name, key in zip(names, ("before", "after"), strict=True)
        if found.get(key)
    ]
    sizes = ", ".join(f"{name} {'x'.join(map(str, size)) or 'scalar'}" for name, size in latency["sizes"].items())
    title = f"latency, threads: {latency['threads']}, on {', '.join(latency['providers'])}, of {sizes}"
    terminal.table(("µs", *percentiles, "runs"), rows, title)
    terminal.table(("bytes", "weights", "peak activations", "peak resident"), list(memory_rows(report)))
    if report["gates"]:
        terminal.table(("gate", "limit", "value", "passed"), gate_rows(report["gates"]))
    ratio = latency.get("ratio")
    if ratio:
        clock = "CPU time" if latency["by"] == "cpu" else "time"
        wall = "" if latency["by"] == "wall" else f"; by the clock on the wall {_wall(latency)}"
        terminal.say(f"{names[1]} takes {ratio:.3f} of the {clock} of {names[0]} by p10{wall}")
    elif latency_doubt(report):
        terminal.say(f"how fast {names[1]} is: {OPEN} ({latency_doubt(report)}); {way_out(report)}")


def _wall(latency: dict[str, Any]) -> str:
    return OPEN if latency["ratio_p10"] is None else f"{latency['ratio_p10']:.3f}"


def show_layers(terminal: Terminal, report: dict[str, Any]) -> None:
    """Print the inner tensors that are furthest apart, in the order of the graph."""
    layers = report.get("layers")
    if layers is None:
        return
    moved = [row for row in layers["tensors"] if row["sqnr_db"] is not None]
    worst = {id(row) for row in sorted(moved, key=lambda row: row["sqnr_db"])[:SHOWN]}
    rows = [(row["name"], row["op"], f"{row['sqnr_db']:.1f}") for row in moved if id(row) in worst]
    if rows:
        terminal.table(("tensor", "operator", "SQNR dB"), rows, f"furthest apart of {layers['compared']} inner tensors")
    terminal.say(f"{layers['reshaped']} inner tensors have other shapes and are not compared")


def show_jobs(terminal: Terminal, reports: dict[str, dict[str, Any]]) -> None:
    """Print one line per job, and one per budget that was missed."""
    rows = []
    for name, report in reports.items():
        failed = [gate for gate in report.get("gates", ()) if not gate["passed"]]
        judged = "passed" if report.get("gates") else "none"
        state = "cannot be run" if report.get("error") else "missed" if failed else judged
        rows.append((name, report["command"] or "", state, report.get("error") or verdict(report)))
    terminal.table(("job", "command", "budgets", "result"), rows)
    for name, report in reports.items():
        for gate in report.get("gates", ()):
            if not gate["passed"]:
                terminal.say("{}: {} is {}, the limit is {}".format(name, gate["name"], *gate_words(gate)))


def _reconstruction(report: dict[str, Any]) -> list[str]:
    """Say in a line each what the search and the repair did, with the divergence on held-out calibration rows."""
    lines = []
    schedule = report.get("schedule")
    if schedule:
        units = ", ".join(str(step["units"]) for step in schedule["steps"])
        returned = sum(step["returned"] for step in schedule["steps"])
        lines.append(f"schedule {schedule['name']}: units left {units}; {returned} came back on the way")
        if "overlap_with_rewind" in schedule:
            found = schedule["overlap_with_rewind"]
            lines.append(
                f"of what went, the weights rewound to would let go {found['jaccard']:.0%} (chance: {found['chance']:.0%})"
            )
        if "overlap_with_magnitude" in schedule:
            found = schedule["overlap_with_magnitude"]
            lines.append(
                f"and the trained weights by their size alone {found['jaccard']:.0%} (chance: {found['chance']:.0%})"
            )
    for key, whose in (("with_rewind", "earlier"), ("with_magnitude", "trained")):
        found = (report.get("overlap") or {}).get(key)
        if found:
            lines.append(
                f"of the zeros, the largest of the {whose} weights would leave {found['jaccard']:.0%} zero (chance: {found['chance']:.0%})"
            )
    tried = report.get("search") or []
    if tried:
        best = min(tried, key=lambda entry: entry["divergence"])
        lines.append(f"widths: {len(tried)} proposals repaired and judged, best divergence {best['divergence']:.4g}")
    repaired = report.get("repair") or {"method": "none"}
    if repaired["method"] != "none":
        found = repaired["divergence"]
        moved = f", divergence {found['none']:.4g} -> {found[repaired['method']]:.4g}" if found else ""
        lines.append(f"surviving weights repaired: {repaired['method']}, no labels, no training{moved}")
    return lines


def show_checkpoint(terminal: Terminal, report: dict[str, Any], everything: bool) -> None:
    """Print what became of the tensors of a checkpoint."""
    rows = slicing_rows(report)
    shown = rows if everything else rows[:SHOWN]
    terminal.table(SLICED_TENSORS, shown)
    if len(rows) > len(shown):
        terminal.say(f"and {len(rows) - len(shown)} more tensors; --all lists them")
    for line in slicing_sentences(report):
        terminal.say(line)


def show_curves(terminal: Terminal, found: Sequence[dict[str, Any]]) -> None:
    """Print divergence against width, the group that suffers most at its narrowest first."""
    ordered = sorted(found, key=lambda curve: -curve["fitted"][-1])
    rows = [
        (
            curve["group"],
            str(curve["width"]),
            ", ".join(f"{width}: {value:.3g}" for width, value in zip(curve["widths"], curve["fitted"], strict=True)),
        )
        for curve in ordered
    ]
    terminal.table(("group", "units", "divergence with so many left"), rows, "each group narrowed alone and repaired")


def _show_kept(terminal: Terminal, report: dict[str, Any]) -> None:
    share = report["prunable"]
    terminal.say(f"prunable: {share['macs']:.1%} of the MACs, {share['parameters']:.1%} of the parameters")
    rest = [row for row in report["frozen"] if row["kind"] not in ("input", "output") and row["reason"] != WINDOW]
    if rest:
        reasons = list(dict.fromkeys(row["reason"] for row in rest))
        terminal.say(f"{len(rest)} weight axes stay ('onnxprune inspect' lists them): {some(reasons, 2)}")


def show_groups(terminal: Terminal, groups: Sequence[dict[str, Any]], everything: bool) -> None:
    """Print groups, those with the most MACs first; a unit of several positions shows how many."""
    ordered = sorted(groups, key=lambda group: (-group["macs"], -group["parameters"]))
    rows = [(g["name"], _width(g), str(len(g["members"])), f"{g['macs']:,}", f"{g['parameters']:,}") for g in ordered]
    _long_table(
        terminal, ("group", "units", "axes", "MACs", "parameters"), rows, f"{len(rows)} groups can be cut", everything
    )


def show_parts(terminal: Terminal, report: dict[str, Any], everything: bool) -> None:
    """Print what became of the parts of every kind of change but units."""
    if "blocks" in report:
        show_blocks(terminal, report["blocks"], everything)
    for key in ("directions", "ranks"):
        if key in report:
            show_directions(terminal, report[key], everything)
    _long_table(terminal, EXPERT_COLUMNS, expert_rows(report), "experts of mixtures", everything)
    show_vocabulary(terminal, report, everything)
    show_caches(terminal, report, everything)
    for told in filter(None, (order_sentence(report), zeros_sentence(report), products_sentence(report))):
        terminal.say(told)
    show_storage(terminal, report, everything)
    show_quantised(terminal, report, everything)
    for key, rows in part_tables(report):
        _long_table(terminal, PART, rows, key, everything)


def show_vocabulary(terminal: Terminal, report: dict[str, Any], everything: bool) -> None:
    """Print which tensors have a slice per token, and how many tokens stay."""
    _long_table(terminal, TOKEN_TENSORS, token_rows(report), "what has a slice per token", everything)
    if sentence := token_sentence(report):
        terminal.say(sentence)


def show_caches(terminal: Terminal, report: dict[str, Any], everything: bool) -> None:
    """Print which caches of a decoder became narrower, and what that asks of its clients."""
    _long_table(terminal, CACHES, cache_rows(report), "caches of a decoder", everything)
    if sentence := cache_sentence(report):
        terminal.say(sentence)


def show_storage(terminal: Terminal, report: dict[str, Any], everything: bool) -> None:
    """Print how tensors are stored, and what that makes of the file."""
    _long_table(terminal, TENSORS, tensor_rows(report), "how tensors are stored", everything)
    if rows := packing_rows(report):
        terminal.table(SIZES, rows)
        terminal.say(packing_sentence(report))


def show_quantised(terminal: Terminal, report: dict[str, Any], everything: bool) -> None:
    """Print what was tried to quantise the model, and what that makes of it."""
    if everything or "quantisation" not in report:
        _long_table(terminal, WEIGHING_NODES, weighing_rows(report), "nodes with weights", everything)
    if rows := recipe_rows(report):
        terminal.table(RECIPES_TRIED, rows)
    if rows := form_rows(report):
        terminal.table(FORMS_OF_MODEL, rows)
    for sentence in quantised_sentences(report):
        terminal.say(sentence)


def show_blocks(terminal: Terminal, blocks: Sequence[dict[str, Any]], everything: bool) -> None:
    """Print residual branches in the model's order: which sum loses them, what that saves, what they are worth."""
    scored = any("score" in block for block in blocks)
    head = ("branch", "sum", "status", "MACs", "parameters", *(["score"] if scored else []))
    rows = [
        (b["name"], b["sum"], b["status"], f"{b['macs']:,}", f"{b['parameters']:,}")
        + ((f"{b['score']:.3g}",) if scored else ())
        for b in blocks
    ]
    _long_table(terminal, head, rows, f"{len(rows)} residual branches can be removed", everything)


def show_directions(terminal: Terminal, layers: Sequence[dict[str, Any]], everything: bool) -> None:
    """Print layers in the model's order: the directions of input and output that stay, and what each layer then costs."""
    found = [layer for layer in layers if "inputs" in layer]
    formed = any("form" in layer for layer in found)
    rows = [
        (e["name"], f"{e['inputs_after']} of {e['inputs']}", f"{e['outputs_after']} of {e['outputs']}",
         *([f"{e['form']} {e['rank']}" if e["form"] else "-"] if formed else []), e["status"],
         f"{e['macs']:,}", f"{e['macs_after']:,}")
        for e in found
    ]  # fmt: skip
    head = ("layer", "inputs", "outputs", *(["form, rank"] if formed else []), "status", "MACs", "after")
    _long_table(terminal, head, rows, f"{len(rows)} layers can be written as factors", everything)
    rest = list(dict.fromkeys(layer["reason"] for layer in layers if "inputs" not in layer))
    if rest:
        terminal.say(f"{len(layers) - len(found)} nodes stay as they are: {some(rest, 3)}")


def _width(group: dict[str, Any]) -> str:
    per_unit = group["multiplicity"]
    return str(group["width_before"]) if per_unit == 1 else f"{group['width_before']} x {per_unit}"


def show_frozen(terminal: Terminal, frozen: Sequence[dict[str, Any]], everything: bool) -> None:
    """Print what stays, reasons and remedies numbered below; kernel axes are counted unless everything is asked for."""
    shown = [row for row in frozen if everything or row["reason"] != WINDOW]
    causes: dict[tuple[str, str], int] = {}
    rows = []
    for row in shown:
        number = causes.setdefault((row["reason"], row["remedy"]), len(causes) + 1)
        rows.append((row["axis"], keeper(row), f"{row['macs']:,}", f"{row['parameters']:,}", f"[{number}]"))
    head = ("axis", "kept by", "MACs", "parameters", "why")
    _long_table(terminal, head, rows, f"{len(rows)} weight axes stay", everything)
    for (reason, remedy), number in causes.items():
        terminal.say(f"[{number}] {reason}")
        terminal.say(f"    -> {remedy}")
    if len(frozen) > len(shown):
        terminal.say(f"Beside these {len(frozen) - len(shown)} kernel axes stay, along which a window slides.")


def _long_table(
    terminal: Terminal, head: Sequence[str], rows: Sequence[tuple[str, ...]], title: str, everything: bool
) -> None:
    shown = rows if everything else rows[:SHOWN]
    if shown:
        terminal.table(head, shown, title)
    if len(rows) > len(shown):
        terminal.say(f"... and {len(rows) - len(shown)} more; --all shows them")
