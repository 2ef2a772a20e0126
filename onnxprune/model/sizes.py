"""Sizes of free input dimensions: those that are given, those of real rows, and small ones to try for all others."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import onnx

from onnxprune.errors import UsageError
from onnxprune.model.decoding import LENGTH, decoding_of, lengths
from onnxprune.model.graph import Graph

Shape = tuple[int, ...]
Sizes = Mapping[str, Shape]
Axis = tuple[str, int]  # an input and one of its axes

PICTURES = ((64, 96), (32, 48), (128, 160), (224, 256), (299, 331), (384, 320), (512, 640), (1024, 768), (16, 24))
LENGTHS = ((8, 12), (16, 24), (7, 11), (64, 96), (128, 192), (4, 6), (400, 480), (3000, 3200), (16000, 17600))
BATCHES = ((2, 3), (1, 1))  # some files say a free batch and have a batch of one in their shapes
EMPTY_GROWN = 5
"""Length of what is empty in real rows (a cache before the first token), to see what depends on it."""
GROWTH: tuple[Callable[[int], int], ...] = (
    lambda n: 2 * n or EMPTY_GROWN,
    lambda n: n + 32,
    lambda n: n + 1,
    lambda n: n - n // 4 or 2,
)
"""Other sizes than those of real rows, to see what depends on them."""


class Candidate(NamedTuple):
    """Shapes of all inputs to try; ``batch``: how many samples these are, where costs are told of one."""

    sizes: Sizes
    batch: int = 1


def free_dimensions(graph: Graph) -> list[tuple[str, int, str]]:
    """Return (input, axis, symbol) of each dimension without a fixed size; unnamed ones get a symbol of their own."""
    found = []
    for value in graph.model.graph.input:
        if value.name in graph.inputs:
            for axis, dim in enumerate(value.type.tensor_type.shape.dim):
                if not dim.HasField("dim_value") or dim.dim_value <= 0:
                    found.append((value.name, axis, dim.dim_param or f"{value.name}:{axis}"))
    return found


def batch_axes(graph: Graph) -> frozenset[Axis]:
    """Return the free axes that count samples: first ones, others of the same name, second ones of states [layers, batch, width]."""
    free = {(name, axis): symbol for name, axis, symbol in free_dimensions(graph)}
    leading = {symbol for (_, axis), symbol in free.items() if axis == 0}
    ranks = {name: len(dims) for name, dims in _declared(graph).items()}
    states = {
        (name, axis)
        for (name, axis), symbol in free.items()
        if leading and axis == 1 and ranks[name] == 3 and (name, 0) not in free and symbol == f"{name}:1"
    }
    return frozenset({place for place, symbol in free.items() if symbol in leading} | states)


def first_candidates(
    graph: Graph, fixed: Mapping[str, Sequence[int]], rows: Sizes, met: Mapping[Axis, int]
) -> Iterator[Candidate]:
    """Yield what to analyse the model at: sizes of real rows where there are any (two samples, then one), else small ones.

    ``met``: the sizes of axes that stored tensors settle.
    Raises UsageError where a given shape names no input or contradicts a fixed dimension.
    """
    known = _of_rows(graph, fixed, rows)
    if known is None:
        yield from candidate_sizes(graph, fixed, met)
        return
    samples = _single(graph, known, fixed)
    for batch in (2, 1) if samples else (1,):
        yield Candidate(_changed(known, dict.fromkeys(samples, batch)), batch)


def further_candidates(
    graph: Graph, fixed: Mapping[str, Sequence[int]], rows: Sizes, met: Mapping[Axis, int]
) -> Iterator[Sizes]:
    """Yield sizes to see what depends on them, apart from those of rows: all free axes change, at last the batch alone."""
    known = _of_rows(graph, fixed, rows)
    if known is None:
        yield from (candidate.sizes for candidate in candidate_sizes(graph, fixed, met))
        return
    samples = _single(graph, known, fixed)
    free = {(name, axis): symbol for name, axis, symbol in free_dimensions(graph) if name not in fixed}
    symbols = {symbol: known[name][axis] for (name, axis), symbol in free.items() if (name, axis) not in samples}
    decoding = decoding_of(graph)
    for grow, batch in itertools.product(GROWTH, (3, 2, 1) if samples else (1,)):
        grown = {symbol: grow(size) for symbol, size in symbols.items()}
        grown = {symbol: _expression(symbol, grown) for symbol in grown}
        grown |= lengths(graph, decoding, grown)
        changed = {place: met.get(place, grown[s]) for place, s in free.items() if s in grown and place not in samples}
        yield _changed(known, changed | dict.fromkeys(samples, batch))
    yield from (candidate.sizes for candidate in candidate_sizes(graph, fixed, met))
    for batch in (3, 2) if samples else ():
        yield _changed(known, dict.fromkeys(samples, batch))


def _of_rows(graph: Graph, fixed: Mapping[str, Sequence[int]], rows: Sizes) -> Sizes | None:
    """Return the shapes of all inputs as rows, or else the file, say; None where these leave some open."""
    _check_fixed(graph, fixed)
    free = {(name, axis): symbol for name, axis, symbol in free_dimensions(graph)}
    symbols = {s: rows[name][axis] for (name, axis), s in free.items() if axis < len(rows.get(name, ()))}
    if not free or not symbols.keys() >= {symbol for (name, _), symbol in free.items() if name not in fixed}:
        return None
    declared = _declared(graph)
    return {n: _resolve(n, dims, symbols, fixed.get(n, rows.get(n))) for n, dims in declared.items()}


def _single(graph: Graph, sizes: Sizes, fixed: Collection[str]) -> frozenset[Axis]:
    """Return the axes of the batch where one sample is what the sizes are of, and more can be taken."""
    found = batch_axes(graph)
    alone = all(sizes[name][axis] == 1 and name not in fixed for name, axis in found)
    return found if alone else frozenset()


def _changed(sizes: Sizes, axes: Mapping[Axis, int]) -> Sizes:
    return {n: tuple(axes.get((n, axis), size) for axis, size in enumerate(shape)) for n, shape in sizes.items()}


def candidate_sizes(
    graph: Graph, fixed: Mapping[str, Sequence[int]], met: Mapping[Axis, int] | None = None
) -> Iterator[Candidate]:
    """Yield shapes for all inputs to try: small and pairwise different for batch, length and picture sizes."""
    declared = _declared(graph)
    _check_fixed(graph, fixed)
    free, samples, decoding = free_dimensions(graph), batch_axes(graph), decoding_of(graph)
    known = {symbol: met[name, axis] for name, axis, symbol in free if (name, axis) in met} if met else {}
    seen = set()
    for (picture, length), batch, swap in itertools.product(zip(PICTURES, LENGTHS, strict=True), BATCHES, (0, 1)):
        symbols: dict[str, int] = {}
        for name, axis, symbol in free:
            pair = batch if (name, axis) in samples else picture if len(declared[name]) >= 4 else length
            if name in decoding.state and pair is picture:
                pair = (length[0] // 2 + 1, length[1] // 2 + 1)
            symbols.setdefault(symbol, known.get(symbol, pair[swap]))
        for symbol in symbols:
            symbols[symbol] = _expression(symbol, symbols)
        symbols |= lengths(graph, decoding, symbols)
        sizes = {name: _resolve(name, dims, symbols, fixed.get(name)) for name, dims in declared.items()}
        if (key := tuple(sizes.items())) not in seen:
            seen.add(key)
            yield Candidate(sizes, _common_batch(sizes, samples))


def _common_batch(sizes: Sizes, samples: Collection[Axis]) -> int:
    """Return the batch that all inputs with axes share; 1 where some have none."""
    batches = {name: sizes[name][axis] for name, axis in samples}
    whole = all(name in batches for name, shape in sizes.items() if shape)
    return next(iter(batches.values())) if whole and len(set(batches.values())) == 1 else 1


def told(sizes: Sizes, samples: Collection[Axis], batch: int) -> Sizes:
    """Return the sizes of one of ``batch`` samples."""
    return _changed(
        sizes, {(name, axis): sizes[name][axis] // batch for name, axis in samples if axis < len(sizes[name])}
    )


def _declared(graph: Graph) -> dict[str, Sequence[onnx.TensorShapeProto.Dimension]]:
    """Return the dimensions that the file gives each input."""
    return {v.name: v.type.tensor_type.shape.dim for v in graph.model.graph.input if v.name in graph.inputs}


def _check_fixed(graph: Graph, fixed: Mapping[str, Sequence[int]]) -> None:
    declared, states = _declared(graph), decoding_of(graph).state
    for name, shape in fixed.items():
        if name not in declared:
            raise UsageError(f"--input-shape: the model has no input {name!r}; its inputs are {', '.join(declared)}")
        dims = declared[name]
        fits = len(dims) == len(shape) and all(
            not d.HasField("dim_value") or d.dim_value <= 0 or d.dim_value == n
            for d, n in zip(dims, shape, strict=True)
        )
        empty = {LENGTH} if name in states else set()  # a cache before the first token
        if not fits or any(n < 0 or (n == 0 and axis not in empty) for axis, n in enumerate(shape)):
            wanted = [d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in dims]
            raise UsageError(f"--input-shape: {name} has shape {wanted}; {list(shape)} does not fit it")


def _expression(symbol: str, known: Mapping[str, int]) -> int:
    """Give a symbol such as ``past + 1`` or ``2*n`` its value from the symbols it is made of."""
    try:
        tree = ast.parse(symbol, mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return known[symbol]
    allowed = (ast.Expression, ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Name, ast.Load, ast.Constant)
    nodes = list(ast.walk(tree))
    names = {n.id for n in nodes if isinstance(n, ast.Name)}
    if len(nodes) > 30 or not all(isinstance(n, allowed) for n in nodes) or not names <= set(known):
        return known[symbol]
    if names == {symbol} or not all(isinstance(n.value, int) for n in nodes if isinstance(n, ast.Constant)):
        return known[symbol]
    return max(1, _arithmetic(tree.body, known))


def _arithmetic(tree: ast.AST, known: Mapping[str, int]) -> int:
    if isinstance(tree, ast.Name):
        return known[tree.id]
    if isinstance(tree, ast.Constant):
        return int(tree.value)  # type: ignore[arg-type]
    assert isinstance(tree, ast.BinOp)
    left, right = _arithmetic(tree.left, known), _arithmetic(tree.right, known)
    return {ast.Add: left + right, ast.Sub: left - right, ast.Mult: left * right}.get(
        type(tree.op), left // max(right, 1)
    )


def _resolve(
    name: str,
    dims: Sequence[onnx.TensorShapeProto.Dimension],
    symbols: Mapping[str, int],
    fixed: Sequence[int] | None,
) -> Shape:
    if fixed is not None:
        return tuple(int(n) for n in fixed)
    return tuple(
        d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else symbols[d.dim_param or f"{name}:{axis}"]
        for axis, d in enumerate(dims)
    )
