"""Two models in one file: the one runs always, what the other does beyond it in an ``If``, for the samples that a gate names.

What both compute alike is computed once. The gate gives every sample a score; where that of any sample of a batch is above a
stored threshold the ``If`` runs, and ``Where`` takes its results for those samples alone: what comes of a sample does not depend
on the samples beside it, and where none asks for more, nothing more is run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxprune.errors import ModelError
from onnxprune.model.facts import Facts
from onnxprune.model.gated import mark
from onnxprune.model.graph import Graph, Names, give_out, nodes_behind
from onnxprune.model.model import WEIGHT, Model
from onnxprune.model.tensors import FLOATS
from onnxprune.model.weights import Weights

PLAIN_ALONE = "a gate goes around nodes that run always; leave dynamic out"
LEAST_OPSET = 9
"""The first that has ``Where``."""
TAKEN = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT32, TensorProto.INT64, TensorProto.UINT8})
"""Element types that ONNX Runtime's ``Where`` takes."""
BLOCKED = frozenset({"Conv"})
"""Operators that ONNX Runtime writes in blocks of channels, where it finds their weights in the graph of the node itself: a body does not look
around, and a Reshape of what is stored there is folded when the file is loaded."""


@dataclass(frozen=True)
class Passes:
    """``fast``: the model that runs always; ``full``: the one whose answers count where the gate asks for them; plain graphs both."""

    fast: Model
    full: Model

    @cached_property
    def alike(self) -> frozenset[str]:
        """The values of ``full`` that ``fast`` computes under the same names by the same nodes of equal numbers."""
        one, two = Graph(self.fast.structure), Graph(self.full.structure)
        found = set(one.inputs).intersection(two.inputs)
        found |= {name for name in self.full.weights if self._stored_alike(name)}
        for node in two.top:
            ends = [name for name in node.outputs if name]
            twin = one.producer.get(ends[0]) if ends else None
            if twin is not None and found.issuperset(filter(None, node.inputs)) and _same(twin.proto, node.proto):
                found.update(ends)
        return frozenset(found)

    def _stored_alike(self, name: str) -> bool:
        mine, other = self.fast.weights.get(name), self.full.weights[name]
        if mine is None or mine is other:
            return mine is other
        return (
            mine.shape == other.shape and mine.dtype == other.dtype and bool(np.array_equal(mine.read(), other.read()))
        )

    @property
    def gated(self) -> tuple[str, ...]:
        """The outputs that the gate decides on."""
        return tuple(value.name for value in self.full.structure.graph.output if value.name not in self.alike)

    @cached_property
    def further(self) -> tuple[NodeProto, ...]:
        """The nodes of ``full`` that run where the gate asks for it."""
        return tuple(nodes_behind(self.full.structure.graph.node, set(self.gated), self.alike))


def _same(one: NodeProto, other: NodeProto) -> bool:
    """Whether two nodes do the same with values of the same names; what they are called does not matter."""
    plain = []
    for node in (one, other):
        copy = NodeProto()
        copy.CopyFrom(node)
        for label in ("name", "doc_string", "metadata_props"):
            copy.ClearField(label)
        plain.append(copy)
    return plain[0] == plain[1]


def require_gateable(facts: Facts, name: str) -> None:
    """Raise ModelError for a model, ``name``, that cannot be written behind a gate."""
    graph = facts.graph
    held = next((node for node in graph.top if node.bodies), None)
    if held is not None:
        raise ModelError(f"{name}: {held.op} {held.label!r} decides at run time already, and {PLAIN_ALONE}")
    if (opset := graph.versions.get("", 1)) < LEAST_OPSET:
        raise ModelError(
            f"{name} is of opset {opset}, and a gate needs Where, which opset {LEAST_OPSET} has first; export it anew, or leave dynamic out"
        )
    outputs_taken([output for output in graph.outputs if output not in facts.constants], facts)


def outputs_taken(names: Sequence[str], facts: Facts) -> dict[str, tuple[int, int]]:
    """Return gated output -> its element type and number of axes; raises ModelError where it cannot be taken sample by sample."""
    found = {}
    for name in names:
        shape, kind = facts.shape(name), facts.dtype(name)
        reason = ""
        if facts.decoding.caches:
            reason = "is of a decoder, whose cache is fed again"
        elif not of_samples(facts, name):
            reason = "does not begin with the axis of the samples, or the model takes several at a time by its file"
        elif kind not in TAKEN | FLOATS:
            reason = f"holds {TensorProto.DataType.Name(kind).lower()}, which Where does not take"
        if reason or not shape:
            raise ModelError(
                f"the output {name!r} {reason}, and a gate decides on whole samples, one at a time; leave dynamic out"
            )
        found[name] = kind, len(shape)
    return found


def of_samples(facts: Facts, value: str) -> bool:
    """Whether the first axis of a value is that of the samples."""
    shape = facts.shape(value)
    if not shape or value not in facts.second:
        return False
    return not facts.static(value, 0) or shape[0] == facts.batch == 1


class Joining:
    """The one file that two passes become, while it is made."""

    def __init__(self, passes: Passes, kinds: Mapping[str, tuple[int, int]]):
        """``kinds``: gated output -> its element type and how many axes it has."""
        self.passes, self.kinds = passes, kinds
        self.proto = passes.fast.draft()
        self.names = Names(self.proto.graph)
        self.fast = {name: self.names.fresh(f"{name}_fast") for name in passes.gated}
        self._weights = dict(passes.fast.weights)
        for node in self.proto.graph.node:
            _rename(node, self.fast)
        kept = [value for value in self.proto.graph.value_info if value.name not in self.fast]
        del self.proto.graph.value_info[:]
        self.proto.graph.value_info.extend(kept)

    def called(self, name: str) -> str:
        """Return what a value of the fast pass is called in the file."""
        return self.fast.get(name, name)

    def store(self, name: str, array: np.ndarray) -> str:
        """Add a stored tensor and return its name."""
        return self._hold(numpy_helper.from_array(array, self.names.fresh(name)))

    def _hold(self, tensor: TensorProto) -> str:
        graph = self.proto.graph
        graph.initializer.append(tensor)
        if self.proto.ir_version < 4:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
        return tensor.name

    def add(self, op: str, inputs: Sequence[str], base: str, into: GraphProto | None = None, **attributes: Any) -> str:
        """Add a node of one result and return the name of that."""
        node, result = self.names.fresh(base), self.names.fresh(f"{base}_value")
        graph = self.proto.graph if into is None else into
        graph.node.append(helper.make_node(op, list(inputs), [result], name=node, **attributes))
        return result

    def looking(self, features: str) -> Model:
        """Return the fast pass alone, with the ``features`` beside its outputs, which have the names of ``fast``."""
        proto = ModelProto()
        proto.CopyFrom(self.proto)
        kept = [value for value in proto.graph.output if value.name not in self.fast]
        del proto.graph.output[:]
        proto.graph.output.extend(kept)
        give_out(proto, [*self.fast.values(), features])
        return self._model(proto)

    def _model(self, proto: ModelProto) -> Model:
        return replace(self.passes.fast, weights=Weights(self._weights)).derived(proto)

    def guarded(self, scores: str, threshold: float) -> Model:
        """Return the file; ``scores``: float32[samples, 1], those above ``threshold`` ask for the full pass."""
        limit = self.store("gate_threshold", np.array(threshold, np.float32))
        asks = self.add("Greater", [scores, limit], "gate_asks")
        highest = self.add("ReduceMax", [scores], "gate_highest", keepdims=0)
        runs = self.add("Greater", [highest, limit], "gate_runs")
        then = helper.make_graph(self._full_nodes(), self.names.fresh("gate_full"), [], [])
        other = helper.make_graph([], self.names.fresh("gate_fast"), [], [])
        for name, (kind, rank) in self.kinds.items():
            shape = self.store("gate_shape", np.array([-1] + [1] * (rank - 1), np.int64))
            mask = self.add("Reshape", [asks, shape], "gate_mask", then)
            taken = self._taken(mask, (self._full[name], self.fast[name]), kind, then)
            kept = self.add("Identity", [self.fast[name]], "gate_kept", other)
            for body, value in ((then, taken), (other, kept)):
                body.output.append(helper.make_tensor_value_info(value, kind, None))
        node = helper.make_node(
            "If", [runs], list(self.kinds), self.names.fresh("gate"), then_branch=then, else_branch=other
        )
        self.proto.graph.node.append(node)
        mark(self.proto, limit, asks)
        return self._model(self.proto)

    def _taken(self, mask: str, values: Sequence[str], kind: int, then: GraphProto) -> str:
        """Take the first value where the mask says so, else the second; small floats by way of large ones, which changes none."""
        if kind in TAKEN:
            return self.add("Where", [mask, *values], "gate_taken", then)
        wide = [self.add("Cast", [value], "gate_wide", then, to=TensorProto.FLOAT) for value in values]
        return self.add("Cast", [self.add("Where", [mask, *wide], "gate_taken", then)], "gate_narrow", then, to=kind)

    def _full_nodes(self) -> list[NodeProto]:
        """Return the nodes of the full pass under names of their own, and store what they alone read."""
        further = self.passes.further
        self._full = {name: self.names.fresh(f"{name}_full") for node in further for name in node.output if name}
        headers = {tensor.name: tensor for tensor in self.passes.full.structure.graph.initializer}
        read = dict.fromkeys(name for node in further for name in node.input if name in headers)
        own = {name: self._stored(headers[name]) for name in read if name not in self.passes.alike}
        blocked = [node for node in further if node.op_type in BLOCKED]
        inside = dict.fromkeys(name for node in blocked for name in node.input if name in headers)
        held = {name: self._held_inside(headers[name], own.get(name, name)) for name in inside}
        result = list(held.values())
        local = {name: node.output[0] for name, node in held.items()}
        for node in further:
            copy = NodeProto()
            copy.CopyFrom(node)
            copy.name = self.names.fresh(f"{node.name}_full") if node.name else ""
            _rename(copy, self._full | own | (local if node.op_type in BLOCKED else {}))
            result.append(copy)
        return result

    def _held_inside(self, header: TensorProto, stored: str) -> NodeProto:
        """Return what makes of a tensor ``stored`` around a body a constant of the body's own."""
        shape = self.store("gate_sizes", np.array(header.dims, np.int64))
        names = (self.names.fresh(f"{header.name}_{part}") for part in ("held", "held_value"))
        return helper.make_node("Reshape", [stored, shape], [next(names)], name=next(names))

    def _stored(self, header: TensorProto) -> str:
        """Take over a stored tensor of the full pass under a name of its own."""
        copy, name = TensorProto(), self.names.fresh(f"{header.name}_full")
        copy.CopyFrom(header)
        copy.name = name
        for entry in copy.external_data:
            if entry.key == WEIGHT:
                entry.value = name
        self._weights[name] = self.passes.full.weights[header.name]
        return self._hold(copy)


def _rename(node: NodeProto, names: Mapping[str, str]) -> None:
    for values in (node.input, node.output):
        for place, name in enumerate(values):
            if name in names:
                values[place] = names[name]
