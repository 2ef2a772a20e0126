"""The content of constant values: stored ones as they are, derived ones by running the nodes that make them."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, ValueInfoProto, numpy_helper

from onnxprune.model.facts import Facts
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
    source = facts.model.structure
    proto = ModelProto(ir_version=source.ir_version, opset_import=source.opset_import)
    proto.graph.name = "constants"
    proto.graph.node.extend(node.proto for node in facts.graph.nodes if node in nodes)
    proto.graph.initializer.extend(
        numpy_helper.from_array(np.ascontiguousarray(facts.content(leaf)), leaf) for leaf in dict.fromkeys(leaves)
    )
    proto.graph.output.append(ValueInfoProto(name=name))
    return np.asarray(session(proto).run({})[name])
