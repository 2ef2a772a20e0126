"""Whether two models differ in nothing but zeros: by what they hold, where neither can be run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import ModelProto

from onnxprune.model.graph import Graph
from onnxprune.model.model import Model
from onnxprune.repair.maps import WeightBlock


def differs_beside_zeros(before: Model, after: Model, masks: Sequence[tuple[WeightBlock, np.ndarray]]) -> str:
    """Return what differs between two models beside zeros outside of masks, bool[groups, o, d] of blocks ("": nothing).

    Nodes, inputs, outputs and opsets are compared as they are written, stored tensors number by number.
    """
    graphs = [Graph(model.structure) for model in (before, after)]
    if _frame(before.structure) != _frame(after.structure) or graphs[0].tensors.keys() != graphs[1].tensors.keys():
        return "nodes, inputs or outputs are other ones"
    known = {block.name: (block, mask) for block, mask in masks}
    for name in graphs[0].tensors:
        same = before.weights.get(name)
        if name not in known and same is not None and same is after.weights.get(name):
            continue
        old, new = (model.array(graph.tensors[name]) for model, graph in zip((before, after), graphs, strict=True))
        if name in known and old.shape == new.shape and old.dtype == new.dtype:
            block, mask = known[name]
            old, new = np.where(mask, block.read(old), 0.0), block.read(new)
        if not np.array_equal(old, new, equal_nan=old.dtype.kind == "f"):
            return f"{name} holds other numbers"
    return ""


def _frame(structure: ModelProto) -> tuple[bytes, ...]:
    """Return all of a model but its stored tensors."""
    graph = structure.graph
    kept = [node for node in graph.node if node.op_type != "Constant" or node.domain]
    names = [f"{node.output[0]}".encode() for node in graph.node if node.op_type == "Constant"]
    parts = [*structure.opset_import, *structure.functions, *graph.input, *graph.output, *kept]
    return (*(part.SerializeToString(deterministic=True) for part in parts), *names)
