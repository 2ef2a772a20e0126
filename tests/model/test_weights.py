"""Weights beside a structure: what a view says, what is read and when, and that the bytes written are those of one message."""

from __future__ import annotations

import hashlib
import tracemalloc
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from support.networks import network

from onnxprune.errors import ModelError
from onnxprune.model import read, weights
from onnxprune.model.model import Model
from onnxprune.model.runtime import session
from onnxprune.model.weights import Tensor, stored_tensor
from onnxprune.model.wire import Wire
from onnxprune.model.write import save, stored_bytes

ELEMENTS = [kind for kind in TensorProto.DataType.values() if kind not in (TensorProto.UNDEFINED, TensorProto.STRING)]
NAMES = [TensorProto.DataType.Name(kind) for kind in ELEMENTS]
SHAPES = [(5, 3, 7), (1, 9, 2), (17,), (1, 1), (4, 0, 3), ()]
MASKS = {
    (5, 3, 7): [
        {0: [1, 0, 1, 1, 0]},
        {1: [0, 1, 1], 2: [1, 0, 0, 1, 1, 1, 0]},
        {0: [0] * 5},
        {0: [1] * 5, 1: [1, 0, 0]},
    ],
    (1, 9, 2): [{1: [1, 0, 0, 0, 1, 0, 0, 1, 1]}, {0: [1], 2: [0, 1]}, {0: [0]}],
    (17,): [{0: [1, 1, 1] + [0] * 13 + [1]}],
    (1, 1): [{0: [1]}, {1: [0]}],
    (4, 0, 3): [{0: [1, 0, 1, 0]}],
    (): [{}],
}


def content(kind: int, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers that every element type of a few bits has, the same every time."""
    drawn = np.random.default_rng(len(shape)).integers(0, 2, shape)
    return drawn.astype(helper.tensor_dtype_to_np_dtype(kind))


def as_bytes(array: np.ndarray) -> bytes:
    return numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape)).raw_data


def masked(array: np.ndarray, masks: dict[int, np.ndarray]) -> np.ndarray:
    for axis, mask in masks.items():
        array = np.compress(mask, array, axis)
    return array


def in_places(kind: int, shape: tuple[int, ...], folder: Path) -> dict[str, Tensor]:
    """One tensor in memory, in a data file behind something else, and given as an array."""
    message = numpy_helper.from_array(content(kind, shape), "t")
    (folder / "t.data").write_bytes(b"head" * 4 + message.raw_data + b"tail")
    outside = TensorProto(name="t", data_type=kind, dims=shape, data_location=TensorProto.EXTERNAL)
    region = (folder / "t.data", 16, len(message.raw_data))
    given = weights.Weights().replaced({"t": content(kind, shape)})["t"]
    return {"inside": stored_tensor(message), "outside": stored_tensor(outside, region), "given": given}


@pytest.fixture(params=[1, 5, 1 << 20])
def few_elements(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of few elements, so that tensors have several."""
    monkeypatch.setattr(weights, "ELEMENTS", request.param * weights.TOGETHER)
    monkeypatch.setattr(weights, "CHUNK", request.param)


# --- laws -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ELEMENTS, ids=NAMES)
def test_blocks_are_what_is_read(kind: int, tmp_path: Path, few_elements: None) -> None:
    for shape in SHAPES:
        for place, tensor in in_places(kind, shape, tmp_path).items():
            array = tensor.read()
            assert (array.shape, tensor.shape, tensor.dtype) == (shape, shape, kind), place
            assert array.tobytes() == content(kind, shape).tobytes(), place
            assert b"".join(tensor.blocks()) == as_bytes(content(kind, shape)), place
            assert tensor.nbytes == len(as_bytes(content(kind, shape))), place
            assert tensor.external == (place == "outside")


@pytest.mark.parametrize("kind", ELEMENTS, ids=NAMES)
def test_what_is_sliced_and_read_is_what_is_read_and_sliced(kind: int, tmp_path: Path, few_elements: None) -> None:
    for shape, tensors in ((shape, in_places(kind, shape, tmp_path)) for shape in SHAPES):
        for listed, (place, tensor) in product(MASKS[shape], tensors.items()):
            masks = {axis: np.array(flags, bool) for axis, flags in listed.items()}
            want, view = masked(content(kind, shape), masks), tensor.sliced(masks)
            assert view.shape == want.shape and view.read().tobytes() == want.tobytes(), (shape, listed, place)
            assert b"".join(view.blocks()) == as_bytes(want) and view.nbytes == len(as_bytes(want))
            assert not (masks and view.external)


def test_a_view_of_a_view_is_one_view() -> None:
    tensor = weights.Weights().replaced({"t": np.arange(60, dtype=np.float32).reshape(5, 3, 4)})["t"]
    first, second = (
        {0: np.array([1, 0, 1, 1, 0], bool)},
        {0: np.array([0, 1, 1], bool), 2: np.array([1, 0, 0, 1], bool)},
    )
    once, twice = tensor.sliced(first).sliced(second), masked(masked(tensor.read(), first), second)
    np.testing.assert_array_equal(once.read(), twice)
    assert once.source is tensor


def test_a_view_is_read_once_for_all_who_hold_it_together() -> None:
    tensor = weights.Weights().replaced({"t": np.arange(6, dtype=np.float32)})["t"].sliced({0: np.arange(6) > 2})
    held = tensor.read()
    assert tensor.read() is held
    with pytest.raises(ValueError, match="read-only"):
        held[0] = 1


def test_lists_of_numbers_and_strings_stay_what_they_are() -> None:
    numbers = helper.make_tensor("n", TensorProto.FLOAT16, [4], np.arange(4, dtype=np.float16))
    texts = helper.make_tensor("s", TensorProto.STRING, [2], [b"one", b"two"])
    for message in (numbers, texts):
        tensor = stored_tensor(message)
        assert not tensor.raw and not tensor.external
        again = TensorProto(name=message.name, data_type=message.data_type, dims=message.dims)
        tensor.fill(again)
        assert again == message
        np.testing.assert_array_equal(tensor.read(), numpy_helper.to_array(message))
    assert b"".join(stored_tensor(numbers).blocks()) == np.arange(4, dtype=np.float16).tobytes()
    assert not list(stored_tensor(texts).blocks())
    kept = stored_tensor(numbers).sliced({0: np.array([1, 0, 0, 1], bool)})
    assert kept.raw and kept.read().tolist() == [0, 3]


def test_replaced_tensors_are_new_and_the_others_the_same() -> None:
    old = weights.Weights().replaced({"a": np.zeros(3, np.float32), "b": np.ones(2, np.int64)})
    new = old.replaced({"a": np.full((2, 2), 5, np.float16), "c": np.array(7.0)})
    assert (new["a"].dtype, new["a"].shape, list(new)) == (TensorProto.FLOAT16, (2, 2), ["a", "b", "c"])
    assert new["b"] is old["b"] and old["a"].shape == (3,) and new["c"].read().shape == ()


# --- nothing is read before it is asked for -------------------------------------------------------------------------


def test_nothing_is_read_before_somebody_asks(tmp_path: Path) -> None:
    tensor = in_places(TensorProto.FLOAT, (5, 3, 7), tmp_path)["outside"]
    view = tensor.sliced({1: np.array([1, 0, 1], bool)})
    (tmp_path / "t.data").unlink()
    assert (view.shape, view.nbytes) == ((5, 2, 7), 4 * 5 * 2 * 7)
    with pytest.raises(ModelError, match="tensor 't' cannot be read"):
        view.read()


def test_a_cut_of_external_data_reads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only sizes and other small tensors are looked at while a model is analysed and cut."""
    import onnxprune
    from onnxprune.coupling.cut import cut

    path = outside(
        tmp_path, "w1 = %64x96; a = MatMul(x, w1); b = Relu(a); w2 = %96x80; y = MatMul(b, w2)", "float[2,64] x"
    )
    analysis = onnxprune.analyze(path)
    monkeypatch.setattr(np, "memmap", None)
    monkeypatch.setattr(weights, "copy_checked", None)
    small = cut(analysis, [np.arange(group.width) % 2 == 0 for group in analysis.groups])
    assert {name: tensor.shape for name, tensor in small.weights.items()} == {"w1": (64, 48), "w2": (48, 80)}


# --- models ---------------------------------------------------------------------------------------------------------

TEXT = (
    "w1 = %16x3x3x3; a = Conv(x, w1, %16); b = Relu(a); s = Mul(b, @2.0); w2 = %600x16x1x1:float16; "
    "h = Cast<to=10>(s); c = Conv(h, w2); y = Cast<to=1>(c)"
)


def outside(folder: Path, text: str = TEXT, inputs: str = "float[1,3,8,8] x") -> Path:
    path = folder / "net.onnx"
    onnx.save(network(text, inputs), path, save_as_external_data=True, location="net.data", size_threshold=0)
    return path


def written(model: ModelProto) -> ModelProto:
    """A model with all that a message may say: declared weights, notes, lists of numbers, types of a few bits."""
    for tensor in model.graph.initializer:
        tensor.doc_string = f"about {tensor.name}"
        tensor.data_location = TensorProto.DEFAULT
        tensor.metadata_props.add(key="who", value="me")
    model.graph.initializer.extend(numpy_helper.from_array(content(kind, (7, 300)), f"{kind}") for kind in ELEMENTS)
    model.graph.initializer.append(helper.make_tensor("listed", TensorProto.FLOAT, [3], [1.0, 2.0, 3.0]))
    model.graph.initializer.append(helper.make_tensor("texts", TensorProto.STRING, [1], [b"text"]))
    model.graph.doc_string, model.doc_string = "a graph", "a model"
    model.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, [1, 16, 6, 6]))
    model.metadata_props.add(key="key", value="value" * 100)
    return model


def test_the_message_is_written_as_protobuf_writes_it(few_elements: None) -> None:
    proto = written(network(TEXT))
    wire = Wire(Model.of(proto))
    expected = proto.SerializeToString(deterministic=True)
    assert b"".join(wire.blocks()) == expected
    assert wire.size == len(expected)
    assert Model.of(proto).proto == proto


@pytest.mark.parametrize("external", [False, True])
def test_written_files_are_those_of_the_message(tmp_path: Path, external: bool, few_elements: None) -> None:
    proto = written(network(TEXT))
    digest = save(proto, tmp_path / "net.onnx", external=external)
    loaded = read.load(tmp_path / "net.onnx")
    assert loaded.source_sha256 == digest and loaded.identity == Model.of(loaded.proto, loaded.path).identity
    for tensor in proto.graph.initializer:
        assert str(loaded.weights[tensor.name].read()) == str(numpy_helper.to_array(tensor))
    if not external:
        assert (tmp_path / "net.onnx").read_bytes() == proto.SerializeToString(deterministic=True)
        assert stored_bytes(loaded, tmp_path / "net.onnx") == loaded.size


def test_models_that_come_from_one_another_share_their_tensors() -> None:
    model = Model.of(network(TEXT))
    structure = model.draft()
    del structure.graph.initializer[1]
    structure.graph.initializer[0].name = "renamed"
    structure.graph.initializer.append(numpy_helper.from_array(np.arange(3), "added"))
    other = model.derived(structure)
    assert other.weights["renamed"] is model.weights[model.structure.graph.initializer[0].name]
    assert other.weights["added"].read().tolist() == [0, 1, 2]
    assert set(other.weights) == {header.name for header in other.structure.graph.initializer}
    assert all(tensor.data_location == TensorProto.EXTERNAL for tensor in other.structure.graph.initializer)
    assert other.derived(other.draft()).identity == other.identity != model.identity


def test_what_is_run_and_what_was_read_are_two_things(tmp_path: Path) -> None:
    save(network(TEXT), tmp_path / "net.onnx")
    model = read.load(tmp_path / "net.onnx")
    assert model.source_sha256 == hashlib.sha256((tmp_path / "net.onnx").read_bytes()).hexdigest() != model.identity
    moved = model.replaced({"w1": model.weights["w1"].read() + 1})
    assert moved.source_sha256 == model.source_sha256 and moved.identity != model.identity
    assert moved.replaced({"w1": model.weights["w1"].read()}).identity == model.identity


def test_views_and_external_tensors_are_lent(tmp_path: Path) -> None:
    path = outside(tmp_path, "w = %300x400; y = MatMul(x, w)", "float[2,300] x")
    loaded, feed = read.load(path), {"x": np.ones((2, 300), np.float32)}
    want = loaded.weights["w"].read()[:, ::2].sum(0)
    masks = {"w": {1: np.arange(400) % 2 == 0}}
    structure = loaded.draft()
    structure.graph.initializer[0].dims[:] = [300, 200]
    del structure.graph.output[0].type.tensor_type.shape.dim[:]
    structure.graph.output[0].type.tensor_type.ClearField("shape")
    half = Model(structure, loaded.weights.sliced(masks), loaded.path)
    np.testing.assert_allclose(session(half).run(feed)["y"][0], want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("external", [False, True])
def test_a_cut_is_written_block_by_block(tmp_path: Path, external: bool) -> None:
    """A cut of 64 MiB beside the file: what is alive while it is written is a few blocks of 4 MiB, not the 32 MiB that are written."""
    import onnxprune
    from onnxprune.coupling.cut import cut

    model = network(
        "w1 = %1x1; a = MatMul(x, w1); b = Relu(a); w2 = %1x1; y = MatMul(b, w2)", "float[1,2048] x", "float[1,2048] y"
    )
    for tensor, shape in zip(model.graph.initializer, ((2048, 4096), (4096, 2048)), strict=True):
        tensor.CopyFrom(numpy_helper.from_array(np.ones(shape, np.float32), tensor.name))
    onnx.save(model, tmp_path / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=0)
    del model
    analysis = onnxprune.analyze(tmp_path / "net.onnx")
    small = cut(analysis, [np.arange(group.width) % 2 == 0 for group in analysis.groups])
    tracemalloc.start()
    save(small, tmp_path / "small.onnx", external=external)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * (4 << 20)
    assert (
        read.load(tmp_path / "small.onnx").weights["w2"].read().tobytes() == np.ones((2048, 2048), np.float32).tobytes()
    )
