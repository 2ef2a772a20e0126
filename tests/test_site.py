"""The site of the documents is built without a warning, where its generator is installed (pip install '.[docs]')."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_every_page_has_its_place_on_the_site() -> None:
    """The index lists all pages, once each."""
    index = (ROOT / "docs" / "index.md").read_text()
    listed = re.findall(
        r"^(?:.*<)?([\w./-]+)>?$", "\n".join(re.findall(r"```\{toctree\}\n(.*?)```", index, re.S)), re.M
    )
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    own = [name for name in listed if "/" not in name]
    assert sorted(own) == sorted(pages)
    assert all((ROOT / "docs" / f"{name}.md").exists() for name in listed)


@pytest.mark.skipif(not all(map(find_spec, ("sphinx", "myst_parser", "furo"))), reason="needs onnxprune[docs]")
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-d",
        str(tmp_path / "trees"),
        "-c",
        "docs",
        ".",
        str(tmp_path / "site"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "docs/index.html" in (tmp_path / "site" / "index.html").read_text()
    page = (tmp_path / "site" / "README.html").read_text()
    assert 'href="docs/cli.html#data"' in page and 'src="_images/residual.svg"' in page
