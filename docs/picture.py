"""Draw docs/architecture.svg: the packages in their layers and who imports whom, from the imports themselves.

    python docs/picture.py

An arrow that others imply is left out (the transitive reduction): who imports ``criteria`` may import what is below as well.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from test_architecture import LAYERS, MODULES, imported, part  # noqa: E402

PICTURE = ROOT / "docs" / "architecture.svg"
WORDS = {
    "cli": "commands, options, console",
    "api": "the functions of Python",
    "runs": "steps in order, one report",
    "changes": "what can be decided, and proven",
    "settings": "what the caller asks for",
    "report": "entries, gates, documents",
    "search": "widths, judged on the model",
    "proof": "cut equals silence",
    "repair": "weights in closed form",
    "recover": "weights by gradient steps",
    "gating": "gates by gradient steps",
    "allocate": "costs, budgets, legal widths",
    "criteria": "a score per unit",
    "evidence": "statistics from one pass",
    "coupling": "what goes together",
    "grad": "a backward pass as ONNX",
    "measure": "how far two outputs are apart",
    "framework": "tensors of training checkpoints",
    "data": "any source as batches",
    "recording": "what programs feed their models",
    "spread": "work in other processes",
    "model": "files, graphs, facts, sessions",
}
"""What a package is for; one without a word stands by its name alone. Layers of modules without words are left out."""
WIDTH, MARGIN = 860, 20
BOX_WIDTH, BOX_HEIGHT, ROW, GAP = 208, 42, 84, 56  # ROW: from one layer to the next
PORT, LANE, STEP = 16, 12, 5  # between arrows at a box, beside boxes, and between two layers
ROUND, HEAD = 8, 7  # of corners; of an arrow
STYLE = """
svg { font: 13px system-ui, sans-serif; background: #fff; color: #1f2328 }
rect { fill: #f6f8fa; stroke: #57606a }
text { fill: #1f2328; text-anchor: middle } .what { font-size: 11px; fill: #57606a }
path { fill: none; stroke: #0969da; stroke-width: 1.4 } marker path { fill: #0969da; stroke: none }
@media (prefers-color-scheme: dark) {
  svg { background: #0d1117 } rect { fill: #161b22; stroke: #8b949e }
  text { fill: #e6edf3 } .what { fill: #8b949e }
  path { stroke: #58a6ff } marker path { fill: #58a6ff }
}
"""
Point = tuple[float, float]
Imports = Mapping[str, set[str]]


class Box(NamedTuple):
    """Where a package is drawn: the middle of its upper edge."""

    x: float
    y: float

    def covers(self, point: Point) -> bool:
        return abs(point[0] - self.x) < BOX_WIDTH / 2 + 4 and -4 < point[1] - self.y < BOX_HEIGHT + 4


def imports() -> Imports:
    """Return package -> the packages that it imports, of those that are drawn."""
    found = defaultdict(set)
    for module, path in MODULES.items():
        targets = {part(name) for name in imported(path) if name.split(".")[0] == "onnxprune"}
        found[part(module)] |= targets & set(WORDS) - {part(module)}
    return {package: found[package] for package in WORDS}


def reached(graph: Imports, starts: Iterable[str]) -> set[str]:
    """Return all that is imported by ``starts``, directly or not, themselves included."""
    found: set[str] = set()
    waiting = list(starts)
    while waiting:
        package = waiting.pop()
        if package not in found:
            found.add(package)
            waiting.extend(graph[package])
    return found


def arrows(graph: Imports) -> list[tuple[str, str]]:
    """Return (importer, imported) without what the other arrows imply."""
    return [
        (package, target)
        for package, targets in graph.items()
        for target in sorted(targets)
        if target not in reached(graph, targets - {target})
    ]


def boxes() -> dict[str, Box]:
    """Place the layers from the edge down to the ground, each spread about the middle."""
    rows = [[package for package in WORDS if package in layer] for layer in reversed(LAYERS)]
    found = {}
    for number, row in enumerate(filter(None, rows)):
        for place, package in enumerate(row):
            x = WIDTH / 2 + (place - (len(row) - 1) / 2) * (BOX_WIDTH + GAP)
            found[package] = Box(x, MARGIN + number * ROW)
    return found


def ports(edges: Sequence[tuple[str, str]], where: Mapping[str, Box], side: int) -> dict[tuple[str, str], float]:
    """Return arrow -> x of its end at a box (``side`` 0: where it leaves, 1: where it comes in), beside one another."""
    ends = defaultdict(list)
    for edge in edges:
        ends[edge[side]].append(edge)
    return {
        edge: where[package].x + (place - (len(own) - 1) / 2) * PORT
        for package, own in ends.items()
        for place, edge in enumerate(sorted(own, key=lambda e: (where[e[1 - side]].x, e)))
    }


def curve(start: Point, end: Point) -> list[Point]:
    """Return the four points of a Bezier curve that leaves and arrives upright."""
    middle = (start[1] + end[1]) / 2
    return [start, (start[0], middle), (end[0], middle), end]


def along(points: Sequence[Point]) -> Iterator[Point]:
    """Yield points on a Bezier curve."""
    for step in range(1, 40):
        t = step / 40
        weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
        x, y = (sum(w * p[axis] for w, p in zip(weights, points, strict=True)) for axis in (0, 1))
        yield x, y


def lane(edge: tuple[str, str], where: Mapping[str, Box], taken: list[tuple[float, float, float]]) -> float:
    """Take the nearest free lane beside the boxes that an arrow passes; return its x."""
    top, bottom = (where[package].y for package in edge)
    passed = [abs(box.x - WIDTH / 2) for box in where.values() if top < box.y < bottom]
    nearest = max(passed) + BOX_WIDTH / 2 + LANE
    lean = sum(where[package].x for package in edge) - WIDTH
    sides = (1, -1) if lean > 0 else (-1, 1)
    for place in range(100):
        for side in sides if lean == 0 else sides[:1]:
            x = WIDTH / 2 + side * (nearest + place * LANE)
            if not any(abs(x - other) < LANE and top < last and first < bottom for other, first, last in taken):
                taken.append((x, top, bottom))
                return x
    raise ValueError(f"no lane is left for {edge}")


def bends(points: Sequence[Point]) -> str:
    """Return the path through ``points`` with round corners."""
    text = f"M{points[0][0]:g},{points[0][1]:g}"
    for (x0, y0), (x, y), (x1, y1) in zip(points, points[1:], points[2:], strict=False):
        ends = []
        for ax, ay in ((x0, y0), (x1, y1)):
            size = max(abs(ax - x), abs(ay - y)) or 1
            step = min(ROUND, size / 2) / size
            ends.append((x + (ax - x) * step, y + (ay - y) * step))
        text += f" L{ends[0][0]:g},{ends[0][1]:g} Q{x:g},{y:g} {ends[1][0]:g},{ends[1][1]:g}"
    return f"{text} L{points[-1][0]:g},{points[-1][1]:g}"


def paths(edges: Sequence[tuple[str, str]], where: Mapping[str, Box]) -> Iterator[str]:
    """Draw the arrows: side by side in one layer, straight down, or in a lane past the boxes in the way."""
    leave, arrive = ports(edges, where, 0), ports(edges, where, 1)
    taken: list[tuple[float, float, float]] = []
    levels = Counter[float]()  # y of a row's edge -> arrows that already run beside it
    for edge in sorted(edges, key=lambda e: (where[e[1]].y - where[e[0]].y, e)):
        source, target = (where[package] for package in edge)
        if source.y == target.y:
            way = 1 if target.x > source.x else -1
            y = source.y + BOX_HEIGHT / 2
            yield f"M{source.x + way * BOX_WIDTH / 2:g},{y:g} L{target.x - way * (BOX_WIDTH / 2 + HEAD):g},{y:g}"
            continue
        start, end = (leave[edge], source.y + BOX_HEIGHT), (arrive[edge], target.y - HEAD)
        points = curve(start, end)
        others = [box for package, box in where.items() if package not in edge]
        if not any(box.covers(point) for point in along(points) for box in others):
            yield f"M{start[0]:g},{start[1]:g} C" + " ".join(f"{x:g},{y:g}" for x, y in points[1:])
            continue
        x = lane(edge, where, taken)
        down, up = start[1] + STEP + STEP * levels[start[1]], end[1] - STEP - STEP * levels[end[1]]
        levels.update((start[1], end[1]))
        yield bends([start, (start[0], down), (x, down), (x, up), (end[0], up), end])


def picture() -> str:
    """Return the picture as SVG."""
    graph, where = imports(), boxes()
    height = max(box.y for box in where.values()) + BOX_HEIGHT + MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" role="img">',
        "<title>The packages of onnxprune: each imports only from below</title>",
        f"<style>{STYLE}</style>",
        '<marker id="head" viewBox="0 0 8 8" refX="1" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z"/></marker>',
    ]
    lines += [f'<path marker-end="url(#head)" d="{path}"/>' for path in paths(arrows(graph), where)]
    for package, (x, y) in where.items():
        below = ", ".join(sorted(graph[package])) or "nothing"
        lines += [
            f"<g><title>{package} imports {below}</title>",
            f'<rect x="{x - BOX_WIDTH / 2:g}" y="{y:g}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6"/>',
            f'<text x="{x:g}" y="{y + 18:g}">{package}</text>',
            f'<text class="what" x="{x:g}" y="{y + 34:g}">{WORDS[package]}</text></g>',
        ]
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(picture())
