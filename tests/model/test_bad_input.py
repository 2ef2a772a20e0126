"""Every kind of bad input ends with one clear message, the documented exit code, and no file left behind."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import ModelProto, TensorProto, helper, numpy_helper
from support.networks import network

from onnxprune.cli import main

USAGE, UNREADABLE, UNREACHABLE = 2, 3, 4
BODY = "w1 = %6x3x1x1; b1 = %6; p = Conv(x, w1, b1); r = Relu(p); w2 = %5x6x1x1; y = Conv(r, w2)"


def run(*arguments: str | os.PathLike[str]) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def refused(result: Result, exit_code: int, *words: str) -> None:
    """One message on stderr without a traceback, nothing on stdout."""
    assert result.exit_code == exit_code, result.output
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    assert result.stdout == ""
    for word in words:
        assert word in result.stderr, result.stderr


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    onnx.save(network(BODY), path)
    return path


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --- the model file -------------------------------------------------------------------------------------------------


def test_no_such_file(tmp_path: Path) -> None:
    refused(run(tmp_path / "absent.onnx"), UNREADABLE, "absent.onnx", "no such file")


def test_folder(tmp_path: Path) -> None:
    refused(run(tmp_path), UNREADABLE, "folder", "give the .onnx file inside it")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (np.random.default_rng(3).bytes(4096), "not an ONNX model"),
        (helper.make_tensor("t", 1, [2], [1.0, 2.0]).SerializeToString(), "not an ONNX model"),
    ],
    ids=["empty", "random", "protobuf"],
)
def test_no_model_in_the_file(tmp_path: Path, content: bytes, word: str) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    refused(run(path), UNREADABLE, "bad.onnx", word)
    assert files(tmp_path) == {"bad.onnx"}


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_truncated(model: Path, share: float) -> None:
    data = model.read_bytes()
    model.write_bytes(data[: int(len(data) * share)])
    refused(run(model), UNREADABLE, "net.onnx")


def changed(model: Path, change) -> Path:
    proto = onnx.load(model)
    change(proto)
    model.write_bytes(proto.SerializeToString())
    return model


def test_refused_by_the_checker(model: Path) -> None:
    def change(proto: ModelProto) -> None:
        proto.graph.node[1].input[0] = "nowhere"

    refused(run(changed(model, change)), UNREADABLE, "refused by the ONNX checker", "nowhere")


def test_unknown_opset(model: Path) -> None:
    def change(proto: ModelProto) -> None:
        proto.opset_import[0].version = 999

    refused(run(changed(model, change)), UNREADABLE, "opset 999 is unknown")


def as_external(model: Path, location: str) -> Path:
    def change(proto: ModelProto) -> None:
        tensor = proto.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)

    return changed(model, change)


def test_missing_external_data(model: Path) -> None:
    refused(run(as_external(model, "weights.bin")), UNREADABLE, "'weights.bin' is missing")


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hostname", "sub/../../weights.bin"])
def test_external_data_outside_the_folder(model: Path, location: str) -> None:
    (model.parent.parent / "weights.bin").write_bytes(bytes(1000))
    refused(run(as_external(model, location)), UNREADABLE, "outside the model's folder")


def test_external_data_behind_a_link(model: Path) -> None:
    outside = model.parent.parent / "secret.bin"
    outside.write_bytes(bytes(1000))
    (model.parent / "weights.bin").symlink_to(outside)
    refused(run(as_external(model, "weights.bin")), UNREADABLE, "outside the model's folder")


# --- weights --------------------------------------------------------------------------------------------------------


def test_zero_size_initializer(tmp_path: Path) -> None:
    proto = network("w1 = %6x3x1x1; p = Conv(x, w1); r = Resize(p, roi, scales); w2 = %5x6x1x1; y = Conv(r, w2)")
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros(0, np.float32), "roi"))
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales"))
    onnx.save(proto, tmp_path / "net.onnx")
    result = run(tmp_path / "net.onnx", "--no-latency")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "net.pruned.onnx").is_file()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers(model: Path, value: float) -> None:
    def change(proto: ModelProto) -> None:
        weights = numpy_helper.to_array(proto.graph.initializer[0]).copy()
        weights[2, 0] = value
        proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, proto.graph.initializer[0].name))

    changed(model, change)
    outputs = []
    for name in ("one.onnx", "two.onnx"):
        result = run(model, model.parent / name, "--no-latency")
        assert result.exit_code == 0, result.output
        assert "NaN or infinite weights" in result.stderr
        outputs.append((model.parent / name).read_bytes())
    assert outputs[0] == outputs[1]


# --- nothing to do --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_data", [False, True])
def test_nothing_prunable(tmp_path: Path, with_data: bool) -> None:
    onnx.save(network("w = %5x3x1x1; y = Conv(x, w)"), tmp_path / "net.onnx")
    refused(_run_on(tmp_path, with_data), UNREACHABLE, "nothing in this model can be pruned", "inspect")
    assert "net.pruned.onnx" not in files(tmp_path)


@pytest.mark.parametrize("with_data", [False, True])
def test_nothing_left_by_the_settings(model: Path, with_data: bool) -> None:
    refused(_run_on(model.parent, with_data, "--exclude", "op:Conv"), UNREACHABLE, "none of the 1 groups", "--exclude")


def _run_on(folder: Path, with_data: bool, *arguments: str) -> Result:
    np.save(folder / "x.npy", np.zeros((8, 3, 4, 4), np.float32))
    return run(folder / "net.onnx", *arguments, *(["--calib", folder / "x.npy", "-q"] if with_data else []))


def test_target_out_of_reach_names_the_best(model: Path) -> None:
    refused(run(model, "--target", "params=1"), UNREACHABLE, "out of reach", "smallest result possible")


# --- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", ["0", "1", "-1", "1.5", "nan", "inf"])
def test_ratio_outside_of_its_range(model: Path, ratio: str) -> None:
    refused(run(model, "--ratio", ratio), USAGE, "more than 0 and less than 1")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--criterion", "l22"], ["unknown criterion 'l22'", "'l2'"]),
        (["--criterion", "l2:som"], ["unknown reduction 'som'", "'sum'"]),
        (["--scope", "globl"], ["unknown scope", "'global'"]),
        (["--granularity", "head"], ["unknown granularity", "'heads'"]),
        (["--target", "mac=50%"], ["unknown target", "'macs'"]),
        (["--exclude", "zzz*"], ["'zzz*' matches no node or tensor"]),
        (["--include", "op:Gelu"], ["'op:Gelu' matches no node or tensor"]),
        (["--include", "re:("], ["not a regular expression"]),
        (["--ratio", "0.5", "--target", "macs=50%"], ["give one of ratio, target"]),
        (["--rtio", "0.5"], ["--rtio", "--ratio"]),
        (["--max-drop", "1%"], ["max_drop needs labelled data"]),
        (["--input-shape", "x=3"], ["NAME:1,3,224,224"]),
        (["--input-shape", "z:1,3"], ["no input 'z'"]),
        (["--threads", "0"], ["threads 0"]),
        (["--max-size", "8 apples"], ["8MB"]),
        (["--labels", "labels.npy"], ["labels without data"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and value[0].startswith("--") else "",
)
def test_options_that_make_no_sense(model: Path, options: list[str], words: list[str]) -> None:
    refused(run(model, *options), USAGE, *words)
    assert files(model.parent) == {"net.onnx"}


def test_mistyped_command_gets_a_hint() -> None:
    refused(run("inspekt", "m.onnx"), USAGE, "'inspekt'", "'inspect'")


def test_data_that_does_not_exist(model: Path) -> None:
    refused(run(model, "--calib", "nowhere.npz"), UNREADABLE, "nowhere.npz: no such file")


# --- the output -----------------------------------------------------------------------------------------------------


def test_output_exists(model: Path) -> None:
    out = model.with_name("out.onnx")
    out.write_bytes(b"precious")
    refused(run(model, out), USAGE, "out.onnx exists", "--force")
    assert out.read_bytes() == b"precious"
    assert run(model, out, "--force", "--no-latency").exit_code == 0


def test_output_is_the_input(model: Path) -> None:
    before = model.read_bytes()
    refused(run(model, model, "--force"), USAGE, "is the input file")
    assert model.read_bytes() == before


def test_output_folder_is_missing(model: Path) -> None:
    refused(run(model, model.parent / "no" / "out.onnx"), UNREADABLE, "does not exist", "create it")


def test_output_folder_is_read_only(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    refused(run(model, model.parent / "out.onnx"), UNREADABLE, "read-only", "-o")


@pytest.mark.parametrize("external", [False, True])
def test_disk_full(model: Path, monkeypatch: pytest.MonkeyPatch, external: bool) -> None:
    if external:
        onnx.save(onnx.load(model), model, save_as_external_data=True, location="net.bin", size_threshold=0)
    before = files(model.parent)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    refused(
        run(model, model.parent / "out.onnx", "--no-latency"), UNREADABLE, "No space left on device", "nothing was left"
    )
    assert files(model.parent) == before


def test_unexpected_errors_are_one_line(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("something odd\nsecond line")

    monkeypatch.setattr("onnxprune.runs.run.analyse_model", broken)
    result = run(model)
    refused(result, UNREADABLE, "unexpected RuntimeError: something odd", "-v")
    assert "second line" not in result.stderr
    assert "Traceback" in run(model, "-v").stderr
