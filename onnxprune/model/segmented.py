"""A session of a model that is too large to be loaded at once: it runs segment by segment, of which one is loaded at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np
from onnx import TensorProto, helper

from onnxprune.model.graph import Graph, made_of_weights
from onnxprune.model.model import Model
from onnxprune.model.segments import model_segments, taken_out, weights_read
from onnxprune.model.weights import Tensor

WHOLE = 1 << 32  # bytes of weights as float32 up to which a model is loaded at once
HELD = 1 << 27  # bytes of weights, as they are stored, of one segment of a larger model
SHARE, PARTS = 2, 16
"""With a limit of memory: the share of it that a model loaded at once may take, and that of one segment."""
SEQUENCES = ("Sequence", "Optional", "SplitToSequence")

memory_allowed: ContextVar[int | None] = ContextVar("memory_allowed", default=None)
"""Bytes that the process may take (None: nothing was said); whether a model is loaded at once depends on this and on the model alone."""


def loaded_bytes(model: Model) -> int:
    """Return what the weights of a model take once ONNX Runtime has them as float32, which its CPU computes in."""
    return sum(_wide(tensor) for tensor in model.weights.values())


def _wide(tensor: Tensor) -> int:
    return tensor.nbytes * (2 if tensor.dtype in (TensorProto.FLOAT16, TensorProto.BFLOAT16) else 1)


def runs_in_segments(model: Model) -> bool:
    """Whether a model is too large to be loaded at once; one that passes sequences on is never taken apart."""
    allowed = memory_allowed.get()
    if loaded_bytes(model) <= (WHOLE if allowed is None else allowed // SHARE):
        return False
    return not any(node.op_type.startswith(SEQUENCES) for node in model.structure.graph.node)


class Named(NamedTuple):
    """An input or an output of a model."""

    name: str


class Segmented:
    """Stands in for ONNX Runtime's session of a whole model; ``opened`` loads a part of it, and returns what has to live as long."""

    def __init__(self, model: Model, opened: Callable[[Model], tuple[Any, Any]]):
        self._model, self._opened = model, opened
        graph = Graph(model.structure)
        self._inputs, self._outputs = graph.inputs, [value.name for value in model.structure.graph.output]
        allowed = memory_allowed.get()
        held = HELD if allowed is None else allowed // PARTS
        self._segments = model_segments(graph, made_of_weights(graph), weights_read(model), held, lambda _: 1.0)
        self._made = [{name for node in segment.nodes for name in node.outputs} for segment in self._segments]

    def get_inputs(self) -> list[Named]:
        return [Named(name) for name in self._inputs]

    def get_outputs(self) -> list[Named]:
        return [Named(name) for name in self._outputs]

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
        """Return the named outputs in their order."""
        values, found, wanted = dict(feeds), dict(feeds), set(outputs)
        for segment, made in zip(self._segments, self._made, strict=True):
            gives = sorted(made & (segment.carried | wanted))
            if gives:
                values |= self._given({name: values[name] for name in segment.takes}, gives, feeds)
            found |= {name: values[name] for name in made & wanted}
            values = {name: value for name, value in values.items() if name in segment.carried}
        return [found[name] for name in outputs]

    def _given(self, taken: Mapping[str, Any], gives: Sequence[str], feeds: Mapping[str, Any]) -> dict[str, Any]:
        types = {name: helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in taken.items()}
        opened, _weights = self._opened(taken_out(self._model, types, gives))
        names = [value.name for value in opened.get_outputs()]
        own = {value.name: taken.get(value.name, feeds.get(value.name)) for value in opened.get_inputs()}
        given = dict(zip(names, opened.run(names, own), strict=True))
        return {name: np.array(value) if isinstance(value, np.ndarray) else value for name, value in given.items()}
