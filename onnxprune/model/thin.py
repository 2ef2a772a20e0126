"""A large model file without the bytes of its weights, which stay where they are in it: they are read from there, as from a data file."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from onnx import GraphProto, ModelProto, StringStringEntryProto, TensorProto

from onnxprune.model.wire import tag, varint

FROM = 1 << 26  # bytes of a file that is read in this way
LARGE = 1 << 16  # bytes of a tensor that stays where it is
LENGTHS = {1: 8, 5: 4}  # bytes of fields of fixed length, by wire type


class Field(NamedTuple):
    """One field of a message: where its tag begins, and where its content begins and ends."""

    number: int
    start: int
    content: int
    end: int


class Irregular(ValueError):
    """The bytes are not those of a message."""


def thin(path: Path) -> bytes | None:
    """Return the message of a model file in which every large initializer refers to its place in the file; None where it has none such.

    Whoever parses the message finds out what is wrong with it.
    """
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            graphs = [field for field in fields(data, 0, len(data)) if field.number == _number(ModelProto, "graph")]
            if len(graphs) != 1:
                return None
            (graph,) = graphs
            parts = list(_graph(data, graph, path.name))
        except (Irregular, IndexError):
            return None
        size = sum(map(len, parts))
        head, tail = data[: graph.start], data[graph.end :]
        return b"".join([head, tag(ModelProto, "graph"), varint(size), *parts, tail])


def _graph(data: mmap.mmap, graph: Field, name: str) -> Iterator[bytes]:
    """Yield the content of a graph with thin initializers."""
    place, initializer = graph.content, _number(GraphProto, "initializer")
    for field in fields(data, graph.content, graph.end):
        found = _tensor(data, field, name) if field.number == initializer else None
        if found is not None:
            yield data[place : field.start]
            yield tag(GraphProto, "initializer") + varint(len(found)) + found
            place = field.end
    yield data[place : graph.end]


def _tensor(data: mmap.mmap, tensor: Field, name: str) -> bytes | None:
    """Return a tensor that refers to its bytes; None where these are few, or not raw."""
    if tensor.end - tensor.content < LARGE:
        return None
    raw = [f for f in fields(data, tensor.content, tensor.end) if f.number == _number(TensorProto, "raw_data")]
    if len(raw) != 1 or raw[0].end - raw[0].content < LARGE:
        return None
    (field,) = raw
    about = {"location": name, "offset": str(field.content), "length": str(field.end - field.content)}
    refers = TensorProto(
        data_location=TensorProto.EXTERNAL,
        external_data=[StringStringEntryProto(key=key, value=value) for key, value in about.items()],
    )
    return data[tensor.content : field.start] + data[field.end : tensor.end] + refers.SerializeToString()


def fields(data: mmap.mmap, start: int, end: int) -> Iterator[Field]:
    """Yield the fields of a message; raises Irregular or IndexError where the bytes are none."""
    while start < end:
        key, place = _read_varint(data, start)
        kind = key & 7
        if kind == 2:
            length, place = _read_varint(data, place)
        elif kind == 0:
            _, after = _read_varint(data, place)
            length = after - place
        elif kind in LENGTHS:
            length = LENGTHS[kind]
        else:
            raise Irregular(f"wire type {kind}")
        if place + length > end:
            raise Irregular("a field is longer than its message")
        yield Field(key >> 3, start, place, place + length)
        start = place + length


def _read_varint(data: mmap.mmap, place: int) -> tuple[int, int]:
    """Return a number and the place behind it."""
    found = shift = 0
    while True:
        byte = data[place]
        place += 1
        found |= (byte & 0x7F) << shift
        if byte < 0x80:
            return found, place
        shift += 7
        if shift > 63:
            raise Irregular("a number of more than 64 bits")


def _number(kind: type, name: str) -> int:
    return kind.DESCRIPTOR.fields_by_name[name].number  # type: ignore[attr-defined]
