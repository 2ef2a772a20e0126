"""Proof that branches were removed exactly: against the original in which they are multiplied by zero."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from onnx import ModelProto, helper, numpy_helper

from onnxprune.coupling.blocks import Block, Flow
from onnxprune.model.facts import Facts
from onnxprune.model.graph import Names
from onnxprune.model.read import skeleton_without_data
from onnxprune.proof.check import Prover, SurgeryCheck
from onnxprune.proof.inputs import Feeds
from onnxprune.proof.witnesses import of_change


class Switched(NamedTuple):
    """A model without its initializers, and the scalars that its branches are multiplied by: name and element type."""

    proto: ModelProto
    switches: tuple[tuple[str, int], ...]


def switched(facts: Facts, flow: Flow, blocks: Sequence[Block]) -> Switched:
    """Put a factor in front of each branch's operand; the factors have still to be given, as inputs or stored."""
    proto = skeleton_without_data(facts.model.proto)
    names = Names(facts.model.proto.graph)
    nodes = {flow.maker[block.sum.outputs[0]]: proto.graph.node[flow.maker[block.sum.outputs[0]]] for block in blocks}
    before: dict[int, list] = {place: [] for place in nodes}
    switches = []
    for number, block in enumerate(blocks):
        place, switch = flow.maker[block.sum.outputs[0]], names.fresh(f"branch_{number}")
        scaled = names.fresh(f"branch_{number}_scaled")
        before[place].append(helper.make_node("Mul", [block.branch, switch], [scaled]))
        nodes[place].input[block.operand] = scaled
        switches.append((switch, facts.dtype(block.branch)))
    for place in sorted(before, reverse=True):
        for node in before[place]:
            proto.graph.node.insert(place, node)
    return Switched(proto, tuple(switches))


def check_blocks(
    facts: Facts,
    flow: Flow,
    removed: Sequence[Block],
    small: ModelProto,
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
    return Prover(facts, seed=seed, threads=threads, rows=rows).compare(reference, small, of_change(facts, small))
