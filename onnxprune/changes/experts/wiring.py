"""The nodes of the main graph in their order, how often each value is read, and what is read no more once some of it is bypassed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from onnxprune.model.graph import Graph, Node


class Wiring:
    """``places``: node -> its number. ``idle``: values that nothing reads in the file as it is, which stay."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.places: Mapping[Node, int] = {node: place for place, node in enumerate(graph.top)}
        self._reads = {node: tuple(sorted(node.reads())) for node in graph.top}
        self._counts = Counter(name for names in self._reads.values() for name in names)
        self._maker = {name: node for node in graph.top for name in node.outputs if name}
        ends = set(graph.outputs)
        idle = [node for node in graph.top if all(not self._counts[n] and n not in ends for n in node.outputs if n)]
        self.idle = frozenset(name for node in idle for name in node.outputs if name)
        self._counts.update((*graph.outputs, *self.idle))

    def readers(self, name: str) -> Iterator[Node]:
        """Yield the nodes of the main graph that read a value themselves."""
        yield from (node for node, _ in self.graph.consumers.get(name, ()) if node in self.places)

    def captured(self, name: str) -> bool:
        """Whether a body of a node reads a value, or gives it."""
        return self._counts[name] > len(set(self.readers(name))) + (name in self.graph.outputs) + (name in self.idle)

    def gone(self, instead: Mapping[str, str], left: Mapping[Node, Sequence[int]]) -> set[str]:
        """Return the values and stored tensors that nothing needs once values have others ``instead``, and only some operands are ``left``."""
        counts: Counter[str] = Counter()
        for name in instead:
            counts[name] -= self._counts[name]
            counts[resolved(instead, name)] += self._counts[name]
        for node, places in left.items():
            stays = {node.inputs[place] for place in places}
            counts.subtract(resolved(instead, name) for name in self._reads[node] if name not in stays)
        todo, found = [name for name in counts if self._unread(name, counts)], set[str]()
        while todo:
            name = todo.pop()
            maker = self._maker.get(name)
            if name in found:
                continue
            found.add(name)
            if maker is None or not all(self._unread(n, counts) for n in maker.outputs if n):
                continue
            found.update(n for n in maker.outputs if n)
            read = {maker.inputs[place] for place in left[maker]} if maker in left else self._reads[maker]
            for source in read:
                source = resolved(instead, source)
                counts[source] -= 1
                if self._unread(source, counts):
                    todo.append(source)
        return found

    def _unread(self, name: str, counts: Counter[str]) -> bool:
        return self._counts[name] + counts[name] <= 0


def resolved(instead: Mapping[str, str], name: str) -> str:
    """Return the value that stands for ``name`` in the end."""
    while name in instead:
        name = instead[name]
    return name
