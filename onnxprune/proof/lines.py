"""Several models as one, line beside line: what they share is stored once, and laid out for its products once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from heapq import heappop, heappush
from operator import itemgetter
from typing import Any

from onnx import NodeProto, helper

from onnxprune.model.graph import DEFAULT_DOMAINS, Names, names_read, replace_reads
from onnxprune.model.model import Model
from onnxprune.model.weights import Tensor, Weights

OPSET = 15  # from which on a shape can be taken in part, and no axis of size 0 is another's


def merged_lines(models: Sequence[Model]) -> Model:
    """Return one model of several, with the weights that they share once.

    Every other name of the first begins with ``0:``, of the second with ``1:`` and so on.
    """
    result = models[0].draft()
    whole, nodes = result.graph, list[tuple[float, NodeProto]]()
    for items in (whole.node, whole.input, whole.output, whole.initializer):
        del items[:]
    weights: dict[str, Tensor] = {}
    for number, model in enumerate(models):
        part = model.draft().graph
        own = {name for node in part.node for name in node.output if name}.union(value.name for value in part.input)
        own |= {name for name, tensor in model.weights.items() if weights.setdefault(name, tensor) is not tensor}
        new = {name: f"{number}:{name}" for name in own}
        weights |= {new[name]: tensor for name, tensor in model.weights.items() if name in new}
        replace_reads(part, new, outputs=False)
        for node in part.node:
            node.output[:] = [new.get(name, "") for name in node.output]
            node.name = f"{number}:{node.name}" if node.name else ""
        for value in (*part.input, *part.output):
            value.name = new[value.name]
        for header in part.initializer:
            header.name = new.get(header.name, header.name)
            for entry in header.external_data:
                entry.value = header.name
        known = {header.name for header in whole.initializer}
        whole.initializer.extend(header for header in part.initializer if header.name not in known)
        whole.input.extend(part.input)
        whole.output.extend(part.output)
        nodes += [((place + 1) / len(part.node), node) for place, node in enumerate(part.node)]
    whole.node.extend(
        node for _, node in sorted(nodes, key=itemgetter(0))
    )  # what is shared is read at about the same time
    return replace(models[0], weights=Weights(weights)).derived(result)


def with_joined_products(model: Model) -> Model:
    """Let the lines' products with one stored matrix be one product of all their rows, where each line has one.

    The runtime lays a matrix out anew for each of its products, which takes longer than a product of few rows.
    """
    version = next((o.version for o in model.structure.opset_import if o.domain in DEFAULT_DOMAINS), 1)
    if version < OPSET:
        return model
    by_matrix: dict[str, list[int]] = {}
    for place, node in enumerate(model.structure.graph.node):
        if node.op_type == "MatMul" and node.domain in DEFAULT_DOMAINS and _is_matrix(model, node.input[1]):
            by_matrix.setdefault(node.input[1], []).append(place)
    own = model.structure.graph.node
    joined = [places for places in by_matrix.values() if len(places) > 1 and _of_different_lines(own, places)]
    if not joined:
        return model
    result = model.draft()
    nodes, names = list(result.graph.node), Names(result.graph)
    at = {places[-1]: _joined([nodes[place] for place in places], model, names) for places in joined}
    gone = {place for places in joined for place in places}
    every = [new for place, node in enumerate(nodes) for new in at.get(place, () if place in gone else (node,))]
    order = list(_in_order(every))
    if len(order) < len(every):
        return model  # lines that use two matrices in different orders cannot wait for each other
    del result.graph.node[:]
    result.graph.node.extend(order)
    return model.derived(result)


def _is_matrix(model: Model, name: str) -> bool:
    return name in model.weights and len(model.weights[name].shape) == 2


def _of_different_lines(nodes: Sequence[NodeProto], places: Sequence[int]) -> bool:
    return len({nodes[place].output[0].partition(":")[0] for place in places}) == len(places)


def _joined(products: Sequence[NodeProto], model: Model, names: Names) -> list[NodeProto]:
    """Return nodes that give what all these products with one matrix give."""
    matrix = products[0].input[1]
    made: list[NodeProto] = []

    def make(op: str, inputs: Sequence[str], count: int = 1, **attributes: Any) -> list[str]:
        outputs = [names.fresh(f"{matrix}:{op}") for _ in range(count)]
        made.append(helper.make_node(op, inputs, outputs, **attributes))
        return outputs

    rows, columns = (
        make("Constant", [], value_ints=sizes)
        for sizes in ([-1, model.weights[matrix].shape[0]], [model.weights[matrix].shape[1]])
    )
    leads = [make("Shape", [product.input[0]], end=-1) for product in products]
    flat = [make("Reshape", [product.input[0], *rows])[0] for product in products]
    counts = make("Concat", [make("Shape", [name], end=1)[0] for name in flat], axis=0)
    whole = make("MatMul", [*make("Concat", flat, axis=0), matrix])
    parts = make("Split", [*whole, *counts], len(products), axis=0)
    for product, part, lead in zip(products, parts, leads, strict=True):
        shape = make("Concat", [*lead, *columns], axis=0)
        made.append(helper.make_node("Reshape", [part, *shape], product.output, allowzero=1))
    return made


def _in_order(nodes: Sequence[NodeProto]) -> Iterator[NodeProto]:
    """Yield nodes behind those whose values they read, else as they stand; what reads itself in a circle is left out."""
    makers = {name: place for place, node in enumerate(nodes) for name in node.output if name}
    waiting = [{makers[name] for name in names_read(node) if name in makers} for node in nodes]
    readers: list[list[int]] = [[] for _ in nodes]
    for place, read in enumerate(waiting):
        for maker in read:
            readers[maker].append(place)
    ready = [place for place, read in enumerate(waiting) if not read]
    while ready:
        place = heappop(ready)
        yield nodes[place]
        for reader in readers[place]:
            waiting[reader].discard(place)
            if not waiting[reader]:
                heappush(ready, reader)
