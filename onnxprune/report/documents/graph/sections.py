"""The picture of a graph as parts of a page: at once where it is small, else a list of blocks that are opened one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from onnxprune.report.documents.graph.blocks import Repeat, blocks, repeats
from onnxprune.report.documents.graph.miniature import miniature
from onnxprune.report.documents.graph.picture import LONGEST_OPERATOR, counted, drawn, look_of, short
from onnxprune.report.visible import visible

AT_ONCE = 44
"""Nodes that are drawn in one picture."""
SHOWN = (10**9, 12, 3, 1)
"""How many of the blocks of a repeat are drawn, for a page that would be too large."""


@dataclass(frozen=True)
class Section:
    """A block, or several that repeat: ``inner``; ``share``: of its MACs, what is left; ``left_out``: blocks that are not drawn."""

    title: str
    told: str
    share: float
    looks: str
    picture: Markup | None = None
    id: str = ""
    inner: tuple[Section, ...] = ()
    left_out: int = 0


@dataclass(frozen=True)
class Picture:
    """The graph of a report; ``whole``: in one piece, where it is small enough, else ``glance``: all nodes without names."""

    whole: Markup | None = None
    glance: Markup | None = None
    sections: tuple[Section, ...] = ()
    looks: tuple[str, ...] = ()
    nodes: int = 0
    left_out: int = 0
    undecided: bool = False
    statuses: Mapping[str, int] = field(default_factory=dict)


def picture_of(report: Mapping[str, Any], level: int = 0, ids: str = "b") -> Picture | None:
    """Return the picture of a report's graph, None where it has none; ``level``: of ``SHOWN``, ``ids``: how ids begin."""
    graph = report.get("graph")
    if not graph or not graph["nodes"]:
        return None
    rows, decided = graph["nodes"], "after" in report
    looks = Counter(look_of(row, decided) for row in rows)
    about: dict[str, Any] = {
        "looks": tuple(dict.fromkeys(looks)),
        "nodes": len(rows),
        "left_out": graph["of"] - len(rows),
        "undecided": not decided,
        "statuses": looks,
    }
    if len(rows) <= AT_ONCE:
        return Picture(drawn(graph, range(len(rows)), f"The graph: {len(rows)} nodes", decided), **about)
    parts = blocks([row["reads"] for row in rows])
    drawer = _Drawer(graph, decided, ids, SHOWN[level])
    found = repeats(parts, [_built(row, number) for number, row in enumerate(rows)])
    sections = tuple(map(drawer.section, found))
    glance = miniature(graph, parts, decided, {start: drawer.name(start) for start in drawer.shown})
    return Picture(glance=glance, sections=sections, **about)


def _built(row: Mapping[str, Any], number: int) -> tuple[Any, ...]:
    near = tuple(number - source for source in row["reads"] if source >= 0 and number - source <= AT_ONCE)
    return row["op"], near


@dataclass
class _Drawer:
    """Draws blocks, at most ``most`` of those that are built alike; ``shown``: where those begin that were drawn."""

    graph: Mapping[str, Any]
    decided: bool
    ids: str
    most: int
    shown: list[int] = field(default_factory=list)

    def name(self, start: int) -> str:
        """Return the id of the block that begins with a node."""
        return f"{self.ids}-{start}"

    def section(self, repeat: Repeat) -> Section:
        drawn_blocks = repeat.blocks[: self.most * repeat.period]
        inner = tuple(map(self._block, drawn_blocks))
        if len(repeat.blocks) == 1:
            return inner[0]
        numbers = [number for block in repeat.blocks for number in block]
        one = [number for block in repeat.blocks[: repeat.period] for number in block]
        title = f"{repeat.times} times: {_operators(self.graph['nodes'], one)}"
        left_out = len(repeat.blocks) - len(inner)
        return Section(title, *self._told(numbers), inner=inner, left_out=left_out)

    def _block(self, block: range) -> Section:
        first, last = (short(self.graph["nodes"][block[at]]) for at in (0, -1))
        title = first if len(block) == 1 else f"{first} … {last}"
        self.shown.append(block.start)
        picture = drawn(self.graph, block, f"{len(block)} nodes, {title}", self.decided)
        return Section(title, *self._told(block), picture, self.name(block.start))

    def _told(self, numbers: Sequence[int]) -> tuple[str, float, str]:
        """Return what is said of some nodes, the share of their MACs that is left, and the look that most of them have."""
        rows = [self.graph["nodes"][number] for number in numbers]
        before, after = (sum(row[f"macs_{when}"] for row in rows) for when in ("before", "after"))
        words = [f"{len(rows)} nodes" if len(rows) != 1 else "1 node"]
        if before:
            words.append(f"{counted(before)} MACs" + (f" to {counted(after)}" if after != before else ""))
        looks = Counter(look_of(row, self.decided) for row in rows if row["status"] is not None)
        words += [f"{count} {name}" for name, count in _named(looks, self.decided)]
        most = max(looks, key=looks.__getitem__, default="plain")
        return " · ".join(words), after / before if before else 1.0, most


def _named(looks: Mapping[str, int], decided: bool) -> Iterator[tuple[str, int]]:
    for look, count in looks.items():
        yield "can be pruned" if look == "pruned" and not decided else look, count


def _operators(rows: Sequence[Mapping[str, Any]], numbers: Sequence[int]) -> str:
    """Name the operators of some nodes, in order, those that repeat once."""
    found = Counter(visible(rows[number]["op"]).rpartition("::")[2][:LONGEST_OPERATOR] for number in numbers)
    return ", ".join(f"{count} {op}" if count > 1 else op for op, count in found.items())
