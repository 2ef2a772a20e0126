"""How much each expert matters: what share of the routing it has on data, or how large its weights are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from onnxprune.changes.experts.find import Expert, ExpertLayer, Mixtures
from onnxprune.coupling.routing import FUSED_EXPERTS, Picker
from onnxprune.criteria import CRITERIA
from onnxprune.criteria.spec import Scoring
from onnxprune.criteria.tensors import WeightReader
from onnxprune.data import Dataset
from onnxprune.data.observe import Batch, Sums, observe
from onnxprune.means import Means
from onnxprune.model.graph import give_out
from onnxprune.model.runtime import Session, session
from onnxprune.model.tensors import FLOATS

MASS = "routing-mass"
POSITIVE = frozenset({"Softmax", "Sigmoid", "Exp", "Softplus", "Relu"})
"""Operators behind which scores are weights; others are exponents of them."""


def routing_mass(mixtures: Mixtures, dataset: Dataset, means: Means, mask: str = "") -> list[np.ndarray]:
    """Return per layer float64[width]: each expert's share of the weights that tokens give to those that they are sent to.

    The weights of a token are normalised to 1, so that the mass of an expert is how often it is picked times the mean share
    it then has. ``mask``: the input that says which tokens count, where there is one. One pass over the data.
    """
    pickers = [picker for layer in mixtures.layers for picker in layer.pickers]
    structure = mixtures.facts.model.draft()
    give_out(structure, (picker.value for picker in pickers))
    opened = session(mixtures.facts.model.derived(structure), threads=means.threads)
    positive = [_is_positive(mixtures, picker) for picker in pickers]

    look = partial(_routed, opened, list(zip(pickers, positive, strict=True)), mask)
    (sums,) = observe(look, dataset, [Sums()], means, "routing")
    by_picker = dict(zip(pickers, sums.totals, strict=True))
    return [_of_layer(mixtures, layer, by_picker) for layer in mixtures.layers]


def _routed(opened: Session, pickers: Sequence[tuple[Picker, bool]], mask: str, batch: Batch) -> list[np.ndarray]:
    found = opened.run(batch.inputs, [picker.value for picker, _ in pickers])
    counts = batch.inputs.get(mask)
    return [_shares(picker, found[picker.value], weights, counts) for picker, weights in pickers]


def _of_layer(mixtures: Mixtures, layer: ExpertLayer, sums: dict[Picker, np.ndarray]) -> np.ndarray:
    total = np.sum([sums[picker][mixtures.numbers(layer)] for picker in layer.pickers], axis=0)
    return np.asarray(total / max(float(total.sum()), 1e-300), np.float64)


def _is_positive(mixtures: Mixtures, picker: Picker) -> bool:
    """Whether scores are weights already when they are picked from."""
    graph, todo, seen = mixtures.facts.graph, [picker.value], set[str]()
    starts = {name for layer in mixtures.layers for name, _ in layer.scores}
    while todo:
        name = todo.pop()
        maker = graph.producer.get(name)
        if name in seen or name in starts or maker is None:
            continue
        seen.add(name)
        if maker.op in POSITIVE:
            return picker.node.op not in FUSED_EXPERTS
        todo += maker.inputs
    return False


def _shares(picker: Picker, scores: np.ndarray, positive: bool, counts: np.ndarray | None) -> np.ndarray:
    """Return float64[positions]: the weights of all tokens, summed up."""
    rows = np.moveaxis(scores, picker.axis, -1).reshape(-1, scores.shape[picker.axis]).astype(np.float64)
    width = rows.shape[1] if picker.count is None else min(picker.count, rows.shape[1])
    picked = np.argsort(-rows, axis=1, kind="stable")[:, :width]
    best = np.take_along_axis(rows, picked, 1)
    weights = np.maximum(best, 0) if positive else np.exp(best - best[:, :1])
    total = weights.sum(axis=1, keepdims=True)
    weights = np.where(total > 0, weights / np.where(total > 0, total, 1), 1 / width)
    if counts is not None and counts.size == len(rows):
        weights = weights * (counts.reshape(-1, 1) != 0)
    return np.bincount(picked.reshape(-1), weights.reshape(-1), rows.shape[1])


# --- by weights alone -----------------------------------------------------------------------------------------------


def magnitudes(mixtures: Mixtures, power: int) -> list[np.ndarray]:
    """Return per layer float64[width]: the norm of order ``power`` of each expert's float weights, what routers score it with left out."""
    facts, found = mixtures.facts, []
    for layer in mixtures.layers:
        totals = np.zeros(layer.width)
        for parameter, axis, units in mixtures.stored_along(layer):
            if facts.dtype(parameter) in FLOATS and len(facts.shape(parameter) or ()) > 1:
                array = np.moveaxis(facts.content(parameter), axis, 0).astype(np.float64)
                sums = (np.abs(array) ** power).reshape(len(array), -1).sum(axis=1)
                np.add.at(totals, units[units >= 0], sums[units >= 0])
        for expert in mixtures.experts_of(layer):
            floats = (name for name in expert.stored if facts.dtype(name) in FLOATS)
            totals[expert.unit] += sum(
                float((np.abs(facts.content(name).astype(np.float64)) ** power).sum()) for name in floats
            )
        found.append(totals ** (1 / power))
    return found


def _random(mixtures: Mixtures, seed: int) -> list[np.ndarray]:
    context = Scoring(mixtures.analysis, WeightReader(mixtures.analysis), seed=seed)
    return [CRITERIA["random"].score(layer.group, context)[0] for layer in mixtures.layers]


BY_WEIGHTS: dict[str, Callable[[Mixtures, int], list[np.ndarray]]] = {
    "l1": lambda mixtures, seed: magnitudes(mixtures, 1),
    "l2": lambda mixtures, seed: magnitudes(mixtures, 2),
    "random": _random,
}
"""Criteria of experts that need no data."""


def relative(layers: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return scores as multiples of the mean of their layer, so that layers can be compared."""
    return [scores / max(float(scores.mean()), 1e-300) for scores in layers]


def of_experts(experts: Sequence[Expert], layers: Sequence[ExpertLayer], scores: Sequence[np.ndarray]) -> np.ndarray:
    """Return float64[experts] of scores that are given by layer."""
    by_layer = dict(zip(layers, scores, strict=True))
    return np.array([by_layer[expert.layer][expert.unit] for expert in experts], np.float64)
