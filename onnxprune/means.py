"""With what work is done, apart from what is done: one value that a run hands down instead of one parameter each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

Progress = Callable[[str], None]
"""Is told what begins."""


def silent(stage: str) -> None:
    """Tell nobody."""


Spread = Callable[[Callable[[int], Any], Iterable[int]], Iterable[Any]]
"""Calls a function for each of some numbers, like ``map``, wherever and in whatever order: a pool's ``map`` is one."""


@dataclass(frozen=True)
class Means:
    """``threads`` of ONNX Runtime, ``seed`` of every draw, ``batch``: rows at a time (None: as many as fit).

    ``mask``: the model's input that is zero where a sequence is padded. ``progress`` is told what begins.
    ``spread`` shares out work on parts of the data (None: one part after the other); the result is the same to the bit.
    """

    threads: int = 1
    seed: int = 0
    batch: int | None = None
    mask: str | None = None
    progress: Progress = silent
    spread: Spread | None = None

    @property
    def quiet(self) -> Means:
        """The same, telling nobody."""
        return replace(self, progress=silent)

    def masked(self, name: str) -> Means:
        """Return the same with the padding mask ``name`` ("": none) where none was given."""
        return self if self.mask or not name else replace(self, mask=name)
