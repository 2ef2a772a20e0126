"""Bring a model into the form that is analysed and cut: one graph of plain operators on stored tensors."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, ValueInfoProto, inliner, numpy_helper

from onnxprune.coupling.links import RULES  # the filled table
from onnxprune.coupling.sequences import unpacked
from onnxprune.coupling.sharing import rejoined
from onnxprune.coupling.sparse import dense, store_sparsely
from onnxprune.errors import ModelError
from onnxprune.model.facts import RANDOM_OPS
from onnxprune.model.graph import Graph, Node
from onnxprune.model.model import Model
from onnxprune.model.runtime import session
from onnxprune.model.tensors import FLOATS, skeleton_without_data

FOLLOWED = {"pointwise", "movement", "facts"}  # families whose results on stored tensors are cut where those are
FOLLOWED_OPS = {"QuantizeLinear", "DequantizeLinear"}
SMALL_BYTES = 1 << 20  # a folded tensor is no larger than this, or than the stored tensors it is made of


def prepare(model: Model) -> Model:
    """Return the model with its own functions, nested ones too, replaced by their bodies, sequences of known
    elements by these, and stored tensors whole and folded.

    Two calls of one function read the same weights but may be cut apart, so a pruned model has no functions left. What
    is contracted, reduced or normalised of stored tensors alone (standardised weights) mixes positions that a cut is to
    take apart, so it is computed once and stored. A model with neither is returned as it is.
    """
    plain = _inlined(model) if model.structure.functions else model
    return _folded(unpacked(dense(plain)))


def restore(small: Model, model: Model) -> Model:
    """Undo in a result what was done to ``model`` for the analysis alone: copies that are equal still, sparse tensors."""
    return store_sparsely(rejoined(small, model.copies), model.sparse)


def _inlined(model: Model) -> Model:
    """Inline on a copy without weights; the checker has seen to it that a function's older opset means the same."""
    slim = skeleton_without_data(model.structure)
    versions = {opset.domain: opset.version for opset in slim.opset_import}
    for function in slim.functions:
        for opset in function.opset_import:
            opset.version = versions.get(opset.domain, opset.version)
    result = inliner.inline_local_functions(slim)
    result.graph.initializer.extend(model.structure.graph.initializer)
    return model.derived(result)


# --- computations on stored tensors alone ---------------------------------------------------------------------------


def _folded(model: Model) -> Model:
    """Store what is computed from stored tensors alone by operators that mix positions (IR 3 has no place for it)."""
    if model.structure.ir_version < 4:
        return model
    graph = Graph(model.structure)
    sources = _constant_nodes(graph)
    wanted = [name for node in sources if _mixes(node) for name in node.outputs if name]
    contents = _evaluated(model, graph, sources, wanted) if wanted else {}
    contents = {n: a for n, a in contents.items() if _is_table(graph, n, a) and a.nbytes <= _room(graph, sources, n)}
    return model.derived(_with_stored(graph, sources, contents)) if contents else model


def _constant_nodes(graph: Graph) -> dict[Node, frozenset[str]]:
    """Return each node that depends on stored tensors alone -> the names of those tensors, in topological order."""
    leaves = {name: frozenset([name]) for name in graph.tensors}
    found: dict[Node, frozenset[str]] = {}
    for node in graph.top:
        inputs = [name for name in node.inputs if name]
        if inputs and node.op not in RANDOM_OPS and not node.bodies and all(name in leaves for name in inputs):
            found[node] = frozenset().union(*(leaves[name] for name in inputs))
            leaves.update((name, found[node]) for name in node.outputs if name)
    return found


def _mixes(node: Node) -> bool:
    rule = RULES.get(node.op)
    return node.op not in FOLLOWED_OPS and (rule is None or rule.family not in FOLLOWED)


def _is_table(graph: Graph, name: str, content: np.ndarray) -> bool:
    """Whether a constant takes part with its values: floats, and numbers that are made floats before they are used."""
    to = [node.attribute("to") for node, _ in graph.consumers.get(name, ()) if node.op == "Cast"]
    made = len(to) == len(graph.consumers.get(name, ())) > 0 and FLOATS.issuperset(to)
    return content.dtype.kind == "f" or (content.dtype.kind in "iu" and made)


def _room(graph: Graph, sources: dict[Node, frozenset[str]], name: str) -> int:
    """Bytes that a folded tensor may take, so that a large tensor made of a few numbers stays computed."""
    tensors = [graph.tensors[leaf] for leaf in sources[graph.producer[name]]]
    return max(SMALL_BYTES, sum(8 * int(np.prod(tensor.dims, dtype=np.int64)) for tensor in tensors))


def _evaluated(
    model: Model, graph: Graph, sources: dict[Node, frozenset[str]], wanted: list[str]
) -> dict[str, np.ndarray]:
    """Run the nodes on stored tensors by themselves; {} where ONNX Runtime cannot."""
    probe = skeleton_without_data(model.structure)
    for part in ("node", "input", "output", "value_info", "quantization_annotation"):
        probe.graph.ClearField(part)
    used = set().union(*sources.values())
    stored = [graph.producer[name].proto for name in graph.tensors if name in used and name in graph.producer]
    probe.graph.node.extend([*stored, *(node.proto for node in sources)])
    probe.graph.output.extend(ValueInfoProto(name=name) for name in wanted)
    probe.graph.initializer.extend(t for t in model.structure.graph.initializer if t.name in used)
    try:
        found = session(model.derived(probe), optimise=False).run({})
    except ModelError:
        return {}
    return {name: value for name, value in found.items() if isinstance(value, np.ndarray)}


def _with_stored(graph: Graph, sources: dict[Node, frozenset[str]], contents: dict[str, np.ndarray]) -> ModelProto:
    """Return the model with ``contents`` stored, without the nodes and tensors that were used for them only."""
    outputs = {value.name for value in graph.model.graph.output}
    users = {name: {node for node, _ in uses} for name, uses in graph.consumers.items()}
    gone: set[Node] = set()

    def needed(name: str) -> bool:
        return name in outputs or bool(users.get(name, set()) - gone)

    for node in reversed(list(sources)):
        if all(name in contents for name in node.outputs if needed(name)):
            gone.add(node)
    leaves = {leaf for node in sources if node in gone for leaf in sources[node]}
    unused = {leaf for leaf in leaves if not needed(leaf)}
    gone.update(graph.producer[leaf] for leaf in unused if leaf in graph.producer)
    unused.update(name for node in gone for name in node.outputs)
    return _rebuilt(graph, gone, unused, {name: array for name, array in contents.items() if needed(name)})


def _rebuilt(graph: Graph, gone: set[Node], unused: set[str], contents: dict[str, np.ndarray]) -> ModelProto:
    """Return a copy of the model without some nodes and tensors, with ``contents`` stored."""
    old = graph.model.graph
    result = skeleton_without_data(graph.model)
    for part in ("node", "value_info"):
        result.graph.ClearField(part)
    result.graph.node.extend(node.proto for node in graph.top if node not in gone)
    result.graph.value_info.extend(value for value in old.value_info if value.name not in unused)
    result.graph.initializer.extend(tensor for tensor in old.initializer if tensor.name not in unused)
    result.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in contents.items())
    return result
