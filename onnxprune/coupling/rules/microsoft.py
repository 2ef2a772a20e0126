"""Operators of ONNX Runtime's own domain as its optimiser and its exporters write them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnx import TensorProto

from onnxprune.coupling.edits import Edits, KeptPositions, Operation
from onnxprune.coupling.families import aligned, matrix_product, normalisation, pointwise
from onnxprune.coupling.rules.contraction import gemm
from onnxprune.coupling.rules.indexing import NUMBERED
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
    """Sizes that the operator says; where the last block is cut short, inputs stay."""
    short = int(view.attribute("K")) % int(view.attribute("block_size"))
    edits = {"N": cut.letter("n")}
    return Edits(edits if short else {**edits, "K": math.prod(map(cut.letter, _blocks(view)[0]))})


def _blocks(view: View) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return the letters of the inputs of a packed matrix, blocks ``k`` of ``e`` inputs, and their sizes.

    Where zero points (input number 3) of several blocks share a byte, those blocks ``t`` go together, if no byte is cut short.
    """
    block, bits = int(view.attribute("block_size")), int(view.attribute("bits", 4))
    inputs = int(view.attribute("K", 0)) or view.out_shape()[-1]
    count, shared = -(-inputs // block), 8 // bits
    if _share_bytes(view) and count % shared == 0:
        return ("k", "t", "e"), {"k": count // shared, "t": shared, "e": block}
    return ("k", "e"), {"k": count, "e": block}


def _share_bytes(view: View) -> bool:
    return view.has(3) and view.fact(3).dtype == TensorProto.UINT8 and int(view.attribute("bits", 4)) < 8


TOGETHER = "its weights are packed in blocks of bits"
SHARED = "zero points of several blocks share a byte"


@rule("com.microsoft::MatMulNBits", family="contraction", rewrite=_sizes)
def matmul_nbits(view: View) -> Spec:
    """Rows n of the weights are packed each on its own in blocks of inputs: rows can go, and whole blocks.

    Where the last block is cut short, inputs are counted one by one, and stay.
    """
    whole_axis, block = int(view.attribute("K")), int(view.attribute("block_size"))
    short = bool(whole_axis % block)
    spec = Spec([None] * len(view.node.inputs), [], {"n": int(view.attribute("N"))})
    stack = axes_of("b", view.out_shape()[:-1], spec.sizes)
    inputs: tuple[str, ...]
    if short:
        inputs, zeros = ("e",), "zero"
        spec.sizes |= {"e": whole_axis, "k": -(-whole_axis // block)}
        blocks: tuple[str, ...] = ("k",)
    else:
        inputs, sizes = _blocks(view)
        spec.sizes |= sizes
        blocks, zeros = inputs[:-1], "zero" if _share_bytes(view) and "t" not in sizes else "k"
    spec.inputs[0] = (*stack, Term(inputs))
    spec.outputs = [(*stack, Term(("n",)))]
    whole = {1: ("n", blocks, "packed"), 2: ("n", blocks), 3: ("n", zeros), 5: ("n",)}
    for index, letters in whole.items():
        if view.has(index):
            spec.inputs[index] = _rows(view.shape(index), letters, spec)
    spec.roles = {1: "writes", 2: "scales", 3: "shifts", 5: "shifts"}
    spec.cost = (*(term.letters[0] for term in stack), "n", *inputs)
    spec.silent = {0: None}
    spec.bar([x for x in ("e", "packed", "zero") if x in spec.sizes], TOGETHER)
    spec.bar([x for x in ("t",) if x in spec.sizes], SHARED)
    if short:
        spec.bar("k", "its last block is cut short")
    elif "zero" in spec.sizes:
        spec.bar("k", SHARED)
    return spec.bar("k", "its inputs are in another order") if view.has(4) else spec


def _rows(shape: Shape, letters: Sequence[str | tuple[str, ...]], spec: Spec) -> Operand:
    """Terms of a tensor with the given axes, which may be stored flat; the last one's size follows from the others."""
    axes = [(axis,) if isinstance(axis, str) else axis for axis in letters]
    flat = [letter for axis in axes for letter in axis]
    known = math.prod(spec.sizes[letter] for letter in flat if letter in spec.sizes)
    for letter in flat:
        spec.sizes.setdefault(letter, math.prod(shape) // known)
    if len(shape) == len(axes):
        return tuple(Term(axis) for axis in axes)
    return (Term(tuple(flat)),)


@rule("com.microsoft::GatherBlockQuantized", family="movement")
def gather_blocks(view: View) -> Spec:
    """Numbers pick rows of a packed table; whole blocks of its columns can go."""
    if view.rank() != 2 or int(view.attribute("gather_axis", 0)) or int(view.attribute("quantize_axis", 1)) % 2 != 1:
        raise ValueError("a table that is not packed along its rows")
    letters, sizes = _blocks(view)
    blocks, columns = letters[:-1], view.out_shape()[-1]
    if columns % int(view.attribute("block_size")):
        raise ValueError("its last block is cut short")
    spec = Spec([], [], {"m": view.shape(0)[0], **sizes})
    picks = axes_of("i", view.shape(1), spec.sizes)
    stored = view.shape(0)[1]
    spec.sizes["packed"] = stored * sizes["e"] // columns
    spec.inputs = [(Term(("m",)), Term((*blocks, "packed"))), tuple(picks), (Term(("m",)), Term(blocks))]
    if view.has(3):
        spec.inputs.append(
            _rows(view.shape(3), ("m", "zero" if _share_bytes(view) and "t" not in sizes else "k"), spec)
        )
    spec.outputs = [(*picks, Term(letters))]
    spec.roles = {0: "writes", 2: "scales", 3: "shifts"}
    spec.bar("m", NUMBERED)
    spec.bar([letter for letter in ("t", "zero") if letter in spec.sizes], SHARED)
    spec.bar(["k"] * ("zero" in spec.sizes), SHARED)
    return spec.bar(["e", "packed"], TOGETHER)
