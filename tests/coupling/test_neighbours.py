"""What looks at neighbours along the channels is never cut as if that were silence, in whatever way the file writes it.

``w`` writes eight channels, ``v`` reads them. The oracle is made by hand from the original: rows of ``w`` and columns of ``v`` that
go are set to zero, so that what stands between sees and gives zeros.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper
from support.networks import feeds, network
from support.oracles import run

import onnxprune
from onnxprune.errors import TargetError
from onnxprune.report.remedies import remedies

FRAME = "w = %8x3x1x1; b = %8; p = Conv(x, w, b); {}; v = %5x8x1x1; y = Conv(h, v)"
POOLED = "g = GlobalAveragePool(p); "
GATED = "a = Sigmoid(e); h = Mul(p, a)"
SQUARES = "q = Mul(p, p); u = Unsqueeze(q, @[1]); "
DIVIDED = "t = Squeeze(n, @[1]); l = Add(t, @1.); h = Div(p, l)"
TOKENS = "s = Reshape(p, @[2, 8, 16]); "
LAST = "u = Transpose<perm=[0,2,3,1]>(p); "
FIRST = "h = Transpose<perm=[0,3,1,2]>(c)"
PADDED = "d = Pad(p, @[0, 1, 0, 0, 0, 1, 0, 0]); s0 = Slice(d, @[0], @[8], @[1]); s2 = Slice(d, @[2], @[10], @[1]); "

WINDOWS = {  # cut when asked for
    "ECA as 1-D, reshaped": f"{POOLED}u = Reshape(g, @[2, 1, 8]); c = Conv<pads=[1, 1]>(u, %1x1x3); e = Reshape(c, @[2, 8, 1, 1]); {GATED}",
    "ECA as 1-D, reshaped by -1": (
        f"{POOLED}u = Reshape(g, @[0, 1, -1]); c = Conv<pads=[2, 2]>(u, %1x1x5); e = Reshape(c, @[0, -1, 1, 1]); {GATED}"
    ),
    "ECA as 1-D, transposed": (
        f"{POOLED}s = Squeeze(g, @[3]); u = Transpose<perm=[0,2,1]>(s); c = Conv<pads=[1, 1]>(u, %1x1x3); "
        f"t = Transpose<perm=[0,2,1]>(c); e = Unsqueeze(t, @[3]); {GATED}"
    ),
    "ECA as 1-D, dilated": (
        f"{POOLED}u = Reshape(g, @[2, 1, 8]); c = Conv<pads=[2, 2], dilations=[2]>(u, %1x1x3); e = Reshape(c, @[2, 8, 1, 1]); {GATED}"
    ),
    "ECA as 2-D": f"{POOLED}u = Transpose<perm=[0,2,3,1]>(g); c = Conv<pads=[0, 1, 0, 1]>(u, %1x1x1x3); e = Transpose<perm=[0,3,1,2]>(c); {GATED}",
    "ECA as Keras writes it": (
        f"{POOLED}k = Reshape(g, @[2, 8, 1]); t = Transpose<perm=[0,2,1]>(k); u = Unsqueeze(t, @[2]); "
        f"c = Conv<pads=[0, 1, 0, 1]>(u, %1x1x1x3); s = Squeeze(c, @[2]); r = Transpose<perm=[0,2,1]>(s); e = Reshape(r, @[2, 8, 1, 1]); {GATED}"
    ),
    "a convolution over channels, causal": (
        "u = Unsqueeze(p, @[1]); c = Conv<pads=[2, 0, 0, 0, 0, 0]>(u, %1x1x3x1x1); h = Squeeze(c, @[1])"
    ),
    "a depthwise convolution, channels last": f"{LAST}c = Conv<pads=[0, 1, 0, 1], group=4>(u, %4x1x1x3); {FIRST}",
    "response norm": "h = LRN<size=5, alpha=0.5, beta=0.75>(p)",
    "response norm as PyTorch writes it": (
        "q = Mul(p, p); u = Reshape(q, @[2, 1, 8, 4, 4]); d = Pad(u, @[0, 0, 1, 0, 0, 0, 0, 1, 0, 0]); "
        f"n = AveragePool<kernel_shape=[3, 1, 1]>(d); {DIVIDED}"
    ),
    "response norm by a padded pool": f"{SQUARES}n = AveragePool<kernel_shape=[3, 1, 1], pads=[1, 0, 0, 1, 0, 0], count_include_pad=1>(u); {DIVIDED}",
    "averages, channels last": f"{LAST}c = AveragePool<kernel_shape=[1, 3], pads=[0, 1, 0, 1]>(u); {FIRST}",
    "largest of neighbours": "u = Unsqueeze(p, @[1]); n = MaxPool<kernel_shape=[3, 1, 1], pads=[1, 0, 0, 1, 0, 0]>(u); h = Squeeze(n, @[1])",
    "norms of neighbours": "u = Unsqueeze(p, @[1]); n = LpPool<kernel_shape=[3, 1, 1], pads=[1, 0, 0, 1, 0, 0]>(u); h = Squeeze(n, @[1])",
}
STAY = {  # no option cuts them
    "ECA, circular": f'{POOLED}u = Reshape(g, @[2, 1, 8]); d = Pad<mode="wrap">(u, @[0, 0, 1, 0, 0, 1]); c = Conv(d, %1x1x3); e = Reshape(c, @[2, 8, 1, 1]); {GATED}',
    "ECA, padded before": f"{POOLED}u = Reshape(g, @[2, 1, 8]); d = Pad(u, @[0, 0, 1, 0, 0, 1]); c = Conv(d, %1x1x3); e = Reshape(c, @[2, 8, 1, 1]); {GATED}",
    "a window over channels and space": f"{LAST}c = Conv<pads=[1, 1, 1, 1], group=4>(u, %4x1x3x3); {FIRST}",
    "a transposed convolution": "u = Unsqueeze(p, @[1]); c = ConvTranspose<pads=[1, 0, 0, 1, 0, 0]>(u, %1x1x3x1x1); h = Squeeze(c, @[1])",
    "a dilated pool": "u = Unsqueeze(p, @[1]); n = MaxPool<kernel_shape=[3, 1, 1], pads=[2, 0, 0, 2, 0, 0], dilations=[2, 1, 1]>(u); h = Squeeze(n, @[1])",
    "a pool with a stride": "u = Unsqueeze(p, @[1]); n = MaxPool<kernel_shape=[2, 1, 1], strides=[2, 1, 1]>(u); s = Squeeze(n, @[1]); h = Concat<axis=1>(s, s)",
    "a quantised convolution": (
        f"{POOLED}u = Reshape(g, @[2, 1, 8]); i = QuantizeLinear(u, @0.05, @0:int8); "
        "c = QLinearConv<pads=[1, 1]>(i, @0.05, @0:int8, %1x1x3:int8, @0.05, @0:int8, @0.1, @0:int8); "
        f"k = DequantizeLinear(c, @0.1, @0:int8); e = Reshape(k, @[2, 8, 1, 1]); {GATED}"
    ),
    "sums of shifted slices": f"q = Mul(p, p); {PADDED}m = Sum(s0, q, s2); l = Abs(m); k = Add(l, @1.); h = Div(p, k)",
    "medians of shifted slices": (
        f"{PADDED}u0 = Unsqueeze(s0, @[4]); u1 = Unsqueeze(p, @[4]); u2 = Unsqueeze(s2, @[4]); "
        "c = Concat<axis=4>(u0, u1, u2); k, i = TopK<axis=4>(c, @[2]); h = ReduceMin<keepdims=0>(k, @[4])"
    ),
    "differences": "a = Slice(p, @[1], @[8], @[1]); z = Slice(p, @[0], @[1], @[1]); d = Concat<axis=1>(a, z); h = Sub(p, d)",
    "differences by numbers": "d = Gather<axis=1>(p, @[7, 0, 1, 2, 3, 4, 5, 6]); h = Sub(p, d)",
    "reflected": 'r = Pad<mode="reflect">(p, @[0, 1, 0, 0, 0, 1, 0, 0]); s = Slice(r, @[0], @[8], @[1]); h = Sub(p, s)',
    "resized": 'r = Resize<mode="nearest">(p, , @[1., 2., 1., 1.]); h = Slice(r, @[0], @[8], @[1])',
    "a running sum": "h = CumSum(p, @1)",
    "a running sum of squares": "q = Mul(p, p); c = CumSum(q, @-3); s = Pad(c, @[0, 1, 0, 0, 0, 0, 0, 0]); s2 = Slice(s, @[0], @[8], @[1]); m = Sub(c, s2); l = Add(m, @1.); h = Div(p, l)",
    "ranks": "h, i = TopK<axis=1>(p, @[8])",
    "the third largest": "k, i = TopK<axis=1>(p, @[3]); l = Slice(k, @[2], @[3], @[1]); m = GreaterOrEqual(p, l); f = Cast<to=1>(m); h = Mul(p, f)",
    "the number of the largest": "k = ArgMax<axis=1>(p); f = Cast<to=1>(k); h = Mul(p, f)",
    "a spectrum": "u = Unsqueeze(p, @[4]); d = DFT(u, , @1); h = ReduceL2<keepdims=0>(d, @[4])",
    "channels as steps": (
        f"{TOKENS}t = Transpose<perm=[1,0,2]>(s); r, rh = GRU<hidden_size=16>(t, %1x48x16, %1x48x16); q = Squeeze(r, @[1]); "
        "o = Transpose<perm=[1,0,2]>(q); h = Reshape(o, @[2, 8, 4, 4])"
    ),
    "channels as steps, their end": (
        f"{TOKENS}t = Transpose<perm=[1,0,2]>(s); r, rh, rc = LSTM<hidden_size=8>(t, %1x32x16, %1x32x8); "
        "q = Squeeze(rh, @[0]); e = Reshape(q, @[2, 8, 1, 1]); h = Mul(p, e)"
    ),
    "channels as turns": (
        "t = Transpose<perm=[1,0,2,3]>(p); z = @0.; i = Expand(z, @[2, 4, 4]); st, o = Scan<num_scan_inputs=1, body = bd "
        "(float[2,4,4] s, float[2,4,4] e) => (float[2,4,4] s2, float[2,4,4] q) { s2 = Add(s, e) q = Identity(s2) }>(i, t); "
        "h = Transpose<perm=[1,0,2,3]>(o)"
    ),
    "channels as tokens": f"{TOKENS}o = com.microsoft.MultiHeadAttention<num_heads=2>(s, s, s); h = Reshape(o, @[2, 8, 4, 4])",
}
SILENT = {  # sums, whole blocks and windows of one position: what is silent may as well be missing
    "a window of one": "u = Unsqueeze(p, @[1]); c = Conv(u, %1x1x1x1x1); h = Squeeze(c, @[1])",
    "norms of all": f"{LAST}c0 = Transpose<perm=[0,2,1,3]>(p); g2 = GlobalLpPool(c0); t = Transpose<perm=[0,2,1,3]>(g2); h = Mul(p, t)",
    "sums of squares of all": "q = ReduceSumSquare(p, @[1]); r = Sqrt(q); h = Div(p, r)",
    "largest of a pair": "u = Reshape(p, @[2, 4, 2, 4, 4]); s = ReduceMax<keepdims=0>(u, @[2]); h = Concat<axis=1>(s, s)",
    "means of a pair": "u = Reshape(p, @[2, 4, 2, 4, 4]); m = ReduceMean(u, @[2]); d = Sub(u, m); h = Reshape(d, @[2, 8, 4, 4])",
    "norms of blocks": "s = Reshape(p, @[2, 4, -1]); n = InstanceNormalization(s, %4, %4); h = Reshape(n, @[2, 8, 4, 4])",
    "a product of channels": f"{TOKENS}t = Transpose<perm=[0,2,1]>(s); m = MatMul(s, t); o = MatMul(m, s); h = Reshape(o, @[2, 8, 4, 4])",
    "tokens rotated by their numbers": (
        f"{TOKENS}n = @[[0, 1, 2, 3, 4, 5, 6, 7], [3, 4, 5, 6, 7, 8, 9, 10]]; "
        "o = com.microsoft.RotaryEmbedding(s, n, %16x8, %16x8); h = Reshape(o, @[2, 8, 4, 4])"
    ),
    "channels as a batch of sequences": f"{TOKENS}r, rh = GRU<hidden_size=16>(s, %1x48x16, %1x48x16); q = Squeeze(r, @[1]); h = Reshape(q, @[2, 8, 4, 4])",
}


def model(text: str) -> ModelProto:
    return network(FRAME.format(text), domains={"com.microsoft": 1})


def by_hand(original: ModelProto, plan: onnxprune.Plan) -> ModelProto:
    """Return the original in which ``w`` writes and ``v`` reads zeros for the channels that go."""
    copy = onnx.ModelProto.FromString(original.SerializeToString())
    for tensor in copy.graph.initializer:
        if tensor.name in ("w", "b", "v"):
            content = numpy_helper.to_array(tensor).copy()
            channels = content.swapaxes(0, 1) if tensor.name == "v" else content
            channels[np.setdiff1d(np.arange(8), plan.kept[tensor.name][int(tensor.name == "v")])] = 0
            tensor.CopyFrom(numpy_helper.from_array(content, tensor.name))
    return copy


def apart(one: ModelProto, two: ModelProto) -> float:
    """Largest difference of the outputs of three inputs, as a share of the largest output."""
    pairs = [(run(one, feeds(one, seed))["y"], run(two, feeds(two, seed))["y"]) for seed in range(3)]
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


def barrier(analysis: onnxprune.Analysis) -> tuple:
    """Return the barriers that keep the channels of ``w``; all of them stay."""
    found = [frozen for frozen in analysis.frozen if (frozen.parameter, frozen.axis) == ("w", 0)]
    assert sum(frozen.positions for frozen in found) == 8
    return tuple(frozen.barrier for frozen in found)


@pytest.mark.parametrize("text", WINDOWS.values(), ids=WINDOWS)
def test_windows_stay_unless_asked_for(text: str) -> None:
    original = model(text)
    plain = onnxprune.analyze(original)
    (kept,) = barrier(plain)
    assert kept.kind == "lossy" and "--allow-lossy" in remedies(plain.facts)(kept)
    with pytest.raises(TargetError, match="--allow-lossy"):
        onnxprune.prune(original, ratio=0.5, latency=False)
    asked = onnxprune.prune(original, ratio=0.5, round_to=1, allow_lossy=True, latency=False)
    surgery = asked.report["surgery"]
    assert surgery["lossy_nodes"] and not surgery["exact"] and not surgery["frozen_by_check"]
    assert len(asked.plan.kept["w"][0]) == 4


@pytest.mark.parametrize("text", STAY.values(), ids=STAY)
@pytest.mark.parametrize("asked", [False, True], ids=["by default", "--allow-lossy"])
def test_other_looks_at_neighbours_stay(text: str, asked: bool) -> None:
    assert all(found.reason for found in barrier(onnxprune.analyze(model(text), allow_lossy=asked)))


@pytest.mark.parametrize("text", SILENT.values(), ids=SILENT)
def test_what_is_silence_goes(text: str) -> None:
    original = model(text)
    found = onnxprune.prune(original, ratio=0.5, round_to=1, latency=False)
    assert found.report["surgery"]["exact"] and not found.report["surgery"]["lossy_nodes"]
    assert len(found.plan.kept["w"][0]) == len(found.plan.kept["v"][1]) == 4
    assert apart(found.model, by_hand(original, found.plan)) < 1e-5
    assert apart(original, by_hand(original, found.plan)) > 1e-2


def test_a_window_that_is_cut_is_no_silence() -> None:
    """The oracle sees the difference that the barrier is for."""
    original = model(WINDOWS["ECA as 1-D, reshaped"])
    found = onnxprune.prune(original, ratio=0.5, round_to=1, allow_lossy=True, latency=False)
    assert apart(found.model, by_hand(original, found.plan)) > 1e-2
