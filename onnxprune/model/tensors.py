"""Tensors of a model and where their bytes lie: inside it, or in files of its folder and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import onnx
from google.protobuf.message import Message
from onnx import ModelProto, TensorProto

from onnxprune.errors import ModelError
from onnxprune.model.files import shown

CHUNK = 1 << 22
NATIVE_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE})  # element types numpy has too
FLOATS = NATIVE_FLOATS | {TensorProto.BFLOAT16}
BITS = {
    TensorProto.DataType.Value(name): bits
    for name, bits in (
        *dict.fromkeys(("INT4", "UINT4", "FLOAT4E2M1"), 4).items(),
        *dict.fromkeys(("INT2", "UINT2"), 2).items(),
        *dict.fromkeys(("FLOAT6E2M3", "FLOAT6E3M2"), 6).items(),
    )
    if name in TensorProto.DataType.keys()  # noqa: SIM118 - an enum, not a dict
}
"""Element types that share bytes -> bits of one."""


class Home(NamedTuple):
    """Where a model's external data lies: the folder of its path, and the folder of the file that a link there leads to."""

    folder: Path
    target: Path


Folder = Path | Home


def all_tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """Yield every tensor of a graph and of the graphs inside its nodes."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from node_tensors(graph.node)


def node_tensors(nodes: Iterable[onnx.NodeProto]) -> Iterator[TensorProto]:
    """Yield every tensor that nodes hold, and of the graphs inside them."""
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
            yield from attribute.tensors
            for body in [attribute.g] * (attribute.type == onnx.AttributeProto.GRAPH) + list(attribute.graphs):
                yield from all_tensors(body)


def model_tensors(proto: ModelProto) -> Iterator[TensorProto]:
    """Yield every tensor of a model, those in its functions too."""
    yield from all_tensors(proto.graph)
    for function in proto.functions:
        yield from node_tensors(function.node)


def is_plain(data_type: int) -> bool:
    """Whether numpy can map the stored bytes as they are (4-bit types are packed, strings have no bytes)."""
    return data_type in TensorProto.DataType.values() and data_type not in (
        TensorProto.UNDEFINED,
        TensorProto.STRING,
        *BITS,
    )


def packed_size(dtype: int, count: int) -> int:
    """Return the bytes that ``count`` elements take."""
    return -(-count * (BITS.get(dtype) or 8 * onnx.helper.tensor_dtype_to_np_dtype(dtype).itemsize) // 8)


def stored_size(tensor: TensorProto, otherwise: int) -> int:
    """Return the bytes that a tensor's sizes take where its elements have whole bytes, else ``otherwise``."""
    if not is_plain(tensor.data_type):
        return otherwise
    return packed_size(tensor.data_type, math.prod(tensor.dims))


def external_region(tensor: TensorProto, folder: Folder | None) -> tuple[Path, int, int]:
    """Return (file, offset, length) of a tensor's external data, refusing every path that leaves the model's folder.

    Inside is what lies, all links followed, in the folder of the model's path or in that of the file which it leads to: in a
    Hugging Face cache the model and its data are links to files beside each other.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location, where = entries.get("location", ""), f"tensor {tensor.name!r}"
    if folder is None:
        raise ModelError(f"{where} has external data in {location!r}; give the model as a path")
    if not location or Path(location).is_absolute():
        raise ModelError(f"{where}: external data {location!r} lies outside the model's folder; refused")
    file = _inside(location, tuple(folder) if isinstance(folder, Home) else (folder,), where)
    size = file.stat().st_size
    try:
        offset = int(entries.get("offset", 0))
        length = int(entries.get("length", stored_size(tensor, size - offset)))
    except ValueError as error:
        raise ModelError(f"{where}: external data offset or length is not a number") from error
    if offset < 0 or length < 0 or offset + length > size:
        asked = f"offset {offset:,} and length {length:,} do not fit into its {size:,} bytes"
        raise ModelError(f"{where}: external data file {location!r} is too short or the entry is wrong: {asked}")
    return file, offset, length


def _inside(location: str, folders: tuple[Path, ...], where: str) -> Path:
    """Return the file, all links followed, that ``location`` means in the first folder that has it; raises ModelError."""
    try:
        bases = [folder.resolve() for folder in folders]
        found = [(base / location).resolve() for base in bases]
        file = next((place for place in found if place.exists()), found[0])
        if not any(file.is_relative_to(base) for base in bases):
            raise ModelError(f"{where}: external data {location!r} lies outside the model's folder; refused")
        if not file.is_file():
            raise ModelError(
                f"{where}: external data file {location!r} is missing beside the model, or no regular file"
            )
    except (OSError, ValueError, RuntimeError) as error:  # a NUL, an overlong name, links in a circle
        raise ModelError(f"{where}: external data {shown(Path(location))} cannot be read: {error}") from error
    return file


def embed(tensor: TensorProto, folder: Folder | None) -> None:
    """Put external data into the tensor itself; raises ModelError."""
    file, offset, length = external_region(tensor, folder)
    with file.open("rb") as stream:
        stream.seek(offset)
        tensor.raw_data = stream.read(length)
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")


def copy_checked(source: Path, offset: int, length: int) -> Iterator[bytes]:
    """Yield a stretch of a file in chunks; raises OSError where it has become shorter."""
    with source.open("rb") as stream:
        stream.seek(offset)
        for place in range(0, length, CHUNK):
            block = stream.read(min(CHUNK, length - place))
            if len(block) != min(CHUNK, length - place):
                raise OSError(f"{source} became shorter while it was read")
            yield block


def skeleton_without_data(proto: ModelProto) -> ModelProto:
    """Return a copy of the model with no initializers at all."""
    result = ModelProto()
    for descriptor, value in proto.ListFields():
        if descriptor.name != "graph":
            copy_field(result, descriptor.name, value)
    for descriptor, value in proto.graph.ListFields():
        if descriptor.name != "initializer":
            copy_field(result.graph, descriptor.name, value)
    return result


def set_fields(message: Message, names: Collection[str]) -> Iterator[tuple[str, Any]]:
    """Yield name and value of those of the fields that are set; others are not looked at: to look at bytes is to copy them."""
    for name in names:
        value = getattr(message, name)
        single = isinstance(value, int | float | str | bytes | Message)
        if message.HasField(name) if single else len(value):
            yield name, value


def copy_field(target: Message, name: str, value: Any) -> None:
    """Set a field by the kind of its value: descriptors say that differently from one protobuf release to another."""
    if isinstance(value, Message):
        getattr(target, name).CopyFrom(value)
    elif isinstance(value, int | float | str | bytes):
        setattr(target, name, value)
    else:
        getattr(target, name).extend(value)


def short_reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
