"""What the documents say about the code is so: the picture of the packages, and the life of a model."""

from __future__ import annotations

import io
import re
import runpy
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from onnxprune.runs.mix import PARTS, TRIAL_ROWS, TRIALS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


@pytest.mark.parametrize("script", ["picture.py", "residual.py", "curves.py"])
def test_pictures_are_what_their_scripts_draw(script: str) -> None:
    """From the imports, from what the tool decides for a block, from the rows of a page."""
    drawn = runpy.run_path(str(DOCS / script))
    assert drawn["PICTURE"].read_text() == drawn["picture"](), f"run docs/{script}"


def test_every_package_has_its_place_in_the_picture_and_the_page() -> None:
    words = runpy.run_path(str(DOCS / "picture.py"))["WORDS"]
    packages = {path.parent.name for path in (ROOT / "onnxprune").glob("*/__init__.py")}
    assert packages - set(words) == set()
    page = (DOCS / "architecture.md").read_text()
    assert {package for package in words if f"`{package}`" not in page} == set()


def section(page: Path, title: str) -> str:
    return page.read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_the_kind_of_change_that_is_shown_is_the_one_that_is_tested() -> None:
    """What is left out of it is marked; the row is the test's."""
    kind = (ROOT / "tests" / "changes" / "rounding.py").read_text()
    shown, row = re.findall(r"```python\n(.*?)```", section(ROOT / "CONTRIBUTING.md", "A kind of change"), re.S)
    at = 0
    for line in shown.splitlines():
        if line.strip() and line.strip() != "...":
            assert f"{line}\n" in kind[at:], line
            at = kind.index(f"{line}\n", at) + len(line)
    assert row.strip() in (ROOT / "tests" / "changes" / "test_new_kind.py").read_text()
    for page in (ROOT / "CONTRIBUTING.md", DOCS / "architecture.md"):
        told = re.findall(r"(\d+) lines", page.read_text())
        assert str(len(kind.splitlines())) in told, page


def test_the_criterion_that_is_shown_looks_like_those_that_are() -> None:
    (shown,) = re.findall(r"def name(\(.*?\)) ->", section(ROOT / "CONTRIBUTING.md", "A criterion"))
    assert f"def l1{shown} -> np.ndarray:" in (ROOT / "onnxprune" / "criteria" / "weight.py").read_text()


def test_what_judging_shares_costs_is_as_told() -> None:
    told = section(DOCS / "architecture.md", "Shares")
    words = {8: "eighth", 12: "twelve"}
    assert f"at most {TRIAL_ROWS} of the calibration rows" in told
    assert f"multiples of an {words[PARTS]}" in told and f"at most {words[TRIALS]} in all" in told


LIFE = DOCS / "life-of-a-model.md"
STAGES = re.findall(r"^## (.+?)\n.*?```python\n(.*?)```\n\n```text\n(.*?)```", LIFE.read_text(), re.S | re.M)
NUMBER = r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w.]*\w)"


def parted(text: str) -> tuple[list[str], list[float]]:
    """Return the words of a text and the numbers in it."""
    return re.sub(NUMBER, "#", text).split(), [float(number) for number in re.findall(NUMBER, text)]


def test_the_life_of_a_model_is_what_its_code_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stage after stage in one session; measured numbers may differ a little from one processor to another."""
    (tmp_path / "models").symlink_to(ROOT / "models")
    monkeypatch.chdir(tmp_path)
    assert len(STAGES) == LIFE.read_text().count("\n## ") >= 14
    names: dict[str, object] = {}
    for stage, code, shown in STAGES:
        printed = io.StringIO()
        with redirect_stdout(printed):
            exec(code, names)
        (words, numbers), (wanted, promised) = parted(printed.getvalue()), parted(shown)
        assert words == wanted, stage
        assert numbers == pytest.approx(promised, rel=0.2), stage
