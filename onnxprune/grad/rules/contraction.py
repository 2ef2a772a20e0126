"""Contractions other than convolutions: matrix products of every rank, Gemm, Einsum."""

from __future__ import annotations

from onnxprune.grad.emitter import Emitter, Value
from onnxprune.grad.view import ForwardNode, Gradients, vjp


@vjp("MatMul")
def matmul(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    """dA = g B^T, dB = A^T g on matrices; vectors are made matrices, batch axes are summed back by the driver."""
    a, b = node.inputs
    rows, columns = (a.rank == 1), (b.rank == 1)
    left = emit("Unsqueeze", a, [0]) if rows else a
    right = emit("Unsqueeze", b, [1]) if columns else b
    g = emit("Unsqueeze", g, [-1]) if columns else g
    g = emit("Unsqueeze", g, [-2]) if rows else g
    da = g @ emit.swap(right)
    if right.rank == 2 and left.rank > 2 and not rows:
        db = _flat(emit, left, transposed=True) @ _flat(emit, g)
    else:
        db = emit.swap(left) @ g
    return [emit("Squeeze", da, [-2]) if rows else da, emit("Squeeze", db, [-1]) if columns else db]


def _flat(emit: Emitter, x: Value, transposed: bool = False) -> Value:
    """Merge all axes but the last: one large product instead of a batch of them that has to be summed."""
    flat = emit.reshape(x, [-1, x.dim(-1)])
    return emit.swap(flat) if transposed else flat


@vjp("Gemm")
def gemm(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    """y = alpha op(A) op(B) + beta C."""
    a, b, *bias = node.inputs
    alpha, beta = node.attribute("alpha", 1.0), node.attribute("beta", 1.0)
    ta, tb = node.attribute("transA", 0), node.attribute("transB", 0)
    da = emit("Gemm", b, g, alpha=alpha, transA=tb, transB=1) if ta else emit("Gemm", g, b, alpha=alpha, transB=1 - tb)
    db = emit("Gemm", g, a, alpha=alpha, transA=1, transB=ta) if tb else emit("Gemm", a, g, alpha=alpha, transA=1 - ta)
    return [da, db, *([g * beta if beta != 1.0 else g] * len(bias))]


@vjp("Einsum")
def einsum(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    """Exchange an operand with the output; where the operand has a letter of its own, its gradient repeats."""
    operands, output = _letters(node)
    gradients = []
    for index, letters in enumerate(operands):
        node.refuse_unless(len(set(letters)) == len(letters), "an operand repeats a letter (a diagonal)")
        others = [k for k in range(len(operands)) if k != index]
        found = output + "".join(operands[k] for k in others)
        kept = "".join(letter for letter in letters if letter in found)
        terms = ",".join([output, *(operands[k] for k in others)])
        part = emit("Einsum", g, *(node.inputs[k] for k in others), equation=f"{terms}->{kept}")
        missing = [axis for axis, letter in enumerate(letters) if letter not in found]
        if missing:
            part = emit.expand_like(emit("Unsqueeze", part, missing), node.inputs[index])
        gradients.append(part)
    return gradients


def _letters(node: ForwardNode) -> tuple[list[str], str]:
    """Return the letters of the operands and of the output, an ellipsis spelled out by capitals."""
    equation = node.attribute("equation").replace(" ", "")
    left, arrow, output = equation.partition("->")
    if not arrow:
        plain = left.replace(",", "").replace("...", "")
        output = ("..." if "..." in left else "") + "".join(sorted(c for c in set(plain) if plain.count(c) == 1))
    terms = left.split(",")
    spare = [chr(code) for code in range(ord("A"), ord("Z") + 1) if chr(code) not in equation]
    hidden = {
        term: value.rank - len(term.replace("...", ""))
        for term, value in zip(terms, node.inputs, strict=True)
        if "..." in term
    }
    widest = max(hidden.values(), default=0)
    return [_spell(term, spare, hidden.get(term, 0), widest) for term in terms], _spell(output, spare, widest, widest)


def _spell(term: str, spare: list[str], count: int, widest: int) -> str:
    return term.replace("...", "".join(spare[widest - count : widest]))
