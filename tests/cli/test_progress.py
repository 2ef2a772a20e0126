"""What is seen of a run while it lasts: on a terminal one line in place, elsewhere a line now and then, never more than it is wide."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from rich.cells import cell_len

from onnxprune.cli.progress import Watch, duration, each, words

ROOT = Path(__file__).parents[2]
CNN = ROOT / "models" / "digits_cnn.onnx"
LOADER = (
    "import numpy, time\ntime.sleep(1.0)\nload_data = lambda: numpy.random.default_rng(0).random((64, 1, 8, 8), 'f')\n"
)
VARIABLES = {
    k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS", "LINES")
}
VARIABLES |= {"PYTHONPATH": str(ROOT), "TERM": "xterm"}


def test_lines_fit_and_show_no_control_characters() -> None:
    now = [0.0]
    watch = Watch(lambda: now[0])
    for text, done in (("a\x1b[2Jb\n::error::c" * 9, 1), ("名" * 60, 2), ("short", 3)):
        now[0] += 3000.0
        watch.progress(text, done, 4)
        for width in (20, 40, 80):
            line = watch.line(width)
            assert cell_len(line) <= width and line.isprintable()
    assert watch.line() == "2 h 30 min   75%  50 min left  short"


def test_the_time_left_is_not_guessed_before_anything_is_known() -> None:
    watch = Watch(lambda: 0.0)
    watch.progress("load")
    assert (watch.left, watch.line()) == ("", "   0 s  reading the model")
    watch.progress("outputs", 1, 100)
    assert (watch.left, watch.line()) == ("", "   0 s  looking at the outputs")
    watch.progress("outputs", 2, 100)
    assert watch.left


def test_what_is_over_never_becomes_less() -> None:
    watch, seen = Watch(), []
    for done in (1, 3, 2, 0, 4):
        watch.progress("x", done, 4)
        seen.append(watch.share)
    assert seen == [0.25, 0.75, 0.75, 0.75, 1.0]


@pytest.mark.parametrize(
    ("seconds", "exact", "rough"),
    [
        (0.2, "0 s", "0 s"), (59.6, "1 min", "1 min"), (48, "48 s", "50 s"), (203, "3 min 23 s", "3 min 25 s"),
        (725, "12 min 5 s", "12 min"), (7505, "2 h 5 min", "2 h 5 min"),
    ],
)  # fmt: skip
def test_durations(seconds: float, exact: str, rough: str) -> None:
    assert (duration(seconds), duration(seconds, rough=True)) == (exact, rough)


def test_stages_have_words_whatever_stands_before_them() -> None:
    assert words("step 1 of 2: cut") == "step 1 of 2: cutting"
    assert words("l1: divergence 0.1") == "l1: divergence 0.1"


def test_verbose_counts_once_a_second_and_misses_no_stage() -> None:
    told: list[str] = []
    progress = each(told.append)
    progress("repair")
    for number in range(1000):
        progress(f"node {number}", number, 1000)
    progress("cut")
    assert [line.split(" s  ")[1] for line in told] == ["repairing", "cutting"]


def loaded(tmp_path: Path) -> list[str]:
    (tmp_path / "data.py").write_text(LOADER)
    return [sys.executable, "-m", "onnxprune", str(CNN), "--dry-run", "--no-latency", "--calib", "data.py"]


def watched(command: list[str], folder: Path, columns: int) -> str:
    """Run a command whose stderr is a terminal so many columns wide; return what it wrote there."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(command, cwd=folder, env=VARIABLES, stdout=subprocess.DEVNULL, stderr=terminal)
    os.close(terminal)
    shown = b""
    try:
        while piece := os.read(controller, 1 << 16):
            shown += piece
    except OSError:  # the terminal's other end is closed
        pass
    os.close(controller)
    assert process.wait() == 0
    return shown.decode()


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_terminal_shows_one_line_in_place(tmp_path: Path, columns: int) -> None:
    shown = watched(loaded(tmp_path), tmp_path, columns)
    plain = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shown)
    lines = [line for line in re.split(r"[\r\n]+", plain) if line.strip()]
    progress = [line for line in lines if re.search(r" (\d+ s|left)$", line)]
    assert len(progress) > 3 and all(cell_len(line) <= min(columns, 80) for line in progress)
    assert any("left" in line and "%" in line for line in progress)


def test_elsewhere_the_first_line_comes_soon_and_stdout_stays_clean(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*loaded(tmp_path), "--json", "-"], cwd=tmp_path, env=VARIABLES, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    first = process.stderr.readline().decode()
    assert re.fullmatch(r" *0 s  .+\n", first)
    assert process.poll() is None  # while the run lasts, not after it
    assert json.loads(process.communicate()[0])["exit_code"] == 0


def test_quiet_shows_nothing(tmp_path: Path) -> None:
    assert watched([*loaded(tmp_path), "-q"], tmp_path, 80) == ""
