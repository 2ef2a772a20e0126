"""Damages to a cut model, each in one of its tensors, and whether the proof sees them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper

from onnxprune.coupling.cut import cut
from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.silence import silenced
from onnxprune.errors import ModelError
from onnxprune.model.graph import Graph
from onnxprune.model.read import Model
from onnxprune.model.runtime import session
from onnxprune.proof.check import Prover
from onnxprune.proof.inputs import random_feeds
from onnxprune.proof.positions import difference
from onnxprune.proof.witnesses import of_cut

ROUNDING = 1e-5  # of a position's own scale: what honest results may differ by
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)


def _rolled(array: np.ndarray, axis: int) -> np.ndarray:
    return np.roll(array, 1, axis)


def _swapped(array: np.ndarray, axis: int) -> np.ndarray:
    order = np.arange(array.shape[axis])
    order[[0, -1]] = order[[-1, 0]]
    return np.take(array, order, axis)


def _dropped(array: np.ndarray, axis: int) -> np.ndarray:
    return np.delete(array, array.shape[axis] // 2, axis)


def _scaled(array: np.ndarray, axis: int) -> np.ndarray:
    result = array.copy()
    result[(slice(None),) * axis + (array.shape[axis] // 2,)] *= result.dtype.type(1.25)
    return result


KINDS = {"roll": _rolled, "swap": _swapped, "drop": _dropped, "scale": _scaled}


@dataclass(frozen=True)
class Damage:
    """One tensor of a model changed along one axis."""

    kind: str
    tensor: str
    axis: int
    model: ModelProto


def damages(small: ModelProto) -> Iterator[Damage]:
    """Yield every kind of damage to every axis of every stored tensor that has two positions or more."""
    for name, tensor in Graph(small).tensors.items():
        if tensor.data_location == TensorProto.EXTERNAL or tensor.data_type == TensorProto.STRING:
            continue
        array = numpy_helper.to_array(tensor)
        for axis in range(array.ndim):
            if array.shape[axis] < 2:
                continue
            for kind, damage in KINDS.items():
                if kind == "scale" and tensor.data_type not in FLOATS:
                    continue
                changed = damage(array, axis)
                if changed.shape == array.shape and np.array_equal(changed, array):
                    continue
                result = ModelProto()
                result.CopyFrom(small)
                target = Graph(result).tensors[name]
                if target.SerializeToString() != tensor.SerializeToString():
                    continue  # a list of numbers in an attribute
                target.CopyFrom(numpy_helper.from_array(changed, target.name))
                yield Damage(kind, name, axis, result)


class Bench:
    """A cut model and its proof, to be damaged."""

    def __init__(self, analysis: Analysis, kept: Sequence[np.ndarray]):
        self.analysis, self.small = analysis, cut(analysis, kept).proto
        self.prover = Prover(analysis.facts)
        self.reference, *_ = silenced(analysis, kept)
        self.witnesses = of_cut(analysis, kept)
        kinds = ("normal", "unit", "image")
        self.feeds = [random_feeds(analysis.facts, 7, kind=kind) for kind in kinds]
        self.honest = self._outputs(self.small)

    def accepts(self, model: ModelProto) -> bool:
        return self.prover.compare(self.reference, self._opened(model), self.witnesses).exact

    def tried(self, random: np.random.Generator, count: int = 2) -> tuple[int, int]:
        """Return how many of some damages, drawn at random, are refused, and how many are not though they do harm."""
        seen = missed = 0
        every = list(damages(self.small))
        for place in random.permutation(len(every))[:count].tolist():
            if self.accepts(every[place].model):
                missed += self.harm(every[place].model) > ROUNDING
            else:
                seen += 1
        return seen, missed

    def harm(self, model: ModelProto) -> float:
        """Return by how much any output changes on inputs that the proof has not seen; infinite where it cannot be run."""
        found = self._outputs(model)
        if found is None or self.honest is None:
            return np.inf if found is None else 0.0
        pairs = zip(self.honest, found, strict=True)
        return max((difference(a[name], b[name]).error for a, b in pairs for name in a), default=0.0)

    def _opened(self, model: ModelProto) -> Model:
        return Model.of(model, self.analysis.facts.model.path)

    def _outputs(self, model: ModelProto) -> list[dict] | None:
        try:
            opened = session(self._opened(model), optimise=False)
            return [opened.run(feed) for feed in self.feeds]
        except ModelError:
            return None
