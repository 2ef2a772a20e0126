"""Large files: weights stay where they are, digests are read when asked for, sums beyond memory lie in files."""

from __future__ import annotations

import errno
import gc
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from support.networks import network

import onnxprune
from onnxprune import api
from onnxprune.errors import ModelError, OutputError, UsageError
from onnxprune.model import digests, read, scratch, thin
from onnxprune.model.digests import FileDigest
from onnxprune.model.facts import gather_facts
from onnxprune.model.graph import Graph
from onnxprune.model.pipeline import made_ahead
from onnxprune.model.segmented import memory_allowed
from onnxprune.model.write import save

NET = "a = Conv(x, %64x3x3x3); r = Relu(a); y = Conv(r, %8x64x3x3)"


@pytest.fixture
def thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "FROM", 1)
    monkeypatch.setattr(thin, "LARGE", 512)


def written(tmp_path: Path) -> Path:
    onnx.save(network(NET, "float[2,3,9,9] x"), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


# --- one file -------------------------------------------------------------------------------------------------------


def test_weights_of_a_large_file_stay_in_it(thinned: None, tmp_path: Path) -> None:
    path = written(tmp_path)
    whole, model = onnx.load(path), read.load(path)
    inside = [tensor for tensor in model.weights.values() if tensor.region is not None]
    assert [tensor.region[0] for tensor in inside] == [path.resolve()] * 2
    assert not any(tensor.external for tensor in model.weights.values())
    for tensor in whole.graph.initializer:
        np.testing.assert_array_equal(model.weights[tensor.name].read(), onnx.numpy_helper.to_array(tensor))
    assert model.size == path.stat().st_size and not model.data


def test_a_large_file_is_pruned_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path)
    options = {"ratio": 0.5, "criterion": "l2", "latency": False}
    usual = onnxprune.prune(path, output=tmp_path / "usual.onnx", **options).report
    monkeypatch.setattr(read, "FROM", 1)
    monkeypatch.setattr(thin, "LARGE", 512)
    again = onnxprune.prune(path, output=tmp_path / "again.onnx", **options).report
    assert (tmp_path / "usual.onnx").read_bytes() == (tmp_path / "again.onnx").read_bytes()
    assert usual["model"] == again["model"]


def test_a_large_file_is_not_written_over_while_it_is_read(thinned: None, tmp_path: Path) -> None:
    path = written(tmp_path)
    with pytest.raises(UsageError, match="holds weights of the model"):
        save(read.load(path), path, force=True)


@pytest.mark.parametrize("cut", [1, 100, 3000])
def test_a_large_file_that_is_cut_off_is_refused_as_any(thinned: None, tmp_path: Path, cut: int) -> None:
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ModelError, match="truncated"):
        read.load(path)


def test_bytes_that_are_no_message_are_read_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "noise.onnx"
    for seed in range(200):
        path.write_bytes(np.random.default_rng(seed).bytes(300))
        assert thin.thin(path) is None or isinstance(thin.thin(path), bytes)


# --- digests --------------------------------------------------------------------------------------------------------


def test_the_digest_of_large_data_is_read_when_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "LARGE", 10)
    data = tmp_path / "data.bin"
    data.write_bytes(bytes(100))
    late, known = FileDigest(b"head", [data]), FileDigest(b"head" + bytes(100)).value
    assert late.large and late._known == ""
    late.begin()
    assert late.value == known
    changed = FileDigest(b"head", [data])
    data.write_bytes(bytes(101))
    with pytest.raises(ModelError, match="changed since the model was read"):
        _ = changed.value


def test_inspect_reads_no_large_data_for_a_digest_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "LARGE", 10)
    onnx.save(network(NET, "float[2,3,9,9] x"), tmp_path / "net.onnx", save_as_external_data=True, size_threshold=64)
    assert api.inspect(tmp_path / "net.onnx")["model"]["sha256"] is None
    report = onnxprune.prune(tmp_path / "net.onnx", ratio=0.5, latency=False).report
    assert report["model"]["sha256"] == read.load(tmp_path / "net.onnx").source_sha256


# --- operators without inference --------------------------------------------------------------------------------------


def test_an_operator_without_inference_is_run_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(
        "a = MatMul(x, %3x6); b = com.microsoft.FusedGemm<activation=\"Relu\">(a, %6x5, %5); y = MatMul(b, %5x2)",
        "float[4,3] x", "float[4,2] y", domains={"com.microsoft": 1},
    )  # fmt: skip
    monkeypatch.setattr("onnxprune.model.runtime.observe_shapes", lambda *_: pytest.fail("the whole model was run"))
    loaded = read.load(model)
    facts = gather_facts(loaded, Graph(loaded.structure))
    assert facts.shape("b") == (4, 5) and facts.dtype("b") == 1


# --- sums beyond memory -----------------------------------------------------------------------------------------------


def test_sums_beyond_what_memory_holds_lie_in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "SMALLEST", 100)
    token, before = memory_allowed.set(8 * 1024), scratch._held[0]
    try:
        first = scratch.zeros((200,))
        second = scratch.kept(np.arange(200.0))
        assert type(first) is np.ndarray and isinstance(second, np.memmap)
        np.testing.assert_array_equal(second, np.arange(200.0))
        del first
        gc.collect()
        assert scratch._held[0] == before
        assert type(scratch.zeros((200,))) is np.ndarray
        assert type(scratch.zeros((2,))) is np.ndarray
    finally:
        memory_allowed.reset(token)


def test_many_arrays_share_a_file_that_goes_with_the_last_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a model of a thousand layers runs out of handles."""
    monkeypatch.setattr(scratch, "SMALLEST", 100)
    token, before = memory_allowed.set(0), len(scratch._mapped)
    try:
        arrays = [scratch.kept(np.full(50, float(number))) for number in range(100)]
        assert len(scratch._mapped) == before + 1
        assert all((array == number).all() for number, array in enumerate(arrays))
        assert not scratch.zeros((50,)).any()
        last = arrays.pop()
        del arrays
        gc.collect()
        assert len(scratch._mapped) == before + 1 and (last == 99).all()
        del last
        gc.collect()
        assert len(scratch._mapped) == before
        assert not scratch.zeros((50,)).any()
        monkeypatch.setattr(scratch, "FILE", 1)
        larger = [scratch.kept(np.full(size, 1.0)) for size in (50, 5000, 50)]
        assert [array.sum() for array in larger] == [50, 5000, 50]
    finally:
        memory_allowed.reset(token)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="where the system keeps room for a file")
def test_a_full_disk_is_told_before_anything_is_written_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    token = memory_allowed.set(0)
    try:
        with pytest.raises(OutputError, match=r"no room for 0\.3 GB of sums .* set TMPDIR to another one"):
            scratch.zeros((1 << 20,))
    finally:
        memory_allowed.reset(token)


def test_items_made_ahead_come_in_order_and_with_their_errors() -> None:
    assert list(made_ahead(range(100))) == list(range(100))

    def failing():
        yield 1
        raise ModelError("here")

    items = made_ahead(failing())
    assert next(items) == 1
    with pytest.raises(ModelError, match="here"):
        next(items)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="what is resident is told by Linux")
def test_what_lies_in_files_is_not_resident_once_it_is_let_go() -> None:
    def resident() -> int:
        return (
            next(int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith("RssFile")) >> 10
        )

    token = memory_allowed.set(1 << 26)
    try:
        held = [scratch.kept(np.full((8 << 20,), number, np.float32)) for number in range(3)]
        assert all(isinstance(array, np.memmap) for array in held)
        assert [float(array.sum()) for array in held] == [0.0, float(8 << 20), float(2 << 23)]
        before = resident()
        scratch.let_pages_go()
        assert before - resident() >= 90  # MiB
        assert [float(array[-1]) for array in held] == [0.0, 1.0, 2.0]
    finally:
        memory_allowed.reset(token)
