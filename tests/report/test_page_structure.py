"""The page without a browser: headings in order, everything labelled, contrast of all colours in both themes, nothing to run."""

from __future__ import annotations

import json
import re
import shlex
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import onnxprune
from onnxprune import api
from onnxprune.cli.commands.prune import command
from onnxprune.cli.options import given
from onnxprune.report.documents import page, render
from onnxprune.report.documents.commandline import command_line, options_of
from onnxprune.report.documents.graph.picture import figures_of
from onnxprune.report.documents.headline import badges, gate_badge, headlines, outcome
from onnxprune.report.documents.stays import staying
from onnxprune.settings import Settings, make_settings

MODELS = Path(__file__).parents[2] / "models"
CNN, TEST = MODELS / "digits_cnn.onnx", MODELS / "digits_test.npz"
CSS = (Path(page.__file__).parent / "templates" / "report.css").read_text()


@pytest.fixture(scope="module")
def reports() -> dict[str, dict[str, Any]]:
    judged = onnxprune.prune(CNN, evaluation=TEST, latency=False, max_drop=0.01, repair="none").report
    found = {"prune": judged, "inspect": api.inspect(CNN)}
    found |= {"run": {"command": "run", "jobs": {"one": judged, "two": {"command": "prune", "error": "no such file"}}}}
    return {name: json.loads(render("json", report)) for name, report in found.items()}


class Outline(HTMLParser):
    """Headings, attributes of every tag, and the words inside some."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: dict[int, str] = {}
        self._open: list[int] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "br", "hr", "wbr"):
            self._open.append(len(self.tags) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for number in self._open:
            self.words[number] = self.words.get(number, "") + data

    def named(self, *names: str) -> list[tuple[int, str, dict[str, str | None]]]:
        return [(number, tag, attrs) for number, (tag, attrs) in enumerate(self.tags) if tag in names]


@pytest.mark.parametrize("name", ["prune", "inspect", "run"])
def test_the_page_says_what_it_is_and_has_headings_in_order(name: str, reports: dict[str, dict[str, Any]]) -> None:
    """WCAG 2.2: 3.1.1 language, 2.4.2 title, 1.4.4 zoom, 1.3.1 headings; one h1, no level left out, none empty."""
    found = Outline(render("html", reports[name]))
    assert [attrs.get("lang") for _, _, attrs in found.named("html")] == ["en"]
    assert all(found.words[number].strip() for number, _, _ in found.named("title"))
    viewport = next(attrs["content"] for _, _, attrs in found.named("meta") if attrs.get("name") == "viewport")
    assert viewport == "width=device-width, initial-scale=1"
    headings = found.named("h1", "h2", "h3", "h4")
    levels = [int(tag[1]) for _, tag, _ in headings]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(two - one <= 1 for one, two in pairwise(levels))
    assert all(found.words[number].strip() for number, _, _ in headings)
    assert [tag for _, tag, _ in found.named("main")] == ["main"]


@pytest.mark.parametrize("name", ["prune", "inspect", "run"])
def test_everything_has_a_name(name: str, reports: dict[str, dict[str, Any]]) -> None:
    """WCAG 2.2: 1.1.1 images, 1.3.1 heads of tables, 2.1.1 what scrolls can be reached by keyboard, 4.1.2 names."""
    found = Outline(render("html", reports[name]))
    outer = [attrs for _, _, attrs in found.named("svg")]
    assert outer and all(attrs.get("aria-hidden") == "true" or attrs.get("aria-label") for attrs in outer)
    assert all(attrs.get("scope") in ("col", "row") for _, _, attrs in found.named("th"))
    assert all(
        found.words.get(number, "").strip() for number, _, _ in found.named("th", "summary", "a", "dt", "figcaption")
    )
    boxes = [attrs for _, _, attrs in found.named("div") if "scroll" in (attrs.get("class") or "")]
    assert boxes and all(attrs.get("tabindex") == "0" and attrs.get("aria-label") for attrs in boxes)
    ids = [attrs["id"] for _, attrs in found.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = {attrs["href"] for _, _, attrs in found.named("a")}
    assert targets <= {f"#{name}" for name in ids}


def colours(theme: str) -> dict[str, str]:
    text = CSS if theme == "light" else CSS[CSS.index("prefers-color-scheme: dark") :]
    block = text[text.index(":root {") :]
    found = dict(re.findall(r"--(\w+): (#[0-9a-f]{3,6})", block[: block.index("}")]))
    return {
        name: value if len(value) == 7 else "#" + "".join(2 * digit for digit in value[1:])
        for name, value in found.items()
    }


def contrast(one: str, two: str) -> float:
    """Return the ratio of WCAG 2.2 (relative luminance of sRGB) between two colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    high, low = sorted((luminance(one), luminance(two)), reverse=True)
    return (high + 0.05) / (low + 0.05)


TEXT, GROUND = ("ink", "faint", "good", "bad", "unsure", "now", "chosen"), ("page", "card", "box")
DRAWN = ("now", "kept", "chosen", "good", "bad", "unsure")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_all_colours_have_contrast(theme: str) -> None:
    """1.4.3 (AA): 4.5 between text and ground, inside hatched boxes too; 1.4.11: 3 between what is drawn and the ground."""
    found = colours(theme)
    assert set(found) == set(colours("light")) and len(found) >= 14
    for ground in GROUND:
        assert min(contrast(found[text], found[ground]) for text in TEXT) >= 4.5, ground
        assert min(contrast(found[line], found[ground]) for line in DRAWN) >= 3, ground
    assert min(contrast(found[text], found["hatch"]) for text in ("ink", "faint")) >= 4.5
    assert contrast(found["now"], found["was"]) >= 3  # what is left, over what it was


def test_no_colour_but_those_of_the_themes() -> None:
    rest = re.sub(r":root \{.*?\}", "", CSS, flags=re.DOTALL)
    assert not re.search(r"#[0-9a-f]{3}|rgb|hsl", rest)
    assert set(re.findall(r"var\(--(\w+)\)", rest)) <= set(colours("light"))


def test_states_are_words_and_signs_beside_colours(reports: dict[str, dict[str, Any]]) -> None:
    report = reports["prune"]
    assert outcome(report).word == "failed"  # type: ignore[union-attr]
    assert [(badge.word, badge.mark) for badge in badges(report)] == [("proven", "✓"), ("failed", "✗")]
    noisy = gate_badge({"name": "max_latency_ratio", "limit": 0.8, "value": None, "passed": False})
    assert (noisy.word, noisy.mark) == ("inconclusive", "?")
    text = render("html", report)
    assert all(words in text for words in ("✗ failed", "✓ proven", "max_drop"))


def test_large_figures_are_those_of_the_report(reports: dict[str, dict[str, Any]]) -> None:
    report = reports["prune"]
    found = {one.label: one for one in headlines(report)}
    assert set(found) == {"top1_accuracy", "File", "MACs", "Parameters"}
    assert found["top1_accuracy"].now == f"{report['task']['after']:.2%}"
    assert found["MACs"].was == "5.53M"
    blind = report | {"task": None, "unjudged": 0.7}
    assert headlines(blind)[0].now == "not judged"
    assert "can be pruned" in {one.label: one.beside for one in headlines(reports["inspect"])}["MACs"]


def test_axes_that_stay_for_one_reason_are_one_entry() -> None:
    rows = [
        {
            "axis": f"w{n}[{axis}]",
            "node": "n",
            "op": "Conv",
            "reason": "r",
            "kind": "rule",
            "macs": 5,
            "parameters": 2,
            "remedy": "do",
        }
        for n in range(23)
        for axis in (0, 1)
    ]
    (one,) = staying({"frozen": rows})
    assert (len(one.axes), one.macs, one.parameters) == (46, 23 * 5, 23 * 2)
    text = render("html", {"command": "inspect", "frozen": rows})
    assert text.count('<details class="stays">') == 1 and "46 axes" in text


OTHERS: tuple[dict[str, Any], ...] = (
    {"ratio": 0.25, "criterion": "l1", "exclude": ("a b$c", "re:x'y"), "seed": 7, "latency": False},
    {"target": "macs=50%", "granularity": ("heads", "block"), "layer_ratio": (("conv*", 0.2),), "round_to": 8},
    {
        "sparsity": "2:4",
        "permute": True,
        "storage": "fp16",
        "augment": ("none",),
        "memory_limit": 10**9,
        "max_size": 10**6,
    },
    {"input_shape": (("x", (1, 3)),), "input_value": (("n", (320, True)),), "output_weight": (("y[4:8]", 2.0),)},
)


@pytest.mark.parametrize("wanted", OTHERS)
def test_the_line_to_copy_says_the_same_settings(wanted: dict[str, Any]) -> None:
    """What it names is read by the command line as what decided."""
    settings = make_settings(wanted)
    line = shlex.split(" ".join(options_of(json.loads(json.dumps(settings.to_json())))))
    values = given(command.make_context("prune", ["net.onnx", *line]).params)
    again = make_settings({name: value for name, value in values.items() if name in Settings.__dataclass_fields__})
    one, two = (found.to_json() | {"round_to_profile": None} for found in (settings, again))
    assert {name: (one[name], two[name]) for name in one if one[name] != two[name]} == {}


def test_the_command_names_files_and_data(reports: dict[str, dict[str, Any]]) -> None:
    line = command_line(reports["prune"])
    assert line.startswith(f"onnxprune prune {CNN} OUT.onnx \\\n  --eval EVALUATION")
    assert "--repair none" in line and "--max-drop 0.01" in line and "--no-latency" in line
    assert command_line(reports["inspect"]) == f"onnxprune inspect {CNN}"
    assert "--max-drop 0.01" in render("html", reports["prune"])


def test_a_report_says_where_and_of_what_it_was_made(reports: dict[str, dict[str, Any]]) -> None:
    report = reports["prune"]
    assert report["data"]["evaluation"]["rows"] == 497 and len(report["data"]["evaluation"]["sha256"]) == 64
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", report["made"]["date"])
    text = render("html", report)
    for told in (report["made"]["date"], report["data"]["evaluation"]["sha256"], report["model"]["sha256"]):
        assert told in text


def point(number: int, error: str | None) -> dict[str, Any]:
    done = {"macs_share": 0.5, "bytes": 9, "quality": 0.1, "score": None, "drop": None, "metric": None, "pareto": True}
    label = f"l2 none 0.{number}"
    return {"id": str(number), "label": label, "error": error} | ({"quality": None, "score": None} if error else done)


def test_why_a_point_failed_has_the_width_of_the_page() -> None:
    """In the last column of the table a sentence would stand in a word a line."""
    why = "--ratio 0.9 is out of reach: the smallest result has more channels than that"
    words = ["prune", "my net.onnx", "--ratio", "0.5"]
    report = {
        "command": "sweep",
        "points": [point(5, None), point(9, why)],
        "chosen": "5",
        "quality": "drop of accuracy",
    }
    text = render("html", report | {"chosen_argv": words})
    table = text[text.index("<table>") : text.index("</table>")]
    assert "l2 none 0.5" in table and "l2 none 0.9" not in table
    assert f"✗ failed</span> l2 none 0.9: {why}" in text
    assert "onnxprune prune &#39;my net.onnx&#39; \\\n  --ratio 0.5" in text
    assert 'class="panels single"' in text


def test_long_names_break_behind_their_slashes(reports: dict[str, dict[str, Any]]) -> None:
    text = render("html", reports["prune"])
    assert "identity/<wbr>body.0.0" in text
    hostile = json.loads(json.dumps(reports["prune"]))
    for row in hostile["graph"]["nodes"]:
        row["node"] = "a/<b>"
    assert "a/<wbr>&lt;b&gt;" in render("html", hostile)


def test_what_follows_a_node_is_named_as_far_as_it_fits() -> None:
    row = {"op": "Concat", "width_before": 0, "width_after": 0, "status": None, "macs_before": 0, "macs_after": 0}
    assert figures_of(row | {"then": ["Relu"]}) == "Concat · Relu"
    assert figures_of(row | {"then": ["GlobalAveragePool", "Flatten"]}) == "Concat · 2 more"
    assert figures_of(row | {"then": ["Relu", "GlobalAveragePool", "Flatten"]}) == "Concat · Relu · 2 more"


def test_nothing_is_left_of_what_was_not_cut(reports: dict[str, dict[str, Any]]) -> None:
    assert "what is left of it" in render("html", reports["prune"])
    assert "what is left of it" not in render("html", reports["inspect"])
