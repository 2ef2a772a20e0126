"""A kind of change in one file: stored matrices are rounded to bfloat16 and cast back where they are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs
from ml_dtypes import bfloat16
from onnx import TensorProto

from onnxprune.changes.change import Change, Space, Takes
from onnxprune.model.graph import Graph, Names
from onnxprune.model.model import Model
from onnxprune.model.surgeon import Splicer


class Rounding(Space[str]):
    """The stored float matrices and kernels of the main graph, by name; what is lost is the relative error of each."""

    kind, name, noun, verb, changed = "bfloat16", "rounded", "tensor", "rounds", "rounded"
    takes: ClassVar[Takes] = {"criterion": ("auto",), "repair": ("auto", "none")}
    aims: ClassVar[tuple[str, ...]] = ("ratio", "size")

    def parts(self) -> Sequence[str]:
        facts = self.context.facts
        return [n for n in facts.model.weights if facts.dtype(n) == TensorProto.FLOAT and len(facts.shape(n) or ()) > 1]

    def scores(self) -> np.ndarray:
        weights = {name: self.context.facts.content(name) for name in self.parts()}
        return np.array([np.linalg.norm(w - _rounded(w)) / max(np.linalg.norm(w), 1e-30) for w in weights.values()])

    def silent(self, change: Change[str]) -> Model:
        return self.context.facts.model.replaced({n: _rounded(self.context.facts.content(n)) for n in change.parts})

    def made(self, change: Change[str]) -> Model:
        facts = self.context.facts
        stored = facts.model.replaced({n: facts.content(n).astype(bfloat16) for n in change.parts})
        structure = stored.draft()
        graph = Graph(structure)
        splicer = Splicer(graph, Names(structure.graph))
        for name in change.parts:
            wide = gs.Variable(f"{name}/float")
            cast = gs.Node("Cast", attrs={"to": TensorProto.FLOAT}, inputs=[gs.Variable(name)], outputs=[wide])
            readers = [node for node, _ in graph.consumers[name]]
            splicer.before(min(readers, key=graph.top.index), gs.Graph([cast]))
            for node in readers:
                node.proto.input[:] = [wide.name if value == name else value for value in node.proto.input]
        splicer.carry_out()
        return stored.derived(structure)


def _rounded(array: np.ndarray) -> np.ndarray:
    return array.astype(bfloat16).astype(np.float32)
