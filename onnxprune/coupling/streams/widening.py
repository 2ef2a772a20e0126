"""Streams that are outputs of the model: read through a matrix that is the identity, so that they may become narrower than the output.

An output keeps its width, and with it, where it is a residual stream or the norm of one, every layer of a network. Behind ``y I`` the
output keeps its width while ``y`` loses channels: rows of the matrix go, the repair fits those that stay to the dense outputs, a
rotation turns them back. A matrix that is the identity still is taken out again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.coupling.groups import Analysis, groups_on
from onnxprune.coupling.links import FREE, Links
from onnxprune.model.graph import Graph, Names, Node, forget_values
from onnxprune.model.model import Model, Widening
from onnxprune.model.surgeon import Splicer

WORTH = 0.1
"""What the matrices of a stream may cost at most, of the MACs that are free to go through them."""
BARE_NORMS = frozenset({"LpNormalization"})
INSIDE = frozenset(
    {
        "Abs", "Add", "Cast", "Clip", "Expand", "Identity", "Max", "Mul", "Pow", "ReduceL2", "ReduceSum", "ReduceSumSquare", "Reshape",
        "Sqrt", "Unsqueeze",
    }
)  # fmt: skip
"""Operators of a length that a value is divided by."""
MULTIPLIED = {1: np.float32, 10: np.float16, 11: np.float64}
"""Element types that runtimes multiply, by their numbers."""
WIDENING = "widening"


class Outlet(NamedTuple):
    """A value ``value`` that an output of the model is, or is with its length made one by ``norm``, and the axis of its channels."""

    value: str
    axis: int
    norm: frozenset[Node]


def outlets(analysis: Analysis) -> list[Outlet]:
    """Return where a model gives out a stream: channels that statistics are taken over, and that nothing holds but the output."""
    facts, links = analysis.facts, analysis.solution.links
    labels, reasons = analysis.solution.labels, analysis.solution.reasons
    normed = {
        int(label)
        for index, (_, spec) in enumerate(links.specs)
        for letter in spec.statistics
        for label in labels[links.letter(index, letter)]
    }
    found: dict[str, Outlet] = {}
    for output in facts.graph.outputs:
        value, norm = _before_norm(output, facts.graph)
        shape, maker = facts.shape(value) or (), facts.graph.producer.get(value)
        users = [node for node, _ in facts.graph.consumers.get(value, ())]
        at_top = maker in facts.graph.top and all(node in facts.graph.top for node in users)
        if maker is None or not at_top or facts.dtype(value) not in MULTIPLIED:
            continue
        for axis in _readable(len(shape)):
            own = labels[links.axis(value, axis)]
            held = {links.barriers[reason].kind if reason != FREE else "" for reason in reasons[own].tolist()}
            if shape[axis] > 1 and held == {"output"} and normed.issuperset(own.tolist()):
                found.setdefault(value, Outlet(value, axis, norm))
                break
    return list(found.values())


def _readable(rank: int) -> list[int]:
    """Return the axes that a matrix or a convolution over single places reads."""
    return [axis for axis, there in ((rank - 1, rank >= 2), (1, 3 <= rank <= 5)) if there]


def _before_norm(output: str, graph: Graph) -> tuple[str, frozenset[Node]]:
    """Return what an output is before its length is made one, and the nodes that do that."""
    node = graph.producer.get(output)
    if node is not None and node.op in BARE_NORMS:
        return node.input(0), frozenset([node])
    if node is None or node.op != "Div":
        return output, frozenset()
    value, length = node.input(0), node.input(1)
    nodes, todo, met = {node}, [length], False
    while todo:
        name = todo.pop()
        maker = graph.producer.get(name)
        met = met or name == value
        if name == value or name in graph.tensors or maker in nodes or (maker is not None and maker.op == "Shape"):
            continue
        if maker is None or maker.op not in INSIDE:
            return output, frozenset()
        nodes.add(maker)
        todo += [source for source in maker.inputs if source]
    return (value, frozenset(nodes)) if met else (output, frozenset())


def widened(model: Model, links: Links, chosen: Collection[Outlet]) -> Model:
    """Return the model in which these values are read through an identity matrix by what gives them out."""
    graph = Graph(model.draft())
    names = Names(graph.model.graph)
    splicer, added = Splicer(graph, names), list[Widening]()
    same = {id(old.proto): new for old, new in zip(links.facts.graph.nodes, graph.nodes, strict=True)}
    for outlet in chosen:
        value, norm = outlet.value, {same[id(node.proto)] for node in outlet.norm}
        narrow = names.fresh(f"{value}/narrow")
        maker = graph.producer[value]
        number = maker.outputs.index(value)
        for node in graph.nodes:
            for place, name in enumerate(node.proto.input):
                if name == value and node not in norm:
                    node.proto.input[place] = narrow
        maker.proto.output[number] = narrow
        part = _matrix(narrow, outlet, links)
        splicer.after(maker, part)
        matrix, shift = (t for node in part.nodes for t in node.inputs if isinstance(t, gs.Constant))
        added.append(Widening(value, matrix.name, shift.name))
    splicer.carry_out()
    return model.derived(graph.model, widened=(*model.widened, *added))


def _matrix(narrow: str, outlet: Outlet, links: Links) -> gs.Graph:
    """Return the operators that make a value of its narrow form: a product and a shift."""
    value, axis, facts = outlet.value, outlet.axis, links.facts
    shape = facts.shape(value) or ()
    kind = MULTIPLIED[facts.dtype(value)]
    identity, zeros = np.eye(shape[axis], dtype=kind), np.zeros(shape[axis], kind)
    source, result = gs.Variable(narrow), gs.Variable(value)
    weight = gs.Constant(f"{value}/{WIDENING}", identity)
    shift = gs.Constant(f"{value}/{WIDENING}_shift", zeros)
    if axis < len(shape) - 1:
        weight.values = identity.reshape(*identity.shape, *[1] * (len(shape) - 2))
        node = gs.Node("Conv", f"{value}/{WIDENING}", inputs=[source, weight, shift], outputs=[result])
        return gs.Graph([node], outputs=[result])
    product = gs.Variable(f"{value}/widened")
    nodes = [
        gs.Node("MatMul", f"{value}/{WIDENING}", inputs=[source, weight], outputs=[product]),
        gs.Node("Add", f"{value}/{WIDENING}_shift", inputs=[product, shift], outputs=[result]),
    ]
    return gs.Graph(nodes, outputs=[result])


def worthwhile(analysis: Analysis, chosen: Collection[Outlet]) -> list[Outlet]:
    """Return the outlets whose streams may be cut now, and free many times the MACs that their matrices cost."""
    groups = {outlet: _groups_at(analysis, outlet) for outlet in chosen}
    cost, free = defaultdict[int, int](int), defaultdict[int, int](int)
    added = {one.matrix for one in analysis.facts.model.widened}
    for volume in analysis.macs:
        own = volume.node is not None and not added.isdisjoint(volume.node.inputs)
        for group in {g for slope in volume.slopes for g in slope}:
            nothing = analysis.widths.copy()
            nothing[group] = 0
            spent = volume.at(analysis.widths)
            cost[group] += spent if own else 0
            free[group] += 0 if own else spent - volume.at(nothing)
    return [one for one in chosen if groups[one] and all(cost[g] <= WORTH * free[g] for g in groups[one])]


def _groups_at(analysis: Analysis, outlet: Outlet) -> list[int]:
    weight, read = matrices(analysis)[outlet.value]
    return groups_on(analysis.unit[analysis.solution.links.axis(weight, read)], analysis.starts)


def matrices(analysis: Analysis) -> dict[str, tuple[str, int]]:
    """Return value -> the matrix that it is read through, and the axis of what is read."""
    facts = analysis.facts
    ranks = {one.matrix: len(facts.shape(one.matrix) or ()) for one in facts.model.widened}
    return {one.value: (one.matrix, 0 if ranks[one.matrix] == 2 else 1) for one in facts.model.widened}


def without_identities(small: Model, added: Collection[Widening]) -> Model:
    """Return the model without those of the ``added`` matrices that are the identity still, with the names it had before."""
    graph = Graph(small.draft())
    idle = [one for one in added if one.matrix in graph.tensors and _does_nothing(small, graph, one)]
    if not idle:
        return small
    for one in idle:
        nodes = _nodes_of(graph, one)
        narrow = nodes[0].proto.input[0]
        for names in [field for node in graph.nodes for field in (node.proto.input, node.proto.output)]:
            names[:] = [one.value if name == narrow else name for name in names]
        for node in nodes:
            node.owner.node.remove(node.proto)
    forget_values(graph.model.graph, {name for one in idle for name in (one.matrix, one.shift)})
    return small.derived(graph.model)


def _nodes_of(graph: Graph, one: Widening) -> list[Node]:
    """Return the nodes that multiply and shift, in order: one where a convolution does both."""
    return list(dict.fromkeys(graph.consumers[name][0][0] for name in (one.matrix, one.shift)))


def _does_nothing(model: Model, graph: Graph, one: Widening) -> bool:
    matrix = model.array(graph.tensors[one.matrix])
    if matrix.shape[0] != matrix.shape[1] or one.shift not in graph.tensors:
        return False
    is_identity = np.array_equal(matrix.reshape(matrix.shape[:2]), np.eye(len(matrix), dtype=matrix.dtype))
    return is_identity and not model.array(graph.tensors[one.shift]).any()


__all__ = ["Outlet", "matrices", "outlets", "widened", "without_identities", "worthwhile"]
