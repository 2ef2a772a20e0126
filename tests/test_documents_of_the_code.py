"""What the documents say about the code is so: the picture of the packages, and the life of a model."""

from __future__ import annotations

import io
import re
import runpy
from contextlib import redirect_stdout
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def test_the_picture_is_what_the_imports_say() -> None:
    drawn = runpy.run_path(str(DOCS / "picture.py"))
    assert (DOCS / "architecture.svg").read_text() == drawn["picture"](), "run docs/picture.py"


def test_every_package_has_its_place_in_the_picture_and_the_page() -> None:
    words = runpy.run_path(str(DOCS / "picture.py"))["WORDS"]
    packages = {path.parent.name for path in (ROOT / "onnxprune").glob("*/__init__.py")}
    assert packages - set(words) == set()
    page = (DOCS / "architecture.md").read_text()
    assert {package for package in words if f"`{package}`" not in page} == set()


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
