"""A model as all stages hand it on: a structure without the content of its initializers, and these as weights beside it.

In the structure an initializer is a header (name, type, sizes) that says by an entry ``weight`` which tensor it is: so a structure can
be copied and changed at no cost, and a header renamed, while the weights are shared by all models that come from one another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, NewType

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxprune.model.digests import FileDigest, SourceDigest
from onnxprune.model.graph import Graph
from onnxprune.model.tensors import (
    Home,
    copy_field,
    external_region,
    set_fields,
    skeleton_without_data,
)
from onnxprune.model.weights import ABOUT, Tensor, Weights, stored_tensor

Identity = NewType("Identity", str)
"""SHA-256 of what is run: a structure and the content of its weights."""

WEIGHT = "weight"  # key of the entry by which a header names its content


class Widening(NamedTuple):
    """An output, or what one is before its length is made one, that the analysis reads through a stored matrix and a shift."""

    value: str
    matrix: str
    shift: str


class Pick(NamedTuple):
    """A cache of a decoder of which heads are picked behind its input ``past``, by stored ``numbers``; ``present``: what it becomes."""

    past: str
    present: str
    numbers: str


@dataclass(frozen=True)
class Model:
    """``structure``: all but the content of the main graph's initializers, which are ``weights``, by their names.

    ``digest``, ``size``, ``data``: of the file it came from; what is run has an ``identity`` of its own. ``copies``: constant
    that the analysis copied for one of its readers -> the constant in the file; ``sparse``: the tensors that the file stores sparsely;
    ``widened``: what the analysis added to read outputs through; ``picked``: caches of which heads are picked.
    """

    structure: ModelProto
    weights: Weights
    path: Path | None = None
    digest: FileDigest | None = None
    size: int = 0
    warnings: tuple[str, ...] = ()
    data: frozenset[Path] = frozenset()
    copies: Mapping[str, str] = field(default_factory=dict)
    sparse: tuple[str, ...] = ()
    widened: tuple[Widening, ...] = ()
    picked: tuple[Pick, ...] = ()

    @classmethod
    def of(cls, proto: ModelProto, path: Path | None = None, **about: Any) -> Model:
        """Return a model with the content of ``proto``, which stays as it is; its external data lies beside ``path``."""
        structure, own = skeleton_without_data(proto), path.resolve() if path else None
        weights = {}
        for tensor in proto.graph.initializer:
            weights[tensor.name] = _content(tensor, _home(path), own)
            _refer(structure.graph.initializer.add(), tensor)
        return cls(structure, Weights(weights), path, **about)

    @property
    def folder(self) -> Home | None:
        return _home(self.path)

    @property
    def name(self) -> str:
        return str(self.path) if self.path else "the model given as ModelProto"

    @property
    def source_sha256(self) -> SourceDigest:
        """SHA-256 of the file it came from and of its data, "" where it came from none; raises ModelError where that has changed."""
        return SourceDigest("") if self.digest is None else self.digest.value

    @property
    def sha256(self) -> str:
        """The same as ``source_sha256``."""
        return self.source_sha256

    @property
    def proto(self) -> ModelProto:
        """The whole model, put together anew; external data stays where it is."""
        result = self.draft()
        for target in result.graph.initializer:
            fill_header(target, self.weights[target.name])
        return result

    @property
    def identity(self) -> Identity:
        """What is run, as one number: whatever has been folded, reordered or written back since it was read."""
        digest = hashlib.sha256(self.structure.SerializeToString(deterministic=True))
        for header in self.structure.graph.initializer:
            for block in self.weights[header.name].blocks():
                digest.update(block)
        return Identity(digest.hexdigest())

    def array(self, tensor: TensorProto) -> np.ndarray:
        """Return the content of a tensor of the structure, memory-mapped where it lies in a file; read-only."""
        name = weight_name(tensor)
        return (_content(tensor, self.folder) if name is None else self.weights[name]).read()

    def draft(self) -> ModelProto:
        """Return a copy of the structure, to be changed and given to ``derived``."""
        result = ModelProto()
        result.CopyFrom(self.structure)
        return result

    def derived(self, structure: ModelProto, **changes: Any) -> Model:
        """Return a model of another structure, which it takes over, with the weights that its headers name.

        Initializers that hold their content become headers too.
        """
        weights: dict[str, Tensor] = {}
        for tensor in structure.graph.initializer:
            name = weight_name(tensor)
            if name == tensor.name:
                weights[tensor.name] = self.weights[tensor.name]
                continue
            weights[tensor.name] = _content(tensor, self.folder) if name is None else self.weights[name]
            header = TensorProto()
            _refer(header, tensor)
            tensor.CopyFrom(header)
        return replace(self, structure=structure, weights=Weights(weights), **changes)

    def replaced(self, arrays: Mapping[str, np.ndarray]) -> Model:
        """Return the model with other content of stored tensors, by the names that a ``Graph`` gives them.

        The arrays are not to be changed after that.
        """
        structure = self.draft()
        weights = overwritten(Graph(structure), self.weights, arrays)
        declare_stored(structure, arrays)
        return replace(self, structure=structure, weights=weights)


def declare_stored(structure: ModelProto, arrays: Mapping[str, np.ndarray]) -> None:
    """Let what a graph says of stored tensors, as inputs or as values, be what they are now."""
    for value in (*structure.graph.input, *structure.graph.value_info):
        array, kind = arrays.get(value.name), value.type.tensor_type
        if array is None:
            continue
        kind.elem_type = helper.np_dtype_to_tensor_dtype(array.dtype)
        if [dim.dim_value for dim in kind.shape.dim] != list(array.shape):
            kind.CopyFrom(helper.make_tensor_type_proto(kind.elem_type, array.shape).tensor_type)


def overwritten(graph: Graph, weights: Weights, arrays: Mapping[str, np.ndarray]) -> Weights:
    """Change the content of stored tensors of a graph, in place where nodes or bodies hold it; return the weights as they are then."""
    own = {}
    for name, array in arrays.items():
        tensor = graph.tensors[name]
        if weight_name(tensor) is None:
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
            continue
        own[name] = array
        tensor.Clear()
        _refer(tensor, TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(array.dtype), dims=array.shape))
    return weights.replaced(own)


def embedded(model: Model) -> ModelProto:
    """Return the whole model as one message, with what lies in data files."""
    result = model.draft()
    for header in result.graph.initializer:
        embed_header(header, model.weights[header.name])
    return result


def _home(path: Path | None) -> Home | None:
    return Home(path.parent, path.resolve().parent) if path else None


def _content(tensor: TensorProto, folder: Home | None, own: Path | None = None) -> Tensor:
    external = tensor.data_location == TensorProto.EXTERNAL
    return stored_tensor(tensor, external_region(tensor, folder) if external else None, own)


def _refer(header: TensorProto, tensor: TensorProto) -> None:
    """Make an empty message the header of a tensor, which names the tensor's content."""
    _describe(tensor, header)
    header.data_location = TensorProto.EXTERNAL
    header.external_data.add(key=WEIGHT, value=tensor.name)


def _describe(source: TensorProto, target: TensorProto) -> None:
    for name, value in set_fields(source, ABOUT):
        copy_field(target, name, value)


def weight_name(tensor: TensorProto) -> str | None:
    """Return the name of a header's content among the weights, None for a tensor that has its own."""
    if tensor.data_location != TensorProto.EXTERNAL:
        return None
    return next((entry.value for entry in tensor.external_data if entry.key == WEIGHT), None)


def described(header: TensorProto) -> TensorProto:
    """Return what a header says of its tensor, without where its content is."""
    result = TensorProto()
    _describe(header, result)
    return result


def fill_header(header: TensorProto, tensor: Tensor) -> None:
    """Put a tensor's content in place of the reference to it, or where that lies in a file, a reference to the file."""
    header.ClearField("external_data")
    header.ClearField("data_location")
    tensor.fill(header)


def embed_header(header: TensorProto, tensor: Tensor) -> None:
    """Put a tensor's content, wherever it lies, in place of the reference to it."""
    fill_header(header, tensor)
    if tensor.external:
        header.ClearField("external_data")
        header.ClearField("data_location")
        header.raw_data = b"".join(tensor.blocks())


def slim(model: Model, keep_bytes: int = 1024) -> ModelProto:
    """Return a copy without the content of large or external initializers, which become typed graph inputs."""
    result = model.draft()
    result.ir_version = max(model.structure.ir_version, 4)
    result.graph.ClearField("initializer")
    declared = {value.name for value in result.graph.input}
    for header in model.structure.graph.initializer:
        tensor, whole = model.weights[header.name], described(header)
        if not tensor.external and tensor.nbytes <= keep_bytes:
            tensor.fill(whole)
            if whole.ByteSize() <= keep_bytes:
                result.graph.initializer.append(whole)
                continue
        if header.name not in declared:
            value = helper.make_tensor_value_info(header.name, header.data_type, list(header.dims))
            result.graph.input.append(value)
    return result
