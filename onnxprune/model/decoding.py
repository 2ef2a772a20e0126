"""What a decoder with a cache is fed and gives: found by what its inputs are used for, since names differ from exporter to exporter.

A cache is an input that attention, or a concatenation, makes longer and gives out again: state that a client carries on from
run to run. With it go a mask over all that is attended to, places, and flags that say whether the cache is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from onnx import ValueInfoProto

from onnxprune.model.graph import Graph, Node

PASTS: Mapping[str, Mapping[int, int]] = {
    "Attention": {4: 1, 5: 2},
    "com.microsoft::GroupQueryAttention": {3: 1, 4: 2},
    "com.microsoft::MultiHeadAttention": {6: 1, 7: 2},
    "com.microsoft::DecoderMaskedMultiHeadAttention": {5: 1, 6: 2},
}
"""Attention with a cache [batch, heads, length, width]: input with the past -> output with what it is now."""
OWN = "com.microsoft::"
GROUPED = f"{OWN}GroupQueryAttention"
"""Attention that is told by a number how many keys of each sample count: the sum of a mask, which is one from the first key on."""
ROWWISE = frozenset({"Add", "Mul", "Cast", "Clip", f"{OWN}RotaryEmbedding"})
PASSING = frozenset({"Identity", "Cast", "Transpose"})
HEADS, LENGTH, WIDTH = 1, 2, 3


@dataclass(frozen=True)
class PastState:
    """Keys or values of the past, [batch, heads, length, width]: the input ``past``, and the output ``present`` that it becomes.

    ``heads``, ``width``: as attention has them (0: it does not say). ``window``: the length of a cache that does not grow but holds the
    last keys and values alone (0: it grows).
    """

    past: str
    present: str
    heads: int = 0
    width: int = 0
    window: int = 0

    @property
    def sizes(self) -> dict[int, int]:
        """Axis -> size, as far as it is known."""
        return {axis: size for axis, size in ((HEADS, self.heads), (WIDTH, self.width)) if size}


@dataclass(frozen=True)
class Decoding:
    """A decoder's inputs: ``tokens`` (numbers, or embedded ones), ``masks`` over past and new tokens, ``places``, ``flags``.

    ``counted``: masks say by their sum how many keys count, so that they cannot be drawn at random.
    """

    caches: tuple[PastState, ...]
    tokens: str = ""
    masks: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    counted: bool = False

    @property
    def state(self) -> frozenset[str]:
        """The inputs that are caches."""
        return frozenset(cache.past for cache in self.caches)

    @property
    def beside(self) -> tuple[str, ...]:
        """The inputs that follow from the tokens: all others that are known."""
        return (*self.masks, *self.places, *self.flags, *(cache.past for cache in self.caches))

    def past(self, sizes: Mapping[str, Sequence[int]]) -> int:
        """Return how many tokens are cached where inputs have these sizes; 0 where nothing tells."""
        return next((sizes[c.past][LENGTH] for c in self.caches if not c.window and c.past in sizes), 0)

    @cached_property
    def known(self) -> frozenset[str]:
        return frozenset((self.tokens, *self.beside))


NO_DECODER = Decoding(())


def decoding_of(graph: Graph) -> Decoding:
    """Return what a decoder with a cache is fed, ``NO_DECODER`` for any other model."""
    caches = tuple(_caches(graph))
    if not caches:
        return NO_DECODER
    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in graph.model.graph.input if v.name in graph.inputs}
    kinds = {v.name: v.type.tensor_type.elem_type for v in graph.model.graph.input if v.name in graph.inputs}
    past = {cache.past for cache in caches}
    rest = [name for name in graph.inputs if name not in past]
    flags = tuple(name for name in rest if kinds[name] == BOOL and ranks[name] <= 1)
    flat = [name for name in rest if ranks[name] == 2 and name not in flags]
    masks = tuple(name for name in flat if "mask" in name.lower() and "encoder" not in name.lower())
    places = tuple(name for name in flat if "position" in name.lower() and kinds[name] in INTEGERS)
    whole = [name for name in flat if name not in (*masks, *places) and kinds[name] in INTEGERS]
    whole += [name for name in rest if ranks[name] == 3 and "encoder" not in name.lower()]
    tokens = next(iter(whole), "")
    return Decoding(caches, tokens, masks, places, flags, _counts(graph))


BOOL, INTEGERS = 9, frozenset({6, 7})


def _counts(graph: Graph) -> bool:
    return any(node.op == GROUPED for node in graph.nodes)


def _caches(graph: Graph) -> Iterator[PastState]:
    """Yield inputs of four axes that come out longer."""
    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in graph.model.graph.input}
    outputs = {_made(graph, name): name for name in reversed(graph.outputs)}
    for name in graph.inputs:
        for node, found in _longer(graph, name) if ranks.get(name) == 4 else ():
            given = next((outputs[value] for value in _onward(graph, found) if value in outputs), "")
            if given:
                yield PastState(name, given, *_sizes(graph, node))
                break


def _made(graph: Graph, name: str) -> str:
    """Return what an output is before it is passed on as it is."""
    while (node := graph.producer.get(name)) is not None and node.op == "Identity":
        name = node.input(0)
    return name


def _onward(graph: Graph, name: str) -> Iterator[str]:
    """Yield a value and all that it is passed on as, out of bodies of an If too."""
    ends = {end: node.outputs[number] for node, number, end in _ends(graph)}
    todo, seen = [name], {name}
    while todo:
        yield (value := todo.pop())
        following = [node.outputs[0] for node, at in graph.consumers.get(value, ()) if _passes(graph, node, at)]
        following += [ends[value]] if value in ends else []
        todo += [one for one in following if one not in seen]
        seen.update(following)


def _passes(graph: Graph, node: Node, position: int) -> bool:
    """Whether a value is what came in: the same, in another order of its axes or type, or some of its heads."""
    picks = node.op == "Gather" and position == 0 and node.attribute("axis", 0) == HEADS
    return node.op in PASSING or (picks and node.input(1) in graph.tensors)


def _ends(graph: Graph) -> Iterator[tuple[Node, int, str]]:
    for node in graph.nodes:
        for body in node.bodies if node.op == "If" else ():
            for number, end in enumerate(body.outputs):
                yield node, number, end


def _longer(graph: Graph, name: str) -> Iterator[tuple[Node, str]]:
    """Yield what a past becomes, and by which node: what attention gives for it, or what it is joined with behind it."""
    for value in _onward(graph, name):
        for node, position in graph.consumers.get(value, ()):
            given = PASTS.get(node.op, {}).get(position)
            if given is not None and given < len(node.outputs) and node.outputs[given]:
                yield node, node.outputs[given]
            elif node.op == "Concat" and position == 0 and len(node.inputs) == 2 and value not in graph.tensors:
                yield node, node.outputs[0]


def _sizes(graph: Graph, node: Node) -> tuple[int, int, int]:
    """Return the heads and the width of keys, as attention of grouped heads has them (0: it does not say), and its window."""
    if node.op != GROUPED:
        return 0, 0, 0
    heads, keys = int(node.attribute("num_heads", 0)), int(node.attribute("kv_num_heads", 0))
    packed = not node.input(1)
    size, parts = _last_size(graph, node.input(0)), heads + 2 * keys if packed else heads
    window = int(node.attribute("local_window_size", -1)) if node.attribute("sliding_window_cache", 0) else 0
    return keys, size // parts if parts and size % parts == 0 else 0, max(window, 0)


def _last_size(graph: Graph, name: str) -> int:
    """Return the last size of a value, as its layer or the file says (0: neither does)."""
    while (node := graph.producer.get(name)) is not None and node.op in (*ROWWISE, "MatMul", f"{OWN}MatMulNBits"):
        if node.op == f"{OWN}MatMulNBits":
            return int(node.attribute("N", 0))
        weight = graph.tensors.get(node.input(1))
        if weight is not None and len(weight.dims) and node.op != f"{OWN}RotaryEmbedding":
            return int(weight.dims[-1])
        if node.op == "MatMul":
            break
        name = node.input(0)
    return next((_declared_last(v) for v in graph.model.graph.value_info if v.name == name), 0)


def _declared_last(value: ValueInfoProto) -> int:
    dims = value.type.tensor_type.shape.dim
    return int(dims[-1].dim_value) if len(dims) else 0


def lengths(graph: Graph, decoding: Decoding, symbols: Mapping[str, int]) -> dict[str, int]:
    """Return sizes for symbols of free axes, as ``free_dimensions`` names them, that follow from others: all caches are of one length,
    places are those of the tokens, a mask is over both, and attention knows its heads.
    """
    if not decoding.caches or not decoding.tokens:
        return {}
    axes = {value.name: value.type.tensor_type.shape.dim for value in graph.model.graph.input}

    def symbol(name: str, axis: int) -> str:
        dim = axes[name][axis]
        fixed = dim.HasField("dim_value") and dim.dim_value > 0
        return "" if fixed else dim.dim_param or f"{name}:{axis}"

    def size(name: str, axis: int) -> int:
        named = symbol(name, axis)
        return symbols.get(named, 0) if named else int(axes[name][axis].dim_value)

    past, new = next((size(c.past, LENGTH) for c in decoding.caches if not c.window), 0), size(decoding.tokens, 1)
    past = 0 if decoding.flags else past  # the body for runs without a past has no sizes beside one
    wanted = {(cache.past, LENGTH): cache.window or past for cache in decoding.caches}
    wanted |= {(cache.past, axis): size for cache in decoding.caches for axis, size in cache.sizes.items()}
    wanted |= {(name, 1): new for name in decoding.places} | {(name, 1): past + new for name in decoding.masks}
    found = {symbol(*place): length for place, length in wanted.items()}
    return {named: length for named, length in found.items() if named not in ("", symbol(decoding.tokens, 1))}


def one_more(decoding: Decoding, sizes: Mapping[str, tuple[int, ...]], past: int = 5) -> dict[str, tuple[int, ...]]:
    """Return the shapes of inputs for one token behind ``past`` others, from shapes for a run of any length; {} for other models."""
    if not decoding.caches or not decoding.tokens:
        return {}
    growing = [cache.past for cache in decoding.caches if not cache.window]
    past = past if growing else 0
    length = dict.fromkeys(growing, (LENGTH, past)) | dict.fromkeys(decoding.masks, (1, past + 1))
    length |= dict.fromkeys((decoding.tokens, *decoding.places), (1, 1))

    def resized(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        axis, size = length.get(name, (0, 0))
        return tuple(size if at == axis and axis else n for at, n in enumerate(shape))

    return {name: resized(name, shape) for name, shape in sizes.items()}


def consistent(decoding: Decoding, feeds: Mapping[str, np.ndarray], whole: bool = True) -> dict[str, np.ndarray]:
    """Return feeds that a decoder takes: places that count on from the past, flags that say that there is one, and masks of ones
    (``whole``, or where they are counted).
    """
    result = dict(feeds)
    if not decoding.caches:
        return result
    past = decoding.past({name: array.shape for name, array in feeds.items()})
    for name in decoding.masks:
        if name in feeds and (whole or decoding.counted):
            result[name] = np.ones_like(feeds[name])
    for name in decoding.places:
        if name in feeds:
            steps = np.arange(past, past + feeds[name].shape[-1], dtype=feeds[name].dtype)
            result[name] = np.broadcast_to(steps, feeds[name].shape).copy()
    for name in decoding.flags:
        if name in feeds:
            result[name] = np.full_like(feeds[name], past > 0)
    return result
