"""Shapes of what operators give that only ONNX Runtime knows, of which the onnx package has no schema: its own domain, and norms
that it writes into the default one.

Sources: ContribOperators.md of ONNX Runtime.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from onnx import TensorProto

from onnxprune.model.graph import Node

Dims = tuple[int, ...]
TypesIn = Sequence[tuple[int, Dims] | None]
"""Element type and shape of each input, None where it is absent."""
TypesOut = list[tuple[int, Dims] | None]
"""The same of each output, None where nothing is known of it."""


def _like_first(node: Node, given: TypesIn) -> TypesOut:
    return [given[0]]


def _normed(node: Node, given: TypesIn) -> TypesOut:
    """Result, mean, deviation, and the sum before."""
    first = given[0]
    assert first is not None
    axis = int(node.attribute("axis", -1)) % max(len(first[1]), 1)
    statistic = (TensorProto.FLOAT, (*first[1][:axis], *[1] * (len(first[1]) - axis)))
    return [first, statistic, statistic, first]


def _rms(node: Node, given: TypesIn) -> TypesOut:
    result, statistic, *_ = _normed(node, given)
    return [result, statistic]


def _product(node: Node, given: TypesIn) -> TypesOut:
    """Rows of the first input times packed weights: [.., N]."""
    first = given[0]
    assert first is not None
    return [(first[0], (*first[1][:-1], int(node.attribute("N"))))]


def _rows(node: Node, given: TypesIn) -> TypesOut:
    """Rows of a packed table that numbers pick, as the type of its scales."""
    table, ids, scales = given[:3]
    assert table is not None and ids is not None and scales is not None
    axis = int(node.attribute("gather_axis", 0)) % len(table[1])
    quantised = int(node.attribute("quantize_axis", 1)) % len(table[1])
    dims = list(table[1])
    if table[0] == TensorProto.UINT8:
        dims[quantised] *= 8 // int(node.attribute("bits", 4))
    return [(scales[0], (*dims[:axis], *ids[1], *dims[axis + 1 :]))]


def _longer(past: tuple[int, Dims] | None, own: Dims, kind: int, axis: int = 2) -> tuple[int, Dims]:
    """A cache behind a run: what it was and what came to it."""
    if past is None:
        return kind, own
    return past[0], (*own[:axis], own[axis] + past[1][axis], *own[axis + 1 :])


def _grouped(node: Node, given: TypesIn) -> TypesOut:
    """Attention of grouped heads: packed or not, with keys and values of the past."""
    heads, keys = int(node.attribute("num_heads")), int(node.attribute("kv_num_heads"))
    first, past = given[0], [given[i] if i < len(given) else None for i in (3, 4)]
    assert first is not None
    kind, (batch, steps, size) = first[0], first[1]
    width = size // (heads + 2 * keys if len(given) < 2 or given[1] is None else heads)
    own = (batch, keys, steps, width)
    grown = [_longer(one, own, kind) for one in past]
    if node.attribute("sliding_window_cache", 0) and None not in past:
        grown = [(one[0], one[1]) for one in past if one is not None]
    return [(kind, (batch, steps, heads * width)), *grown, (kind, (batch, heads, steps, grown[0][1][2]))]


def _multi_head(node: Node, given: TypesIn) -> TypesOut:
    """Attention with queries, keys and values apart: keys [batch, steps, size] or [batch, heads, steps, width]."""
    heads, (first, key, value) = int(node.attribute("num_heads")), (*given[:3], None, None)[:3]
    assert first is not None
    if key is None or value is None or len(first[1]) != 3:
        return [None] * len(node.outputs)
    kind, (batch, steps, size) = first
    split = len(key[1]) == 4
    longest, width, deep = key[1][2 if split else 1], size // heads, value[1][-1] // (1 if split else heads)
    pasts = [given[i] if i < len(given) else None for i in (6, 7)]
    grown = [
        _longer(past, (batch, heads, longest, each), kind) for past, each in zip(pasts, (width, deep), strict=True)
    ]
    return [(kind, (batch, steps, heads * deep)), *grown, (kind, (batch, heads, steps, grown[0][1][2]))]


def _fused(node: Node, given: TypesIn) -> TypesOut:
    """Attention with one packed projection inside; of its cache nothing is said."""
    first, weights = given[0], given[1]
    assert first is not None and weights is not None
    sizes = node.attribute("qkv_hidden_sizes") or [weights[1][1] // 3] * 3
    return [(first[0], (*first[1][:-1], int(sizes[2]))), None]


def _transposed_product(node: Node, given: TypesIn) -> TypesOut:
    one, two = given[:2]
    if one is None or two is None or min(len(one[1]), len(two[1])) < 2:
        return [None]
    flips = [bool(node.attribute(name, 0)) for name in ("transA", "transB")]
    if node.attribute("transBatchA", 0) or node.attribute("transBatchB", 0):
        return [None]
    (rows, _), (_, columns) = (
        (shape[-1], shape[-2]) if flip else (shape[-2], shape[-1])
        for shape, flip in zip((one[1], two[1]), flips, strict=True)
    )
    lead = max(one[1][:-2], two[1][:-2], key=lambda dims: (len(dims), math.prod(dims)))
    return [(one[0], (*lead, rows, columns))]


OWN = "com.microsoft::"
SHAPES: Mapping[str, Callable[[Node, TypesIn], TypesOut]] = {
    **dict.fromkeys(
        (f"{OWN}{op}" for op in ("MoE", "QMoE", "QuickGelu", "FastGelu", "BiasGelu", "Gelu", "RotaryEmbedding")),
        _like_first,
    ),
    "SimplifiedLayerNormalization": _rms,
    f"{OWN}SkipLayerNormalization": _normed,
    f"{OWN}SkipSimplifiedLayerNormalization": _normed,
    f"{OWN}MatMulNBits": _product,
    f"{OWN}GatherBlockQuantized": _rows,
    f"{OWN}GroupQueryAttention": _grouped,
    f"{OWN}MultiHeadAttention": _multi_head,
    f"{OWN}Attention": _fused,
    f"{OWN}FusedMatMul": _transposed_product,
    f"{OWN}TransposeMatMul": _transposed_product,
}
"""Operator -> what its outputs are, from what its inputs are; outputs beyond are not known."""


def contributed(node: Node, given: TypesIn) -> TypesOut | None:
    """Return type and shape of a node's outputs, one each; None where nothing is known of the operator or a shape does not fit."""
    shapes = SHAPES.get(node.op)
    if shapes is None:
        return None
    try:
        found = shapes(node, given)
    except (ValueError, TypeError, IndexError, ZeroDivisionError, AssertionError):
        return None
    return [*found, *[None] * len(node.outputs)][: len(node.outputs)]
