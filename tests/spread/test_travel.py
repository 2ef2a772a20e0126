"""What is sent to other processes: models and data that lie in files go as their place there, everything else by value."""

from __future__ import annotations

from pathlib import Path

import cloudpickle
import numpy as np
import pytest
from onnx import ModelProto, save
from support.networks import network

import onnxprune
from onnxprune.data import Dataset, TextOptions, input_specs, open_dataset
from onnxprune.data import openings as files
from onnxprune.errors import DataError, ModelError, UsageError
from onnxprune.model import read
from onnxprune.model.runtime import session
from onnxprune.spread import machine, sent
from onnxprune.spread.machine import doubts_about, other_processor, other_versions, this_machine

NET = "h = MatMul(x, %40x600); a = Relu(h); y = MatMul(a, %600x4)"


def net(seed: int = 0) -> ModelProto:
    return network(NET, "float[n,40] x", "float[n,4] y", seed=seed)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save(net(), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


@pytest.fixture(autouse=True)
def another_process() -> None:
    """Forget what this process has read, as if it were another one."""
    read._opened_elsewhere.cache_clear()


def sent_and_back(value):
    return cloudpickle.loads(cloudpickle.dumps(value))


def rows(path: Path, count: int = 50, **how) -> Dataset:
    values = np.random.default_rng(0).standard_normal((count, 40)).astype(np.float32)
    np.savez(path / "x.npz", x=values, labels=np.arange(count))
    return open_dataset(path / "x.npz", input_specs(net()), **how)


# --- models and sessions --------------------------------------------------------------------------------------------


def test_a_session_is_opened_again_from_the_models_file(model: Path) -> None:
    loaded = read.load(model)
    small = cloudpickle.dumps(loaded)
    assert len(small) < model.stat().st_size / 10
    x = np.ones((2, 40), np.float32)
    again = sent_and_back(session(loaded, threads=1))
    np.testing.assert_array_equal(again.run({"x": x})["y"], session(model).run({"x": x})["y"])


def test_what_was_changed_goes_by_value_and_a_cut_as_what_stays(model: Path) -> None:
    loaded = read.load(model)
    names = list(loaded.weights)
    other = loaded.replaced({names[1]: np.ones((600, 4), np.float32)})
    assert model.stat().st_size / 20 < len(cloudpickle.dumps(other)) < model.stat().st_size / 5
    assert (sent_and_back(other).weights[names[1]].read() == 1).all()
    part = loaded.weights[names[0]].sliced({1: np.arange(600) % 2 == 0})
    part.read()
    assert len(cloudpickle.dumps(part)) < 2000
    np.testing.assert_array_equal(sent_and_back(part).read(), part.read())


def test_a_worker_that_finds_another_model_says_so(model: Path) -> None:
    content = cloudpickle.dumps(read.load(model))
    save(net(seed=1), model)
    with pytest.raises(ModelError, match=r"net.onnx is another model on .* copy the same file there"):
        cloudpickle.loads(content)
    model.unlink()
    with pytest.raises(ModelError, match=r"net.onnx does not exist on .* by the same path"):
        cloudpickle.loads(content)


def test_a_model_that_lies_in_no_file_goes_by_value() -> None:
    analysis = sent_and_back(onnxprune.analyze(net()))
    assert [group.width for group in analysis.groups] == [600]


# --- data -----------------------------------------------------------------------------------------------------------


def test_data_in_files_is_opened_again(tmp_path: Path) -> None:
    for dataset in (rows(tmp_path), rows(tmp_path).rows(7, 31), rows(tmp_path, samples=20, seed=3).split(0.5)[0]):
        content = cloudpickle.dumps(dataset)
        assert len(content) < 6000
        again = cloudpickle.loads(content)
        assert (again.digest(), len(again)) == (dataset.digest(), len(dataset))
        np.testing.assert_array_equal(again.labels, dataset.labels)


def test_labels_and_tokenizers_belong_to_the_data(tmp_path: Path) -> None:
    rows(tmp_path)
    np.save(tmp_path / "l.npy", np.arange(50))
    np.savez(tmp_path / "z.npz", x=np.ones((50, 40), np.float32))
    labelled = open_dataset(tmp_path / "z.npz", input_specs(net()), labels=tmp_path / "l.npy")
    content = cloudpickle.dumps(labelled)
    np.testing.assert_array_equal(cloudpickle.loads(content).labels, np.arange(50))
    np.save(tmp_path / "l.npy", np.zeros(50, np.int64))
    with pytest.raises(DataError, match="holds other data"):
        cloudpickle.loads(content)
    opening = files.Opening.of("a", labelled.schema, "l.npy", None, {"text": TextOptions("t.json")})
    assert opening is not None and [path.name for path in opening.paths] == ["a", "l.npy", "t.json"]
    assert all(path.is_absolute() for path in opening.paths)


def test_a_worker_that_finds_other_data_says_so(tmp_path: Path) -> None:
    content = cloudpickle.dumps(rows(tmp_path))
    np.savez(tmp_path / "x.npz", x=np.ones((50, 40), np.float32))
    with pytest.raises(DataError, match=r"x.npz holds other data on .* copy the same files there"):
        cloudpickle.loads(content)
    (tmp_path / "x.npz").unlink()
    with pytest.raises(DataError, match=r"x.npz does not exist on .* by the same path"):
        cloudpickle.loads(content)


def test_a_folder_is_told_by_its_names_and_contents(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    for number in range(3):
        np.save(folder / f"{number}.npy", np.full((5, 40), number, np.float32))
    content = cloudpickle.dumps(open_dataset(folder, input_specs(net())))
    assert len(cloudpickle.loads(content)) == 15
    (folder / "2.npy").rename(folder / "3.npy")
    with pytest.raises(DataError, match="holds other data"):
        cloudpickle.loads(content)


def test_of_large_files_pieces_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "WHOLE", 1000)
    monkeypatch.setattr(files, "PIECE", 64)
    dataset = rows(tmp_path, 500)
    content = cloudpickle.dumps(dataset)
    assert len(cloudpickle.loads(content)) == 500
    whole = (tmp_path / "x.npz").read_bytes()
    for place in (0, len(whole) - 1):
        (tmp_path / "x.npz").write_bytes(whole[:place] + b"!" + whole[place + 1 :])
        with pytest.raises(DataError, match="holds other data"):
            cloudpickle.loads(content)
    pieces = files._pieces([10, 0, 3000, 5])
    assert [sum(size for _, size in each or ()) // 64 for each in pieces] == [1, 0, 62, 1]


def test_values_go_along() -> None:
    values = np.arange(400, dtype=np.float32).reshape(10, 40)
    again = sent_and_back(open_dataset({"x": values}, input_specs(net())))
    np.testing.assert_array_equal(next(again.batches())["x"], values)


def test_what_cannot_be_sent_is_told() -> None:
    lines = (line for line in [np.ones((2, 40), np.float32)])
    with pytest.raises(UsageError, match=r"--spread sends the data .*generator.* Give data in files"):
        sent.Sent.of(lambda item: next(lines))


# --- machines -------------------------------------------------------------------------------------------------------


def doubled(item: int) -> int:
    return 2 * item


def test_a_worker_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    work = sent.Sent.of(doubled)
    assert sent.deliver(work, 4).result == 8
    monkeypatch.setattr(sent, "this_machine", lambda: this_machine() | {"numpy": "0.1"})
    with pytest.raises(UsageError, match=r"numpy 0.1 against .*install the same versions on all workers"):
        sent.deliver(work, 4)


def test_a_worker_with_another_processor_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    work = sent.Sent.of(doubled)
    assert sent.deliver(work, 4).doubts == set()
    monkeypatch.setattr(sent, "this_machine", lambda: this_machine() | {"cpu": [*this_machine()["cpu"], "avx9000"]})
    assert sent.deliver(work, 4).doubts == {"avx9000"}


def test_machines_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "CPU_INFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text("processor : 0\nflags\t\t: fpu avx2 avx512f sse4_2 vme\nflags\t\t: other\n")
    assert machine._flags() == {"avx2", "avx512f", "sse4_2"}
    here = {"cpu": ["x", "avx2"], "numpy": "2.0", "onnxruntime": "1.2", "onnxprune": "1"}
    there = here | {"cpu": ["x"], "numpy": "2.1"}
    assert (other_processor(here, there), other_versions(here, there)) == ("avx2", "numpy 2.1 against 2.0")
    assert len(doubts_about([here, there, there])) == 2 and doubts_about([here, here]) == []


def test_work_is_unpacked_once_in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = cloudpickle.loads
    monkeypatch.setattr(cloudpickle, "loads", lambda content: (calls.append(1), real(content))[1])
    work = sent.Sent.of(lambda item: item + 0.125)
    assert [sent.deliver(work, item).result for item in range(5)] == [item + 0.125 for item in range(5)]
    assert len(calls) == 1
