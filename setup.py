"""What pyproject.toml cannot say: the description that a package index shows is README.md with links that lead somewhere from there.

Where ``repository`` of ``[tool.onnxprune]`` is set, links and pictures become addresses of the released version in it, and the metadata names
it. Without one, links to files of the repository become the names of these files, which the source distribution holds.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def described(text: str, repository: str, version: str) -> str:
    """Return a page of the repository's root as it is read elsewhere."""

    def placed(found: re.Match) -> str:
        picture, words, target = found.groups()
        if re.match(r"[a-z]+:|#", target):
            return found[0]
        if repository:
            return f"{picture}[{words}]({repository}/{'raw' if picture else 'blob'}/v{version}/{target})"
        path = target.partition("#")[0]
        return "" if picture else words if words in (path, f"`{path}`") else f"{words} ({path})"

    return re.sub(r"\n{3,}", "\n\n", LINK.sub(placed, text))


def addresses(repository: str, version: str) -> dict[str, str]:
    """Return the links of the metadata."""
    if not repository:
        return {}
    pages = {"Documentation": f"blob/v{version}/docs/index.md", "Changelog": f"blob/v{version}/CHANGELOG.md"}
    pages |= {"Issues": "issues", "Source": f"tree/v{version}"}
    return {name: f"{repository}/{path}" for name, path in pages.items()}


def main() -> None:
    repository = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["onnxprune"]["repository"].rstrip("/")
    found: dict[str, str] = {}
    exec((ROOT / "onnxprune" / "version.py").read_text(), found)
    version = found["__version__"]
    setup(
        long_description=described((ROOT / "README.md").read_text(encoding="utf-8"), repository, version),
        long_description_content_type="text/markdown",
        project_urls=addresses(repository, version),
    )


if __name__ == "__main__":
    main()
