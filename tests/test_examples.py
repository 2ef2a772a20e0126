"""Examples in Python that the pages show are typed and run."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALONE = ("README.md", "docs/python.md")
"""Pages of which every example stands by itself."""


def examples(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.S)


EXAMPLES = [(f"{name}:{number}", code) for name in ALONE for number, code in enumerate(examples(name))]


@pytest.mark.parametrize("code", [code for _, code in EXAMPLES], ids=[name for name, _ in EXAMPLES])
def test_an_example_runs(tmp_path: Path, code: str) -> None:
    (tmp_path / "models").symlink_to(ROOT / "models")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(find_spec("mypy") is None, reason="needs onnxprune[dev]")
def test_examples_are_typed(tmp_path: Path) -> None:
    """With the settings of the project and its cache, so that only the examples are read where mypy ran before."""
    files = []
    for number, code in enumerate([*(code for _, code in EXAMPLES), "\n".join(examples("docs/life-of-a-model.md"))]):
        files.append(tmp_path / f"example{number}.py")
        files[-1].write_text(code)
    settings = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")]
    command = [sys.executable, "-m", "mypy", *settings, *map(str, files)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout
