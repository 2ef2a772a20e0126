"""A real scheduler and worker processes: the bytes of one process, also where a worker is killed on the way."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import save
from support.networks import network

from onnxprune import api
from onnxprune.errors import DataError, OnnxPruneError, UsageError
from onnxprune.means import mapped
from onnxprune.spread import cluster

pytest.importorskip("distributed")
from support.dask import started

NET = "h = MatMul(x, %8x16)\na = Relu(h)\nk = MatMul(a, %16x12)\nb = Relu(k)\ny = MatMul(b, %12x4)"
Started = tuple[str, list[Any]]


@pytest.fixture(scope="module")
def dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    with started(tmp_path_factory.mktemp("dask"), 3) as found:
        yield found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cluster")
    save(network(NET, "float[n,8] x", "float[n,4] y"), path / "net.onnx")
    np.savez(path / "x.npz", x=np.random.default_rng(0).standard_normal((5_000, 8)).astype(np.float32))
    return path


def slowly(item: int) -> int:
    time.sleep(0.15)
    return item * item


def failing(item: int) -> int:
    raise DataError(f"row {item} is bad")


def test_a_cluster_gives_the_bytes_of_one_process_with_a_worker_killed_on_the_way(dask: Started, place: Path) -> None:
    address, workers = dask
    how: dict[str, Any] = {"criterion": "fisher", "batch": 4}
    api.stats(place / "net.onnx", place / "x.npz", place / "one.npz", **how)
    said: list[str] = []

    def heard(text: str) -> None:
        said.append(text)
        if re.search(
            r"differentiating: 2 of \d+ parts", text
        ):  # how many there are depends on how many workers are there
            workers[0].send_signal(signal.SIGKILL)

    api.stats(
        place / "net.onnx", place / "x.npz", place / "many.npz", spread=f"dask://{address}", progress=heard, **how
    )
    assert workers[0].wait(60) == -signal.SIGKILL
    assert (place / "many.npz").read_bytes() == (place / "one.npz").read_bytes()
    assert any(re.search(r"differentiating: (\d+) of \1 parts", text) for text in said), said


def test_results_and_errors(dask: Started) -> None:
    found = cluster.Cluster(dask[0])
    assert mapped(found, slowly, list(range(6))) == [item * item for item in range(6)]
    with pytest.raises(DataError, match="row 7 is bad"):
        mapped(found, failing, [7])


def test_a_scheduler_without_workers_or_that_ends_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "WORKERS", 1)
    with started(tmp_path, 0) as (address, _):
        found = cluster.Cluster(address)
        with pytest.raises(UsageError, match="has no worker; start some with 'dask worker"):
            _ = found.workers
    monkeypatch.setattr(cluster, "CONNECT", 1)
    with pytest.raises((UsageError, OnnxPruneError), match=r"no scheduler answers at|is gone; start it again"):
        _ = cluster.Cluster(address).workers
