"""Bring a model into the form that is analysed and cut: one graph of plain operators on stored tensors."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
from onnx import inliner

from onnxprune.coupling.folding import Sources, constant_nodes, evaluated, unpacked_tensors, with_stored
from onnxprune.coupling.links import RULES  # the filled table
from onnxprune.coupling.sequences import unpacked
from onnxprune.coupling.sharing import rejoined
from onnxprune.coupling.sparse import dense, store_sparsely
from onnxprune.coupling.streams.widening import without_identities
from onnxprune.errors import ModelError
from onnxprune.model.graph import Graph, Node
from onnxprune.model.model import Model
from onnxprune.model.tensors import FLOATS, skeleton_without_data

FOLLOWED = {"pointwise", "movement", "facts"}  # families whose results on stored tensors are cut where those are
FOLLOWED_OPS = {"QuantizeLinear", "DequantizeLinear"}
SMALL_BYTES = 1 << 20  # a folded tensor is no larger than this, or than the stored tensors it is made of


def prepare(model: Model) -> Model:
    """Return the model with its own functions, nested ones too, replaced by their bodies, sequences of known
    elements by these, and stored tensors whole, unpacked and folded.

    Two calls of one function read the same weights but may be cut apart, so a pruned model has no functions left. What
    is contracted, reduced or normalised of stored tensors alone (standardised weights) mixes positions that a cut is to
    take apart, so it is computed once and stored. A model with neither is returned as it is.
    """
    plain = _inlined(model) if model.structure.functions else model
    return _folded(_unpacked(unpacked(dense(plain))))


def restore(small: Model, model: Model) -> Model:
    """Undo in a result what was done to ``model`` for the analysis alone: copies that are equal still, matrices that do nothing, sparse tensors."""
    return store_sparsely(rejoined(without_identities(small, model.widened), model.copies), model.sparse)


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


def _unpacked(model: Model) -> Model:
    """Store plainly what is stored in fewer bytes, so that it is cut; what is only cast is cut as it is."""
    with suppress(ModelError):
        return unpacked_tensors(model, casts=False)[0]
    return model


def _folded(model: Model) -> Model:
    """Store what is computed from stored tensors alone by operators that mix positions (IR 3 has no place for it)."""
    if model.structure.ir_version < 4:
        return model
    graph = Graph(model.structure)
    sources = constant_nodes(graph)
    wanted = [name for node in sources if _mixes(node) for name in node.outputs if name]
    contents = evaluated(model, graph, sources, wanted) if wanted else {}
    contents = {n: a for n, a in contents.items() if _is_table(graph, n, a) and a.nbytes <= _room(graph, sources, n)}
    return model.derived(with_stored(graph, sources, contents)) if contents else model


def _mixes(node: Node) -> bool:
    rule = RULES.get(node.op)
    return node.op not in FOLLOWED_OPS and (rule is None or rule.family not in FOLLOWED)


def _is_table(graph: Graph, name: str, content: np.ndarray) -> bool:
    """Whether a constant takes part with its values: floats, and numbers that are made floats before they are used."""
    to = [node.attribute("to") for node, _ in graph.consumers.get(name, ()) if node.op == "Cast"]
    made = len(to) == len(graph.consumers.get(name, ())) > 0 and FLOATS.issuperset(to)
    return content.dtype.kind == "f" or (content.dtype.kind in "iu" and made)


def _room(graph: Graph, sources: Sources, name: str) -> int:
    """Bytes that a folded tensor may take, so that a large tensor made of a few numbers stays computed."""
    tensors = [graph.tensors[leaf] for leaf in sources[graph.producer[name]]]
    return max(SMALL_BYTES, sum(8 * int(np.prod(tensor.dims, dtype=np.int64)) for tensor in tensors))
