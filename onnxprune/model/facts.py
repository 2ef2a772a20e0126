"""What is known about every value of a model: type, shape, small constant contents, static and dynamic axes.

The model is interpreted node by node on concrete sizes, twice where some sizes are free: shapes by ONNX shape inference,
small tensors (shape arithmetic) by evaluation. What neither can tell is observed by running the model in ONNX Runtime.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, TypeProto, helper, numpy_helper, shape_inference

from onnxprune.errors import ModelError
from onnxprune.model.contrib import SHAPES, contributed
from onnxprune.model.decoding import LENGTH, Decoding, consistent, decoding_of
from onnxprune.model.graph import RANDOM_OPS, Body, Graph, Node, made_of_weights
from onnxprune.model.meetings import met_sizes
from onnxprune.model.read import Model, impossible_size
from onnxprune.model.sizes import (
    Axis,
    Candidate,
    Shape,
    Sizes,
    batch_axes,
    candidate_sizes,
    first_candidates,
    free_dimensions,
    further_candidates,
    told,
)
from onnxprune.model.trial import Trial
from onnxprune.model.values import FedValues, check_names, filled

if TYPE_CHECKING:
    from onnxprune.model.alone import Alone

MOST_AXES = 64
MOST_TRIALS = 8  # runs to find sizes at which a model runs whose shapes inference cannot settle
SMALL = 4096  # elements: tensors up to this size are followed by value


class Fact(NamedTuple):
    """Element type, concrete shape (None: unknown) and, for small tensors of known content, the content."""

    dtype: int
    shape: Shape | None
    array: np.ndarray | None = None


UNKNOWN = Fact(TensorProto.UNDEFINED, None)


@dataclass(frozen=True)
class Facts:
    """Facts under two assignments of the free sizes; both are the same object where nothing is free.

    ``sizes``: of the first, which is ``batch`` samples where costs are told of one; ``batch_axes``: the axes that count these.
    ``values``: what inputs are fed where no data says so. ``mean_free``: results of norms, and of means, of what has mean zero
    over the axis that they are taken over, whatever the model is fed.
    """

    graph: Graph
    model: Model
    first: dict[str, Fact]
    second: dict[str, Fact]
    constants: frozenset[str]
    sizes: Sizes
    batch: int = 1
    batch_axes: frozenset[Axis] = frozenset()
    values: FedValues = field(default_factory=dict)
    mean_free: frozenset[str] = frozenset()

    @property
    def told(self) -> Sizes:
        """The shapes of the inputs that costs are told of: those of one sample, or of one whole feed."""
        return told(self.sizes, self.batch_axes, self.batch)

    @cached_property
    def decoding(self) -> Decoding:
        """What it is fed where it is a decoder with a cache."""
        return decoding_of(self.graph)

    def shape(self, value: str) -> Shape | None:
        return self.first.get(value, UNKNOWN).shape

    def dtype(self, value: str) -> int:
        return self.first.get(value, UNKNOWN).dtype

    def static(self, value: str, axis: int) -> bool:
        """Whether an axis has the same size whatever the free sizes of the inputs are."""
        one, two = self.first[value].shape, self.second.get(value, UNKNOWN).shape
        return one is not None and two is not None and len(one) == len(two) and one[axis] == two[axis]

    def array(self, value: str) -> np.ndarray | None:
        """Return the content of a small tensor if it is known and does not depend on the free sizes."""
        one, two = self.first.get(value, UNKNOWN).array, self.second.get(value, UNKNOWN).array
        if one is None or two is None or one.shape != two.shape:
            return None
        return one if np.array_equal(one, two) else None

    def is_parameter(self, value: str) -> bool:
        """Whether a value is a stored or generated tensor: an initializer, a Constant, a constant ConstantOfShape."""
        if value in self.graph.tensors:
            return True
        node = self.graph.producer.get(value)
        return node is not None and node.op == "ConstantOfShape" and value in self.constants

    def content(self, value: str) -> np.ndarray:
        """Return a parameter's content (read-only; a generated one is a broadcast view)."""
        if value in self.graph.tensors:
            return self.model.array(self.graph.tensors[value])
        fill = self.graph.producer[value].attribute("value")
        scalar = numpy_helper.to_array(fill).reshape(-1)[0] if fill is not None else np.float32(0)
        return np.broadcast_to(scalar, self.shape(value) or ())


def gather_facts(
    model: Model,
    graph: Graph,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    rows: Mapping[str, Shape] | None = None,
    values: FedValues | None = None,
) -> Facts:
    """Interpret the model at the first sizes of the free dimensions that work; raise UsageError for shapes that don't fit.

    ``input_shapes``: hold for good. ``rows``: of one feed of real rows, to begin with; axes that the file leaves open stay open.
    ``values``: what inputs are fed; they stay inputs, of which nothing is known.
    Small sizes are climbed through where neither is given; they count only if the model runs.
    """
    fixed, rows, fed = input_shapes or {}, rows or {}, values or {}
    check_names(fed, graph.inputs)
    constants = made_of_weights(graph)
    met = _met(graph, model, constants, fixed)
    candidates = list(first_candidates(graph, fixed, rows, met))
    chosen, found = _first_assignment(model, graph, candidates, fed)
    second, unknown = found, _unknown(graph, found)
    if unknown:
        found = second = _observe(graph, model, chosen.sizes, found, fed)
    if free_dimensions(graph):
        others = _other_sizes(
            further_candidates(graph, fixed, rows, met), chosen.sizes, candidates[0].sizes, bool(unknown)
        )
        second = _second_assignment(graph, model, iter(others), found, fed) if others else found
    _refuse_impossible(model, graph, found)
    return Facts(graph, model, found, second, constants, chosen.sizes, chosen.batch, batch_axes(graph), fed)


def _first_assignment(
    model: Model, graph: Graph, candidates: Iterable[Candidate], fed: FedValues
) -> tuple[Candidate, dict[str, Fact]]:
    """Return the first candidate that settles all shapes and that the model runs at, else the best of those it runs at."""
    trial, rest = Trial(model, graph), list[tuple[int, int, Candidate, dict[str, Fact]]]()
    for place, candidate in enumerate(candidates):
        values = _assigned(graph, model, candidate.sizes, fed)
        unknown = _unknown(graph, values)
        if not unknown and trial.runs(plain_feeds(graph, values, candidate.sizes, fed)):
            return candidate, values
        rest.append((unknown, place, candidate, values))
    rest.sort(key=lambda entry: entry[:2])
    for _, _, candidate, values in rest[:MOST_TRIALS] if rest[0][0] else ():
        if trial.runs(plain_feeds(graph, values, candidate.sizes, fed)):
            return candidate, values
    _, _, candidate, values = rest[0]
    return candidate, values


def _refuse_impossible(model: Model, graph: Graph, values: Mapping[str, Fact]) -> None:
    """Raise ModelError that names the first value with sizes, or node with an axis, that nothing can have."""
    for name, fact in values.items():
        if problem := impossible_size(fact.shape or ()):
            node = graph.producer.get(name)
            made = f", made by node {node.label!r}," if node is not None else ""
            way = free_sizes(graph, values)
            raise ModelError(
                f"{model.name}: value {name!r}{made} has the sizes {list(fact.shape or ())}: {problem}{way}"
            )
    for node in graph.nodes:
        for attribute in node.proto.attribute:
            if attribute.name == "axis" and abs(attribute.i) > MOST_AXES:
                raise ModelError(f"{model.name}: node {node.label!r} ({node.op}) has axis {attribute.i}; no value has")


def free_sizes(graph: Graph, values: Mapping[str, Fact]) -> str:
    """Return what to do where a model does not run at the sizes that its free axes were given ("": it has none)."""
    samples = batch_axes(graph)
    free = [(n, axis, symbol) for n, axis, symbol in free_dimensions(graph) if (n, axis) not in samples]
    shapes = {name: values[name].shape or () for name, _, _ in free}
    if not free:
        return ""
    axes = ", ".join(
        f"{name}[{axis}]{'' if symbol == f'{name}:{axis}' else f' ({symbol})'} was {shapes[name][axis]}"
        for name, axis, symbol in free
    )
    example = f"{free[0][0]}:{','.join(map(str, shapes[free[0][0]]))}"
    return f"; of the sizes that the file leaves open {axes}: give ones that it takes, like --input-shape {example}, or real rows (--calib)"


def _met(
    graph: Graph, model: Model, constants: frozenset[str], fixed: Mapping[str, Sequence[int]]
) -> dict[tuple[str, int], int]:
    """Return the sizes that stored tensors, or inputs that leave nothing open, give to free axes of the inputs other than the first."""
    free = free_dimensions(graph)
    if not any(axis and name not in fixed for name, axis, _ in free):
        return {}
    values = interpret(graph, model, next(iter(candidate_sizes(graph, fixed))).sizes)
    settled = constants.union(graph.inputs).difference(name for name, _, _ in free)
    return met_sizes(
        graph, {name: shape for name in sorted(settled) if (shape := values.get(name, UNKNOWN).shape) is not None}
    )


def _other_sizes(others: Iterable[Sizes], sizes: Sizes, wanted: Sizes, unsettled: bool) -> list[Sizes]:
    """Return the other sizes to try; with the same batch where ``sizes`` had to leave that of ``wanted`` to settle all shapes."""

    def batch(one: Sizes) -> list[Shape]:
        return [shape[:1] for shape in one.values()]

    contradicted = not unsettled and batch(sizes) != batch(wanted)
    return [o for o in others if o != sizes and (not contradicted or batch(o) == batch(sizes))]


def _assigned(graph: Graph, model: Model, sizes: Sizes, fed: FedValues) -> dict[str, Fact]:
    """Interpret the model; where it has operators that shape inference knows nothing of, run it as well."""
    values = interpret(graph, model, sizes)
    return _observe(graph, model, sizes, values, fed) if _unknown(graph, values) and _opaque(graph) else values


def _opaque(graph: Graph) -> bool:
    """Whether the shapes of some node that ONNX Runtime has can only be told by running it."""
    return any(node.op == "Loop" or _without_schema(node) for node in graph.nodes)


def _without_schema(node: Node) -> bool:
    domain = "" if node.proto.domain == "ai.onnx" else node.proto.domain
    return domain in ("", "com.microsoft") and not onnx.defs.has(node.proto.op_type, node.version, domain)


def _second_assignment(
    graph: Graph, model: Model, others: Iterator[Sizes], first: dict[str, Fact], fed: FedValues
) -> dict[str, Fact]:
    """Interpret the model on other sizes, observing again (a few times at most) what inference cannot tell."""
    unknown, observations = _unknown(graph, first), 3
    for other in others:
        values = interpret(graph, model, other)
        if _unknown(graph, values) > unknown and observations:
            observations -= 1
            values = _observe(graph, model, other, values, fed)
        if _unknown(graph, values) <= unknown:
            return values
    return _dynamic_by_inputs(graph, first)


def _dynamic_by_inputs(graph: Graph, first: dict[str, Fact]) -> dict[str, Fact]:
    """With no second assignment that works, call every value that isn't constant dynamic except by the file's own word."""
    declared = {v.name: v for v in [*graph.model.graph.value_info, *graph.model.graph.output, *graph.model.graph.input]}
    constants = made_of_weights(graph)
    second = dict(first)
    for name, fact in first.items():
        if name in constants or fact.shape is None:
            continue
        info = declared.get(name)
        dims = info.type.tensor_type.shape.dim if info is not None else []
        known = [d.HasField("dim_value") for d in dims] if len(dims) == len(fact.shape) else [True] * len(fact.shape)
        shape = tuple(n if k else n + 1 for n, k in zip(fact.shape, known, strict=True))
        second[name] = Fact(fact.dtype, shape)
    return second


def _unknown(graph: Graph, values: dict[str, Fact]) -> int:
    used = {*graph.consumers, *graph.outputs}
    used.update(name for node in graph.nodes for body in node.bodies for name in body.outputs)
    shapes = [values.get(name, UNKNOWN).shape for node in graph.nodes for name in node.outputs if name in used]
    return sum(shape is None or min(shape, default=0) < 0 for shape in shapes)


# --- interpretation -------------------------------------------------------------------------------------------------


def interpret(
    graph: Graph, model: Model, sizes: Sizes, seed: Mapping[str, Fact] | None = None, alone: Alone | None = None
) -> dict[str, Fact]:
    """Infer a Fact for every value.

    ``seed`` holds facts observed elsewhere, which win over an unknown inference; ``alone`` runs nodes that have none.
    """
    values: dict[str, Fact] = {}
    for name, tensor in graph.tensors.items():
        count = int(np.prod(tensor.dims, dtype=np.int64))
        array = model.array(tensor) if count <= SMALL and tensor.data_type != TensorProto.STRING else None
        values[name] = Fact(tensor.data_type, tuple(tensor.dims), array)
    for value in graph.model.graph.input:
        if value.name in graph.inputs:
            tensor_type = value.type.tensor_type
            values[value.name] = Fact(
                tensor_type.elem_type, sizes[value.name] if tensor_type.HasField("shape") else None
            )
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        _run(graph, graph.top, values, seed or {}, alone)
    return values


def _usual_branch(graph: Graph, node: Node, values: Mapping[str, Fact]) -> bool | None:
    """Return which way an If goes by a decoder's flag that there is a past; None where something else decides."""
    if not node.bodies or node.op != "If" or node.inputs[0] not in graph.inputs:
        return None
    decoding = decoding_of(graph)
    past = [values.get(cache.past, UNKNOWN).shape for cache in decoding.caches[:1]]
    return bool(past and past[0] and past[0][LENGTH]) if node.inputs[0] in decoding.flags else None


def _run(
    graph: Graph, nodes: Sequence[Node], values: dict[str, Fact], seed: Mapping[str, Fact], alone: Alone | None
) -> None:
    for node in nodes:
        if node.op == "Constant":
            continue
        for body in node.bodies:
            _bind(node, body, values)
            _run(graph, body.nodes, values, seed, alone)
        inputs = [values.get(name, UNKNOWN) if name else None for name in node.inputs]
        usual = _usual_branch(graph, node, values)
        outputs = _body_results(node, values, usual) if node.bodies else infer(node, inputs, graph.versions)
        if alone is not None and any(fact.shape is None for fact in outputs):
            outputs = _run_alone(alone, node, inputs) or outputs
        for name, fact in zip(node.outputs, outputs, strict=False):
            if name:
                values[name] = seed[name] if fact.shape is None and name in seed else fact


def _run_alone(alone: Alone, node: Node, inputs: Sequence[Fact | None]) -> list[Fact]:
    """Return what running a node by itself tells of its outputs; nothing where that cannot be."""
    operands = [(f.dtype, f.shape) if f is not None and f.shape is not None else None for f in inputs]
    if any(fact is not None and one is None for fact, one in zip(inputs, operands, strict=True)):
        return []
    found = alone.outputs(node, operands)
    return [UNKNOWN if one is None else Fact(*one) for one in found]


def infer(node: Node, inputs: Sequence[Fact | None], versions: Mapping[str, int]) -> list[Fact]:
    """Return the facts of a node's outputs from those of its inputs; unknown where inference cannot tell."""
    facts = _infer_shapes(node, inputs, versions)
    if node.op == "Reshape" and inputs[0] is not None and not _as_many(inputs[0].shape, facts[0].shape):
        facts = [UNKNOWN]  # inference does not count, but sizes that do not fit cannot run
    arrays = evaluate_node(node, inputs, facts, versions)
    return [Fact(f.dtype, f.shape, a) if a is not None else f for f, a in zip(facts, arrays, strict=True)]


def _as_many(source: Shape | None, target: Shape | None) -> bool:
    """Whether two shapes, as far as they are known, hold equally many elements."""
    return source is None or target is None or math.prod(source) == math.prod(target)


def _infer_shapes(node: Node, inputs: Sequence[Fact | None], versions: Mapping[str, int]) -> list[Fact]:
    if node.op in SHAPES and all(f is None or f.shape is not None for f in inputs):
        made = contributed(node, [None if f is None or f.shape is None else (f.dtype, f.shape) for f in inputs])
        return [UNKNOWN if one is None else Fact(*one) for one in made or [None] * len(node.outputs)]
    facts = _infer_with(node, inputs, versions, node.version)
    if "::" not in node.op and any(f.shape is None and f.dtype for f in facts):
        newer = _infer_with(node, inputs, versions, onnx.defs.onnx_opset_version())  # some early schemas infer no shape
        return [f if f.shape is not None else n for f, n in zip(facts, newer, strict=True)]
    return facts


def _infer_with(node: Node, inputs: Sequence[Fact | None], versions: Mapping[str, int], version: int) -> list[Fact]:
    nothing = [UNKNOWN] * len(node.outputs)
    domain = node.op.rpartition("::")[0]
    if any(f is not None and f.shape is None for f in inputs):
        return nothing
    try:
        schema = onnx.defs.get_schema(node.proto.op_type, version, domain)
        types = {
            name: helper.make_tensor_type_proto(fact.dtype, fact.shape)
            for name, fact in zip(node.proto.input, inputs, strict=True)
            if fact is not None
        }
        data = {
            name: numpy_helper.from_array(fact.array)
            for name, fact in zip(node.proto.input, inputs, strict=True)
            if fact is not None and fact.array is not None
        }
        opsets = [helper.make_opsetid(d, v) for d, v in versions.items()]
        found = shape_inference.infer_node_outputs(schema, node.proto, types, data, opset_imports=opsets)
    except Exception:  # the bindings raise bare RuntimeError, TypeError, ...: all mean "inference cannot tell"
        return nothing
    return [_fact(found[name]) if name in found else UNKNOWN for name in node.proto.output]


def _fact(found: TypeProto) -> Fact:
    tensor_type = found.tensor_type
    dims = tensor_type.shape.dim
    if not tensor_type.HasField("shape") or not all(d.HasField("dim_value") for d in dims):
        return Fact(tensor_type.elem_type, None)
    return Fact(tensor_type.elem_type, tuple(d.dim_value for d in dims))


def evaluate_node(
    node: Node, inputs: Sequence[Fact | None], facts: Sequence[Fact], versions: Mapping[str, int]
) -> list[np.ndarray | None]:
    """Evaluate a node on small known inputs (``Shape`` and ``Size`` need only a shape)."""
    nothing: list[np.ndarray | None] = [None] * len(facts)
    if node.op in ("Shape", "Size") and inputs[0] is not None and inputs[0].shape is not None:
        return [_shape_of(node, inputs[0].shape)]
    known = all(f is None or f.array is not None for f in inputs) and bool(inputs)
    small = all(f.shape is None or np.prod(f.shape, dtype=np.int64) <= SMALL for f in facts)
    if not known or not small or node.bodies or node.op in RANDOM_OPS or "::" in node.op:
        return nothing
    if node.op != "Range" and any(f.shape is None for f in facts):
        return nothing
    try:
        from onnx.reference.ops import load_op

        operator = load_op("", node.op, node.version)
        state = {"log": lambda *_: None, "opsets": dict(versions), "verbose": 0, "existing_functions": {}}
        state.update(new_ops=None, evaluator_cls=None)
        results = operator(node.proto, state).run(*[None if f is None else f.array for f in inputs])
        return [np.asarray(r) if np.size(r) <= SMALL else None for r in results]
    except Exception:  # the reference operators raise whatever numpy raises: the content stays unknown
        return nothing


def _shape_of(node: Node, shape: Shape) -> np.ndarray:
    if node.op == "Size":
        return np.asarray(np.prod(shape, dtype=np.int64), np.int64)
    start, end = node.attribute("start", 0), node.attribute("end")
    return np.asarray(shape[slice(start, end)], np.int64)


# --- control flow ---------------------------------------------------------------------------------------------------


def _bind(node: Node, body: Body, values: dict[str, Fact]) -> None:
    """Give a body's inputs the facts of what its owner passes in (content is dropped: it changes between turns)."""
    given = [values.get(name, UNKNOWN) if name else UNKNOWN for name in node.inputs]
    if node.op == "Loop":
        given = [Fact(TensorProto.INT64, ()), Fact(TensorProto.BOOL, ()), *given[2:]]
    elif node.op == "Scan":
        scanned = node.attribute("num_scan_inputs", 0)
        axes = node.attribute("scan_input_axes", [0] * scanned)
        states = len(given) - scanned
        given = given[:states] + [_without(f, a) for f, a in zip(given[states:], axes, strict=True)]
    for name, fact in zip(body.inputs, given, strict=False):
        values[name] = Fact(fact.dtype, fact.shape)


def _without(fact: Fact, axis: int) -> Fact:
    if fact.shape is None:
        return fact
    axis %= len(fact.shape)
    return Fact(fact.dtype, fact.shape[:axis] + fact.shape[axis + 1 :])


def _body_results(node: Node, values: dict[str, Fact], usual: bool | None = None) -> list[Fact]:
    """Facts of a control-flow node's outputs, as far as its bodies settle them; ``usual``: the way that is gone at these sizes."""
    ends = [[values.get(name, UNKNOWN) for name in body.outputs] for body in node.bodies]
    if node.op == "If":
        known = values.get(node.inputs[0], UNKNOWN).array
        taken = usual if known is None else bool(known.all())
        if taken is not None:
            ends = [end for body, end in zip(node.bodies, ends, strict=True) if body.runs_if(taken)] * 2
        pairs = zip(*ends, strict=False)
        return [a if (a.shape, a.dtype) == (b.shape, b.dtype) else Fact(a.dtype, None) for a, b in pairs]
    if node.op not in ("Loop", "Scan"):
        return [UNKNOWN] * len(node.outputs)
    loop = node.op == "Loop"
    slices = int(node.attribute("num_scan_inputs", 0))
    carried = len(node.bodies[0].inputs) - 2 if loop else len(node.inputs) - slices
    results = ends[0][1:] if loop else ends[0]
    begins = [values.get(name, UNKNOWN) for name in node.inputs[2 if loop else 0 :][:carried]]
    facts = [Fact(e.dtype, e.shape if e.shape == b.shape else None) for b, e in zip(begins, results, strict=False)]
    turns = None if loop else _turns(node, values, carried)
    axes = node.attribute("scan_output_axes") or [0] * len(results)
    return facts + [
        Fact(f.dtype, None if f.shape is None or turns is None else _with(f.shape, axis, turns))
        for f, axis in zip(results[carried:], axes, strict=False)
    ]


def _turns(node: Node, values: dict[str, Fact], carried: int) -> int | None:
    """How often a Scan's body runs: the size of its first scanned axis."""
    whole = values.get(node.input(carried), UNKNOWN).shape
    return whole[(node.attribute("scan_input_axes") or [0])[0]] if whole else None


def _with(shape: Shape, axis: int, size: int) -> Shape:
    axis %= len(shape) + 1
    return (*shape[:axis], size, *shape[axis:])


# --- observation ----------------------------------------------------------------------------------------------------


def _observe(graph: Graph, model: Model, sizes: Sizes, values: dict[str, Fact], fed: FedValues) -> dict[str, Fact]:
    """Run for the shapes that inference could not tell: nodes that it knows nothing of by themselves, else the model."""
    from onnxprune.model.alone import Alone
    from onnxprune.model.runtime import observe_shapes

    feeds = plain_feeds(graph, values, sizes, fed)
    alone = Alone(model, graph, feeds, _without_schema)
    values = interpret(graph, model, sizes, None, alone)
    names = [name for node in graph.top for name in node.outputs if name and values.get(name, UNKNOWN).shape is None]
    if not names:
        return values
    observed = observe_shapes(model, feeds, names)
    declared = {
        value.name: _fact(value.type)
        for value in [*graph.model.graph.value_info, *graph.model.graph.output]
        if value.type.HasField("tensor_type")
    }
    seed = {name: fact for name, fact in declared.items() if fact.shape is not None}
    seed.update({name: Fact(dtype, shape) for name, (dtype, shape) in observed.items()})
    return interpret(graph, model, sizes, seed, alone)


def plain_feeds(
    graph: Graph, values: Mapping[str, Fact], sizes: Sizes, fed: FedValues | None = None
) -> dict[str, np.ndarray]:
    """Inputs that every model accepts: what was given, else ones of the right type (valid tokens, masks that mask nothing)."""
    kinds = {name: helper.tensor_dtype_to_np_dtype(values[name].dtype) for name in graph.inputs}
    given = fed or {}
    plain = consistent(decoding_of(graph), {n: np.ones(sizes[n], kinds[n]) for n in graph.inputs})
    return {n: filled(n, given[n], sizes[n], kinds[n]) if n in given else plain[n] for n in graph.inputs}
