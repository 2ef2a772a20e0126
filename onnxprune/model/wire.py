"""A whole model as the bytes of one protobuf message, made a block at a time: the weights never stand in memory together.

Fields go in the order of their numbers, as deterministic serialisation has them, so the bytes are those of ``Model.proto``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from google.protobuf.message import Message
from onnx import GraphProto, ModelProto, TensorProto

from onnxprune.model.model import Model, described, fill_header
from onnxprune.model.tensors import copy_field
from onnxprune.model.weights import Tensor

HELD = 1024  # bytes: smaller tensors are serialised as they are


class _Entry(NamedTuple):
    """An initializer: what its message begins and ends with, and the tensor whose bytes stand in between."""

    head: bytes
    tensor: Tensor | None
    tail: bytes

    @property
    def size(self) -> int:
        return len(self.head) + (self.tensor.nbytes if self.tensor else 0) + len(self.tail)


class Wire:
    """The message of a model: its ``size`` in bytes, and its ``blocks``."""

    def __init__(self, model: Model):
        entries = [_entry(header, model.weights[header.name]) for header in model.structure.graph.initializer]
        lead = tag(GraphProto, "initializer")
        self._entries = [(lead + varint(entry.size), entry) for entry in entries]
        before, after = _split(model.structure.graph, "initializer")
        graph = len(before) + sum(len(lead) + entry.size for lead, entry in self._entries) + len(after)
        head, tail = _split(model.structure, "graph")
        self._head = head + tag(ModelProto, "graph") + varint(graph) + before
        self._tail = after + tail
        self.size = len(self._head) - len(before) + graph + len(tail)

    def blocks(self) -> Iterator[bytes]:
        """Yield the bytes, no more than a few MiB at a time."""
        yield self._head
        for lead, entry in self._entries:
            yield lead + entry.head
            if entry.tensor is not None:
                yield from entry.tensor.blocks()
            yield entry.tail
        yield self._tail


def _entry(header: TensorProto, tensor: Tensor) -> _Entry:
    if tensor.external or not tensor.raw or tensor.nbytes < HELD:
        whole = TensorProto()
        whole.CopyFrom(header)
        fill_header(whole, tensor)
        return _Entry(whole.SerializeToString(deterministic=True), None, b"")
    about = described(header)
    tensor.note(about)
    head, tail = _split(about, "raw_data")
    return _Entry(head + tag(TensorProto, "raw_data") + varint(tensor.nbytes), tensor, tail)


def _split(message: Message, name: str) -> tuple[bytes, bytes]:
    """Return a message's fields before and after one, serialised."""
    number = message.DESCRIPTOR.fields_by_name[name].number
    before, after = type(message)(), type(message)()
    for descriptor, value in message.ListFields():
        if descriptor.number != number:
            copy_field(before if descriptor.number < number else after, descriptor.name, value)
    return before.SerializeToString(deterministic=True), after.SerializeToString(deterministic=True)


def tag(kind: type[Message], name: str) -> bytes:
    """Return what stands before a field that is a message or bytes."""
    return varint(kind.DESCRIPTOR.fields_by_name[name].number << 3 | 2)


def varint(number: int) -> bytes:
    """Return a number in the variable-length form of protobuf."""
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)
