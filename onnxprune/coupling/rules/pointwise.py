"""Operators that treat every element alike, with broadcasting."""

from __future__ import annotations

from onnx import TensorProto

from onnxprune.coupling.edits import Edits, KeptPositions
from onnxprune.coupling.families import pointwise
from onnxprune.coupling.spec import Spec, Term, View, rule

UNARY = (
    "Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Cast Ceil Celu Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid HardSwish"
    " Identity IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus"
    " Softsign Sqrt Swish Tan Tanh ThresholdedRelu Affine ParametricSoftplus ScaledTanh"
).split()
BINARY = "And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Max Mean Min Mod Mul Or Pow SwiGLU Where Xor".split()
COMPARING = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
INTEGERS = frozenset({TensorProto.INT64, TensorProto.INT32, TensorProto.INT16, TensorProto.INT8, TensorProto.UINT8})
VALUES = "its positions are numbers in the input"
SHIFTING = ("Add", "Sub", "Sum")


@rule(*UNARY, *BINARY, family="pointwise")
def elementwise(view: View) -> Spec:
    return pointwise(view)


@rule(*COMPARING, family="pointwise")
def compare(view: View) -> Spec:
    """What is equal to one of a list of stored numbers says which value came in: such a list is a vocabulary."""
    spec = pointwise(view)
    stored = [name in view.facts.constants for name in view.node.inputs]
    if all(stored) or not (view.node.op == "Equal" or view.fact(0).dtype in INTEGERS):
        return spec
    listed, given = (
        spec.letters(o for o, s in zip(spec.inputs, stored, strict=True) if s is kind) for kind in (True, False)
    )
    return spec.bar(sorted(x for x in listed - given if spec.sizes[x] > 1), VALUES)


@rule(*SHIFTING, family="pointwise")
def shift(view: View) -> Spec:
    return pointwise(view, role="shifts")


@rule(
    "Clip", "Dropout", "Bernoulli", "RandomNormalLike", "RandomUniformLike", "EyeLike", "CastLike", family="pointwise"
)
def first_input(view: View) -> Spec:
    spec = pointwise(view, carrying=[0])
    return (
        spec.bar(list(spec.sizes), "an identity matrix has no removable positions")
        if view.node.op == "EyeLike"
        else spec
    )


def _channel_bias(view: View, cut: KeptPositions) -> Edits:
    kept = cut.kept(view.node.inputs[0], 1, view.shape(0)[1])
    return Edits({"bias": [view.attribute("bias")[channel] for channel in kept]})


@rule("ImageScaler", family="pointwise", rewrite=_channel_bias)
def image_scaler(view: View) -> Spec:
    return pointwise(view)


@rule("PRelu", family="pointwise")
def prelu(view: View) -> Spec:
    """The slope broadcasts from the right (before opset 7 a slope of one axis means the channels)."""
    if view.node.version >= 7 or view.rank(1) > 1:
        return pointwise(view)
    spec = pointwise(view, carrying=[0])
    spec.inputs[1] = (Term(("p1",)) if view.shape(1) != (1,) else Term(),)
    return spec
