"""The content of constant values: stored ones as they are, derived ones by running the nodes that make them."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, ValueInfoProto, numpy_helper

from onnxprune.model.facts import Facts
from onnxprune.model.read import Model
from onnxprune.model.runtime import session


def constant_value(facts: Facts, name: str) -> np.ndarray:
    """Return the content of a value in ``facts.constants``; raises ModelError where its nodes cannot be run."""
    if facts.is_parameter(name):
        return facts.content(name)
    wanted, nodes, leaves = [name], [], []
    while wanted:
        value = wanted.pop()
        if value in facts.graph.tensors:
            leaves.append(value)
        elif value and (node := facts.graph.producer[value]) not in nodes:
            nodes.append(node)
            wanted.extend(node.inputs)
    proto = ModelProto(ir_version=facts.model.proto.ir_version, opset_import=facts.model.proto.opset_import)
    proto.graph.name = "constants"
    proto.graph.node.extend(node.proto for node in facts.graph.nodes if node in nodes)
    proto.graph.initializer.extend(
        numpy_helper.from_array(np.ascontiguousarray(facts.content(leaf)), leaf) for leaf in dict.fromkeys(leaves)
    )
    proto.graph.output.append(ValueInfoProto(name=name))
    return np.asarray(session(Model(proto, "", None)).run({})[name])
