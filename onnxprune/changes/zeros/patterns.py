"""Patterns of zeros: any weight, N of every M along the contraction, or whole blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from onnxprune.errors import UsageError

HALF = 0.5  # of the blocks, where no share is given


@dataclass(frozen=True)
class Pattern:
    """``share`` of the weights are zero; ``of``: (N, M), N of every M are left; ``block``: (rows, columns) that go together.

    Weights are seen as float[groups, o, d], the inputs of one tap side by side: M and columns are counted along d, within a tap.
    """

    share: float
    of: tuple[int, int] | None = None
    block: tuple[int, int] = (1, 1)

    def __str__(self) -> str:
        if self.of:
            return f"{self.of[0]}:{self.of[1]}"
        return f"{self.share:g}" + ("" if self.block == (1, 1) else f",block={self.block[0]}x{self.block[1]}")

    def misfit(self, shape: tuple[int, ...], inputs: int) -> str:
        """Return why a weight [groups, o, d] with so many ``inputs`` of each tap cannot have the pattern ("": it can)."""
        rows, columns = (1, self.of[1]) if self.of else self.block
        if inputs % columns:
            return f"its {inputs} inputs are no multiple of {columns}"
        return f"its {shape[1]} outputs are no multiple of {rows}" if shape[1] % rows else ""

    def kept(self, scores: np.ndarray, share: float | None = None) -> np.ndarray:
        """Return bool[groups, o, d]: what stays by scores of that shape; ``share``: of zeros, instead of the pattern's own.

        Of equal scores the first stay.
        """
        if self.of:
            return self._kept_of_each(scores, *self.of)
        rows, columns = self.block
        groups, o, d = scores.shape
        blocks = scores.reshape(groups, o // rows, rows, d // columns, columns).sum(axis=(2, 4))
        most = blocks.size - round(blocks.size * (self.share if share is None else share))
        left = largest(blocks.reshape(-1), most).reshape(blocks.shape)
        return np.repeat(np.repeat(left, rows, axis=1), columns, axis=2)

    def _kept_of_each(self, scores: np.ndarray, n: int, m: int) -> np.ndarray:
        parts = scores.reshape(-1, m)
        order = np.argsort(-parts, axis=1, kind="stable")
        left = np.zeros(parts.shape, bool)
        np.put_along_axis(left, order[:, :n], True, axis=1)
        return left.reshape(scores.shape)


def largest(scores: np.ndarray, count: int) -> np.ndarray:
    """Return bool[n]: the ``count`` largest of float[n], the first ones of those that are equal.

    The same as ``keep_best`` of units, without a sort: millions of weights are asked about in every step of a search.
    """
    if not 0 < count < len(scores):
        return np.full(len(scores), count > 0)
    threshold = np.partition(scores, len(scores) - count)[len(scores) - count]
    left = scores > threshold
    left[np.flatnonzero(scores == threshold)[: count - int(left.sum())]] = True
    return left


def parse_pattern(text: str) -> Pattern:
    """Read a share such as 0.7 or 70%, N:M, or block=RxC with a share before it (0.5 without); raises UsageError."""
    share, block, of = HALF, (1, 1), None
    for part in (part.strip() for part in text.split(",")):
        if found := re.fullmatch(r"(\d+):(\d+)", part):
            of = int(found[1]), int(found[2])
        elif found := re.fullmatch(r"block=(\d+)x(\d+)", part):
            block = int(found[1]), int(found[2])
        elif found := re.fullmatch(r"(\d*\.?\d+)(%?)", part):
            share = float(found[1]) / (100 if found[2] else 1)
        else:
            raise _unread(text)
    if of is not None:
        if "," in text or not 0 < of[0] < of[1]:
            raise _unread(text)
        return Pattern(1 - of[0] / of[1], of)
    if not 0 < share < 1 or min(block) < 1:
        raise _unread(text)
    return Pattern(share, None, block)


def _unread(text: str) -> UsageError:
    return UsageError(
        f"sparsity {text!r}: give the share of weights that become zero, such as 0.7 or 70%, N of every M that stay, such as "
        "2:4, or a share of blocks, such as 0.7,block=1x16"
    )
