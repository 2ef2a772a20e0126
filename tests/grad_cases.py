"""One row per vector-Jacobian rule and variant: a one-node model whose float inputs are all differentiated."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper


@dataclass(frozen=True)
class Normal:
    """A float input, drawn from a normal distribution and mapped into [low, high] where the operator needs it."""

    shape: tuple[int, ...]
    low: float | None = None
    high: float | None = None
    free: tuple[int, ...] = ()

    def array(self, random: np.random.Generator) -> np.ndarray:
        if self.low is None or self.high is None:
            return random.standard_normal(self.shape).astype(np.float32)
        return random.uniform(self.low, self.high, self.shape).astype(np.float32)


def f(*shape: int, low: float | None = None, high: float | None = None, free: tuple[int, ...] = ()) -> Normal:
    return Normal(shape, low, high, free)


def i(*values: Any) -> np.ndarray:
    return np.asarray(values, np.int64)


@dataclass(frozen=True)
class Case:
    """``inputs``: a Normal is a differentiable graph input, an array a stored constant, None an absent input.

    ``kept``: how many of the outputs are outputs of the graph (None: all).
    """

    op: str
    inputs: tuple[Normal | np.ndarray | None, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1
    opset: int = 18
    kept: int | None = None
    note: str = ""

    @property
    def name(self) -> str:
        return self.op.rpartition("::")[2] + (f"-{self.note}" if self.note else "")

    def model(self) -> ModelProto:
        domain, _, op = self.op.rpartition("::")
        names = [f"x{k}" if operand is not None else "" for k, operand in enumerate(self.inputs)]
        results = [f"y{k}" for k in range(self.outputs)]
        node = helper.make_node(op, names, results, name="node", domain=domain, **self.attributes)
        floats = {n: o for n, o in zip(names, self.inputs, strict=True) if isinstance(o, Normal)}
        stored = [
            numpy_helper.from_array(o, n) for n, o in zip(names, self.inputs, strict=True) if isinstance(o, np.ndarray)
        ]
        inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, _dims(n, o)) for n, o in floats.items()]
        opsets = [helper.make_opsetid("", self.opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
        graph = helper.make_graph(
            [node], "case", inputs, [ValueInfoProto(name=n) for n in results[: self.kept]], stored
        )
        model = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=opsets, ir_version=10))
        for output in model.graph.output:
            if not output.type.tensor_type.HasField(
                "shape"
            ):  # operators outside ONNX: outputs are shaped like the input
                dims = [f"y.{a}" for a in range(len(floats["x0"].shape))]
                output.CopyFrom(helper.make_tensor_value_info(output.name, TensorProto.FLOAT, dims))
        return model

    def feeds(self, seed: int = 0) -> dict[str, np.ndarray]:
        random = np.random.default_rng(seed)
        return {f"x{k}": o.array(random) for k, o in enumerate(self.inputs) if isinstance(o, Normal)}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {f"x{k}": o.shape for k, o in enumerate(self.inputs) if isinstance(o, Normal)}


def _dims(name: str, operand: Normal) -> list[int | str]:
    return [f"{name}.{a}" if a in operand.free else size for a, size in enumerate(operand.shape)]


def row(
    op: str,
    *inputs: Normal | np.ndarray | None,
    note: str = "",
    outputs: int = 1,
    opset: int = 18,
    kept: int | None = None,
    **attributes: Any,
) -> Case:
    return Case(op, inputs, attributes, outputs, opset, kept, note)


X = f(2, 3, 4)
IMAGE = f(2, 4, 7, 6)
FREE_BATCH = f(2, 4, 7, 6, free=(0,))
FREE_PICTURE = f(2, 4, 7, 6, free=(0, 2, 3))
MASK = np.asarray([[True, False, True, False]])

POINTWISE = [
    *(
        row(op, X)
        for op in [
            "Abs",
            "Asinh",
            "Atan",
            "Celu",
            "Cos",
            "Cosh",
            "Elu",
            "Erf",
            "Exp",
            "HardSwish",
            "Identity",
            "LeakyRelu",
            "Mish",
            "Neg",
            "Relu",
            "Selu",
            "Shrink",
            "Sigmoid",
            "Sin",
            "Sinh",
            "Softplus",
            "Softsign",
            "Tanh",
            "ThresholdedRelu",
        ]
    ),
    *(row(op, f(3, 4, low=-0.8, high=0.8)) for op in ("Acos", "Asin", "Atanh", "Tan")),
    row("Acosh", f(3, 4, low=1.5, high=3.0)),
    *(row(op, f(3, 4, low=0.5, high=2.0)) for op in ("Log", "Sqrt", "Reciprocal")),
    row("Gelu", X, opset=20),
    row("Gelu", X, opset=20, note="tanh", approximate="tanh"),
    row("Swish", X, opset=24, alpha=1.3),
    row("HardSigmoid", X, alpha=0.3, beta=0.4),
    row("Elu", X, note="alpha", alpha=0.4),
    row("Celu", X, note="alpha", alpha=0.4),
    row("com.microsoft::Gelu", X, note="contrib"),
    row("com.microsoft::QuickGelu", X, alpha=1.7),
    row("com.microsoft::FastGelu", X, f(4)),
    row("com.microsoft::FastGelu", X, note="no-bias"),
    row("com.microsoft::BiasGelu", X, f(4)),
    *(row(op, X, f(3, 1), note="broadcast") for op in ("Add", "Sub", "Mul")),
    row("Add", f(1, 4), X, note="first-broadcast"),
    row("Div", X, f(4, low=0.5, high=2.0)),
    row("Pow", f(2, 3, low=0.5, high=2.0), f(3)),
    row("Pow", X, np.asarray(3, np.int64), note="integer"),
    row("Mod", f(2, 3, low=2.2, high=2.8), f(3, low=0.9, high=1.0), fmod=1),
    row("Sum", X, f(4), X),
    row("Mean", X, f(4), X),
    row("Max", X, f(4), f(3, 1)),
    row("Min", X, f(4)),
    row("Clip", X, f(), f(low=1.0, high=1.5)),
    row("Clip", X, None, np.asarray(0.5, np.float32), note="high-only"),
    row("PRelu", f(2, 3, 4), f(3, 1)),
    row("Where", MASK, X, f(3, 1)),
    row("Cast", X, to=TensorProto.FLOAT),
    row("CastLike", X, np.zeros(1, np.float32)),
    row("Dropout", X),
]

CONTRACTIONS = [
    *(
        row("MatMul", a, b, note="x".join(str(len(o.shape)) for o in (a, b)) + tag)
        for a, b, tag in [
            (f(3, 4), f(4, 5), ""),
            (f(4), f(4), ""),
            (f(4), f(4, 5), ""),
            (f(3, 4), f(4), ""),
            (f(4), f(2, 4, 5), ""),
            (f(2, 3, 4), f(4), ""),
            (f(2, 3, 4), f(4, 5), ""),
            (f(2, 3, 4), f(2, 4, 5), ""),
            (f(3, 4), f(2, 4, 5), ""),
            (f(2, 1, 3, 4), f(5, 4, 2), "-broadcast"),
            (f(2, 3, 4, free=(0,)), f(4, 5), "-free"),
        ]
    ),
    *(
        row(
            "Gemm",
            f(*((4, 3) if ta else (3, 4))),
            f(*((5, 4) if tb else (4, 5))),
            f(5),
            note=f"{ta}{tb}",
            transA=ta,
            transB=tb,
        )
        for ta in (0, 1)
        for tb in (0, 1)
    ),
    row("Gemm", f(3, 4), f(4, 5), f(3, 1), note="scaled", alpha=0.5, beta=2.0),
    row("Einsum", f(2, 3, 4), f(2, 4, 5), equation="bij,bjk->bik"),
    row("Einsum", f(2, 3, 4), f(3, 5), note="implicit", equation="bij,ik"),
    row("Einsum", f(2, 6, 3, 4), f(2, 6, 4, 5), note="ellipsis", equation="...ij,...jk->...ik"),
    row("Einsum", f(3, 4), note="sum", equation="ij->i"),
    row("Einsum", f(2, 3), f(3, 4), f(4, 2), note="three", equation="ij,jk,kl->il"),
]


def _conv(op: str, x: Normal, w: Normal, *bias: Normal, note: str, **attributes: Any) -> Case:
    return row(op, x, w, *bias, note=note, **attributes)


CONVOLUTIONS = [
    _conv("Conv", IMAGE, f(5, 4, 3, 3), f(5), note="plain"),
    _conv("Conv", f(2, 9, 6, 6), f(5, 9, 3, 3), f(5), note="shifts", pads=[1, 1, 1, 1]),
    _conv(
        "Conv", f(2, 8, 6, 5, free=(0, 2, 3)), f(5, 8, 3, 2), note="shifts-free", pads=[0, 1, 1, 0], dilations=[1, 2]
    ),
    _conv("Conv", f(2, 16, 5), f(6, 8, 3), f(6), note="shifts-groups", group=2, pads=[1, 1]),
    _conv("Conv", f(2, 8, 5, 5), f(6, 8, 1, 1), note="pointwise"),
    _conv("Conv", f(2, 8, 5, 5), f(6, 8, 1, 1), note="pointwise-strided", strides=[2, 2]),
    _conv("Conv", IMAGE, f(6, 2, 3, 3), f(6), note="groups", group=2, strides=[2, 2], pads=[1, 1, 1, 1]),
    _conv("Conv", IMAGE, f(4, 1, 3, 3), note="depthwise", group=4, pads=[1, 1, 1, 1]),
    _conv("Conv", IMAGE, f(8, 1, 3, 3), note="multiplier", group=4, strides=[2, 1]),
    _conv("Conv", IMAGE, f(5, 4, 3, 2), note="uneven", strides=[2, 3], pads=[0, 1, 2, 0], dilations=[2, 1]),
    _conv("Conv", f(2, 3, 11), f(4, 3, 4), f(4), note="1d", strides=[3], pads=[1, 2]),
    _conv("Conv", f(1, 2, 5, 4, 6), f(3, 2, 2, 3, 2), f(3), note="3d", strides=[1, 2, 2], pads=[1, 0, 1, 0, 1, 0]),
    _conv("Conv", IMAGE, f(5, 4, 3, 3), note="same-upper", auto_pad="SAME_UPPER", strides=[2, 2]),
    _conv("Conv", IMAGE, f(5, 4, 2, 2), note="same-lower", auto_pad="SAME_LOWER"),
    _conv("Conv", IMAGE, f(5, 4, 3, 3), note="valid", auto_pad="VALID", strides=[2, 2]),
    _conv("Conv", FREE_PICTURE, f(5, 4, 3, 3), f(5), note="free", strides=[2, 2], pads=[1, 1, 1, 1]),
    _conv("ConvTranspose", f(2, 4, 3, 3), f(4, 5, 3, 3), f(5), note="plain"),
    _conv(
        "ConvTranspose", f(2, 4, 3, 3), f(4, 3, 3, 3), f(6), note="groups", group=2, strides=[2, 2], pads=[1, 1, 1, 1]
    ),
    _conv(
        "ConvTranspose", f(2, 4, 3, 3), f(4, 5, 3, 3), note="extra", strides=[2, 2], pads=[1] * 4, output_padding=[1, 1]
    ),
    _conv("ConvTranspose", f(2, 4, 3, 3), f(4, 5, 1, 1), f(5), note="beyond", strides=[2, 2], output_padding=[1, 1]),
    _conv("ConvTranspose", f(2, 8, 4), f(8, 3, 3), note="1d", dilations=[2]),
    _conv("ConvTranspose", f(2, 4, 3, 3), f(4, 5, 3, 3), note="shape", strides=[2, 2], output_shape=[6, 6]),
    _conv("ConvTranspose", f(2, 4, 3, 3), f(4, 5, 3, 3), note="same", strides=[2, 2], auto_pad="SAME_UPPER"),
    row("Col2Im", f(2, 12, 20), i(5, 6), i(2, 2)),
    row("Col2Im", f(2, 12, 9), i(5, 6), i(2, 3), note="strided", strides=[2, 2], pads=[0, 1, 1, 0]),
    _conv("com.microsoft::FusedConv", IMAGE, f(5, 4, 3, 3), f(5), note="relu", activation="Relu"),
]

STATISTICS = (np.zeros(4, np.float32), np.ones(4, np.float32))
NORMALIZATIONS = [
    row("BatchNormalization", IMAGE, f(4), f(4), f(4), f(4, low=0.5, high=2.0)),
    row("BatchNormalization", f(5, 4), f(4), f(4), f(4), f(4, low=0.5, high=2.0), note="2d"),
    row("BatchNormalization", IMAGE, f(4), f(4), *STATISTICS, note="training", outputs=3, kept=1, training_mode=1),
    row("LayerNormalization", X, f(4), f(4)),
    row("LayerNormalization", X, f(3, 4), note="axis", axis=1, epsilon=1e-3),
    row("RMSNormalization", X, f(4), opset=23),
    row("SimplifiedLayerNormalization", X, f(4), epsilon=1e-5, axis=-1),
    row("com.microsoft::SkipLayerNormalization", X, X, f(4), f(4), f(4), epsilon=1e-5),
    row("com.microsoft::SkipLayerNormalization", X, X, f(4), f(4), note="no-bias", epsilon=1e-5),
    row("com.microsoft::SkipSimplifiedLayerNormalization", X, X, f(4), epsilon=1e-5),
    row("InstanceNormalization", IMAGE, f(4), f(4)),
    row("GroupNormalization", f(2, 6, 3, 3), f(6), f(6), opset=21, num_groups=3),
    row("MeanVarianceNormalization", IMAGE),
    row("LpNormalization", X, axis=1),
    row("LpNormalization", X, note="l1", axis=2, p=1),
    row("LRN", IMAGE, size=3, alpha=0.3, beta=0.6, bias=1.5),
    row("LRN", IMAGE, note="wide", size=5, alpha=0.3),
    row("Softmax", X, axis=1),
    row("Softmax", X, note="opset-11", opset=11),
    row("LogSoftmax", X),
]

REDUCTIONS = [
    *(
        row(op, X, i(1))
        for op in [
            "ReduceL1",
            "ReduceL2",
            "ReduceLogSumExp",
            "ReduceMax",
            "ReduceMean",
            "ReduceMin",
            "ReduceProd",
            "ReduceSum",
            "ReduceSumSquare",
        ]
    ),
    row("ReduceLogSum", f(2, 3, low=0.5, high=2.0), i(-1), keepdims=0),
    row("ReduceMean", f(2, 3, 4, free=(0, 1)), i(1, 2), note="free", keepdims=0),
    row("ReduceSum", X, note="all", keepdims=0),
    row("ReduceSum", X, note="none", noop_with_empty_axes=1),
    row("ReduceSum", X, note="opset-11", opset=11, axes=[1], keepdims=0),
    row("ReduceProd", f(2, 3, low=0.5, high=1.5), note="all"),
    row("CumSum", X, np.asarray(1, np.int64)),
    row("CumSum", X, np.asarray(-1, np.int64), note="reversed", exclusive=1, reverse=1),
    row("GlobalAveragePool", IMAGE),
    row("GlobalAveragePool", FREE_PICTURE, note="free"),
    row("GlobalMaxPool", IMAGE),
    row("GlobalLpPool", IMAGE, p=3),
]

POOLS = [
    row("MaxPool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    row("MaxPool", IMAGE, note="indices", outputs=2, kernel_shape=[2, 2]),
    row("MaxPool", IMAGE, note="ceil", kernel_shape=[3, 2], strides=[2, 2], ceil_mode=1, dilations=[1, 2]),
    row("MaxPool", FREE_PICTURE, note="free", kernel_shape=[2, 2], strides=[2, 2]),
    row("MaxPool", f(2, 3, 8), note="1d", kernel_shape=[3]),
    row("AveragePool", IMAGE, kernel_shape=[2, 2], strides=[2, 2]),
    row("AveragePool", IMAGE, note="pads", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    row("AveragePool", IMAGE, note="include", kernel_shape=[3, 3], pads=[1, 1, 0, 1], count_include_pad=1),
    row("AveragePool", IMAGE, note="ceil", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    row(
        "AveragePool",
        IMAGE,
        note="ceil-include",
        kernel_shape=[3, 3],
        strides=[2, 2],
        pads=[1] * 4,
        ceil_mode=1,
        count_include_pad=1,
    ),
    row("AveragePool", IMAGE, note="same", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
    row("AveragePool", FREE_PICTURE, note="free", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    row("AveragePool", FREE_PICTURE, note="free-ceil", kernel_shape=[3, 2], strides=[2, 2], ceil_mode=1),
    row("LpPool", IMAGE, kernel_shape=[2, 2], strides=[2, 1], p=3),
]

NOTHING = np.zeros(0, np.float32)
RESAMPLING = [
    *(
        row(
            "Resize",
            IMAGE,
            None,
            np.asarray([1, 1, 2, 1.5], np.float32),
            note=f"{mode}-{place}",
            mode=mode,
            coordinate_transformation_mode=place,
        )
        for mode in ("nearest", "linear", "cubic")
        for place in ("half_pixel", "align_corners", "asymmetric")
    ),
    row("Resize", IMAGE, None, None, i(2, 4, 3, 10), note="sizes", mode="linear"),
    row("Resize", FREE_BATCH, None, np.asarray([1, 1, 2, 2], np.float32), note="free-batch", mode="nearest"),
    row("Resize", FREE_PICTURE, None, np.asarray([1, 1, 2, 2], np.float32), note="free", mode="linear"),
    row("Resize", IMAGE, NOTHING, np.asarray([1, 1, 2, 2], np.float32), note="opset-11", opset=11, mode="linear"),
    row("Pad", IMAGE, i(0, 1, 2, 0, 0, 0, 1, 3)),
    row("Pad", IMAGE, i(0, 0, -1, 0, 0, 0, -1, 2), note="crop"),
    row("Pad", IMAGE, i(1, 2), None, i(3), note="axes"),
    *(row("Pad", IMAGE, i(0, 0, 2, 1, 0, 0, 1, 2), note=mode, mode=mode) for mode in ("reflect", "edge")),
]

MOVEMENT = [
    row("Reshape", X, i(2, -1)),
    row("Reshape", f(2, 3, 4, free=(0,)), i(0, 12), note="free"),
    row("Flatten", X, axis=2),
    row("Squeeze", f(2, 1, 3), i(1)),
    row("Squeeze", f(2, 1, 3), note="opset-11", opset=11, axes=[1]),
    row("Unsqueeze", X, i(0, 4)),
    row("Transpose", X, perm=[2, 0, 1]),
    row("Transpose", X, note="default"),
    row("Expand", f(3, 1), i(2, 3, 4)),
    row("Tile", X, i(2, 1, 3)),
    row("Concat", X, f(2, 2, 4), X, axis=1),
    row("Concat", X, note="single", axis=1),
    row("Split", f(2, 6), i(1, 3, 2), outputs=3, axis=1),
    row("Split", f(4, 6), note="equal", outputs=2, opset=11),
    row("Slice", IMAGE, i(1, 2), i(6, -1), i(2, 3)),
    row("Slice", IMAGE, i(0, 1), i(7, 100), i(2, 3), i(2, 3), note="steps"),
    row("Slice", IMAGE, i(-1, 4), i(-100, 0), i(2, 3), i(-1, -2), note="backwards"),
    row("Slice", f(2, 5, 3, free=(0, 1)), i(-2), i(1000), i(1), note="free-end"),
    row("Slice", f(2, 5, 3, free=(0, 1)), i(1), i(-1), i(1), note="free"),
    row("Slice", f(2, 5, 3, free=(0, 1)), i(-1), i(-1000), i(1), i(-1), note="free-flip"),
    row("DepthToSpace", f(2, 8, 3, 2), blocksize=2),
    row("DepthToSpace", f(2, 8, 3, 2), note="crd", blocksize=2, mode="CRD"),
    row("SpaceToDepth", f(2, 3, 4, 6), blocksize=2),
    row("Trilu", f(2, 4, 4)),
    row("Trilu", f(2, 4, 4), np.asarray(-1, np.int64), note="lower", upper=0),
    row("ReverseSequence", f(4, 3, 2), i(4, 1, 2)),
]

INDEXING = [
    row("Gather", f(5, 3), np.asarray([[0, 2], [2, -1]])),
    row("Gather", f(2, 5, 3), i(1, 1, 3), note="axis", axis=1),
    row("Gather", f(2, 5, 3), np.asarray(-1, np.int64), note="scalar", axis=1),
    row("Gather", f(2, 5, 3), i(2), note="one", axis=2),
    row("Gather", f(2, 5, 3, free=(0,)), i(0, 0, 4), note="free", axis=1),
    row("GatherElements", f(3, 4), np.asarray([[0, 1, 1], [3, 2, 0]]), axis=1),
    row("GatherND", f(3, 4, 2), np.asarray([[0, 1], [2, 3], [0, 1]])),
    row("GatherND", f(2, 3, 4), np.asarray([[[0], [2]], [[1], [1]]]), note="batch", batch_dims=1),
    row("ScatterElements", f(3, 4), np.asarray([[0, 1], [3, 2]]), f(2, 2), axis=1),
    row("ScatterElements", f(3, 4), np.asarray([[0, 1], [3, 3]]), f(2, 2), note="add", axis=1, reduction="add"),
    row("ScatterND", f(4, 3), np.asarray([[1], [3]]), f(2, 3)),
    row("ScatterND", f(4, 3), np.asarray([[1], [1]]), f(2, 3), note="add", reduction="add"),
    row("TopK", f(3, 6), i(2), outputs=2, axis=1),
    row("DFT", f(2, 8, 1), axis=1),
    row("DFT", f(2, 8, 2), note="inverse", axis=1, inverse=1),
]

REWRITTEN = [
    row("LSTM", f(4, 2, 3), f(1, 20, 3), f(1, 20, 5), f(1, 40), outputs=3, hidden_size=5),
    row(
        "LSTM",
        f(3, 2, 3),
        f(2, 8, 3),
        f(2, 8, 2),
        f(2, 16),
        None,
        f(2, 2, 2),
        f(2, 2, 2),
        f(2, 6),
        note="bidirectional-peepholes",
        outputs=3,
        hidden_size=2,
        direction="bidirectional",
    ),
    row("GRU", f(4, 2, 3), f(1, 15, 3), f(1, 15, 5), f(1, 30), outputs=2, hidden_size=5),
    row(
        "GRU",
        f(4, 2, 3),
        f(1, 15, 3),
        f(1, 15, 5),
        f(1, 30),
        note="linear-reverse",
        outputs=2,
        hidden_size=5,
        linear_before_reset=1,
        direction="reverse",
    ),
    row("RNN", f(4, 2, 3), f(1, 5, 3), f(1, 5, 5), f(1, 10), None, f(1, 2, 5), outputs=2, hidden_size=5),
    row("Attention", f(1, 2, 3, 4), f(1, 2, 5, 4), f(1, 2, 5, 4), opset=23),
    row("SoftmaxCrossEntropyLoss", f(3, 5), i(0, 4, 2)),
    row("CenterCropPad", f(5, 6), i(3, 8)),
]
"""Operators without a rule of their own: unrolled, or replaced by ONNX's definition of them."""

CASES = [
    *(*POINTWISE, *CONTRACTIONS, *CONVOLUTIONS, *NORMALIZATIONS, *REDUCTIONS),
    *(*POOLS, *RESAMPLING, *MOVEMENT, *INDEXING, *REWRITTEN),
]
