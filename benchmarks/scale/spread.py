"""Evidence over many sentences, by one process, by shards, and by Dask workers of which one is killed: the bytes, the time, the memory.

python benchmarks/scale/spread.py MODEL DATA [--rows 20000] [--parts bytes,time,memory] [--timed 3000] [--turns 3] [--folder OUT]

MODEL, DATA: a sentence encoder and the tokens of sentences, .onnx and .npz, which --from FOLDER makes first out of a model folder as
transformers reads it (needs torch and transformers; see benchmarks/quality/sentences.py) and of the docstrings of all installed packages.
All by one thread each; --parts:

bytes   one process; 7 shards, merged; 4 workers of a real scheduler on loopback, one SIGKILLed midway: SHA-256 of the three files
time    1 worker and 2 workers of such a scheduler over --timed rows, in turns, --turns times: seconds, and CPU seconds of each worker
memory  peak resident memory of one process over 1,000, 10,000 and 100,000 rows (as many as DATA has)
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import resource
import signal
import site
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
SHARDS, WORKERS = 7, 4
WORKER = ("--host", "127.0.0.1", "--nthreads", "1", "--no-nanny", "--no-dashboard", "--memory-limit", "0")


def made(folder: Path, model: Path, data: Path, rows: int) -> None:
    """Write the encoder of a folder, and the tokens of ``rows`` sentences."""
    sys.path.insert(0, str(ROOT / "benchmarks" / "quality"))
    import sentences

    places = (*site.getsitepackages(), sysconfig.get_paths()["stdlib"])
    files = [path for place in places for path in sorted(Path(place).rglob("*.py")) if readable(path)]
    texts = sentences.sentences(files, rows, 0)
    sentences.export(folder, model)
    np.savez(data, **sentences.tokens(folder, texts))
    print(f"{len(texts):,} sentences of {len(files):,} files")


def readable(path: Path) -> bool:
    try:
        compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
    except (SyntaxError, ValueError, OSError, RecursionError):
        return False
    return True


def first_rows(data: Path, rows: int, folder: Path) -> Path:
    """Write the first rows of the data, and return the file."""
    target = folder / f"rows-{rows}.npz"
    with np.load(data) as found:
        np.savez(target, **{name: found[name][:rows] for name in found.files})
    return target


def stats(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "onnxprune", "stats", *map(str, arguments)]


def timed(command: list[str], folder: Path) -> tuple[float, float]:
    """Run a command; return (seconds, peak resident megabytes)."""
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, env={**os.environ, **ONE_THREAD}, check=True, capture_output=True)
    return time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


@contextmanager
def cluster(count: int, folder: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """Yield HOST:PORT of a scheduler with so many worker processes, and these."""
    log = folder / "scheduler.log"
    at = ("--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0")
    running = [started("scheduler", log, folder, *at)]
    try:
        while not (found := re.search(r"tcp://(127\.0\.0\.1:\d+)", log.read_text())):
            time.sleep(0.2)
        own = (f"tcp://{found[1]}", *WORKER, "--local-directory", str(folder))
        running += [started("worker", folder / f"worker-{n}.log", folder, *own) for n in range(count)]
        while log.read_text().count("Register worker") < count:
            time.sleep(0.2)
        yield found[1], running[1:]
    finally:
        for process in running:
            process.kill()
            process.wait()


def started(kind: str, log: Path, folder: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *options]
    with log.open("wb") as stream:
        return subprocess.Popen(command, cwd=folder, stdout=stream, stderr=stream, env={**os.environ, **ONE_THREAD})


def cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    """Return the CPU time that a process has taken so far."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def same_bytes(model: Path, data: Path, folder: Path) -> None:
    how = (model, "--calib", data, "--criterion", "obs")
    seconds, peak = timed(stats(*how, "-o", "one.npz"), folder)
    print(f"one process: {seconds:.0f} s, {peak:.0f} MB", flush=True)
    for number in range(1, SHARDS + 1):
        seconds, _ = timed(stats(*how, "--shard", f"{number}/{SHARDS}", "-o", f"shard-{number}.npz"), folder)
        print(
            f"shard {number}/{SHARDS}: {seconds:.0f} s, {(folder / f'shard-{number}.npz').stat().st_size / 1e6:.0f} MB",
            flush=True,
        )
    parts = [f"shard-{number}.npz" for number in range(SHARDS, 0, -1)]
    seconds, _ = timed(stats("merge", *parts, "-o", "merged.npz"), folder)
    print(f"merged: {seconds:.1f} s", flush=True)
    with cluster(WORKERS, folder) as (address, workers):
        start = time.perf_counter()
        command = stats(*how, "-o", "dask.npz", "--spread", f"dask://{address}", "-v")
        run = subprocess.Popen(command, cwd=folder, env={**os.environ, **ONE_THREAD}, stderr=subprocess.PIPE, text=True)
        assert run.stderr is not None
        for line in run.stderr:
            if (
                (found := re.search(r"observing: (\d+) of (\d+) parts", line))
                and 2 * int(found[1]) >= int(found[2]) - 6
                and workers[0].poll() is None
            ):
                workers[0].send_signal(signal.SIGKILL)
                workers[0].wait()
                print(
                    f"killed a worker after {found[1]} of {found[2]} parts, {time.perf_counter() - start:.0f} s",
                    flush=True,
                )
        assert run.wait() == 0
        print(f"{WORKERS} workers, one killed: {time.perf_counter() - start:.0f} s")
    for name in ("one.npz", "merged.npz", "dask.npz"):
        print(hashlib.sha256((folder / name).read_bytes()).hexdigest(), name)


def two_against_one(model: Path, data: Path, folder: Path, turns: int) -> None:
    for turn in range(turns):
        found = {}
        for count in (1, 2):
            with cluster(count, folder) as (address, workers):
                before = [cpu_seconds(worker) for worker in workers]
                seconds, _ = timed(
                    stats(
                        model,
                        "--calib",
                        data,
                        "--criterion",
                        "obs",
                        "-o",
                        f"{count}.npz",
                        "--spread",
                        f"dask://{address}",
                    ),
                    folder,
                )
                cpu = [cpu_seconds(worker) - start for worker, start in zip(workers, before, strict=True)]
            found[count] = seconds
            print(
                f"{count} workers: {seconds:.1f} s, CPU seconds {', '.join(f'{each:.1f}' for each in cpu)}, load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
        print(f"turn {turn}: {found[2] / found[1]:.2f}", flush=True)


def memory(model: Path, data: Path, folder: Path) -> None:
    with np.load(data) as found:
        most = len(found[found.files[0]])
    for rows in (count for count in (1_000, 10_000, 100_000) if count <= most):
        part = first_rows(data, rows, folder)
        seconds, peak = timed(stats(model, "--calib", part, "--criterion", "obs", "-o", "memory.npz"), folder)
        print(f"{rows:,} rows: {peak:.0f} MB, {seconds:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--from", dest="source", type=Path)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--timed", type=int, default=3_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--parts", default="bytes,time,memory")
    parser.add_argument("--folder", type=Path, default=Path("spread-out"))
    chosen = parser.parse_args()
    folder = chosen.folder.absolute()
    folder.mkdir(exist_ok=True)
    if chosen.source is not None:
        made(chosen.source, chosen.model, chosen.data, max(chosen.rows, 100_000))
    model, data = chosen.model.absolute(), chosen.data.absolute()
    parts = chosen.parts.split(",")
    if "bytes" in parts:
        same_bytes(model, first_rows(data, chosen.rows, folder), folder)
    if "time" in parts:
        two_against_one(model, first_rows(data, chosen.timed, folder), folder, chosen.turns)
    if "memory" in parts:
        memory(model, data, folder)


if __name__ == "__main__":
    main()
