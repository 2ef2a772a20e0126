"""The reference of a cut: the original with the removed units silenced.

It is built from the original file: wherever a node consumes an axis, the removed positions are set to zero on the way in.
Where a node takes statistics over a cut axis silence cannot hold; there the reference slices that operator itself and puts
zeros back where the positions were.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from onnxprune.coupling.beside import splice_in
from onnxprune.coupling.edits import KeptPositions
from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.kept import Kept
from onnxprune.coupling.readers import axes_with, carriers_of
from onnxprune.coupling.spec import RULES, Spec, View
from onnxprune.model.facts import Shape
from onnxprune.model.graph import Graph, Names, Node
from onnxprune.model.model import Model
from onnxprune.model.surgeon import Splicer

LARGE = 1 << 20  # elements of a stored tensor from which on a value that meets it is silenced instead


def silenced(analysis: Analysis, kept: Sequence[np.ndarray]) -> tuple[Model, tuple[str, ...]]:
    """Return (the original with removed units silenced where they are consumed, lossy nodes that were sliced)."""
    proto = analysis.facts.model.draft()
    builder = _Silencer(analysis, Kept.of(analysis, kept), Graph(proto))
    for index, (node, (_, spec)) in enumerate(
        zip(list(builder.graph.nodes), analysis.solution.links.specs, strict=True)
    ):
        builder.visit(index, node, spec)
    builder.inserted.carry_out()
    return analysis.facts.model.derived(proto), tuple(builder.lossy)


class _Silencer:
    def __init__(self, analysis: Analysis, kept: Kept, graph: Graph):
        self.analysis, self.kept, self.graph = analysis, kept, graph
        self.lossy: list[str] = []
        self.names = Names(graph.model.graph)
        self.splicer = Splicer(graph, self.names)
        self.inserted = self.splicer.inserted

    def visit(self, index: int, node: Node, spec: Spec) -> None:
        cut_letters = {letter for letter in spec.sizes if self.kept.letter(index, letter) is not None}
        sliced = {letter for letter in spec.lossy if letter in cut_letters}
        if sliced:
            self.lossy.append(node.label)
            self._slice_node(node, spec, sliced)
        mean_free = not spec.statistics.isdisjoint(cut_letters) and node.outputs[0] in self.analysis.facts.mean_free
        if mean_free and not spec.consumes:  # over all positions it is zero, whatever is silent further on
            self._as_rewritten(index, node, spec)
            return
        for letter in sorted((spec.sinks() & cut_letters) - sliced):
            self._silence(node, spec, letter)
        if mean_free:
            self._as_rewritten(index, node, spec)

    def _silence(self, node: Node, spec: Spec, letter: str) -> None:
        """Silence the removed positions of a consumed letter on the inputs the signature names, else on the one that costs least."""
        facts = self.analysis.facts
        holders = sorted(
            (self._cost(name, axis), i, axis)
            for i, name, axis in carriers_of(node, spec, letter)
            if i is not None and (not spec.silent or i in spec.silent)
        )
        for _, position, axis in holders if spec.silent else holders[:1]:
            mask = self.kept.mask(node.input(position), axis)
            if mask is not None:
                zero = spec.silent.get(position)
                silence = node.proto.input[zero] if zero is not None and node.input(zero) else ""
                if position in spec.squared:
                    silence = self._insert(node, "Mul", [spec.squared[position]] * 2)
                shape, dtype = facts.shape(node.input(position)) or (), facts.dtype(node.input(position))
                op, operands = self._masked(node.proto.input[position], mask, axis, shape, dtype, silence)
                node.proto.input[position] = self._insert(node, op, operands)

    def _cost(self, name: str, axis: int) -> int:
        """Rank what could be silenced: small tensors, values of which the axis has a fixed size, large tensors, what else there is."""
        facts = self.analysis.facts
        if name in facts.constants:
            return 2 if math.prod(facts.shape(name) or ()) > LARGE else 0
        return 1 if facts.static(name, axis) else 3

    def _as_rewritten(self, index: int, node: Node, spec: Spec) -> None:
        """Write a statistic of what has mean zero as a cut does: a layer norm by its root mean square, in which silence is zeros."""
        original, facts = self.analysis.solution.links.specs[index][0], self.analysis.facts
        whole = KeptPositions(lambda value, axis: None, spec.sizes.__getitem__)
        entry = RULES[node.op]
        assert entry.rewrite is not None
        splice_in(entry.rewrite(View(original, facts), whole), node, facts.dtype(node.outputs[0]), self.splicer)

    def _slice_node(self, node: Node, spec: Spec, letters: set[str]) -> None:
        for position, operand in enumerate(spec.inputs):
            for axis in axes_with(operand, *letters):
                mask = self.kept.mask(node.input(position), axis)
                if mask is not None:
                    kept = self._tensor(np.flatnonzero(mask))
                    node.proto.input[position] = self._insert(
                        node, "Gather", [node.proto.input[position], kept], axis=axis
                    )
        for position, operand in enumerate(spec.outputs):
            axes = [a for a in axes_with(operand, *letters) if self.kept.mask(node.outputs[position], a) is not None]
            if axes:
                self._restore(node, position, axes)

    def _restore(self, node: Node, position: int, axes: list[int]) -> None:
        """Put zeros back where positions were taken out, under the output's own name."""
        facts, value = self.analysis.facts, node.outputs[position]
        shape = facts.shape(value) or ()
        source = node.proto.output[position]
        current = node.proto.output[position] = self.names.fresh(f"{source}_sliced")
        for number, axis in enumerate(axes):
            mask = self.kept.mask(value, axis)
            assert mask is not None
            rank = self._tensor(np.where(mask, np.cumsum(mask) - 1, 0))
            spread = self.names.fresh(f"{source}_spread")
            self.inserted.after(node, helper.make_node("Gather", [current, rank], [spread], axis=axis))
            current = source if number == len(axes) - 1 else self.names.fresh(f"{source}_padded")
            op, operands = self._masked(spread, mask, axis, shape, facts.dtype(value))
            self.inserted.after(node, helper.make_node(op, operands, [current]))

    def _masked(
        self, name: str, mask: np.ndarray, axis: int, shape: Shape, dtype: int, silence: str = ""
    ) -> tuple[str, list[str]]:
        """Operator and inputs that put ``silence`` (a value's name; zero where empty) at the positions that go."""
        along = mask.reshape([-1 if a == axis else 1 for a in range(len(shape))])
        element = helper.tensor_dtype_to_np_dtype(dtype)
        if self.graph.versions.get("", 1) < 9:  # no Where yet, and before opset 7 a Mul needs equal shapes
            whole = tuple(len(mask) if a == axis else n for a, n in enumerate(shape))
            return "Mul", [name, self._tensor(np.broadcast_to(along, whole).astype(element))]
        return "Where", [self._tensor(along), name, silence or self._tensor(np.zeros((), element))]

    def _tensor(self, content: np.ndarray) -> str:
        name = self.names.fresh("silence")
        self.graph.model.graph.initializer.append(numpy_helper.from_array(content, name))
        return name

    def _insert(self, node: Node, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        name = self.names.fresh("silence")
        self.inserted.before(node, helper.make_node(op, inputs, [name], **attributes))
        return name
