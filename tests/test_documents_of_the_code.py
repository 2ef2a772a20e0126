"""What the documents say about the code is so: the picture of the packages, and the life of a model."""

from __future__ import annotations

import runpy
from pathlib import Path

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
