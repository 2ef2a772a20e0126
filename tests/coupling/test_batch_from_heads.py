"""Heads folded into the batch: however the batch is had back from that axis, heads go, and any batch still runs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper
from support.networks import feeds, network
from support.oracles import analysed, assert_sound, run

HEADS, WIDTH, TOKENS = 4, 3, 5
FOLDED = (
    "wq = %6x12; wk = %6x12; wv = %6x12; wo = %12x4; q = MatMul(x, wq); k = MatMul(x, wk); v = MatMul(x, wv);"
    "qr = Reshape(q, @[-1, 5, 4, 3]); kr = Reshape(k, @[-1, 5, 4, 3]); vr = Reshape(v, @[-1, 5, 4, 3]);"
    "qt = Transpose<perm=[0,2,1,3]>(qr); kt = Transpose<perm=[0,2,3,1]>(kr); vt = Transpose<perm=[0,2,1,3]>(vr);"
    "qb = Reshape(qt, @[-1, 5, 3]); kb = Reshape(kt, @[-1, 3, 5]); vb = Reshape(vt, @[-1, 5, 3]); l = MatMul(qb, kb);"
)
UNFOLDED = (
    "e = Softmax(z); m = MatMul(e, vb); c = Concat<axis=0>(b, @[4, 5, 3]); mr = Reshape(m, c);"
    "mt = Transpose<perm=[0,2,1,3]>(mr); o = Concat<axis=0>(b, @[5, 12]); h = Reshape(mt, o); y = MatMul(h, wo)"
)
SIZE = "s = Shape(m); n = Gather(s, @0);"
BATCHES = {
    "of the input": "s = Shape(x); n = Gather(s, @0); b = Unsqueeze(n, @[0]);",
    "a number, divided": f"{SIZE} d = Div(n, @4); b = Unsqueeze(d, @[0]);",
    "a list of one, divided": "s = Shape(m); n = Gather(s, @[0]); b = Div(n, @[4]);",
    "divided in float": f"{SIZE} f = Cast<to = 1>(n); g = Div(f, @4.); d = Cast<to = 7>(g); b = Unsqueeze(d, @[0]);",
    "divided in float, rounded down": (
        f"{SIZE} f = Cast<to = 1>(n); g = Div(f, @4.); r = Floor(g); d = Cast<to = 7>(r); b = Unsqueeze(d, @[0]);"
    ),
    "times a reciprocal": (
        f"{SIZE} f = Cast<to = 1>(n); i = Reciprocal(@4.); g = Mul(f, i); d = Cast<to = 7>(g); b = Unsqueeze(d, @[0]);"
    ),
    "by the heads of another value": (
        f"{SIZE} t = Shape(qt); j = Gather(t, @1); d = Div(n, j); b = Unsqueeze(d, @[0]);"
    ),
    "by elements": "j = Size(m); d = Div(j, @60); b = Unsqueeze(d, @[0]);",
}
BIASES = {
    "none": "z = Identity(l);",
    "a table, tiled": "t0 = Shape(x); n0 = Slice(t0, @[0], @[1]); r0 = Concat<axis=0>(n0, @[1, 1]); p = Tile(%4x1x5, r0); z = Add(l, p);",
    "a table of one batch, expanded to batch times heads": (
        "t0 = Shape(x); n0 = Gather(t0, @0); f0 = Mul(n0, @4); u0 = Unsqueeze(f0, @[0]); r0 = Concat<axis=0>(u0, @[5, 5]);"
        "p = Expand(%1x5x5, r0); z = Add(l, p);"
    ),
    "picked by numbers expanded to batch times heads": (
        "t0 = Shape(x); n0 = Gather(t0, @0); f0 = Mul(n0, @4); u0 = Unsqueeze(f0, @[0]); r0 = Concat<axis=0>(u0, @[5, 5]);"
        "i0 = @[[0, 1, 2, 3, 4], [1, 0, 1, 2, 3], [2, 1, 0, 1, 2], [3, 2, 1, 0, 1], [4, 3, 2, 1, 0]];"
        "i1 = Unsqueeze(i0, @[0]); p = Expand(i1, r0);"
        "g0 = GatherElements<axis = -1>(l, p); z = Add(l, g0);"
    ),
}


def attention(bias: str, batch: str, size: int | None) -> ModelProto:
    """One layer of attention of a free or fixed batch; ``batch`` stands before its use, which reads the product ``m``."""
    unfolded = UNFOLDED.replace("m = MatMul(e, vb); ", f"m = MatMul(e, vb); {batch} ")
    n = size or "N"
    return network(FOLDED + bias + unfolded, f"float[{n},5,6] x", f"float[{n},5,4] y")


def silent(model: ModelProto, heads: list[int]) -> ModelProto:
    """Return the model whose output layer reads zeros of these heads."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    (weight,) = (tensor for tensor in copy.graph.initializer if tensor.name == "wo")
    content = numpy_helper.to_array(weight).copy()
    content.reshape(HEADS, WIDTH, 4)[heads] = 0
    weight.CopyFrom(numpy_helper.from_array(content, "wo"))
    return copy


@pytest.mark.parametrize("size", [None, 2], ids=["free", "fixed"])
@pytest.mark.parametrize("bias", BIASES.values(), ids=BIASES)
@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
def test_heads_go_at_every_batch(batch: str, bias: str, size: int | None) -> None:
    model = attention(bias, batch, size)
    analysis = analysed(model)
    widths = [(group.width, group.multiplicity) for group in analysis.groups]
    assert (HEADS, WIDTH) in widths, widths
    kept = [
        np.arange(group.width) != 1 if group.width == HEADS else np.ones(group.width, bool) for group in analysis.groups
    ]
    small = assert_sound(analysis, kept)
    for count in (1, 2, 3, 7) if size is None else (size,):
        drawn = feeds(model, free=count)
        np.testing.assert_allclose(run(small, drawn)["y"], run(silent(model, [1]), drawn)["y"], rtol=1e-4, atol=1e-5)
