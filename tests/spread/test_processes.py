"""Processes of this machine: the same results, errors as they are, and work of a worker that is killed is done again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import save
from support.networks import network

import onnxprune
from onnxprune import api
from onnxprune.errors import DataError, OnnxPruneError, UsageError
from onnxprune.means import mapped
from onnxprune.settings import Settings, make_settings
from onnxprune.spread import processes
from onnxprune.spread.engines import spread_by

NET = "h = MatMul(x, %8x16)\na = Relu(h)\nk = MatMul(a, %16x12)\nb = Relu(k)\ny = MatMul(b, %12x4)"


@pytest.fixture(scope="module", autouse=True)
def ended() -> Iterator[None]:
    yield
    from loky import get_reusable_executor

    get_reusable_executor(max_workers=2).shutdown(kill_workers=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("processes")
    save(network(NET, "float[n,8] x", "float[n,4] y", opset=17, ir_version=9), path / "net.onnx")
    random = np.random.default_rng(0)
    np.savez(path / "x.npz", x=random.standard_normal((1500, 8)).astype(np.float32), labels=random.integers(0, 4, 1500))
    return path


@pytest.fixture(scope="module")
def two() -> Any:
    return spread_by("processes:2")


class Killed:
    """Kills its process the first times that it meets an item."""

    def __init__(self, folder: Path, times: int = 1):
        self.folder, self.times = folder, times

    def __call__(self, item: int) -> int:
        mark = self.folder / f"{item}"
        seen = len(mark.read_text()) if mark.exists() else 0
        mark.write_text("." * (seen + 1))
        if item == 3 and seen < self.times:
            os.kill(os.getpid(), signal.SIGKILL)
        return item * item


def failing(item: int) -> int:
    raise DataError(f"row {item} is bad")


def test_results_come_in_order(two: Any) -> None:
    told: list[int] = []
    assert mapped(two, abs, [-3, 2, -1], told.append) == [3, 2, 1] and told == [1, 2, 3]
    assert mapped(None, abs, [-3, 2, -1]) == [3, 2, 1]


def test_errors_are_those_of_the_work(two: Any) -> None:
    with pytest.raises(DataError, match="row 5 is bad"):
        mapped(two, failing, [5])


def slowly(item: int) -> int:
    if item:
        time.sleep(60)
    return item


def test_what_nobody_waits_for_ends(two: Any) -> None:
    found = two.each(slowly, [0, 1, 2])
    assert next(found) == (0, 0)
    start = time.monotonic()
    found.close()
    assert mapped(two, abs, [-1, -2]) == [1, 2] and time.monotonic() - start < 30


def test_what_a_killed_worker_had_is_done_again(two: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert mapped(two, Killed(tmp_path), list(range(8))) == [item * item for item in range(8)]
    assert "a worker process was killed; what it worked on is done again" in caplog.text


def test_workers_that_are_killed_again_and_again_end_the_run(two: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(processes, "RETRIES", 1)
    with pytest.raises(OnnxPruneError, match=r"killed 2 times.*--spread processes:1"):
        mapped(two, Killed(tmp_path, 9), list(range(8)))


def test_runs_give_the_same(place: Path) -> None:
    """Evidence, proposals of the search, probes, points and drift, all in other processes."""
    assert same(place, "") == same(place, "processes:2")


def same(place: Path, spread: str) -> list[Any]:
    how: dict[str, Any] = {"round_to": 1, "latency": False, "calibration": place / "x.npz", "spread": spread}
    runs = ({"criterion": "fisher", "ratio": 0.5}, {"target": "macs=60%"})
    found: list[Any] = []
    for settings in runs:
        result = onnxprune.prune(place / "net.onnx", **how, **settings)
        assert "spread" not in result.report["settings"]
        found += [result.plan.to_json(), result.model.SerializeToString(), told(result.report)]
    found.append(told(api.sensitivity(place / "net.onnx", place / "x.npz", spread=spread)))
    points = {"ratios": [0.25, 0.5], "criteria": ["l1", "wanda"], "folder": place / f"points{spread.partition(':')[0]}"}
    found.append(told(api.sweep(place / "net.onnx", calibration=place / "x.npz", spread=spread, **points)))
    found.append(sorted(path.name for path in points["folder"].iterdir()))  # type: ignore[attr-defined]
    return found


def told(value: Any) -> Any:
    """Return what a report says but for what it took."""
    if isinstance(value, dict):
        return {key: told(item) for key, item in value.items() if key not in ("seconds", "peak_rss_bytes", "made")}
    return [told(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", ["4", "processes:0", "processes:", "dask://", "dask://host", "ray://a:1"])
def test_names_of_spreads(name: str) -> None:
    with pytest.raises(UsageError, match=r"unknown spread .* give processes:N or dask://HOST:PORT"):
        make_settings({"spread": name})


def test_a_package_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxprune.spread.engines.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs distributed; pip install 'onnxprune\[cluster\]'"):
        Settings(spread="dask://127.0.0.1:8786")
    with pytest.raises(UsageError, match="needs loky"):
        Settings(spread="processes:2")
