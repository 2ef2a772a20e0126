"""What the clients share, in any Python with numpy: their command line, and figures of agreement."""

from __future__ import annotations

import json
import sys
import wave
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Box = Sequence[float]  # left, top, right, bottom


def main(work: Callable[[Path], Any]) -> None:
    """``python client.py FOLDER RESULTS.json``: run the client on the inputs of a folder, and write what it found."""
    folder, results = map(Path, sys.argv[1:3])
    results.write_text(json.dumps(work(folder), default=float))


def files(folder: Path, suffix: str) -> list[Path]:
    return sorted(folder.glob(f"*{suffix}"))


def truth(folder: Path) -> Any:
    return json.loads((folder / "truth.json").read_text())


def sound(path: Path) -> np.ndarray:
    """Return int16[samples]."""
    with wave.open(str(path)) as stream:
        return np.frombuffer(stream.readframes(stream.getnframes()), np.int16)


def f1(right: int, wanted: int, found: int) -> float:
    return 2 * right / max(wanted + found, 1)


def overlap(a: Box, b: Box) -> float:
    """Return intersection over union."""
    width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    common = max(0.0, width) * max(0.0, height)
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - common
    return common / area if area > 0 else 0.0


def box_f1(wanted: Iterable[list[Any]], found: Iterable[list[Any]], least: float = 0.5) -> float:
    """Return the F1 of boxes [class, box] per picture: of one class and an overlap of at least ``least``, one to one."""
    right = many = more = 0
    for a, b in zip(wanted, found, strict=True):
        left = list(b)
        many, more = many + len(a), more + len(b)
        for kind, box in a:
            same = [other for other in left if other[0] == kind and overlap(box, other[1]) >= least]
            if same:
                left.remove(max(same, key=lambda other: overlap(box, other[1])))
                right += 1
    return f1(right, many, more)


def same(wanted: Sequence[Any], found: Sequence[Any]) -> float:
    """Return the share of equal results."""
    return sum(a == b for a, b in zip(wanted, found, strict=True)) / max(len(wanted), 1)
