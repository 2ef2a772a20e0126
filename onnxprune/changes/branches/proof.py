"""The original with a factor in front of every branch, to silence one by: what scores and proofs compare with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import onnx_graphsurgeon as gs
from onnx import ModelProto

from onnxprune.coupling.blocks import Block, Flow
from onnxprune.model.facts import Facts
from onnxprune.model.graph import Graph, Names
from onnxprune.model.surgeon import Splicer


class Switched(NamedTuple):
    """A structure of the model, and the scalars that its branches are multiplied by: name and element type."""

    proto: ModelProto
    switches: tuple[tuple[str, int], ...]


def switched(facts: Facts, flow: Flow, blocks: Sequence[Block]) -> Switched:
    """Put a factor in front of each branch's operand; the factors have still to be given, as inputs or stored."""
    proto = facts.model.draft()
    graph = Graph(proto)
    splicer, switches = Splicer(graph, Names(proto.graph)), []
    for number, block in enumerate(blocks):
        node, switch = graph.top[flow.maker[block.sum.outputs[0]]], splicer.names.fresh(f"branch_{number}")
        scaled = gs.Variable(f"branch_{number}_scaled")
        mul = gs.Node("Mul", inputs=[gs.Variable(block.branch), gs.Variable(switch)], outputs=[scaled])
        splicer.before(node, gs.Graph([mul]))
        node.proto.input[block.operand] = scaled.name
        switches.append((switch, facts.dtype(block.branch)))
    splicer.carry_out()
    return Switched(proto, tuple(switches))
