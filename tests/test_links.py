"""Every relative link of every page leads to a file of the repository, and to a heading that is there."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for folder in (ROOT, ROOT / "docs", ROOT / "models", ROOT / "benchmarks")
    for path in (folder.rglob("*.md") if folder.name == "benchmarks" else folder.glob("*.md"))
)
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|href|srcset)=\"([^\"]+)\"")


@cache
def prose(page: Path) -> str:
    """Return a page without its code, in which brackets mean something else."""
    return re.sub(r"```.*?^```|`[^`\n]*`", "", page.read_text(), flags=re.S | re.M)


@cache
def anchors(page: Path) -> set[str]:
    """Return what forges call the headings of a page: small letters, words joined by dashes, a number behind what is there twice."""
    found: dict[str, int] = {}
    names = set()
    for heading in re.findall(r"^#{1,6} (.+)$", re.sub(r"```.*?^```", "", page.read_text(), flags=re.S | re.M), re.M):
        plain = (
            re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()).strip().replace(" ", "-")
        )
        names.add(plain if plain not in found else f"{plain}-{found[plain]}")
        found[plain] = found.get(plain, 0) + 1
    return names


def broken(page: Path) -> list[str]:
    """Return the links of a page that lead nowhere."""
    wrong = []
    for target in ("".join(found) for found in LINK.findall(prose(page))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            wrong.append(target)
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page) == []


def test_what_leads_nowhere_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# One *of* two\n\n[a](#one-of-two) [b](#three) [c](gone.md) `[d](x)` [e](https://example.org) ![f](g.svg)\n"
    )
    assert broken(page) == ["#three", "gone.md", "g.svg"]


def test_every_page_of_the_documents_is_linked_from_another() -> None:
    linked = {
        (page.parent / "".join(found).partition("#")[0]).resolve()
        for page in PAGES
        for found in LINK.findall(prose(page))
    }
    assert [page.name for page in (ROOT / "docs").glob("*.md") if page not in linked and page.stem != "index"] == []
