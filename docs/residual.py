"""Draw docs/residual.svg: a residual block before and after half of its channels went, every channel a stripe.

    python docs/residual.py

The block is that of models/digits_cnn.onnx, and what goes is what the norms of the weights say (``--criterion l2 --ratio 0.5``).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

PICTURE = ROOT / "docs" / "residual.svg"
MODEL = ROOT / "models" / "digits_cnn.onnx"
STREAM, INNER = "stem.0.0.weight", "identity.body.0.0.weight"
"""The groups: the residual stream, and what lies between the two convolutions of the branch."""
WIDTH, HEIGHT, PANEL = 860, 448, 430
STRIPE, BAR, LEFT, TOP = 3.5, 16, 70, 58  # LEFT, TOP: of the first stripe of a panel
ROWS = {"x": 0, "first": 40, "inner": 156, "second": 196, "sum": 310, "y": 346}
"""Where things stand, counted down from TOP; matrices of 48 rows are 84 high where a row is a half of a stripe."""
CELL = STRIPE / 2
STYLE = """
svg { font: 14px system-ui, sans-serif; background: #fff } text { fill: #1f2328 } .what { fill: #57606a; font-size: 12px }
.title { font-weight: 600; font-size: 16px } .kept { fill: #0969da } .gone { fill: #d8dee4 } .edge { fill: none; stroke: #57606a }
.line { fill: none; stroke: #57606a; stroke-width: 1.5 } .node { fill: #fff; stroke: #57606a; stroke-width: 1.5 }
@media (prefers-color-scheme: dark) {
  svg { background: #0d1117 } text { fill: #e6edf3 } .what { fill: #9198a1 } .kept { fill: #58a6ff } .gone { fill: #30363d }
  .edge, .line { stroke: #9198a1 } .node { fill: #0d1117; stroke: #9198a1 }
}
"""


class Block(NamedTuple):
    """A residual block: which of its channels stay."""

    stream: tuple[bool, ...]
    inner: tuple[bool, ...]

    def left(self) -> Block:
        """Return the block that has the channels that stay, and no others."""
        return Block(*((True,) * sum(stays) for stays in self))


def block() -> Block:
    """Ask the tool what stays."""
    import onnxprune

    plan = onnxprune.plan(MODEL, ratio=0.5, criterion="l2", round_to=8)
    kept = {group.name: (group.width, set(group.kept)) for group in plan.groups}
    return Block(*(tuple(unit in kept[name][1] for unit in range(kept[name][0])) for name in (STREAM, INNER)))


def _rectangle(x: float, y: float, width: float, height: float, kind: str) -> str:
    return f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"/>'


def _bar(x: float, y: float, stays: tuple[bool, ...]) -> Iterator[str]:
    """Draw channels as stripes side by side."""
    for place, kept in enumerate(stays):
        yield _rectangle(x + place * STRIPE, y, STRIPE - 0.7, BAR, "kept" if kept else "gone")


def _matrix(x: float, y: float, rows: tuple[bool, ...], columns: tuple[bool, ...]) -> Iterator[str]:
    """Draw the weights of a convolution, outputs as rows and inputs as columns; what goes lies over what stays."""
    width, height = len(columns) * STRIPE, len(rows) * CELL
    yield _rectangle(x, y, width, height, "kept")
    for place, kept in enumerate(columns):
        if not kept:
            yield _rectangle(x + place * STRIPE, y, STRIPE, height, "gone")
    for place, kept in enumerate(rows):
        if not kept:
            yield _rectangle(x, y + place * CELL, width, CELL, "gone")
    yield _rectangle(x, y, width, height, "edge")


def _words(x: float, y: float, first: str, second: str) -> Iterator[str]:
    yield f'<text x="{x:g}" y="{y:g}">{first}</text><text class="what" x="{x:g}" y="{y + 17:g}">{second}</text>'


def _arrow(x: float, y: float, end: float) -> str:
    return f'<path class="line" marker-end="url(#tip)" d="M{x:g},{y:g} V{end - 7:g}"/>'


def panel(x: float, title: str, drawn: Block) -> Iterator[str]:
    """Draw a block from its input at the top to its sum at the foot, the shortcut on its left."""
    left = x + LEFT
    at = {name: TOP + y for name, y in ROWS.items()}
    stream, inner = (len(stays) for stays in drawn)
    right = left + stream * STRIPE + 16
    middle = left + 36
    yield f'<text class="title" x="{left:g}" y="32">{title}</text>'
    yield from _bar(left, at["x"], drawn.stream)
    yield from _words(right, at["x"] + 8, "residual stream", f"{stream} channels")
    yield _arrow(middle, at["x"] + BAR, at["first"])
    yield from _matrix(left, at["first"], drawn.inner, drawn.stream)
    yield from _words(right, at["first"] + 34, "Conv 3 × 3", f"{9 * stream * inner:,} weights")
    yield _arrow(middle, at["first"] + inner * CELL, at["inner"])
    yield from _bar(left, at["inner"], drawn.inner)
    yield from _words(right, at["inner"] + 8, "BatchNorm, ReLU", f"{inner} channels")
    yield _arrow(middle, at["inner"] + BAR, at["second"])
    yield from _matrix(left, at["second"], drawn.stream, drawn.inner)
    yield from _words(right, at["second"] + 34, "Conv 3 × 3", f"{9 * stream * inner:,} weights")
    yield _arrow(middle, at["second"] + stream * CELL, at["sum"] - 2)
    around = f"M{left:g},{at['x'] + BAR / 2:g} H{left - 34:g} V{at['sum'] + 10:g} H{middle - 19:g}"
    yield f'<path class="line" marker-end="url(#tip)" d="{around}"/>'
    yield f'<circle class="node" cx="{middle:g}" cy="{at["sum"] + 10:g}" r="12"/>'
    yield f'<path class="line" d="M{middle - 6:g},{at["sum"] + 10:g} h12 m-6,-6 v12"/>'
    yield from _words(right, at["sum"] + 6, "sum, ReLU", "both sides keep the same")
    yield _arrow(middle, at["sum"] + 22, at["y"])
    yield from _bar(left, at["y"], drawn.stream)


def picture() -> str:
    """Return the picture as SVG."""
    before = block()
    foot = "Grey goes. Stripes are channels; a channel of the stream goes from every tensor that writes, reads or scales it."
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        "<title>A residual block before and after half of its channels were removed</title>",
        f"<style>{STYLE}</style>",
        '<marker id="tip" viewBox="0 0 8 8" refX="1" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" style="fill: #57606a"/></marker>',
        *panel(0, "before: what goes is grey", before),
        *panel(PANEL, "after: a smaller dense block", before.left()),
        f'<text class="what" x="{WIDTH / 2:g}" y="{HEIGHT - 8}" text-anchor="middle">{foot}</text>',
    ]
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(picture())
