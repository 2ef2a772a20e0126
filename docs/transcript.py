"""Run the commands of docs/first-hour.md in their order and write down what they say: python docs/transcript.py.

The commands are the blocks of sh, one in each; the block of text behind it is what is printed, errors and warnings first. The folder they run
in has ``model.onnx``, and pictures that nothing was trained on, some to decide by and some to judge by.
"""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

PAGE, MODEL = ROOT / "docs" / "first-hour.md", ROOT / "models" / "shapes_detector.onnx"
BLOCK = re.compile(r"(```sh\n(onnxprune [^\n]*)\n```\n\n```text\n)(.*?)(\n```)", re.S)
COLUMNS = 90
PICTURES = {"pictures": (128, 1), "others": (64, 2)}
"""Folder -> how many pictures, and the seed."""


def prepare(folder: Path) -> None:
    """Lay out what a newcomer has."""
    shutil.copy(MODEL, folder / "model.onnx")
    draw = runpy.run_path(str(ROOT / "models" / "train_shapes.py"))["pictures"]
    for name, (count, seed) in PICTURES.items():
        draw(folder / name, count, seed)


def said(command: str) -> str:
    """Run a command of the page in this folder and return what a reader sees of it."""
    from click.testing import CliRunner

    from onnxprune.cli import main

    found = CliRunner(env={"COLUMNS": str(COLUMNS)}).invoke(main, shlex.split(command)[1:])
    told = [line for line in found.stderr.splitlines() if line.startswith(("error:", "warning:"))]
    lines = [*told, *(line.rstrip() for line in found.stdout.splitlines())]
    ended = [] if found.exit_code == 0 else ["", f"(exit code {found.exit_code})"]
    return re.sub(r"\n{3,}", "\n\n", "\n".join([*lines, *ended]).strip("\n"))


def steps(page: str) -> Iterator[tuple[str, str]]:
    """Yield every command with what the page says of it."""
    for found in BLOCK.finditer(page):
        yield found[2], found[3]


def main() -> None:
    page = PAGE.read_text()
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        prepare(Path())
        written = BLOCK.sub(lambda found: found[1] + said(found[2]) + found[4], page)
    PAGE.write_text(written)


if __name__ == "__main__":
    main()
