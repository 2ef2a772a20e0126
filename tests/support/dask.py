"""A real Dask scheduler with worker processes, on loopback."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
PLACES = (ROOT, ROOT / "tests", ROOT / "tests" / "spread")
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, PLACES)), "OMP_NUM_THREADS": "1"}


@contextmanager
def started(folder: Path, workers: int) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """Yield (HOST:PORT of the scheduler, the processes of the workers), and end all of them."""
    log = folder / "scheduler.log"
    running = [_start("scheduler", log, "--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0")]
    try:
        address = _address(log)
        how = (
            "--host",
            "127.0.0.1",
            "--nthreads",
            "1",
            "--no-nanny",
            "--no-dashboard",
            "--local-directory",
            str(folder),
        )
        running += [_start("worker", folder / f"{n}.log", f"tcp://{address}", *how) for n in range(workers)]
        yield address, running[1:]
    finally:
        for process in running:
            process.kill()
            process.wait()


def _start(kind: str, log: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "distributed.cli.dask_" + kind, *options]
    return subprocess.Popen(command, stdout=log.open("wb"), stderr=subprocess.STDOUT, env=ENVIRONMENT, cwd=log.parent)


def _address(log: Path, seconds: float = 30.0) -> str:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := re.search(r"tcp://(127\.0\.0\.1:\d+)", log.read_text()):
            return found[1]
        time.sleep(0.1)
    raise AssertionError(log.read_text())
