"""Patterns that other tools break on, as small networks: the groups to be found, and the share of the MACs that may go.

Groups are written as the oracles print them without their members: ``name width`` or ``name widthxmultiplicity``, with a
``~`` where some node takes statistics over the units. Tensors without a name are numbered t1, t2, ...
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from networks import DEFAULT_OPSET, network
from onnx import ModelProto, helper

IMAGE = "float[1,3,4,4] x"
TOKENS = "float[2,4,6] x"


@dataclass(frozen=True)
class Pattern:
    """``groups``: lines expected, joined by ``; ``; ``share``: prunable share of the MACs; the rest builds the model."""

    name: str
    text: str
    groups: str
    share: float
    inputs: str = IMAGE
    outputs: str = "float[] y"
    opset: int = DEFAULT_OPSET
    domains: dict[str, int] = field(default_factory=dict)
    functions: str = ""
    ir_version: int = 10
    allow: tuple[str, ...] = ()  # kinds of lossy operators that may be cut
    below: int = 2  # integer inputs are drawn under this
    runs: bool = True  # False: with an operator the runtime does not have
    change: Callable[[ModelProto], ModelProto] = lambda model: model

    def model(self) -> ModelProto:
        options = {"opset": self.opset, "domains": self.domains, "functions": self.functions}
        return self.change(network(self.text, self.inputs, self.outputs, ir_version=self.ir_version, **options))


def attention(projections: str, heads: int = 2, width: int = 3, extra: str = "", scores: str = "") -> str:
    """Attention over q, k, v of ``heads`` heads of ``width`` each, all named in ``projections``; the result is y."""
    shape = f"@[0, 0, {heads}, {width}]"
    split = " ".join(f"{n}r = Reshape({n}, {shape});" for n in "qkv")
    return (
        f"{projections} {split} qt = Transpose<perm=[0,2,1,3]>(qr); kt = Transpose<perm=[0,2,3,1]>(kr);"
        f"vt = Transpose<perm=[0,2,1,3]>(vr); {extra} z = MatMul(qt, kt); zs = Mul(z, @0.5); {scores or 'zb = Identity(zs)'};"
        "a = Softmax(zb); m = MatMul(a, vt); mt = Transpose<perm=[0,2,1,3]>(m); c = Reshape(mt, @[0, 0, -1]);"
        f"wo = %{heads * width}x6; y = MatMul(c, wo)"
    )


SEPARATE = "wq = %6x6; wk = %6x6; wv = %6x6; q = MatMul(x, wq); k = MatMul(x, wk); v = MatMul(x, wv);"
PACKED = "w = %6x18; p = MatMul(x, w);"
DENSE = """
<domain: "local", opset_import: ["" : 21]>
dense (a, w, b) => (c) { m = MatMul(a, w)
s = Add(m, b)
c = Softplus(s) }
"""


def as_inputs(model: ModelProto) -> ModelProto:
    """List the initializers as inputs, as files of IR 3 have to."""
    infos = [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in model.graph.initializer]
    model.graph.input.extend(infos)
    return model


def as_constants(model: ModelProto) -> ModelProto:
    """Move the initializers into Constant nodes."""
    for tensor in reversed(model.graph.initializer):
        model.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
    model.graph.ClearField("initializer")
    return model


PATTERNS = (
    # residual adds
    Pattern(
        "projection shortcut",
        "w1 = %8x3x1x1; a = Conv(x, w1); r = Relu(a); w2 = %6x8x3x3; b = Conv<pads=[1,1,1,1]>(r, w2); "
        "w3 = %6x8x1x1; c = Conv(r, w3); e = Add(b, c); y = Conv(e, %4x6x1x1)",
        "w1 8; w2 6",
        1.0,
    ),
    Pattern(
        "identity shortcut",
        "w1 = %6x3x1x1; a = Conv(x, w1); w2 = %5x6x1x1; b = Conv(a, w2); w3 = %6x5x1x1; c = Conv(b, w3); "
        "e = Add(c, a); y = Conv(e, %4x6x1x1)",
        "w1 6; w2 5",
        1.0,
    ),
    Pattern(
        "option-A shortcut",
        "w1 = %4x3x1x1; a = Conv(x, w1); w2 = %8x4x1x1; b = Conv<strides=[2,2]>(a, w2); "
        "s = Slice(a, @[0, 0], @[99, 99], @[2, 3], @[2, 2]); p = Pad(s, @[0, 2, 0, 0, 0, 2, 0, 0]); "
        "e = Add(b, p); y = Conv(e, %5x8x1x1)",
        "w1 4; w2 4",
        1.0,
    ),
    Pattern(
        "spine across stages",
        "w1 = %6x3x1x1; a = Conv(x, w1); w2 = %6x6x1x1; b = Conv(a, w2); c = Add(a, b); w3 = %6x6x1x1; "
        "d = Conv(c, w3); e = Add(c, d); f = Relu(e); y = Conv(f, %4x6x1x1)",
        "w1 6",
        1.0,
    ),
    Pattern(
        "three-way sum",
        "w1 = %6x3x1x1; a = Conv(x, w1); w2 = %6x3x1x1; b = Conv(x, w2); w3 = %6x3x1x1; c = Conv(x, w3); "
        "e = Sum(a, b, c); y = Conv(e, %4x6x1x1)",
        "w1 6",
        1.0,
    ),
    Pattern(
        "merges by Sub, Mul and Max",
        "w1 = %6x3x1x1; a = Conv(x, w1); w2 = %6x3x1x1; b = Conv(x, w2); d = Sub(a, b); m = Mul(d, a); "
        "e = Max(m, b); y = Conv(e, %4x6x1x1)",
        "w1 6",
        1.0,
    ),
    Pattern(
        "broadcast adds",
        "w1 = %6x3x1x1; a = Conv(x, w1); b = Add(a, %1x6x1x1); c = Add(b, %6x1x1); d = Add(c, %); "
        "y = Conv(d, %4x6x1x1)",
        "w1 6",
        1.0,
    ),
    Pattern(
        "bias on the last axis",
        "w1 = %6x5; a = MatMul(x, w1); b = Add(a, %5); c = Mul(b, %1x5); y = MatMul(c, %5x3)",
        "w1 5",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "spine that is an output",
        "w1 = %6x3x1x1; a = Conv(x, w1); w2 = %5x6x1x1; b = Conv(a, w2); w3 = %6x5x1x1; c = Conv(b, w3); y = Add(a, c)",
        "w2 5",
        0.769,
    ),
    Pattern(
        "spine from an input",
        "w1 = %5x3x1x1; a = Conv(x, w1); w2 = %3x5x1x1; b = Conv(a, w2); e = Add(x, b); y = Conv(e, %4x3x1x1)",
        "w1 5",
        0.714,
    ),
    # convolutions
    Pattern(
        "depthwise separable",
        "w1 = %6x3x1x1; a = Conv(x, w1); w2 = %6x1x3x3; b = Conv<group=6, pads=[1,1,1,1]>(a, w2, %6); "
        "w3 = %8x6x1x1; c = Conv(b, w3); y = Conv(c, %4x8x1x1)",
        "w1 6; w3 8",
        1.0,
    ),
    Pattern(
        "depthwise multiplier",
        "w1 = %4x3x1x1; a = Conv(x, w1); w2 = %8x1x3x3; b = Conv<group=4>(a, w2); y = Conv(b, %5x8x1x1)",
        "w1 4",
        1.0,
    ),
    Pattern(
        "inverted residual",
        "w1 = %4x3x1x1; a = Conv(x, w1); w2 = %12x4x1x1; b = Conv(a, w2); c = Clip(b, @0.0, @6.0); "
        "w3 = %12x1x3x3; d = Conv<group=12, pads=[1,1,1,1]>(c, w3); w4 = %4x12x1x1; e = Conv(d, w4); "
        "f = Add(a, e); y = Conv(f, %5x4x1x1)",
        "w1 4; w2 12",
        1.0,
    ),
    Pattern(
        "groups of equal count",
        "w1 = %8x3x1x1; a = Conv(x, w1); w2 = %8x4x3x3; b = Conv<group=2>(a, w2); y = Conv(b, %5x8x1x1)",
        "w1 4x2; w2 4x2",
        1.0,
    ),
    Pattern(
        "groups of unequal count",
        "w1 = %12x3x1x1; a = Conv(x, w1); w2 = %12x6x1x1; b = Conv<group=2>(a, w2); w3 = %12x4x1x1; "
        "c = Conv<group=3>(b, w3); y = Conv(c, %5x12x1x1)",
        "w1 6x2; w2 2x6; w3 4x3",
        1.0,
    ),
    Pattern(
        "aggregated residual block",
        "w1 = %6x3x1x1; a = Conv(x, w1); w2 = %8x6x1x1; b = Conv(a, w2); w3 = %8x2x3x3; "
        "c = Conv<group=4, pads=[1,1,1,1]>(b, w3); w4 = %6x8x1x1; d = Conv(c, w4); e = Add(a, d); "
        "y = Conv(e, %5x6x1x1)",
        "w1 6; w2 2x4; w3 2x4",
        1.0,
    ),
    Pattern(
        "one weight used twice",
        "w = %3x3x3x3; w1 = %3x3x1x1; i = Conv(x, w1); a = Conv<pads=[1,1,1,1]>(i, w); "
        "b = Conv<pads=[1,1,1,1]>(a, w); y = Conv(b, %4x3x1x1)",
        "w 3",
        1.0,
    ),
    Pattern(
        "siamese towers",
        "w1 = %6x3x1x1; w2 = %5x6x1x1; a = Conv(x, w1); b = Conv(a, w2); c = Conv(u, w1); "
        "d = Conv(c, w2); e = Sub(b, d); y = Conv(e, %4x5x1x1)",
        "w1 6; w2 5",
        1.0,
        inputs="float[1,3,4,4] x, float[1,3,4,4] u",
    ),
    Pattern(
        "shared bias",
        "w1 = %6x3x1x1; s = %6; a = Conv(x, w1, s); w2 = %6x3x1x1; b = Conv(x, w2, s); c = Relu(a); "
        "d = Conv(c, %4x6x1x1); e = Conv(b, %4x6x1x1); y = Add(d, e)",
        "w1 6",
        1.0,
    ),
    Pattern(
        "single-channel bottleneck",
        "w1 = %1x3x1x1; a = Conv(x, w1); s = Sigmoid(a); w2 = %6x3x1x1; b = Conv(x, w2); g = Mul(b, s); "
        "y = Conv(g, %4x6x1x1)",
        "w2 6",
        0.933,
    ),
    Pattern(
        "weights computed from an input",
        "k = MatMul(u, @[[1., 2., 3., 4., 5., 6.], [1., 0., 1., 0., 1., 0.]]); "
        "w = Reshape(k, @[6, 3, 1, 1]); a = Conv(x, w); y = Conv(a, %4x6x1x1)",
        "t1 2x3",
        1.0,
        inputs="float[1,3,4,4] x, float[3,2] u",
    ),
    Pattern(
        "transposed convolution",
        "w1 = %6x3x1x1; a = Conv(x, w1); w2 = %6x5x2x2; b = ConvTranspose<strides=[2,2]>(a, w2, %5); "
        "y = Conv(b, %4x5x1x1)",
        "w1 6; w2 5",
        1.0,
    ),
    Pattern(
        "grouped transposed convolution",
        "w1 = %6x3x1x1; a = Conv(x, w1); w2 = %6x4x2x2; "
        "b = ConvTranspose<group=2, strides=[2,2], output_padding=[1,1]>(a, w2); y = Conv(b, %4x8x1x1)",
        "w1 2x3",
        1.0,
    ),
    Pattern(
        "dilated causal convolutions",
        "w1 = %6x3x2; a = Conv<pads=[1,0]>(x, w1); t = Tanh(a); w2 = %6x6x2; "
        "b = Conv<pads=[2,0], dilations=[2]>(t, w2); s = Sigmoid(b); g = Mul(t, s); y = Conv(g, %4x6x1)",
        "w1 6",
        1.0,
        inputs="float[1,3,8] x",
    ),
    Pattern(
        "volumes",
        "w1 = %6x3x1x1x1; a = Conv(x, w1); p = MaxPool<kernel_shape=[2,2,2], strides=[2,2,2]>(a); "
        "y = Conv(p, %4x6x1x1x1)",
        "w1 6",
        1.0,
        inputs="float[1,3,4,4,4] x",
    ),
    # joining and cutting
    Pattern(
        "dense re-use",
        "w1 = %4x3x1x1; a = Conv(x, w1); w2 = %5x4x1x1; b = Conv(a, w2); c = Concat<axis=1>(a, b); "
        "w3 = %6x9x1x1; d = Conv(c, w3); e = Concat<axis=1>(c, d); y = Conv(e, %4x15x1x1)",
        "w1 4; w2 5; w3 6",
        1.0,
    ),
    Pattern(
        "inception",
        "w1 = %4x3x1x1; a = Conv(x, w1); w2 = %5x3x3x3; b = Conv<pads=[1,1,1,1]>(x, w2); "
        "m = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(x); w3 = %3x3x1x1; c = Conv(m, w3); "
        "d = Concat<axis=1>(a, b, c); y = Conv(d, %4x12x1x1)",
        "w1 4; w2 5; w3 3",
        1.0,
    ),
    Pattern(
        "unequal split, joined in another order",
        "w1 = %8x3x1x1; a = Conv(x, w1); b, c, d = Split<axis=1>(a, @[2, 3, 3]); "
        "e = Concat<axis=1>(d, b, c); y = Conv(e, %4x8x1x1)",
        "w1#0 2; w1#1 3; w1#2 3",
        1.0,
    ),
    Pattern(
        "the same tensor twice in a join",
        "w1 = %5x3x1x1; a = Conv(x, w1); c = Concat<axis=1>(a, a); y = Conv(c, %4x10x1x1)",
        "w1 5",
        1.0,
    ),
    Pattern(
        "a constant in a join",
        "w1 = %5x3x1x1; a = Conv(x, w1); c = Concat<axis=1>(a, %1x2x4x4); y = Conv(c, %4x7x1x1)",
        "w1 5; t2 2",
        1.0,
    ),
    Pattern(
        "an input in a join",
        "w1 = %5x3x1x1; a = Conv(x, w1); c = Concat<axis=1>(x, a); y = Conv(c, %4x8x1x1)",
        "w1 5",
        0.745,
    ),
    Pattern(
        "joined along height and batch",
        "w1 = %5x3x1x1; a = Conv(x, w1); b = Relu(a); c = Concat<axis=2>(a, b); "
        "d = Concat<axis=0>(c, c); y = Conv(d, %4x5x1x1)",
        "w1 5",
        1.0,
    ),
    Pattern(
        "C2f",
        "w1 = %8x3x1x1; a = Conv(x, w1); b, c = Split<axis=1, num_outputs=2>(a); w2 = %4x4x3x3; "
        "d = Conv<pads=[1,1,1,1]>(c, w2); e = Add(c, d); f = Concat<axis=1>(b, c, e); w3 = %6x12x1x1; "
        "g = Conv(f, w3); y = Conv(g, %4x6x1x1)",
        "w1#0 4; w1#1 4; w3 6",
        1.0,
    ),
    Pattern(
        "SPPF",
        "w1 = %6x3x1x1; a = Conv(x, w1); b = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(a); "
        "c = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(b); d = Concat<axis=1>(a, b, c); "
        "y = Conv(d, %4x18x1x1)",
        "w1 6",
        1.0,
    ),
    Pattern(
        "U-Net skip",
        "w1 = %6x3x3x3; a = Conv<pads=[1,1,1,1]>(x, w1); "
        "b = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a); w2 = %8x6x1x1; c = Conv(b, w2); "
        "w3 = %8x5x2x2; d = ConvTranspose<strides=[2,2]>(c, w3); e = Concat<axis=1>(a, d); "
        "y = Conv(e, %4x11x1x1)",
        "w1 6; w2 8; w3 5",
        1.0,
    ),
    Pattern(
        "feature pyramid",
        "w1 = %6x3x1x1; a = Conv(x, w1); w2 = %8x6x1x1; b = Conv<strides=[2,2]>(a, w2); w3 = %5x8x1x1; "
        't = Conv(b, w3); u = Resize<mode="nearest">(t, , @[1., 1., 2., 2.]); w4 = %5x6x1x1; '
        "l = Conv(a, w4); e = Add(u, l); y = Conv(e, %4x5x1x1)",
        "w1 6; w2 8; w3 5",
        1.0,
    ),
    Pattern(
        "detection head",
        "w1 = %6x3x1x1; a = Conv(x, w1); w2 = %8x6x1x1; b = Conv(a, w2); "
        "t = Transpose<perm=[0,2,3,1]>(b); y = Reshape(t, @[1, -1, 4])",
        "w1 6",
        1.0,
    ),
    Pattern(
        "distribution focal head",
        "w1 = %6x3x1x1; a = Conv(x, w1); w2 = %16x6x1x1; b = Conv(a, w2); "
        "r = Reshape(b, @[1, 4, 4, 16]); t = Transpose<perm=[0,2,1,3]>(r); s = Softmax<axis=1>(t); "
        "w3 = %1x4x1x1; y = Conv(s, w3)",
        "w1 6",
        0.877,
    ),
    Pattern(
        "two heads on one trunk",
        "w1 = %6x3x1x1; a = Conv(x, w1); w2 = %5x6x1x1; b = Conv(a, w2); y = Conv(b, %4x5x1x1); "
        "w3 = %7x6x1x1; c = Conv(a, w3); z = Conv(c, %2x7x1x1)",
        "w1 6; w2 5; w3 7",
        1.0,
        outputs="float[] y, float[] z",
    ),
    # gates
    Pattern(
        "squeeze and excite",
        "w1 = %8x3x1x1; a = Conv(x, w1); g = GlobalAveragePool(a); w2 = %4x8x1x1; s = Conv(g, w2, %4); "
        "r = Relu(s); w3 = %8x4x1x1; e = Conv(r, w3, %8); h = HardSigmoid(e); m = Mul(a, h); "
        "y = Conv(m, %5x8x1x1)",
        "w1 8; w2 4",
        1.0,
    ),
    Pattern(
        "gate by dense layers",
        "w1 = %8x3x1x1; a = Conv(x, w1); g = ReduceMean<keepdims=0>(a, @[2, 3]); w2 = %8x4; "
        "s = MatMul(g, w2); r = Relu(s); w3 = %4x8; e = MatMul(r, w3); h = Sigmoid(e); "
        "u = Unsqueeze(h, @[2, 3]); m = Mul(a, u); y = Conv(m, %5x8x1x1)",
        "w1 8; w2 4",
        1.0,
    ),
    Pattern(
        "gate by a window over channels",
        "w1 = %8x3x1x1; a = Conv(x, w1); g = GlobalAveragePool(a); s = Reshape(g, @[1, 1, 8]); "
        "c = Conv<pads=[1,1]>(s, %1x1x3); h = Sigmoid(c); u = Reshape(h, @[1, 8, 1, 1]); m = Mul(a, u); "
        "y = Conv(m, %5x8x1x1)",
        "w1 8 ~",
        1.0,
    ),
    Pattern(
        "gate over space",
        "w1 = %6x3x1x1; a = Conv(x, w1); m = ReduceMean(a, @[1]); n = ReduceMax(a, @[1]); "
        "c = Concat<axis=1>(m, n); s = Conv<pads=[1,1,1,1]>(c, %1x2x3x3); h = Sigmoid(s); g = Mul(a, h); "
        "y = Conv(g, %4x6x1x1)",
        "",
        0.0,
    ),
    Pattern(
        "gate over space, statistics allowed",
        "w1 = %6x3x1x1; a = Conv(x, w1); m = ReduceMean(a, @[1]); n = ReduceMax(a, @[1]); "
        "c = Concat<axis=1>(m, n); s = Conv<pads=[1,1,1,1]>(c, %1x2x3x3); h = Sigmoid(s); g = Mul(a, h); "
        "y = Conv(g, %4x6x1x1)",
        "w1 6 ~",
        0.7,
        allow=("statistics",),
    ),
    Pattern(
        "SiLU by parts",
        "w1 = %6x3x1x1; a = Conv(x, w1); s = Sigmoid(a); m = Mul(a, s); y = Conv(m, %4x6x1x1)",
        "w1 6",
        1.0,
    ),
    Pattern(
        "hard swish by parts",
        "w1 = %6x3x1x1; a = Conv(x, w1); b = Add(a, @3.0); c = Clip(b, @0.0, @6.0); d = Div(c, @6.0); "
        "m = Mul(a, d); y = Conv(m, %4x6x1x1)",
        "w1 6",
        1.0,
    ),
    Pattern(
        "GELU by parts",
        "w1 = %6x8; a = MatMul(x, w1); b = Div(a, @1.414); c = Erf(b); d = Add(c, @1.0); e = Mul(a, d); "
        "f = Mul(e, @0.5); y = MatMul(f, %8x3)",
        "w1 8",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "GLU",
        "w1 = %10x3x1x1; a = Conv(x, w1); b, c = Split<axis=1, num_outputs=2>(a); s = Sigmoid(c); "
        "m = Mul(b, s); y = Conv(m, %4x5x1x1)",
        "w1 5x2",
        1.0,
    ),
    Pattern(
        "SwiGLU",
        "w1 = %6x8; a = MatMul(x, w1); w2 = %6x8; b = MatMul(x, w2); s = Sigmoid(a); m = Mul(a, s); "
        "g = Mul(m, b); y = MatMul(g, %8x3)",
        "w1 8",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "GeGLU from one matrix",
        "w1 = %6x16; a = MatMul(x, w1); b = Slice(a, @[0], @[8], @[2]); c = Slice(a, @[8], @[16], @[2]); "
        "e = Gelu(c); g = Mul(b, e); y = MatMul(g, %8x3)",
        "w1 8x2",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "scaled residual",
        "w1 = %6x3x1x1; a = Conv(x, w1); w2 = %5x6x1x1; b = Conv(a, w2); w3 = %6x5x1x1; c = Conv(b, w3); "
        "d = Mul(c, %6x1x1); k = Mul(d, @0.9); e = Add(a, k); y = Conv(e, %4x6x1x1)",
        "w1 6; w2 5",
        1.0,
    ),
    # layout
    Pattern(
        "channels last",
        "t = Transpose<perm=[0,3,1,2]>(x); w1 = %6x3x1x1; a = Conv(t, w1); "
        "b = Transpose<perm=[0,2,3,1]>(a); c = Add(b, %6); r = Relu(c); "
        "d = Transpose<perm=[0,3,1,2]>(r); w2 = %5x6x1x1; e = Conv(d, w2); "
        "y = Transpose<perm=[0,2,3,1]>(e)",
        "w1 6",
        1.0,
        inputs="float[1,4,4,3] x",
    ),
    Pattern(
        "flatten to a dense layer",
        "w1 = %6x3x1x1; a = Conv(x, w1); p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a); "
        "f = Flatten(p); w2 = %24x10; b = Gemm(f, w2, %10); y = Gemm(b, %10x4)",
        "w1 6; w2 10",
        1.0,
    ),
    Pattern(
        "channels last, flattened",
        "w1 = %6x3x1x1; a = Conv(x, w1); t = Transpose<perm=[0,2,3,1]>(a); f = Reshape(t, @[1, -1]); "
        "w2 = %96x7; b = MatMul(f, w2); y = MatMul(b, %7x4)",
        "w1 6; w2 7",
        1.0,
    ),
    Pattern(
        "pixel shuffle, depth first",
        "w1 = %12x3x1x1; a = Conv(x, w1); b = DepthToSpace<blocksize=2>(a); y = Conv(b, %4x3x1x1)",
        "w1 3x4",
        1.0,
    ),
    Pattern(
        "pixel shuffle, columns first",
        'w1 = %12x3x1x1; a = Conv(x, w1); b = DepthToSpace<blocksize=2, mode="CRD">(a); y = Conv(b, %4x3x1x1)',
        "w1 3x4",
        1.0,
    ),
    Pattern(
        "pixel shuffle by hand",
        "w1 = %12x3x1x1; a = Conv(x, w1); r = Reshape(a, @[1, 3, 2, 2, 4, 4]); "
        "t = Transpose<perm=[0,1,4,2,5,3]>(r); b = Reshape(t, @[1, 3, 8, 8]); y = Conv(b, %4x3x1x1)",
        "w1 3x4",
        1.0,
    ),
    Pattern(
        "space to depth",
        "w1 = %5x3x1x1; a = Conv(x, w1); b = SpaceToDepth<blocksize=2>(a); y = Conv(b, %4x20x1x1)",
        "w1 5",
        1.0,
    ),
    Pattern(
        "focus stem",
        "w1 = %4x3x1x1; c = Conv(x, w1); p = Slice(c, @[0, 0], @[99, 99], @[2, 3], @[2, 2]); "
        "q = Slice(c, @[1, 0], @[99, 99], @[2, 3], @[2, 2]); d = Concat<axis=1>(p, q); "
        "y = Conv(d, %5x8x1x1)",
        "w1 4",
        1.0,
    ),
    Pattern(
        "channel shuffle",
        "w1 = %8x3x1x1; a = Conv(x, w1); w2 = %8x4x1x1; g = Conv<group=2>(a, w2); "
        "r = Reshape(g, @[1, 2, 4, 4, 4]); t = Transpose<perm=[0,2,1,3,4]>(r); "
        "h = Reshape(t, @[1, 8, 4, 4]); w3 = %8x1x3x3; d = Conv<group=8, pads=[1,1,1,1]>(h, w3); "
        "y = Conv(d, %4x8x1x1)",
        "w1 4x2; w2 4x2",
        1.0,
    ),
    Pattern(
        "channel shuffle of a half",
        "w1 = %8x3x1x1; a = Conv(x, w1); b, c = Split<axis=1, num_outputs=2>(a); w2 = %4x4x1x1; "
        "d = Conv(c, w2); e = Concat<axis=1>(b, d); r = Reshape(e, @[1, 2, 4, 16]); "
        "t = Transpose<perm=[0,2,1,3]>(r); h = Reshape(t, @[1, 8, 4, 4]); y = Conv(h, %4x8x1x1)",
        "w1#0 4; w1#1 4",
        1.0,
    ),
    Pattern(
        "window partition and reverse",
        "w1 = %6x8; a = MatMul(x, w1); r = Reshape(a, @[1, 2, 2, 2, 2, 8]); "
        "t = Transpose<perm=[0,1,3,2,4,5]>(r); s = Reshape(t, @[4, 4, 8]); w2 = %8x8; m = MatMul(s, w2); "
        "u = Reshape(m, @[1, 2, 2, 2, 2, 8]); v = Transpose<perm=[0,1,3,2,4,5]>(u); "
        "z = Reshape(v, @[1, 4, 4, 8]); e = Add(a, z); y = MatMul(e, %8x3)",
        "w1 8",
        1.0,
        inputs="float[1,4,4,6] x",
    ),
    Pattern(
        "shifted windows",
        "w1 = %6x8; a = MatMul(x, w1); p = Slice(a, @[2], @[4], @[1]); q = Slice(a, @[0], @[2], @[1]); "
        "s = Concat<axis=1>(p, q); r = Reshape(s, @[2, 2, 4, 8]); w2 = %8x5; m = MatMul(r, w2); "
        "u = Reshape(m, @[1, 4, 4, 5]); y = MatMul(u, %5x3)",
        "w1 8; w2 5",
        1.0,
        inputs="float[1,4,4,6] x",
    ),
    Pattern(
        "patch merging",
        "w1 = %6x5; a = MatMul(x, w1); p = Slice(a, @[0], @[99], @[1], @[2]); "
        "q = Slice(a, @[1], @[99], @[1], @[2]); c = Concat<axis=-1>(p, q); y = MatMul(c, %10x3)",
        "w1 5",
        1.0,
        inputs="float[1,4,4,6] x",
    ),
    Pattern(
        "columns to image",
        "w1 = %6x12; a = MatMul(x, w1); t = Transpose<perm=[0,2,1]>(a); "
        "b = Col2Im<strides=[2,2]>(t, @[4, 4], @[2, 2]); y = Conv(b, %4x3x1x1)",
        "w1 3x4",
        1.0,
        inputs="float[1,4,6] x",
    ),
    Pattern(
        "unfold by slices",
        "w1 = %4x3x1x1; a = Conv(x, w1); p = Slice(a, @[0], @[3], @[2]); q = Slice(a, @[1], @[4], @[2]); "
        "u = Unsqueeze(p, @[2]); v = Unsqueeze(q, @[2]); c = Concat<axis=2>(u, v); "
        "r = Reshape(c, @[1, 8, 3, 4]); y = Conv(r, %5x8x1x1)",
        "w1 4",
        1.0,
    ),
    Pattern(
        "resized by a computed shape",
        "w1 = %5x3x1x1; a = Conv(x, w1); b = AveragePool<kernel_shape=[2,2], strides=[2,2]>(a); "
        "s = Shape<start=2>(a); n = Shape<end=2>(b); z = Concat<axis=0>(n, s); u = Resize(b, , , z); "
        "e = Add(a, u); y = Conv(e, %4x5x1x1)",
        "w1 5",
        1.0,
    ),
    Pattern(
        "free batch and size",
        "w1 = %6x3x3x3; a = Conv<pads=[1,1,1,1]>(x, w1); g = GlobalAveragePool(a); "
        "s = Shape<start=0, end=1>(g); n = Concat<axis=0>(s, @[-1]); r = Reshape(g, n); w2 = %6x5; "
        "b = MatMul(r, w2); y = MatMul(b, %5x4)",
        "w1 6; w2 5",
        1.0,
        inputs="float[N,3,H,W] x",
        outputs="float[N,4] y",
    ),
    # attention
    Pattern(
        "separate projections",
        attention(SEPARATE),
        "wq 2x3",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "packed, cut by Split",
        attention(PACKED + " q, k, v = Split<axis=2, num_outputs=3>(p);"),
        "w 2x9",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "packed, cut by Slice",
        attention(
            PACKED
            + " q = Slice(p, @[0], @[6], @[2]); k = Slice(p, @[6], @[12], @[2]); v = Slice(p, @[12], @[18], @[2]);"
        ),
        "w 2x9",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "packed, cut by Gather",
        attention(
            PACKED
            + " r = Reshape(p, @[0, 0, 3, 6]); q = Gather<axis=2>(r, @0); k = Gather<axis=2>(r, @1); v = Gather<axis=2>(r, @2);"
        ),
        "w 2x9",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "packed, heads outside",
        attention(
            PACKED
            + " r = Reshape(p, @[0, 0, 2, 9]); s, t, u = Split<axis=3, num_outputs=3>(r); q = Reshape(s, @[0, 0, 6]); k = Reshape(t, @[0, 0, 6]); v = Reshape(u, @[0, 0, 6]);"
        ),
        "w 2x9",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "packed, cut by Reshape",
        "w = %6x18; p = MatMul(x, w); r = Reshape(p, @[0, 0, 3, 2, 3]); "
        "t = Transpose<perm=[2,0,3,1,4]>(r); q = Gather<axis=0>(t, @0); k = Gather<axis=0>(t, @1); "
        "v = Gather<axis=0>(t, @2); kt = Transpose<perm=[0,1,3,2]>(k); z = MatMul(q, kt); "
        "a = Softmax(z); m = MatMul(a, v); mt = Transpose<perm=[0,2,1,3]>(m); "
        "c = Reshape(mt, @[0, 0, 6]); wo = %6x5; y = MatMul(c, wo)",
        "w 2x9",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "batch times heads",
        "wq = %6x6; wk = %6x6; wv = %6x6; q = MatMul(x, wq); k = MatMul(x, wk); v = MatMul(x, wv); "
        "qr = Reshape(q, @[2, 4, 2, 3]); kr = Reshape(k, @[2, 4, 2, 3]); vr = Reshape(v, @[2, 4, 2, 3]); "
        "qt = Transpose<perm=[0,2,1,3]>(qr); kt = Transpose<perm=[0,2,3,1]>(kr); "
        "vt = Transpose<perm=[0,2,1,3]>(vr); qb = Reshape(qt, @[4, 4, 3]); kb = Reshape(kt, @[4, 3, 4]); "
        "vb = Reshape(vt, @[4, 4, 3]); z = MatMul(qb, kb); a = Softmax(z); m = MatMul(a, vb); "
        "mr = Reshape(m, @[2, 2, 4, 3]); mt = Transpose<perm=[0,2,1,3]>(mr); "
        "c = Reshape(mt, @[2, 4, 6]); wo = %6x5; y = MatMul(c, wo)",
        "wq 2x3",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "grouped queries, expanded",
        "wq = %6x12; wk = %6x6; wv = %6x6; q = MatMul(x, wq); k = MatMul(x, wk); v = MatMul(x, wv); "
        "qr = Reshape(q, @[0, 0, 4, 3]); kr = Reshape(k, @[0, 0, 2, 3]); vr = Reshape(v, @[0, 0, 2, 3]); "
        "qt = Transpose<perm=[0,2,1,3]>(qr); kt = Transpose<perm=[0,2,1,3]>(kr); "
        "vt = Transpose<perm=[0,2,1,3]>(vr); ku = Unsqueeze(kt, @[2]); "
        "ke = Expand(ku, @[2, 2, 2, 4, 3]); kh = Reshape(ke, @[2, 4, 4, 3]); vu = Unsqueeze(vt, @[2]); "
        "ve = Expand(vu, @[2, 2, 2, 4, 3]); vh = Reshape(ve, @[2, 4, 4, 3]); "
        "kx = Transpose<perm=[0,1,3,2]>(kh); z = MatMul(qt, kx); a = Softmax(z); m = MatMul(a, vh); "
        "mt = Transpose<perm=[0,2,1,3]>(m); c = Reshape(mt, @[0, 0, 12]); wo = %12x5; y = MatMul(c, wo)",
        "wq 2x6",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "grouped queries, tiled",
        "wq = %6x12; wk = %6x6; wv = %6x6; q = MatMul(x, wq); k = MatMul(x, wk); v = MatMul(x, wv); "
        "qr = Reshape(q, @[0, 0, 4, 3]); kr = Reshape(k, @[0, 0, 2, 3]); vr = Reshape(v, @[0, 0, 2, 3]); "
        "qt = Transpose<perm=[0,2,1,3]>(qr); kt = Transpose<perm=[0,2,1,3]>(kr); "
        "vt = Transpose<perm=[0,2,1,3]>(vr); ku = Unsqueeze(kt, @[2]); ke = Tile(ku, @[1, 1, 2, 1, 1]); "
        "kh = Reshape(ke, @[2, 4, 4, 3]); vu = Unsqueeze(vt, @[2]); ve = Tile(vu, @[1, 1, 2, 1, 1]); "
        "vh = Reshape(ve, @[2, 4, 4, 3]); kx = Transpose<perm=[0,1,3,2]>(kh); z = MatMul(qt, kx); "
        "a = Softmax(z); m = MatMul(a, vh); mt = Transpose<perm=[0,2,1,3]>(m); "
        "c = Reshape(mt, @[0, 0, 12]); wo = %12x5; y = MatMul(c, wo)",
        "wq 2x6",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "one key head for all queries",
        "wq = %6x12; wk = %6x3; wv = %6x3; q = MatMul(x, wq); k = MatMul(x, wk); v = MatMul(x, wv); "
        "qr = Reshape(q, @[0, 0, 4, 3]); qt = Transpose<perm=[0,2,1,3]>(qr); ku = Unsqueeze(k, @[1]); "
        "kx = Transpose<perm=[0,1,3,2]>(ku); vu = Unsqueeze(v, @[1]); z = MatMul(qt, kx); "
        "a = Softmax(z); m = MatMul(a, vu); mt = Transpose<perm=[0,2,1,3]>(m); "
        "c = Reshape(mt, @[0, 0, 12]); wo = %12x5; y = MatMul(c, wo)",
        "wq 3x4; wv 3",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "grouped queries with rotary pairs",
        "wq = %6x16; wk = %6x8; wv = %6x8; q = MatMul(x, wq); k = MatMul(x, wk); v = MatMul(x, wv); "
        "qr = Reshape(q, @[0, 0, 4, 4]); kr = Reshape(k, @[0, 0, 2, 4]); vr = Reshape(v, @[0, 0, 2, 4]); "
        "qt = Transpose<perm=[0,2,1,3]>(qr); kt = Transpose<perm=[0,2,1,3]>(kr); "
        "vt = Transpose<perm=[0,2,1,3]>(vr); cos = %4x4; sin = %4x4; q1 = Slice(qt, @[0], @[2], @[3]); "
        "q2 = Slice(qt, @[2], @[4], @[3]); qn = Neg(q2); qo = Concat<axis=-1>(qn, q1); "
        "qc = Mul(qt, cos); qs = Mul(qo, sin); qe = Add(qc, qs); k1 = Slice(kt, @[0], @[2], @[3]); "
        "k2 = Slice(kt, @[2], @[4], @[3]); kn = Neg(k2); ko = Concat<axis=-1>(kn, k1); "
        "kc = Mul(kt, cos); ks = Mul(ko, sin); ke = Add(kc, ks); ku = Unsqueeze(ke, @[2]); "
        "kz = Expand(ku, @[2, 2, 2, 4, 4]); kh = Reshape(kz, @[2, 4, 4, 4]); vu = Unsqueeze(vt, @[2]); "
        "vz = Expand(vu, @[2, 2, 2, 4, 4]); vh = Reshape(vz, @[2, 4, 4, 4]); "
        "kx = Transpose<perm=[0,1,3,2]>(kh); z = MatMul(qe, kx); a = Softmax(z); m = MatMul(a, vh); "
        "mt = Transpose<perm=[0,2,1,3]>(m); c = Reshape(mt, @[0, 0, 16]); wo = %16x5; y = MatMul(c, wo)",
        "wq 2x8; wv 4x2",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "cross attention",
        attention("wq = %6x6; wk = %5x6; wv = %5x6; q = MatMul(x, wq); k = MatMul(u, wk); v = MatMul(u, wv);"),
        "wq 2x3",
        1.0,
        inputs="float[2,4,6] x, float[2,3,5] u",
    ),
    Pattern(
        "key-value cache",
        "wq = %6x6; wk = %6x6; wv = %6x6; q = MatMul(x, wq); k = MatMul(x, wk); v = MatMul(x, wv); "
        "qr = Reshape(q, @[0, 0, 2, 3]); kr = Reshape(k, @[0, 0, 2, 3]); vr = Reshape(v, @[0, 0, 2, 3]); "
        "qt = Transpose<perm=[0,2,1,3]>(qr); kt = Transpose<perm=[0,2,1,3]>(kr); "
        "vt = Transpose<perm=[0,2,1,3]>(vr); kn = Concat<axis=2>(pk, kt); vn = Concat<axis=2>(pv, vt); "
        "kx = Transpose<perm=[0,1,3,2]>(kn); z = MatMul(qt, kx); a = Softmax(z); m = MatMul(a, vn); "
        "mt = Transpose<perm=[0,2,1,3]>(m); c = Reshape(mt, @[0, 0, 6]); wo = %6x8; o = MatMul(c, wo); "
        "g = Gelu(o); y = MatMul(g, %8x6)",
        "wo 8",
        0.348,
        inputs="float[2,1,6] x, float[2,2,5,3] pk, float[2,2,5,3] pv",
        outputs="float[] y, float[] kn, float[] vn",
    ),
    Pattern(
        "linear attention",
        "wq = %6x6; wk = %6x6; wv = %6x6; q0 = MatMul(x, wq); k0 = MatMul(x, wk); v = MatMul(x, wv); "
        "q = Relu(q0); k = Relu(k0); qr = Reshape(q, @[0, 0, 2, 3]); kr = Reshape(k, @[0, 0, 2, 3]); "
        "vr = Reshape(v, @[0, 0, 2, 3]); qt = Transpose<perm=[0,2,1,3]>(qr); "
        "kt = Transpose<perm=[0,2,3,1]>(kr); vt = Transpose<perm=[0,2,1,3]>(vr); kv = MatMul(kt, vt); "
        "m = MatMul(qt, kv); mt = Transpose<perm=[0,2,1,3]>(m); c = Reshape(mt, @[0, 0, 6]); wo = %6x5; "
        "y = MatMul(c, wo)",
        "wq 2x3",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "attention by Einsum",
        "wq = %6x2x3; wk = %6x2x3; wv = %6x2x3; wo = %2x3x5; "
        'q = Einsum<equation="bse,ehd->bshd">(x, wq); k = Einsum<equation="bse,ehd->bshd">(x, wk); '
        'v = Einsum<equation="bse,ehd->bshd">(x, wv); z = Einsum<equation="bqhd,bkhd->bhqk">(q, k); '
        'a = Softmax(z); m = Einsum<equation="bhqk,bkhd->bqhd">(a, v); '
        'y = Einsum<equation="bqhd,hde->bqe">(m, wo)',
        "wq#0 2; wq#1 3; wv 3",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "relative position bias per head",
        attention(
            SEPARATE,
            extra="tab = %49x2; g = Gather<axis=0>(tab, @[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15]); gr = Reshape(g, @[4, 4, 2]); gt = Transpose<perm=[2,0,1]>(gr);",
            scores="zb = Add(zs, gt)",
        ),
        "wq 2x3; tab 33",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "relative position bias, table looked up in two axes",
        attention(
            SEPARATE,
            extra="tab = %7x2; g = Gather<axis=0>(tab, @[[3,2,1,0],[4,3,2,1],[5,4,3,2],[6,5,4,3]]); gt = Transpose<perm=[2,0,1]>(g);",
            scores="zb = Add(zs, gt)",
        ),
        "wq 2x3",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "talking heads",
        attention(
            SEPARATE,
            scores="zp = Transpose<perm=[0,2,3,1]>(zs); th = %2x2; zt = MatMul(zp, th); zb = Transpose<perm=[0,3,1,2]>(zt)",
        ),
        "wq 2x3; wv 2x3",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "attention operator",
        "wq = %6x6; wk = %6x6; wv = %6x6; q = MatMul(x, wq); k = MatMul(x, wk); v = MatMul(x, wv); "
        "m = Attention<q_num_heads=2, kv_num_heads=2>(q, k, v); wo = %6x5; y = MatMul(m, wo)",
        "wq 2x3",
        1.0,
        inputs=TOKENS,
        opset=23,
    ),
    Pattern(
        "fused attention",
        "wq = %6x6; wk = %6x6; wv = %6x6; q = MatMul(x, wq); k = MatMul(x, wk); v = MatMul(x, wv); "
        "m = com.microsoft.MultiHeadAttention<num_heads=2>(q, k, v); wo = %6x5; y = MatMul(m, wo)",
        "wq 2x3",
        1.0,
        inputs=TOKENS,
        domains={"com.microsoft": 1},
    ),
    Pattern(
        "pre-norm block",
        "w0 = %6x6; x0 = MatMul(x, w0); n = LayerNormalization(x0, %6, %6); w1 = %6x8; "
        "f = MatMul(n, w1); g = Gelu(f); w2 = %8x6; h = MatMul(g, w2); e = Add(x0, h); "
        "l = LayerNormalization(e, %6, %6); y = MatMul(l, %6x5)",
        "w1 8",
        0.593,
        inputs=TOKENS,
    ),
    Pattern(
        "pre-norm block, statistics allowed",
        "w0 = %6x6; x0 = MatMul(x, w0); n = LayerNormalization(x0, %6, %6); w1 = %6x8; "
        "f = MatMul(n, w1); g = Gelu(f); w2 = %8x6; h = MatMul(g, w2); e = Add(x0, h); "
        "l = LayerNormalization(e, %6, %6); y = MatMul(l, %6x5)",
        "w0 6 ~; w1 8",
        1.0,
        inputs=TOKENS,
        allow=("statistics",),
    ),
    Pattern(
        "root mean square norm by parts, statistics allowed",
        "w0 = %6x6; x0 = MatMul(x, w0); p = Pow(x0, @2.0); m = ReduceMean(p, @[-1]); d = Add(m, @0.001); "
        "s = Sqrt(d); r = Div(x0, s); n = Mul(r, %6); w1 = %6x8; f = MatMul(n, w1); g = Relu(f); "
        "w2 = %8x6; h = MatMul(g, w2); e = Add(x0, h); y = MatMul(e, %6x5)",
        "w0 6 ~; w1 8",
        1.0,
        inputs=TOKENS,
        allow=("statistics",),
    ),
    Pattern(
        "tied embedding and head",
        "t = %9x6; i = Gather(t, ids); w1 = %6x8; f = MatMul(i, w1); g = Relu(f); w2 = %8x6; "
        "h = MatMul(g, w2); e = Add(i, h); tt = Transpose<perm=[1,0]>(t); y = MatMul(e, tt)",
        "t 6; w1 8",
        1.0,
        inputs="int64[2,4] ids",
        below=9,
    ),
    Pattern(
        "experts",
        "w1 = %6x8; h = MatMul(x, w1); wg = %8x2; s = MatMul(h, wg); a = Softmax(s); "
        "g1, g2 = Split<axis=2, num_outputs=2>(a); u1 = %8x5; e1 = MatMul(h, u1); r1 = Relu(e1); "
        "v1 = %5x7; o1 = MatMul(r1, v1); u2 = %8x5; e2 = MatMul(h, u2); r2 = Relu(e2); v2 = %5x7; "
        "o2 = MatMul(r2, v2); m1 = Mul(o1, g1); m2 = Mul(o2, g2); e = Add(m1, m2); y = MatMul(e, %7x3)",
        "w1 8; u1 5; v1 7; u2 5",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "experts in one tensor",
        "wg = %6x3; s = MatMul(x, wg); v, i = TopK(s, @[1]); r = Squeeze(i, @[1]); w1 = %3x6x8; "
        "u = Gather<axis=0>(w1, r); f = Unsqueeze(x, @[1]); a = MatMul(f, u); b = Relu(a); w2 = %3x8x5; "
        "d = Gather<axis=0>(w2, r); o = MatMul(b, d); y = Mul(o, @2.0)",
        "w1 8",
        0.83,
        inputs="float[2,6] x",
    ),
    # recurrent
    Pattern(
        "stacked LSTM",
        "w1 = %1x20x6; r1 = %1x20x5; b1 = %1x40; a = LSTM<hidden_size=5>(x, w1, r1, b1); "
        "s = Squeeze(a, @[1]); w2 = %1x16x5; r2 = %1x16x4; b = LSTM<hidden_size=4>(s, w2, r2); "
        "t = Squeeze(b, @[1]); y = MatMul(t, %4x3)",
        "w1 5x4; w2 4x4",
        1.0,
        inputs="float[4,2,6] x",
    ),
    Pattern(
        "bidirectional GRU",
        'w1 = %2x15x6; r1 = %2x15x5; a = GRU<hidden_size=5, direction="bidirectional">(x, w1, r1); '
        "t = Transpose<perm=[0,2,1,3]>(a); c = Reshape(t, @[0, 0, -1]); y = MatMul(c, %10x3)",
        "w1 5x3",
        1.0,
        inputs="float[4,2,6] x",
    ),
    Pattern(
        "embedding and RNN",
        "e = %9x6; i = Gather(e, ids); w1 = %1x5x6; r1 = %1x5x5; a, h = RNN<hidden_size=5>(i, w1, r1); "
        "s = Squeeze(h, @[0]); y = MatMul(s, %5x3)",
        "e 6; w1 5",
        1.0,
        inputs="int64[4,2] ids",
        below=9,
    ),
    # control flow, functions, other domains
    Pattern(
        "If",
        "w1 = %6x3x1x1; a = Conv(x, w1); "
        "b = If (c) <then_branch = t () => (float[1,6,4,4] u) { u = Relu(a) }, else_branch = e () => (float[1,6,4,4] v) { v = Neg(a) }>; "
        "y = Conv(b, %4x6x1x1)",
        "w1 6",
        1.0,
        inputs="float[1,3,4,4] x, bool c",
    ),
    Pattern(
        "Scan",
        "w1 = %6x5; a = MatMul(x, w1); s = %2x5; "
        "f, q = Scan<num_scan_inputs=1, body = b (float[2,5] h, float[2,5] i) => (float[2,5] o, float[2,5] z) { o = Add(h, i)\nz = Relu(o) }>(s, a); "
        "y = MatMul(q, %5x3)",
        "w1 5",
        1.0,
        inputs="float[4,2,6] x",
    ),
    Pattern(
        "Loop",
        "w1 = %6x5; a = MatMul(x, w1); n = Constant<value_int = 3>(); t = Constant<value = bool {1}>(); "
        "f = Loop<body = b (int64 i, bool c, float[2,4,5] h) => (bool d, float[2,4,5] o) { d = Identity(c)\no = Relu(h) }>(n, t, a); "
        "y = MatMul(f, %5x3)",
        "w1 5",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "functions",
        "w1 = %6x5; b1 = %5; p = local.dense(x, w1, b1); w2 = %5x7; b2 = %7; q = local.dense(p, w2, b2); "
        "y = MatMul(q, %7x3)",
        "w1 5; w2 7",
        1.0,
        inputs=TOKENS,
        domains={"local": 1},
        functions=DENSE,
    ),
    Pattern(
        "an unknown operator in the middle",
        "w1 = %6x5; a = MatMul(x, w1); w2 = %5x7; b = MatMul(a, w2); c = strange.Warp(b); w3 = %7x4; "
        "d = MatMul(c, w3); y = MatMul(d, %4x3)",
        "w1 5",
        1.0,
        inputs=TOKENS,
        outputs="float[2,4,3] y",
        domains={"strange": 1},
        runs=False,
    ),
    # normalisation
    Pattern(
        "batch normalisation",
        "w1 = %6x3x1x1; a = Conv(x, w1); b = BatchNormalization(a, %6, %6, %6, %+6); r = Relu(b); "
        "y = Conv(r, %4x6x1x1)",
        "w1 6",
        1.0,
    ),
    Pattern(
        "instance normalisation",
        "w1 = %6x3x1x1; a = Conv(x, w1); b = InstanceNormalization(a, %6, %6); y = Conv(b, %4x6x1x1)",
        "w1 6",
        1.0,
    ),
    Pattern(
        "group normalisation",
        "w1 = %6x3x1x1; a = Conv(x, w1); b = GroupNormalization<num_groups=3>(a, %6, %6); y = Conv(b, %4x6x1x1)",
        "w1 3x2",
        1.0,
    ),
    Pattern(
        "response normalisation",
        "w1 = %6x3x1x1; a = Conv(x, w1); b = LRN<size=3>(a); y = Conv(b, %4x6x1x1)",
        "w1 6 ~",
        1.0,
    ),
    Pattern(
        "global response normalisation, statistics allowed",
        "w1 = %6x8; a = MatMul(x, w1); g = ReduceL2(a, @[1]); m = ReduceMean(g, @[-1]); "
        "d = Add(m, @0.001); n = Div(g, d); s = Mul(a, n); t = Mul(s, %8); e = Add(a, t); "
        "y = MatMul(e, %8x3)",
        "w1 8 ~",
        1.0,
        inputs=TOKENS,
        allow=("statistics",),
    ),
    Pattern(
        "standardised weights",
        "w1 = %6x3x1x1; m = ReduceMean(w1, @[1, 2, 3]); d = Sub(w1, m); a = Conv(x, d); y = Conv(a, %4x6x1x1)",
        "w1 6",
        1.0,
    ),
    # storage
    Pattern(
        "quantised by pairs of nodes",
        "w1 = %6x3x1x1:int8; s1 = %+6; wd = DequantizeLinear<axis=0>(w1, s1); a = Conv(x, wd); "
        "q = QuantizeLinear(a, @0.1, @0:int8); d = DequantizeLinear(q, @0.1, @0:int8); "
        "w2 = %4x6x1x1:int8; s2 = %+4; we = DequantizeLinear<axis=0>(w2, s2); y = Conv(d, we)",
        "w1 6",
        1.0,
    ),
    Pattern(
        "quantised operator",
        "q = QuantizeLinear(x, @0.1, @0:int8); w1 = %6x3x1x1:int8; "
        "c = QLinearConv(q, @0.1, @0:int8, w1, @0.05, @0:int8, @0.5, @0:int8); w2 = %4x6x1x1:int8; "
        "e = QLinearConv(c, @0.5, @0:int8, w2, @0.05, @0:int8, @2.0, @0:int8); "
        "y = DequantizeLinear(e, @2.0, @0:int8)",
        "w1 6",
        1.0,
    ),
    Pattern(
        "half precision",
        "w1 = %6x3x1x1:float16; a = Conv(x, w1); r = Relu(a); y = Conv(r, %4x6x1x1:float16)",
        "w1 6",
        1.0,
        inputs="float16[1,3,4,4] x",
        outputs="float16[] y",
    ),
    Pattern(
        "double precision",
        "w1 = %6x5:double; a = MatMul(x, w1); r = Tanh(a); y = MatMul(r, %5x3:double)",
        "w1 5",
        1.0,
        inputs="double[2,4,6] x",
        outputs="double[] y",
    ),
    Pattern(
        "initializers that are inputs (IR 3)",
        "w1 = %6x3x1x1; a = Conv(x, w1, %6); r = Relu(a); w2 = %5x6x1x1; b = Conv(r, w2); "
        "e = Add(b, %5x1x1); y = Conv(e, %4x5x1x1)",
        "w1 6; w2 5",
        1.0,
        opset=8,
        ir_version=3,
        change=as_inputs,
    ),
    Pattern(
        "weights in Constant nodes",
        "w1 = %6x3x1x1; a = Conv(x, w1, %6); r = Relu(a); w2 = %5x6x1x1; b = Conv(r, w2); "
        "e = Add(b, %5x1x1); y = Conv(e, %4x5x1x1)",
        "w1 6; w2 5",
        1.0,
        change=as_constants,
    ),
    Pattern(
        "opset 7",
        "w1 = %6x3x1x1; a = Conv(x, w1, %6); r = Relu(a); w2 = %5x6x1x1; b = Conv(r, w2); "
        "e = Add(b, %5x1x1); y = Conv(e, %4x5x1x1)",
        "w1 6; w2 5",
        1.0,
        opset=7,
    ),
    Pattern(
        "opset 8",
        "w1 = %6x3x1x1; a = Conv(x, w1, %6); r = Relu(a); w2 = %5x6x1x1; b = Conv(r, w2); "
        "e = Add(b, %5x1x1); y = Conv(e, %4x5x1x1)",
        "w1 6; w2 5",
        1.0,
        opset=8,
    ),
    Pattern(
        "opset 9",
        "w1 = %6x3x1x1; a = Conv(x, w1, %6); r = Relu(a); w2 = %5x6x1x1; b = Conv(r, w2); "
        "e = Add(b, %5x1x1); y = Conv(e, %4x5x1x1)",
        "w1 6; w2 5",
        1.0,
        opset=9,
    ),
    Pattern(
        "opset 10",
        "w1 = %6x3x1x1; a = Conv(x, w1, %6); r = Relu(a); w2 = %5x6x1x1; b = Conv(r, w2); "
        "e = Add(b, %5x1x1); y = Conv(e, %4x5x1x1)",
        "w1 6; w2 5",
        1.0,
        opset=10,
    ),
    Pattern(
        "opset 11",
        "w1 = %6x3x1x1; a = Conv(x, w1, %6); r = Relu(a); w2 = %5x6x1x1; b = Conv(r, w2); "
        "e = Add(b, %5x1x1); y = Conv(e, %4x5x1x1)",
        "w1 6; w2 5",
        1.0,
        opset=11,
    ),
    Pattern(
        "opset 12",
        "w1 = %6x3x1x1; a = Conv(x, w1, %6); r = Relu(a); w2 = %5x6x1x1; b = Conv(r, w2); "
        "e = Add(b, %5x1x1); y = Conv(e, %4x5x1x1)",
        "w1 6; w2 5",
        1.0,
        opset=12,
    ),
    Pattern(
        "opset 13",
        "w1 = %6x3x1x1; a = Conv(x, w1, %6); r = Relu(a); w2 = %5x6x1x1; b = Conv(r, w2); "
        "e = Add(b, %5x1x1); y = Conv(e, %4x5x1x1)",
        "w1 6; w2 5",
        1.0,
        opset=13,
    ),
    Pattern(
        "opset 15",
        "w1 = %6x3x1x1; a = Conv(x, w1, %6); r = Relu(a); w2 = %5x6x1x1; b = Conv(r, w2); "
        "e = Add(b, %5x1x1); y = Conv(e, %4x5x1x1)",
        "w1 6; w2 5",
        1.0,
        opset=15,
    ),
    Pattern(
        "opset 17",
        "w1 = %6x3x1x1; a = Conv(x, w1, %6); r = Relu(a); w2 = %5x6x1x1; b = Conv(r, w2); "
        "e = Add(b, %5x1x1); y = Conv(e, %4x5x1x1)",
        "w1 6; w2 5",
        1.0,
        opset=17,
    ),
    Pattern(
        "opset 18",
        "w1 = %6x3x1x1; a = Conv(x, w1, %6); r = Relu(a); w2 = %5x6x1x1; b = Conv(r, w2); "
        "e = Add(b, %5x1x1); y = Conv(e, %4x5x1x1)",
        "w1 6; w2 5",
        1.0,
        opset=18,
    ),
    Pattern(
        "opset 20",
        "w1 = %6x3x1x1; a = Conv(x, w1, %6); r = Relu(a); w2 = %5x6x1x1; b = Conv(r, w2); "
        "e = Add(b, %5x1x1); y = Conv(e, %4x5x1x1)",
        "w1 6; w2 5",
        1.0,
        opset=20,
    ),
    Pattern(
        "opset 22",
        "w1 = %6x3x1x1; a = Conv(x, w1, %6); r = Relu(a); w2 = %5x6x1x1; b = Conv(r, w2); "
        "e = Add(b, %5x1x1); y = Conv(e, %4x5x1x1)",
        "w1 6; w2 5",
        1.0,
        opset=22,
    ),
    Pattern(
        "opset 24",
        "w1 = %6x3x1x1; a = Conv(x, w1, %6); r = Relu(a); w2 = %5x6x1x1; b = Conv(r, w2); "
        "e = Add(b, %5x1x1); y = Conv(e, %4x5x1x1)",
        "w1 6; w2 5",
        1.0,
        opset=24,
    ),
)
