"""The reverse walk: from a model, a loss and a set of values to a model that computes their gradients.

The driver here sums gradients back over broadcast axes, checks their number and shape, adds up where a value is used
more than once, leaves out what is not needed, and names the operator that lacks a rule.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from onnxprune.errors import ModelError, UsageError
from onnxprune.grad import rules as _rules  # noqa: F401  (fills the table)
from onnxprune.grad.emitter import FLOATING, STOP, Emitter, Unsupported, Value
from onnxprune.grad.expand import rewritten
from onnxprune.grad.losses import Loss, total
from onnxprune.grad.prepare import NARROW, prepare_backward
from onnxprune.grad.sums import added
from onnxprune.grad.view import VJPS, ForwardNode, Gradients
from onnxprune.model.facts import gather_facts
from onnxprune.model.graph import Graph, Names, Node, names_read, nodes_behind
from onnxprune.model.model import fill_header
from onnxprune.model.read import Model, load
from onnxprune.registry import near_names

FLOATS = FLOATING | NARROW
DIFFERENTIABLE = FLOATS | {TensorProto.UNDEFINED}


def loss_name(order: int = 1) -> str:
    """Return the output name of the loss."""
    return "loss" if order == 1 else f"loss{order}"


def gradient_name(value: str, order: int = 1) -> str:
    """Return the output name of the gradient of a value."""
    return f"{value}:grad" if order == 1 else f"{value}:grad{order}"


def backward(
    model: Model | ModelProto | str,
    wrt: Sequence[str],
    loss: Loss | None = None,
    *,
    outputs: Sequence[str] = (),
    parameters_as_inputs: bool = False,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    order: int = 1,
) -> ModelProto:
    """Return a model with outputs ``loss``, a ``{value}:grad`` per value of ``wrt``, and the values in ``outputs``.

    ``wrt`` names any float values: inputs, parameters, activations. ``loss`` is one of ``losses`` (None: the sum of
    the float outputs); its targets become inputs. ``parameters_as_inputs`` turns the parameters among ``wrt`` into
    inputs. Inputs named in ``input_shapes`` get that shape for good. 16-bit floats are computed in 32 bits, an opset
    below 18 is raised. A value the loss does not depend on has a zero gradient. The result is a model like any other:
    with ``order=2`` (outputs ``loss2``, ``{value}:grad2``) it is differentiated again.

    Raises UsageError for values that are unknown or no floats, ModelError for an operator on the way without a rule.
    """
    source = model if isinstance(model, Model) else load(model)
    return build(source, loss or total(), Derivative(wrt, outputs, parameters_as_inputs, input_shapes, order=order))[0]


@dataclass(frozen=True)
class Derivative:
    """What is asked of a backward pass, see ``backward``; ``dtype``: what it computes in (FLOAT, DOUBLE)."""

    wrt: Sequence[str]
    outputs: Sequence[str] = ()
    parameters_as_inputs: bool = False
    input_shapes: Mapping[str, Sequence[int]] | None = None
    dtype: int = TensorProto.FLOAT
    order: int = 1


def build(source: Model, loss: Loss, asked: Derivative) -> tuple[ModelProto, Emitter]:
    """Like ``backward``; return the emitter too, for its facts."""
    wrt, outputs, order, shapes = asked.wrt, asked.outputs, asked.order, asked.input_shapes
    fed = wrt if asked.parameters_as_inputs else ()
    prepared = rewritten(prepare_backward(source, fed, asked.dtype, shapes), wrt, set(VJPS), shapes)
    graph = Graph(prepared.structure)
    emit = Emitter(gather_facts(prepared, graph, shapes))
    _check_values([*wrt, *outputs], emit)
    try:
        result = loss(emit, [emit.value(name) for name in graph.outputs])
        found = reverse(emit, [*graph.top, *emit.nodes], result, wrt)
    except Unsupported as error:
        raise ModelError(f"{source.name}: {error}") from error
    results = {loss_name(order): result}
    results |= {gradient_name(name, order): value for name, value in found.items()}
    taken = {name for name in results if name in emit.first} | set(emit.aliases)
    lasting = sorted(taken & {*outputs, *(value.name for value in prepared.structure.graph.input)})
    if lasting:
        raise UsageError(f"the model has a value {lasting[0]!r} already; for second derivatives use order=2")
    return _assemble(prepared, emit, results, outputs, taken), emit


def _check_values(names: Iterable[str], emit: Emitter) -> None:
    for name in names:
        if name not in emit.first:
            hint = near_names(name, list(emit.first)) or "; name inputs, parameters or activations of the model"
            raise UsageError(f"the model has no value {name!r}{hint}")
        if not emit.first[name].dtype:
            raise ModelError(f"the type of value {name!r} could not be inferred; no gradient can be taken of it")
        if emit.first[name].dtype not in FLOATS:
            kind = TensorProto.DataType.Name(emit.first[name].dtype)
            raise UsageError(f"value {name!r} is of type {kind}; gradients are taken of floats")


# --- the walk -------------------------------------------------------------------------------------------------------


def reverse(emit: Emitter, nodes: Sequence[Node], loss: Value, wrt: Collection[str]) -> dict[str, Value]:
    """Emit the nodes that compute the gradient of the sum of ``loss`` for each value of ``wrt``."""
    on_the_way = _reachable(emit, nodes, wrt)
    pending: dict[str, list[Value]] = {loss.name: [emit.filled_like(loss, 1.0)]}

    def gradient(name: str) -> Value | None:
        """The sum of what is pending for a value, made when it is asked for: by then all of it is there."""
        if name in pending and len(pending[name]) > 1:
            pending[name] = [added(emit, pending[name])]
        return pending[name][0] if name in pending else None

    for node in reversed(nodes):
        if not on_the_way.intersection(node.reads()) or not any(name in pending for name in node.outputs):
            continue
        incoming = [gradient(name) for name in node.outputs]
        for name in set(node.outputs) - set(wrt):
            pending.pop(name, None)
        for name, part in zip(node.inputs, _apply(emit, node, incoming), strict=True):
            if part is not None and name in on_the_way:
                pending.setdefault(name, []).append(_fitted(emit, node, part, emit.value(name)))
    return {name: gradient(name) or emit.zeros_like(emit.value(name)) for name in wrt}


def _reachable(emit: Emitter, nodes: Sequence[Node], wrt: Collection[str]) -> set[str]:
    """Return the float values that depend on ``wrt``, themselves included."""
    found = set(wrt)
    for node in nodes:
        stopped = any(entry.key == STOP for entry in node.proto.metadata_props)
        if not stopped and found.intersection(node.reads()):
            found.update(n for n in node.outputs if n and emit.value(n).dtype in DIFFERENTIABLE)
    return found


def _apply(emit: Emitter, node: Node, incoming: list[Value | None]) -> Gradients:
    rule = VJPS.get(node.op)
    try:
        if rule is None:
            raise Unsupported("the operator has no gradient rule")
        if rule.all_outputs:
            gradients = rule.vjp(emit, ForwardNode(node, emit), *incoming)
        elif incoming[0] is None or any(g is not None for g in incoming[1:]):
            raise Unsupported("only the gradient through its first output has a rule")
        else:
            gradients = rule.vjp(emit, ForwardNode(node, emit), incoming[0])
    except Unsupported as error:
        raise Unsupported(
            f"no gradient through {node.op} (node {node.label!r}): {error}; "
            "ask for gradients of values after it, or take the loss before it"
        ) from error
    if len(gradients) != len(node.inputs):
        raise AssertionError(f"rule of {node.op}: {len(gradients)} gradients for {len(node.inputs)} inputs")
    return gradients


def _fitted(emit: Emitter, node: Node, gradient: Value, value: Value) -> Value:
    """Sum a gradient over the axes that were broadcast, and check that it has the shape of its value."""
    have, want = gradient.known_shape, value.known_shape
    if have is None or want is None or have == want:
        return gradient
    lead = len(have) - len(want)
    padded = (1,) * lead + want
    axes = [a for a, (g, v) in enumerate(zip(have, padded, strict=False)) if v == 1 and g != 1]
    if lead < 0 or any(g != v for a, (g, v) in enumerate(zip(have, padded, strict=True)) if a not in axes):
        raise Unsupported(
            f"{node.op} (node {node.label!r}): a gradient of shape {have} for a value of shape {want}; "
            "the shapes do not fit together at the sizes tried for the free dimensions: give fixed input shapes"
        )
    gradient = emit.sum(gradient, axes)
    return emit("Squeeze", gradient, list(range(lead))) if lead else gradient


# --- the result -----------------------------------------------------------------------------------------------------


def _assemble(
    model: Model, emit: Emitter, results: Mapping[str, Value], kept: Sequence[str], taken: Collection[str]
) -> ModelProto:
    """Join forward and emitted nodes, drop those no output needs, and name the outputs.

    Values of the model whose names are ``taken`` for results and inputs get other names.
    """
    proto = model.structure
    forward = [_with_extra_output(node, emit.extra_outputs) for node in proto.graph.node]
    sources = {value.name for value in results.values()} | set(kept)
    nodes = _ends_last(nodes_behind([*forward, *(node.proto for node in emit.nodes)], sources))
    place = {name: index for index, node in enumerate(nodes) for name in node.output}
    ordered = sorted(results.items(), key=lambda item: place.get(item[1].name, -1))
    names = Names(proto.graph, emit.first, results)
    others = {name: names.fresh(name) for name in sorted(taken)}
    nodes = [_renamed(node, others) for node in nodes] if others else nodes
    nodes = [*(helper.make_node("Identity", [name], [inside]) for name, inside in emit.aliases.items()), *nodes]
    nodes += [
        helper.make_node("Identity", [others.get(value.name, value.name)], [name], name=name) for name, value in ordered
    ]
    used = {name for node in nodes for name in names_read(node)} | set(kept)
    result = ModelProto()
    result.ir_version = max(proto.ir_version, 10)
    result.opset_import.extend(proto.opset_import)
    result.graph.name = proto.graph.name or "backward"
    result.graph.node.extend(nodes)
    result.graph.input.extend([*proto.graph.input, *emit.inputs])
    for tensor in proto.graph.initializer:
        name = others.get(tensor.name, tensor.name)
        if name in used:
            result.graph.initializer.append(tensor)
            fill_header(result.graph.initializer[-1], model.weights[tensor.name])
            result.graph.initializer[-1].name = name
    result.graph.initializer.extend(t for name, t in emit.tensors.items() if name in used)
    result.graph.output.extend(_declared(name, value) for name, value in results.items())
    result.graph.output.extend(_declared(name, emit.value(name)) for name in kept)
    return result


def _ends_last(nodes: Sequence[NodeProto]) -> list[NodeProto]:
    """Put the nodes whose results no other node uses at the end, the one emitted last first.

    ONNX Runtime settles its order of execution depth first from the last such node on. That is the gradient next to the
    loss now, so each is computed while its activations are at hand, which are then freed (ResNet-20, batch 64: 224
    instead of 411 MiB).
    """
    used = set().union(*(names_read(node) for node in nodes))
    ends = [node for node in nodes if not used.intersection(node.output)]
    inner = [node for node in nodes if used.intersection(node.output)]
    return [*inner, *reversed(ends)]


def _with_extra_output(node: NodeProto, extra: Mapping[str, str]) -> NodeProto:
    if not node.output or node.output[0] not in extra:
        return node
    changed = NodeProto()
    changed.CopyFrom(node)
    changed.output[:] = [node.output[0], extra[node.output[0]], *node.output[2:]]
    return changed


def _renamed(node: NodeProto, others: Mapping[str, str]) -> NodeProto:
    """Return the node with some values called otherwise, in its bodies too."""
    result = NodeProto()
    result.CopyFrom(node)
    result.input[:] = [others.get(name, name) for name in node.input]
    result.output[:] = [others.get(name, name) for name in node.output]
    for attribute in result.attribute:
        for body in [attribute.g] * attribute.HasField("g") + list(attribute.graphs):
            for value in (*body.input, *body.output, *body.value_info, *body.initializer):
                value.name = others.get(value.name, value.name)
            inner = [_renamed(part, others) for part in body.node]
            del body.node[:]
            body.node.extend(inner)
    return result


def _declared(name: str, value: Value) -> ValueInfoProto:
    sizes = None if value.known_shape is None else list(value.sizes)
    return helper.make_tensor_value_info(name, value.dtype, sizes)
