"""One row per operator (and per opset where its meaning changed): a small network and the groups to be found in it.

Most rows put the operator between a producer, whose output is ``p``, and a consumer, which reads ``h``; see FRAMES.
The golden lines are those of ``oracles.golden_lines``: groups with width, multiplicity, members and roles, then
(``!``) what is frozen.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from networks import DEFAULT_OPSET, network
from onnx import ModelProto

from onnxprune.coupling.groups import ONLY_UNIT
from onnxprune.coupling.spec import LOSSY


@dataclass(frozen=True)
class Frame:
    """What stands before and after the operator under test."""

    inputs: str
    before: str
    after: str


FRAMES = {
    "conv": Frame(
        "float[2,3,4,4] x", "w1 = %6x3x1x1; b1 = %6; p = Conv(x, w1, b1)", "w2 = %5x{width}x1x1; y = Conv(h, w2)"
    ),
    "dense": Frame("float[2,3] x", "w1 = %3x6; b1 = %6; p = Gemm(x, w1, b1)", "w2 = %{width}x5; y = MatMul(h, w2)"),
    "tokens": Frame(
        "float[2,4,3] x", "w1 = %3x6; b1 = %6; m = MatMul(x, w1); p = Add(m, b1)", "w2 = %{width}x5; y = MatMul(h, w2)"
    ),
    "open": Frame("float[2,3,4,4] x", "", ""),
}


@dataclass(frozen=True)
class Row:
    """``text``: ONNX text between frame and frame; ``golden``: lines expected; the rest are options of ``network``."""

    name: str
    text: str
    golden: tuple[str, ...]
    frame: str = "conv"
    width: int = 6  # of the axis that the consumer reads
    inputs: str = ""  # instead of the frame's
    after: str | None = None  # instead of the frame's
    outputs: str = "float[] y"
    opset: int = DEFAULT_OPSET
    domains: dict[str, int] = field(default_factory=dict)
    functions: str = ""
    allow: tuple[str, ...] = ()  # lossy kinds that may be cut
    below: int = 2  # integer inputs are drawn under this
    runs: bool = True  # False: an operator the runtime does not have

    def model(self) -> ModelProto:
        frame = FRAMES[self.frame]
        after = frame.after if self.after is None else self.after
        body = "\n".join([frame.before, self.text, after.replace("{width}", str(self.width))])
        inputs = self.inputs or frame.inputs
        return network(body, inputs, self.outputs, opset=self.opset, domains=self.domains, functions=self.functions)


def row(name: str, text: str, *golden: str, **options) -> Row:
    return Row(name, text, golden, **options)


MICROSOFT = {"com.microsoft": 1}
STATISTICAL = ("statistics",)
STATISTICS = LOSSY["statistics"]
WINDOW = "a window slides over this axis"
PLAIN = "w1 6: w1.0 writes, b1.0 shifts, w2.1 reads"
DENSE = "w1 6: w1.1 writes, b1.0 shifts, w2.0 reads"


def stays(reason: str, *axes: str) -> list[str]:
    """Golden lines of axes (``w1.0 6/6``: parameter, axis, positions that stay) frozen for one reason."""
    return [f"! {axis}: {reason}" for axis in axes]


CONTRACTION = [
    row(
        "Conv",
        "h = Conv<pads=[1,1,1,1], strides=[2,2]>(p, %8x6x3x3, %8)",
        "w1 6: w1.0 writes, b1.0 shifts, t3.1 reads",
        "t3 8: t3.0 writes, t4.0 shifts, w2.1 reads",
        *stays(WINDOW, "t3.2 3/3", "t3.3 3/3"),
        width=8,
    ),
    row(
        "Conv/no bias",
        'h = Conv<auto_pad="SAME_UPPER">(p, %8x6x2x3)',
        "w1 6: w1.0 writes, b1.0 shifts, t3.1 reads",
        "t3 8: t3.0 writes, w2.1 reads",
        *stays(WINDOW, "t3.2 2/2", "t3.3 3/3"),
        width=8,
    ),
    row(
        "Conv/1-D",
        "w1 = %6x3x1; b1 = %6; p = Conv(x, w1, b1); q = Conv<pads=[1,1]>(p, %8x6x3); y = Conv(q, %5x8x1)",
        "w1 6: w1.0 writes, b1.0 shifts, t3.1 reads",
        "t3 8: t3.0 writes, t4.1 reads",
        *stays(WINDOW, "t3.2 3/3"),
        frame="open",
        inputs="float[2,3,7] x",
    ),
    row(
        "Conv/3-D",
        "w1 = %6x3x1x1x1; b1 = %6; p = Conv(x, w1, b1); y = Conv(p, %5x6x2x2x2)",
        "w1 6: w1.0 writes, b1.0 shifts, t3.1 reads",
        *stays(WINDOW, "t3.2 2/2", "t3.3 2/2", "t3.4 2/2"),
        frame="open",
        inputs="float[1,3,2,3,4] x",
    ),
    row(
        "Conv/depthwise",
        "h = Conv<group=6, pads=[1,1,1,1]>(p, %6x1x3x3, %6)",
        "w1 6: w1.0 writes, b1.0 shifts, t3.0 scales, t4.0 shifts, w2.1 reads",
        *stays(WINDOW, "t3.2 3/3", "t3.3 3/3"),
    ),
    row(
        "Conv/multiplier 2",
        "h = Conv<group=6>(p, %12x1x1x1, %12)",
        "w1 6: w1.0 writes, b1.0 shifts, t3.0 scales, t4.0 shifts, w2.1 reads",
        width=12,
    ),
    row(
        "Conv/groups",
        "h = Conv<group=2>(p, %8x3x1x1, %8)",
        "w1 3x2: w1.0 writes, b1.0 shifts, t3.1 reads",
        "t3 4x2: t3.0 writes, t4.0 shifts, w2.1 reads",
        width=8,
    ),
    row(
        "Conv/groups of unequal count",
        "h = Conv<group=3>(p, %12x2x1x1); q = Conv<group=2>(h, %4x6x1x1); y = Conv(q, %5x4x1x1)",
        "w1 2x3: w1.0 writes, b1.0 shifts, t3.1 reads",
        "t3 2x6: t3.0 writes, t4.1 reads",
        "t4 2x2: t4.0 writes, t5.1 reads",
        frame="conv",
        after="",
    ),
    row(
        "Conv/weight used twice",
        "s = %6x6x1x1; q = Conv(p, s); r = Relu(q); h = Conv(r, s)",
        "w1 6: w1.0 writes, b1.0 shifts, s.0 writes, s.1 reads, w2.1 reads",
    ),
    row(
        "Conv/space carries",
        "p = MatMul(x, %4x6); q = Conv(p, %5x3x1x1); y = MatMul(q, %6x7)",
        "t1 6: t1.1 writes, t3.0 reads",
        frame="open",
    ),
    row(
        "ConvTranspose",
        "h = ConvTranspose<strides=[2,2], output_padding=[1,1]>(p, %6x8x3x3, %8)",
        "w1 6: w1.0 writes, b1.0 shifts, t3.0 reads",
        "t3 8: t3.1 writes, t4.0 shifts, w2.1 reads",
        *stays(WINDOW, "t3.2 3/3", "t3.3 3/3"),
        width=8,
    ),
    row(
        "ConvTranspose/groups",
        "h = ConvTranspose<group=2>(p, %6x4x2x2, %8)",
        "w1 2x3: w1.0 writes, b1.0 shifts, t3.0 scales, t4.0 shifts, w2.1 reads",
        *stays("a factor of the same axis as 'g', which is cut instead", "t3.1 4/4"),
        *stays(WINDOW, "t3.2 2/2", "t3.3 2/2"),
        width=8,
    ),
    row(
        "ConvTranspose/depthwise",
        "h = ConvTranspose<group=6>(p, %6x1x2x2)",
        "w1 6: w1.0 writes, b1.0 shifts, t3.0 scales, w2.1 reads",
        *stays(WINDOW, "t3.2 2/2", "t3.3 2/2"),
    ),
    row(
        "ConvTranspose/opset 1",
        "h = ConvTranspose<group=3>(p, %6x2x2x2)",
        "w1 3x2: w1.0 writes, b1.0 shifts, t3.0 scales, w2.1 reads",
        *stays("a factor of the same axis as 'g', which is cut instead", "t3.1 2/2"),
        *stays(WINDOW, "t3.2 2/2", "t3.3 2/2"),
        opset=8,
    ),
    row(
        "Gemm",
        "h = Gemm(p, %6x8, %8)",
        "w1 6: w1.1 writes, b1.0 shifts, t3.0 reads",
        "t3 8: t3.1 writes, t4.0 shifts, w2.0 reads",
        frame="dense",
        width=8,
    ),
    row(
        "Gemm/transposed",
        "q = Gemm<transB=1, alpha=0.5, beta=2.0>(p, %8x6, %1x8); t = Transpose(q); h = Gemm<transA=1>(t, %8x7)",
        "w1 6: w1.1 writes, b1.0 shifts, t3.1 reads",
        "t3 8: t3.0 writes, t4.1 shifts, t5.0 reads",
        "t5 7: t5.1 writes, w2.0 reads",
        frame="dense",
        width=7,
    ),
    row(
        "Gemm/scalar shift",
        "h = Gemm(p, %6x8, %)",
        "w1 6: w1.1 writes, b1.0 shifts, t3.0 reads",
        "t3 8: t3.1 writes, w2.0 reads",
        frame="dense",
        width=8,
    ),
    row(
        "Gemm/shift per row",
        "h = Gemm(p, %6x8, %2x1)",
        "w1 6: w1.1 writes, b1.0 shifts, t3.0 reads",
        "t3 8: t3.1 writes, w2.0 reads",
        frame="dense",
        width=8,
    ),
    row(
        "Gemm/opset 9",
        "h = Gemm(p, %6x8, %8)",
        "w1 6: w1.1 writes, b1.0 shifts, t3.0 reads",
        "t3 8: t3.1 writes, t4.0 shifts, w2.0 reads",
        frame="dense",
        width=8,
        opset=9,
    ),
    row(
        "MatMul/weight on the left",
        "t = Transpose<perm=[0,2,1]>(p); q = MatMul(%8x6, t); h = Transpose<perm=[0,2,1]>(q)",
        "w1 6: w1.1 writes, b1.0 shifts, t3.1 reads",
        "t3 8: t3.0 writes, w2.0 reads",
        frame="tokens",
        width=8,
    ),
    row(
        "MatMul/stacked weights",
        "h = MatMul(p, %2x6x8)",
        "w1 6: w1.1 writes, b1.0 shifts, t3.1 reads",
        "t3 8: t3.2 writes, w2.0 reads",
        frame="tokens",
        width=8,
    ),
    row("MatMul/column", "y = MatMul(p, %6)", "w1 6: w1.1 writes, b1.0 shifts, t3.0 reads", frame="tokens", after=""),
    row(
        "MatMul/row",
        "t = Transpose<perm=[0,2,1]>(p); y = MatMul(%6, t)",
        "w1 6: w1.1 writes, b1.0 shifts, t3.0 reads",
        frame="tokens",
        after="",
    ),
    row(
        "MatMul/attention",
        "k = MatMul(x, %3x6); v = MatMul(x, %3x8); t = Transpose<perm=[0,2,1]>(k); s = MatMul(p, t); "
        "a = Softmax(s); h = MatMul(a, v)",
        "w1 6: w1.1 writes, b1.0 shifts, t3.1 writes",
        "t4 8: t4.1 writes, w2.0 reads",
        frame="tokens",
        width=8,
    ),
    row(
        "MatMul/opset 1",
        "h = MatMul(p, %6x8)",
        "w1 6: w1.1 writes, b1.0 shifts, t3.0 reads",
        "t3 8: t3.1 writes, w2.0 reads",
        frame="dense",
        width=8,
        opset=7,
    ),
    row(
        "MatMulInteger",
        "a = Abs(p); c = Cast<to=2>(a); i = MatMulInteger(c, %6x8:uint8); h = Cast<to=1>(i)",
        "w1 6: w1.1 writes, b1.0 shifts, t3.0 reads",
        "t3 8: t3.1 writes, w2.0 reads",
        frame="dense",
        width=8,
    ),
    row(
        "MatMulInteger/zero points",
        "a = Abs(p); c = Cast<to=2>(a); i = MatMulInteger(c, %6x8:uint8, @0:uint8, %8:uint8); h = Cast<to=1>(i)",
        "w1 6: w1.1 writes, b1.0 shifts, t3.0 reads",
        "t3 8: t3.1 writes, t5.0 shifts, w2.0 reads",
        frame="dense",
        width=8,
    ),
    row(
        "FusedConv",
        'h = com.microsoft.FusedConv<activation="Relu", pads=[1,1,1,1]>(p, %8x6x3x3, %8)',
        "w1 6: w1.0 writes, b1.0 shifts, t3.1 reads",
        "t3 8: t3.0 writes, t4.0 shifts, w2.1 reads",
        *stays(WINDOW, "t3.2 3/3", "t3.3 3/3"),
        width=8,
        outputs="float[2,5,4,4] y",
        domains=MICROSOFT,
    ),
    row(
        "FusedConv/residual",
        'q = Conv(x, %8x3x1x1); h = com.microsoft.FusedConv<activation="Relu">(p, %8x6x1x1, %8, q)',
        "w1 6: w1.0 writes, b1.0 shifts, t4.1 reads",
        "t3 8: t3.0 writes, t4.0 writes, t5.0 shifts, w2.1 reads",
        width=8,
        outputs="float[2,5,4,4] y",
        domains=MICROSOFT,
    ),
]

NORMALIZATION = [
    row(
        "BatchNormalization",
        "h = BatchNormalization(p, %6, %6, %6, %+6)",
        "w1 6: w1.0 writes, b1.0 shifts, t3.0 scales, t4.0 shifts, t5.0 shifts, t6.0 scales, w2.1 reads",
    ),
    row(
        "BatchNormalization/rank 2",
        "h = BatchNormalization(p, %6, %6, %6, %+6)",
        "w1 6: w1.1 writes, b1.0 shifts, t3.0 scales, t4.0 shifts, t5.0 shifts, t6.0 scales, w2.0 reads",
        frame="dense",
        opset=9,
    ),
    row(
        "BatchNormalization/opset 7",
        "h = BatchNormalization(p, %6, %6, %6, %+6)",
        "w1 6: w1.0 writes, b1.0 shifts, t3.0 scales, t4.0 shifts, t5.0 shifts, t6.0 scales, w2.1 reads",
        opset=7,
    ),
    row(
        "BatchNormalization/opset 14",
        "h = BatchNormalization<epsilon=0.1>(p, %6, %6, %6, %+6)",
        "w1 6: w1.0 writes, b1.0 shifts, t3.0 scales, t4.0 shifts, t5.0 shifts, t6.0 scales, w2.1 reads",
        opset=14,
    ),
    row(
        "InstanceNormalization",
        "h = InstanceNormalization(p, %6, %6)",
        "w1 6: w1.0 writes, b1.0 shifts, t3.0 scales, t4.0 shifts, w2.1 reads",
    ),
    row(
        "LayerNormalization",
        "h = LayerNormalization(p, %6, %6)",
        *stays(STATISTICS, "w1.1 6/6", "b1.0 6/6", "t3.0 6/6", "t4.0 6/6", "w2.0 6/6"),
        frame="tokens",
    ),
    row(
        "LayerNormalization/cut",
        "h = LayerNormalization(p, %6, %6)",
        "w1 6: w1.1 writes, b1.0 shifts, t3.0 scales, t4.0 shifts, w2.0 reads ~ LayerNormalization",
        frame="tokens",
        allow=STATISTICAL,
    ),
    row(
        "LayerNormalization/no shift",
        "h = LayerNormalization(p, %6)",
        "w1 6: w1.1 writes, b1.0 shifts, t3.0 scales, w2.0 reads ~ LayerNormalization",
        frame="tokens",
        allow=STATISTICAL,
        opset=17,
    ),
    row(
        "LayerNormalization/three axes",
        "h = LayerNormalization<axis=1>(p, %6x4x4, %4)",
        "w1 6: w1.0 writes, b1.0 shifts, t3.0 scales, w2.1 reads ~ LayerNormalization",
        allow=STATISTICAL,
    ),
    row(
        "LayerNormalization/other axis",
        "h = LayerNormalization<axis=-1>(p, %4, %4)",
        PLAIN,
    ),
    row(
        "LayerNormalization/statistics",
        "h, m1, d = LayerNormalization(p, %6, %6); y = Add(m1, d)",
        "w1 6: w1.1 writes, b1.0 shifts, t3.0 scales, t4.0 shifts, t5.0 reads ~ LayerNormalization",
        frame="tokens",
        after="y2 = MatMul(h, %6x5)",
        outputs="float[] y, float[] y2",
        allow=STATISTICAL,
    ),
    row(
        "RMSNormalization",
        "h = RMSNormalization(p, %6)",
        *stays(STATISTICS, "w1.1 6/6", "b1.0 6/6", "t3.0 6/6", "w2.0 6/6"),
        frame="tokens",
        opset=23,
    ),
    row(
        "RMSNormalization/cut",
        "h = RMSNormalization(p, %6)",
        "w1 6: w1.1 writes, b1.0 shifts, t3.0 scales, w2.0 reads ~ RMSNormalization",
        frame="tokens",
        opset=23,
        allow=STATISTICAL,
    ),
    row("LRN", "h = LRN<size=3>(p)", "w1 6: w1.0 writes, b1.0 shifts, w2.1 reads ~ LRN"),
    # a gate computed by a window over the channels
    row(
        "Conv/over channels",
        "g = GlobalAveragePool(p); s = Reshape(g, @[0, 1, 6]); q = Conv<pads=[1,1]>(s, %1x1x3); e = Sigmoid(q);"
        "u = Reshape(e, @[0, 6, 1, 1]); h = Mul(p, u)",
        "w1 6: w1.0 writes, b1.0 shifts, w2.1 reads ~ Conv",
        *stays(WINDOW, "t4.2 3/3"),
    ),
    # a response norm as sums over channels, padded first
    row(
        "AveragePool/over channels",
        "s = Mul(p, p); u = Unsqueeze(s, @[1]); f = Pad(u, @[0, 0, 1, 0, 0, 0, 0, 1, 0, 0]);"
        "a = AveragePool<kernel_shape=[3,1,1]>(f); q = Squeeze(a, @[1]); d = Add(q, @1.0); h = Div(p, d)",
        "w1 6: w1.0 writes, b1.0 shifts, w2.1 reads ~ AveragePool",
    ),
    row(
        "MaxPool/over channels",
        "u = Unsqueeze(p, @[1]); a = MaxPool<kernel_shape=[3,1,1], pads=[1,0,0,1,0,0]>(u); h = Squeeze(a, @[1])",
        "w1 6: w1.0 writes, b1.0 shifts, w2.1 reads ~ MaxPool",
    ),
    row(
        "BatchNormalization/of the batch itself",
        "h, m, v = BatchNormalization<training_mode=1>(p, %6, %6, %6, %+6)",
        "w1 6: w1.0 writes, b1.0 shifts, t3.0 scales, t4.0 shifts, t5.0 shifts, t6.0 scales, w2.1 reads",
    ),
    row("LpNormalization", "h = LpNormalization<axis=1, p=2>(p)", PLAIN),
    row("LpNormalization/sum of absolute values", "h = LpNormalization<axis=1, p=1>(p)", PLAIN),
    row("LpNormalization/other axis", "h = LpNormalization(p)", PLAIN),
    row("MeanVarianceNormalization", "h = MeanVarianceNormalization<axes=[0,2,3]>(p)", PLAIN),
    row(
        "MeanVarianceNormalization/across channels",
        "h = MeanVarianceNormalization<axes=[0,1,2,3]>(p)",
        *stays(STATISTICS, "w1.0 6/6", "b1.0 6/6", "w2.1 6/6"),
        opset=9,
    ),
    row(
        "MeanVarianceNormalization/cut",
        "h = MeanVarianceNormalization<axes=[1]>(p)",
        "w1 6: w1.0 writes, b1.0 shifts, w2.1 reads ~ MeanVarianceNormalization",
        opset=13,
        allow=STATISTICAL,
    ),
    row("Softmax", "h = Softmax<axis=-1>(p)", *stays(STATISTICS, "w1.1 6/6", "b1.0 6/6", "w2.0 6/6"), frame="tokens"),
    row(
        "Softmax/cut",
        "h = Softmax<axis=1>(p)",
        "w1 6: w1.0 writes, b1.0 shifts, w2.1 reads ~ Softmax",
        allow=STATISTICAL,
    ),
    row("Softmax/opset 11", "h = Softmax<axis=2>(p)", PLAIN, opset=11),
    row(
        "LogSoftmax",
        "h = LogSoftmax<axis=-1>(p)",
        *stays(STATISTICS, "w1.1 6/6", "b1.0 6/6", "w2.0 6/6"),
        frame="tokens",
    ),
    row(
        "LogSoftmax/cut",
        "h = LogSoftmax<axis=1>(p)",
        "w1 6: w1.0 writes, b1.0 shifts, w2.1 reads ~ LogSoftmax",
        allow=STATISTICAL,
    ),
    row("LogSoftmax/opset 11", "h = LogSoftmax<axis=2>(p)", PLAIN, opset=11),
    row("Hardmax", "h = Hardmax<axis=-1>(p)", *stays(STATISTICS, "w1.1 6/6", "b1.0 6/6", "w2.0 6/6"), frame="tokens"),
    row(
        "Hardmax/cut",
        "h = Hardmax<axis=1>(p)",
        "w1 6: w1.0 writes, b1.0 shifts, w2.1 reads ~ Hardmax",
        allow=STATISTICAL,
    ),
    row("Hardmax/opset 11", "h = Hardmax<axis=2>(p)", PLAIN, opset=11),
    row(
        "Softmax/opset 11, all axes from 1",
        "h = Softmax(p)",
        *stays(STATISTICS, "w1.0 6/6", "b1.0 6/6", "w2.1 6/6"),
        opset=11,
    ),
    row(
        "Softmax/opset 11, two axes",
        "h = Softmax<axis=1>(p)",
        *stays(STATISTICS, "w1.1 6/6", "b1.0 6/6", "w2.0 6/6"),
        frame="tokens",
        opset=11,
    ),
    row(
        "Softmax/opset 11, cut",
        "h = Softmax(p)",
        "w1 6: w1.0 writes, b1.0 shifts, w2.1 reads ~ Softmax",
        opset=11,
        allow=STATISTICAL,
    ),
    row(
        "GroupNormalization",
        "h = GroupNormalization<num_groups=3>(p, %6, %6)",
        "w1 3x2: w1.0 writes, b1.0 shifts, t3.0 scales, t4.0 shifts, w2.1 reads",
    ),
    row(
        "GroupNormalization/opset 21",
        "h = GroupNormalization<num_groups=3>(p, %6, %6)",
        "w1 3x2: w1.0 writes, b1.0 shifts, t3.0 scales, t4.0 shifts, w2.1 reads",
    ),
    row(
        "GroupNormalization/narrower",
        "h = GroupNormalization<num_groups=2>(p, %6, %6)",
        "w1 2x3: w1.0 writes, b1.0 shifts, t3.0 scales, t4.0 shifts, w2.1 reads",
        allow=STATISTICAL,
    ),
    row(
        "GroupNormalization/per channel",
        "h = GroupNormalization<num_groups=6>(p, %6, %6)",
        "w1 6: w1.0 writes, b1.0 shifts, t3.0 scales, t4.0 shifts, w2.1 reads",
    ),
]

REDUCTION = [
    row("ReduceSum", "h = ReduceSum(p, @[1])", "w1 6: w1.0 writes, b1.0 shifts", width=1),
    row("ReduceSum/space", "h = ReduceSum(p, @[-2, 3])", PLAIN),
    row("ReduceSum/opset 11", "h = ReduceSum<axes=[2], keepdims=1>(p)", PLAIN, opset=11),
    row("ReduceL1", "h = ReduceL1(p, @[1])", "w1 6: w1.0 writes, b1.0 shifts", width=1),
    row("ReduceL1/space", "h = ReduceL1(p, @[-2, 3])", PLAIN),
    row("ReduceL1/opset 11", "h = ReduceL1<axes=[2], keepdims=1>(p)", PLAIN, opset=11),
    row("ReduceL2", "h = ReduceL2(p, @[1])", "w1 6: w1.0 writes, b1.0 shifts", width=1),
    row("ReduceL2/space", "h = ReduceL2(p, @[-2, 3])", PLAIN),
    row("ReduceL2/opset 11", "h = ReduceL2<axes=[2], keepdims=1>(p)", PLAIN, opset=11),
    row("ReduceSumSquare", "h = ReduceSumSquare(p, @[1])", "w1 6: w1.0 writes, b1.0 shifts", width=1),
    row("ReduceSumSquare/space", "h = ReduceSumSquare(p, @[-2, 3])", PLAIN),
    row("ReduceSumSquare/opset 11", "h = ReduceSumSquare<axes=[2], keepdims=1>(p)", PLAIN, opset=11),
    row("ReduceMean", "h = ReduceMean(p, @[1])", *stays(STATISTICS, "w1.0 6/6", "b1.0 6/6"), width=1),
    row(
        "ReduceMean/cut",
        "h = ReduceMean(p, @[1])",
        "w1 6: w1.0 writes, b1.0 shifts ~ ReduceMean",
        width=1,
        allow=STATISTICAL,
    ),
    row("ReduceMean/space", "h = ReduceMean(p, @[-2, 3])", PLAIN),
    row("ReduceMean/opset 11", "h = ReduceMean<axes=[2], keepdims=1>(p)", PLAIN, opset=11),
    row("ReduceMax", "h = ReduceMax(p, @[1])", *stays(STATISTICS, "w1.0 6/6", "b1.0 6/6"), width=1),
    row(
        "ReduceMax/cut",
        "h = ReduceMax(p, @[1])",
        "w1 6: w1.0 writes, b1.0 shifts ~ ReduceMax",
        width=1,
        allow=STATISTICAL,
    ),
    row("ReduceMax/space", "h = ReduceMax(p, @[-2, 3])", PLAIN),
    row("ReduceMax/opset 11", "h = ReduceMax<axes=[2], keepdims=1>(p)", PLAIN, opset=11),
    row("ReduceMin", "h = ReduceMin(p, @[1])", *stays(STATISTICS, "w1.0 6/6", "b1.0 6/6"), width=1),
    row(
        "ReduceMin/cut",
        "h = ReduceMin(p, @[1])",
        "w1 6: w1.0 writes, b1.0 shifts ~ ReduceMin",
        width=1,
        allow=STATISTICAL,
    ),
    row("ReduceMin/space", "h = ReduceMin(p, @[-2, 3])", PLAIN),
    row("ReduceMin/opset 11", "h = ReduceMin<axes=[2], keepdims=1>(p)", PLAIN, opset=11),
    row("ReduceProd", "h = ReduceProd(p, @[1])", *stays(STATISTICS, "w1.0 6/6", "b1.0 6/6"), width=1),
    row(
        "ReduceProd/cut",
        "h = ReduceProd(p, @[1])",
        "w1 6: w1.0 writes, b1.0 shifts ~ ReduceProd",
        width=1,
        allow=STATISTICAL,
    ),
    row("ReduceProd/space", "h = ReduceProd(p, @[-2, 3])", PLAIN),
    row("ReduceProd/opset 11", "h = ReduceProd<axes=[2], keepdims=1>(p)", PLAIN, opset=11),
    row("ReduceLogSum", "q = Abs(p); h = ReduceLogSum(q, @[1])", "w1 6: w1.0 writes, b1.0 shifts", width=1),
    row("ReduceLogSum/space", "q = Abs(p); h = ReduceLogSum(q, @[-2, 3])", PLAIN),
    row("ReduceLogSum/opset 11", "q = Abs(p); h = ReduceLogSum<axes=[2], keepdims=1>(q)", PLAIN, opset=11),
    row("ReduceLogSumExp", "h = ReduceLogSumExp(p, @[1])", *stays(STATISTICS, "w1.0 6/6", "b1.0 6/6"), width=1),
    row(
        "ReduceLogSumExp/cut",
        "h = ReduceLogSumExp(p, @[1])",
        "w1 6: w1.0 writes, b1.0 shifts ~ ReduceLogSumExp",
        width=1,
        allow=STATISTICAL,
    ),
    row("ReduceLogSumExp/space", "h = ReduceLogSumExp(p, @[-2, 3])", PLAIN),
    row("ReduceLogSumExp/opset 11", "h = ReduceLogSumExp<axes=[2], keepdims=1>(p)", PLAIN, opset=11),
    row(
        "ReduceSum/without the axis",
        "q = ReduceSum<keepdims=0>(p, @[1]); y = MatMul(q, %4x5)",
        "w1 6: w1.0 writes, b1.0 shifts",
        after="",
    ),
    row(
        "ReduceSum/all axes", "q = ReduceSum<keepdims=0>(p); y = Mul(q, %)", "w1 6: w1.0 writes, b1.0 shifts", after=""
    ),
    row("ReduceSum/no axes", "h = ReduceSum<noop_with_empty_axes=1>(p, @[])", PLAIN),
    row("ReduceMean/opset 18", "h = ReduceMean<keepdims=0>(p, @[1])", DENSE, frame="tokens", opset=18),
    row(
        "ArgMax",
        "i = ArgMax<axis=1>(p); h = Cast<to=1>(i)",
        *stays("its positions are numbers in the output", "w1.0 6/6", "b1.0 6/6"),
        width=1,
    ),
    row(
        "ArgMax/other axis",
        "i = ArgMax<axis=-1, keepdims=0>(p); h = Cast<to=1>(i)",
        PLAIN,
        after="w2 = %5x6; t = Transpose<perm=[0,2,1]>(h); u = Transpose(w2); y = MatMul(t, u)",
    ),
    row(
        "ArgMin",
        "i = ArgMin<axis=1>(p); h = Cast<to=1>(i)",
        *stays("its positions are numbers in the output", "w1.0 6/6", "b1.0 6/6"),
        width=1,
        opset=11,
    ),
    row("GlobalAveragePool", "h = GlobalAveragePool(p)", PLAIN),
    row("GlobalMaxPool", "h = GlobalMaxPool(p)", PLAIN),
    row("GlobalLpPool", "h = GlobalLpPool<p=2>(p)", PLAIN),
    row(
        "GlobalAveragePool/dense",
        "g = GlobalAveragePool(p); f = Flatten(g); y = Gemm(f, %6x5, %5)",
        "w1 6: w1.0 writes, b1.0 shifts, t3.0 reads",
        after="",
    ),
    row("AveragePool", "h = AveragePool<kernel_shape=[2,2], strides=[2,2], count_include_pad=1>(p)", PLAIN),
    row(
        "AveragePool/opset 19",
        "h = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], ceil_mode=1, dilations=[1,1]>(p)",
        PLAIN,
        opset=19,
    ),
    row("MaxPool", "h = MaxPool<kernel_shape=[2,2]>(p)", PLAIN),
    row("MaxPool/opset 1", "h = MaxPool<kernel_shape=[2,2]>(p)", PLAIN, opset=7),
    row(
        "MaxPool/indices",
        "q, i = MaxPool<kernel_shape=[2,2]>(p); c = Cast<to=1>(i); h = Add(q, c)",
        *stays("its indices number all positions of the tensor", "w1.0 6/6", "b1.0 6/6", "w2.1 6/6"),
    ),
    row("LpPool", "h = LpPool<kernel_shape=[2,2], p=2>(p)", PLAIN),
    row("CumSum", "h = CumSum(p, @[3])", PLAIN),
    row(
        "CumSum/channels",
        "h = CumSum<exclusive=1, reverse=1>(p, @1)",
        *stays(STATISTICS, "w1.0 6/6", "b1.0 6/6", "w2.1 6/6"),
    ),
    row("CumSum/cut", "h = CumSum(p, @1)", "w1 6: w1.0 writes, b1.0 shifts, w2.1 reads ~ CumSum", allow=STATISTICAL),
    row("CumProd", "h = CumProd(p, @3)", PLAIN, opset=26, runs=False),
    row("TopK", "h, i = TopK<axis=-1>(p, @[2])", PLAIN),
    row(
        "TopK/channels",
        "h, i = TopK<axis=1>(p, @[2])",
        *stays("its positions are ranked and numbered in the output", "w1.0 6/6", "b1.0 6/6"),
        *stays("it holds ranks, not positions", "w2.1 2/2"),
        width=2,
    ),
    row("TopK/opset 9", "h, i = TopK<axis=2, k=3>(p)", PLAIN, opset=9),
]

POINTWISE = [
    row("Abs", "h = Abs(p)", PLAIN),
    row("Acos", "q = Tanh(p); h = Acos(q)", PLAIN),
    row("Acosh", "q = Cosh(p); h = Acosh(q)", PLAIN),
    row("Asin", "q = Tanh(p); h = Asin(q)", PLAIN),
    row("Asinh", "h = Asinh(p)", PLAIN),
    row("Atan", "h = Atan(p)", PLAIN),
    row("Atanh", "q = Sin(p); h = Atanh(q)", PLAIN),
    row("BitwiseNot", "q = Cast<to=6>(p); i = BitwiseNot(q); h = Cast<to=1>(i)", PLAIN),
    row("Cast", "i = Cast<to=11>(p); h = Cast<to=1>(i)", PLAIN),
    row("Ceil", "h = Ceil(p)", PLAIN),
    row("Celu", "h = Celu<alpha=2.0>(p)", PLAIN),
    row("Cos", "h = Cos(p)", PLAIN),
    row("Cosh", "h = Cosh(p)", PLAIN),
    row("Elu", "h = Elu<alpha=2.0>(p)", PLAIN),
    row("Erf", "h = Erf(p)", PLAIN),
    row("Exp", "h = Exp(p)", PLAIN),
    row("Floor", "h = Floor(p)", PLAIN),
    row("Gelu", 'h = Gelu<approximate="tanh">(p)', PLAIN),
    row("HardSigmoid", "h = HardSigmoid(p)", PLAIN),
    row("HardSwish", "h = HardSwish(p)", PLAIN),
    row("Identity", "h = Identity(p)", PLAIN),
    row("IsInf", "i = IsInf(p); h = Cast<to=1>(i)", PLAIN),
    row("IsNaN", "i = IsNaN(p); h = Cast<to=1>(i)", PLAIN),
    row("LeakyRelu", "h = LeakyRelu<alpha=0.3>(p)", PLAIN),
    row("Log", "q = Abs(p); h = Log(q)", PLAIN),
    row("Mish", "h = Mish(p)", PLAIN),
    row("Neg", "h = Neg(p)", PLAIN),
    row("Not", "q = Cast<to=9>(p); i = Not(q); h = Cast<to=1>(i)", PLAIN),
    row("Reciprocal", "h = Reciprocal(p)", PLAIN),
    row("Relu", "h = Relu(p)", PLAIN),
    row("Round", "h = Round(p)", PLAIN),
    row("Selu", "h = Selu(p)", PLAIN),
    row("Shrink", "h = Shrink<lambd=0.2, bias=0.1>(p)", PLAIN),
    row("Sigmoid", "h = Sigmoid(p)", PLAIN),
    row("Sign", "h = Sign(p)", PLAIN),
    row("Sin", "h = Sin(p)", PLAIN),
    row("Sinh", "h = Sinh(p)", PLAIN),
    row("Softplus", "h = Softplus(p)", PLAIN),
    row("Softsign", "h = Softsign(p)", PLAIN),
    row("Sqrt", "q = Abs(p); h = Sqrt(q)", PLAIN),
    row("Swish", "h = Swish(p)", PLAIN, opset=24),
    row("Tan", "h = Tan(p)", PLAIN),
    row("Tanh", "h = Tanh(p)", PLAIN),
    row("ThresholdedRelu", "h = ThresholdedRelu<alpha=0.4>(p)", PLAIN),
    row("Affine", "h = Affine<alpha=2.0, beta=1.0>(p)", PLAIN, opset=7, outputs="float[2,5,4,4] y"),
    row(
        "ImageScaler",
        "h = ImageScaler<scale=2.0, bias=[1.0,1.0,1.0,1.0,1.0,1.0]>(p)",
        PLAIN,
        opset=7,
        outputs="float[2,5,4,4] y",
    ),
    row(
        "ParametricSoftplus",
        "h = ParametricSoftplus<alpha=2.0, beta=1.0>(p)",
        PLAIN,
        opset=7,
        outputs="float[2,5,4,4] y",
    ),
    row("ScaledTanh", "h = ScaledTanh<alpha=2.0, beta=1.0>(p)", PLAIN, opset=7, outputs="float[2,5,4,4] y"),
    row(
        "Add",
        "q = Conv(x, %6x3x1x1, %6); h = Add(p, q)",
        "w1 6: w1.0 writes, b1.0 shifts, t3.0 writes, t4.0 shifts, w2.1 reads",
    ),
    row("Add/constant", "h = Add(%+6x1x1, p)", "w1 6: w1.0 writes, b1.0 shifts, t3.0 shifts, w2.1 reads"),
    row(
        "Sub",
        "q = Conv(x, %6x3x1x1, %6); h = Sub(p, q)",
        "w1 6: w1.0 writes, b1.0 shifts, t3.0 writes, t4.0 shifts, w2.1 reads",
    ),
    row("Sub/constant", "h = Sub(%+6x1x1, p)", "w1 6: w1.0 writes, b1.0 shifts, t3.0 shifts, w2.1 reads"),
    row(
        "Mul",
        "q = Conv(x, %6x3x1x1, %6); h = Mul(p, q)",
        "w1 6: w1.0 writes, b1.0 shifts, t3.0 writes, t4.0 shifts, w2.1 reads",
    ),
    row("Mul/constant", "h = Mul(%+6x1x1, p)", "w1 6: w1.0 writes, b1.0 shifts, t3.0 scales, w2.1 reads"),
    row(
        "Div",
        "q = Conv(x, %6x3x1x1, %6); h = Div(p, q)",
        "w1 6: w1.0 writes, b1.0 shifts, t3.0 writes, t4.0 shifts, w2.1 reads",
    ),
    row("Div/constant", "h = Div(%+6x1x1, p)", "w1 6: w1.0 writes, b1.0 shifts, t3.0 scales, w2.1 reads"),
    row("Add/one per position", "h = Add(p, %2x6x4x4)", "w1 6: w1.0 writes, b1.0 shifts, t3.1 shifts, w2.1 reads"),
    row("Add/scalar", "q = Add(p, %); h = Add(q, %1x1x1)", PLAIN),
    row(
        "Add/gate",
        "g = GlobalAveragePool(p); s = Conv(g, %6x6x1x1, %6); e = Sigmoid(s); h = Mul(p, e)",
        "w1 6: w1.0 writes, b1.0 shifts, t3.0 writes, t3.1 reads, t4.0 shifts, w2.1 reads",
    ),
    row("Add/one channel", "q = Conv(x, %1x3x1x1); h = Add(p, q)", PLAIN),
    row(
        "Add/residual",
        "q = Conv(p, %8x6x1x1); s = Relu(q); u = Conv(s, %6x8x1x1); h = Add(u, p)",
        "w1 6: w1.0 writes, b1.0 shifts, t3.1 reads, t4.0 writes, w2.1 reads",
        "t3 8: t3.0 writes, t4.1 reads",
    ),
    row("Add/input", "q = Conv(x, %3x3x1x1); h = Add(q, x)", frame="open", after="y = Conv(h, %5x3x1x1)"),
    row("Add/opset 7", "h = Add(p, %6x1x1)", "w1 6: w1.0 writes, b1.0 shifts, t3.0 shifts, w2.1 reads", opset=7),
    row("Pow", "q = Abs(p); h = Pow(q, %6x1x1)", "w1 6: w1.0 writes, b1.0 shifts, t3.0 scales, w2.1 reads"),
    row(
        "Mod",
        "q = Conv(x, %6x3x1x1, %6); h = Mod<fmod=1>(q, %+6x1x1)",
        "w1 6: w1.0 writes, b1.0 shifts",
        "t3 6: t3.0 writes, t4.0 shifts, t5.0 scales, w2.1 reads",
    ),
    row(
        "Max",
        "q = Conv(x, %6x3x1x1, %6); h = Max(p, q, %6x1x1)",
        "w1 6: w1.0 writes, b1.0 shifts, t3.0 writes, t4.0 shifts, t5.0 scales, w2.1 reads",
    ),
    row(
        "Min",
        "q = Conv(x, %6x3x1x1, %6); h = Min(p, q, %6x1x1)",
        "w1 6: w1.0 writes, b1.0 shifts, t3.0 writes, t4.0 shifts, t5.0 scales, w2.1 reads",
    ),
    row(
        "Mean",
        "q = Conv(x, %6x3x1x1, %6); h = Mean(p, q, %6x1x1)",
        "w1 6: w1.0 writes, b1.0 shifts, t3.0 writes, t4.0 shifts, t5.0 scales, w2.1 reads",
    ),
    row(
        "Sum",
        "q = Conv(x, %6x3x1x1, %6); h = Sum(p, q, %6x1x1)",
        "w1 6: w1.0 writes, b1.0 shifts, t3.0 writes, t4.0 shifts, t5.0 shifts, w2.1 reads",
    ),
    row(
        "Sum/opset 8",
        "q = Conv(x, %6x3x1x1); h = Sum(p, q)",
        "w1 6: w1.0 writes, b1.0 shifts, t3.0 writes, w2.1 reads",
        opset=8,
    ),
    row(
        "Equal",
        "f = Equal(p, %6x1x1); c = Cast<to=1>(f); h = Mul(c, p)",
        "w1 6: w1.0 writes, b1.0 shifts, t3.0 scales, w2.1 reads",
    ),
    row(
        "Equal/numbers of the input",
        "e = Equal(i, @[0, 1, 2, 3, 4, 5]); h = Cast<to=1>(e); q = Relu(p)",
        "w1 6: w1.1 writes, b1.0 shifts",
        "! w2.0 6/6: its positions are numbers in the input",
        frame="tokens",
        inputs="float[2,4,3] x, int64[2,4,1] i",
        below=6,
    ),
    row(
        "LessOrEqual/numbers of the input",
        "e = LessOrEqual(@[[0], [1], [2], [3]]:int32, i); c = Cast<to=1>(e); h = MatMul(c, %4x6); q = Relu(p)",
        "w1 6: w1.1 writes, b1.0 shifts",
        "t4 6: t4.1 writes, w2.0 reads",
        frame="tokens",
        inputs="float[2,4,3] x, int32[2,1,4] i",
    ),
    row(
        "Greater/thresholds",
        "e = Greater(p, %6); h = Cast<to=1>(e)",
        "w1 6: w1.1 writes, b1.0 shifts, t3.0 scales, w2.0 reads",
        frame="tokens",
    ),
    row(
        "Greater",
        "f = Greater(p, %6x1x1); c = Cast<to=1>(f); h = Mul(c, p)",
        "w1 6: w1.0 writes, b1.0 shifts, t3.0 scales, w2.1 reads",
    ),
    row(
        "GreaterOrEqual",
        "f = GreaterOrEqual(p, %6x1x1); c = Cast<to=1>(f); h = Mul(c, p)",
        "w1 6: w1.0 writes, b1.0 shifts, t3.0 scales, w2.1 reads",
    ),
    row(
        "Less",
        "f = Less(p, %6x1x1); c = Cast<to=1>(f); h = Mul(c, p)",
        "w1 6: w1.0 writes, b1.0 shifts, t3.0 scales, w2.1 reads",
    ),
    row(
        "LessOrEqual",
        "f = LessOrEqual(p, %6x1x1); c = Cast<to=1>(f); h = Mul(c, p)",
        "w1 6: w1.0 writes, b1.0 shifts, t3.0 scales, w2.1 reads",
    ),
    row(
        "And",
        "a = Cast<to=9>(p); b = Less(p, %6x1x1); f = And(a, b); c = Cast<to=1>(f); h = Mul(c, p)",
        "w1 6: w1.0 writes, b1.0 shifts, t3.0 scales, w2.1 reads",
    ),
    row(
        "Or",
        "a = Cast<to=9>(p); b = Less(p, %6x1x1); f = Or(a, b); c = Cast<to=1>(f); h = Mul(c, p)",
        "w1 6: w1.0 writes, b1.0 shifts, t3.0 scales, w2.1 reads",
    ),
    row(
        "Xor",
        "a = Cast<to=9>(p); b = Less(p, %6x1x1); f = Xor(a, b); c = Cast<to=1>(f); h = Mul(c, p)",
        "w1 6: w1.0 writes, b1.0 shifts, t3.0 scales, w2.1 reads",
    ),
    row("BitwiseAnd", "a = Cast<to=6>(p); f = BitwiseAnd(a, %6x1x1:int32); h = Cast<to=1>(f)", PLAIN),
    row("BitwiseOr", "a = Cast<to=6>(p); f = BitwiseOr(a, %6x1x1:int32); h = Cast<to=1>(f)", PLAIN),
    row("BitwiseXor", "a = Cast<to=6>(p); f = BitwiseXor(a, %6x1x1:int32); h = Cast<to=1>(f)", PLAIN),
    row(
        "BitShift",
        'q = Abs(p); a = Cast<to=2>(q); f = BitShift<direction="LEFT">(a, @[1]:uint8); h = Cast<to=1>(f)',
        PLAIN,
    ),
    row(
        "Where",
        "f = Less(p, %6x1x1); h = Where(f, p, %6x1x1)",
        "w1 6: w1.0 writes, b1.0 shifts, t3.0 scales, t4.0 scales, w2.1 reads",
    ),
    row(
        "Where/mask",
        "h = Where(@[true, false, true, true], p, %1x6x1x1)",
        "w1 6: w1.0 writes, b1.0 shifts, t4.1 scales, w2.1 reads",
    ),
    row("Clip", "h = Clip(p, @-0.5, @0.5)", PLAIN),
    row("Clip/opset 6", "h = Clip<min=-0.5, max=0.5>(p)", PLAIN, opset=8),
    row("Clip/only above", "h = Clip(p, , @0.5)", PLAIN),
    row("Dropout", "h = Dropout(p)", PLAIN),
    row("Dropout/opset 12", "h, m1 = Dropout(p, @0.5, @false)", PLAIN, opset=12),
    row("Dropout/opset 7", "h = Dropout<ratio=0.3>(p)", PLAIN, opset=9),
    row("CastLike", "h = CastLike(p, @0.5)", PLAIN),
    row("Bernoulli", "q = Sigmoid(p); s = Round(q); h = Bernoulli<seed=1.0>(s)", PLAIN),
    row("RandomNormalLike", "n = RandomNormalLike<scale=0.000000000001, seed=1.0>(p); h = Add(p, n)", PLAIN),
    row("RandomUniformLike", "n = RandomUniformLike<low=0.5, high=0.5, seed=1.0>(p); h = Add(p, n)", PLAIN),
    row(
        "EyeLike",
        "e = EyeLike(p); h = Add(p, e)",
        *stays("an identity matrix has no removable positions", "w1.1 6/6", "b1.0 6/6", "w2.0 6/6"),
        frame="dense",
    ),
    row("PRelu/6x1x1", "h = PRelu(p, %6x1x1)", "w1 6: w1.0 writes, b1.0 shifts, t3.0 scales, w2.1 reads"),
    row("PRelu/1x1x1", "h = PRelu(p, %1x1x1)", PLAIN),
    row("PRelu/1x6x1x1", "h = PRelu(p, %1x6x1x1)", "w1 6: w1.0 writes, b1.0 shifts, t3.1 scales, w2.1 reads"),
    row("PRelu/6x4x4", "h = PRelu(p, %6x4x4)", "w1 6: w1.0 writes, b1.0 shifts, t3.0 scales, w2.1 reads"),
    row("PRelu/1", "h = PRelu(p, %1)", PLAIN),
    row("PRelu/4", "h = PRelu(p, %4)", PLAIN),
    row(
        "PRelu/opset 6",
        "h = PRelu(p, %6)",
        "w1 6: w1.0 writes, b1.0 shifts, t3.0 scales, w2.1 reads",
        opset=6,
        runs=False,
    ),
    row("PRelu/dense", "h = PRelu(p, %6)", "w1 6: w1.1 writes, b1.0 shifts, t3.0 scales, w2.0 reads", frame="dense"),
]

LAYOUT = [
    row(
        "Reshape/heads",
        "h = Reshape(p, @[0, 0, 2, 3])",
        "w1 3x2: w1.1 writes, b1.0 shifts, w2.0 reads",
        width=3,
        frame="tokens",
    ),
    row(
        "Reshape/-1",
        "r = Reshape(p, @[2, -1, 2, 3]); h = Reshape(r, @[0, 4, -1])",
        "w1 2x3: w1.1 writes, b1.0 shifts, w2.0 reads",
        frame="tokens",
    ),
    row("Reshape/literal", "h = Reshape(p, @[2, 4, 6])", DENSE, frame="tokens"),
    row(
        "Reshape/flatten",
        "h = Reshape(p, @[0, -1])",
        "w1 6: w1.0 writes, b1.0 shifts, t4.0 reads",
        after="y = MatMul(h, %96x5)",
    ),
    row("Reshape/allowzero", "h = Reshape<allowzero=1>(p, @[2, 4, 6])", DENSE, frame="tokens"),
    row(
        "Reshape/computed",
        "s = Shape(p); n = Gather(s, @[0]); l = Gather(s, @[1]); t = Concat<axis=0>(n, l, @[2, -1]); "
        "r = Reshape(p, t); u = Shape(r); v = Slice(u, @[0], @[2]); k = Concat<axis=0>(v, @[6]); "
        "h = Reshape(r, k)",
        "w1 2x3: w1.1 writes, b1.0 shifts, w2.0 reads",
        frame="tokens",
    ),
    row(
        "Reshape/across",
        "h = Reshape(p, @[2, 3, 8])",
        *stays("reshaped across its boundaries", "w1.1 6/6", "b1.0 6/6", "w2.0 8/8"),
        width=8,
        frame="tokens",
    ),
    row(
        "Reshape/opset 1",
        "q = Reshape<shape=[0, -1, 8]>(p); h = Reshape<shape=[2, 6, 4, 4]>(q)",
        PLAIN,
        opset=4,
        runs=False,
        outputs="float[2,5,4,4] y",
    ),
    row(
        "Reshape/merge rows",
        "q = Reshape(p, @[-1, 6]); u = MatMul(q, %6x8); h = Reshape(u, @[2, 4, 8])",
        "w1 6: w1.1 writes, b1.0 shifts, t4.0 reads",
        "t4 8: t4.1 writes, w2.0 reads",
        width=8,
        frame="tokens",
    ),
    row("Flatten", "f = Flatten(p); y = Gemm(f, %96x5, %5)", "w1 6: w1.0 writes, b1.0 shifts, t3.0 reads", after=""),
    row(
        "Flatten/axis",
        "t = Transpose<perm=[0,2,3,1]>(p); f = Flatten<axis=-1>(t); y = MatMul(f, %6x5)",
        "w1 6: w1.0 writes, b1.0 shifts, t3.0 reads",
        after="",
    ),
    row("Squeeze", "u = Unsqueeze(p, @[1]); h = Squeeze(u, @[1])", PLAIN),
    row("Squeeze/opset 11", "u = Unsqueeze<axes=[0,-1]>(p); h = Squeeze<axes=[0,-1]>(u)", PLAIN, opset=11),
    row("Squeeze/no axes", "g = GlobalAveragePool(p); s = Squeeze(g); h = Unsqueeze(s, @[2, 3])", PLAIN),
    row(
        "Squeeze/no axes, opset 11",
        "g = GlobalAveragePool(p); s = Squeeze(g); h = Unsqueeze<axes = [2, 3]>(s)",
        PLAIN,
        opset=11,
    ),
    row(
        "Squeeze/all",
        "g = GlobalAveragePool(p); s = Squeeze(g); y = MatMul(s, %6x5)",
        "w1 6: w1.0 writes, b1.0 shifts, t3.0 reads",
        after="",
    ),
    row(
        "Unsqueeze",
        "h = Unsqueeze(p, @[2, -1])",
        "w1 6: w1.1 writes, b1.0 shifts, t4.1 reads",
        frame="dense",
        after="y = Conv(h, %5x6x1x1)",
    ),
    row(
        "Transpose",
        "t = Transpose<perm=[0,2,3,1]>(p); y = MatMul(t, %6x5)",
        "w1 6: w1.0 writes, b1.0 shifts, t3.0 reads",
        after="",
    ),
    row(
        "Transpose/reversed",
        "t = Transpose(p); y = MatMul(%5x6, t)",
        "w1 6: w1.1 writes, b1.0 shifts, t3.1 reads",
        frame="dense",
        after="",
    ),
    row(
        "DepthToSpace",
        "q = Conv(x, %8x3x1x1, %8); h = DepthToSpace<blocksize=2>(q)",
        "t1 2x4: t1.0 writes, t2.0 shifts, t3.1 reads",
        frame="open",
        after="y = Conv(h, %5x2x1x1)",
    ),
    row(
        "DepthToSpace/CRD",
        'q = Conv(x, %8x3x1x1, %8); h = DepthToSpace<blocksize=2, mode="CRD">(q)',
        "t1 2x4: t1.0 writes, t2.0 shifts, t3.1 reads",
        frame="open",
        after="y = Conv(h, %5x2x1x1)",
    ),
    row(
        "DepthToSpace/opset 1",
        "q = Conv(x, %8x3x1x1, %8); h = DepthToSpace<blocksize=2>(q)",
        "t1 2x4: t1.0 writes, t2.0 shifts, t3.1 reads",
        frame="open",
        after="y = Conv(h, %5x2x1x1)",
        opset=10,
    ),
    row("SpaceToDepth", "h = SpaceToDepth<blocksize=2>(p)", PLAIN, width=24),
    row("SpaceToDepth/opset 1", "h = SpaceToDepth<blocksize=2>(p)", PLAIN, width=24, opset=9),
    row(
        "DepthToSpace/other order than SpaceToDepth",
        'q = Conv(x, %2x3x1x1); s = SpaceToDepth<blocksize=2>(q); h = DepthToSpace<blocksize=2, mode="CRD">(s)',
        *stays(ONLY_UNIT, "t1.0 2/2", "t2.1 2/2"),
        frame="open",
        after="y = Conv(h, %5x2x1x1)",
    ),
    row(
        "Resize",
        'h = Resize<mode="nearest">(p, , @[1., 1., 2., 2.])',
        PLAIN,
        *stays("read as a setting by Resize", "t3.0 4/4"),
    ),
    row("Resize/sizes", 'h = Resize<mode="linear">(p, , , @[2, 6, 3, 5])', PLAIN),
    row("Resize/axes", 'h = Resize<axes=[2,3], mode="linear">(p, , , @[8, 8])', PLAIN),
    row(
        "Resize/channels",
        "h = Resize(p, , @[1., 2., 1., 1.])",
        *stays("this axis is resized", "w1.0 6/6", "b1.0 6/6"),
        *stays("read as a setting by Resize", "t3.0 4/4"),
        *stays("this axis is resized", "w2.1 12/12"),
        width=12,
    ),
    row(
        "Resize/opset 10",
        "h = Resize(p, @[1., 1., 2., 2.])",
        PLAIN,
        *stays("read as a setting by Resize", "t3.0 4/4"),
        opset=10,
    ),
    row(
        "Resize/opset 11",
        'h = Resize<coordinate_transformation_mode="asymmetric">(p, @[]:float, @[]:float, @[2, 6, 8, 8])',
        PLAIN,
        opset=11,
    ),
    row(
        "Resize/opset 13, computed",
        "s = Shape(p); n = Slice(s, @[0], @[2]); t = Concat<axis=0>(n, @[7, 7]); h = Resize(p, , , t)",
        PLAIN,
        opset=13,
    ),
    row(
        "Upsample/opset 9",
        "h = Upsample(p, @[1., 1., 2., 2.])",
        PLAIN,
        *stays("read as a setting by Upsample", "t3.0 4/4"),
        opset=9,
    ),
    row("Upsample/opset 7", "h = Upsample<scales=[1.0, 1.0, 2.0, 3.0]>(p)", PLAIN, opset=7),
]

MOVEMENT = [
    row(
        "Concat",
        "q = Conv(x, %4x3x1x1, %4); h = Concat<axis=1>(p, q)",
        PLAIN,
        "t3 4: t3.0 writes, t4.0 shifts, w2.1 reads",
        width=10,
    ),
    row("Concat/twice the same", "h = Concat<axis=1>(p, p)", PLAIN, width=12),
    row("Concat/constant", "h = Concat<axis=-3>(p, %2x2x4x4)", PLAIN, "t3 2: t3.1 writes, w2.1 reads", width=8),
    row("Concat/input", "h = Concat<axis=1>(x, p, x)", PLAIN, width=12),
    row(
        "Concat/space",
        "q = Conv(x, %6x3x1x1); h = Concat<axis=2>(p, q)",
        "w1 6: w1.0 writes, b1.0 shifts, t3.0 writes, w2.1 reads",
    ),
    row("Concat/opset 1", "h = Concat<axis=1>(p, x)", PLAIN, width=9, opset=4, outputs="float[2,5,4,4] y", runs=False),
    row(
        "Split",
        "a, b = Split<axis=1, num_outputs=2>(p); h = Mul(a, b)",
        "w1 3x2: w1.0 writes, b1.0 shifts, w2.1 reads",
        width=3,
    ),
    row(
        "Split/unequal",
        "a, b = Split<axis=1>(p, @[2, 4]); h = Concat<axis=1>(b, a)",
        "w1#0 2: w1.0 writes, b1.0 shifts, w2.1 reads",
        "w1#1 4: w1.0 writes, b1.0 shifts, w2.1 reads",
    ),
    row(
        "Split/uneven",
        "q = Conv(p, %5x6x1x1); a, b = Split<axis=-3, num_outputs=2>(q); c = Conv(a, %4x3x1x1); "
        "d = Conv(b, %4x2x1x1); h = Add(c, d)",
        "w1 6: w1.0 writes, b1.0 shifts, t3.1 reads",
        "t3#0 3: t3.0 writes, t4.1 reads",
        "t3#1 2: t3.0 writes, t5.1 reads",
        "t4 4: t4.0 writes, t5.0 writes, w2.1 reads",
        width=4,
    ),
    row(
        "Split/separate readers",
        "a, b = Split<axis=1, num_outputs=2>(p); c = Conv(a, %4x3x1x1); d = Conv(b, %4x3x1x1); h = Add(c, d)",
        "w1#0 3: w1.0 writes, b1.0 shifts, t3.1 reads",
        "w1#1 3: w1.0 writes, b1.0 shifts, t4.1 reads",
        "t3 4: t3.0 writes, t4.0 writes, w2.1 reads",
        width=4,
    ),
    row(
        "Split/opset 13",
        "a, b, c = Split<axis=1>(p); d = Add(a, b); h = Concat<axis=1>(d, c)",
        "w1#0 2x2: w1.0 writes, b1.0 shifts, w2.1 reads",
        "w1#1 2: w1.0 writes, b1.0 shifts, w2.1 reads",
        width=4,
        opset=13,
    ),
    row(
        "Split/opset 13, sizes",
        "a, b = Split<axis=1>(p, @[1, 5]); h = Relu(b)",
        "w1 5: w1.0 writes, b1.0 shifts, w2.1 reads",
        *stays(ONLY_UNIT, "w1.0 1/6", "b1.0 1/6"),
        width=5,
        opset=13,
    ),
    row(
        "Split/opset 11",
        "a, b = Split<axis=-3, split=[2, 4]>(p); h = Relu(b)",
        "w1#0 2: w1.0 writes, b1.0 shifts",
        "w1#1 4: w1.0 writes, b1.0 shifts, w2.1 reads",
        width=4,
        opset=11,
    ),
    row(
        "Split/opset 2",
        "a, b = Split<axis=1>(p); h = Concat<axis=1>(b, a)",
        "w1#0 3: w1.0 writes, b1.0 shifts, w2.1 reads",
        "w1#1 3: w1.0 writes, b1.0 shifts, w2.1 reads",
        opset=7,
    ),
    row("Split/space", "a, b = Split<axis=2, num_outputs=2>(p); h = Add(a, b)", PLAIN),
    row(
        "Slice",
        "h = Slice(p, @[1], @[4], @[1])",
        "w1#0 3: w1.0 writes, b1.0 shifts",
        "w1#1 3: w1.0 writes, b1.0 shifts, w2.1 reads",
        width=3,
    ),
    row(
        "Slice/negative",
        "h = Slice(p, @[-5], @[-1], @[-3], @[1])",
        "w1#0 2: w1.0 writes, b1.0 shifts",
        "w1#1 4: w1.0 writes, b1.0 shifts, w2.1 reads",
        width=4,
    ),
    row(
        "Slice/step", "h = Slice(p, @[0], @[9999], @[1], @[2])", "w1 3x2: w1.0 writes, b1.0 shifts, w2.1 reads", width=3
    ),
    row(
        "Slice/step from 1",
        "h = Slice(p, @[1], @[6], @[1], @[2])",
        "w1 2x2: w1.0 writes, b1.0 shifts, w2.1 reads",
        *stays(ONLY_UNIT, "w1.0 2/6", "b1.0 2/6", "w2.1 1/3"),
        width=3,
    ),
    row("Slice/backwards", "h = Slice(p, @[-1], @[-7], @[1], @[-1])", PLAIN),
    row(
        "Slice/backwards, steps",
        "h = Slice(p, @[5], @[-9223372036854775807], @[1], @[-2])",
        "w1 2x2: w1.0 writes, b1.0 shifts, w2.1 reads",
        *stays(ONLY_UNIT, "w1.0 2/6", "b1.0 2/6", "w2.1 1/3"),
        width=3,
    ),
    row(
        "Slice/backwards, one of several",
        "s = Slice(p, @[5], @[4], @[1], @[-1]); z = Conv(s, %4x1x1x1); h = Relu(p)",
        "w1 5: w1.0 writes, b1.0 shifts, w2.1 reads",
        "t7 4: t7.0 writes",
        *stays(ONLY_UNIT, "w1.0 1/6", "b1.0 1/6", "w2.1 1/6"),
    ),
    row(
        "Slice/backwards, the first",
        "s = Slice(p, @[0]:int32, @[-9]:int32, @[1]:int32, @[-3]:int32); z = Conv(s, %4x1x1x1); h = Relu(p)",
        "w1 5: w1.0 writes, b1.0 shifts, w2.1 reads",
        "t7 4: t7.0 writes",
        *stays(ONLY_UNIT, "w1.0 1/6", "b1.0 1/6", "w2.1 1/6"),
        opset=13,
    ),
    row(
        "Slice/two axes",
        "h = Slice(p, @[0, 2], @[3, 4], @[2, 1])",
        "w1#0 4: w1.0 writes, b1.0 shifts",
        "w1#1 2: w1.0 writes, b1.0 shifts, w2.1 reads",
        width=2,
    ),
    row(
        "Slice/all axes",
        "h = Slice(p, @[0, 1, 0, 0]:int32, @[2, 5, 4, 3]:int32)",
        "w1#0 2: w1.0 writes, b1.0 shifts",
        "w1#1 4: w1.0 writes, b1.0 shifts, w2.1 reads",
        width=4,
    ),
    row(
        "Slice/split",
        "a = Slice(p, @[0], @[3], @[1]); b = Slice(p, @[3], @[6], @[1]); h = Mul(a, b)",
        "w1 3x2: w1.0 writes, b1.0 shifts, w2.1 reads",
        width=3,
    ),
    row(
        "Slice/opset 1",
        "h = Slice<starts=[2], ends=[-1], axes=[1]>(p)",
        "w1#0 3: w1.0 writes, b1.0 shifts",
        "w1#1 3: w1.0 writes, b1.0 shifts, w2.1 reads",
        width=3,
        opset=9,
    ),
    row(
        "Slice/opset 10",
        "h = Slice(p, @[2], @[5], @[1])",
        "w1#0 3: w1.0 writes, b1.0 shifts",
        "w1#1 3: w1.0 writes, b1.0 shifts, w2.1 reads",
        width=3,
        opset=10,
    ),
    row("Slice/space", "h = Slice(p, @[1, 0], @[3, 4], @[2, 3], @[1, 2])", PLAIN),
    row(
        "Slice/bounds computed",
        "s = Shape(p); n = Gather(s, @[1]); k = Div(n, @[2]); a = Slice(p, @[0], k, @[1]); "
        "b = Slice(p, k, n, @[1]); h = Mul(a, b)",
        "w1 3x2: w1.0 writes, b1.0 shifts, w2.1 reads",
        width=3,
    ),
    row(
        "Gather/one channel",
        "g = Gather<axis=1>(p, @2); h = Unsqueeze(g, @[1])",
        "w1 5: w1.0 writes, b1.0 shifts",
        *stays("this position is picked by number", "w1.0 1/6", "b1.0 1/6"),
        width=1,
    ),
    row(
        "Gather/list",
        "h = Gather<axis=1>(p, @[0, 2, 3])",
        "w1#0 3: w1.0 writes, b1.0 shifts, w2.1 reads",
        "w1#1 3: w1.0 writes, b1.0 shifts",
        width=3,
    ),
    row(
        "Gather/list, twice and negative",
        "h = Gather<axis=-3>(p, @[5, -1, 0, 1])",
        "w1#0 2: w1.0 writes, b1.0 shifts, w2.1 reads",
        "w1#1 3: w1.0 writes, b1.0 shifts",
        *stays(ONLY_UNIT, "w1.0 1/6", "b1.0 1/6", "w2.1 2/4"),
        width=4,
    ),
    row("Gather/shuffle", "h = Gather<axis=1>(p, @[0, 3, 1, 4, 2, 5])", PLAIN),
    row(
        "Gather/rank 2",
        "g = Gather<axis=1>(p, @[[0, 1], [2, 3]]); h = Reshape(g, @[2, 4, 4, 4])",
        "w1#0 2x2: w1.0 writes, b1.0 shifts, w2.1 reads",
        "w1#1 2: w1.0 writes, b1.0 shifts",
        width=4,
    ),
    row(
        "Gather/matrix of all positions",
        "g = Gather<axis = 2>(p, @[[5, 3, 1], [4, 2, 0]]); h = MatMul(g, %3x5)",
        "w1 3x2: w1.1 writes, b1.0 shifts, t4.0 reads",
        frame="tokens",
        after="y = Identity(h)",
    ),
    row(
        "Gather/matrix of some positions",
        "g = Gather<axis = 2>(p, @[[5, 3], [1, -6]]); z = MatMul(g, %2x5); h = Relu(p)",
        "w1#0 2x2: w1.1 writes, b1.0 shifts, t4.0 reads, w2.0 reads",
        "w1#1 2: w1.1 writes, b1.0 shifts, w2.0 reads",
        "t4 5: t4.1 writes",
        frame="tokens",
    ),
    row(
        "Gather/matrix of repeated positions",
        "g = Gather<axis = 2>(p, @[[5, 3], [3, 1]]); z = MatMul(g, %2x5); h = Relu(p)",
        "w1 3: w1.1 writes, b1.0 shifts, w2.0 reads",
        "t4#0 2: t4.0 reads",
        "t4#1 5: t4.1 writes",
        *stays("this position is picked by number", "w1.1 3/6", "b1.0 3/6", "w2.0 3/6"),
        frame="tokens",
    ),
    row(
        "Gather/embedding",
        "e = %7x6; h = Gather(e, ids)",
        "e 6: e.1 writes, t2.0 reads",
        *stays("its positions are picked by numbers computed elsewhere", "e.0 7/7"),
        frame="open",
        inputs="int64[2,4] ids",
        after="y = MatMul(h, %6x5)",
        below=7,
    ),
    row(
        "Gather/embedding on axis 1",
        "e = %6x7; g = Gather<axis=1>(e, ids); h = Transpose<perm=[1,2,0]>(g)",
        "e 6: e.0 writes, t2.0 reads",
        *stays("its positions are picked by numbers computed elsewhere", "e.1 7/7"),
        frame="open",
        inputs="int64[2,4] ids",
        after="y = MatMul(h, %6x5)",
        below=7,
    ),
    row(
        "Gather/unknown channels",
        "h = Gather<axis=1>(p, i)",
        *stays("its positions are picked by numbers computed elsewhere", "w1.0 6/6", "b1.0 6/6"),
        inputs="float[2,3,4,4] x, int64[3] i",
        width=3,
        below=6,
    ),
    row("Gather/other axis", "h = Gather<axis=2>(p, @[0, 3])", PLAIN, opset=11),
    row("Pad", "h = Pad(p, @[0, 0, 1, 2, 0, 0, 0, 1], @0.5)", PLAIN),
    row("Pad/channels", "h = Pad(p, @[0, 2, 0, 0, 0, 1, 0, 0])", PLAIN, "w2 3: w2.1 reads", width=9),
    row("Pad/channels with a value", "h = Pad(p, @[0, 2, 0, 0, 0, 0, 0, 0], @0.5)", PLAIN, "w2 2: w2.1 reads", width=8),
    row(
        "Pad/negative",
        "h = Pad(p, @[0, -1, 0, 0, 0, -2, 0, 0])",
        "w1#0 3: w1.0 writes, b1.0 shifts",
        "w1#1 3: w1.0 writes, b1.0 shifts, w2.1 reads",
        width=3,
    ),
    row(
        "Pad/negative and positive",
        "h = Pad(p, @[0, -2, 0, 0, 0, 1, 0, 0])",
        "w1#0 2: w1.0 writes, b1.0 shifts",
        "w1#1 4: w1.0 writes, b1.0 shifts, w2.1 reads",
        *stays(ONLY_UNIT, "w2.1 1/5"),
        width=5,
    ),
    row("Pad/reflect", 'h = Pad<mode="reflect">(p, @[0, 0, 1, 1, 0, 0, 1, 1])', PLAIN),
    row(
        "Pad/edge on channels",
        'h = Pad<mode="edge">(p, @[0, 1, 0, 0, 0, 1, 0, 0])',
        *stays("padded in mode 'edge'", "w1.0 6/6", "b1.0 6/6", "w2.1 8/8"),
        width=8,
    ),
    row("Pad/axes", "h = Pad(p, @[1, 1, 1, 0], , @[1, -1])", PLAIN, "w2 2: w2.1 reads", width=8, opset=18),
    row("Pad/wrap", 'h = Pad<mode="wrap">(p, @[1, 1], , @[2])', PLAIN, opset=19),
    row(
        "Pad/opset 2",
        "h = Pad<pads=[0,1,1,0,0,0,0,0], value=0.5>(p)",
        PLAIN,
        *stays(ONLY_UNIT, "w2.1 1/7"),
        width=7,
        opset=10,
    ),
    row(
        "Pad/option A",
        "s = Slice(x, @[0, 0], @[4, 4], @[2, 3], @[2, 2]); z = Pad(s, @[0, 1, 0, 0, 0, 2, 0, 0]); "
        "q = MaxPool<kernel_shape=[2,2], strides=[2,2]>(p); h = Add(q, z)",
        "w1 3: w1.0 writes, b1.0 shifts, w2.1 reads",
    ),
    row("Expand", "e = GlobalAveragePool(p); h = Expand(e, @[2, 6, 4, 4])", PLAIN),
    row("Expand/ones", "e = GlobalAveragePool(p); h = Expand(e, @[1, 1, 4, 4])", PLAIN),
    row("Expand/new axis", "e = Expand(p, @[3, 2, 6, 4, 4]); h = ReduceSum<keepdims=0>(e, @[0])", PLAIN),
    row(
        "Expand/parameter",
        "b = %6x1x1; e = Expand(b, @[2, 6, 4, 4]); h = Add(p, e)",
        "w1 6: w1.0 writes, b1.0 shifts, b.0 shifts, w2.1 reads",
    ),
    row("Expand/one channel", "q = Conv(x, %1x3x1x1); e = Expand(q, @[2, 6, 4, 4]); h = Mul(e, p)", PLAIN),
    row("Expand/computed", "e = GlobalAveragePool(p); s = Shape(p); g = Expand(e, s); h = Add(p, g)", PLAIN),
    row("Tile", "h = Tile(p, @[1, 2, 1, 1])", PLAIN, width=12),
    row("Tile/space", "h = Tile(p, @[1, 1, 2, 3])", PLAIN),
    row("Tile/one channel", "q = Conv(x, %1x3x1x1); t = Tile(q, @[1, 6, 1, 1]); h = Mul(t, p)", PLAIN),
    row(
        "ConstantOfShape",
        "z = ConstantOfShape<value = float[1] {0.5}>(@[6, 1, 1]); h = Add(p, z)",
        "w1 6: w1.0 writes, b1.0 shifts, w2.1 reads, z.0 shifts",
    ),
    row(
        "ConstantOfShape/computed", "s = Shape(p); z = ConstantOfShape<value = float[1] {0.5}>(s); h = Add(p, z)", PLAIN
    ),
    row(
        "ConstantOfShape/weights",
        "c = ConstantOfShape<value = float[1] {0.5}>(@[8, 6, 1, 1]); h = Conv(p, c)",
        "w1 6: w1.0 writes, b1.0 shifts, c.1 reads",
        "c 8: w2.1 reads, c.0 writes",
        width=8,
    ),
    row("Shape", "s = Shape<start=1, end=2>(p); c = Cast<to=1>(s); h = Mul(p, c)", PLAIN),
    row("Size", "n = Size(p); c = Cast<to=1>(n); d = Div(p, c); h = Relu(d)", PLAIN),
    row(
        "Constant",
        "c = Constant<value = float[6,1,1] {1,2,3,4,5,6}>(); h = Mul(p, c)",
        "w1 6: w1.0 writes, b1.0 shifts, w2.1 reads, c.0 scales",
    ),
    row("Constant/list", "c = Constant<value_floats = [1.0, 2.0, 3.0, 4.0]>(); h = Mul(p, c)", PLAIN),
    row(
        "Constant/list of weights",
        "c = Constant<value_floats = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]>(); h = Mul(p, c)",
        "w1 6: w1.1 writes, b1.0 shifts, w2.0 reads, c.0 scales",
        frame="dense",
    ),
]

ROWS = [*CONTRACTION, *NORMALIZATION, *REDUCTION, *POINTWISE, *LAYOUT, *MOVEMENT]
