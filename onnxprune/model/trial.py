"""Whether a model runs at the sizes it is to be analysed at: inference knows of no padding, table or step that is too short."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property

import numpy as np

from onnxprune.errors import ModelError
from onnxprune.model.graph import Graph
from onnxprune.model.model import Model
from onnxprune.model.runtime import Session, session
from onnxprune.model.sizes import batch_axes, free_dimensions

LARGEST = 1 << 30
"""Bytes of weights up to which a model is run to find sizes; beyond, inference alone tells."""


class Trial:
    """Runs a model as it stands; it is opened when first asked, and only where more than the batch is free.

    ``refusal``: why it did not run the last time ("" where it did, or cannot be asked).
    """

    def __init__(self, model: Model, graph: Graph):
        self._model, self._graph, self.refusal = model, graph, ""

    def runs(self, feeds: Mapping[str, np.ndarray]) -> bool:
        """Whether the model runs on what is fed; also where that cannot be told."""
        if self._opened is None:
            return True
        try:
            self._opened.run(feeds)
        except ModelError as error:
            self.refusal = str(error)
            return False
        self.refusal = ""
        return True

    @cached_property
    def _opened(self) -> Session | None:
        samples = batch_axes(self._graph)
        inputs = {name for name, _, _ in free_dimensions(self._graph)}
        asked = len(inputs) > 1 or any((name, axis) not in samples for name, axis, _ in free_dimensions(self._graph))
        size = sum(math.prod(w.shape) * 4 for w in self._model.weights.values())
        if not asked or size > LARGEST:
            return None
        try:
            return session(self._model, optimise=False)
        except ModelError:  # an operator that ONNX Runtime lacks: inference alone tells
            return None
