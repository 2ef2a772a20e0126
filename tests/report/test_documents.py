"""Documents made of a report: the same numbers in each, hostile names never run, sizes bounded."""

from __future__ import annotations

import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import onnxprune
from onnxprune.allocate import matcher
from onnxprune.api import inspect
from onnxprune.report.documents import markdown, page, plots, render
from onnxprune.report.documents.tables import Table, exclude_lines, shortened, tables

CNN = Path(__file__).parents[2] / "models" / "digits_cnn.onnx"
HOSTILE = "a|b`<script>alert(1)</script>]]>&\"'</svg>$x_1$\n\x1b[31m@everyone" + "long" * 100


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    return json.loads(render("json", onnxprune.prune(CNN, latency=False, max_size=10**6).report))


@pytest.fixture(scope="module")
def hostile(plain: dict[str, Any]) -> dict[str, Any]:
    """A report of every kind of content, every text in it hostile."""
    report = json.loads(json.dumps(plain))
    for group in report["groups"]:
        group["name"] = group["node"] = HOSTILE
    for number, row in enumerate(report["graph"]["nodes"]):
        row |= {"name": f"{HOSTILE}{number}", "node": HOSTILE, "op": HOSTILE, "then": [HOSTILE], "reason": HOSTILE}
    report["graph"]["inputs"] = [HOSTILE] * len(report["graph"]["inputs"])
    report["graph"]["outputs"][0]["name"] = HOSTILE
    for row in report["frozen"]:
        row |= {"axis": HOSTILE, "node": HOSTILE, "reason": HOSTILE, "remedy": HOSTILE}
    report["model"]["path"] = HOSTILE
    report["warnings"] = [HOSTILE]
    report["surgery"]["frozen_by_check"] = [HOSTILE]
    report["gates"].append({"name": HOSTILE, "limit": 1.0, "value": 2.0, "passed": False})
    tensors = [{"name": HOSTILE, "op": HOSTILE, "sqnr_db": float(n)} for n in range(60)]
    report["layers"] = {"compared": 60, "reshaped": 0, "tensors": tensors}
    points = [
        {
            "id": str(n),
            "label": HOSTILE,
            "macs_share": n / 9,
            "bytes": n,
            "quality": 1 / n,
            "metric": None,
            "score": None,
            "drop": None,
            "pareto": n % 2 == 0,
            "error": None,
        }
        for n in range(1, 9)
    ]
    curve = {"group": HOSTILE, "width": 8, "widths": [4, 2], "fitted": [0.1, 0.2]}
    report |= {"curves": [curve] * 5, "exclude": [HOSTILE]}
    return report | {"points": points, "chosen": "4", "quality": HOSTILE[:40]}


class Tags(HTMLParser):
    """Collects tags and ids, and that every opened one is closed and every id is there once."""

    VOID = frozenset({"meta", "link", "br", "hr", "img", "wbr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.attributes: set[str] = set()
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.attributes.update(name for name, _ in attrs)
        self._identify(attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self._identify(attrs)

    def _identify(self, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(text: str) -> Tags:
    tags = Tags()
    tags.feed(text)
    tags.close()
    assert not tags.open
    assert len(tags.ids) == len(set(tags.ids))
    return tags


@pytest.mark.parametrize("which", ["plain", "hostile"])
def test_html_is_well_formed_and_runs_nothing(which: str, request: pytest.FixtureRequest) -> None:
    text = page.render(request.getfixturevalue(which))
    tags = parsed(text)
    assert not tags.seen & {"script", "iframe", "object", "img", "link", "form"}
    assert not [name for name in tags.attributes if name.startswith("on")]
    assert not re.search(r"(?:src|href)=[\"']?(?!#)(?!http://www\.w3\.org)[\w/]", text)
    assert len(text.encode()) <= page.LIMIT


def test_html_shows_a_hostile_name_as_text(hostile: dict[str, Any]) -> None:
    text = page.render(hostile)
    assert "&lt;script&gt;alert(1)" in text
    assert "\x1b" not in text


def test_every_document_has_the_numbers_of_the_report(plain: dict[str, Any]) -> None:
    for kind in ("markdown", "html"):
        assert f"{plain['after']['parameters']:,}" in render(kind, plain)
        assert f"{plain['after']['macs']:,}" in render(kind, plain)


def test_equal_reports_give_equal_documents(plain: dict[str, Any]) -> None:
    for kind in ("json", "markdown", "junit", "html"):
        assert render(kind, plain) == render(kind, json.loads(json.dumps(plain)))


@pytest.mark.parametrize(("kind", "limit"), [("markdown", markdown.LIMIT), ("html", page.LIMIT)])
def test_a_report_of_a_huge_model_stays_below_the_limit(kind: str, limit: int, hostile: dict[str, Any]) -> None:
    groups, frozen = (hostile["groups"] * 2000)[:6000], (hostile["frozen"] * 500)[:3000]
    text = render(kind, hostile | {"groups": groups, "frozen": frozen})
    assert 1000 < len(text.encode()) <= limit
    assert "more" in text


def test_markdown_tables_keep_their_columns(hostile: dict[str, Any]) -> None:
    """A name with pipes and line breaks stays one cell: as many unescaped pipes in each line as the head has."""
    lines = [line for line in markdown.render(hostile).splitlines() if line.startswith("|")]
    columns = 0
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        pipes = len(re.findall(r"(?<!\\)\|", line))
        columns = pipes if set(following) == set("| -") else columns
        assert pipes == columns, line
    assert "<script" not in markdown.render(hostile)


def test_documents_say_what_the_proof_saw(plain: dict[str, Any]) -> None:
    """Of every output how far silencing moved it and how far off it is, and of what was not seen, why."""
    unseen = {"moved": 0.0, "error": 0.0, "tolerance": 1e-4, "proven": False, "reason": "it never moved"}
    surgery = plain["surgery"] | {"proven": False, "unproven": "node 'n' was not seen", "outputs": {HOSTILE: unseen}}
    for kind in ("markdown", "html"):
        whole = render(kind, plain)
        assert all(word in whole for word in ("surgery exact", "moved by silencing", "proven")), kind
        assert "not proven" not in whole
        doubtful = render(kind, plain | {"surgery": surgery})
        assert "surgery not proven" in doubtful and "not proven: it never moved" in doubtful
        assert "<script" not in doubtful
    root = ElementTree.fromstring(render("junit", plain | {"surgery": surgery}).encode())
    assert root.get("failures") == str(1 + sum(not gate["passed"] for gate in plain["gates"]))


def test_markdown_begins_with_what_matters_and_folds_the_rest(plain: dict[str, Any]) -> None:
    text = markdown.render(plain)
    assert text.startswith("# onnxprune prune: ✓ passed\n")
    assert text.index("✓ **proven**") < text.index("| MACs |") < text.index("<details>")
    assert text.index("<details>") < text.index("| parameters |") < text.index(plain["groups"][0]["name"].split("_")[0])
    assert text.count("<details>") == text.count("</details>") >= 4


def unfolded(text: str) -> str:
    return re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL)


@pytest.mark.parametrize("which", ["plain", "hostile"])
def test_markdown_that_is_not_folded_fits_a_phone(which: str, request: pytest.FixtureRequest) -> None:
    """Tables of three columns, of words that wrap and numbers of a few digits."""
    lines = [line for line in unfolded(markdown.render(request.getfixturevalue(which))).splitlines() if line[:1] == "|"]
    assert lines
    for line in lines:
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        assert len(cells) == 3
        assert sum(max(map(len, cell.split() or [""])) for cell in cells[1:]) <= 24, line


def test_markdown_of_a_failed_gate_says_which(plain: dict[str, Any]) -> None:
    gate = {"name": "max_drop", "limit": 0.01, "value": 0.5, "passed": False}
    text = markdown.render(plain | {"gates": [gate]})
    assert text.startswith("# onnxprune prune: ✗ failed\n")
    assert "- ✗ **failed** max\\_drop: 50.00 points, limit 1 point" in text
    noisy = markdown.render(plain | {"gates": [gate | {"value": None}]})
    assert noisy.startswith("# onnxprune prune: ? inconclusive\n")


def test_a_command_line_is_a_block_of_code_where_nothing_ends_it(plain: dict[str, Any]) -> None:
    assert "```sh\nonnxprune prune " in markdown.render(plain)
    settings = plain["settings"] | {"exclude": ["````\n</details><script>@all"]}
    text = markdown.render(plain | {"settings": settings})
    assert "```" not in text and "--exclude" in text
    assert "<script" not in text and "@all" not in text and "\n</details><" not in text


def test_junit_counts_gates_and_failures(hostile: dict[str, Any]) -> None:
    root = ElementTree.fromstring(render("junit", hostile).encode())
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("4", "1", "0")
    assert len(root.findall("./testsuite/testcase/failure")) == 1


def test_junit_of_a_failed_run_is_an_error() -> None:
    failure = {"schema_version": 1, "command": "prune", "exit_code": 3, "error": "no such file"}
    root = ElementTree.fromstring(render("junit", failure).encode())
    assert (root.get("tests"), root.get("errors")) == ("1", "1")
    assert "no such file" in render("markdown", failure)
    parsed(render("html", failure))


def test_jobs_become_sections_and_suites(plain: dict[str, Any]) -> None:
    failed = {"schema_version": 1, "command": "prune", "exit_code": 3, "error": "no such file"}
    run = {"command": "run", "exit_code": 3, "jobs": {"one": plain, "two": failed}}
    suites = ElementTree.fromstring(render("junit", run).encode()).findall("testsuite")
    assert [suite.get("name") for suite in suites] == ["one", "two"]
    assert "## two" in render("markdown", run)
    assert parsed(render("html", run)).seen >= {"ul", "svg"}
    parsed(render("html", {"command": "run", "jobs": {"one": plain, "two": plain}}))


def test_plots_are_images_without_colours_of_their_own(hostile: dict[str, Any]) -> None:
    """Colours are classes of the page's style, so that they follow light and dark; points say what they are."""
    found = plots.plots(hostile)
    assert [title for title, _ in found] == ["Quality against MACs left", "Each group narrowed alone"]
    for _, svg in found:
        assert not re.search(r"#[0-9a-f]{3}|style=|fill=", svg)
        root = ElementTree.fromstring(svg)
        assert root.get("aria-label") and len(list(root.iter("title"))) >= 8


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.2, 0.2), (-3, 7), (0, 0), (1e-9, 3e-9), (12, 1e6)])
def test_ticks_are_few_and_hold_everything(low: float, high: float) -> None:
    found = plots.ticks(low, high)
    assert found[0] <= low + 1e-12 and found[-1] >= high - 1e-9 * abs(high)
    assert 2 <= len(found) <= 8


def test_long_names_lose_their_middle() -> None:
    assert shortened("abcdefghij", 5) == "ab…ij"
    assert shortened("abcde", 5) == "abcde"


@pytest.mark.parametrize("name", ["conv1/w", "conv's[0]", "op:Conv", "re:x", "a b*c?", "line\nbreak", "x" * 500])
def test_lines_to_paste_name_one_thing(name: str) -> None:
    """Through the document, a shell and the option: the pattern finds the name, and nothing else that looks like it."""
    (line,) = exclude_lines({"surgery": {"frozen_by_check": [name]}})
    (table,) = tables({"command": "prune", "surgery": {"frozen_by_check": [name]}})
    assert table.rows == ((line,),)
    option, pattern = shlex.split(line)
    _, named = matcher(pattern)
    assert option == "--exclude" and named(name)
    assert not any(named(other) for other in (name + "0", "0" + name, name[1:], "Conv", "conv's0", "abc"))


def test_a_model_as_it_is_shows_its_size_and_what_can_be_pruned() -> None:
    """Nothing was decided by inspect, so nothing is 'after'."""
    report = inspect(CNN)
    (size,) = [table for table in tables(report) if table.title == "Size"]
    assert dict(row[:2] for row in size.rows)["parameters"] == f"{report['before']['parameters']:,}"
    text = page.render(report)
    assert "can be pruned" in text and "→" not in text


def test_columns_are_numbers_short_or_anything() -> None:
    rows = (("a", "1,000", "-", "x" * 30), ("b", "-5.1%", "pruned", "1"))
    assert Table("", ("",) * 4, rows).kinds == ("short", "number", "short", "")


def test_tables_without_rows_are_left_out() -> None:
    assert tables({"command": "ops"}) == []
