"""Language models: the next token at every place, and how well each model tells the tokens that come (perplexity)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxprune.measure.tasks.choices import chosen, same_choice
from onnxprune.measure.tasks.task import Answered, Scored, Task


@dataclass(frozen=True)
class Told:
    """A model's answer to some rows: the token it holds most likely at every place, and its losses.

    ``losses``: float64[rows, 2], the sum of -log of what it gave to the tokens that came, and how many these are; None without tokens.
    """

    picked: list[np.ndarray]
    losses: np.ndarray | None


def told_tokens(task: Task, answered: Answered) -> Told:
    """Read scores of tokens [rows, steps, vocabulary] beside the tokens that were fed, padding left out."""
    ids = answered.inputs.get(task.tokens)
    if ids is None:
        return Told(chosen(task, answered), None)
    (how,) = task.outputs.values()
    value = answered.results[how.name]
    ids = np.asarray(ids).reshape(-1, np.shape(ids)[-1])
    valid = how.valid(value, answered.mask)
    counted = np.ones(ids.shape, bool) if valid is None else valid
    both = counted[:, 1:] & counted[:, :-1]
    losses = np.zeros((len(ids), 2))
    for row, (tokens, places) in enumerate(
        zip(ids[:, 1:], both, strict=True)
    ):  # a row at a time: vocabularies are large
        scores = how.log_probabilities(value[row : row + 1])[0, :-1]
        given = scores[np.arange(len(tokens)), tokens][places]
        losses[row] = -given.sum(), len(given)
    return Told(chosen(task, answered), losses)


def same_next(task: Task, before: Told, after: Told) -> Scored:
    """Return per row the share of places where both models hold the same token most likely, and the losses of both."""
    scored = same_choice(task, before.picked, after.picked)
    if before.losses is None or after.losses is None:
        return scored
    return Scored(scored.scores, losses=np.column_stack([before.losses, after.losses[:, 0]]))


def perplexity(losses: np.ndarray, seed: int = 0) -> Mapping[str, Any] | None:
    """Return the perplexity of both models over rows: exp of the mean loss of a token; ``losses`` [rows, 3]: before, tokens, after.

    ``interval``: 95 % of the ratio of both, from a bootstrap over rows.
    """
    sums = losses.sum(axis=0)
    if not sums[1]:
        return None
    draws = np.random.default_rng(seed).integers(0, len(losses), (RESAMPLES, len(losses)))
    drawn = losses[draws].sum(axis=1)
    gains = (drawn[:, 2] - drawn[:, 0]) / np.maximum(drawn[:, 1], 1)
    before, after, tokens = sums[0] / sums[1], sums[2] / sums[1], int(sums[1])
    low, high = np.quantile(gains, (0.025, 0.975))
    return {
        "before": _finite(before),
        "after": _finite(after),
        "ratio": _finite(after - before),
        "interval": [_finite(low), _finite(high)],
        "tokens": tokens,
    }


RESAMPLES = 1000


def _finite(logarithm: float) -> float | None:
    """Return exp of a logarithm; None where that is no number that JSON has."""
    return math.exp(logarithm) if math.isfinite(logarithm) and logarithm < 700 else None
