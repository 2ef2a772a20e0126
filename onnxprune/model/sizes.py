"""Sizes of free input dimensions: those that stored tensors give them, and small ones to try for all others."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import onnx

from onnxprune.errors import UsageError
from onnxprune.model.graph import Graph, Node

Shape = tuple[int, ...]
Sizes = Mapping[str, Shape]
Axis = tuple[str, int]  # an input and one of its axes


def free_dimensions(graph: Graph) -> list[tuple[str, int, str]]:
    """Return (input, axis, symbol) of each dimension without a fixed size; unnamed ones get a symbol of their own."""
    found = []
    for value in graph.model.graph.input:
        if value.name in graph.inputs:
            for axis, dim in enumerate(value.type.tensor_type.shape.dim):
                if not dim.HasField("dim_value") or dim.dim_value <= 0:
                    found.append((value.name, axis, dim.dim_param or f"{value.name}:{axis}"))
    return found


def candidate_sizes(
    graph: Graph, fixed: Mapping[str, Sequence[int]], met: Mapping[Axis, int] | None = None
) -> Iterator[Sizes]:
    """Yield shapes for all inputs to try: small and pairwise different for batch, length and picture sizes.

    ``met``: the sizes of axes that stored tensors settle.
    Raises UsageError where a given shape names no input or contradicts a fixed dimension.
    """
    declared = {v.name: v for v in graph.model.graph.input if v.name in graph.inputs}
    _check_fixed(declared, fixed)
    free = free_dimensions(graph)
    ladders = ((64, 96), (32, 48), (128, 160), (224, 256), (299, 331), (384, 320), (512, 640), (1024, 768), (16, 24))
    lengths = ((8, 12), (16, 24), (7, 11), (64, 96), (128, 192), (4, 6), (400, 480), (3000, 3200), (16000, 17600))
    known = {symbol: met[name, axis] for name, axis, symbol in free if (name, axis) in met} if met else {}
    seen = set()
    batches = ((2, 3), (1, 1))  # some files say a free batch and have a batch of one in their shapes
    for (picture, length), batch, swap in itertools.product(zip(ladders, lengths, strict=True), batches, (0, 1)):
        symbols: dict[str, int] = {}
        for name, axis, symbol in free:
            rank = len(declared[name].type.tensor_type.shape.dim)
            pair = batch if axis == 0 else picture if rank >= 4 else length
            symbols.setdefault(symbol, known.get(symbol, pair[swap]))
        for symbol in symbols:
            symbols[symbol] = _expression(symbol, symbols)
        sizes = {name: _resolve(value, symbols, fixed.get(name)) for name, value in declared.items()}
        if (key := tuple(sizes.items())) not in seen:
            seen.add(key)
            yield sizes


def _check_fixed(declared: Mapping[str, onnx.ValueInfoProto], fixed: Mapping[str, Sequence[int]]) -> None:
    for name, shape in fixed.items():
        if name not in declared:
            raise UsageError(f"--input-shape: the model has no input {name!r}; its inputs are {', '.join(declared)}")
        dims = declared[name].type.tensor_type.shape.dim
        fits = len(dims) == len(shape) and all(
            not d.HasField("dim_value") or d.dim_value <= 0 or d.dim_value == n
            for d, n in zip(dims, shape, strict=True)
        )
        if not fits or any(n <= 0 for n in shape):
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


def _resolve(value: onnx.ValueInfoProto, symbols: Mapping[str, int], fixed: Sequence[int] | None) -> Shape:
    if fixed is not None:
        return tuple(int(n) for n in fixed)
    dims = value.type.tensor_type.shape.dim
    return tuple(
        d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else symbols[d.dim_param or f"{value.name}:{axis}"]
        for axis, d in enumerate(dims)
    )


# --- sizes that stored tensors give ---------------------------------------------------------------------------------

SAME = frozenset(
    "Abs BatchNormalization Cast Clip Dropout DequantizeLinear DynamicQuantizeLinear Elu Erf Exp Floor Gelu HardSigmoid"
    " HardSwish Identity InstanceNormalization LayerNormalization LeakyRelu Log LRN Mish Neg QuantizeLinear Reciprocal"
    " RMSNormalization Relu Round Selu Sigmoid SimplifiedLayerNormalization Softmax Softplus Sqrt Swish Tanh".split()
)  # whose first output has the shape of the first input
BROADCAST = frozenset("Add Sub Mul Div Pow Max Min PRelu Where Sum Mean".split())
LEADING = frozenset("AveragePool MaxPool LpPool Pad Resize Upsample".split())  # that keep samples and channels


def met_sizes(graph: Graph, stored: Mapping[str, Shape]) -> dict[Axis, int]:
    """Return the sizes of input axes that meet an axis of a stored tensor; ``stored``: the shapes of all constants."""
    axes: dict[str, list[Axis | None]] = {}
    for value in graph.model.graph.input:
        if value.name in graph.inputs:
            axes[value.name] = [(value.name, axis) for axis in range(len(value.type.tensor_type.shape.dim))]
    found: dict[Axis, int] = {}
    for node in graph.top:
        for name, sizes in _wanted(node, stored, {n: len(axes[n]) for n in node.inputs if n in axes}):
            for axis, size in sizes.items():
                if (origin := axes[name][axis]) is not None:
                    found.setdefault(origin, size)
        if node.outputs and (passed := _passed(node, axes, stored)) is not None:
            axes[node.outputs[0]] = passed
    return found


def _passed(node: Node, axes: Mapping[str, list[Axis | None]], stored: Mapping[str, Shape]) -> list[Axis | None] | None:
    """Return which input axis each axis of a node's first output is, None where nothing is known of it."""
    source = axes.get(node.input(0))
    if node.op in BROADCAST:
        given = [axes[name] for name in node.inputs if name in axes]
        rank = max(
            [len(own) for own in given] + [len(stored[name]) for name in node.inputs if name in stored], default=0
        )
        whole = next((own for own in given if len(own) == rank), None)
        return None if whole is None or len(given) > 1 else whole
    if source is None:
        return None
    if node.op in SAME:
        return source
    if node.op in LEADING:
        return [*source[:2], *[None] * (len(source) - 2)]
    if node.op == "Transpose":
        return [source[axis] for axis in node.attribute("perm", list(range(len(source)))[::-1])]
    return None


def _wanted(node: Node, stored: Mapping[str, Shape], ranks: Mapping[str, int]) -> Iterator[tuple[str, dict[int, int]]]:
    """Yield (value, axis -> size) for the operands that meet a stored one in a node; ``ranks``: of the values followed."""
    if node.op in BROADCAST:
        for name, rank in ranks.items():
            for other in (stored[n] for n in node.inputs if n in stored):
                pairs = zip(range(rank)[::-1], other[::-1], strict=False)
                yield name, {axis: size for axis, size in pairs if size > 1}
    elif node.op in MEETINGS:
        data, weight, rule = MEETINGS[node.op]
        name, shape = node.input(data), stored.get(node.input(weight))
        if name in ranks and shape is not None:
            yield name, {axis % ranks[name]: size for axis, size in rule(node, shape).items() if axis < ranks[name]}
    if node.op == "MatMul" and node.input(0) in stored and node.input(1) in ranks and ranks[node.input(1)] > 1:
        yield node.input(1), {ranks[node.input(1)] - 2: stored[node.input(0)][-1]}


def _channels(node: Node, shape: Shape) -> dict[int, int]:
    return {1: shape[1] * int(node.attribute("group", 1))}


def _rows(node: Node, shape: Shape) -> dict[int, int]:
    return {-1: shape[-2] if len(shape) > 1 else shape[0]}


def _factor(node: Node, shape: Shape) -> dict[int, int]:
    return {0 if node.attribute("transA", 0) else 1: shape[1 if node.attribute("transB", 0) else 0]}


def _last(node: Node, shape: Shape) -> dict[int, int]:
    return {axis - len(shape): size for axis, size in enumerate(shape)}


MEETINGS: dict[str, tuple[int, int, Callable[[Node, Shape], dict[int, int]]]] = {
    **dict.fromkeys(("Conv", "ConvInteger", "com.microsoft::FusedConv"), (0, 1, _channels)),
    "QLinearConv": (0, 3, _channels),
    "ConvTranspose": (0, 1, lambda node, shape: {1: shape[0]}),
    **dict.fromkeys(
        ("MatMul", "MatMulInteger", "com.microsoft::DynamicQuantizeMatMul", "com.microsoft::MatMulIntegerToFloat"),
        (0, 1, _rows),
    ),
    "QLinearMatMul": (0, 3, _rows),
    "Gemm": (0, 1, _factor),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization"), (0, 1, lambda node, shape: {1: shape[0]})),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"), (0, 1, _last)),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), (0, 1, lambda node, shape: {2: shape[2]})),
    "com.microsoft::Attention": (0, 1, lambda node, shape: {2: shape[0]}),
}
"""Operator -> (the operand that carries data, the stored one, node and shape of the stored one -> axis -> size)."""
