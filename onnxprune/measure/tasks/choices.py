"""Tasks that choose among classes: one choice per sample, per step of a sequence, or a text read by CTC."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.measure.outputs import INTEGERS
from onnxprune.measure.tasks.task import Answered, Scored, Task

PADDING, NOTHING = -2, -1  # in place of a class: a step that is not judged; a row that is not finite


def chosen(task: Task, answered: Answered) -> list[np.ndarray]:
    """Return int64[samples, positions] per output: the class chosen, ties to the lower index."""
    found = []
    for name, how in task.outputs.items():
        value = answered.results[name]
        rows = how.rows(value)
        if how.kind == INTEGERS or rows.shape[-1] == 1:
            picked = np.asarray(rows[..., 0], np.int64)
        else:
            picked = np.where(np.isfinite(rows.max(axis=-1)), rows.argmax(axis=-1), NOTHING)
        valid = how.valid(value, answered.mask)
        found.append(picked if valid is None else np.where(valid, picked, PADDING))
    return found


def same_choice(task: Task, before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> Scored:
    """Return per sample the share of its positions, padding left out, whose class is the same."""
    del task
    same, counted = _compared(before, after)
    scores = same.sum(axis=1) / np.where(counted.any(axis=1), counted.sum(axis=1), np.nan)
    return Scored(scores)


def same_sequence(task: Task, before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> Scored:
    """The same for sequences, with the share of those that agree from end to end."""
    same, counted = _compared(before, after)
    whole = (same == counted).all(axis=1) & counted.any(axis=1)
    parts = {"whole sequences": (float(whole.sum()), float(counted.any(axis=1).sum()))}
    return Scored(same_choice(task, before, after).scores, parts)


def _compared(before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return bool[samples, positions] twice: where the same class is chosen, and where anything is to be judged."""
    pairs = [(a, b if b.shape == a.shape else np.full(a.shape, NOTHING)) for a, b in zip(before, after, strict=True)]
    a, b = (np.concatenate(parts, axis=1) for parts in zip(*pairs, strict=True))
    counted = a > PADDING
    return (a == b) & counted & (a != NOTHING), counted


# --- CTC --------------------------------------------------------------------------------------------------------------


def read_symbols(task: Task, answered: Answered) -> list[tuple[int, ...]]:
    """Return the text of every sample by greedy decoding: repeated classes merged, blanks left out.

    (Graves et al., Connectionist Temporal Classification, ICML 2006, section 3.2)
    """
    blank = task["blank"]
    texts = []
    for row in chosen(task, answered)[0]:
        steps = row[row != PADDING]
        merged = steps[np.r_[True, steps[1:] != steps[:-1]]] if len(steps) else steps
        texts.append(tuple(int(symbol) for symbol in merged if symbol != blank))
    return texts


def same_text(task: Task, before: Sequence[tuple[int, ...]], after: Sequence[tuple[int, ...]]) -> Scored:
    """Return 1 for every sample whose text is the same, with the share of characters that are; two empty texts say nothing."""
    del task
    pairs = list(zip(before, after, strict=True))
    scores = np.array([float(a == b) if a or b else np.nan for a, b in pairs], np.float64)
    length = sum(max(len(a), len(b)) for a, b in pairs)
    kept = length - sum(edits(a, b) for a, b in pairs)
    return Scored(scores, {"characters": (float(kept), float(length))})


def edits(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the Levenshtein distance: insertions, deletions and substitutions that make ``b`` of ``a``."""
    places = np.arange(len(b) + 1)
    row, other = places.copy(), np.asarray(b)
    for symbol in a:
        step = np.r_[row[0] + 1, np.minimum(row[1:] + 1, row[:-1] + (other != symbol))]
        row = np.minimum.accumulate(step - places) + places
    return int(row[-1])
