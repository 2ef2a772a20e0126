"""Settings of the site: sphinx-build -W -c docs . site, from the repository's root, with pip install '.[docs]'.

The sources are the repository's own pages where they lie, so that their links are the same on a forge and on the site.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from onnxprune.version import __version__  # noqa: E402

project, author, copyright = "onnxprune", "the onnxprune authors", "the onnxprune authors, Apache-2.0"
version = release = __version__
extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "DEVELOPERS.md",
    "docs/**.md",
    "models/*.md",
    "benchmarks/**.md",
]
source_suffix = {".md": "markdown"}
myst_heading_anchors = 4
myst_enable_extensions = ["fieldlist"]
suppress_warnings = ["myst.header"]  # pages begin where their subject does
html_theme, html_title = "furo", f"onnxprune {release}"
html_copy_source = False
pygments_style, pygments_dark_style = "default", "github-dark"


ROOT_PAGE = '<!doctype html><meta charset="utf-8"><title>onnxprune</title><meta http-equiv="refresh" content="0; url=docs/index.html">'


def _linked_folders(app, name: str, source: list[str]) -> None:
    """Let links to a folder lead to the page in it, as forges do; without one they are plain words."""
    page = Path(app.srcdir, f"{name}.md").parent

    def place(found: re.Match) -> str:
        if not (page / found[2]).is_dir():
            return found[0]
        readme = f"{found[2].rstrip('/')}/README.md"
        return f"[{found[1]}]({readme})" if (page / readme).exists() else found[1]

    source[0] = re.sub(r"\[([^\]]+)\]\(([^)#:]+)\)", place, source[0])


def _start_page(app, error: Exception | None) -> None:
    """Lead from the site's root to its first page."""
    if error is None and app.builder.format == "html":
        Path(app.outdir, "index.html").write_text(ROOT_PAGE)


def setup(app) -> None:
    app.connect("source-read", _linked_folders)
    app.connect("build-finished", _start_page)
