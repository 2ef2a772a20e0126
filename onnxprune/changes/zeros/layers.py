"""What has weights to lose: every stored tensor of floats, or of integers on a grid, that a contraction multiplies by and nothing else reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.spec import Spec
from onnxprune.model.facts import Facts
from onnxprune.model.graph import Graph, Node
from onnxprune.model.lookups import LOOKUPS
from onnxprune.model.read import FLOATS
from onnxprune.repair.finding import as_map
from onnxprune.repair.linear import Linear
from onnxprune.repair.maps import MAX_INPUTS, LinearMap, WeightBlock
from onnxprune.repair.stored import Encoding, Stored
from onnxprune.repair.transposed import Transposed

SHARED = "several nodes read its weight, each in its own way"
COMPUTED = "its weight is computed, or read inside a body"
LOOKED_UP = "its rows are looked up, and nothing is summed over them"
BY_SIZE_ALONE = "it is no product over some axes of a value that is seen"
TOO_WIDE = f"it reads more than {MAX_INPUTS} inputs"


@dataclass(frozen=True, eq=False)
class WeightLayer:
    """A node and a stored tensor that it multiplies by, a ``block`` seen as float[groups, o, d], the ``inputs`` of one tap side by side.

    ``linear``: how it is refitted to data (None: not by one node). ``shared``: how each of several nodes multiplies by it, which it is fitted to together.
    """

    node: Node
    block: WeightBlock
    linear: LinearMap | None = None
    shared: tuple[LinearMap, ...] = ()

    @property
    def name(self) -> str:
        return self.block.name

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.block.shape

    @property
    def by_size(self) -> str:
        """Why data does not choose its weights and refit the others ("": it does)."""
        if self.linear is not None or self.shared:
            return ""
        if self.node.op in LOOKUPS:
            return LOOKED_UP
        return TOO_WIDE if self.shape[2] > MAX_INPUTS else BY_SIZE_ALONE

    @property
    def inputs(self) -> int:
        return self.shape[2] // self.block.taps

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def kernel(self) -> tuple[int, ...]:
        """The taps of a window along each of its axes; none without one."""
        if isinstance(self.linear, Transposed):
            return self.linear.window.kernel
        window = self.linear.window if isinstance(self.linear, Linear) else None
        return window.kernel if window is not None else ()

    def arranged(self, array: np.ndarray) -> np.ndarray:
        """Return [groups, o, d] of an array of anything that is shaped like the stored tensor."""
        return self.block.arranged(array)

    def matrix(self, stored: np.ndarray) -> np.ndarray:
        """Return float64[groups, o, d]: the numbers that the stored tensor stands for."""
        return self.block.read(stored)

    def left(self, mask: np.ndarray, like: np.ndarray) -> np.ndarray:
        """Return bool of the shape of the stored tensor for bool[groups, o, d]."""
        return self.block.laid(mask, like)

    def emptied(self, mask: np.ndarray, like: np.ndarray) -> np.ndarray:
        """Return the stored tensor with zero outside of bool[groups, o, d], as it holds zero."""
        nothing = self.block.encoding.write(np.zeros(like.shape), like)
        return np.where(self.left(mask, like), like, nothing).astype(like.dtype)


def weight_layers(
    analysis: Analysis, tables: bool = False
) -> tuple[tuple[WeightLayer, ...], tuple[tuple[Node, str], ...]]:
    """Return the layers in the order of the nodes, and the nodes that keep their weights with the reason; ``tables``: embeddings too, first."""
    facts = analysis.facts
    graph = Graph(facts.model.structure)
    stored = Stored.of(facts.model, graph)
    found, kept, seen = list[WeightLayer](), list[tuple[Node, str]](), set[str]()
    top = {node.outputs for node in graph.top}
    for node in graph.top if tables else ():
        for layer in _tables(node, stored, facts):
            found.append(layer)
            seen.add(layer.name)
    for node, spec in analysis.solution.links.specs:
        if not spec.cost or node.outputs not in top:
            continue
        linear = as_map(node, stored, facts)
        own = list(_others(node, spec, facts)) if linear is None else _blocks_of(linear)
        for layer in own:
            readers = [reader for reader, _ in graph.consumers[layer.name]]
            whole = layer if len(readers) == 1 else _shared(layer, readers, stored, facts)
            if whole is None:
                kept.append((node, SHARED))
            elif layer.name not in seen:
                found.append(whole)
                seen.add(layer.name)
        if not own and any(name in facts.constants for name in node.inputs if name):
            kept.append((node, COMPUTED))
    return tuple(found), tuple(kept)


def _blocks_of(linear: LinearMap) -> list[WeightLayer]:
    return [WeightLayer(linear.node, block, linear) for block in linear.blocks]


def _shared(layer: WeightLayer, readers: Sequence[Node], stored: Stored, facts: Facts) -> WeightLayer | None:
    """Return the layer of a tensor that several nodes multiply by alike, such as the steps of an unrolled sequence; None where they do not."""
    every = replace(stored, sharing=True)
    maps = [as_map(node, every, facts) for node in readers]
    found = [one for one in maps if isinstance(one, Linear) and one.weight == layer.name]
    alike = {(one.blocks[0].order, one.blocks[0].sizes, one.groups, one.blocks[0].factor) for one in found}
    if len(found) < len(readers) or len(alike) > 1 or len(set(readers)) < len(readers):
        return None
    return WeightLayer(layer.node, found[0].blocks[0], shared=tuple(found))


def _tables(node: Node, stored: Stored, facts: Facts) -> Iterator[WeightLayer]:
    """Yield the stored matrices whose rows a node looks up by computed numbers, and that it alone reads."""
    for lookup in LOOKUPS.get(node.op, ()):
        encoding = stored.encoding(node.input(lookup.table))
        if encoding is None or lookup.ids is None or node.input(lookup.ids) in facts.constants:
            continue
        shape = facts.shape(encoding.name) or ()
        if len(shape) == 2 and lookup.axis_of(node, len(shape)) == 0:
            yield WeightLayer(node, WeightBlock(encoding, shape, ((), (0,), (1,)), along=1))


def _others(node: Node, spec: Spec, facts: Facts) -> Iterator[WeightLayer]:
    """Yield the operands that a node of any other kind sums over: of experts, or of what is wider than is refitted."""
    gone = spec.sinks()
    for number, operand in enumerate(spec.inputs):
        name = node.input(number)
        if operand is None or name not in facts.graph.tensors or facts.dtype(name) not in FLOATS or len(operand) < 2:
            continue
        summed = tuple(axis for axis, term in enumerate(operand) if term.letters and gone.issuperset(term.letters))
        sizes = facts.shape(name) or ()
        d = int(np.prod([sizes[axis] for axis in summed], dtype=np.int64))
        rows = int(np.prod(sizes, dtype=np.int64)) // max(d, 1)
        if summed and d > 1 and rows > 1:
            others = tuple(axis for axis in range(len(sizes)) if axis not in summed)
            along = summed[0] if len(summed) == 1 else None
            order = ((), others, summed)
            yield WeightLayer(node, WeightBlock(Encoding(name), sizes, order, taps=d // sizes[summed[-1]], along=along))
