"""What values of the API show of themselves: a screen of text, HTML in which nothing is markup, one bar in a notebook."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.networks import network

import onnxprune
from onnxprune.api import bench, check, inspect, sweep
from onnxprune.notebook import in_notebook, notebook_bar
from onnxprune.progress import Progress
from onnxprune.sheet import LINES, WIDTH, Sheet, SheetTable

MODEL = Path(__file__).parents[2] / "models" / "digits_cnn.onnx"
ROWS = {"image": np.random.default_rng(0).random((8, 1, 8, 8), np.float32)}
MAKERS: dict[str, tuple[Callable[[], Any], str]] = {
    "analysis": (lambda: onnxprune.analyze(MODEL), "9 groups of 488 units can be cut"),
    "plan": (lambda: onnxprune.plan(MODEL, ratio=0.5), "identity.body.0.0.weight"),
    "result": (lambda: onnxprune.prune(MODEL, ratio=0.5, latency=False), "surgery exact"),
    "report of a result": (lambda: onnxprune.prune(MODEL, ratio=0.5, latency=False).report, "MACs -"),
    "inspect": (lambda: inspect(MODEL), "parameters"),
    "check": (lambda: check(MODEL, max_params=10), "max_params"),
    "validate": (lambda: onnxprune.validate(MODEL, MODEL, ROWS), "same class"),
    "bench": (lambda: bench(MODEL, pairs=2, seconds=1), "bench"),
    "sweep": (lambda: sweep(MODEL, evaluation=ROWS, ratios=(0.3,), criteria=("l2",), repairs=("none",)), "l2 none"),
}


class Balanced(HTMLParser):
    """Raises where an element ends that was not begun."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("name", MAKERS)
def test_what_is_looked_at_fits_a_screen(name: str) -> None:
    make, said = MAKERS[name]
    value = make()
    lines = repr(value).splitlines()
    assert 1 <= len(lines) <= LINES and max(map(len, lines)) <= WIDTH
    assert said in repr(value)
    page = Balanced()
    page.feed(value._repr_html_())
    assert page.open == [] and page.seen <= {"div", "p", "br", "table", "caption", "thead", "tbody", "tr", "th", "td"}


def test_a_report_stays_a_dictionary() -> None:
    found = inspect(MODEL)
    assert isinstance(found, dict) and json.loads(json.dumps(found)) == found == dict(found)


def test_names_of_a_model_are_no_markup_and_no_second_line() -> None:
    model = network("a = Conv(x, %6x3x1x1); y = Conv(a, %2x6x1x1)", "float[1,3,4,4] x", "float[] y")
    hostile = "<script>alert(1)</script>\n\x1b[31m" + "w" * 500
    for node in model.graph.node:
        node.input[1] = f"{node.input[1]}{hostile}"
    for tensor in model.graph.initializer:
        tensor.name = f"{tensor.name}{hostile}"
    for value in (onnxprune.analyze(model), inspect(model), onnxprune.prune(model, ratio=0.5, latency=False)):
        assert "<script" not in value._repr_html_() and "\x1b" not in value._repr_html_()
        assert len(repr(value).splitlines()) <= LINES and "\x1b" not in repr(value)


def test_what_does_not_fit_is_counted() -> None:
    sheet = Sheet(("all",), (SheetTable("rows", ("name", "n"), tuple((f"r{n}", str(n)) for n in range(60)), 7),))
    lines = sheet.text().splitlines()
    shown = sum(line.strip().startswith("r") and line.strip() != "rows:" for line in lines)
    assert lines[-1] == f"... and {60 - shown + 7} more" and len(lines) <= LINES
    assert f"... and {60 - LINES + 7} more" in sheet.html()


class Place:
    """Stands for a cell of a notebook."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def update(self, html: str) -> None:
        self.shown.append(html)


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> Place:
    """What a kernel has: IPython with a shell that has a kernel, and a display."""
    place, ipython, display = Place(), ModuleType("IPython"), ModuleType("IPython.display")

    def begin(html: str, display_id: bool) -> Place:
        place.update(html)
        return place

    vars(ipython).update(get_ipython=lambda: SimpleNamespace(kernel=object()))
    vars(display).update(HTML=str, display=begin)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setattr("onnxprune.notebook.PAUSE", 0.0)
    return place


def test_a_run_in_a_notebook_shows_one_bar_and_takes_it_away(cell: Place) -> None:
    onnxprune.prune(MODEL, ratio=0.5, latency=False)
    shares = [float(html.partition("value='")[2].partition("'")[0]) for html in cell.shown[:-1]]
    assert in_notebook() and len(shares) > 3
    assert shares[0] == 0 and max(shares) > 0.5 and all(0 <= share <= 1 for share in shares)
    assert any("proving the cut exact" in html for html in cell.shown)
    assert cell.shown[-1] == ""


def test_the_bar_goes_where_a_run_fails(cell: Place) -> None:
    with pytest.raises(onnxprune.errors.TargetError):
        onnxprune.prune(MODEL, target="macs=0.0001%", latency=False)
    assert cell.shown[-1] == ""


def test_who_passes_progress_sees_no_bar(cell: Place) -> None:
    told: list[str] = []
    onnxprune.prune(MODEL, ratio=0.5, latency=False, progress=told.append)
    assert told and cell.shown == []


def test_elsewhere_nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not in_notebook()


def test_names_in_the_bar_are_no_markup(cell: Place) -> None:
    with notebook_bar() as progress:
        assert isinstance(progress, Progress)
        progress("<b>'x'")
    assert all("<b>" not in html for html in cell.shown)
