"""Reading and checking of model files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError, Message
from onnx import ModelProto, TensorProto, numpy_helper

from onnxprune.errors import ModelError, PlanError

CHUNK = 1 << 22
TEXT_LIMIT = 1 << 28


NATIVE_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE})  # element types numpy has too
FLOATS = NATIVE_FLOATS | {TensorProto.BFLOAT16}


@dataclass(frozen=True)
class Model:
    """A model as read: ``proto`` holds all but external tensor data, which is mapped from ``folder`` on demand."""

    proto: ModelProto
    sha256: str
    path: Path | None = None
    size: int = 0
    warnings: tuple[str, ...] = field(default=())

    @property
    def folder(self) -> Path | None:
        return self.path.parent if self.path else None

    @property
    def name(self) -> str:
        return str(self.path) if self.path else "the model given as ModelProto"

    def array(self, tensor: TensorProto) -> np.ndarray:
        """Return the tensor's content, memory-mapped where the data is external; read-only."""
        return tensor_array(tensor, self.folder)


def tensor_array(tensor: TensorProto, folder: Path | None) -> np.ndarray:
    """Return a tensor's content, external data being sought in ``folder``; raise ModelError if it cannot be read."""
    try:
        if tensor.data_location != TensorProto.EXTERNAL:
            return numpy_helper.to_array(tensor)
        file, offset, length = external_region(tensor, folder)
        inline = TensorProto(dims=tensor.dims, data_type=tensor.data_type, name=tensor.name)
        if _is_plain(tensor.data_type):
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
            count = int(np.prod(tensor.dims, dtype=np.int64))
            if length < count * dtype.itemsize:
                raise ValueError(f"{length} bytes hold no {list(tensor.dims)} of {dtype}")
            if not count:
                return np.zeros(tuple(tensor.dims), dtype)
            return np.memmap(file, dtype=dtype, mode="r", offset=offset, shape=(count,)).reshape(tuple(tensor.dims))
        with open(file, "rb") as stream:
            stream.seek(offset)
            inline.raw_data = stream.read(length)
        return numpy_helper.to_array(inline)
    except (ValueError, TypeError, OSError, KeyError) as error:
        raise ModelError(f"tensor {tensor.name!r} cannot be read: {_first_line(error)}") from error


def _is_plain(data_type: int) -> bool:
    """Whether numpy can map the stored bytes as they are (4-bit types are packed, strings have no bytes)."""
    packed = ("INT4", "UINT4", "FLOAT4E2M1", "INT2", "UINT2", "STRING")
    return TensorProto.DataType.Name(data_type) not in packed


def all_tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """Yield every tensor of a graph and of the graphs inside its nodes."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
            yield from attribute.tensors
            for body in [attribute.g] * (attribute.type == onnx.AttributeProto.GRAPH) + list(attribute.graphs):
                yield from all_tensors(body)


def load(source: str | os.PathLike | ModelProto) -> Model:
    """Read and check a model; raise ModelError that says what is wrong with the file."""
    if isinstance(source, ModelProto):
        data = source.SerializeToString(deterministic=True)
        model = Model(source, hashlib.sha256(data).hexdigest(), size=len(data))
        externals: set[Path] = _check_external(source, None, "the model given as ModelProto")
    else:
        path = Path(source)
        data = _read_file(path)
        proto = _parse(data, path)
        externals = _check_external(proto, path.parent, str(path))
        size = len(data) + sum(file.stat().st_size for file in externals)
        model = Model(proto, _digest(data, externals), path, size)
    del data
    _check_structure(model)
    return model


def _read_file(path: Path) -> bytes:
    if not path.exists():
        raise ModelError(f"{path}: no such file")
    if path.is_dir():
        raise ModelError(f"{path}: a folder, not a model; give the .onnx file inside it")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    if not data:
        raise ModelError(f"{path}: the file is empty")
    return data


def _parse(data: bytes, path: Path) -> ModelProto:
    proto = ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        raise ModelError(f"{path}: not an ONNX model, or a truncated one (protobuf: {_first_line(error)})") from error
    if not proto.HasField("graph") or not proto.graph.node or not proto.opset_import:
        raise ModelError(f"{path}: not an ONNX model (a protobuf without graph, nodes or opset)")
    return proto


def _digest(data: bytes, externals: set[Path]) -> str:
    """SHA-256 of the model file followed by its external data files in the order of their names."""
    digest = hashlib.sha256(data)
    for file in sorted(externals):
        with open(file, "rb") as stream:
            while block := stream.read(CHUNK):
                digest.update(block)
    return digest.hexdigest()


def external_region(tensor: TensorProto, folder: Path | None) -> tuple[Path, int, int]:
    """Return (file, offset, length) of a tensor's external data, refusing every path that leaves ``folder``."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if folder is None:
        raise ModelError(f"tensor {tensor.name!r} has external data in {location!r}; give the model as a path")
    base = folder.resolve()
    file = (base / location).resolve()
    if not location or Path(location).is_absolute() or not file.is_relative_to(base):
        raise ModelError(f"tensor {tensor.name!r}: external data {location!r} lies outside the model's folder; refused")
    if not file.is_file():
        raise ModelError(f"tensor {tensor.name!r}: external data file {location!r} is missing beside the model")
    try:
        offset = int(entries.get("offset", 0))
        length = int(entries.get("length", file.stat().st_size - offset))
    except ValueError as error:
        raise ModelError(f"tensor {tensor.name!r}: external data offset or length is not a number") from error
    if offset < 0 or length < 0 or offset + length > file.stat().st_size:
        raise ModelError(f"tensor {tensor.name!r}: external data file {location!r} is too short")
    return file, offset, length


def _check_external(proto: ModelProto, folder: Path | None, where: str) -> set[Path]:
    files = set()
    for tensor in all_tensors(proto.graph):
        if tensor.data_location == TensorProto.EXTERNAL:
            try:
                files.add(external_region(tensor, folder)[0])
            except ModelError as error:
                raise ModelError(f"{where}: {error}") from error
    return files


def _check_structure(model: Model) -> None:
    newest = onnx.defs.onnx_opset_version()
    for opset in model.proto.opset_import:
        if opset.domain in ("", "ai.onnx") and not 1 <= opset.version <= newest:
            raise ModelError(f"{model.name}: opset {opset.version} is unknown; this onnx package knows 1 to {newest}")
    check(model.proto, model.name, full=False)


def check(proto: ModelProto, where: str, full: bool) -> None:
    """Run the ONNX checker (``full``: with strict shape inference) on the model's structure; raise ModelError.

    Large initializers take part as typed inputs, so that the check costs the same whatever the weights weigh.
    """
    structure = skeleton(proto)
    _name_runtime_domain(structure)
    try:
        onnx.checker.check_model(structure, full_check=full)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        raise ModelError(f"{where}: refused by the ONNX checker: {_first_line(error)}") from error
    for tensor in all_tensors(proto.graph):
        if tensor.HasField("raw_data") and _is_plain(tensor.data_type) and tensor.data_type:
            itemsize = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
            if len(tensor.raw_data) != itemsize * int(np.prod(tensor.dims, dtype=np.int64)):
                size = len(tensor.raw_data)
                raise ModelError(f"{where}: tensor {tensor.name!r} holds {size} bytes, not {list(tensor.dims)}")


RUNTIME_OPS = {
    *("Affine", "ImageScaler", "ParametricSoftplus", "ScaledTanh"),
    *("LayerNormalization", "SimplifiedLayerNormalization"),
}
"""What ONNX Runtime writes into the default domain at any opset, though ONNX may know nothing of it there."""


def _name_runtime_domain(structure: ModelProto) -> None:
    """Give such nodes the domain that they belong to, so that the checker lets them pass."""
    version = next((o.version for o in structure.opset_import if o.domain in ("", "ai.onnx")), 1)
    moved = False
    for node in structure.graph.node:
        unknown = node.op_type in RUNTIME_OPS and not node.domain and not onnx.defs.has(node.op_type, version, "")
        if unknown:
            node.domain, moved = "com.microsoft", True
    if moved and all(o.domain != "com.microsoft" for o in structure.opset_import):
        structure.opset_import.add(domain="com.microsoft", version=1)


def skeleton(proto: ModelProto, keep_bytes: int = 1024) -> ModelProto:
    """Return a copy without the content of large or external initializers, which become typed graph inputs."""
    result = ModelProto()
    for descriptor, value in proto.ListFields():
        if descriptor.name != "graph":
            _copy_field(result, descriptor.name, value)
    result.ir_version = max(proto.ir_version, 4)
    declared = {value.name for value in proto.graph.input}
    for descriptor, value in proto.graph.ListFields():
        if descriptor.name != "initializer":
            _copy_field(result.graph, descriptor.name, value)
    for tensor in proto.graph.initializer:
        if tensor.data_location != TensorProto.EXTERNAL and tensor.ByteSize() <= keep_bytes:
            result.graph.initializer.add().CopyFrom(tensor)
        elif tensor.name not in declared:
            result.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    return result


def _copy_field(target: Message, name: str, value: Any) -> None:
    """Set a field by the kind of its value: descriptors say that differently from one protobuf release to another."""
    if isinstance(value, Message):
        getattr(target, name).CopyFrom(value)
    elif isinstance(value, int | float | str | bytes):
        setattr(target, name, value)
    else:
        getattr(target, name).extend(value)


def skeleton_without_data(proto: ModelProto) -> ModelProto:
    """Return a copy of the model with no initializers at all."""
    result = ModelProto()
    for descriptor, value in proto.ListFields():
        if descriptor.name != "graph":
            _copy_field(result, descriptor.name, value)
    for descriptor, value in proto.graph.ListFields():
        if descriptor.name != "initializer":
            _copy_field(result.graph, descriptor.name, value)
    return result


def copy_tensor_header(source: TensorProto, target: TensorProto) -> None:
    for descriptor, value in source.ListFields():
        if descriptor.name not in ("raw_data", "external_data", "data_location"):
            _copy_field(target, descriptor.name, value)


def read_text(path: str | os.PathLike, limit: int = TEXT_LIMIT) -> str:
    """Return the content of a text file; raise PlanError where it cannot be read or is larger than ``limit`` bytes."""
    path = Path(path)
    try:
        if path.stat().st_size > limit:
            raise PlanError(f"{path}: too large for a plan ({path.stat().st_size:,} bytes)")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise PlanError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PlanError(f"{path}: not a text file") from error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
