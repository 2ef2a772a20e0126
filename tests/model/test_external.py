"""External data: found from any folder, never outside the model's, in every element type; hostile files are named."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper
from onnx.helper import tensor_dtype_to_np_dtype
from support.networks import network

from onnxprune.cli import main
from onnxprune.errors import ModelError
from onnxprune.model import read, runtime
from onnxprune.model.runtime import session

BODY = "w1 = %6x3x1x1; b1 = %6; p = Conv(x, w1, b1); r = Relu(p); w2 = %5x6x1x1; y = Conv(r, w2)"
UNREADABLE = 3


def stored(path: Path, location: str = "weights.bin", proto: ModelProto | None = None) -> Path:
    onnx.save(proto or network(BODY), path, save_as_external_data=True, location=location, size_threshold=0)
    return path


def halved(proto: ModelProto) -> ModelProto:
    """The same network in float16."""
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return proto


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
def test_a_run_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half: bool) -> None:
    """The data file of the model counts, and not one of its name in the current folder."""
    (tmp_path / "models").mkdir()
    (tmp_path / "here").mkdir()
    proto = halved(network(BODY)) if half else network(BODY)
    path = stored(tmp_path / "models" / "net.onnx", proto=proto)
    size = (tmp_path / "models" / "weights.bin").stat().st_size
    (tmp_path / "here" / "weights.bin").write_bytes(bytes(size))
    monkeypatch.chdir(tmp_path / "here")
    for given in (path, Path("..") / "models" / "net.onnx"):
        result = CliRunner().invoke(main, [str(given), "small.onnx", "--force", "--no-latency"])
        assert result.exit_code == 0, result.output
        loaded = read.load("small.onnx")
        assert all(np.abs(loaded.array(tensor)).max() > 0 for tensor in loaded.proto.graph.initializer)


TYPES = ["FLOAT16", "BFLOAT16", "FLOAT8E4M3FN", "FLOAT8E5M2", "INT4", "UINT4", "INT8", "UINT16", "UINT64", "DOUBLE"]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("inside", ["graph", "Constant"])
def test_every_element_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, inside: str) -> None:
    dtype = TensorProto.DataType.Value(kind)
    content = (np.arange(64 * 64) % 7).reshape(64, 64)
    weight = numpy_helper.from_array(content.astype(tensor_dtype_to_np_dtype(dtype)), "w")
    stored_nodes = [helper.make_node("Constant", [], ["w"], value=weight)] if inside == "Constant" else []
    graph = helper.make_graph(
        [*stored_nodes, helper.make_node("Cast", ["w"], ["f"], to=1), helper.make_node("MatMul", ["x", "f"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", 1, ["N", 64])],
        [helper.make_tensor_value_info("y", 1, ["N", 64])],
        [] if stored_nodes else [weight],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    path = tmp_path / "net.onnx"
    onnx.save(
        proto, path, save_as_external_data=True, location="w.bin", size_threshold=0, convert_attribute=True
    )  # fmt: skip
    monkeypatch.chdir("/")
    loaded = read.load(path)
    assert (tmp_path / "w.bin").stat().st_size >= 64 * 64 // 2
    found = session(loaded).run({"x": np.eye(64, dtype=np.float32)})["y"]
    np.testing.assert_array_equal(found, content)
    if inside == "graph" and "INT4" not in kind:
        message, lent = runtime._in_memory(loaded, ort.SessionOptions())
        assert lent and len(message) < 1000, "weights are lent, not sent in one message, whose size is limited"


# --- inside and outside ---------------------------------------------------------------------------------------------


def hugging_face(folder: Path, *, data_beside: bool = True) -> Path:
    """A model in the cache of Hugging Face: snapshot files are links to blobs, which lie beside each other."""
    blobs, snapshot = folder / "blobs", folder / "snapshots" / "1a2b"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    stored(blobs / "aaaa", "model.onnx_data")
    place = blobs if data_beside else folder
    (blobs / "model.onnx_data").rename(place / "bbbb")
    (snapshot / "model.onnx").symlink_to("../../blobs/aaaa")
    (snapshot / "model.onnx_data").symlink_to(Path(os.path.relpath(place / "bbbb", snapshot)))
    return snapshot / "model.onnx"


def test_a_model_in_the_hugging_face_cache(tmp_path: Path) -> None:
    path = hugging_face(tmp_path)
    want = read.load(stored(tmp_path / "plain.onnx"))
    have = read.load(path)
    for one, other in zip(want.proto.graph.initializer, have.proto.graph.initializer, strict=True):
        np.testing.assert_array_equal(want.array(one), have.array(other))
    out = tmp_path / "small.onnx"
    result = CliRunner().invoke(main, [str(path), str(out), "--no-latency"])
    assert result.exit_code == 0, result.output
    read.load(out)
    result = CliRunner().invoke(main, ["bench", str(path), str(out), "--memory", "--pairs", "2", "--seconds", "0.1"])
    assert result.exit_code == 0, result.output


def test_a_link_to_a_model_finds_its_data(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    path = stored(tmp_path / "store" / "net.onnx")
    (tmp_path / "latest.onnx").symlink_to(path)
    assert read.load(tmp_path / "latest.onnx").sha256 == read.load(path).sha256


def test_a_link_from_the_cache_to_elsewhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="outside the model's folder"):
        read.load(hugging_face(tmp_path, data_beside=False))


def test_data_in_a_body_or_function_is_kept_inside(tmp_path: Path) -> None:
    """What an operator's attribute holds may point elsewhere as well."""
    (tmp_path / "secret").write_bytes(bytes(4))
    (tmp_path / "models").mkdir()
    outside = helper.make_tensor("t", TensorProto.FLOAT, [1], bytes(4), raw=True)
    outside.ClearField("raw_data")
    outside.data_location = TensorProto.EXTERNAL
    outside.external_data.add(key="location", value="../secret")
    constant = helper.make_node("Constant", [], ["c"], value=outside)
    for place in ("graph", "function"):
        proto = network(BODY)
        if place == "graph":
            proto.graph.node.insert(0, constant)
        else:
            function = helper.make_function("own", "f", ["a"], ["b"], [constant, helper.make_node("Add", ["a", "c"], ["b"])],
                                            [helper.make_opsetid("", 21)])  # fmt: skip
            proto.functions.append(function)
        path = tmp_path / "models" / f"{place}.onnx"
        path.write_bytes(proto.SerializeToString())
        with pytest.raises(ModelError, match="outside the model's folder"):
            read.load(path)


# --- hostile files --------------------------------------------------------------------------------------------------


def first(proto: ModelProto) -> TensorProto:
    return proto.graph.initializer[0]


def typed(proto: ModelProto, kind: int) -> None:
    first(proto).data_type = kind


def sized(proto: ModelProto, *dims: int, raw: bool = True) -> None:
    tensor = first(proto)
    del tensor.dims[:]
    tensor.dims.extend(dims)
    if not raw:
        tensor.ClearField("raw_data")


def input_sized(proto: ModelProto, axis: int, size: int) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = size


def with_ints(proto: ModelProto, name: str, *values: int) -> None:
    proto.graph.node[0].attribute.add(name=name, type=AttributeProto.INTS).ints.extend(values)


def external(proto: ModelProto, location: str, **entries: object) -> None:
    tensor = first(proto)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))


def made(proto: ModelProto, op: str, *operands: np.ndarray) -> None:
    """Add an operator's sum to the output; its operands are stored."""
    names = [f"operand{number}" for number in range(len(operands))]
    proto.graph.initializer.extend(map(numpy_helper.from_array, operands, names))
    proto.graph.node[-1].output[0] = "y0"
    proto.graph.node.extend(
        [
            helper.make_node(op, names, ["big"], name="maker"),
            helper.make_node("Cast", ["big"], ["float"], to=1),
            helper.make_node("ReduceSum", ["float"], ["sum"], keepdims=0),
            helper.make_node("Add", ["y0", "sum"], ["y"]),
        ]
    )


def with_axis(proto: ModelProto, op: str, axis: int) -> None:
    """Put an operator between the first convolution and what reads it."""
    proto.graph.node[1].input[0] = "between"
    proto.graph.node.insert(1, helper.make_node(op, ["p"], ["between"], axis=axis))


HUGE = 1 << 40
HOSTILE: dict[str, tuple[Callable[[ModelProto], object], str]] = {
    "type 999": (lambda m: typed(m, 999), "'w1' has element type 999"),
    "type -1": (lambda m: typed(m, -1), "'w1' has element type -1"),
    "type 0": (lambda m: typed(m, 0), "w1"),
    "huge size": (lambda m: sized(m, HUGE, 3, 1, 1), "'w1' holds 72 bytes, not [1099511627776, 3, 1, 1]"),
    "sizes beyond 64 bits": (lambda m: sized(m, 1 << 32, 1 << 32), "'w1' holds 72 bytes"),
    "huge size without data": (lambda m: sized(m, HUGE, 3, 1, 1, raw=False), "'w1' holds no [1099511627776"),
    "negative size": (lambda m: sized(m, -6, 3, 1, 1), "'w1' has a negative size"),
    "huge channels": (lambda m: input_sized(m, 1, HUGE), "input 'x' has the sizes"),
    "huge pictures": (lambda m: input_sized(m, 2, HUGE), "input 'x' has the sizes"),
    "input type": (
        lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 999),
        "input 'x' has element type",
    ),
    "huge pads": (lambda m: with_ints(m, "pads", *[HUGE] * 4), "value 'p'"),
    "huge kernel": (lambda m: with_ints(m, "kernel_shape", HUGE, HUGE), "value 'p'"),
    "huge constant": (lambda m: made(m, "ConstantOfShape", np.array([HUGE])), "node 'maker'"),
    "huge range": (lambda m: made(m, "Range", *(np.array(n) for n in (0, HUGE, 1))), "node 'maker'"),
    "huge expansion": (lambda m: made(m, "Expand", np.ones(1), np.array([1 << 20, 1 << 20])), "node 'maker'"),
    "axis beyond": (lambda m: with_axis(m, "Softmax", HUGE), "Softmax"),
    "axis before": (lambda m: with_axis(m, "Softmax", -HUGE), "Softmax"),
    "no operators": (lambda m: m.graph.node[0].ClearField("op_type"), "its first node has no operator"),
    "offset beyond": (lambda m: external(m, "w.bin", offset=2000), "'w1': external data file 'w.bin' is too short"),
    "offset negative": (lambda m: external(m, "w.bin", offset=-4), "offset -4"),
    "length negative": (lambda m: external(m, "w.bin", length=-4), "length -4"),
    "length huge": (lambda m: external(m, "w.bin", length=1 << 62), "too short"),
    "length short": (lambda m: external(m, "w.bin", length=8), "8 bytes of external data, [6, 3, 1, 1] take 72"),
    "offset no number": (lambda m: external(m, "w.bin", offset="x"), "is not a number"),
    "offset of many digits": (lambda m: external(m, "w.bin", offset="9" * 5000), "is not a number"),
    "NUL": (lambda m: external(m, "w\0.bin"), "'w1'"),
    "long name": (lambda m: external(m, "n" * 300), "'w1'"),
    "FIFO": (lambda m: external(m, "fifo"), "no regular file"),
    "device": (lambda m: external(m, "/dev/zero"), "outside the model's folder"),
    "link to a device": (lambda m: external(m, "zero"), "outside the model's folder"),
    "folder": (lambda m: external(m, "."), "no regular file"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_by_name(tmp_path: Path, name: str) -> None:
    damage, words = HOSTILE[name]
    proto = network(BODY)
    damage(proto)
    path = tmp_path / "net.onnx"
    path.write_bytes(proto.SerializeToString())
    (tmp_path / "w.bin").write_bytes(bytes(1000))
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    result = CliRunner().invoke(main, [str(path), "--no-latency"])
    assert result.exit_code == UNREADABLE, result.output
    assert words in result.stderr
    assert "unexpected" not in result.stderr and "out of memory" not in result.stderr


def test_more_nodes_than_can_be_processed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "MOST_NODES", 2)
    path = tmp_path / "net.onnx"
    path.write_bytes(network(BODY).SerializeToString())
    with pytest.raises(ModelError, match="3 nodes; at most 2"):
        read.load(path)
