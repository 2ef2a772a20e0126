"""Masks: which weights may differ from zero, as files that trainers read and write, and as a part of a graph."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from onnxprune.changes.zeros.layers import WeightLayer
from onnxprune.errors import DataError
from onnxprune.model.graph import Graph, Names, Node
from onnxprune.model.model import Model
from onnxprune.model.paths import MASKS
from onnxprune.model.read import FLOATS
from onnxprune.model.surgeon import Splicer


def read_masks(
    path: Path, layers: Sequence[WeightLayer], content: Callable[[WeightLayer], np.ndarray]
) -> dict[str, np.ndarray]:
    """Return bool[groups, o, d] by weight from an .npz file of arrays in the shapes of the weights; raises DataError.

    What is zero or False goes; arrays that name no weight are refused, since they would do nothing.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            names = [name for name in file.files if name != MASKS]
            known = {layer.name: layer for layer in layers}
            for name in names:
                if name not in known:
                    raise DataError(
                        f"{path}: {name!r} is no weight of this model that can have zeros: masks bear the names of weights"
                    )
            return {name: _matrix(path, known[name], file[name], content(known[name])) for name in names}
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file of masks") from None
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not an .npz file of masks ({error})") from None


def _matrix(path: Path, layer: WeightLayer, mask: np.ndarray, like: np.ndarray) -> np.ndarray:
    if mask.shape != like.shape:
        raise DataError(
            f"{path}: the mask of {layer.name!r} is of shape {list(mask.shape)}, the weight of {list(like.shape)}"
        )
    return layer.arranged(mask != 0)


def masks_file(masks: Mapping[str, np.ndarray]) -> bytes:
    """Return the content of an .npz file that ``read_masks`` reads."""
    content = io.BytesIO()
    arrays: dict[str, Any] = {MASKS: np.int64(len(masks)), **masks}
    np.savez_compressed(content, allow_pickle=False, **arrays)
    return content.getvalue()


ZERO_POINTS = {"ConvInteger": 3, "MatMulInteger": 3, "QLinearConv": 5, "QLinearMatMul": 5}
"""Operators that multiply by integers -> the input that says which of them is zero, one or one of each output."""


def taking_zero(model: Model, left: Mapping[str, np.ndarray]) -> Model:
    """Return the model with its weights as they are, which takes zero for what is not ``left``: stored tensor -> bool of its shape."""
    graph = Graph(model.draft())
    splicer = Splicer(graph, Names(graph.model.graph))
    for name, mask in left.items():
        value = name
        (reader, place), *_ = graph.consumers[name]
        if reader.op in ZERO_POINTS:
            value = _among_integers(name, mask, reader, graph, model, splicer)
            reader.proto.input[place] = value
            continue
        if graph.tensors[name].data_type not in FLOATS:
            value = reader.outputs[0]
            reader = graph.consumers[value][0][0]
        kind = np.float32 if value != name else model.array(graph.tensors[name]).dtype
        kept, zero = gs.Constant(f"{name}/left", mask), gs.Constant(f"{name}/zero", np.zeros(1, kind))
        result = gs.Variable(f"{name}/silenced")
        node = gs.Node("Where", f"{name}/silenced", inputs=[kept, gs.Variable(value), zero], outputs=[result])
        splicer.before(reader, gs.Graph([node]))
        for each, at in graph.consumers[value]:
            each.proto.input[at] = result.name
    splicer.carry_out()
    return model.derived(graph.model)


def _among_integers(name: str, mask: np.ndarray, reader: Node, graph: Graph, model: Model, splicer: Splicer) -> str:
    """Let integers be their zero point where they are not left; return the value. ``Where`` knows few types of integers."""
    point = reader.input(ZERO_POINTS[reader.op])
    zero = np.zeros(1, np.int32) if not point else model.array(graph.tensors[point]).astype(np.int32)
    if zero.size > 1 and reader.op.endswith(("ConvInteger", "Conv")):
        zero = zero.reshape(-1, *[1] * (mask.ndim - 1))
    wide, taken, result = (gs.Variable(f"{name}/{what}") for what in ("wide", "taken", "silenced"))
    nodes = [
        gs.Node("Cast", wide.name, {"to": TensorProto.INT32}, [gs.Variable(name)], [wide]),
        gs.Node(
            "Where",
            taken.name,
            {},
            [gs.Constant(f"{name}/left", mask), wide, gs.Constant(f"{name}/zero", zero)],
            [taken],
        ),
        gs.Node("Cast", result.name, {"to": graph.tensors[name].data_type}, [taken], [result]),
    ]
    splicer.before(reader, gs.Graph(nodes))
    return result.name
