"""A model in segments: runs of nodes whose weights fit memory, each taken out, loaded and run by itself, one after the other.

What a segment takes of those before it and gives to those behind it is named by values of the model; another model that has the same
values, such as one that was cut, is taken apart at the same places.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from onnx import TypeProto, ValueInfoProto

from onnxprune.model.graph import Graph, Node, leave_what_makes, names_read
from onnxprune.model.model import Model

SMALLEST = 3  # a segment has at least such a part of the weights that it may have, where it can be ended there


LIGHT = 64
"""A node with less than such a part of it is added to what stands before it."""


@dataclass(frozen=True)
class ModelSegment:
    """``takes``: values of segments before it; ``gives``: what segments behind it read, and outputs of the model that it makes.

    ``carried``: all that segments behind it read of what is there by then.
    """

    nodes: tuple[Node, ...]
    takes: tuple[str, ...]
    gives: tuple[str, ...]
    carried: frozenset[str]


def weights_read(model: Model) -> Callable[[Node], int]:
    """Return what tells how many bytes of a model's weights a node reads."""
    sizes = {name: tensor.nbytes for name, tensor in model.weights.items()}
    return lambda node: sum(sizes.get(name, 0) for name in node.reads())


def model_segments(
    graph: Graph, constants: Collection[str], weight: Callable[[Node], int], limit: int, size: Callable[[str], float]
) -> list[ModelSegment]:
    """Return segments with weights of up to ``limit`` bytes; a single node may have more.

    ``weight``: bytes of weights that a node reads; ``size``: of a value, infinite where it cannot be passed on. A segment ends where
    least is passed on. What is made of weights alone (``constants``) is made anew wherever it is read.
    """
    nodes = [node for node in graph.top if not all(name in constants for name in node.outputs if name)]
    passing = _passing(nodes, {name for node in nodes for name in node.outputs} - set(constants))
    weights, costs = [weight(node) for node in nodes], [sum(map(size, values)) for values in passing[1:]]
    found, begin = [], 0
    while begin < len(nodes):
        end = begin + _end(weights[begin:], limit, costs[begin:])
        part = tuple(nodes[begin:end])
        read, made = (set().union(*names) for names in zip(*((n.reads(), n.outputs) for n in part), strict=True))
        takes, gives = passing[begin] & read, made & (passing[end] | set(graph.outputs))
        found.append(ModelSegment(part, tuple(sorted(takes)), tuple(sorted(gives)), frozenset(passing[end])))
        begin = end
    return found


def _passing(nodes: list[Node], made: set[str]) -> list[set[str]]:
    """Return the values, of those that are ``made`` from inputs, that are there before each place between nodes and read behind it."""
    alive: set[str] = set()
    found = [alive]
    for node in reversed(nodes):
        alive = (alive - set(node.outputs)) | (node.reads() & made)
        found.append(alive)
    return found[::-1]


def _end(weights: list[int], limit: int, costs: list[float]) -> int:
    """Return how many nodes a segment has; ``costs``: of ending it behind each."""
    total, best = 0, 0
    for place, (weight, cost) in enumerate(zip(weights, costs, strict=True)):
        if best and weight * LIGHT > limit and total + weight > limit:
            return best
        total += weight
        if cost < float("inf") and total * SMALLEST >= limit and (not best or cost <= costs[best - 1]):
            best = place + 1
    return len(weights)


def taken_out(model: Model, takes: Mapping[str, int], gives: Collection[str]) -> Model:
    """Return the part of a model that makes some values out of others; ``takes``: element types of these, which may have any shape.

    Inputs of the model stay as far as they are read, and may have any shape too.
    """
    proto = model.draft()
    leave_what_makes(proto, gives, takes)
    graph = proto.graph
    read = set(gives).union(*map(names_read, graph.node))
    proto.ir_version = max(proto.ir_version, 4)  # what is stored need not be declared as an input
    left_out = {header.name for header in model.structure.graph.initializer}.union(takes)
    inputs = [value for value in graph.input if value.name in read - left_out]
    for value in inputs:
        value.type.tensor_type.ClearField("shape")
    inputs += [ValueInfoProto(name=name, type=_of_element(kind)) for name, kind in takes.items() if name in read]
    del graph.input[:], graph.value_info[:]
    graph.input.extend(inputs)
    return model.derived(proto)


def _of_element(kind: int) -> TypeProto:
    return TypeProto(tensor_type=TypeProto.Tensor(elem_type=kind))
