"""Calibration data: every source gives the same rows, bounded and repeatable, or an error that says what to do."""

from __future__ import annotations

import os
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from onnxprune.data import (
    Dataset,
    ImageOptions,
    InputSpec,
    input_specs,
    open_dataset,
    random_dataset,
    shared_rows,
)
from onnxprune.data.inputs import Schema
from onnxprune.data.repeated import Batches
from onnxprune.errors import DataError, ModelError, UsageError

F32 = np.dtype(np.float32)
ONE = (InputSpec("features", F32, ("n", 3)),)
TWO = (InputSpec("ids", np.dtype(np.int64), ("n", "s")), InputSpec("mask", np.dtype(bool), ("n", "s")))
FIXED = (InputSpec("features", F32, (4, 3)),)
NCHW = (InputSpec("image", F32, ("n", 3, 2, 2)),)


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3)).astype(np.float32)


def gather(dataset: Dataset, batch: int | None = None) -> np.ndarray:
    return np.concatenate([inputs[dataset.specs[0].name] for inputs in dataset.batches(batch)])


def script(folder: Path, body: str) -> Path:
    path = folder / "loader.py"
    path.write_text("import numpy as np\n" + body)
    return path


# --- inputs of a model


def test_specs_are_the_inputs_without_initializers() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[batch,3,?] x, float[2] w, int64 scalar, bool[1] flag) => (float[batch,3,?] y) <float[2] w = {1, 2}> {
            y = Identity(x)
        }""")
    del model.graph.input[3].type.tensor_type.shape.dim[:]
    model.graph.input[3].type.tensor_type.ClearField("shape")
    specs = input_specs(model)
    assert [spec.name for spec in specs] == ["x", "scalar", "flag"]
    assert specs[0] == InputSpec("x", F32, ("batch", 3, None))
    assert specs[2].shape is None and specs[2].dtype == np.dtype(bool)
    assert str(specs[0]) == "'x' float32[batch,3,?]"


def test_sequence_inputs_are_refused() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (seq(float[2]) x) => (int64 n) { n = SequenceLength(x) }""")
    with pytest.raises(ModelError, match="'x' is not a tensor"):
        input_specs(model)


# --- every source gives the same rows


def as_npy(x: np.ndarray, folder: Path) -> object:
    np.save(folder / "x.npy", x)
    return folder / "x.npy"


def as_fortran_npy(x: np.ndarray, folder: Path) -> object:
    np.save(folder / "x.npy", np.asfortranarray(x))
    return folder / "x.npy"


def as_npz(x: np.ndarray, folder: Path) -> object:
    np.savez(folder / "x.npz", features=x)
    return folder / "x.npz"


def as_packed_npz(x: np.ndarray, folder: Path) -> object:
    np.savez_compressed(folder / "x.npz", x)
    return folder / "x.npz"


def as_fortran_npz(x: np.ndarray, folder: Path) -> object:
    np.savez(folder / "x.npz", x=np.asfortranarray(x))
    return folder / "x.npz"


def as_folder_of_single_rows(x: np.ndarray, folder: Path) -> object:
    for i, row in enumerate(x):
        np.save(folder / f"sample_{i}.npy", row)
    return folder


def as_folder_of_npz(x: np.ndarray, folder: Path) -> object:
    for i, part in enumerate(np.array_split(x, 3)):
        np.savez(folder / f"part{i}.npz", features=part)
    return folder


def as_test_data_sets(x: np.ndarray, folder: Path) -> object:
    for i, row in enumerate(x):
        (folder / f"test_data_set_{i}").mkdir()
        content = numpy_helper.from_array(row[None], "features").SerializeToString()
        (folder / f"test_data_set_{i}" / "input_0.pb").write_bytes(content)
    return folder


def as_script(x: np.ndarray, folder: Path) -> object:
    np.save(folder / "rows.npy", x)
    return script(
        folder, f"def load_data():\n    for row in np.load({str(folder / 'rows.npy')!r}):\n        yield row\n"
    )


def as_reader_class(x: np.ndarray, folder: Path) -> object:
    np.save(folder / "rows.npy", x)
    return script(
        folder,
        f"""
class Reader:
    def __init__(self):
        self.rows = iter(np.load({str(folder / "rows.npy")!r}))
    def get_next(self):
        row = next(self.rows, None)
        return None if row is None else {{"features": row[None]}}
""",
    )


def as_reader_instance(x: np.ndarray, folder: Path) -> object:
    path = Path(str(as_reader_class(x, folder)))
    path.write_text(path.read_text() + "reader = Reader()\n")
    return path


def as_list(x: np.ndarray, folder: Path) -> object:
    return list(x)


def as_generator(x: np.ndarray, folder: Path) -> object:
    return ({"features": part} for part in np.array_split(x, 4))


def as_function(x: np.ndarray, folder: Path) -> object:
    return lambda: iter(x)


SOURCES = [
    lambda x, folder: x,
    lambda x, folder: {"features": x},
    lambda x, folder: {"anything": x.tolist()},
    as_npy,
    as_fortran_npy,
    as_npz,
    as_packed_npz,
    as_fortran_npz,
    as_folder_of_single_rows,
    as_folder_of_npz,
    as_test_data_sets,
    as_script,
    as_reader_class,
    as_reader_instance,
    as_list,
    as_generator,
    as_function,
]


@pytest.mark.parametrize("source", SOURCES)
def test_sources_agree(source, tmp_path: Path) -> None:
    x = rows(11)
    dataset = open_dataset(source(x, tmp_path), ONE)
    reference = open_dataset(x, ONE)
    for batch in (1, 4, 11, 100):
        np.testing.assert_array_equal(gather(dataset, batch), x)
    assert len(dataset) == 11
    assert dataset.digest() == reference.digest()
    rest, held = dataset.split(4, seed=3)
    expected_rest, expected_held = reference.split(4, seed=3)
    np.testing.assert_array_equal(gather(rest), gather(expected_rest))
    np.testing.assert_array_equal(gather(held), gather(expected_held))


@settings(max_examples=40, deadline=None)
@given(cuts=st.lists(st.integers(1, 7), min_size=1, max_size=8), batch=st.integers(1, 9), held=st.data())
def test_chunking_never_matters(cuts: list[int], batch: int, held: st.DataObject) -> None:
    x = rows(sum(cuts) + 1)
    parts = np.split(x, np.cumsum(cuts))
    dataset = open_dataset(parts, ONE)
    sizes = [len(inputs["features"]) for inputs in dataset.batches(batch)]
    assert all(size == batch for size in sizes[:-1]) and sum(sizes) == len(x)
    assert dataset.digest() == open_dataset(x, ONE).digest()
    rest, out = dataset.split(held.draw(st.integers(1, len(x) - 1)))
    both = np.concatenate([gather(rest, batch), gather(out, batch)])
    assert sorted(map(bytes, both)) == sorted(map(bytes, x))


def test_labels_follow_their_rows(tmp_path: Path) -> None:
    x, y = rows(10), np.arange(10) * 7
    np.savez(tmp_path / "a.npz", x=x, y=y)
    np.save(tmp_path / "y.npy", y)
    (tmp_path / "y.txt").write_text("\n".join(map(str, y)))
    inside = open_dataset(tmp_path / "a.npz", ONE)
    np.testing.assert_array_equal(inside.labels, y)
    for labels in (y, tmp_path / "y.npy", tmp_path / "y.txt"):
        outside = open_dataset(list(x), ONE, labels=labels)
        assert outside.digest() == inside.digest()
        _, held = outside.split(0.3, seed=5)
        for inputs, part in held.labelled(2):
            assert part is not None
            np.testing.assert_array_equal(inputs["features"], x[part // 7])
    assert open_dataset(x, ONE).labels is None
    assert inside.sample_hashes() == open_dataset(x, ONE).sample_hashes()
    assert inside.digest() != open_dataset(x, ONE).digest()


def test_columns_of_a_folder_and_labels_beside_rows(tmp_path: Path) -> None:
    ids, mask = np.arange(12).reshape(6, 2), np.ones((6, 2), bool)
    for name, array in (("ids", ids), ("mask", mask)):
        np.save(tmp_path / f"{name}.npy", array)
    first = next(open_dataset(tmp_path, TWO).batches(6))
    np.testing.assert_array_equal(first["ids"], ids)
    other = tmp_path / "other"
    other.mkdir()
    np.save(other / "part0.npy", rows(3))
    np.save(other / "label.npy", np.array([5, 6, 7]))
    np.testing.assert_array_equal(open_dataset(other, ONE).labels, [5, 6, 7])


def test_rows_of_changing_length_are_never_mixed() -> None:
    items = [{"ids": np.zeros((1, length), np.int64), "mask": np.ones((1, length), bool)} for length in (5, 5, 7)]
    assert [inputs["ids"].shape for inputs in open_dataset(items, TWO).batches(8)] == [(2, 5), (1, 7)]


def test_whole_feeds_where_inputs_share_no_batch_axis() -> None:
    specs = (InputSpec("x", F32, ("time", 2, 3)), InputSpec("h", F32, (1, 2, 4)), InputSpec("rate", F32, ()))
    feeds = [{"x": np.ones((t, 2, 3), "f4"), "h": np.zeros((1, 2, 4), "f4"), "rate": np.float32(t)} for t in (5, 6)]
    dataset = open_dataset(feeds, specs)
    got = list(dataset.batches(32))
    assert [feed["x"].shape for feed in got] == [(5, 2, 3), (6, 2, 3)]
    assert got[1]["rate"].shape == () and got[1]["rate"] == 6 and len(dataset) == 2


def test_sequence_first_models_take_whole_feeds() -> None:
    specs = (InputSpec("x", F32, ("time", "n", 3)),)
    feeds = [np.ones((time, 2, 3), np.float32) for time in (4, 5)]
    assert [f["x"].shape for f in open_dataset(feeds, Schema(tuple(specs), whole_feeds=True)).batches()] == [
        (4, 2, 3),
        (5, 2, 3),
    ]
    assert [f["x"].shape for f in open_dataset(feeds, specs).batches()] == [(9, 2, 3)]


def test_one_file_can_be_one_feed(tmp_path: Path) -> None:
    specs = (InputSpec("x", F32, (4,)), InputSpec("rate", np.dtype(np.int64), ()))
    np.savez(tmp_path / "feed.npz", x=np.arange(4.0), rate=16000)
    (feed,) = open_dataset(tmp_path / "feed.npz", specs).batches()
    np.testing.assert_array_equal(feed["x"], np.arange(4.0))
    assert feed["rate"] == 16000


# --- fixed batches, samples, hashes


def test_fixed_batch_wins_and_the_rest_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    dataset = open_dataset(rows(10), FIXED)
    assert [len(inputs["features"]) for inputs in dataset.batches(7)] == [4, 4]
    assert dataset.dropped == 2 and "2 rows left out" in caplog.text
    with pytest.raises(DataError, match=r"3 rows do not fill one batch of 4"):
        list(open_dataset(rows(3), FIXED).batches())


def test_samples_are_random_rows_of_known_lengths_and_the_first_of_endless_ones() -> None:
    x = rows(50)
    some = gather(open_dataset(x, ONE, samples=5, seed=1))
    np.testing.assert_array_equal(some, gather(open_dataset(x, ONE, samples=5, seed=1)))
    assert not np.array_equal(some, x[:5]) and {bytes(row) for row in some} <= {bytes(row) for row in x}
    assert len(open_dataset(x, ONE, samples=500)) == 50

    def endless() -> Iterator[np.ndarray]:
        while True:
            yield from x

    for data in (endless, endless()):
        dataset = open_dataset(data, ONE, samples=5)
        np.testing.assert_array_equal(gather(dataset), x[:5])
        assert len(dataset) == 5


def test_overlap_finds_shared_rows() -> None:
    x = rows(8)
    assert shared_rows(open_dataset(x[:5], ONE), open_dataset(x[3:], ONE)) == [0, 1]
    assert shared_rows(open_dataset(x[:4], ONE), open_dataset(x[4:], ONE)) == []
    changed = x.copy()
    changed[-1, -1] += 1
    assert open_dataset(changed, ONE).digest() != open_dataset(x, ONE).digest()


def test_split_is_a_partition_that_depends_on_the_seed_only() -> None:
    dataset = open_dataset(rows(40), ONE)
    rest, held = dataset.split(0.25, seed=1)
    assert (len(rest), len(held)) == (30, 10) and shared_rows(rest, held) == []
    assert dataset.split(10, seed=1)[1].digest() == held.digest() != dataset.split(10, seed=2)[1].digest()
    parts = rest.split(0.5)
    assert [len(part) for part in parts] == [15, 15] and shared_rows(*parts) == []
    assert all(len(shared_rows(rest, part)) == 15 for part in parts)
    for part in (0, 40, 1.0, 0.001):
        with pytest.raises(DataError, match="cannot be held out"):
            dataset.split(part)


def test_compressed_members_are_not_held_in_memory(tmp_path: Path) -> None:
    specs = (InputSpec("x", F32, ("n", 1000)),)
    np.savez_compressed(tmp_path / "big.npz", x=np.zeros((8000, 1000), np.float32))
    dataset = open_dataset(tmp_path / "big.npz", specs)
    tracemalloc.start()
    total = sum(len(inputs["x"]) for inputs in dataset.batches(16))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 8000 and peak < 2_000_000  # the member has 32,000,000 bytes, a block 64,000


# --- dtypes


@pytest.mark.parametrize(
    ("given_dtype", "wanted"),
    [("f8", "f4"), ("f4", "f2"), (">f4", "f4"), ("i8", "i4"), ("u1", "f4"), ("i8", "bool"), ("bool", "i8")],
)
def test_safe_casts(given_dtype: str, wanted: str) -> None:
    data = np.array([[0, 1], [1, 0]], given_dtype)
    (inputs,) = open_dataset(data, (InputSpec("x", np.dtype(wanted), ("n", 2)),)).batches()
    assert inputs["x"].dtype == np.dtype(wanted)
    np.testing.assert_array_equal(inputs["x"], data)


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (np.array([[0.5]]), "i8"),
        (np.array([[1.0]]), "i8"),
        (np.array([[1 << 40]]), "i4"),
        (np.array([[-1]]), "u1"),
        (np.array([[2]]), "bool"),
        (np.array([[1e300]]), "f4"),
        (np.array([[(1 << 24) + 1]]), "f4"),
        (np.array([["a"]]), "f4"),
        (np.array([[1j]]), "f4"),
    ],
)
def test_casts_that_lose_values_are_refused(data: np.ndarray, wanted: str) -> None:
    with pytest.raises(DataError, match="without losing values"):
        open_dataset(data, (InputSpec("x", np.dtype(wanted), ("n", 1)),))


def test_text_inputs() -> None:
    (inputs,) = open_dataset(np.array(["a", "bc"]), (InputSpec("text", np.dtype(object), ("n",)),)).batches()
    assert inputs["text"].tolist() == ["a", "bc"]


# --- images


def test_options_on_arrays_by_hand() -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    options = ImageOptions(mean=(0.0, 1.0, 2.0), std=(1.0, 2.0, 4.0), scale=0.5)
    (inputs,) = open_dataset({"x": pixels}, NCHW, images=options).batches()
    # channel 1 of pixel (1, 0) is 7: (7 * 0.5 - 1) / 2
    assert inputs["image"].dtype == np.float32 and inputs["image"][0, 1, 1, 0] == 1.25
    np.testing.assert_array_equal(inputs["image"][0, 0], [[0, 1.5], [3, 4.5]])


def test_layouts_are_told_apart() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (2, 6, 5, 3)).astype(np.uint8)
    channels_first = pixels.transpose(0, 3, 1, 2)
    for shape, expected in (
        (("n", 3, 6, 5), channels_first),
        (("n", 6, 5, 3), pixels),
        (("n", 3, "h", "w"), channels_first),
    ):
        for stored in (pixels, channels_first):
            dataset = open_dataset(stored, (InputSpec("x", F32, shape),), images=ImageOptions())
            np.testing.assert_allclose(gather(dataset), expected / 255, rtol=1e-6)
    integer = open_dataset(pixels, (InputSpec("x", np.dtype(np.uint8), ("n", 3, 6, 5)),), images=ImageOptions())
    np.testing.assert_array_equal(gather(integer), channels_first)


def test_image_option_errors() -> None:
    pixels = np.zeros((1, 2, 2, 3), np.uint8)
    with pytest.raises(DataError, match="mean has 2 values, the images have 3"):
        open_dataset(pixels, NCHW, images=ImageOptions(mean=(1.0, 2.0)))
    with pytest.raises(DataError, match="uint8 images only"):
        open_dataset(np.zeros((1, 3, 2, 2), "f4"), NCHW, images=ImageOptions())
    with pytest.raises(DataError, match=r"say --layout NCHW or --layout NHWC"):
        open_dataset(pixels, (InputSpec("x", F32, ("n", "a", "b", "c")),), images=ImageOptions())
    with pytest.raises(DataError, match="--layout, --mean"):
        open_dataset(pixels, NCHW)
    with pytest.raises(UsageError, match="layout"):
        ImageOptions(layout="CHW")
    with pytest.raises(UsageError, match="above zero"):
        ImageOptions(std=(0.0,))


def test_folder_of_images(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    wide = np.zeros((2, 6, 3), np.uint8)
    wide[:, 2:4] = (255, 0, 51)  # the centre
    (tmp_path / "sub").mkdir()
    image.fromarray(wide).save(tmp_path / "sub" / "img10.png")
    image.fromarray(np.full((4, 4), 102, np.uint8)).save(tmp_path / "sub" / "img2.png")
    dataset = open_dataset(tmp_path, NCHW)
    both = gather(dataset)
    np.testing.assert_allclose(both[0], np.full((3, 2, 2), 0.4), rtol=1e-6)  # img2 before img10, grey to three channels
    np.testing.assert_allclose(both[1, :, 0, 0], [1.0, 0.0, 0.2], rtol=1e-6)
    dynamic = (InputSpec("x", F32, ("n", 3, "h", "w")),)
    with pytest.raises(DataError, match="--input-shape x:1,3,224,224"):
        open_dataset(tmp_path, dynamic)
    sized = open_dataset(tmp_path, dynamic, images=ImageOptions(size=(3, 5), mean=(0.5,), resize=8))
    assert gather(sized).shape == (2, 3, 3, 5)
    (tmp_path / "zz.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"zz\.png cannot be decoded"):
        gather(open_dataset(tmp_path, NCHW))


def test_resize_decides_how_much_the_crop_sees(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[1:3, 1:3] = 255
    image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(gather(open_dataset(tmp_path, NCHW, images=ImageOptions(resize=4))), 1.0)
    assert gather(open_dataset(tmp_path, NCHW)).max() < 0.9  # the whole picture, shrunk


# --- errors


@pytest.mark.parametrize(
    ("data", "specs", "message"),
    [
        (
            {"idz": np.zeros((1, 2)), "mask": np.zeros((1, 2))},
            TWO,
            "'idz' is no input of the model; did you mean 'ids'",
        ),
        ({"ids": np.zeros((1, 2), int)}, TWO, "no array for input 'mask'"),
        ({"ids": np.zeros((3, 2), int), "mask": np.zeros((2, 2), bool)}, TWO, "number of rows differs"),
        ({"x": rows(3), "y": np.zeros(2)}, ONE, "number of rows differs"),
        ({"x": rows(3), "y": np.zeros(3), "label": np.zeros(3)}, ONE, "several arrays could be the labels"),
        (np.zeros((2, 4), "f4"), ONE, r"cannot take rows of shape \[4\]"),
        (np.zeros((2, 3, 1), "f4"), ONE, r"cannot take rows of shape \[3, 1\]"),
        (np.zeros((0, 3), "f4"), ONE, "no rows"),
        ([], ONE, "no rows"),
        (np.array([[1, np.nan, 0]], "f4"), ONE, "NaN or Inf"),
        ([rows(2), np.full((1, 3), np.inf, "f4")], ONE, "NaN or Inf"),
        (np.array([[1, None, 2]], object), ONE, "not an array of numbers"),
        ([(rows(2), np.zeros(2))], ONE, "yield a dict"),
        ([[[1, 2, 3], [1]]], ONE, "cannot become an array"),
        (3, ONE, "neither a path"),
        ("missing.npz", ONE, "no such file"),
        (rows(2), (), "no inputs"),
    ],
)
def test_what_does_not_fit_is_explained(data, specs, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(open_dataset(data, specs).batches())


def test_unreadable_files(tmp_path: Path) -> None:
    np.save(tmp_path / "pickled.npy", np.array([{}], object), allow_pickle=True)
    np.savez(tmp_path / "pickled.npz", features=np.array([{}], object))
    np.save(tmp_path / "good.npy", rows(4))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "good.npy").read_bytes()[:-4])
    (tmp_path / "noise.npy").write_bytes(b"\x80\x04noise")
    (tmp_path / "noise.npz").write_bytes(b"noise")
    (tmp_path / "table.csv").write_text("1,2,3")
    with zipfile.ZipFile(tmp_path / "cut.npz", "w") as archive:
        archive.writestr("features.npy", (tmp_path / "good.npy").read_bytes()[:-4])
    expected = {
        "pickled.npy": "pickled Python objects",
        "pickled.npz": "pickled Python objects",
        "cut.npy": "cut.npy cannot be read",
        "cut.npz": "shorter than its header says",
        "noise.npy": "noise.npy cannot be read",
        "noise.npz": "not a zip file",
        "table.csv": "not from '.csv'",
    }
    for name, message in expected.items():
        with pytest.raises(DataError, match=message):
            gather(open_dataset(tmp_path / name, ONE))
    with pytest.raises(DataError, match="holds one array"):
        open_dataset(tmp_path / "good.npy", TWO)


def test_folders_that_are_no_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no data"):
        open_dataset(tmp_path, ONE)
    np.save(tmp_path / "a.npy", rows(1))
    np.savez(tmp_path / "a.npz", rows(1))
    with pytest.raises(DataError, match="mixes npz files and npy files"):
        open_dataset(tmp_path, ONE)


def test_tensor_files_do_not_lead_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(rows(1).tobytes())
    tensor = onnx.TensorProto(data_type=1, dims=[1, 3], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="secret")
    (tmp_path / "input_0.pb").write_bytes(tensor.SerializeToString())
    with pytest.raises(DataError, match="keeps its data in another file"):
        open_dataset(tmp_path, ONE)
    (tmp_path / "input_0.pb").write_bytes(b"\xff\xff")
    with pytest.raises(DataError, match=r"input_0\.pb cannot be read"):
        open_dataset(tmp_path, ONE)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("x = 1", r"needs a function load_data\(\)"),
        ("raise KeyError('broken')", "KeyError: 'broken'"),
        ("def load_data():\n    yield np.ones((1, 3))\n    raise OSError('disk gone')", "OSError: disk gone"),
        ("def load_data():\n    return 5", "neither a path"),
    ],
)
def test_scripts_that_fail(body: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        list(open_dataset(script(tmp_path, body), ONE).batches())


def test_labels_of_another_length() -> None:
    with pytest.raises(DataError, match="number of rows differs"):
        open_dataset(rows(3), ONE, labels=np.zeros(4))
    with pytest.raises(DataError, match="2 labels, but more rows"):
        list(open_dataset(list(rows(3)), ONE, labels=np.zeros(2)).batches())


# --- random data


def test_random_data_is_marked_and_depends_on_the_seed_only() -> None:
    specs = (*TWO, InputSpec("x", F32, ("n", 500)))
    dataset = random_dataset(specs, 6, seed=1, sizes={"s": 4})
    assert dataset.synthetic and dataset.split(2)[0].synthetic and not open_dataset(rows(2), ONE).synthetic
    assert dataset.digest() == random_dataset(specs, 6, seed=1, sizes={"ids": (1, 4), "s": 4}).digest()
    assert dataset.digest() != random_dataset(specs, 6, seed=2, sizes={"s": 4}).digest()
    assert len(set(dataset.sample_hashes())) == 6
    (inputs,) = dataset.batches()
    assert set(np.unique(inputs["ids"])) <= {0, 1} and inputs["mask"].dtype == bool
    assert abs(inputs["x"].mean()) < 0.1 and abs(inputs["x"].std() - 1) < 0.1  # 3,000 draws: 5 and 7 standard errors
    with pytest.raises(DataError, match="--input-shape ids:1,8"):
        random_dataset(specs, 1)
    with pytest.raises(DataError, match="no random data"):
        random_dataset((InputSpec("text", np.dtype(object), ("n",)),))


@pytest.mark.parametrize("name", ["rows.npy", "rows.npz", "rows.py", "labels.txt"])
@pytest.mark.parametrize("kind", ["FIFO", "device"])
def test_only_regular_files_are_read(tmp_path: Path, name: str, kind: str) -> None:
    """Reading anything else may never end."""
    path = tmp_path / name
    os.mkfifo(path) if kind == "FIFO" else path.symlink_to("/dev/zero")
    data, labels = (rows(4), path) if path.stem == "labels" else (path, None)
    with pytest.raises(DataError, match="not a regular file"):
        open_dataset(data, ONE, labels=labels)


def test_a_fifo_in_a_folder_is_not_data(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", rows(4))
    assert gather(open_dataset(tmp_path, ONE)).shape == (4, 3)


@pytest.mark.parametrize("name", ["n" * 300 + ".npy", "a\0b.npy"])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(DataError, match="cannot be used as a path"):
        open_dataset(name, ONE)


def test_large_rows_come_in_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    items = [{"ids": np.zeros((1, length), np.int64), "mask": np.ones((1, length), bool)} for length in (2, 2, 2, 50)]
    monkeypatch.setattr("onnxprune.data.dataset.ROOM", 2 * 2 * 9)  # two rows of two positions
    data = open_dataset(items, TWO)
    assert [inputs["ids"].shape for inputs in data.batches()] == [(2, 2), (1, 2), (1, 50)]
    assert [inputs["ids"].shape for inputs in Batches(data)] == [(2, 2), (1, 2), (1, 50)]
    assert [inputs["ids"].shape for inputs in data.batches(3)] == [(3, 2), (1, 50)]
    assert [len(inputs["ids"]) for inputs, _ in data.labelled(every=3, most=1)] == [1, 1, 1, 1]
