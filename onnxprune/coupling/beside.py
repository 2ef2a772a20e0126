"""Writing what a rule's edits ask for beside a node: operators behind its results, and operators instead of it."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
from onnx import NodeProto, helper, numpy_helper

from onnxprune.coupling.edits import Edits, GraphValue, Operation
from onnxprune.model.graph import Node
from onnxprune.model.surgeon import Splicer

TELLTALE = "pruned"
"""The last part of the names of what a cut adds."""


def splice_in(edits: Edits, node: Node, dtype: int, splicer: Splicer) -> None:
    """Have ``splicer`` put what ``edits`` adds behind a node whose results are of element type ``dtype``.

    What is called as a result of the node before is the final result; values in between get names of their own.
    """
    for number, (op, constant) in edits.results.items():
        _put_behind(node, number, op, constant, dtype, splicer)
    if edits.instead:
        _put_instead(node, edits.instead, splicer)


def _put_behind(node: Node, number: int, op: str, constant: float, dtype: int, splicer: Splicer) -> None:
    name = node.proto.output[number]
    node.proto.output[number] = splicer.names.fresh(f"{name}_of_rest")
    value = np.asarray(constant, helper.tensor_dtype_to_np_dtype(dtype))
    operands = [gs.Variable(node.proto.output[number]), gs.Constant(f"{name}_{op}_{TELLTALE}", value)]
    result = gs.Variable(name)
    added = gs.Node(op, f"{node.label}/{op}_{TELLTALE}", inputs=operands, outputs=[result])
    splicer.after(node, gs.Graph([added], outputs=[result]))


def _put_instead(node: Node, operations: tuple[Operation, ...], splicer: Splicer) -> None:
    """Make the node the first operation, and put the others behind it."""
    old = NodeProto()
    old.CopyFrom(node.proto)
    names: dict[str, str] = {}
    for number, operation in enumerate(operations):
        own = splicer.names.fresh(f"{old.output[0]}_{operation.name}_{TELLTALE}")
        names[operation.name] = own if operation.output is None else old.output[operation.output]
        inputs = [_operand(item, old, names, splicer) for item in operation.inputs]
        output = names[operation.name]
        if number == 0:
            label = f"{node.label}/{operation.op}_{TELLTALE}"
            node.proto.CopyFrom(helper.make_node(operation.op, inputs, [output], label, **operation.attributes))
            continue
        operands, result = [gs.Variable(name) for name in inputs], gs.Variable(output)
        label = f"{node.label}/{operation.op}_{TELLTALE}"
        added = gs.Node(operation.op, label, dict(operation.attributes), inputs=operands, outputs=[result])
        splicer.after(node, gs.Graph([added], outputs=[result]))


def _operand(item: str | int | GraphValue | np.ndarray, old: NodeProto, names: dict[str, str], splicer: Splicer) -> str:
    if isinstance(item, int):
        return old.input[item]
    if isinstance(item, str):
        return names[item]
    if isinstance(item, GraphValue):
        return item.name
    name = splicer.names.fresh(f"{old.output[0]}_{TELLTALE}")
    splicer.store(numpy_helper.from_array(item, name))
    return name
