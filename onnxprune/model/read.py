"""Reading and checking of model files."""

from __future__ import annotations

import itertools
import math
import os
import socket
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto

from onnxprune.errors import ModelError, OnnxPruneError, PlanError
from onnxprune.model.digests import FileDigest, SourceDigest
from onnxprune.model.files import kind_of, require_regular, status
from onnxprune.model.model import Identity, Model, slim
from onnxprune.model.tensors import (
    FLOATS,
    NATIVE_FLOATS,
    Folder,
    Home,
    all_tensors,
    embed,
    external_region,
    model_tensors,
    short_reason,
    stored_size,
)
from onnxprune.model.thin import FROM, thin
from onnxprune.model.weights import Origin, Tensor

__all__ = [
    "FLOATS",
    "NATIVE_FLOATS",
    "Identity",
    "Model",
    "SourceDigest",
    "check_structure",
    "impossible_size",
    "load",
    "read_text",
]

TEXT_LIMIT = 1 << 28
PROTOBUF_LIMIT = 2**31 - 1  # bytes of one message
MOST_NODES = 1 << 21
LARGEST_AXIS = 1 << 28
LARGEST_VALUE = 1 << 36


def load(source: str | os.PathLike | ModelProto) -> Model:
    """Read and check a model; raise ModelError that says what is wrong with the file."""
    if isinstance(source, ModelProto):
        data = source.SerializeToString(deterministic=True)
        digest, size = FileDigest(data), len(data)
        del data
        where = "the model given as ModelProto"
        _check_external(source, None, where)
        _check_stored(source, where)
        model = Model.of(source, digest=digest, size=size)
    else:
        model = _load_file(Path(source))
    _check_structure(model)
    return model


def _load_file(path: Path, attempts: int = 3) -> Model:
    """Read a model and find its data; again where that fails because another process has just replaced it."""
    before = status(path, ModelError)
    try:
        data, whole = _read_file(path)
        proto = _parse(data, path)
        folder = Home(path.parent, path.resolve().parent)
        externals = _check_external(proto, folder, str(path)) - {path.resolve()}
        _embed_inner(proto, folder)
        _check_stored(proto, str(path))
        size = before.st_size + sum(file.stat().st_size for file in externals) if before else len(data)
        digest = FileDigest(data, externals) if whole else FileDigest(b"", externals, path)
        del data
        model = Model.of(proto, path, digest=digest, size=size, data=frozenset(externals))
        for name, tensor in model.weights.items():
            tensor.origin = Origin(os.path.abspath(path), digest, name)
        return model
    except (ModelError, OSError) as error:
        after = status(path, ModelError)
        if attempts > 1 and before and after and not os.path.samestat(before, after):
            return _load_file(path, attempts - 1)
        raise error if isinstance(error, ModelError) else ModelError(f"{path}: cannot be read: {error}") from error


@lru_cache(maxsize=2)
def _opened_elsewhere(path: str, sha256: str) -> Model:
    if not os.path.exists(path):
        raise ModelError(
            f"{path} does not exist on {socket.gethostname()}, which works on a part of the run: every worker has to see the model by "
            "the same path (a shared file system, or a copy)"
        )
    model = _load_file(Path(path))
    if model.source_sha256 != sha256:
        raise ModelError(
            f"{path} is another model on {socket.gethostname()} than where the run began: copy the same file there, or use a shared "
            "file system"
        )
    return model


def tensor_of_file(path: str, sha256: str, name: str) -> Tensor:
    """Return a tensor in another process than the one that read the model; raises ModelError where there is another file."""
    return _opened_elsewhere(path, sha256).weights[name]


def _read_file(path: Path) -> tuple[bytes, bool]:
    """Return a model's message, and whether it is the whole file: of a large one the weights stay where they are."""
    found = status(path, ModelError)
    if found is not None and kind_of(found) == "a folder":
        raise ModelError(f"{path}: a folder, not a model; give the .onnx file inside it")
    size = require_regular(path, ModelError).st_size
    if size > PROTOBUF_LIMIT:
        raise ModelError(f"{path}: {size:,} bytes; no ONNX file is above 2 GB, larger weights lie in external data")
    try:
        slim = thin(path) if size >= FROM else None
        data = path.read_bytes() if slim is None else slim
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    if not data:
        raise ModelError(f"{path}: the file is empty")
    return data, slim is None


def _parse(data: bytes, path: Path) -> ModelProto:
    proto = ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        raise ModelError(f"{path}: not an ONNX model, or a truncated one (protobuf: {short_reason(error)})") from error
    if not proto.HasField("graph") or not proto.graph.node or not proto.opset_import:
        raise ModelError(f"{path}: not an ONNX model (a protobuf without graph, nodes or opset)")
    if len(proto.graph.node) > MOST_NODES:
        raise ModelError(f"{path}: {len(proto.graph.node):,} nodes; at most {MOST_NODES:,} can be processed")
    if not proto.graph.node[0].op_type:
        raise ModelError(f"{path}: not an ONNX model (its first node has no operator)")
    return proto


def _check_external(proto: ModelProto, folder: Folder | None, where: str) -> set[Path]:
    """Return the files that a model's tensors lie in; raises ModelError where one does not hold its tensor."""
    files = set()
    for tensor in model_tensors(proto):
        if tensor.data_location == TensorProto.EXTERNAL:
            try:
                file, _, length = external_region(tensor, folder)
            except ModelError as error:
                raise ModelError(f"{where}: {error}") from error
            files.add(file)
            _check_size(tensor, length, where)
    return files


def _embed_inner(proto: ModelProto, folder: Folder | None) -> None:
    """Take in the external data of all but the initializers: of nodes' attributes, bodies, functions, sparse tensors."""
    own = len(proto.graph.initializer)
    for tensor in itertools.islice(model_tensors(proto), own, None):
        if tensor.data_location == TensorProto.EXTERNAL:
            embed(tensor, folder)


def _check_size(tensor: TensorProto, length: int, where: str) -> None:
    """Raise ModelError for a tensor with fewer bytes of external data than its sizes take."""
    _check_tensor(tensor, where)
    name = f"{where}: tensor {tensor.name!r}"
    needed = stored_size(tensor, 0)
    if length < needed:
        raise ModelError(f"{name} has {length:,} bytes of external data, {list(tensor.dims)} take {needed:,}")


def _check_structure(model: Model) -> None:
    newest = onnx.defs.onnx_opset_version()
    for opset in model.structure.opset_import:
        if opset.domain in ("", "ai.onnx") and not 1 <= opset.version <= newest:
            raise ModelError(f"{model.name}: opset {opset.version} is unknown; this onnx package knows 1 to {newest}")
    for value in model.structure.graph.input:
        _check_input(value, model.name)
    check_structure(model, model.name, full=False)


def _check_input(value: onnx.ValueInfoProto, where: str) -> None:
    """Raise ModelError for an input that is no tensor, or of an unknown element type, or of sizes that nothing can have."""
    kind = value.type.WhichOneof("value")
    if kind not in (None, "tensor_type"):
        what = str(kind).removesuffix("_type").replace("_", " ")
        raise ModelError(
            f"{where}: input {value.name!r} is no tensor but of type {what}; inputs have to be tensors: "
            "take its elements out before the model, as inputs of their own"
        )
    declared = value.type.tensor_type
    if declared.elem_type not in TensorProto.DataType.values():
        raise ModelError(f"{where}: input {value.name!r} has element type {declared.elem_type}, which is unknown")
    sizes = [axis.dim_value for axis in declared.shape.dim if axis.dim_value > 0]
    if problem := impossible_size(sizes):
        raise ModelError(f"{where}: input {value.name!r} has the sizes {sizes}: {problem}")


def impossible_size(sizes: Sequence[int]) -> str:
    """Return what is wrong with the sizes of a value, "" where they can be processed."""
    if any(size < 0 for size in sizes):
        return "one is negative"
    if any(size > LARGEST_AXIS for size in sizes):
        return f"more than {LARGEST_AXIS:,} positions of one axis cannot be processed"
    if math.prod(sizes) > LARGEST_VALUE:
        return f"more than {LARGEST_VALUE:,} elements cannot be processed"
    return ""


def check_structure(model: Model, where: str, full: bool) -> None:
    """Run the ONNX checker (``full``: with strict shape inference) on the model's structure; raise ModelError.

    Large initializers take part as typed inputs, so that the check costs the same whatever the weights weigh.
    """
    structure = slim(model)
    _name_runtime_domain(structure)
    unsaid = [value for value in structure.graph.output if _lacks_shape(value)]
    try:
        for value in unsaid:  # ONNX Runtime needs none, the checker any
            value.type.tensor_type.shape.SetInParent()
        onnx.checker.check_model(structure)
        for value in unsaid:
            value.type.tensor_type.ClearField("shape")
        if full:
            onnx.shape_inference.infer_shapes(structure, check_type=True, strict_mode=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        raise ModelError(f"{where}: refused by the ONNX checker: {short_reason(error)}") from error


def _check_stored(proto: ModelProto, where: str) -> None:
    """Raise ModelError for a tensor that is not what it says."""
    for tensor in all_tensors(proto.graph):
        _check_tensor(tensor, where)


def _check_tensor(tensor: TensorProto, where: str) -> None:
    """Raise ModelError for a tensor of an unknown element type, of negative sizes, or whose bytes are not those of its sizes."""
    name = f"{where}: tensor {tensor.name!r}"
    if tensor.data_type and tensor.data_type not in TensorProto.DataType.values():
        raise ModelError(f"{name} has element type {tensor.data_type}, which this onnx package does not know")
    if any(size < 0 for size in tensor.dims):
        raise ModelError(f"{name} has a negative size: {list(tensor.dims)}")
    if tensor.data_location == TensorProto.EXTERNAL:
        return
    if tensor.HasField("raw_data"):
        size = len(tensor.raw_data)
        if size != stored_size(tensor, size):
            raise ModelError(f"{name} holds {size} bytes, not {list(tensor.dims)}")
    elif math.prod(tensor.dims) > PROTOBUF_LIMIT:
        raise ModelError(f"{name} holds no {list(tensor.dims)} numbers: more than a file can have")


RUNTIME_OPS = {
    *("Affine", "ImageScaler", "ParametricSoftplus", "ScaledTanh"),
    *("LayerNormalization", "SimplifiedLayerNormalization"),
    "GroupNormalization",
}
"""What ONNX Runtime runs in the default domain at any opset, though ONNX may know nothing of it there, or deprecates it."""


def _lacks_shape(value: onnx.ValueInfoProto) -> bool:
    return value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape")


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for body in [attribute.g] * (attribute.type == onnx.AttributeProto.GRAPH) + list(attribute.graphs):
                yield from _all_nodes(body)


def _refused(op: str, version: int) -> bool:
    return not onnx.defs.has(op, version, "") or onnx.defs.get_schema(op, version, "").deprecated


def _name_runtime_domain(structure: ModelProto) -> None:
    """Give such nodes the domain that they belong to, so that the checker lets them pass."""
    version = next((o.version for o in structure.opset_import if o.domain in ("", "ai.onnx")), 1)
    moved = False
    for node in _all_nodes(structure.graph):
        if node.op_type in RUNTIME_OPS and not node.domain and _refused(node.op_type, version):
            node.domain, moved = "com.microsoft", True
    if moved and all(o.domain != "com.microsoft" for o in structure.opset_import):
        structure.opset_import.add(domain="com.microsoft", version=1)


def read_text(
    path: str | os.PathLike, limit: int = TEXT_LIMIT, error: type[OnnxPruneError] = PlanError, what: str = "a plan"
) -> str:
    """Return a text file's content; raises ``error`` where it is no regular file, larger than ``limit`` bytes or no text."""
    path = Path(path)
    size = require_regular(path, error, what).st_size
    if size > limit:
        raise error(f"{path}: too large for {what} ({size:,} bytes)")
    try:
        return path.read_text(encoding="utf-8")
    except OSError as problem:
        raise error(f"{path}: cannot be read: {problem.strerror}") from problem
    except UnicodeDecodeError as problem:
        raise error(f"{path}: no text, so not {what}") from problem
