"""Shortcuts of padded channels, in the layout that the convolutions beside them have.

ONNX Runtime computes convolutions with their channels in blocks, and adds in that layout where both operands have it. A ``Pad`` has not:
each sum behind it, down to the last of its residual stream, is then computed in the plain layout, between two reorderings. A
convolution of one position by ones, a channel each, gives what it reads, in blocks.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnxprune.changes.analysing import facts_of
from onnxprune.model.facts import Facts
from onnxprune.model.graph import Names
from onnxprune.model.model import Model
from onnxprune.settings import Settings

LEAST_IR = 4
"""The first version whose stored tensors need not be inputs."""
PICTURE = 4  # axes


def blocked_shortcuts(model: Model, settings: Settings) -> Model:
    """Return a model with such a convolution behind every Pad of pictures that a sum reads; the model itself where there is none."""
    if model.structure.ir_version < LEAST_IR or not any(node.op_type == "Pad" for node in model.structure.graph.node):
        return model
    facts = facts_of(model, settings)
    padded = {node.output[0] for node in model.structure.graph.node if _is_shortcut(node, facts)}
    if not padded:
        return model
    proto = model.draft()
    names, nodes = Names(proto.graph), list(proto.graph.node)
    del proto.graph.node[:]
    for node in nodes:
        result = node.output[0] if node.output else ""
        if result in padded:
            node.output[0] = names.fresh(f"{result}_plain")
        proto.graph.node.append(node)
        if result in padded:
            channels = (facts.shape(result) or ())[1]
            ones = numpy_helper.from_array(np.ones((channels, 1, 1, 1), np.float32), names.fresh(f"{result}_ones"))
            proto.graph.initializer.append(ones)
            read = [proto.graph.node[-1].output[0], ones.name]
            proto.graph.node.append(
                helper.make_node(
                    "Conv", read, [result], name=names.fresh(f"{result}_blocks"), group=channels, kernel_shape=[1, 1]
                )
            )
    return model.derived(proto)


def _is_shortcut(node: NodeProto, facts: Facts) -> bool:
    if node.op_type != "Pad" or node.domain:
        return False
    name = node.output[0]
    shape, readers = facts.shape(name), facts.graph.consumers.get(name, ())
    return (
        facts.dtype(name) == TensorProto.FLOAT
        and len(shape or ()) == PICTURE
        and facts.static(name, 1)
        and any(reader.op == "Add" for reader, _ in readers)
    )
