"""Draw docs/quality.svg: accuracy against the MACs that are left, from the rows measured in docs/quality.md.

python docs/curves.py
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PICTURE, PAGE = ROOT / "docs" / "quality.svg", ROOT / "docs" / "quality.md"
NETWORKS = {"resnet20_cifar10_jpeg": "ResNet-20, CIFAR-10 as JPEG", "resnet56_cifar10": "ResNet-56, CIFAR-10"}
METHODS = {
    "L2": ("deleted by L2", "plain"),
    "L2 + BatchNorm": ("+ BatchNorm", "norm"),
    "L2 + least squares": ("+ least squares", "squares"),
    "auto": ("onnxprune", "auto"),
}
WIDTH, HEIGHT, PANEL = 860, 372, 430
LEFT, RIGHT, TOP, FOOT = 52, 160, 58, 56  # margins of a panel
APART = 17  # between two words at the ends of curves
STYLE = """
svg { font: 13px system-ui, sans-serif; background: #fff } text { fill: #1f2328 } .what { fill: #57606a; font-size: 12px }
.title { font-weight: 600; font-size: 15px } .grid { stroke: #d8dee4 } .whole { stroke: #57606a; stroke-dasharray: 4 4 }
.curve { fill: none; stroke-width: 2 } .auto { stroke: #0969da } .squares { stroke: #1a7f37 } .norm { stroke: #9a6700 } .plain { stroke: #cf222e }
.dot.auto, .word.auto { fill: #0969da } .dot.squares, .word.squares { fill: #1a7f37 } .dot.norm, .word.norm { fill: #9a6700 }
.dot.plain, .word.plain { fill: #cf222e } .word { stroke: none } .curve.auto { stroke-width: 3 } .word.auto { font-weight: 600 }
@media (prefers-color-scheme: dark) {
  svg { background: #0d1117 } text { fill: #e6edf3 } .what { fill: #9198a1 } .grid { stroke: #30363d } .whole { stroke: #9198a1 }
  .auto { stroke: #58a6ff } .squares { stroke: #3fb950 } .norm { stroke: #d29922 } .plain { stroke: #ff7b72 }
  .dot.auto, .word.auto { fill: #58a6ff } .dot.squares, .word.squares { fill: #3fb950 } .dot.norm, .word.norm { fill: #d29922 }
  .dot.plain, .word.plain { fill: #ff7b72 } .word { stroke: none }
}
"""


class Point(NamedTuple):
    """A measured row: the share of the MACs that is left, accuracy and its 95 % interval in percent."""

    macs: float
    accuracy: float
    low: float
    high: float


class Network(NamedTuple):
    """What was measured of a network: its own accuracy in percent, the test images, and method -> rows."""

    title: str
    whole: float
    samples: int
    curves: Mapping[str, list[Point]]


def measured(name: str) -> Network:
    """Read the table of a network off the page."""
    own = re.search(rf"^## {name}: ([\d.]+)% unpruned, n = (\d+).*?\n(.*?)(?=^## )", PAGE.read_text(), re.M | re.S)
    if own is None:
        raise ValueError(f"{PAGE} has no table of {name}")
    row = r"^\| ([\d.]+)x \| {} \| ([\d.]+)% \(([\d.]+) to ([\d.]+)\)"
    curves = {}
    for method in METHODS:
        found = re.findall(row.format(re.escape(method)), own[3], re.M)
        curves[method] = sorted((Point(100 / float(r), *map(float, rest)) for r, *rest in found), reverse=True)
    return Network(NETWORKS[name], float(own[1]), int(own[2]), curves)


class Frame(NamedTuple):
    """Where a panel stands."""

    start: float

    def x(self, macs: float) -> float:
        return self.start + LEFT + (100 - macs) / 75 * (PANEL - LEFT - RIGHT)

    def y(self, accuracy: float) -> float:
        return TOP + (100 - accuracy) / 100 * (HEIGHT - TOP - FOOT)


def _axes(frame: Frame, network: Network) -> Iterator[str]:
    left, right, foot = frame.x(100), frame.x(25), frame.y(0)
    yield f'<text class="title" x="{left:g}" y="26">{network.title}</text>'
    yield f'<text class="what" x="{left:g}" y="44">{network.whole:g} % unpruned, {network.samples:,} test images</text>'
    for share in range(0, 101, 20):
        y = frame.y(share)
        yield f'<path class="grid" d="M{left:g},{y:g} H{right:g}"/>'
        yield f'<text class="what" x="{left - 8:g}" y="{y + 4:g}" text-anchor="end">{share} %</text>'
    for share in (100, 75, 50, 25):
        yield f'<text class="what" x="{frame.x(share):g}" y="{foot + 18:g}" text-anchor="middle">{share} %</text>'
    yield f'<text class="what" x="{(left + right) / 2:g}" y="{foot + 38:g}" text-anchor="middle">MACs left</text>'
    yield f'<path class="whole" d="M{left:g},{frame.y(network.whole):g} H{right:g}"/>'


def _curve(frame: Frame, points: list[Point], kind: str, whole: float) -> Iterator[str]:
    """Draw a method's rows, from the whole network on, each with its interval."""
    way = [(frame.x(100), frame.y(whole)), *((frame.x(p.macs), frame.y(p.accuracy)) for p in points)]
    yield f'<path class="curve {kind}" d="M' + " L".join(f"{x:.1f},{y:.1f}" for x, y in way) + '"/>'
    for point, (x, y) in zip(points, way[1:], strict=True):
        yield f'<path class="{kind}" d="M{x:.1f},{frame.y(point.low):.1f} V{frame.y(point.high):.1f}"/>'
        yield f'<circle class="dot {kind}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>'


def panel(start: float, network: Network) -> Iterator[str]:
    """Draw a network; each method's name stands at the end of its curve."""
    frame, floor = Frame(start), float("inf")
    yield from _axes(frame, network)
    for method, (_, kind) in METHODS.items():
        yield from _curve(frame, network.curves[method], kind, network.whole)
    for method in sorted(METHODS, key=lambda m: network.curves[m][-1].accuracy):
        title, kind = METHODS[method]
        last = network.curves[method][-1]
        floor = min(frame.y(last.accuracy) + 4, floor - APART)
        yield f'<text class="word {kind}" x="{frame.x(last.macs) + 10:g}" y="{floor:.1f}">{last.accuracy:.1f} {title}</text>'


def picture() -> str:
    """Return the picture as SVG."""
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        "<title>Top-1 accuracy against the MACs that are left, without training or labels</title>",
        f"<style>{STYLE}</style>",
    ]
    for number, name in enumerate(NETWORKS):
        lines += panel(number * PANEL, measured(name))
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(picture())
