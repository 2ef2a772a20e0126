"""Sizes that stored tensors give to free input axes which they meet in a node."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from onnxprune.model.graph import Graph, Node
from onnxprune.model.sizes import Axis, Shape

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
        if value.name in graph.inputs and value.type.tensor_type.HasField("shape"):
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
        order = node.attribute("perm", list(range(len(source)))[::-1])
        return [source[axis] for axis in order] if len(order) == len(source) else None
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
