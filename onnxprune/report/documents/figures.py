"""Figures of a report as inline SVG; colours are CSS variables of the page, so that they follow light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from onnxprune.report.documents.tables import shortened
from onnxprune.report.entries import ReportView

WIDTH = 3.9  # inches: drawn for a phone, so that text stays readable there
BARS = 40  # rows of a bar chart, the costliest
LABEL = 26  # characters
COLOURS = {"#010101": "ink", "#020202": "faint", "#030303": "before", "#040404": "after", "#050505": "chosen"}
INK, FAINT, BEFORE, AFTER, CHOSEN = COLOURS
NAMED = (CHOSEN, AFTER, INK)  # colours of the curves that have a name
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "onnxprune",
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": FAINT,
    "grid.linewidth": 0.3,
}


def figures(report: ReportView, number: int = 0) -> list[tuple[str, str]]:
    """Return (title, SVG) of every figure that a report gives rise to; ``number``: of the report, to keep ids apart."""
    found = []
    with rc_context(STYLE):
        for title, key, draw in FIGURES:
            figure = draw(report) if report.get(key) else None
            if figure is not None:
                found.append((title, _svg(figure, title, f"{key}-{number}")))
    return found


def _svg(figure: Figure, title: str, prefix: str) -> str:
    """Return a figure as an SVG image called ``title``, its ids beginning with ``prefix``, its colours CSS variables."""
    stream = io.StringIO()
    FigureCanvasSVG(figure).print_svg(stream, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = f'<svg role="img" aria-label="{title}"' + text[text.index("<svg") + len("<svg") :]
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", text)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for colour, name in COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    return text


def _axes(rows: int | None = None) -> tuple[Figure, Axes]:
    height = 3.2 if rows is None else 0.7 + 0.24 * rows
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    return figure, axes


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [shortened(name, LABEL) for name in names], fontsize=8.5)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.set_axisbelow(True)


def _first(rows: Sequence[ReportView], rank: Callable[[ReportView], float]) -> list[ReportView]:
    """Return the rows of the least rank, as many as a bar chart takes, in the order they had."""
    ranked = sorted(range(len(rows)), key=lambda index: rank(rows[index]))
    return [rows[index] for index in sorted(ranked[:BARS])]


def channels(report: ReportView) -> Figure:
    """Draw the width of every group, before and after where anything was decided, the costliest where there are too many."""
    groups = _first(report["groups"], lambda group: -group["macs"])
    rows = range(len(groups))
    figure, axes = _axes(len(groups))
    axes.barh(rows, [g["width_before"] for g in groups], color=BEFORE, height=0.72, label="before")
    _name_rows(axes, [g["name"] for g in groups])
    axes.set_xlabel("units")
    if "after" in report:
        axes.barh(rows, [g["width_after"] for g in groups], color=AFTER, height=0.4, label="after")
        figure.legend(loc="outside upper right", ncols=2, frameon=False)
    return figure


def divergence(report: ReportView) -> Figure | None:
    """Draw the SQNR of the compared tensors that differ most, in the order of execution; None where all are equal."""
    tensors = [t for t in report["layers"]["tensors"] if t["sqnr_db"] is not None]
    if not tensors:
        return None
    shown = _first(tensors, lambda tensor: tensor["sqnr_db"])
    figure, axes = _axes(len(shown))
    axes.barh(range(len(shown)), [t["sqnr_db"] for t in shown], color=AFTER, height=0.6)
    _name_rows(axes, [t["name"] for t in shown])
    axes.set_xlabel("SQNR in dB (higher is closer)")
    return figure


def tradeoff(report: ReportView) -> Figure | None:
    """Draw the task metric (without one, what is lost) of every point of a sweep against the MACs it leaves.

    The Pareto front is joined, the chosen point ringed, the original dotted where its metric is known.
    """
    points = [point for point in report["points"] if point["quality"] is not None]
    if not points:
        return None
    scored = all(point["score"] is not None for point in points)
    key, title = ("score", points[0]["metric"]) if scored else ("quality", report["quality"])
    front = sorted((p for p in points if p["pareto"]), key=lambda p: p["macs_share"])
    chosen = [point for point in points if point["id"] == report.get("chosen")]
    figure, axes = _axes()
    if scored:
        axes.axhline(
            100 * (points[0]["score"] + points[0]["drop"]), color=INK, linestyle=":", linewidth=1, label="original"
        )
    for label, shown, style, look in (
        ("points", points, "o", {"color": BEFORE}),
        ("Pareto", front, "o-", {"color": AFTER}),
        ("chosen", chosen, "o", {"color": CHOSEN, "markersize": 12, "markerfacecolor": "none", "markeredgewidth": 2}),
    ):
        if shown:
            axes.plot([100 * p["macs_share"] for p in shown], [100 * p[key] for p in shown], style, label=label, **look)
    axes.set_xlabel("MACs left in %")
    axes.set_ylabel(f"{shortened(title, 2 * LABEL)} in %")
    axes.grid()
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper right", ncols=4, frameon=False, fontsize=8.5, columnspacing=1, handlelength=1.2)
    return figure


def sensitivity_curves(report: ReportView) -> Figure:
    """Draw what every group alone costs against the share of its units that stays, the most sensitive ones named."""
    curves = sorted(report["curves"], key=lambda curve: -curve["fitted"][-1])
    figure, axes = _axes()
    for rank, curve in enumerate(curves):
        shares = [100, *(100 * width / curve["width"] for width in curve["widths"])]
        look: dict[str, Any] = {"color": BEFORE, "linewidth": 1, "markersize": 3}
        if rank < len(NAMED):
            look |= {"color": NAMED[rank], "label": shortened(curve["group"], LABEL), "zorder": 3}
        axes.plot(shares, [0.0, *curve["fitted"]], "o-", **look)
    axes.invert_xaxis()
    axes.set_xlabel("units left in %")
    axes.set_ylabel("divergence of the outputs")
    axes.grid()
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper left", ncols=1, frameon=False, fontsize=8)
    return figure


FIGURES: tuple[tuple[str, str, Callable[[ReportView], Figure | None]], ...] = (
    ("Quality against MACs left", "points", tradeoff),
    ("Each group narrowed alone", "curves", sensitivity_curves),
    ("Width of each group", "groups", channels),
    ("Divergence per tensor", "layers", divergence),
)
