"""Whole runs with external data, ended at random moments: is the old or the new model complete, and what is left over?

python benchmarks/kill.py [--count 200] [--seed 0] [--megabytes 64]

Ends ``onnxprune prune in.onnx -o small.onnx --force`` by SIGKILL, SIGTERM and SIGINT, one time in five anywhere in the run and else while
it writes, and by a full disk (as root a tmpfs of random size, else RLIMIT_FSIZE). Prints a table: how it was ended, which model
was there then, files left over at once and after the next save (which has to be none), and exit codes. Ends with 1 where a
model was neither the old nor the new one, or anything was left after the next save.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import ModelProto, helper, numpy_helper

from onnxprune.errors import OnnxPruneError
from onnxprune.model import read
from onnxprune.model.write import save

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
FULL = "full disk"
WRITING = "writing"  # the stage, as -v names it


def network(megabytes: float) -> ModelProto:
    """Return two MatMuls of that many float32 weights; the bias behind them stays as it is, and external."""
    width = int(np.sqrt(megabytes * 2**20 / 8))
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((width, width), np.float32) for _ in range(2)]
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w1"], ["s"]),
        helper.make_node("Add", ["s", "bias"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, 1, ["N", width]) for name in "xy"]
    stored = [numpy_helper.from_array(array, f"w{number}") for number, array in enumerate(weights)]
    stored.append(numpy_helper.from_array(np.ones(width, np.float32), "bias"))
    graph = helper.make_graph(nodes, "net", values[:1], values[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@dataclass
class Trial:
    """Where runs write, the model that is there before each, and what each would make of it."""

    source: Path
    out: Path
    old: read.Model
    new_sha256: str = ""
    old_sha256: str = ""
    seconds: float = 0.0  # of writing

    def command(self) -> list[str]:
        options = ["--force", "--no-latency", "-v", "--ratio", "0.25"]
        return [sys.executable, "-m", "onnxprune", str(self.source), "-o", str(self.out), *options]

    def restore(self) -> list[str]:
        """Write the old model again, as the next save would; returns what is left beside it then."""
        self.old_sha256 = save(self.old, self.out, force=True)
        return self.leftover()

    def leftover(self) -> list[str]:
        """Return files beside the model and its data."""
        found = {path.name for path in self.out.parent.iterdir()}
        needed = {self.out.name, *(path.name for path in read.load(self.out).data)} if self.out.exists() else set()
        return sorted(found - needed)

    def state(self) -> str:
        """Return which model is there: old, new or broken."""
        try:
            found = read.load(self.out).sha256
        except OnnxPruneError as error:
            return f"broken: {error}"
        return {self.old_sha256: "old", self.new_sha256: "new"}.get(found, "broken: another")

    def run(self, end: Callable[[subprocess.Popen[str]], None], limit: int | None = None) -> int:
        """Run the command, let ``end`` end it, and return its exit code."""
        process = subprocess.Popen(
            self.command(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            preexec_fn=None if limit is None else lambda: _limit_files(limit),
        )  # fmt: skip
        end(process)
        process.communicate()
        return process.returncode


def _limit_files(size: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def wait_for_writing(process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if WRITING in line:
            return


def prepared(folder: Path, source: Path, megabytes: float) -> Trial:
    """Return a trial whose folder has an old model, its command measured."""
    old_path = source.with_name("old.onnx")
    save(network(megabytes * 0.8), old_path, external=True, force=True)
    trial = Trial(source, folder / "small.onnx", read.load(old_path))
    trial.restore()

    def measure(process: subprocess.Popen[str]) -> None:
        wait_for_writing(process)
        start = time.perf_counter()
        process.wait()
        trial.seconds = time.perf_counter() - start

    if trial.run(measure):
        raise SystemExit("the run itself fails")
    new = read.load(trial.out)
    trial.new_sha256 = new.sha256
    assert new.data, "the new model has no data file"
    trial.restore()
    return trial


def killing(kind: signal.Signals, trial: Trial, chance: random.Random) -> Callable[[subprocess.Popen[str]], None]:
    anywhere = chance.random() < 0.2
    share = chance.random() ** 2  # the end of writing is the end of the process, which takes its time

    def end(process: subprocess.Popen[str]) -> None:
        if not anywhere:
            wait_for_writing(process)
        time.sleep(share * (2.0 if anywhere else trial.seconds))
        process.send_signal(kind)

    return end


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


Row = tuple[str, str, str, str, int]


def signalled(trial: Trial, count: int, chance: random.Random) -> Iterator[Row]:
    for number in range(count):
        kind = SIGNALS[number % len(SIGNALS)]
        code = trial.run(killing(kind, trial, chance))
        yield kind.name, trial.state(), " ".join(_kinds(trial.leftover())), " ".join(_kinds(trial.restore())), code


def disk_full(trial: Trial, work: Path, count: int, chance: random.Random) -> Iterator[Row]:
    """Let the disk have room for the old model and for a part of the new one, at most all but a byte."""
    old = sum(path.stat().st_size for path in (trial.old.path, *trial.old.data) if path)
    for _ in range(count):
        size = int(old * chance.uniform(0.05, 1.0))
        if os.geteuid():
            code = trial.run(lambda process: None, limit=size)
            yield FULL, trial.state(), " ".join(_kinds(trial.leftover())), " ".join(_kinds(trial.restore())), code
            continue
        disk = work / "disk"
        with small_disk(disk, old + 65536 + size):
            there = Trial(trial.source, disk / "small.onnx", trial.old, trial.new_sha256)
            there.restore()
            code = there.run(lambda process: None)
            yield FULL, there.state(), " ".join(_kinds(there.leftover())), "", code


def _kinds(names: list[str]) -> list[str]:
    return [Path(name).suffix for name in names]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--megabytes", type=float, default=64)
    chosen = parser.parse_args()
    chance = random.Random(chosen.seed)
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        (work / "out").mkdir()
        source = work / "in.onnx"
        save(network(chosen.megabytes), source, external=True)
        trial = prepared(work / "out", source, chosen.megabytes)
        print(f"writing takes {trial.seconds:.2f} s", flush=True)
        full = chosen.count // 4
        rows: list[Row] = []
        for row in (*signalled(trial, chosen.count - full, chance), *disk_full(trial, work, full, chance)):
            rows.append(row)
            if row[1].startswith("broken") or row[3]:
                print(row, flush=True)
    for (kind, state, left, after, code), number in sorted(Counter(rows).items()):
        print(f"{number:4}  {kind:9}  {state:4}  left over: {left or 'nothing':14}  after the next save: "
              f"{after or 'nothing'}  exit code {code}")  # fmt: skip
    bad = [row for row in rows if row[1] not in ("old", "new") or row[3]]
    print(f"{len(rows)} runs, {len(bad)} with a broken model or files left over after the next save")
    return int(bool(bad))


if __name__ == "__main__":
    raise SystemExit(main())
