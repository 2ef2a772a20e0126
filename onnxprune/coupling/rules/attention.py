"""Attention in one operator, and rotary embeddings: heads, width of queries and keys, width of values.

Letters: b batch, s queries, t keys, u keys with the past, p the past, g key heads, r query heads per key head,
d width of queries and keys, e width of values, c parts of a packed axis.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from onnxprune.coupling.edits import Edits, KeptPositions
from onnxprune.coupling.families import aligned
from onnxprune.coupling.spec import Spec, Term, View, parse, rule

TOKENS = "attention is normalised over the tokens"
PACKED = "queries, keys and values of a head go together"


def _finish(spec: Spec, view: View, bias: int | None) -> Spec:
    """Add what all forms share: barred tokens, both products, and the additive bias at input ``bias``."""
    sizes = spec.sizes
    sizes.setdefault("u", sizes.get("t", sizes["s"]))
    if bias is not None and view.has(bias):
        target = [Term((letter,)) for letter in "bsu"]
        target.insert(1, Term(("g", "r")))
        whole = (sizes["b"], sizes["g"] * sizes["r"], sizes["s"], sizes["u"])
        spec.inputs[bias] = aligned(view.shape(bias), target, whole)
    spec.cost, spec.further = tuple("bsugrd"), [tuple("bsugre")]
    return spec.bar([letter for letter in "stpu" if letter in sizes], TOKENS)


def _scale(view: View, cut: KeptPositions, width: int) -> dict[str, float]:
    """The factor 1/sqrt(width) has to be said where the width shrinks but the factor must stay."""
    said = view.attribute("scale", 0.0)
    return {} if said or cut.letter("d") == width else {"scale": 1 / math.sqrt(width)}


def _operands(texts: dict[int, str], count: int) -> str:
    return ",".join(texts.get(i, "") for i in range(count))


def _bound(view: View, inputs: dict[int, str], outputs: list[str], sizes: dict[str, int]) -> Spec:
    """Bind signatures of the inputs that carry positions (all others: none) and of the outputs."""
    shapes = [shape if inputs.get(i) else None for i, shape in enumerate(view.shapes())]
    signature = f"{_operands(inputs, len(shapes))} -> {','.join(outputs[: len(view.node.outputs)])}"
    return parse(signature, shapes, view.out_shapes(), sizes)


# --- the operator of the default domain -----------------------------------------------------------------------------


def _head_counts(view: View) -> tuple[int, int]:
    """Return (query heads, key heads)."""
    if view.rank() == 4:
        return view.shape(0)[1], view.shape(1)[1]
    return int(view.attribute("q_num_heads")), int(view.attribute("kv_num_heads"))


def _attention_edits(view: View, cut: KeptPositions) -> Edits:
    heads, _ = _head_counts(view)
    flat = view.rank() == 3
    edits: dict[str, Any] = _scale(view, cut, view.shape(0)[-1] // (heads if flat else 1))
    if flat:
        edits.update(q_num_heads=cut.letter("g") * cut.letter("r"), kv_num_heads=cut.letter("g"))
    return Edits(edits)


@rule("Attention", family="contraction", rewrite=_attention_edits)
def attention(view: View) -> Spec:
    heads, keys = _head_counts(view)
    sizes = {"g": keys, "r": heads // keys}
    past = {4: "b g p d", 5: "b g p e", 6: "b"}
    if view.rank() == 3:
        sizes["d"] = view.shape(0)[-1] // heads
        texts, out = {0: "b s (g r d)", 1: "b t (g d)", 2: "b t (g e)", **past}, "b s (g r e)"
    else:
        texts, out = {0: "b (g r) s d", 1: "b g t d", 2: "b g t e", **past}, "b (g r) s e"
    spec = _bound(view, texts, [out, "b g u d", "b g u e", "b (g r) s u"], sizes)
    spec.consumes = {"d"}
    return _finish(spec, view, 3)


# --- fused by ONNX Runtime ------------------------------------------------------------------------------------------


def _packed(spec: Spec, view: View, index: int, axis: int, parts: list[tuple[str, ...]]) -> None:
    """Let one axis of an input be several products one after the other, each mentioned on its own."""
    operand = spec.inputs[index]
    assert operand is not None
    start, size = 0, view.shape(index)[axis]
    for number, letters in enumerate(parts):
        width = math.prod(spec.sizes[letter] for letter in letters)
        places = np.full(size, -1)
        places[start : start + width] = np.arange(width)
        start += width
        mention = (*operand[:axis], Term(letters, places), *operand[axis + 1 :])
        if number < len(parts) - 1:
            spec.extra.append((view.node.inputs[index], mention))
        else:
            spec.inputs[index] = mention
    if start != size:
        raise ValueError(f"an axis of {size} does not hold {start} packed positions")


def _packed_edits(view: View, cut: KeptPositions) -> Edits:
    heads = int(view.attribute("num_heads"))
    qk, *_ = _widths(view)
    edits: dict[str, Any] = {"num_heads": cut.letter("g"), **_scale(view, cut, qk // heads)}
    wide, deep = cut.letter("g") * cut.letter("d"), cut.letter("g") * cut.letter("e")
    if wide != deep or view.attribute("qkv_hidden_sizes"):
        edits["qkv_hidden_sizes"] = [wide, wide, deep]
    return Edits(edits)


def _widths(view: View) -> list[int]:
    """Widths of all queries, keys and values in a packed axis."""
    third = view.shape(1)[1] // 3
    return [int(n) for n in view.attribute("qkv_hidden_sizes", [third] * 3)]


@rule("com.microsoft::Attention", family="contraction", rewrite=_packed_edits)
def fused_attention(view: View) -> Spec:
    heads = int(view.attribute("num_heads"))
    qk, keys, v = _widths(view)
    if qk != keys:
        raise ValueError("queries and keys of unequal width")
    sizes = {"g": heads, "r": 1, "c": 2, "d": qk // heads, "e": v // heads, "n": qk + keys + v}
    texts = {0: "b s i", 1: "i n", 2: "n", 4: "two b g p d"}
    spec = _bound(view, texts, ["b s (g e)", "two b g u d"], sizes)
    del spec.sizes["n"]
    for index, axis in ((1, 1), (2, 0)):
        if view.has(index):
            _packed(spec, view, index, axis, [("c", "g", "d"), ("g", "e")])
    spec.roles = {1: "writes", 2: "shifts"}
    spec.consumes, spec.silent = {"d", "i"}, {1: None, 2: None}
    spec.bar("c", PACKED)
    if "two" in spec.sizes:
        spec.bar(["two", "d", "e"], "keys and values share one cache")
    if view.attribute("do_rotary", 0):
        spec.bar("d", "rotated inside the operator")
    spec = _finish(spec, view, 5)
    spec.further += [tuple("bsicgd"), tuple("bsige")]
    return spec


def _multi_head_edits(view: View, cut: KeptPositions) -> Edits:
    width = view.shape(0)[-1] // int(view.attribute("num_heads"))
    return Edits({"num_heads": cut.letter("g"), **_scale(view, cut, width)})


@rule("com.microsoft::MultiHeadAttention", family="contraction", rewrite=_multi_head_edits)
def multi_head_attention(view: View) -> Spec:
    """Keys and values may come as one axis of heads and width, or with an axis of heads of their own."""
    if view.rank() != 3 or not view.has(2):
        raise ValueError("queries, keys and values packed into one tensor")
    heads = int(view.attribute("num_heads"))
    sizes = {"g": heads, "r": 1, "c": 2, "d": view.shape(0)[-1] // heads}
    flat = {1: "b t (g d)", 2: "b t (g e)"} if view.rank(1) == 3 else {1: "b g t d", 2: "b g t e"}
    texts = {0: "b s (g d)", **flat, 3: "n", 6: "b g p d", 7: "b g p e"}
    spec = _bound(view, texts, ["b s (g e)", "b g u d", "b g u e", "b (g r) s u"], sizes)
    if view.has(3):
        del spec.sizes["n"]
        _packed(spec, view, 3, 0, [("c", "g", "d"), ("g", "e")])
    spec.roles = {3: "shifts"}
    spec.consumes, spec.silent = {"d"}, {0: None, 3: None}
    return _finish(spec.bar("c", PACKED), view, 5)


def _grouped_edits(view: View, cut: KeptPositions) -> Edits:
    return Edits({"num_heads": cut.letter("g") * cut.letter("r"), "kv_num_heads": cut.letter("g")})


@rule("com.microsoft::GroupQueryAttention", family="contraction", rewrite=_grouped_edits)
def group_query_attention(view: View) -> Spec:
    """Whole key heads with their query heads, or the same query heads in every group; the width stays."""
    heads, keys = int(view.attribute("num_heads")), int(view.attribute("kv_num_heads"))
    packed = not view.has(1)
    width = view.shape(0)[-1] // (heads + 2 * keys if packed else heads)
    sizes = {"g": keys, "r": heads // keys, "d": width, "e": width}
    texts = {0: "b s n" if packed else "b s (g r d)", 3: "b g p d", 4: "b g p d", 11: "(g r)"}
    if not packed:
        texts.update({1: "b t (g d)", 2: "b t (g d)"})
    spec = _bound(view, texts, ["b s (g r d)", "b g u d", "b g u d", "b (g r) s u"], sizes)
    if packed:
        del spec.sizes["n"]
        _packed(spec, view, 0, 2, [("g", "r", "d"), ("g", "d"), ("g", "d")])
    if view.has(12):
        spec.bar("g", "the cache is quantised")
    return _finish(spec.bar("de", "keys and values share one width"), view, 10)


def _quantised_edits(view: View, cut: KeptPositions) -> Edits:
    return Edits({"num_heads": cut.letter("g")})


@rule("com.microsoft::QAttention", family="contraction", rewrite=_quantised_edits)
def quantised_attention(view: View) -> Spec:
    heads = int(view.attribute("num_heads"))
    width = view.shape(1)[1] // (3 * heads)
    texts = {0: "b s i", 1: "i (c g d)", 2: "(c g d)", 8: "two b g p d"}
    texts.update({i: "(c g d)" for i in (4, 7) if view.shape(i) not in ((), (1,))})
    sizes = {"g": heads, "r": 1, "c": 3, "d": width, "e": width}
    spec = _bound(view, texts, ["b s (g d)", "two b g u d"], sizes)
    spec.roles = {1: "writes", 2: "shifts", 4: "scales", 7: "shifts"}
    spec.silent = {0: 6}
    spec.bar(["c", "d", "e", *(["two"] if "two" in spec.sizes else [])], PACKED)
    spec = _finish(spec, view, None)
    spec.further.append(tuple("bsicgd"))
    return spec


# --- rotary embeddings ----------------------------------------------------------------------------------------------


def _rotary_edits(view: View, cut: KeptPositions) -> Edits:
    new: dict[str, int] = {"num_heads": cut.letter("h"), "rotary_embedding_dim": 2 * cut.letter("k")}
    return Edits({name: value for name, value in new.items() if view.attribute(name, 0)})


@rule("RotaryEmbedding", "com.microsoft::RotaryEmbedding", family="pointwise", rewrite=_rotary_edits)
def rotary(view: View) -> Spec:
    """The two positions k of a rotated pair go together, as does their entry in the tables of angles."""
    cosines, numbers = (1, 3) if view.node.op == "RotaryEmbedding" else (2, 1)
    pairs = view.shape(cosines)[-1]
    flat = view.rank() == 3
    width = _rotary_width(view, pairs)
    whole = width == 2 * pairs
    head = ("k t" if view.attribute("interleaved", 0) else "t k") if whole else "f"
    text = f"b s (h {head})" if flat else f"b h s ({head})"
    table = "m k" if view.rank(cosines) == 2 else "b s k"
    texts = {0: text, cosines: table, cosines + 1: table}
    sizes = {"t": 2, "k": pairs} if whole else {"f": width, "k": pairs}
    counted = view.has(numbers) and view.rank(numbers) < 2
    if view.has(numbers) and not counted:
        texts[numbers] = "b s" if view.shape(numbers)[0] == view.shape(0)[0] else "1 s"
    spec = _bound(view, texts, [text], sizes)
    spec.roles = dict.fromkeys((cosines, cosines + 1), "scales")
    if counted:
        spec.bar("s", "its positions are counted from one number on")
    spec.bar("t" if whole else "fk", "a rotated pair goes together" if whole else "only a part of it is rotated")
    if view.has(numbers) and "m" in spec.sizes:
        spec.bar("m", "its positions are picked by numbers computed elsewhere")
    return spec


def _rotary_width(view: View, pairs: int) -> int:
    """Width of one head."""
    if view.rank() == 4:
        return view.shape(0)[-1]
    heads = int(view.attribute("num_heads", 0))
    return view.shape(0)[-1] // heads if heads else 2 * pairs
