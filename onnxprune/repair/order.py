"""What depends on which of the nodes that are fitted in order, and which nodes that change keep their weights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from onnxprune.model.graph import Graph, Node, names_read
from onnxprune.model.tensors import NATIVE_FLOATS

MULTIPLY = frozenset(
    {"Conv", "ConvInteger", "ConvTranspose", "Gemm", "MatMul", "MatMulInteger", "QLinearConv", "QLinearMatMul"}
)


def is_foreign(graph: Graph, node: Node, touched: set[str], constants: Collection[str]) -> bool:
    """Whether a node multiplies what ``touched`` holds by a matrix that is stored in another type than floats."""
    todo = [name for name in node.inputs if name in constants]
    if node.op not in MULTIPLY or not touched.intersection(node.inputs).difference(todo):
        return False
    seen = set(todo)
    while todo:
        name = todo.pop()
        tensor, maker = graph.tensors.get(name), graph.producer.get(name)
        if tensor is not None and len(tensor.dims) > 1 and tensor.data_type not in NATIVE_FLOATS:
            return True
        fresh = {other for other in (maker.inputs if maker else ()) if other} - seen
        todo.extend(sorted(fresh))
        seen |= fresh
    return False


def last_sites(graph: Graph, sites: Sequence[Node]) -> dict[str, int]:
    """Return value -> number of the last of ``sites`` that it depends on, itself included; -1 where it depends on none."""
    numbers = {name: number for number, site in enumerate(sites) for name in site.outputs if name}
    found = dict.fromkeys(graph.inputs, -1)
    for node in graph.top:
        own = max((numbers[name] for name in node.outputs if name in numbers), default=-1)
        before = max((found.get(name, -1) for name in names_read(node.proto)), default=-1)
        found.update((name, max(own, before)) for name in node.outputs if name)
    return found


def ready_at(after: Mapping[str, int], number: int) -> Callable[[str], bool]:
    """Return what tells whether a value depends on sites before ``number`` alone; ``after``: see ``last_sites``."""
    return lambda name: after.get(name, number) < number
