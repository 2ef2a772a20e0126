"""Prune one model by half and print what came of it as one line of JSON: `python measure_one.py MODEL`."""

import json
import sys
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import onnxprune
from onnxprune import Analysis
from onnxprune.coupling.groups import Frozen
from onnxprune.model.graph import Node

BOUNDARY = ("input", "output")
TAPS = "a window slides over this axis"
RECURRENT = {"LSTM", "GRU", "RNN"}


def kind(analysis: Analysis) -> str:
    """What carries the model: attention (two activations are multiplied), recurrence, convolution, or dense layers."""
    facts = analysis.facts
    contracting = [volume.node for volume in analysis.macs if volume.node is not None]
    if any(all(name not in facts.constants for name in node.inputs[:2]) for node in contracting):
        return "attention"
    ops = {node.op for node in contracting}
    return "recurrent" if ops & RECURRENT else "convolutional" if "Conv" in ops else "dense"


def inner_share(analysis: Analysis) -> float:
    """Prunable share of the MACs of layers with weights that neither read the input nor write the output."""
    volumes = [v for v in analysis.macs if v.node is not None and is_inner(analysis, v.node)]
    whole = sum(volume.at(analysis.widths) for volume in volumes)
    return 1 - sum(volume.at(0 * analysis.widths) for volume in volumes) / whole if whole else 1.0


def is_inner(analysis: Analysis, node: Node) -> bool:
    """Whether a node has weights, none of whose axes hangs together with an axis of the model's inputs and outputs."""
    facts, solution = analysis.facts, analysis.solution

    def components(names: Iterable[str]) -> set[int]:
        axes = [(name, axis) for name in names for axis in range(len(facts.shape(name) or ()))]
        return {c for axis in axes for c in solution.labels[solution.links.axis(*axis)].tolist()}

    weights = [name for name in node.inputs if name in facts.constants]
    return bool(weights) and not components(weights) & components([*facts.graph.inputs, *facts.graph.outputs])


def main_reason(analysis: Analysis) -> str:
    """What keeps most of the MACs that no cut reaches, taps of windows aside: the model's own input or output, or `Op: reason`."""
    at_stake: Counter[str] = Counter()
    for volume in analysis.macs:
        stays, inputs = volume.at(0 * analysis.widths), volume.node.inputs if volume.node is not None else ()
        reasons = {words(frozen) for frozen in analysis.frozen if frozen.parameter in inputs} - {"Conv: " + TAPS}
        ordered = sorted(reasons, reverse=True)  # of two that keep as much, the output comes before the input
        at_stake.update(dict.fromkeys(ordered, stays / max(len(ordered), 1)))
    reason, macs = at_stake.most_common(1)[0] if at_stake else ("", 0)
    return reason if macs else ""


def words(frozen: Frozen) -> str:
    node, kind = frozen.barrier.node, frozen.barrier.kind
    return (
        f"the model's {kind}"
        if kind in BOUNDARY
        else f"{node.op}: {frozen.barrier.reason}"
        if node
        else frozen.barrier.reason
    )


def measure(path: str) -> dict[str, Any]:
    """Analyse and prune a model at ratio 0.5 with l2 scores, widths not rounded.

    A model of which nothing can be cut as it is computes statistics over all its axes: then those are cut as well.
    """
    start = time.process_time()
    analysis = onnxprune.analyze(path)
    seconds = time.process_time() - start
    shares = {"kind": kind(analysis), "inner": inner_share(analysis), "nodes": len(analysis.facts.graph.nodes)}
    shares["reason"] = main_reason(analysis)
    del analysis
    try:
        report, granularity = _prune(path, "heads"), "heads"
    except onnxprune.errors.TargetError:
        report, granularity = _prune(path, "heads", "stream"), "stream"
    before, after, surgery = report["before"], report["after"], report["surgery"]
    return shares | {
        "granularity": granularity,
        "prunable_macs": report["prunable"]["macs"],
        "prunable_parameters": report["prunable"]["parameters"],
        "removed_macs": 1 - after["macs"] / before["macs"] if before["macs"] else 0.0,
        "removed_parameters": 1 - after["parameters"] / before["parameters"] if before["parameters"] else 0.0,
        "exact": surgery["exact"] and not surgery["frozen_by_check"],
        "frozen_by_check": len(surgery["frozen_by_check"]),
        "error": surgery["max_relative_error"],
        "lossy": len(surgery["lossy_nodes"]),
        "groups": len(report["groups"]),
        "analysis_cpu_seconds": round(seconds, 2),
        "seconds": round(sum(report["seconds"].values()), 2),
        "peak_mib": report["peak_rss_bytes"] // 2**20,
    }


def _prune(path: str, *granularity: str) -> dict[str, Any]:
    settings = {"ratio": 0.5, "criterion": "l2", "round_to": 1, "latency": False, "granularity": granularity}
    return onnxprune.prune(path, **settings).report


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1])))
