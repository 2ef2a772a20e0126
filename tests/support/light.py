"""The nine architectures in the onnx wheel: as shipped (each tensor one repeated number), and with random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, helper, numpy_helper

FOLDER = Path(onnx.__file__).parent / "backend/test/data/light"
NAMES = (
    "bvlc_alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
    "vgg19",
    "zfnet512",
)


def light_path(name: str) -> Path:
    return FOLDER / f"light_{name}.onnx"


def filled(name: str, seed: int = 0) -> ModelProto:
    """Return a model with He-normal weights stored as initializers that are also graph inputs, as IR 3 wants them.

    Vectors (biases, normalisation) are the shipped number times a random factor between 0.5 and 1.5.
    """
    model = onnx.load(light_path(name))
    graph = model.graph
    rng = np.random.default_rng(seed)
    sizes = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.op_type != "ConstantOfShape":
            nodes.append(node)
            continue
        shape = sizes[node.input[0]].tolist()
        value = float(numpy_helper.to_array(node.attribute[0].t)[0])
        array = _he_normal(rng, shape) if len(shape) > 1 else value * rng.uniform(0.5, 1.5, shape)
        graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), node.output[0]))
        graph.input.append(helper.make_tensor_value_info(node.output[0], 1, shape))
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    _drop_unused(graph)
    return model


def _he_normal(rng: np.random.Generator, shape: list[int]) -> np.ndarray:
    """Source: He et al. 2015, "Delving Deep into Rectifiers", eq. 10."""
    fan_in = int(np.prod(shape[1:]))
    return rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / fan_in))


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Remove the shapes that only ConstantOfShape read."""
    used = {name for node in graph.node for name in node.input}
    for values in (graph.initializer, graph.input):
        for index in reversed(range(len(values))):
            if values[index].name not in used:
                del values[index]
