"""Operators of ONNX Runtime's own domain as its optimiser and its exporters write them."""

from __future__ import annotations

import math

from onnxprune.coupling.edits import Edits, KeptPositions, Operation
from onnxprune.coupling.families import aligned, matrix_product, normalisation, pointwise
from onnxprune.coupling.rules.contraction import gemm
from onnxprune.coupling.spec import Operand, Spec, Term, View, axes_of, parse, rule
from onnxprune.coupling.statistics import corrected, is_mean_free, root_mean_square, share_kept, spelled_out
from onnxprune.model.facts import Shape

rule("com.microsoft::FusedGemm", family="contraction")(gemm)

ACTIVATIONS = ("Gelu", "QuickGelu", "BiasGelu", "FastGelu")


@rule(*(f"com.microsoft::{name}" for name in ACTIVATIONS), family="pointwise")
def activation(view: View) -> Spec:
    """An activation, some with a bias that is added first."""
    spec = pointwise(view)
    spec.roles[1] = "shifts"
    return spec


SUM = 3
"""Number of the output that holds the sum before it is normalised."""
SKIP = ("com.microsoft::SkipLayerNormalization", "com.microsoft::SkipSimplifiedLayerNormalization")


def _rest_of_skip(view: View, cut: KeptPositions) -> Edits:
    last = view.rank() - 1
    share = share_kept(view, cut, "p", [last])
    if share == 1 and not is_mean_free(view):
        return Edits()
    if view.node.op != SKIP[0]:
        return root_mean_square(view, share)
    given = len(view.node.outputs) > SUM and bool(view.node.outputs[SUM])
    names = ["sum", "shifted_sum"] if view.has(4) else ["sum"]
    sums = [
        Operation("Add", (0 if n == 0 else names[n - 1], (1, 4)[n]), name, SUM if given and name == names[-1] else None)
        for n, name in enumerate(names)
    ]
    return spelled_out(view, share, [last], sums, names[-1])


@rule(*SKIP, family="normalisation", rewrite=_rest_of_skip)
def skip_layer_norm(view: View) -> Spec:
    """Input plus skip plus bias, normalised over the last axis; the sum is an output of its own."""
    last = view.rank() - 1
    spec = normalisation(view, [last])
    whole = spec.outputs[0]
    assert whole is not None
    for index in range(1, len(view.node.inputs)):
        spec.inputs[index] = aligned(view.shape(index), whole, view.shape(0)) if view.has(index) else None
    for index, name in enumerate(view.node.outputs[1:], 1):
        statistics = tuple(Term() if axis == last else term for axis, term in enumerate(whole))
        spec.outputs[index] = (whole if index == SUM else statistics) if name else None
    shifts = (3, 4) if view.node.op == SKIP[0] else (3,)
    spec.roles = dict.fromkeys(shifts, "shifts")
    added = [index for index in (0, 1, shifts[-1]) if view.has(index)]
    return corrected(view, spec, [f"p{last}"], added)


@rule("com.microsoft::EmbedLayerNormalization", family="normalisation")
def embed_layer_norm(view: View) -> Spec:
    """The sum of up to three looked-up embeddings, normalised over the last axis."""
    texts = {0: "b s", 1: "b s", 2: "v h", 3: "p h", 4: "q h", 5: "h", 6: "h"}
    shapes = [shape if i in texts else None for i, shape in enumerate(view.shapes())]
    left = ",".join(texts.get(i, "") for i in range(len(shapes)))
    outputs = [shape if i != 1 else None for i, shape in enumerate(view.out_shapes())]
    spec = parse(f"{left} -> b s h,,b s h", shapes, outputs)
    spec.lossy = {"h": "statistics"}
    spec.roles = {2: "writes", 3: "writes", 4: "writes", 5: "scales", 6: "shifts"}
    return spec.bar([x for x in "vpq" if x in spec.sizes], "its positions are picked by numbers computed elsewhere")


@rule("com.microsoft::FusedMatMul", "com.microsoft::TransposeMatMul", family="contraction")
def fused_matmul(view: View) -> Spec:
    """A matrix product with either operand's last two axes exchanged."""
    if view.attribute("transBatchA", 0) or view.attribute("transBatchB", 0):
        raise ValueError("the batch axes are exchanged as well")
    flips = [bool(view.attribute(name, 0)) and view.rank(i) > 1 for i, name in enumerate(("transA", "transB"))]
    left, right = (_swapped(view.shape(i)) if flip else view.shape(i) for i, flip in enumerate(flips))
    spec = matrix_product(left, right, view.out_shape())
    spec.inputs = [_swapped(o) if flip and o else o for o, flip in zip(spec.inputs, flips, strict=True)]
    return spec


def _swapped(axes: tuple) -> tuple:
    return (*axes[:-2], axes[-1], axes[-2])


def _sizes(view: View, cut: KeptPositions) -> Edits:
    whole = int(view.attribute("K")) % int(view.attribute("block_size"))
    return Edits({"N": cut.letter("n")} | ({} if whole else {"K": cut.letter("k") * cut.letter("e")}))


@rule("com.microsoft::MatMulNBits", family="contraction", rewrite=_sizes)
def matmul_nbits(view: View) -> Spec:
    """Rows n of the weights are packed each on its own in blocks k of e inputs: rows can go, and whole blocks.

    Where the last block is cut short, inputs are counted one by one, and stay.
    """
    whole_axis, block = int(view.attribute("K")), int(view.attribute("block_size"))
    short = bool(whole_axis % block)
    spec = Spec(
        [None] * len(view.node.inputs), [], {"n": int(view.attribute("N")), "e": whole_axis if short else block}
    )
    stack = axes_of("b", view.out_shape()[:-1], spec.sizes)
    spec.sizes["k"] = -(-whole_axis // block)
    spec.inputs[0] = (*stack, Term(("e",) if short else ("k", "e")))
    spec.outputs = [(*stack, Term(("n",)))]
    zeros = "k" if view.attribute("bits", 4) == 8 else "zero"
    whole = {1: ("n", "k", "packed"), 2: ("n", "k"), 3: ("n", zeros), 5: ("n",)}
    for index, letters in whole.items():
        if view.has(index):
            spec.inputs[index] = _rows(view.shape(index), letters, spec)
    spec.roles = {1: "writes", 2: "scales", 3: "shifts", 5: "shifts"}
    spec.cost = (*(term.letters[0] for term in stack), "n", *(("e",) if short else ("k", "e")))
    spec.silent = {0: None}
    spec.bar([x for x in ("e", "packed", "zero") if x in spec.sizes], "its weights are packed in blocks of bits")
    if short:
        spec.bar("k", "its last block is cut short")
    return spec.bar("k", "two blocks share a byte") if view.has(4) or "zero" in spec.sizes else spec


def _rows(shape: Shape, letters: tuple[str, ...], spec: Spec) -> Operand:
    """Terms of a tensor with the given axes, which may be stored flat; the last one's size follows from the others."""
    known = math.prod(spec.sizes[letter] for letter in letters if letter in spec.sizes)
    for letter in letters:
        spec.sizes.setdefault(letter, math.prod(shape) // known)
    if len(shape) == len(letters):
        return tuple(Term((letter,)) for letter in letters)
    return (Term(letters),)
