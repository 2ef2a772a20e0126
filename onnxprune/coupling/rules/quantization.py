"""Quantised operators: scales and zero points follow the axis they belong to; silence is the zero point."""

from __future__ import annotations

from onnxprune.coupling.edits import Edits, KeptPositions
from onnxprune.coupling.families import aligned, matrix_product, normalisation, pointwise, reduction
from onnxprune.coupling.rules.movement import concatenated
from onnxprune.coupling.spec import Spec, Term, View, parse, rule
from onnxprune.model.facts import Shape


def _block_size(view: View, cut: KeptPositions) -> Edits:
    return Edits({"block_size": cut.letter("e")}) if view.attribute("block_size", 0) else Edits()


@rule(
    *("QuantizeLinear", "DequantizeLinear", "com.microsoft::QuantizeLinear", "com.microsoft::DequantizeLinear"),
    family="per-channel",
    rewrite=_block_size,
)
def quantize(view: View) -> Spec:
    """One scale for all, one per position of an axis, or one per block of an axis."""
    spec = pointwise(view, carrying=[0])
    axis = view.axis(1) if view.rank() else 0
    block = int(view.attribute("block_size", 0))
    spec.roles[2] = "shifts"
    if view.shape(1) in ((), (1,)):
        return spec
    scales = _in_blocks(spec, axis, block) if block else (Term((f"p{axis}",)),)
    spec.inputs[1:] = [scales] * (len(view.node.inputs) - 1)
    return spec


def _in_blocks(spec: Spec, axis: int, block: int) -> tuple[Term, ...]:
    """Split an axis into blocks g of elements e; return the terms of a tensor with one entry per block."""
    size = spec.sizes.pop(f"p{axis}")
    if size % block:
        raise ValueError(f"the last block of axis {axis} is cut short")
    spec.sizes.update(g=size // block, e=block)
    assert spec.inputs[0] is not None
    whole = tuple(Term(("g", "e")) if a == axis else term for a, term in enumerate(spec.inputs[0]))
    spec.inputs[0], spec.outputs[0] = whole, whole
    return tuple(Term(("g",)) if a == axis else term for a, term in enumerate(whole))


@rule("DynamicQuantizeLinear", family="pointwise")
def dynamic_quantize(view: View) -> Spec:
    """Its range always holds zero: what is silent on the way in may as well be missing."""
    spec = pointwise(view)
    spec.outputs[1:] = [None] * (len(view.node.outputs) - 1)
    spec.consumes = set(spec.sizes)
    return spec


def _groups(view: View, cut: KeptPositions) -> Edits:
    return Edits({"group": cut.letter("g")}) if view.attribute("group", 1) > 1 else Edits()


def _per_channel(view: View, index: int, text: str) -> str:
    """The signature of a scale or zero point: nothing where one value is for all."""
    return text if view.shape(index) not in ((), (1,)) else ""


def _convolution(view: View, weight: int, tail: dict[int, str]) -> Spec:
    """Signature of quantised x (input 0) convolved with the input ``weight``; ``tail``: further per-channel inputs."""
    if view.attribute("channels_last", 0):
        raise ValueError("channels come last")
    texts = {0: "n (g c) *", weight: "(g o) c *", **tail}
    shapes = [shape if texts.get(i) else None for i, shape in enumerate(view.shapes())]
    sizes = {"g": int(view.attribute("group", 1)), "c": view.shape(weight)[1]}
    left = ",".join(texts.get(i, "") for i in range(len(shapes)))
    spec = parse(f"{left} -> n (g o) *", shapes, [view.out_shape()], sizes)
    spec.cost = tuple(sorted(spec.letters([*spec.outputs, spec.inputs[weight]])))
    return spec


@rule("QLinearConv", "com.microsoft::QLinearConv", family="contraction", rewrite=_groups)
def qlinear_conv(view: View) -> Spec:
    tail = {i: _per_channel(view, i, "(g o)") for i in (4, 5, 8) if view.has(i)}
    spec = _convolution(view, 3, tail)
    spec.roles = {4: "scales", 5: "shifts", 8: "shifts"}
    spec.silent = {0: 2}
    return spec


@rule("ConvInteger", family="contraction", rewrite=_groups)
def conv_integer(view: View) -> Spec:
    spec = _convolution(view, 1, {3: _per_channel(view, 3, "(g o)")} if view.has(3) else {})
    spec.roles = {3: "shifts"}
    spec.silent = {0: 2}
    return spec


def _product(
    view: View, right: int, columns: dict[int, str], zero: int | None, transposed: tuple[int, int] = (0, 0)
) -> Spec:
    """Signature of input 0 times input ``right``; ``columns``: inputs with one entry per column -> their role.

    ``zero``: the input with the one zero point of input 0 (None: it is not quantised).
    """
    if zero is not None and view.shape(zero) not in ((), (1,)):
        raise ValueError("the left operand has one zero point per row")
    shapes = [view.shape(i)[::-1] if flip else view.shape(i) for i, flip in zip((0, right), transposed, strict=True)]
    spec = matrix_product(shapes[0], shapes[1], view.out_shape())
    terms = [o[::-1] if flip and o else o for o, flip in zip(spec.inputs, transposed, strict=True)]
    spec.inputs = [None] * len(view.node.inputs)
    spec.inputs[0], spec.inputs[right] = terms
    assert spec.outputs[0] is not None
    for index, role in columns.items():
        if view.has(index) and view.shape(index) not in ((), (1,)):
            spec.inputs[index] = aligned(_flat(view.shape(index)), spec.outputs[0], view.out_shape())
            spec.roles[index] = role
    spec.silent = {0: zero}
    return spec


def _flat(shape: Shape) -> Shape:
    if len(shape) > 1:
        raise ValueError("scales of more than one axis")
    return shape


@rule("MatMulInteger", family="contraction")
def matmul_integer(view: View) -> Spec:
    return _product(view, 1, {3: "shifts"}, 2)


@rule("QLinearMatMul", family="contraction")
def qlinear_matmul(view: View) -> Spec:
    return _product(view, 3, {4: "scales", 5: "shifts"}, 2)


@rule("com.microsoft::MatMulIntegerToFloat", family="contraction")
def matmul_integer_to_float(view: View) -> Spec:
    return _product(view, 1, {3: "scales", 5: "shifts", 6: "shifts"}, 4)


@rule("com.microsoft::DynamicQuantizeMatMul", family="contraction")
def dynamic_quantize_matmul(view: View) -> Spec:
    """The float input is quantised inside, over a range that always holds zero."""
    return _product(view, 1, {2: "scales", 3: "shifts", 4: "shifts"}, None)


@rule("com.microsoft::QGemm", family="contraction")
def qgemm(view: View) -> Spec:
    flips = (int(view.attribute("transA", 0)), int(view.attribute("transB", 0)))
    return _product(view, 3, {4: "scales", 5: "shifts", 6: "shifts"}, 2, flips)


CARRYING = {
    "com.microsoft::QLinearAdd": (0, 3),
    "com.microsoft::QLinearMul": (0, 3),
    "com.microsoft::QLinearSigmoid": (0,),
    "com.microsoft::QLinearLeakyRelu": (0,),
    "com.microsoft::QLinearWhere": (0, 1, 4),
}


@rule(*CARRYING, family="pointwise")
def qlinear_elementwise(view: View) -> Spec:
    return pointwise(view, carrying=CARRYING[view.node.op])


@rule("com.microsoft::QLinearConcat", family="movement")
def qlinear_concat(view: View) -> Spec:
    return concatenated(view, range(2, len(view.node.inputs), 3))


@rule("com.microsoft::QLinearGlobalAveragePool", family="reduction")
def qlinear_global_pool(view: View) -> Spec:
    last = bool(view.attribute("channels_last", 0))
    return reduction(view, range(1, view.rank() - 1) if last else range(2, view.rank()), "statistics")


@rule("com.microsoft::QLinearAveragePool", "com.microsoft::NhwcMaxPool", family="reduction")
def qlinear_pool(view: View) -> Spec:
    last = view.node.op.endswith("NhwcMaxPool") or view.attribute("channels_last", 0)
    spec = parse("n * c -> n * c" if last else "n c * -> n c *", [view.shape(0)], [view.out_shape()])
    spec.inputs.extend([None] * (len(view.node.inputs) - 1))
    return spec


@rule("com.microsoft::QLinearSoftmax", family="normalisation")
def qlinear_softmax(view: View) -> Spec:
    axis = view.axis(-1)
    return normalisation(view, [axis] if view.attribute("opset", 13) >= 13 else range(axis, view.rank()))
