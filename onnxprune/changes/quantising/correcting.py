"""Bias correction: what rounding a layer's weights changes of its outputs in the mean, over calibration rows, goes into its bias.

Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.2, eq. 17: the expected output
error is that of the weights times the expected input; here it is measured, position by position, with what the float model reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, TensorProto, numpy_helper

from onnxprune.changes.quantising.nearness import dequantised
from onnxprune.model.graph import Graph, Names, Node, give_out
from onnxprune.model.model import Model
from onnxprune.model.runtime import session

CHANNEL_AXES = {"Conv": 1, "ConvTranspose": 1, "Gemm": -1, "MatMul": -1}
"""Operator -> the axis of its output that its bias goes along."""


@dataclass(frozen=True)
class BiasPlace:
    """A node whose weight, its input 1, was rounded; ``holder``: the node that adds the bias, as its input ``place`` ("": there is none yet)."""

    node: Node
    holder: Node
    place: int
    bias: str


def bias_corrected(
    floats: Model, quantised: Model, rows: Iterable[Mapping[str, np.ndarray]], threads: int = 1
) -> Model:
    """Return the float model with biases that make up for what became of the weights; ``rows``: one run of the model each."""
    graph = Graph(floats.structure)
    places = [place for node in graph.top if (place := _place(graph, node)) is not None]
    errors = {place: error for place in places if (error := _rounding(floats, quantised, place)) is not None}
    if not errors:
        return floats
    means = _mean_outputs(floats, errors, rows, threads)
    return _with_biases(floats, means)


def _place(graph: Graph, node: Node) -> BiasPlace | None:
    """Return where a node's bias is, or may be put; None where it has no place of its own, or the weight has several readers."""
    weight = node.input(1)
    if node.op not in CHANNEL_AXES or weight not in graph.tensors or len(graph.consumers[weight]) != 1:
        return None
    if node.op == "MatMul":
        return _added(graph, node)
    bias = node.input(2)
    plain = not bias or (bias in graph.tensors and len(graph.tensors[bias].dims) == 1)
    return BiasPlace(node, node, 2, bias) if plain and node.attribute("beta", 1.0) == 1 else None


def _added(graph: Graph, node: Node) -> BiasPlace | None:
    users = graph.consumers.get(node.outputs[0], ())
    if len(users) != 1 or users[0][0].op != "Add" or node.outputs[0] in graph.outputs:
        return None
    holder, place = users[0][0], 1 - users[0][1]
    tensor, weight = graph.tensors.get(holder.input(place)), graph.tensors[node.input(1)]
    fits = tensor is not None and list(tensor.dims) == list(weight.dims[-1:])
    return BiasPlace(node, holder, place, holder.input(place)) if fits else None


def _rounding(floats: Model, quantised: Model, place: BiasPlace) -> np.ndarray | None:
    """Return what was added to a weight, in its shape; None where it did not become integers."""
    tensor = floats.weights.get(place.node.input(1))
    if tensor is None or tensor.dtype != TensorProto.FLOAT:
        return None
    near = dequantised(quantised, place.node.input(1), tensor.shape)
    if not near:
        return None
    array = np.asarray(tensor.read(), np.float64).reshape(tensor.shape)
    return min((one - array for one in near), key=lambda error: float(np.square(error).sum())).astype(np.float32)


def _mean_outputs(
    floats: Model, errors: Mapping[BiasPlace, np.ndarray], rows: Iterable[Mapping[str, np.ndarray]], threads: int
) -> dict[BiasPlace, np.ndarray]:
    """Return float64[channels] per place: the mean of what the errors alone would give on what each node reads."""
    structure = floats.draft()
    names, asked = Names(structure.graph), dict[str, BiasPlace]()
    for place, error in errors.items():
        proto = NodeProto()
        proto.CopyFrom(place.node.proto)
        weight, output = (names.fresh(f"{place.node.outputs[0]}_{what}") for what in ("rounding", "moved"))
        proto.name, proto.input[:], proto.output[:] = names.fresh(output), [proto.input[0], weight], [output]
        structure.graph.initializer.append(numpy_helper.from_array(error, weight))
        structure.graph.node.append(proto)
        asked[output] = place
    give_out(structure, asked)
    probe = session(floats.derived(structure), threads=threads)
    totals, count = {place: np.zeros(1) for place in errors}, 0
    for feed in rows:
        for name, found in probe.run(feed, tuple(asked)).items():
            channels = np.moveaxis(found, CHANNEL_AXES[asked[name].node.op], -1)
            totals[asked[name]] = totals[asked[name]] + channels.reshape(-1, channels.shape[-1]).mean(
                axis=0, dtype=np.float64
            )
        count += 1
    return {place: total / max(count, 1) for place, total in totals.items()}


def _with_biases(floats: Model, means: Mapping[BiasPlace, np.ndarray]) -> Model:
    """Return the model with each mean taken from a bias of its own."""
    structure = floats.draft()
    names = Names(structure.graph)
    protos = dict(zip(map(_key, floats.structure.graph.node), structure.graph.node, strict=True))
    for place, mean in means.items():
        holder = protos[_key(place.holder.proto)]
        old = np.zeros(len(mean)) if not place.bias else np.asarray(floats.weights[place.bias].read()).reshape(-1)
        name = names.fresh(f"{place.node.outputs[0]}_bias")
        structure.graph.initializer.append(numpy_helper.from_array((old - mean).astype(np.float32), name))
        _set_input(holder, place.place, name)
    read = {name for node in structure.graph.node for name in node.input}
    gone = {place.bias for place in means} - read
    for index in reversed([i for i, tensor in enumerate(structure.graph.initializer) if tensor.name in gone]):
        del structure.graph.initializer[index]
    return floats.derived(structure)


def _key(node: NodeProto) -> str:
    return next(name for name in node.output if name)


def _set_input(node: NodeProto, place: int, name: str) -> None:
    node.input.extend([""] * (place + 1 - len(node.input)))
    node.input[place] = name
