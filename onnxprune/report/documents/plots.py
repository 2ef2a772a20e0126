"""Plots of points as inline SVG; what is what is told by the form of a mark as well as by its colour."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

from onnxprune.report.documents.tables import shortened
from onnxprune.report.entries import ReportView

WIDTH, HEIGHT = 360, 250
LEFT, RIGHT, BOTTOM = 46, 10, 36
LEGEND = 16  # height of a line
LABEL = 40
LETTER = 6.2
"""How wide a letter is, about."""
SHAPES = ("named1", "named2", "named3")


class Series(NamedTuple):
    """Points (x, y, what they are), drawn as ``look``; ``joined``: by a line."""

    label: str
    look: str
    points: Sequence[tuple[float, float, str]]
    joined: bool = False


class Frame(NamedTuple):
    """What a plot is of; ``backwards``: from the highest x to the lowest; ``level``: a line across, and what it is."""

    title: str
    x: str
    y: str
    backwards: bool = False
    level: tuple[float, str] | None = None


def plots(report: ReportView) -> list[tuple[str, Markup]]:
    """Return (title, SVG) of every plot that a report gives rise to."""
    found = []
    for key, draw in PLOTS:
        drawn = draw(report) if report.get(key) else None
        if drawn is not None:
            found.append((drawn[0].title, plotted(*drawn)))
    return found


Plot = tuple[Frame, list[Series]]


def tradeoff(report: ReportView) -> Plot | None:
    """Plot the task metric (without one, what is lost) of every point of a sweep against the MACs it leaves."""
    points = [point for point in report["points"] if point["quality"] is not None]
    if not points:
        return None
    scored = all(point["score"] is not None for point in points)
    key, what = ("score", points[0]["metric"]) if scored else ("quality", report["quality"])
    level = (100 * (points[0]["score"] + points[0]["drop"]), "original") if scored else None

    def placed(some: Sequence[ReportView]) -> list[tuple[float, float, str]]:
        return [(100 * p["macs_share"], 100 * p[key], str(p["label"])) for p in some]

    front = sorted((p for p in points if p["pareto"]), key=lambda p: p["macs_share"])
    chosen = [point for point in points if point["id"] == report.get("chosen")]
    frame = Frame("Quality against MACs left", "MACs left in %", f"{shortened(str(what), LABEL)} in %", False, level)
    series = [
        Series("points", "point", placed(points)),
        Series("Pareto front", "front", placed(front), True),
        Series("chosen", "chosen", placed(chosen)),
    ]
    return frame, [one for one in series if one.points]


def sensitivity_curves(report: ReportView) -> Plot:
    """Plot what every group alone costs against the share of its units that stays, the most sensitive ones named."""
    curves = sorted(report["curves"], key=lambda curve: -curve["fitted"][-1])
    series = []
    for rank, curve in reversed(list(enumerate(curves))):
        shares = [100, *(100 * width / curve["width"] for width in curve["widths"])]
        points = [(x, y, str(curve["group"])) for x, y in zip(shares, [0.0, *curve["fitted"]], strict=True)]
        named = rank < len(SHAPES)
        label = shortened(str(curve["group"]), LABEL) if named else ""
        series.append(Series(label, SHAPES[rank] if named else "point", points, True))
    return Frame("Each group narrowed alone", "units left in %", "divergence of the outputs", True), series


PLOTS: tuple[tuple[str, Callable[[ReportView], Plot | None]], ...] = (
    ("points", tradeoff),
    ("curves", sensitivity_curves),
)


def plotted(frame: Frame, series: Sequence[Series]) -> Markup:
    """Return a plot as SVG."""
    named = [one for one in series if one.label] + ([Series(frame.level[1], "level", ())] if frame.level else [])
    top = 13 + LEGEND * (len(named) + 1)
    xs = [x for one in series for x, _, _ in one.points]
    ys = [y for one in series for _, y, _ in one.points] + ([frame.level[0]] if frame.level else [])
    across = Scale(ticks(min(xs), max(xs)), LEFT, WIDTH - RIGHT)
    across = across._replace(start=across.end, end=across.start) if frame.backwards else across
    upwards = Scale(ticks(min(ys), max(ys)), top + HEIGHT - BOTTOM, top)
    body = [_axes(frame, across, upwards, top)]
    if frame.level:
        at = upwards.at(frame.level[0])
        body.append(f'<path class="level" d="M{LEFT} {at}H{WIDTH - RIGHT}"/>')
    body += [_series(one, across, upwards) for one in series]
    body += [_legend(one, number) for number, one in enumerate(named)]
    height = top + HEIGHT
    return Markup(
        f'<svg class="plot" role="img" aria-label="{escape(frame.title)}" viewBox="0 0 {WIDTH} {height}">{"".join(body)}</svg>'
    )


class Scale(NamedTuple):
    """Numbers at ``ticks`` as places between ``start`` and ``end``."""

    ticks: Sequence[float]
    start: float
    end: float

    def at(self, value: float) -> float:
        low, high = self.ticks[0], self.ticks[-1]
        return round(self.start + (self.end - self.start) * (value - low) / (high - low), 1)


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Return round numbers from below ``low`` to above ``high``, some ``about`` steps of 1, 2, 2.5 or 5 times a power of ten."""
    span = high - low or abs(high) or 1.0
    rough = span / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step for step in (power, 2 * power, 2.5 * power, 5 * power, 10 * power) if step >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * number for number in range(first, max(last, first + 1) + 1)]


def _axes(frame: Frame, across: Scale, upwards: Scale, top: int) -> str:
    below = top + HEIGHT - BOTTOM
    parts = [f'<path class="axis" d="M{LEFT} {top}V{below}H{WIDTH - RIGHT}"/>']
    parts += [f'<path class="grid" d="M{LEFT} {upwards.at(y)}H{WIDTH - RIGHT}"/>' for y in upwards.ticks[1:]]
    parts += [f'<text class="y" x="{LEFT - 5}" y="{upwards.at(y) + 4}">{y:.4g}</text>' for y in upwards.ticks]
    edge = WIDTH - RIGHT - 10
    parts += [f'<text class="x" x="{min(across.at(x), edge)}" y="{below + 14}">{x:.4g}</text>' for x in across.ticks]
    parts.append(f'<text class="x" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{below + 30}">{escape(frame.x)}</text>')
    parts.append(f'<text class="name" x="2" y="{top - 14}">{escape(frame.y)}</text>')
    return "".join(parts)


def _series(one: Series, across: Scale, upwards: Scale) -> str:
    """Draw the line of a series, and its points with what they are."""
    places = [(across.at(x), upwards.at(y), text) for x, y, text in one.points]
    line = ""
    if one.joined and len(places) > 1:
        path = "L".join(f"{x} {y}" for x, y, _ in places)
        line = f'<path class="{one.look}" d="M{path}"/>'
    return line + "".join(_mark(one.look, x, y, text) for x, y, text in places)


def _mark(look: str, x: float, y: float, text: str) -> str:
    title = f"<title>{escape(shortened(text))}</title>" if text else ""
    if look in ("front", "named2"):
        return f'<rect class="{look}" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8">{title}</rect>'
    if look == "named3":
        return f'<path class="{look} mark" d="M{x} {y - 5:.1f}l5 9h-10z">{title}</path>'
    return f'<circle class="{look}" cx="{x}" cy="{y}" r="{9 if look == "chosen" else 4}">{title}</circle>'


def _legend(one: Series, number: int) -> str:
    y = 12 + LEGEND * number
    label = one.label if len(one.label) * LETTER < WIDTH - 30 else f"{one.label[: int((WIDTH - 40) / LETTER)]}…"
    mark = f'<path class="level" d="M2 {y}h16"/>' if one.look == "level" else _mark(one.look, 10, y, "")
    return f'{mark}<text class="name" x="24" y="{y + 4}">{escape(label)}</text>'
