"""With what work is done, apart from what is done: one value that a run hands down instead of one parameter each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from onnxprune.progress import Progress, heard, silent

Spread = Callable[[Callable[[int], Any], Iterable[int]], Iterable[Any]]
"""Calls a function for each of some numbers, like ``map``, wherever and in whatever order: a pool's ``map`` is one."""


@dataclass(frozen=True)
class Means:
    """``threads`` of ONNX Runtime, ``seed`` of every draw, ``batch``: rows at a time (None: as many as fit).

    ``mask``: the model's input that is zero where a sequence is padded. ``progress(text, done, total)`` is told what begins and
    how much is done, any function of a text will do. ``spread`` shares out work on parts of the data (None: one part after the
    other); the result is the same to the bit. ``memory``: bytes that the process may take (None: see
    ``bytes_allowed``); what is worked on at once follows it.
    """

    threads: int = 1
    seed: int = 0
    batch: int | None = None
    mask: str | None = None
    progress: Progress = silent
    spread: Spread | None = None
    memory: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "progress", heard(self.progress))

    @property
    def quiet(self) -> Means:
        """The same, telling nobody."""
        return replace(self, progress=silent)

    def part(self, number: int, of: int, prefix: str = "") -> Means:
        """Return the same for one of several parts of the work, counted from 0: what it counts is of that part."""
        return replace(self, progress=self.progress.part(number, of, prefix))

    def masked(self, name: str) -> Means:
        """Return the same with the padding mask ``name`` ("": none) where none was given."""
        return self if self.mask or not name else replace(self, mask=name)
