"""Proof that branches were removed exactly: against the original in which they are multiplied by zero."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import onnx_graphsurgeon as gs
from onnx import ModelProto, helper, numpy_helper

from onnxprune.coupling.blocks import Block, Flow
from onnxprune.model.facts import Facts
from onnxprune.model.graph import Graph, Names
from onnxprune.model.model import Model
from onnxprune.model.surgeon import Splicer
from onnxprune.proof.check import Prover, SurgeryCheck
from onnxprune.proof.inputs import Feeds
from onnxprune.proof.witnesses import of_change


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


def check_blocks(
    facts: Facts,
    flow: Flow,
    removed: Sequence[Block],
    small: Model,
    *,
    seed: int = 0,
    threads: int = 1,
    rows: Sequence[Feeds] = (),
) -> SurgeryCheck:
    """Compare ``small`` with the original whose branches ``removed`` are silenced, on drawn inputs and ``rows``."""
    reference, switches = switched(facts, flow, removed)
    for name, dtype in switches:
        zero = np.zeros((), helper.tensor_dtype_to_np_dtype(dtype))
        reference.graph.initializer.append(numpy_helper.from_array(zero, name))
    prover = Prover(facts, seed=seed, threads=threads, rows=rows)
    return prover.compare(facts.model.derived(reference), small, of_change(facts, small))
