"""A data file beside a model: which tensors go there, where they lie, and how it is filled."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from onnx import ModelProto, TensorProto

from onnxprune.model.files import Pending
from onnxprune.model.model import Model, fill_header
from onnxprune.model.pipeline import made_ahead
from onnxprune.model.read import PROTOBUF_LIMIT
from onnxprune.model.weights import Tensor
from onnxprune.model.wire import Wire

SMALL = 1024  # bytes: smaller tensors stay inside the model
ALIGNED = 1 << 16  # bytes: where a tensor of as many may begin in a data file, so that every system can map it
PAGE = 1 << 12  # bytes: where smaller ones may
SYNCED = 1 << 28  # bytes after which a data file that is being written begins to go to the disk


class Region(NamedTuple):
    """Where a tensor's bytes go in the external file; ``target``: what refers to them in the model that is written."""

    tensor: Tensor
    target: TensorProto
    start: int


def needs_external(model: Model) -> bool:
    """Whether a model has external tensors already, or is too large for one protobuf message."""
    return any(tensor.external for tensor in model.weights.values()) or Wire(model).size > PROTOBUF_LIMIT


def externalised(model: Model) -> tuple[ModelProto, list[Region]]:
    """Return the model without large initializers' data, and where the bytes go: aligned so that they can be mapped, in order."""
    slim = model.draft()
    regions: list[Region] = []
    for target in slim.graph.initializer:
        tensor = model.weights[target.name]
        if tensor.external or (tensor.raw and tensor.nbytes >= SMALL):
            end = end_of(regions)
            del target.external_data[:]
            step = ALIGNED if tensor.nbytes >= ALIGNED else PAGE
            regions.append(Region(tensor, target, end + -end % step))
        else:
            fill_header(target, tensor)
    return slim, regions


def point_to(slim: ModelProto, regions: list[Region], name: str) -> None:
    """Let the tensors of a model refer to the data file ``name``."""
    for region in regions:
        region.target.data_location = TensorProto.EXTERNAL
        for key, value in (("location", name), ("offset", region.start), ("length", region.tensor.nbytes)):
            region.target.external_data.add(key=key, value=str(value))


def end_of(regions: list[Region]) -> int:
    return regions[-1].start + regions[-1].tensor.nbytes if regions else 0


def fill_data(data: Pending, regions: list[Region], goes_on: Callable[[], bool] = lambda: True) -> str:
    """Write tensors to where they lie in a data file and return its SHA-256; "" where it does not go on to the end."""
    digest, begun = hashlib.sha256(), 0
    for block in made_ahead(_blocks(regions)):
        if not goes_on():
            return ""
        digest.update(block)
        data.stream.write(block)
        if data.stream.tell() - begun >= SYNCED:
            data.begin_sync()
            begun = data.stream.tell()
    return digest.hexdigest()


def _blocks(regions: list[Region]) -> Iterator[bytes]:
    end = 0
    for tensor, _, start in regions:
        yield b"\0" * (start - end)
        end = start + tensor.nbytes
        yield from tensor.blocks()
