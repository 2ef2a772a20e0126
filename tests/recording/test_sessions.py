"""``onnxprune.record``: every way in which a session is fed is seen, and what is written is read back as it was fed."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, helper
from onnxruntime.capi import onnxruntime_inference_collection as collection

import onnxprune
from onnxprune.data import input_specs, open_dataset
from onnxprune.data.dataset import Dataset
from onnxprune.errors import DataError, OutputError, UsageError

F, RNG = TensorProto.FLOAT, np.random.default_rng(0)


def model(shape: list, out: list, node: str = "Relu", kind: int = F, more: tuple = ()) -> ModelProto:
    """Return a model of one node that reads x (and, with ``more`` (name, type, shape), passes other inputs on)."""
    nodes = [helper.make_node(node, ["x"], ["y"], **({"perm": [1, 0, 2]} if node == "Transpose" else {}))]
    nodes += [helper.make_node("Identity", [name], [f"{name}_out"]) for name, _, _ in more]
    inputs = [helper.make_tensor_value_info("x", kind, shape), *(helper.make_tensor_value_info(*m) for m in more)]
    outputs = [helper.make_tensor_value_info("y", kind, out)]
    outputs += [helper.make_tensor_value_info(f"{name}_out", dtype, dims) for name, dtype, dims in more]
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def rows(count: int = 6, *shape: int) -> np.ndarray:
    return RNG.normal(size=(count, *(shape or (3,)))).astype(np.float32)


RELU = model(["N", 3], ["N", 3])


def read(folder: Path, proto: ModelProto) -> Dataset:
    (place,) = (path for path in folder.iterdir() if path.is_dir())
    return open_dataset(place, input_specs(proto))


def stacked(data: Dataset, name: str = "x") -> np.ndarray:
    """Return the rows that were read, sorted so that the order plays no part."""
    found = np.concatenate([feed[name] for feed in data.batches(1)])
    return ordered(found)


def ordered(array: np.ndarray) -> np.ndarray:
    return array[np.lexsort(array.reshape(len(array), -1).T)]


def listed(folder: Path) -> dict:
    (found,) = json.loads((folder / "recording.json").read_text())["models"]
    return found


# --- ways of feeding ------------------------------------------------------------------------------------------------


def by_run(session: ort.InferenceSession, x: np.ndarray) -> None:
    session.run(None, {"x": x})


def by_name(session: ort.InferenceSession, x: np.ndarray) -> None:
    session.run(input_feed={"x": x}, output_names=["y"])


def by_list(session: ort.InferenceSession, x: np.ndarray) -> None:
    session.run(None, {"x": x.tolist()})


def by_strided(session: ort.InferenceSession, x: np.ndarray) -> None:
    session.run(None, {"x": np.asfortranarray(x)})


def by_values(session: ort.InferenceSession, x: np.ndarray) -> None:
    session.run_with_ort_values(["y"], {"x": ort.OrtValue.ortvalue_from_numpy(x)})


def by_async(session: ort.InferenceSession, x: np.ndarray) -> None:
    done, fed = threading.Event(), x.copy()
    session.run_async(["y"], {"x": fed}, lambda results, event, problem: event.set(), done)
    assert done.wait(10)
    fed[:] = 0


def by_binding(session: ort.InferenceSession, x: np.ndarray) -> None:
    binding = session.io_binding()
    binding.bind_cpu_input("x", x)
    binding.bind_output("y")
    session.run_with_iobinding(binding)


def by_bound_value(session: ort.InferenceSession, x: np.ndarray) -> None:
    binding, value = session.io_binding(), ort.OrtValue.ortvalue_from_numpy(np.zeros_like(x))
    binding.bind_ortvalue_input("x", value)
    binding.bind_output("y")
    value.update_inplace(x)  # what it holds when it runs
    session.run_with_iobinding(binding)


def by_address(session: ort.InferenceSession, x: np.ndarray) -> None:
    binding = session.io_binding()
    binding.bind_input("x", "cpu", 0, np.float32, x.shape, x.ctypes.data)
    binding.bind_output("y")
    session.run_with_iobinding(binding)


def by_threads(session: ort.InferenceSession, x: np.ndarray) -> None:
    threads = [threading.Thread(target=session.run, args=(None, {"x": row[None]})) for row in x]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize(
    "feed",
    [by_run, by_name, by_list, by_strided, by_values, by_async, by_binding, by_bound_value, by_address, by_threads],
)
@pytest.mark.parametrize("early", [False, True])
def test_what_a_session_is_fed_is_read_back(tmp_path: Path, feed: object, early: bool) -> None:
    x, content = rows(), RELU.SerializeToString()
    session = ort.InferenceSession(content) if early else None
    with onnxprune.record(tmp_path / "calib", outputs=True) as found:
        feed(session or ort.InferenceSession(content), x)
    np.testing.assert_array_equal(stacked(read(tmp_path / "calib", RELU)), ordered(x))
    (kept,) = found[0].models
    assert (kept.kept, kept.seen, found[0].problems, kept.left_out) == (6, 6, (), {})
    place = tmp_path / "calib" / kept.folder
    with np.load(place / "inputs.npz") as inputs, np.load(place / "outputs" / "inputs.npz") as outputs:
        np.testing.assert_array_equal(outputs["y"], np.maximum(inputs["x"], 0))


def test_classes_are_as_they_were(tmp_path: Path) -> None:
    before = {name: dict(vars(getattr(collection, name))) for name in ("Session", "InferenceSession", "IOBinding")}
    with onnxprune.record(tmp_path / "calib"):
        assert vars(collection.Session)["run"] is not before["Session"]["run"]
        by_run(ort.InferenceSession(RELU.SerializeToString()), rows())
    assert {name: dict(vars(getattr(collection, name))) for name in before} == before


def test_a_subclass_and_two_recordings_at_once(tmp_path: Path) -> None:
    class Mine(ort.InferenceSession):
        def run(self, output_names: object, input_feed: object, run_options: object = None) -> object:
            return super().run(output_names, input_feed, run_options)

    x = rows()
    with onnxprune.record(tmp_path / "outer"):
        with onnxprune.record(tmp_path / "inner"):
            by_run(Mine(RELU.SerializeToString()), x[:4])
        by_run(Mine(RELU.SerializeToString()), x[4:])
    assert listed(tmp_path / "outer")["calls"] == 2
    np.testing.assert_array_equal(stacked(read(tmp_path / "inner", RELU)), ordered(x[:4]))
    np.testing.assert_array_equal(stacked(read(tmp_path / "outer", RELU)), ordered(x))


# --- forms of models ------------------------------------------------------------------------------------------------


def test_calls_that_are_one_sample_are_kept_whole(tmp_path: Path) -> None:
    proto = model(["N", 3], ["N", 3], more=(("rate", TensorProto.INT64, []),))
    session = ort.InferenceSession(proto.SerializeToString())
    fed = [{"x": rows(2 + call % 2), "rate": np.array(8000 * (call + 1))} for call in range(4)]
    with onnxprune.record(tmp_path / "calib"):
        for feed in fed:
            session.run(None, feed)
    got = {int(feed["rate"]): feed["x"] for feed in read(tmp_path / "calib", proto).batches()}
    assert got.keys() == {8000, 16000, 24000, 32000}
    for feed in fed:
        np.testing.assert_array_equal(got[int(feed["rate"])], feed["x"])


def test_samples_of_unlike_sizes_and_outputs_whose_samples_are_on_another_axis(tmp_path: Path) -> None:
    proto = model(["N", "T", 2], ["T", "N", 2], "Transpose")
    session = ort.InferenceSession(proto.SerializeToString())
    fed = [rows(2, 5, 2), rows(3, 4, 2), rows(1, 5, 2)]
    with onnxprune.record(tmp_path / "calib", outputs=True) as found:
        for x in fed:
            session.run(None, {"x": x})
    place = tmp_path / "calib" / found[0].models[0].folder
    seen = []
    for path in sorted(place.glob("*.npz")):
        with np.load(path) as inputs, np.load(place / "outputs" / path.name) as outputs:
            np.testing.assert_array_equal(inputs["x"], outputs["y"])
            seen.append(inputs["x"].shape)
    assert sorted(seen) == [(3, 4, 2), (3, 5, 2)]
    assert len(open_dataset(place, input_specs(proto))) == 6


def test_text_is_kept_without_pickle(tmp_path: Path) -> None:
    proto = model(["N"], ["N"], "Identity", TensorProto.STRING)
    session = ort.InferenceSession(proto.SerializeToString())
    with onnxprune.record(tmp_path / "calib"):
        session.run(None, {"x": np.array(["a", "longer"], object)})
        session.run(None, {"x": np.array(["more"], object)})
    found = [str(feed["x"][0]) for feed in read(tmp_path / "calib", proto).batches(1)]
    assert sorted(found) == ["a", "longer", "more"]


def test_two_models_of_one_name_have_two_folders_and_one_file_one(tmp_path: Path) -> None:
    other = model(["N", 4], ["N", 4])
    for number, proto in enumerate((RELU, other)):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "model.onnx").write_bytes(proto.SerializeToString())
    (tmp_path / "copy.onnx").write_bytes(RELU.SerializeToString())
    with onnxprune.record(tmp_path / "calib") as found:
        ort.InferenceSession(tmp_path / "0" / "model.onnx").run(None, {"x": rows()})
        ort.InferenceSession(str(tmp_path / "1" / "model.onnx")).run(None, {"x": rows(6, 4)})
        ort.InferenceSession(str(tmp_path / "copy.onnx")).run(None, {"x": rows(2)})
    assert [(m.name, m.kept) for m in sorted(found[0].models, key=lambda m: m.kept)] == [("model", 6), ("model", 8)]
    assert all(m.folder == f"model-{m.sha256[:12]}" for m in found[0].models)


def test_a_whole_recording_serves_each_of_its_models(tmp_path: Path) -> None:
    wide, two = model(["N", 4], ["N", 4]), model(["N", 3], ["N", 3], more=(("m", F, ["N", 2]),))
    with onnxprune.record(tmp_path / "calib"):
        for proto, feed in ((RELU, {"x": rows()}), (wide, {"x": rows(5, 4)}), (two, {"x": rows(4), "m": rows(4, 2)})):
            ort.InferenceSession(proto.SerializeToString()).run(None, feed)
    assert [len(open_dataset(tmp_path / "calib", input_specs(m))) for m in (RELU, wide, two)] == [6, 5, 4]
    with pytest.raises(DataError, match=r"none with the inputs 'x' float32\[N,9\]"):
        open_dataset(tmp_path / "calib", input_specs(model(["N", 9], ["N", 9])))
    with pytest.raises(DataError, match="2 models with these inputs"):
        open_dataset(tmp_path / "calib", input_specs(model(["N", "M"], ["N", "M"])))


def test_a_file_that_is_gone_is_named_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "gone.onnx"
    path.write_bytes(RELU.SerializeToString())
    session = ort.InferenceSession(path)
    path.unlink()
    with onnxprune.record(tmp_path / "calib") as found:
        by_run(session, rows())
    assert [(m.folder, m.kept, m.bytes) for m in found[0].models] == [("gone", 6, 0)]


# --- what is left out -----------------------------------------------------------------------------------------------


def test_what_is_no_sample_is_counted_and_never_written(tmp_path: Path) -> None:
    session, x = ort.InferenceSession(RELU.SerializeToString()), rows()
    bad = x.copy()
    bad[:2, 1] = np.nan, np.inf
    with onnxprune.record(tmp_path / "calib"):
        session.run(None, {"x": bad})
        with pytest.raises(Exception, match="x"):
            session.run(None, {"x": x[:, :2]})  # does not fit: never a call
        session.run(None, {"x": x[2:]})  # known
    np.testing.assert_array_equal(stacked(read(tmp_path / "calib", RELU)), ordered(x[2:]))
    found = listed(tmp_path / "calib")
    assert (found["calls"], found["seen"], found["left_out"]) == (2, 10, {"NaN or infinity in an input": 2})


def test_limits_hold_and_a_seed_gives_equal_bytes(tmp_path: Path) -> None:
    session, x = ort.InferenceSession(RELU.SerializeToString()), rows(200)
    for name in ("one", "two"):
        with onnxprune.record(tmp_path / name, samples=20, seed=3):
            session.run(None, {"x": x if name == "one" else x[::-1]})
    one, two = (next((tmp_path / name).glob("*/inputs.npz")).read_bytes() for name in ("one", "two"))
    assert one == two
    assert listed(tmp_path / "one")["kept"] == 20
    with onnxprune.record(tmp_path / "few", max_bytes=2000):
        session.run(None, {"x": x})
    assert 10 <= listed(tmp_path / "few")["kept"] <= 2000 // 12  # of 12 bytes each, and what says what they are


def test_a_failing_recorder_never_reaches_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    session, x = ort.InferenceSession(RELU.SerializeToString()), rows()
    with onnxprune.record(tmp_path / "calib") as found:
        session.run(None, {"x": x[:1]})
        monkeypatch.setattr("onnxprune.recording.inside.reservoir.write_sample", full)
        (result,) = session.run(None, {"x": x[1:]})
    np.testing.assert_array_equal(result, np.maximum(x[1:], 0))
    assert found[0].models[0].kept == 1
    assert found[0].problems == ("OSError: [Errno 28] No space left on device",)


def test_an_exception_in_the_block_leaves_what_was_recorded(tmp_path: Path) -> None:
    with pytest.raises(KeyError), onnxprune.record(tmp_path / "calib"):
        by_run(ort.InferenceSession(RELU.SerializeToString()), rows())
        raise KeyError
    assert listed(tmp_path / "calib")["kept"] == 6
    with pytest.raises(KeyError), onnxprune.record(tmp_path / "none"):
        raise KeyError
    assert sorted(path.name for path in tmp_path.iterdir()) == ["calib"]


def test_nothing_recorded_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="opened no session"), onnxprune.record(tmp_path / "calib"):
        pass
    session = ort.InferenceSession(RELU.SerializeToString())
    binding = session.io_binding()
    binding.bind_cpu_input("x", rows())
    binding.bind_output("y")
    with pytest.raises(DataError, match="bound before the recording began"), onnxprune.record(tmp_path / "calib"):
        session.run_with_iobinding(binding)
    assert list(tmp_path.iterdir()) == []


# --- where it goes --------------------------------------------------------------------------------------------------


def test_a_recording_replaces_nothing_but_a_recording(tmp_path: Path) -> None:
    def record(place: Path, **options: bool) -> None:
        with onnxprune.record(place, **options):
            by_run(ort.InferenceSession(RELU.SerializeToString()), rows())

    (tmp_path / "empty").mkdir()
    record(tmp_path / "empty")
    with pytest.raises(UsageError, match="earlier recording; add --force"):
        record(tmp_path / "empty")
    record(tmp_path / "empty", force=True)
    (tmp_path / "empty" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for place, words in (("empty", r"something else \(notes.txt\)"), ("file", "is no folder"), ("no/where", "create")):
        with pytest.raises((UsageError, OutputError), match=words):
            record(tmp_path / place, force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]


def test_two_at_once_and_what_a_killed_one_left(tmp_path: Path) -> None:
    left = tmp_path / ".calib.recording"
    (left / "pool" / "half").mkdir(parents=True)
    (left / "replaced").mkdir()
    (left / "replaced" / "recording.json").write_text('{"models": []}')
    with onnxprune.record(tmp_path / "calib", force=True):
        assert (tmp_path / "calib" / "recording.json").exists(), "the killed one had moved it away"
        with (
            pytest.raises(UsageError, match="recorded into by another run"),
            onnxprune.record(tmp_path / "calib", force=True),
        ):
            pass
        by_run(ort.InferenceSession(RELU.SerializeToString()), rows())
    assert [path.name for path in tmp_path.iterdir()] == ["calib"]
    assert listed(tmp_path / "calib")["kept"] == 6
