"""A session of a model that is too large to be loaded at once: it runs segment by segment, of which one is loaded at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

from onnx import TensorProto, helper

from onnxprune.model.batched import BatchedValues, owned
from onnxprune.model.graph import Graph, made_of_weights
from onnxprune.model.model import Model
from onnxprune.model.segments import model_segments, taken_out, weights_read
from onnxprune.model.weights import Tensor

WHOLE = 1 << 32  # bytes of weights as float32 up to which a model is loaded at once
HELD = 1 << 27  # bytes of weights, as they are stored, of one segment of a larger model
SHARE, PARTS = 2, 16
"""With a limit of memory: the share of it that a model loaded at once may take, and that of one segment."""
ValueNames = tuple[str, ...]
Fed = Mapping[str, Any]
Stage = tuple[list[ValueNames], Iterator[dict[str, Any]]]
"""ValueNames of values that are there together, and these values on one batch after the other."""
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


class _Passage(NamedTuple):
    """What a segment takes and gives, what of all there is by then is shown, and what is read later."""

    takes: tuple[str, ...]
    gives: list[str]
    shown: set[str]
    later: frozenset[str]


class Segmented:
    """Stands in for ONNX Runtime's session of a whole model; ``opened`` loads a part of it, and returns what has to live as long."""

    def __init__(self, model: Model, opened: Callable[[Model], tuple[Any, Any]]):
        self._model, self._opened = model, opened
        graph = Graph(model.structure)
        self._inputs, self._outputs = graph.inputs, [value.name for value in model.structure.graph.output]
        allowed = memory_allowed.get()
        self.held = HELD if allowed is None else allowed // PARTS
        constants = made_of_weights(graph)
        self._segments = model_segments(graph, constants, weights_read(model), self.held, lambda _: 1.0)
        self._made = [{name for node in segment.nodes for name in node.outputs} for segment in self._segments]
        self._made[-1].update(constants)

    def get_inputs(self) -> list[Named]:
        return [Named(name) for name in self._inputs]

    def get_outputs(self) -> list[Named]:
        return [Named(name) for name in self._outputs]

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
        """Return the named outputs in their order."""
        found: dict[str, Any] = {}
        for _, values in self.stages([feeds], [(name,) for name in outputs]):
            for given in values:
                found |= given
        return [found[name] for name in outputs]

    def stages(self, batches: Iterable[Fed], wanted: Iterable[ValueNames]) -> Iterator[Stage]:
        """Run all batches through one segment after the other, see ``Session.stages``."""
        left, made, carried = list(wanted), set(self._inputs), BatchedValues(self.held)
        for segment, own in zip(self._segments, self._made, strict=True):
            made |= own
            due = [names for names in left if made.issuperset(names)]
            left = [names for names in left if names not in due]
            shown, later = set().union(*due), segment.carried.union(*left)
            gives = sorted(own.intersection(later | shown))
            values = self._through(_Passage(segment.takes, gives, shown, later), batches, carried)
            if due:
                yield due, values
            for _ in values:
                pass
            carried.drop([name for name in carried if name not in later])

    def _through(self, passage: _Passage, batches: Iterable[Fed], carried: BatchedValues) -> Iterator[dict[str, Any]]:
        """Yield what is to be shown behind a segment, batch by batch; what is read later is carried on."""
        opened, there = None, set(carried)
        for number, feeds in enumerate(batches):
            known = {name: carried[name][number] for name in there.intersection(passage.shown.union(passage.takes))}
            fresh: dict[str, Any] = {}
            if passage.gives:
                taken = {name: known[name] for name in passage.takes}
                opened = opened or self._open(taken, passage.gives)
                fresh = opened(taken, feeds)
            for name in passage.later.intersection(fresh):
                carried.add(name, fresh[name])
            values = {**feeds, **known, **fresh}
            yield {name: values[name] for name in passage.shown}

    def _open(self, taken: Mapping[str, Any], gives: Sequence[str]) -> Callable[..., dict[str, Any]]:
        """Load what makes some values out of others, and return what runs it."""
        types = {name: helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in taken.items()}
        opened, weights = self._opened(taken_out(self._model, types, gives))
        names = [value.name for value in opened.get_outputs()]
        inputs = [value.name for value in opened.get_inputs()]

        def run(taken: Mapping[str, Any], feeds: Mapping[str, Any]) -> dict[str, Any]:
            given = {name: taken.get(name, feeds.get(name)) for name in inputs}
            assert weights is not None  # ONNX Runtime reads their memory
            return {name: owned(value) for name, value in zip(names, opened.run(names, given), strict=True)}

        return run
