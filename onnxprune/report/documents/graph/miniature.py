"""A whole graph at a glance: every node a small box, one block below the other, in columns as in a newspaper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from onnxprune.report.documents.graph.layering import Layering, layout
from onnxprune.report.documents.graph.picture import LONGEST_TITLE, look_of, share_left, short

WIDE, HIGH, PITCH = 16, 8, 14
GAP, LANE = 5.0, 4.0
SPACE = 8  # between columns
FEWEST_LAYERS, COLUMNS = 24, 16
"""Layers of a column at least, and columns at most."""
LINE = 2.6
NOTHING: Mapping[str, Any] = {"width_before": None, "width_after": None}


def miniature(graph: Mapping[str, Any], parts: Sequence[range], decided: bool, ids: Mapping[int, str]) -> Markup:
    """Draw all nodes; ``ids``: by the number of its first node, the id of the picture that a block leads to."""
    drawn = [_Small(graph, part) for part in parts]
    layers = sum(one.found.layers for one in drawn)
    column = max(FEWEST_LAYERS, -(-layers // COLUMNS), *(one.found.layers for one in drawn))
    body, left, top, widest, lowest = [], 0.0, 0, 0.0, 0
    for one in drawn:
        if top + one.found.layers > column:
            left, top, widest = left + widest + SPACE, 0, 0.0
        widest = max(widest, one.found.width)
        place = f"translate({left:.0f} {top * PITCH})"
        block = f'<title>{one.title}</title><g transform="{place}">{one.drawn(decided)}</g>'
        name = ids.get(one.block.start)
        body.append(f'<a href="#{name}">{block}</a>' if name else f"<g>{block}</g>")
        top += one.found.layers
        lowest = max(lowest, top)
    width, height = round(left + widest + 2), lowest * PITCH
    title = f"All {sum(map(len, parts))} nodes at a glance, block by block"
    return Markup(
        f'<svg class="graph small" role="group" aria-label="{title}" viewBox="-1 -1 {width} {height}" '
        f'width="{width}" height="{height}">{"".join(body)}</svg>'
    )


class _Small:
    """A block laid out: what it reads from elsewhere as points above, then its nodes."""

    def __init__(self, graph: Mapping[str, Any], block: range):
        self.rows, self.block = graph["nodes"], block
        outside = sorted({source for node in block for source in self.rows[node]["reads"] if source not in block})
        self.nodes = [*outside, *block]
        place = {node: number for number, node in enumerate(self.nodes)}
        edges = [(place[source], place[node]) for node in block for source in self.rows[node]["reads"]]
        self.edges = list(dict.fromkeys(edges))
        self.outside = len(outside)
        sizes = [LANE] * len(outside) + [float(WIDE)] * len(block)
        self.found: Layering = layout(sizes, self.edges, GAP, LANE)

    @property
    def title(self) -> Markup:
        """Name a block by its ends."""
        first, last = (short(self.rows[self.block[at]]) for at in (0, -1))
        return escape(f"{first} … {last}"[:LONGEST_TITLE])

    def drawn(self, decided: bool) -> str:
        return "".join(map(self._edge, self.edges)) + self._boxes(decided)

    def _edge(self, edge: tuple[int, int]) -> str:
        source, target = edge
        found, number = self.found, self.nodes[source]
        start = found.layer[source] * PITCH + (HIGH - PITCH if source < self.outside else HIGH)
        points = [(found.x[source], float(start))]
        points += [(x, (found.layer[source] + 1 + at) * PITCH + HIGH / 2) for at, x in enumerate(found.routes[edge])]
        points.append((found.x[target], found.layer[target] * PITCH))
        row = self.rows[number] if number >= 0 else NOTHING
        before, after = row["width_before"], row["width_after"]
        look = "e" if not before else "cut" if after < before else "all"
        wide = f' stroke-width="{max(0.6, LINE * after / before):.1f}"' if before else ""
        path = "L".join(f"{x:.0f} {y:.0f}" for x, y in points)
        return f'<path class="{look}"{wide} d="M{path}"/>'

    def _boxes(self, decided: bool) -> str:
        found, drawn = self.found, []
        for at, number in enumerate(self.block, self.outside):
            row = self.rows[number]
            left, top, share = round(found.x[at] - WIDE / 2), found.layer[at] * PITCH, share_left(row)
            look = look_of(row, decided)
            box = f'<g class="{look}"><rect x="{left}" y="{top}" width="{WIDE}" height="{HIGH}"/>'
            if look in ("pruned", "kept"):
                share = 1.0 if share is None else share
                box += f'<rect class="bar" x="{left}" y="{top}" width="{max(1, round(WIDE * share))}" height="{HIGH}"/>'
            drawn.append(box + "</g>")
        return "".join(drawn)
