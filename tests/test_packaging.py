"""What is handed out: the source distribution has what its tests need, lowest versions are found, the quick list is there."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_source_distribution_has_every_file_of_the_repository() -> None:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a repository")
    lines = (ROOT / "MANIFEST.in").read_text().splitlines()
    folders = {line.split()[1] for line in lines if line.startswith("graft ")}
    files = {name for line in lines if line.startswith("include ") for name in line.split()[1:]}
    always = {"README.md", "pyproject.toml", "setup.py", *PROJECT["license-files"]}
    missing = [
        name
        for name in done.stdout.split()
        if name.split("/")[0] not in folders and name not in files | always | {".gitignore"}
    ]
    assert missing == []


def test_lowest_versions_are_read_off_the_project() -> None:
    """By the very command of .ci/run."""
    command = re.search(r"< <\((sed .*? pyproject\.toml)\)", (ROOT / ".ci" / "run").read_text())
    assert command is not None
    found = subprocess.run(
        ["bash", "-c", command[1]], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert found == [f"{package.replace('>=', '==')}.*" for package in PROJECT["dependencies"]]
    assert all(re.fullmatch(r"[\w-]+==\d+\.\d+\.\*", entry) for entry in found)


def test_the_quick_list_names_files() -> None:
    names = (ROOT / "tests" / "quick.txt").read_text().split()
    assert len(names) >= 8
    assert all((ROOT / name).is_file() for name in names)


def test_a_wheel_has_the_command_line_and_not_what_forwards_to_it() -> None:
    """The folder onnxprune/cli of the checkout may not come along as data of the package: it would overwrite cli."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert settings["include-package-data"] is False
    assert settings["package-dir"] == {"onnxprune.cli": "cli"}
    data = settings["package-data"]["onnxprune"]
    assert not [pattern for pattern in data if pattern.startswith(("cli", "*", "**"))]


@pytest.mark.parametrize("repository", ["", "https://example.org/someone/onnxprune"])
def test_the_description_of_a_package_index_has_no_link_into_nowhere(repository: str) -> None:
    """Without the repository's address links are names of files; with it, addresses of the released version's files."""
    page = (ROOT / "README.md").read_text()
    setup = runpy.run_path(str(ROOT / "setup.py"))
    text = setup["described"](page, repository, "1.2.3")
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    assert all(target.startswith(("https://", "#")) for target in targets)
    assert re.findall(r"```.*?```", text, re.S) == re.findall(r"```.*?```", page, re.S)
    assert ("docs/cli.md" in text) and len(text) > 0.9 * len(page)
    if repository:
        assert (
            f"![A residual block before and after half of its channels were removed]({repository}/raw/v1.2.3/docs/residual.svg)"
            in text
        )
        assert f"{repository}/blob/v1.2.3/docs/cli.md#data" in targets
    assert set(setup["addresses"](repository, "1.2.3")) >= ({"Source", "Issues", "Changelog"} if repository else set())


BARE = """
import sys
class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("jinja2", "markupsafe", "PIL", "tokenizers", "dask", "yaml", "matplotlib"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refused())
from onnxprune.cli import main
main(["inspect", "models/digits_cnn.onnx", "--markdown", sys.argv[1] + "/i.md", "--json", sys.argv[1] + "/i.json"], standalone_mode=False)
import onnxprune
print(repr(onnxprune.analyze("models/digits_cnn.onnx")))
main(["models/digits_cnn.onnx", "--dry-run", "--no-latency", "--markdown", "-", "--junit", sys.argv[1] + "/p.xml"], standalone_mode=False)
"""


def test_without_extras_only_what_they_are_for_is_missing(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", BARE, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"i.md", "i.json", "p.xml"}


def test_the_repository_is_said_or_empty() -> None:
    repository = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["onnxprune"]["repository"]
    assert repository == "" or re.fullmatch(r"https://[^/]+/.+[^/]", repository)
