"""The inner widths of heads: channels between the projections of values and outputs, or of queries and keys, that may share a basis.

With ``V W_o`` also ``(V B) (B^-1 W_o)`` is what a head gives, and with ``Q K^T`` also ``(Q B) (K B^-T)^T`` its scores, for any invertible
``B``: one for every head, or where several heads of queries share keys and values, one for all of these.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from onnxprune.coupling.heads.following import traced
from onnxprune.coupling.heads.tracing import KEYS, VALUES, ChannelPair, ChannelSource, Trace
from onnxprune.coupling.links import Links, components
from onnxprune.model.graph import Node

EACH = "{0!r} ({1}) treats each of its channels differently"


@dataclass(eq=False)
class HeadBlock:
    """Channels that share a basis, by their number among all (``roots``), in order."""

    roots: np.ndarray


@dataclass(eq=False)
class HeadSpace:
    """The heads of one product of computed values; ``reason``: why they cannot be turned ("": they can)."""

    node: Node
    between: str
    heads: int
    width: int
    blocks: list[HeadBlock] = field(default_factory=list)
    reason: str = ""

    @property
    def name(self) -> str:
        return f"{self.between} of {self.node.label}"


class Holders:
    """Which of several arrays of labels hold a channel, by its root."""

    def __init__(self, root: np.ndarray, every: Sequence[np.ndarray]):
        held = [np.unique(root[labels[labels >= 0]]) for labels in every]
        roots = np.concatenate([np.empty(0, np.int64), *held])
        order = np.argsort(roots, kind="stable")
        self.roots, self.numbers = roots[order], np.repeat(np.arange(len(held)), [len(own) for own in held])[order]

    def of(self, block: HeadBlock) -> list[int]:
        """Return the numbers of the arrays that hold a block's first channel."""
        start, stop = np.searchsorted(self.roots, [block.roots[0], block.roots[0] + 1])
        return self.numbers[start:stop].tolist()


@dataclass(eq=False)
class Heads:
    """All inner widths of heads of a model, and where their channels stand.

    ``root``: int64[channels], which channels are turned alike; ``inverse``: bool[channels], which of them by the inverse.
    """

    trace: Trace
    root: np.ndarray
    inverse: np.ndarray
    spaces: list[HeadSpace]

    @property
    def links(self) -> Links:
        return self.trace.links

    @cached_property
    def stored(self) -> frozenset[str]:
        """The stored tensors that channels stand in."""
        return frozenset(source.name for source in self.trace.sources)

    @cached_property
    def holders(self) -> Holders:
        """Which stored tensors hold a block."""
        return Holders(self.root, list(self.trace.sources.values()))

    @cached_property
    def users(self) -> Holders:
        """What is done with a block."""
        return Holders(self.root, [use.channels for use in self.trace.uses])

    def places(self, labels: np.ndarray, block: HeadBlock) -> Mapping[bool, np.ndarray]:
        """Return for each side, plain and inverse, int64[copies, width]: the positions of a block in ``labels``, made flat."""
        flat = labels.reshape(-1)
        known = np.maximum(flat, 0)
        order = np.argsort(block.roots)
        number = np.minimum(np.searchsorted(block.roots[order], self.root[known]), len(order) - 1)
        inside = (flat >= 0) & (block.roots[order][number] == self.root[known])
        found = {}
        for side in (False, True):
            there = np.flatnonzero(inside & (self.inverse[known] == side))
            index = order[number[there]]
            if len(there) and not len(there) % len(order):
                found[side] = there[np.lexsort((there, index))].reshape(len(order), -1).T
        return found

    def sources(self, block: HeadBlock) -> Iterator[tuple[ChannelSource, np.ndarray, Mapping[bool, np.ndarray]]]:
        """Yield every stored tensor that a block stands in, with the labels of it, and where."""
        every = list(self.trace.sources.items())
        for source, labels in (every[number] for number in self.holders.of(block)):
            places = self.places(labels, block)
            if places:
                yield source, labels, places


def heads_of(links: Links) -> Heads:
    """Return the inner widths of the heads of a model, in the order of the nodes."""
    trace = traced(links)
    root, inverse, twisted = _resolved(trace.count, trace.pairs)
    trouble: dict[int, str] = dict.fromkeys(root[twisted].tolist(), "it is multiplied by itself")
    for channels, reason in trace.barred:
        for one in np.unique(root[channels]).tolist():
            trouble.setdefault(one, reason)
    found = Heads(trace, root, inverse, [])
    found.spaces = _spaces(found, trouble)
    return found


def _resolved(count: int, pairs: list[ChannelPair]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (root, whether inverse, whether both at once) of each channel: every channel is two nodes, itself and its inverse."""
    left, right = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for pair in pairs:
        left += [2 * pair.left, 2 * pair.left + 1]
        right += [2 * pair.right + pair.inverse, 2 * pair.right + (not pair.inverse)]
    _, labels = components(2 * count, np.concatenate(left), np.concatenate(right))
    plain, other = labels[0::2], labels[1::2]
    return np.minimum(plain, other), plain > other, plain == other


# --- which channels share a basis -------------------------------------------------------------------------------------


def _spaces(found: Heads, trouble: Mapping[int, str]) -> list[HeadSpace]:
    size = int(found.root.max(initial=-1)) + 1
    marks, heads = np.zeros(size, np.uint64), np.zeros(size, np.uint64)
    owner = np.full(size, -1)
    for number, use in enumerate(found.trace.uses):
        roots = found.root[use.channels]
        hashed = _hash(number, use.keys, found.inverse[use.channels])
        np.add.at(marks, roots, hashed)
        if use.between:
            np.add.at(heads, roots, hashed)
            fresh = roots[owner[roots] < 0]
            owner[fresh] = number
    spaces = []
    for number in np.unique(owner[owner >= 0]).tolist():
        roots = np.flatnonzero(owner == number)
        spaces.append(
            _space(found, number, [roots[heads[roots] == head] for head in _unique(heads[roots])], marks, trouble)
        )
    return _merged(spaces)


def _space(
    found: Heads, number: int, heads: list[np.ndarray], marks: np.ndarray, trouble: Mapping[int, str]
) -> HeadSpace:
    use = found.trace.uses[number]
    space = HeadSpace(use.node, use.between, len(heads), max(map(len, heads)))
    reasons = []
    for head in heads:
        bad = next((trouble[one] for one in head.tolist() if one in trouble), "")
        parts = [head[marks[head] == mark] for mark in _unique(marks[head])]
        good = [part for part in parts if len(part) > 1 and not any(one in trouble for one in part.tolist())]
        space.blocks += map(HeadBlock, good)
        if not good:
            reasons.append(bad or _apart(found, head))
    space.reason = "" if space.blocks else next(filter(None, reasons), "each head is one channel wide")
    return space


def _apart(found: Heads, head: np.ndarray) -> str:
    """Return what treats the channels of one head differently."""
    if len(head) < 2:
        return ""
    uses = found.trace.uses
    for number, use in ((number, uses[number]) for number in found.users.of(HeadBlock(head))):
        roots = found.root[use.channels]
        own = np.zeros(int(found.root.max()) + 1, np.uint64)
        np.add.at(own, roots, _hash(number, use.keys, found.inverse[use.channels]))
        if len(np.unique(own[head])) == len(head):
            return EACH.format(use.node.label, use.node.op)
    return "each of its channels goes a way of its own"


def _merged(spaces: list[HeadSpace]) -> list[HeadSpace]:
    """Return one space for every product and what it is of."""
    found: dict[str, HeadSpace] = {}
    for space in spaces:
        first = found.setdefault(space.name, space)
        if first is not space:
            first.blocks += space.blocks
            first.heads += space.heads
            first.reason = "" if first.blocks else first.reason or space.reason
    return list(found.values())


def _unique(values: np.ndarray) -> list[int]:
    """Return different values in the order in which they come."""
    _, first = np.unique(values, return_index=True)
    return values[np.sort(first)].tolist()


def _hash(number: int, keys: np.ndarray, side: np.ndarray) -> np.ndarray:
    """Return uint64: a random number for every use, key and side (Steele et al. 2014, SplitMix64)."""
    mixed = (np.uint64(number) << np.uint64(34)) + (keys.astype(np.uint64) << np.uint64(1)) + side.astype(np.uint64)
    mixed = (mixed + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


__all__ = ["KEYS", "VALUES", "HeadBlock", "HeadSpace", "Heads", "heads_of"]
