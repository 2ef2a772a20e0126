"""What is written of a run that let a decoder's cache become narrower, held to what was proven."""

from __future__ import annotations

import numpy as np

from onnxprune.coupling.caches import narrow_cache
from onnxprune.errors import SurgeryError
from onnxprune.model.facts import Facts
from onnxprune.model.graph import Graph
from onnxprune.model.model import Model
from onnxprune.model.runtime import session
from onnxprune.proof.inputs import next_token_sizes, random_feeds


def as_fed(model: Model, facts: Facts, seed: int = 0, tokens: np.ndarray | None = None) -> Model:
    """Return the model that takes the heads of its cache that stay; raises SurgeryError where it gives other outputs for them.

    ``facts``: of the original, which says what is fed; ``tokens``: the numbers that are taken (None: all).
    """
    if not model.picked:
        return model
    written, graph = narrow_cache(model), Graph(model.structure)
    drawn = {} if tokens is None else {facts.decoding.tokens: tokens}
    feeds = random_feeds(facts, seed, next_token_sizes(facts), integers=drawn)
    picks = {pick.past: pick.numbers for pick in model.picked if pick.numbers in graph.tensors}
    numbers = {name: model.array(graph.tensors[stored]) for name, stored in picks.items()}
    taken = {value.name for value in written.structure.graph.input}
    narrow = {n: np.take(value, numbers[n], 1) if n in numbers else value for n, value in feeds.items() if n in taken}
    one = session(model, optimise=False).run(feeds)
    two = session(written, optimise=False).run(narrow)
    loose = {state.present for state in facts.decoding.caches if state.window}  # of which not all places are written
    for name, value in one.items():
        if (
            name not in loose
            and isinstance(value, np.ndarray)
            and not np.array_equal(value, two[name], equal_nan=value.dtype.kind == "f")
        ):
            raise SurgeryError(f"output {name!r} is another one where the cache comes in narrow; nothing was written")
    return written
