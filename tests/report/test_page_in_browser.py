"""The HTML report as people see it: in a browser, at a phone's and a desktop's width, light and dark, offline."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.browser import CHROMIUM, Browser

from onnxprune import api
from onnxprune.report.documents import render

MODELS = Path(__file__).parents[2] / "models"
CNN, TEST = MODELS / "digits_cnn.onnx", MODELS / "digits_test.npz"
LONG = "/model/" + "encoder.layers.11.attention_" * 12 + "<script>document.title='run'</script><img src=x:y onerror=1>"
WIDTHS, SCHEMES = (390, 1280), ("light", "dark")
COMPLAINTS = {"Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"}
LUMA = np.array([0.299, 0.587, 0.114])

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium or chrome on PATH to look at pages with")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


def curve(name: str, *fitted: float) -> dict[str, Any]:
    return {"group": name, "width": 64, "widths": [48, 32, 16], "fitted": list(fitted)}


def deepened(graph: dict[str, Any], times: int) -> dict[str, Any]:
    """Return a graph that is several times as deep, each reading the output of the one before."""
    nodes = []
    for at in range(times):
        start = at * len(graph["nodes"])
        nodes += [row | {"reads": [r + start if r >= 0 else start - 1 for r in row["reads"]]} for row in graph["nodes"]]
    return graph | {"nodes": nodes, "of": len(nodes)}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages of real runs, and one with every kind of content and names that are long and hostile."""
    folder = tmp_path_factory.mktemp("pages")
    pruned = api.prune(CNN, evaluation=TEST, latency=False, max_size=10**5, output=folder / "small.onnx")
    inspected = api.inspect(CNN)
    swept = api.sweep(CNN, ratios=(0.1, 0.5), repairs=("none",), evaluation=TEST, max_drop=0.5)
    compared = api.validate(CNN, MODELS / "digits_cnn.onnx", TEST, layers=True)
    full = json.loads(render("json", pruned.report | {"points": swept["points"], "chosen": swept["chosen"]}))
    tensors = [{"name": LONG, "op": "Conv", "sqnr_db": float(n)} for n in range(60)]
    full |= {"quality": swept["quality"], "layers": compared["layers"] | {"tensors": tensors}, "exclude": [LONG]}
    full |= {"curves": [curve(LONG, 0.1, 0.2, 0.4), curve("b", 0.0, 0.1, 0.2)], "warnings": [LONG, "short"]}
    full["model"]["path"] = LONG
    for entry in (*full["groups"], *full["gates"]):
        entry["name"] = LONG
    for entry in full["frozen"]:
        entry |= {"axis": LONG, "node": LONG, "reason": LONG, "remedy": LONG}
    jobs = {"prune": pruned.report, LONG: full, "failed": {"command": "prune", "exit_code": 3, "error": LONG}}
    deep = pruned.report | {"graph": deepened(pruned.report["graph"], 20)}
    reports = {
        "deep": deep,
        "prune": pruned.report,
        "inspect": inspected,
        "sweep": swept,
        "run": {"command": "run", "jobs": jobs},
    }
    paths = {}
    for name, report in reports.items():
        paths[name] = folder / f"{name}.html"
        paths[name].write_text(render("html", report))
    return paths


@pytest.mark.parametrize("name", ["prune", "inspect", "sweep", "run", "deep"])
def test_page_fits_loads_nothing_and_follows_the_scheme(name: str, browser: Browser, pages: dict[str, Path]) -> None:
    """With all details open: nothing sticks out sideways, no request but the file, no complaint, text stands out."""
    for width, scheme in product(WIDTHS, SCHEMES):
        browser.open(pages[name], width, scheme)
        browser.value("document.querySelectorAll('details').forEach(folded => { folded.open = true })")
        assert browser.value("document.documentElement.scrollWidth") == width == browser.value("innerWidth")
        assert browser.value("document.title").startswith("onnxprune ")
        requests = [
            found["request"]["url"] for method, found in browser.events if method == "Network.requestWillBeSent"
        ]
        assert requests == [pages[name].as_uri()]
        assert [event for event in browser.events if event[0] in COMPLAINTS] == []
        luma = browser.picture() @ LUMA
        page, ink = (255, 60) if scheme == "light" else (22, 200)
        assert np.median(luma) == pytest.approx(page, abs=12)
        assert np.mean(luma < ink if scheme == "light" else luma > ink) > 0.002


CUT = """(() => {
  const out = (inner, outer) => inner.left < outer.left - 1 || inner.right > outer.right + 1
  const cut = []
  for (const text of document.querySelectorAll('svg.plot text')) {
    const box = text.getBoundingClientRect()
    if (out(box, text.closest('svg').getBoundingClientRect()) || box.height < 8) cut.push(text.textContent)
  }
  for (const text of document.querySelectorAll('svg.graph g > text')) {
    const box = text.getBoundingClientRect()
    if (box.width && (out(box, text.parentNode.querySelector('rect').getBoundingClientRect()) || box.height < 8)) cut.push(text.textContent)
  }
  for (const element of document.querySelectorAll('main *')) {
    if (element.closest('svg')) continue
    const scrolls = element.closest('.scroll')
    if (!scrolls && element.getBoundingClientRect().right > innerWidth + 0.5) cut.push(element.outerHTML.slice(0, 80))
    const style = getComputedStyle(element)
    if (/hidden|clip/.test(style.overflowX) && element.textContent.trim() && !element.matches('.unseen')) cut.push(element.outerHTML.slice(0, 80))
  }
  return cut
})()"""


@pytest.mark.parametrize("width", WIDTHS)
def test_no_text_is_cut_and_nothing_is_wider_than_the_screen(
    width: int, browser: Browser, pages: dict[str, Path]
) -> None:
    """All blocks open: labels lie inside their boxes and plots, none is lower than 8 pixels, what is wide scrolls in a box of its own."""
    for name in ("run", "deep"):
        browser.open(pages[name], width, "light")
        browser.value("document.querySelectorAll('details').forEach(folded => { folded.open = true })")
        assert browser.value("document.querySelectorAll('svg.graph text').length") > 20
        assert browser.value(CUT) == []
    browser.open(pages["run"], width, "light")
    assert browser.value("document.querySelectorAll('svg.plot').length") == 2


@pytest.mark.parametrize("name", ["prune", "inspect", "sweep"])
def test_tables_of_a_run_fit_a_phone(name: str, browser: Browser, pages: dict[str, Path]) -> None:
    """Of names of a usual length no table has to be scrolled."""
    browser.open(pages[name], 390, "light")
    browser.value("document.querySelectorAll('details').forEach(folded => { folded.open = true })")
    wide = "[...document.querySelectorAll('.scroll:has(table)')].filter(e => e.scrollWidth > e.clientWidth)"
    assert browser.value(f"{wide}.map(e => e.getAttribute('aria-label'))") == []


CONTRASTS = """(() => {
  const light = colour => {
    const parts = colour.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
    const [r, g, b] = parts.map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
  }
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor
      if (!/, 0\\)$/.test(colour)) return colour
    }
  }
  return [...document.querySelectorAll('h1, h2, h3, p, td, th, a, li, dt, dd, span, strong, pre, summary, figcaption, svg text')].map(e => {
    const style = getComputedStyle(e)
    const pair = [e.closest('svg') ? style.fill : style.color, behind(e)].map(light)
    return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05)
  })
})()"""


@pytest.mark.parametrize("scheme", SCHEMES)
def test_all_text_has_contrast(scheme: str, browser: Browser, pages: dict[str, Path]) -> None:
    """The ratio of WCAG 2.2, 1.4.3 (AA): 4.5 between every text and what is behind it."""
    browser.open(pages["run"], 1280, scheme)
    ratios = browser.value(CONTRASTS)
    assert len(ratios) > 100
    assert min(ratios) >= 4.5
