"""FedValues given to inputs by name: in runs without data, in rows that lack them, on the command line and in Python."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import ModelProto
from support.networks import network

import onnxprune
from onnxprune.api import inspect
from onnxprune.cli import main
from onnxprune.data import input_specs, open_dataset
from onnxprune.errors import DataError, UsageError
from onnxprune.model.values import filled

BODY = "p = MatMul(x, %4x16); r = Relu(p); f = Cast<to = 1>(rate); g = Div(f, @16000.); q = Mul(r, g); y = MatMul(q, %16x5)"
DRAW = np.random.default_rng(0)
X = DRAW.standard_normal((24, 4)).astype(np.float32)


def rated(inputs: str = "float[N,4] x, int64 rate") -> ModelProto:
    return network(BODY, inputs, "float[N,5] y")


def feeds(model: ModelProto, data: Any, **how: Any) -> list[dict[str, np.ndarray]]:
    return [dict(feed) for feed in open_dataset(data, input_specs(model), **how).batches(8)]


def folder(path: Path) -> Path:
    for row in range(3):
        np.savez(path / f"{row}.npz", x=X[8 * row : 8 * row + 8], rate=np.int64(16000))
    return path


def script(path: Path) -> Path:
    (path / "load.py").write_text(
        "import numpy as np\ndef load_data():\n    for row in range(3):\n"
        "        yield {'x': np.full((8, 4), row, np.float32), 'rate': np.int64(16000)}\n"
    )
    return path / "load.py"


def npz(path: Path) -> Path:
    np.savez(path / "one.npz", x=X[:8], rate=np.int64(16000))
    return path / "one.npz"


SCALARS: dict[str, tuple[Callable[[Path], Any], int]] = {
    "npz": (npz, 1),
    "folder of npz": (folder, 3),
    "script": (script, 3),
    "dict": (lambda _: {"x": X[:8], "rate": 16000}, 1),
    "dict with rows": (lambda _: {"x": X.reshape(3, 8, 4), "rate": np.full(3, 16000)}, 3),
    "iterator": (lambda _: iter([{"x": X[:8], "rate": np.int64(16000)}] * 3), 3),
}


@pytest.mark.parametrize("name", SCALARS)
@pytest.mark.parametrize("values", [{}, {"rate": (8000,)}])
def test_inputs_without_axes_are_read_from_any_source(name: str, values: Any, tmp_path: Path) -> None:
    """What the data has wins over a value that was given."""
    make, count = SCALARS[name]
    found = feeds(rated(), make(tmp_path), values=values)
    assert [(feed["x"].shape, feed["rate"].shape, int(feed["rate"])) for feed in found] == [((8, 4), (), 16000)] * count


LACKING: dict[str, Callable[[Path], Any]] = {
    "array": lambda _: X,
    "dict": lambda _: {"x": X},
    "iterator": lambda _: iter([{"x": X[:12]}, {"x": X[12:]}]),
    "function": lambda _: lambda: ({"x": row} for row in X),
    "npy": lambda path: np.save(path / "x.npy", X) or path / "x.npy",
    "npz": lambda path: np.savez(path / "x.npz", x=X) or path / "x.npz",
}


@pytest.mark.parametrize("name", LACKING)
def test_rows_that_lack_an_input_are_completed(name: str, tmp_path: Path) -> None:
    """Every row becomes a feed of its own, in order."""
    found = feeds(rated(), LACKING[name](tmp_path), values={"rate": (8000,)})
    assert [int(feed["rate"]) for feed in found] == [8000] * len(X)
    np.testing.assert_array_equal(np.concatenate([feed["x"] for feed in found]), X)


def test_a_fixed_batch_is_filled_by_so_many_rows() -> None:
    found = feeds(rated("float[5,4] x, int64 rate"), X, values={"rate": (8000,)}, labels=np.arange(24))
    assert [feed["x"].shape for feed in found] == [(5, 4)] * 4
    np.testing.assert_array_equal(np.concatenate([feed["x"] for feed in found]), X[:20])
    held = open_dataset(X, input_specs(rated("float[5,4] x, int64 rate")), values={"rate": (8000,)}).rows(2, 3)
    np.testing.assert_array_equal(next(held.batches())["x"], X[10:15])


def test_labels_stay_with_their_rows() -> None:
    data = open_dataset(X, input_specs(rated()), values={"rate": (8000,)}, labels=np.arange(24))
    assert [int(np.ravel(labels)[0]) for _, labels in data.labelled()] == list(range(24))


def test_sizes_of_a_completed_input_are_those_of_its_fellows() -> None:
    model = network("s = Mul(x, m); y = MatMul(s, %4x5)", "float[N,L,4] x, float[N,L,1] m", "float[N,L,5] y")
    found = feeds(model, X.reshape(4, 6, 4), values={"m": (0.5,)})
    assert [feed["m"].shape for feed in found] == [(1, 6, 1)] * 4
    assert all((feed["m"] == 0.5).all() for feed in found)


@pytest.mark.parametrize(
    ("numbers", "shape", "dtype", "expected"),
    [
        ((16000,), (), "int64", 16000),
        ((True,), (2,), "bool", [True, True]),
        ((0.5,), (1, 2), "float32", [[0.5, 0.5]]),
        ((320, 240), (2,), "int64", [320, 240]),
        ((320, 240), (2, 2), "int32", [[320, 240], [320, 240]]),
        ((1, 2, 3, 4), (2, 2), "float32", [[1, 2], [3, 4]]),
        ((0.1,), (), "float16", 0.1),
    ],
)
def test_numbers_fill_an_input(numbers: tuple[float, ...], shape: tuple[int, ...], dtype: str, expected: Any) -> None:
    found = filled("x", numbers, shape, np.dtype(dtype))
    assert found.shape == shape
    np.testing.assert_array_equal(found, np.array(expected, dtype))


@pytest.mark.parametrize(
    ("numbers", "shape", "dtype"),
    [((0.5,), (), "int64"), ((300,), (), "uint8"), ((2,), (), "bool"), ((1, 2), (3,), "int64"), ((-1,), (), "uint32")],
)
def test_numbers_that_do_not_fit_are_refused(numbers: tuple[float, ...], shape: tuple[int, ...], dtype: str) -> None:
    with pytest.raises(UsageError, match="--input-value x"):
        filled("x", numbers, shape, np.dtype(dtype))


BRANCH = (
    "c = Equal(rate, @16000); y = If(c) <then_branch = t () => (float[N,5] a) "
    "{ h = MatMul(x, w) \n k = Relu(h) \n a = MatMul(k, v) }, else_branch = e () => (float[N,5] b) { b = MatMul(x, u) }>"
)
WAYS: dict[str, dict[str, Any]] = {
    "weights alone": {},
    "data": {"calibration": {"x": X}},
    "data and a criterion": {"calibration": {"x": X}, "criterion": "wanda"},
    "gradients": {"calibration": {"x": X}, "criterion": "taylor"},
    "recovery": {"calibration": {"x": X}, "recover": 2},
    "blocks": {"calibration": {"x": X}, "recover": 2, "recover_loss": "blocks"},
    "directions": {"calibration": {"x": X}, "granularity": "eigen"},
    "evaluation": {"evaluation": {"x": X}},
}


@pytest.mark.parametrize("name", WAYS)
def test_every_way_of_a_run_feeds_the_value(name: str) -> None:
    """A rate of one would divide what is seen by 16,000; the drift is measured at the rate that was given."""
    found = onnxprune.prune(rated(), ratio=0.5, round_to=1, input_value={"rate": 16000}, **WAYS[name])
    assert found.report["surgery"]["exact"]
    assert found.report["settings"]["input_value"] == [["rate", [16000]]]
    assert found.report["latency"] is not None
    assert [value.name for value in found.model.graph.input] == ["x", "rate"]


def test_the_value_decides_which_branch_is_timed_and_drawn() -> None:
    """An index that only the given value keeps inside its table."""
    body = "k = Sub(rate, @15999); e = Gather(%4x4, k); a = Add(x, e); p = MatMul(a, %4x16); r = Relu(p); y = MatMul(r, %16x5)"
    model = network(body, "float[N,4] x, int64 rate", "float[N,5] y")
    with pytest.raises(onnxprune.errors.ModelError, match="cannot be run on drawn inputs"):
        onnxprune.prune(model, ratio=0.5, round_to=1)
    assert onnxprune.prune(model, ratio=0.5, round_to=1, input_value={"rate": 16001}).report["surgery"]["exact"]


def test_a_scalar_that_all_rows_share_is_fed_where_no_row_is() -> None:
    found = onnxprune.prune(
        rated(),
        ratio=0.5,
        round_to=1,
        criterion="l2",
        latency=False,
        calibration={"x": X.reshape(3, 8, 4), "rate": [16000] * 3},
    )
    assert found.report["settings"]["input_value"] == [["rate", [16000]]]
    assert found.report["sizes"]["inputs"] == {"x": [8, 4], "rate": []}


def test_names_and_sources_that_make_no_sense() -> None:
    with pytest.raises(UsageError, match="no input 'rat'; did you mean 'rate'"):
        inspect(rated(), input_value={"rat": 1})
    with pytest.raises(DataError, match="no array for input 'rate'"):
        feeds(rated(), {"x": X.reshape(3, 8, 4)})
    with pytest.raises(UsageError, match="input_value takes names with a value each"):
        inspect(rated(), input_value={"rate": "fast"})


def test_the_command_line_and_files_take_values(tmp_path: Path) -> None:
    onnx.save(rated(), tmp_path / "net.onnx")
    np.save(tmp_path / "x.npy", X)
    run = [str(tmp_path / "net.onnx"), "--calib", str(tmp_path / "x.npy"), "--no-latency", "--dry-run"]
    refused = CliRunner().invoke(main, run)
    assert refused.exit_code == 3
    assert "inputs x, rate" in refused.stderr
    given = CliRunner().invoke(main, [*run, "--input-value", "rate:16000"])
    assert given.exit_code == 0, given.stderr
    (tmp_path / "config.toml").write_text('input-value = ["rate:16000"]\n')
    assert CliRunner().invoke(main, [*run, "--config", str(tmp_path / "config.toml")]).stdout == given.stdout
    wrong = CliRunner().invoke(main, [*run, "--input-value", "rate"])
    assert wrong.exit_code == 2
    assert "expected NAME:16000" in wrong.stderr
