"""The cache of a decoder, made narrower: keys and values of heads that go are carried on by nobody.

While a model is worked on, every cache comes in as wide as ever and the heads that stay are picked from it by number behind the
input: so that all that runs the original and what becomes of it feeds both the same. In what is written the input has those heads alone.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

import numpy as np
from onnx import helper, numpy_helper

from onnxprune.errors import ModelError
from onnxprune.model.decoding import HEADS, decoding_of
from onnxprune.model.graph import Graph, Names, forget_values
from onnxprune.model.model import Model, Pick

KEY = "onnxprune.cache"
"""Entry of a written file's metadata: input -> how many heads it had, and which of them stay."""
IR_WITH_CONSTANTS = 4


def with_picks(model: Model, kept: Mapping[str, tuple[int, np.ndarray]] | None = None) -> Model:
    """Return the model in which the heads of every cache are picked by number, all of them where ``kept`` is not given.

    ``kept``: input -> how many heads come in, and int64 numbers of those that the model has. A model that has picks, or no cache
    whose heads are known, is returned as it is.
    """
    graph = Graph(model.draft())
    states = [] if model.picked or model.structure.ir_version < IR_WITH_CONSTANTS else decoding_of(graph).caches
    names, declared = Names(graph.model.graph), {value.name: value for value in graph.model.graph.input}
    picked: list[Pick] = []
    for state in states:
        dims = declared[state.past].type.tensor_type.shape.dim
        heads = dims[HEADS].dim_value or state.heads
        whole, numbers = (heads, np.arange(heads)) if kept is None else kept.get(state.past, (0, np.zeros(0)))
        if len(numbers) != heads or (kept is None and heads < 2):
            continue
        pick = Pick(state.past, state.present, names.fresh(f"{state.past}/heads"))
        chosen = names.fresh(f"{state.past}/picked")
        for node in graph.nodes:
            node.proto.input[:] = [chosen if name == state.past else name for name in node.proto.input]
        node = helper.make_node("Gather", [state.past, pick.numbers], [chosen], names.fresh(chosen), axis=HEADS)
        graph.model.graph.node.insert(0, node)
        graph.model.graph.initializer.append(numpy_helper.from_array(numbers.astype(np.int64), pick.numbers))
        dims[HEADS].dim_value = whole
        picked.append(pick)
    return model.derived(graph.model, picked=tuple(picked)) if picked else model


def narrow_cache(model: Model) -> Model:
    """Return the model without its picks: a cache comes in with the heads alone that stay, which the metadata name."""
    if not model.picked:
        return model
    graph = Graph(model.draft())
    proto, known, found = graph.model.graph, cache_heads(model), dict[str, tuple[int, np.ndarray]]()
    found |= {name: entry for name, entry in known.items() if not len(entry[1])}
    declared = {value.name: value for value in proto.input}
    for pick in model.picked:
        dims = declared[pick.past].type.tensor_type.shape.dim
        if pick.numbers not in graph.tensors:  # its layer went
            found[pick.past] = (known.get(pick.past, (dims[HEADS].dim_value,))[0], np.zeros(0, np.int64))
            proto.input.remove(declared[pick.past])
            continue
        numbers = model.array(graph.tensors[pick.numbers])
        node, _ = graph.consumers[pick.numbers][0]
        for other in graph.nodes:
            other.proto.input[:] = [pick.past if name == node.outputs[0] else name for name in other.proto.input]
        proto.node.remove(node.proto)
        forget_values(proto, {pick.numbers, node.outputs[0]})
        whole, before = known.get(pick.past, (dims[HEADS].dim_value, np.arange(dims[HEADS].dim_value)))
        if len(numbers) < whole:
            found[pick.past] = (whole, before[numbers])
        dims[HEADS].dim_value = len(numbers)
    _note(graph, found)
    return model.derived(graph.model, picked=())


def _note(graph: Graph, found: Mapping[str, tuple[int, np.ndarray]]) -> None:
    props = graph.model.metadata_props
    for place in reversed([place for place, entry in enumerate(props) if entry.key == KEY]):
        del props[place]
    content = {name: {"heads": whole, "kept": kept.tolist()} for name, (whole, kept) in found.items()}
    if content:
        props.add(key=KEY, value=json.dumps(content, sort_keys=True, separators=(",", ":")))


def cache_heads(model: Model) -> dict[str, tuple[int, np.ndarray]]:
    """Return input -> how many heads it had in the original and int64 numbers of those it has, as a written file tells."""
    text = next((entry.value for entry in model.structure.metadata_props if entry.key == KEY), "")
    try:
        content = json.loads(text) if text else {}
        return {str(n): (int(row["heads"]), np.array(row["kept"], np.int64)) for n, row in content.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def called_like(model: Model, original: Model) -> Model:
    """Return the model so that it takes the caches of the original, where its own are narrower.

    Raises ModelError where the file does not say which heads it has.
    """
    narrow, whole = (_heads(one) for one in (model, original))
    model = _with_unread(model, original, whole.keys() - narrow.keys())
    differing = {name for name, heads in narrow.items() if heads and heads != (whole.get(name) or heads)}
    if not differing:
        return model
    known = {name: entry for name, entry in cache_heads(model).items() if name in differing}
    for name in sorted(differing):
        heads, numbers = known.get(name, (0, np.zeros(0, np.int64)))
        if heads != whole[name] or len(numbers) != narrow[name] or not np.isin(numbers, np.arange(heads)).all():
            raise ModelError(
                f"{model.name}: the cache {name!r} has {narrow[name]} heads, that of the original {whole[name]}, and the file does not "
                "say which of them these are; compare a file that onnxprune wrote with the model it was made of"
            )
    return with_picks(model, known)


def _with_unread(model: Model, original: Model, names: Collection[str]) -> Model:
    """Return the model that takes the caches of layers that went from it, and reads nothing of them."""
    gone = {name for name, (_, kept) in cache_heads(model).items() if name in names and not len(kept)}
    if not gone:
        return model
    structure = model.draft()
    structure.graph.input.extend(value for value in original.structure.graph.input if value.name in gone)
    return model.derived(structure)


def _heads(model: Model) -> dict[str, int]:
    """Return input -> heads of the caches, 0 where the file leaves them open."""
    graph = Graph(model.structure)
    dims = {value.name: value.type.tensor_type.shape.dim for value in graph.model.graph.input}
    return {state.past: dims[state.past][HEADS].dim_value for state in decoding_of(graph).caches}


def freed_outputs(model: Model) -> frozenset[tuple[str, int]]:
    """Return (output, axis) that become narrower with what is picked."""
    return frozenset((pick.present, HEADS) for pick in model.picked)
