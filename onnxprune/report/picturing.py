"""The graph of a model as a report holds it: its nodes with what each costs, how wide it writes, and what becomes of it.

Operators without products or matrices of their own (activations, norms, reshapes) are drawn with the node whose value they
change, where there is one such node; what is computed of stored tensors or of shapes alone is left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxprune.allocate.account import batch_size
from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.kept import Kept
from onnxprune.model.graph import Node, made_of_weights
from onnxprune.report.remedies import WINDOW

MOST_NODES = 4000
"""Nodes that a report holds; of larger graphs those behind are left out, and how many there are is said."""
MEASURING = ("Shape", "Size")
UNTOUCHED = ("kept", "frozen")
"""What a part is called that nothing has become of; all other words are of what went or changed."""


@dataclass
class _Drawing:
    """Rows so far; ``place`` maps a value to the number of its row, of an input ``k`` to ``-1 - k``."""

    rows: list[tuple[Node, list[int], list[str]]] = field(default_factory=list)
    place: dict[str, int] = field(default_factory=dict)

    def add(self, node: Node, reads: list[int], *, own: bool) -> None:
        if own or len(reads) > 1:
            self.rows.append((node, reads, []))
            number = len(self.rows) - 1
        else:
            number = reads[0]
            if number >= 0:
                self.rows[number][2].append(node.op)
        self.place.update((name, number) for name in node.outputs if name)


def graph_entry(analysis: Analysis, kept: Kept | None = None) -> dict[str, Any]:
    """Describe the graph that was analysed; ``kept``: what stays of its units (None: undecided, so that all does)."""
    drawing = _drawn(analysis)
    told = _Told(analysis, Kept.whole(analysis) if kept is None else kept)
    graph = analysis.facts.graph
    nodes = [told.row(node, reads, then) for node, reads, then in drawing.rows[:MOST_NODES]]
    ends = {name: drawing.place.get(name, len(nodes)) for name in graph.outputs}
    outputs = [{"name": name, "node": end} for name, end in ends.items() if end < len(nodes)]
    return {"of": len(drawing.rows), "inputs": list(graph.inputs), "outputs": outputs, "nodes": nodes}


def _drawn(analysis: Analysis) -> _Drawing:
    """Part the nodes of the main graph into rows of their own and what is drawn with another."""
    facts = analysis.facts
    graph, costly = facts.graph, {id(volume.node) for volume in analysis.macs}
    stored = made_of_weights(graph) | facts.constants
    measured: set[str] = set()
    drawing = _Drawing(place={name: -1 - number for number, name in enumerate(graph.inputs)})
    for node in graph.top:
        live = [name for name in sorted(node.reads()) if name not in stored]
        outputs = [name for name in node.outputs if name]
        if all(name in stored for name in outputs):
            continue
        if node.op in MEASURING or (live and all(name in measured for name in live)):
            measured.update(outputs)
            continue
        reads = sorted({drawing.place[name] for name in live if name in drawing.place})
        matrices = any(sum(size > 1 for size in facts.shape(name) or ()) > 1 for name in node.inputs if name in stored)
        own = matrices or not reads or bool(node.bodies) or any(id(inner) in costly for inner in node.inside())
        drawing.add(node, reads, own=own)
    return drawing


class _Told:
    """What there is to say of a node, before and after the units outside ``kept`` went."""

    def __init__(self, analysis: Analysis, kept: Kept):
        self._analysis, self._kept, self._facts = analysis, kept, analysis.facts
        self._whole = analysis.widths
        self._batch = batch_size(analysis.facts)
        self._macs = defaultdict(list)
        for volume in analysis.macs:
            self._macs[id(volume.node)].append(volume)
        self._sizes = {volume.name: volume for volume in analysis.parameters}
        self._counted = set(analysis.facts.model.copies)
        self._reasons: dict[str, str] = {}
        for one in sorted(analysis.frozen, key=lambda one: (one.barrier.reason == WINDOW, -one.positions)):
            self._reasons.setdefault(one.parameter, one.barrier.reason)

    def row(self, node: Node, reads: list[int], then: list[str]) -> dict[str, Any]:
        weights = list(dict.fromkeys(self._stored(node)))
        status, reason = self._status(node, weights)
        value = next((name for name in node.outputs if name), node.label)
        before, after = self._width(value)
        found: dict[str, Any] = {"name": value, "node": node.label, "op": node.op, "then": then, "reads": reads}
        found |= {"status": status, "reason": reason, "width_before": before, "width_after": after}
        volumes = {
            "macs": [v for inner in node.inside() for v in self._macs.get(id(inner), ())],
            "parameters": [self._sizes[name] for name in weights if name in self._sizes and name not in self._counted],
        }
        self._counted.update(weights)
        for key, counted in volumes.items():
            share = self._batch if key == "macs" else 1
            for when, widths in (("before", self._whole), ("after", self._kept.widths)):
                found[f"{key}_{when}"] = sum(v.at(widths) for v in counted) // share
        return found

    def _stored(self, node: Node) -> Iterator[str]:
        """Yield the stored tensors that a node reads, through what is computed of them alone."""
        graph, waiting = self._facts.graph, sorted(node.reads())
        seen = set(waiting)
        while waiting:
            name = waiting.pop(0)
            if name in self._sizes or name in self._reasons:
                yield name
            elif name in self._facts.constants and name in graph.producer:
                fresh = [one for one in graph.producer[name].inputs if one and one not in seen]
                waiting += fresh
                seen.update(fresh)

    def _status(self, node: Node, weights: Sequence[str]) -> tuple[str | None, str | None]:
        """Return what becomes of the weights of a node, and why they stay; None for a node without any that counts."""
        matrices = [name for name in weights if len(self._facts.shape(name) or ()) > 1]
        if not matrices:
            return None, None
        if any(self._kept.masks(name) for name in matrices):
            return "pruned", None
        reason = next((self._reasons[name] for name in matrices if name in self._reasons), None)
        if any(self._units(name, axis).max(initial=-1) >= 0 for name, axis in self._axes(matrices)):
            return "kept", None
        return "frozen", reason

    def _axes(self, values: Iterable[str]) -> Iterator[tuple[str, int]]:
        known = self._analysis.solution.links.axes
        for name in values:
            yield from ((name, axis) for axis in range(len(self._facts.shape(name) or ())) if (name, axis) in known)

    def _units(self, value: str, axis: int) -> np.ndarray:
        """Return int64[size]: the unit of each position of an axis, -1 for those that stay."""
        return self._analysis.unit[self._analysis.solution.links.axis(value, axis)]

    def _width(self, value: str) -> tuple[int | None, int | None]:
        """Return how many positions the axis of a value has in which most can go, and how many stay; None where none can."""
        found = [(int((self._units(*place) >= 0).sum()), place[1]) for place in self._axes([value])]
        most, axis = max(found, default=(0, 0), key=lambda one: one[0])
        if most == 0:
            return None, None
        size, mask = (self._facts.shape(value) or ())[axis], self._kept.mask(value, axis)
        return size, size if mask is None else int(mask.sum())


def whole_graph(first: Analysis, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the graph of the original with what all steps did: ``parts`` are the entries of each step, in order."""
    graph = graph_entry(first)
    rows = {row["name"]: row for row in graph["nodes"]}
    labelled = defaultdict(list)
    for row in graph["nodes"]:
        labelled[row["node"]].append(row)
    for part in parts:
        for one in part.get("graph", {}).get("nodes", ()):
            if one["name"] in rows:
                own = {key: one[key] for key in one if key.endswith("_after")}
                rows[one["name"]].update(own | ({"status": one["status"]} if one["status"] == "pruned" else {}))
        for status, label, after in _changes(part):
            for row in labelled.get(label, ()):
                row["status"] = status
                row.update(after)
    return graph


def _changes(part: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, int]]]:
    """Yield (status, label of a node, what is known of it afterwards) of every node that other kinds than units changed."""
    gone = {"macs_after": 0, "parameters_after": 0}
    for key, rows in part.items():
        for row in rows if isinstance(rows, list) and key not in ("groups", "frozen") else ():
            status = row.get("status", UNTOUCHED[0])
            if status in UNTOUCHED:
                continue
            if key == "blocks":
                yield from ((status, label, gone) for label in row["nodes"])
            elif "node" in row:
                yield status, row["node"], {name: row[name] for name in gone if name in row}
