"""Which rows of the data make which value of a model NaN, infinite or too large to take products of."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from onnxprune.errors import DataError, ModelError
from onnxprune.evidence.needs import Need
from onnxprune.evidence.probe import observable
from onnxprune.evidence.rows import by_sample, usable
from onnxprune.means import Means
from onnxprune.model.facts import Facts
from onnxprune.model.read import FLOATS
from onnxprune.model.runtime import Arrays, revealing

LISTED = 8  # rows that a message names


def refusal(
    facts: Facts,
    inputs: Arrays,
    rows: np.ndarray,
    need: Need,
    value: np.ndarray | None = None,
    *,
    limit: float = np.inf,
    means: Means = Means(),
) -> DataError:
    """Return what to tell where ``need.value`` is not ``usable``, with the first such value on the way to it.

    ``rows``: numbers of the samples of ``inputs`` in the data; ``value``: what was found, where not the model's own.
    """
    found = observed_values(facts, [need.value], inputs, means)[need.value] if value is None else value
    parts = by_sample(found, need.axis, len(rows))
    bad = np.array([not usable(part, limit) for part in parts])
    chosen = rows[bad] if len(parts) == len(rows) and bad.any() else rows
    name = _first(facts, inputs, int(bad.argmax()), limit, means) or need.value
    what = "NaN or infinite" if np.isinf(limit) else f"NaN, infinite or beyond {limit:g}"
    return _told(name, chosen, what)


def refusal_of_batch(facts: Facts, inputs: Arrays, rows: np.ndarray, means: Means = Means()) -> DataError | None:
    """Return what to tell about the first value of the model that is NaN or infinite on a batch; None where all are finite."""
    names = _in_order(facts)
    for name, value in observed_values(facts, names, inputs, means).items():
        if not usable(np.asarray(value)):
            parts = value if np.shape(value)[:1] == np.shape(rows) else [value] * len(rows)
            bad = [not usable(np.asarray(part)) for part in parts]
            return _told(name, rows[bad], "NaN or infinite")
    return None


def _in_order(facts: Facts) -> list[str]:
    """Return the float values that can be observed, in the order of the graph."""
    made = {name: place for place, node in enumerate(facts.graph.top) for name in node.outputs}
    floats = [name for name in observable(facts) if facts.dtype(name) in FLOATS]
    return sorted(floats, key=lambda name: (made.get(name, -1), name))


def _told(name: str, rows: np.ndarray, what: str) -> DataError:
    return DataError(
        f"the model's value {name!r} is {what} for data row{'s' * (len(rows) > 1)} {_listed(rows)} "
        "(the first is 0); look at these rows and leave them out, or look at the model's float16 range"
    )


def _first(facts: Facts, inputs: Arrays, row: int, limit: float, means: Means) -> str:
    """Return the first value of the graph that is not usable: for one sample where the model takes one, else for all."""
    names = _in_order(facts)
    one = {name: array[row : row + 1] if array.ndim else array for name, array in inputs.items()}
    for feeds in (one, inputs):
        try:
            values = observed_values(facts, names, feeds, means)
        except ModelError:
            continue
        return next((name for name in names if not usable(np.asarray(values[name], np.float64), limit)), "")
    return ""


def observed_values(
    facts: Facts, names: Iterable[str], inputs: Arrays, means: Means = Means()
) -> dict[str, np.ndarray]:
    """Return values of the model for one feed; raises ModelError where it cannot be run."""
    inner = [name for name in names if name not in inputs]
    found = revealing(facts.model, inner, threads=means.threads).run(inputs, inner)
    return {**{name: inputs[name] for name in names if name in inputs}, **found}


def _listed(numbers: np.ndarray) -> str:
    """Return ``0 to 3`` of a run, else ``1, 5 and 9``; only the first LISTED of many."""
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]} to {numbers[-1]}"
    texts = [*map(str, numbers[:LISTED].tolist()), *([f"{len(numbers) - LISTED} more"] * (len(numbers) > LISTED))]
    return " and ".join(filter(None, [", ".join(texts[:-1]), texts[-1]]))
