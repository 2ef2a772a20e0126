"""Operators that multiply and sum: convolutions, matrix products, embeddings."""

from __future__ import annotations

from onnxprune.coupling.edits import Edits, KeptPositions
from onnxprune.coupling.families import aligned, contraction_cost, matrix_product, sliding_window
from onnxprune.coupling.spec import Operand, Spec, Term, View, parse, rule
from onnxprune.model.facts import Shape


def _groups(view: View, cut: KeptPositions) -> Edits:
    return Edits(attributes={"group": cut.letter("g")}) if view.attribute("group", 1) > 1 else Edits()


@rule("Conv", "com.microsoft::FusedConv", family="contraction", rewrite=_groups)
def conv(view: View) -> Spec:
    """Spatial axes that no window slides over pass through; one with a window of its own keeps its neighbours."""
    group = int(view.attribute("group", 1))
    kernel = view.shape(1)[2:]
    window = sliding_window(view, kernel)
    space, taps = "*", "*"
    if window is not None:
        space = " ".join(f"s{i}" for i in range(len(kernel)))
        taps = " ".join("tap" if i in window else "1" for i in range(len(kernel)))
    shapes = [view.shape(0), view.shape(1), view.shape(2) if view.has(2) else None]
    signature = f"n (g c) {space}, (g o) c {taps}, (g o) -> n (g o) {space}"
    spec = parse(signature, shapes, [view.out_shape()], {"g": group, "c": view.shape(1)[1]})
    if window:
        spec.lossy = dict.fromkeys((f"s{i}" for i in window), "neighbours")
        spec.bar(["tap"], "a window slides over this axis")
    if view.has(3):  # the residual input of FusedConv
        spec.inputs.append(spec.outputs[0])
        spec.roles[1] = "writes"
    spec.roles[2] = "shifts"
    return contraction_cost(spec)


@rule("ConvTranspose", family="contraction", rewrite=_groups)
def conv_transpose(view: View) -> Spec:
    group = int(view.attribute("group", 1))
    shapes = [view.shape(0), view.shape(1), view.shape(2) if view.has(2) else None]
    sizes = {"g": group, "o": view.shape(1)[1]}
    spec = parse("n (g c) *, (g c) o *, (g o) -> n (g o) *", shapes, [view.out_shape()], sizes)
    spec.roles[2] = "shifts"
    spec.cost = tuple(sorted(spec.letters(spec.inputs[:2]) | {"o"}))
    return spec


@rule("Gemm", family="contraction")
def gemm(view: View) -> Spec:
    left = "k m" if view.attribute("transA", 0) else "m k"
    right = "n k" if view.attribute("transB", 0) else "k n"
    spec = parse(f"{left}, {right} -> m n", [view.shape(0), view.shape(1)], [view.out_shape()])
    assert spec.outputs[0] is not None
    spec.inputs.append(aligned(view.shape(2), spec.outputs[0], view.out_shape()) if view.has(2) else None)
    spec.roles[2] = "shifts"
    return contraction_cost(spec)


@rule("MatMul", family="contraction")
def matmul(view: View) -> Spec:
    return matrix_product(view.shape(0), view.shape(1), view.out_shape())


@rule("DeformConv", family="contraction", rewrite=_groups)
def deform_conv(view: View) -> Spec:
    """With several offset groups each run of input channels has offsets of its own, so that none can go."""
    sizes = {"g": int(view.attribute("group", 1)), "c": view.shape(1)[1]}
    spec = parse("n (g c) *, (g o) c *, n *, (g o), n * -> n (g o) *", view.shapes(), [view.out_shape()], sizes)
    spec.roles[3] = "shifts"
    if view.attribute("offset_group", 1) > 1:
        spec.bar("gc", "its channels share offsets in groups")
    return contraction_cost(spec)


@rule("Einsum", family="contraction")
def einsum(view: View) -> Spec:
    """Any equation; a letter repeated within one operand is a diagonal, which cannot be cut."""
    left, arrow, right = view.attribute("equation").replace(" ", "").partition("->")
    texts = left.split(",")
    if not arrow:
        letters = left.replace("...", "").replace(",", "")
        right = "..." * ("..." in left) + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    spec = Spec([], [])
    dots = max(view.rank(i) - len(text.replace("...", "")) for i, text in enumerate(texts))
    for index, text in enumerate(texts):
        spec.inputs.append(_einsum_operand(text, view.shape(index), dots, spec.sizes))
        spec.bar({c for c in text if text.count(c) > 1} - {"."}, "a diagonal is taken")
    spec.outputs = [_einsum_operand(right, view.out_shape(), dots, spec.sizes)]
    spec.cost = tuple(sorted(spec.sizes)) if len(texts) > 1 else ()
    return spec


def _einsum_operand(text: str, shape: Shape, dots: int, sizes: dict[str, int]) -> Operand:
    """Terms of one operand; its ellipsis stands for the last of ``dots`` broadcast axes."""
    before, ellipsis, after = text.partition("...")
    inner = len(shape) - len(before) - len(after)
    letters = [*before, *(f"e{i}" for i in range(dots - inner, dots) if ellipsis), *after]
    if len(letters) != len(shape):
        raise ValueError(f"{text!r} does not fit shape {shape}")
    terms = []
    for letter, size in zip(letters, shape, strict=True):
        single = size == 1 and sizes.get(letter, 1) != 1
        if sizes.get(letter, 1) == 1:
            sizes[letter] = size
        elif not single and sizes[letter] != size:
            raise ValueError(f"letter {letter!r} stands for {sizes[letter]} and {size}")
        terms.append(Term() if single else Term((letter,)))
    return tuple(terms)
