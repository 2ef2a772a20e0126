"""Values that are given from outside instead of being computed, so that two models can be compared that could not be run alike.

What random operators draw is recorded in the original's own run and given to both models. What operators make that ONNX
Runtime does not have is drawn here; the values they read become outputs and are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, TypeProto, helper, numpy_helper

from onnxprune.model.facts import RANDOM_OPS, UNKNOWN, Facts
from onnxprune.model.graph import Graph, Node, give_out, replace_reads
from onnxprune.model.model import Model
from onnxprune.model.weights import Masks

KNOWN_DOMAINS = {"", "com.microsoft", "ai.onnx.ml", "com.ms.internal.nhwc", "com.microsoft.nchwc"}
MasksOf = Callable[[str], Masks]  # of a value, by its name
Values = dict[str, np.ndarray]


def everything(_: str) -> Masks:
    """All positions of every value stay."""
    return {}


def compressed(array: np.ndarray, masks: Mapping[int, np.ndarray]) -> np.ndarray:
    """Return the positions that stay; an axis that is a product with a free size (batch times heads) may have another size."""
    for axis, mask in masks.items():
        array = np.compress(resized(mask, array.shape[axis]), array, axis)
    return array


def resized(mask: np.ndarray, size: int) -> np.ndarray:
    """Return bool[size]: the mask of a product axis when its free factor, the outer or the inner one, has another size.

    Raises ValueError where the mask is that of no such axis.
    """
    count = len(mask)
    if size == count:
        return mask
    for period in (p for p in range(1, count + 1) if count % p == 0):
        if size % period == 0 and np.array_equal(np.tile(mask[:period], count // period), mask):
            return np.tile(mask[:period], size // period)
        if size % period == 0 and np.array_equal(np.repeat(mask[:: count // period], count // period), mask):
            return np.repeat(mask[:: count // period], size // period)
    raise ValueError(f"a mask of {count} positions fits no axis of {size}")


@dataclass(frozen=True)
class StandIns:
    """``foreign``: nodes that are left out of all models; ``random``: outer nodes that draw; ``inner``: those inside bodies."""

    facts: Facts
    foreign: tuple[Node, ...]
    random: tuple[Node, ...]
    inner: tuple[Node, ...]

    @property
    def fixed_sizes(self) -> bool:
        """Whether values are drawn here, in the sizes of the analysis alone."""
        return bool(self.foreign or self.inner)

    @property
    def recorded(self) -> list[str]:
        """Names of what the original's own run draws."""
        return [name for node in self.random for name in node.outputs if name]

    @property
    def unknown(self) -> frozenset[str]:
        """Values that nobody computes: outputs of foreign nodes, in whatever shape."""
        return frozenset(name for node in self.foreign for name in node.outputs if name)

    def original(self, proto: ModelProto, seed: int) -> ModelProto:
        """Return the original as it can be run: without foreign nodes, draws repeatable and given out."""
        result = self._without(proto, self.foreign)
        for node in result.graph.node:
            if node.op_type in RANDOM_OPS and not any(a.name == "seed" for a in node.attribute):
                node.attribute.append(helper.make_attribute("seed", float(seed)))
        give_out(result, self.recorded)
        return result

    def given(self, proto: ModelProto) -> ModelProto:
        """Return a model that takes all stand-ins as inputs."""
        return self._without(proto, (*self.foreign, *self.random))

    def drawn(self, seed: int, masks: MasksOf = everything) -> Values:
        """Return what foreign nodes and draws inside bodies give, without the positions that go."""
        rng = np.random.default_rng([seed, 1])
        found = {}
        for number, node in enumerate(self.inner):
            fact = self.facts.first[node.outputs[0]]
            if fact.shape is not None:
                whole = _like(node.op, rng, fact.shape).astype(helper.tensor_dtype_to_np_dtype(fact.dtype))
                found[_inner_name(number)] = compressed(whole, masks(node.outputs[0]))
        for name in sorted(self.unknown):
            made = self.facts.first.get(name, UNKNOWN)
            if made.shape is not None:
                found[name] = rng.standard_normal(made.shape).astype(helper.tensor_dtype_to_np_dtype(made.dtype or 1))
        return found

    def severed(self, model: Model, values: Mapping[str, np.ndarray]) -> Model:
        """Return a model whose nodes read stored tensors in place of the named values, though it computes them still."""
        if not values:
            return model
        result = model.draft()
        stored = {name: f"onnxprune:severed:{number}" for number, name in enumerate(values)}
        replace_reads(result.graph, stored, outputs=False)
        result.graph.initializer.extend(numpy_helper.from_array(values[name], place) for name, place in stored.items())
        return model.derived(result)

    def _without(self, proto: ModelProto, nodes: tuple[Node, ...]) -> ModelProto:
        if not nodes and not self.inner:
            return proto
        result = ModelProto()
        result.CopyFrom(proto)
        gone = {name for node in nodes for name in node.outputs if name}
        foreign = {name for node in self.foreign for name in node.outputs if name}
        _take_out(result.graph, gone, {name for node in self.foreign for name in node.inputs if name}, foreign)
        for name in sorted(gone):
            fact = self.facts.first.get(name, UNKNOWN)
            if fact.shape is not None or name not in foreign:
                result.graph.input.append(_untyped(name, fact.dtype))
        for number, node in enumerate(self.inner):
            _rename_inner(result, node, _inner_name(number))
            result.graph.input.append(_untyped(_inner_name(number), self.facts.dtype(node.outputs[0])))
        return result


def stand_ins(facts: Facts) -> StandIns:
    """Find what has to be stood in for in a model."""
    foreign: list[Node] = []
    lost: set[str] = set()
    for node in facts.graph.top:
        if node.op.rpartition("::")[0] not in KNOWN_DOMAINS or lost & set(node.inputs):
            foreign.append(node)
            lost.update(name for name in node.outputs if facts.shape(name) is None)
    top = set(facts.graph.top)
    draws = [node for node in facts.graph.nodes if _draws(node, facts)]
    random = tuple(node for node in draws if node in top and node not in foreign)
    return StandIns(facts, tuple(foreign), random, tuple(node for node in draws if node not in top))


def _draws(node: Node, facts: Facts) -> bool:
    """Whether a node's outputs differ from run to run."""
    if node.op == "Dropout" and node.input(2):
        training = facts.array(node.input(2))
        return training is not None and bool(training.all())
    return node.op in RANDOM_OPS


def _like(op: str, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw what an operator might have drawn."""
    if op in ("Bernoulli", "Multinomial"):
        return rng.integers(0, 2, shape)
    return rng.random(shape) if "Uniform" in op else rng.standard_normal(shape)


def _untyped(name: str, dtype: int) -> onnx.ValueInfoProto:
    """An input of an element type and any shape."""
    return onnx.ValueInfoProto(name=name, type=TypeProto(tensor_type=TypeProto.Tensor(elem_type=dtype or 1)))


def _inner_name(number: int) -> str:
    return f"onnxprune:draw:{number}"


def _take_out(graph: GraphProto, gone: set[str], read: set[str], foreign: set[str]) -> None:
    """Delete the nodes that make ``gone``; what foreign ones read is given out, what they make is not."""
    for index in reversed(range(len(graph.node))):
        if gone & set(graph.node[index].output):
            del graph.node[index]
    for index in reversed(range(len(graph.output))):
        if graph.output[index].name in foreign:
            del graph.output[index]
    outputs = {value.name for value in graph.output}
    computed = {name for node in graph.node for name in node.output}
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted((read & computed) - outputs - gone))


def _rename_inner(model: ModelProto, node: Node, name: str) -> None:
    """Take a drawing node out of its body, whose readers then take the value ``name`` from outside."""
    twin = next(n for n in Graph(model).nodes if n.outputs == node.outputs)
    inside = twin.proto.output[0]
    at = next(i for i, proto in enumerate(twin.owner.node) if proto.output == twin.proto.output)
    del twin.owner.node[at]
    replace_reads(twin.owner, {inside: name})
