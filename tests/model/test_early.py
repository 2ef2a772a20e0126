"""Data written while a result is proven: the same files in the end, and nothing where it is not wanted after all."""

from __future__ import annotations

import errno
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.decoders import Form, decoder
from support.networks import network

from onnxprune import api
from onnxprune.errors import OutputError, SurgeryError
from onnxprune.model import early, files, regions, write
from onnxprune.model.early import EarlyData
from onnxprune.model.model import Model
from onnxprune.model.read import load
from onnxprune.model.runtime import session
from onnxprune.model.write import save
from onnxprune.proof import pieces
from onnxprune.runs import run

BODY = "w1 = %64x3x1x1; p = Conv(x, w1); r = Relu(p); w2 = %5x64x1x1; y = Conv(r, w2)"


@pytest.fixture
def model(tmp_path: Path) -> Model:
    (tmp_path / "source").mkdir()
    save(network(BODY), tmp_path / "source/model.onnx", external=True)
    return load(tmp_path / "source/model.onnx")


@pytest.fixture(params=["without a name", "with a temporary name"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if request.param == "with a temporary name":
        monkeypatch.setattr(files, "_unnamed", lambda folder: None)
    (tmp_path / "results").mkdir()
    return tmp_path / "results/small.onnx"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refuse(*_: object) -> None:
    raise AssertionError("written a second time")


def halved(model: Model) -> Model:
    return model.replaced({"w1": model.weights["w1"].read() / 2})


def test_data_that_is_there_already_is_not_written_again(
    model: Model, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = save(model, place)
    plain = contents(place.parent)
    for path in place.parent.iterdir():
        path.unlink()
    with EarlyData(place) as ahead:
        ahead.begin(halved(model))
        ahead.begin(model)
        monkeypatch.setattr(write, "fill_data", refuse)
        assert save(model.derived(model.draft()), place, early=ahead) == digest
    assert contents(place.parent) == plain


def test_other_data_is_written_and_what_was_begun_leaves_nothing(model: Model, place: Path) -> None:
    with EarlyData(place) as ahead:
        ahead.begin(model)
        save(halved(model), place, early=ahead)
    found = contents(place.parent)
    assert len(found) == 2
    save(halved(model), place, force=True)
    assert contents(place.parent) == found


def test_what_is_not_taken_leaves_nothing(model: Model, place: Path) -> None:
    with pytest.raises(SurgeryError), EarlyData(place) as ahead:
        ahead.begin(model)
        raise SurgeryError("refuted")
    assert not contents(place.parent)


def test_a_disk_that_fills_meanwhile_is_told_when_the_model_is_saved(
    model: Model, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(early, "fill_data", full)
    with EarlyData(place) as ahead:
        ahead.begin(model)
        with pytest.raises(OutputError, match="No space left on device"):
            save(model, place, early=ahead)
    assert not contents(place.parent)


def test_a_disk_with_room_for_one_copy_has_room_enough(
    model: Model, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    for module in (early, write):
        monkeypatch.setattr(module, "require_space", lambda path, size: asked.append(size))
    with EarlyData(place) as ahead:
        ahead.begin(model)
        save(model, place, early=ahead)
    data = next(path for path in place.parent.iterdir() if path != place).stat().st_size
    assert asked[0] == data and asked[1] < place.stat().st_size + 200


def test_nothing_is_written_beside_what_is_timed(model: Model, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    def slow(*given: Any) -> str:
        time.sleep(0.2)
        written.append(regions.fill_data(*given))
        return written[0]

    monkeypatch.setattr(early, "fill_data", slow)
    with EarlyData(place) as ahead:
        ahead.settle()
        ahead.begin(model)
        ahead.settle()
        assert written
        save(model, place, early=ahead)
    timed: list[str] = []
    monkeypatch.setattr(EarlyData, "settle", lambda self: timed.append("settled"))
    monkeypatch.setattr(run, "measure_latency", lambda *_: timed.append("timed") or refuse())
    with pytest.raises(AssertionError):
        api.prune(network(BODY), ratio=0.5, criterion="l2")
    assert timed == ["settled", "timed"]


@pytest.mark.parametrize("exact", [True, False])
def test_a_run_writes_while_it_proves(exact: bool, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = place.with_name("source")
    source.mkdir()
    save(decoder(Form(dtype=np.float16)), source / "model.onnx", external=True)
    monkeypatch.setattr(pieces, "LARGE", 1)
    monkeypatch.setattr(pieces, "HELD", 1 << 14)
    times: list[str] = []
    real = regions.fill_data
    monkeypatch.setattr(early, "fill_data", lambda *given: times.append("early") or real(*given))
    monkeypatch.setattr(write, "fill_data", lambda *given: times.append("late") or real(*given))
    options = {"criterion": "l2", "ratio": 0.3, "latency": False}
    if exact:
        found = api.prune(source / "model.onnx", output=place, **options)
        assert times == ["early"] and found.report["output"]["sha256"] == load(place).sha256
        assert len(list(place.parent.iterdir())) == 3
        session(load(place), optimise=False)
        return
    monkeypatch.setattr(pieces.Pieces, "look", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        api.prune(source / "model.onnx", output=place, **options)
    assert times == ["early"] and [path.name for path in place.parent.iterdir()] == ["source"]
