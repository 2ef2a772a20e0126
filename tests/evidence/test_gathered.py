"""Files of statistics: of shards, in any order, they give the bytes of one pass; what does not belong together is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, save
from support.networks import network
from support.spreads import Shuffled

import onnxprune
from onnxprune import api
from onnxprune.data import observe
from onnxprune.errors import DataError, UsageError
from onnxprune.evidence.gathered import HEADER, Gathered

NET = """a = Conv<pads=[1,1,1,1]>(x, %6x3x3x3, %6); b = Relu(a); c = Conv(b, %8x6x1x1, %8); d = Relu(c)
e = GlobalAveragePool(d); f = Flatten(e); y = Gemm(f, %8x4, %4)"""
ROWS = 73
CRITERIA = ("obs", "wanda", "taylor", "fisher", "kron-obs", "kl", "loss", "entropy")


@pytest.fixture(autouse=True, scope="module")
def small_leaves() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(observe, "LEAF", 4)
        yield


def net(seed: int = 0) -> ModelProto:
    return network(NET, "float[n,3,5,5] x", "float[n,4] y", seed=seed)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gathered")
    random = np.random.default_rng(0)
    x = random.standard_normal((ROWS, 3, 5, 5)).astype(np.float32)
    save(net(), path / "net.onnx")
    save(net(1), path / "twin.onnx")
    np.savez(path / "x.npz", x=x, labels=random.integers(0, 4, ROWS))
    np.savez(path / "less.npz", x=x[:-1])
    np.savez(path / "others.npz", x=np.concatenate([x[:30], -x[30:31], x[31:]]), labels=np.zeros(ROWS, np.int64))
    return path


def gathered(place: Path, name: str, shard: str = "1/1", **settings: Any) -> Path:
    data = place / settings.pop("data", "x.npz")
    path = place / f"{name}.npz"
    api.stats(
        place / settings.pop("model", "net.onnx"),
        data,
        path,
        shard=shard,
        **{"criterion": "obs", "batch": 2} | settings,
    )
    return path


def shards(place: Path, of: int, **settings: Any) -> list[Path]:
    return [gathered(place, f"{number}-of-{of}", f"{number}/{of}", **settings) for number in range(1, of + 1)]


@pytest.mark.parametrize("criterion", CRITERIA)
def test_shards_in_any_order_give_the_bytes_of_one_pass(place: Path, criterion: str) -> None:
    whole = gathered(place, "whole", criterion=criterion)
    parts = shards(place, 3, criterion=criterion)
    for order in permutations(parts):
        api.merge_stats(order, place / "merged.npz")
        assert (place / "merged.npz").read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("of", [2, 5, 16])
def test_any_number_of_shards(place: Path, of: int) -> None:
    whole, parts = gathered(place, "whole"), shards(place, of)
    api.merge_stats(parts[::-1], place / "merged.npz")
    assert (place / "merged.npz").read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_run_decides_by_a_file_as_by_the_data(place: Path, criterion: str, monkeypatch: pytest.MonkeyPatch) -> None:
    how: dict[str, Any] = {"criterion": criterion, "batch": 2, "ratio": 0.5, "round_to": 1, "latency": False}
    plain = onnxprune.prune(place / "net.onnx", calibration=place / "x.npz", **how)
    whole = gathered(place, "whole", criterion=criterion)
    looked = 0
    real = observe.Pass.over

    def over(self: observe.Pass, leaves: observe.LeafRun) -> Any:
        nonlocal looked
        looked += self.what != "observing" or bool(self.observers[0].__class__.__name__ == "ValueObserver")
        return real(self, leaves)

    monkeypatch.setattr(observe.Pass, "over", over)
    found = onnxprune.prune(place / "net.onnx", calibration=place / "x.npz", stats=whole, **how)
    assert not looked
    assert found.plan.to_json() == plain.plan.to_json()
    assert found.model.SerializeToString() == plain.model.SerializeToString()


def test_work_on_a_shard_may_be_shared_out_too(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = gathered(place, "whole").read_bytes()
    spread = Shuffled()
    monkeypatch.setattr("onnxprune.settings.spread_by", lambda name: spread)
    assert gathered(place, "elsewhere").read_bytes() == whole
    api.merge_stats(shards(place, 3)[::-1], place / "merged.npz")
    assert (place / "merged.npz").read_bytes() == whole and spread.calls > 10


def test_a_schedule_takes_the_file_for_its_first_step(place: Path) -> None:
    how: dict[str, Any] = {"criterion": "wanda", "batch": 2, "ratio": 0.5, "round_to": 1, "latency": False}
    how |= {"schedule": "linear:2", "calibration": place / "x.npz"}
    whole = gathered(place, "whole", criterion="wanda")
    found = onnxprune.prune(place / "net.onnx", stats=whole, **how)
    assert found.plan.to_json() == onnxprune.prune(place / "net.onnx", **how).plan.to_json()


# --- what does not belong together ----------------------------------------------------------------------------------


def refused(place: Path, paths: list[Path], words: str) -> None:
    (place / "merged.npz").unlink(missing_ok=True)
    with pytest.raises(DataError, match=words):
        api.merge_stats(paths, place / "merged.npz")
    assert not (place / "merged.npz").exists()


def test_parts_that_do_not_belong_together_are_refused(place: Path) -> None:
    first, second, third = shards(place, 3)
    refused(
        place, [first, gathered(place, "a", "2/3", model="twin.onnx"), third], "a.npz is of another model than .*1-of-3"
    )
    refused(
        place,
        [first, gathered(place, "a", "2/3", seed=1), third],
        r"a.npz was gathered with seed 1, .* with 0; gather all",
    )
    refused(
        place, [first, gathered(place, "a", "2/3", criterion="wanda"), third], "a.npz is of another kinds of evidence"
    )
    refused(place, [first, gathered(place, "a", "2/3", data="less.npz"), third], "a.npz is of another data than")
    refused(place, [first, second], r"rows 48 to 72 of 73 are in none of these files; .*3/3")
    refused(place, [second, third], r"rows 0 to 15 of 73 are in none .*\(1/3\)")
    refused(place, [first, second, third, second], r"rows 16 to 31 are in .*2-of-3.npz and in .*2-of-3.npz")
    half = gathered(place, "half", "1/2")
    refused(
        place,
        [first, second, third, half],
        "rows 0 to 15 are in .*1-of-3.npz and in .*half.npz, and would be counted twice",
    )


def test_a_run_that_the_file_does_not_fit_is_refused(place: Path) -> None:
    whole = gathered(place, "whole")

    def refused_run(words: str, error: type[Exception] = DataError, **changes: Any) -> None:
        how: dict[str, Any] = {"criterion": "obs", "batch": 2, "latency": False, "calibration": place / "x.npz"}
        model = place / changes.pop("model", "net.onnx")
        with pytest.raises(error, match=words):
            onnxprune.prune(model, **{"stats": whole, **how, **changes})

    refused_run("gathered for another model", model="twin.onnx")
    refused_run("with seed 0, this run has 1", seed=1)
    refused_run("with batch 2, this run has 4", batch=4)
    refused_run("from 73 rows, this run decides by 72", calibration=place / "less.npz")
    refused_run("from other rows than the calibration data", calibration=place / "others.npz")
    refused_run(r"from 73 rows, this run decides by 6\d; .*--recover", recover=1)
    refused_run("another kinds of evidence", criterion="wanda")
    refused_run("holds part 1 of 3 only; merge all parts", stats=shards(place, 3)[0])
    refused_run("this run gathers none", UsageError, criterion="l1")
    refused_run("this run gathers none", UsageError, rotate=True)


def test_stats_without_a_criterion_that_looks_at_data_are_refused(place: Path) -> None:
    for settings in ({"criterion": "l1"}, {"criterion": "auto"}):
        with pytest.raises(UsageError, match="name one that looks at data"):
            gathered(place, "none", **settings)


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "a/b", "1/0", "-1/2"])
def test_a_shard_is_one_of_several(place: Path, shard: str) -> None:
    with pytest.raises(UsageError, match="give which part of how many"):
        gathered(place, "none", shard)


# --- files that nobody should trust ---------------------------------------------------------------------------------


def damaged(place: Path, change: Any) -> Path:
    """Write a file of statistics with another header."""
    with np.load(gathered(place, "whole")) as archive:
        arrays = {name: archive[name] for name in archive.files}
    header = json.loads(arrays[HEADER].tobytes())
    change(header, arrays)
    arrays[HEADER] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez(place / "damaged.npz", **arrays)
    return place / "damaged.npz"


DAMAGES = {
    "another format": lambda header, arrays: header.update(format=9),
    "no passes": lambda header, arrays: header.pop("passes"),
    "an unknown object": lambda header, arrays: header["passes"][0]["parts"][0].__setitem__(
        2, {"object": "Popen", "of": {}}
    ),
    "a number for a pass": lambda header, arrays: header.update(passes=[3]),
    "a plain value for what was seen": lambda header, arrays: header["passes"][0]["parts"][0].__setitem__(
        2, {"plain": 1}
    ),
    "an array that is not there": lambda header, arrays: header.update(rows={"0": {"array": 999}}),
    "deep nesting": lambda header, arrays: header.update(passes=json.loads("[" * 900 + "]" * 900)),
    "no settings": lambda header, arrays: header["about"].update(settings=None),
    "no shard": lambda header, arrays: header.update(shard=[1]),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_files_are_told(place: Path, kind: str) -> None:
    path = damaged(place, DAMAGES[kind])
    with pytest.raises(DataError, match="is no file of statistics of this version"):
        Gathered.load(path)


def test_arrays_of_another_shape_do_not_end_in_a_traceback(place: Path) -> None:
    def change(header: Any, arrays: Any) -> None:
        for name in arrays:
            if name != HEADER and arrays[name].ndim == 3:
                arrays[name] = np.ones((1, 2, 2))

    path = damaged(place, change)
    with pytest.raises(DataError, match=r"damaged.npz"):
        onnxprune.prune(
            place / "net.onnx", calibration=place / "x.npz", criterion="obs", batch=2, latency=False, stats=path
        )


def test_what_is_read_is_not_written_and_nothing_else_is_replaced(place: Path) -> None:
    (place / "notes.npz").write_bytes((place / "x.npz").read_bytes())
    with pytest.raises(UsageError, match="is not a file of statistics"):
        gathered(place, "notes")
    with pytest.raises(UsageError, match="read as calibration data"):
        api.stats(place / "net.onnx", place / "x.npz", place / "x.npz", criterion="obs")
    part = shards(place, 2)
    with pytest.raises(UsageError, match="is an input of stats"):
        api.merge_stats(part, part[0])


def test_parts_of_different_machines_are_told(place: Path) -> None:
    first, second = shards(place, 2)
    assert api.merge_stats([first, second], place / "merged.npz")["warnings"] == []
    found = Gathered.load(second)
    found.machines = [{**found.machines[0], "numpy": "1.0", "cpu": ["x86_64", "sse2"]}]
    found.save(second)
    told = api.merge_stats([first, second], place / "merged.npz")["warnings"]
    assert len(told) == 2 and "different processors" in told[0] and "numpy 1.0 against" in told[1]
