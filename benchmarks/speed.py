"""Time and memory of a whole run on a model the size of ResNet-50, by stage; start-up; analysis, cut and proof by number of nodes.

python benchmarks/speed.py [resnet50 | startup | analysis]
python benchmarks/speed.py against MODEL.onnx [PYTHON]: the command by weights alone, in turns with onnxsim's simplify and structured
pruning of the same file, by the Python of an environment that has onnxsim; CPU seconds of one thread, from start to exit.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper
from support import light

REPEATS = 3
BLOCKS = (25, 250, 2500, 7500)  # of four nodes each


def rss_mib() -> float:
    """Return what this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


class Watch(threading.Thread):
    """Samples the memory of this process every 2 ms; ``peaks``: stage -> MiB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.stage, self.peaks = "start", {"start": 0.0}
        self.start()

    def run(self) -> None:
        while True:
            self.peaks[self.stage] = max(self.peaks.get(self.stage, 0.0), rss_mib())
            time.sleep(0.002)

    def enter(self, stage: str) -> None:
        self.stage = stage


def prune_once(path: str, latency: bool) -> None:
    """Print seconds and peak memory by stage as JSON; runs in a process of its own."""
    start = time.perf_counter()
    watch = Watch()
    import onnxprune

    output = f"{path}.small.onnx"
    result = onnxprune.prune(
        path, criterion="l2", output=output, force=True, latency=latency, threads=2, progress=watch.enter
    )
    watch.enter("done")
    seconds = result.report["seconds"] | {"total with imports": time.perf_counter() - start}
    print(json.dumps({"seconds": seconds, "peaks": watch.peaks, "peak": result.report["peak_rss_bytes"] / 2**20}))


def resnet50() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "resnet50.onnx"
        onnx.save(light.filled("resnet50"), path)
        for latency in (False, True):
            runs = []
            for _ in range(REPEATS):
                command = [sys.executable, __file__, "once", str(path), str(int(latency))]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                runs.append(json.loads(done.stdout))
            best = min(runs, key=lambda run: run["seconds"]["total with imports"])
            print(f"\nprune --criterion l2, {'with' if latency else 'without'} latency measurement: best of {REPEATS}")
            for stage, seconds in best["seconds"].items():
                memory = best["peaks"].get(stage)
                print(f"  {stage:18} {seconds:6.2f} s" + (f" {memory:8.0f} MiB" if memory else ""))
            totals = sorted(round(run["seconds"]["total with imports"], 2) for run in runs)
            print(f"  peak {best['peak']:.0f} MiB; totals {totals}")


def startup() -> None:
    times = []
    for _ in range(10):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "onnxprune", "--help"], capture_output=True, check=True)
        times.append(time.perf_counter() - start)
    print(f"\nonnxprune --help: {min(times):.3f} s at best, {sorted(times)[5]:.3f} s in the middle of 10")


def chain(blocks: int) -> ModelProto:
    """Residual blocks of four nodes on a stream of 32 channels, of which each inner half may go."""
    rng = np.random.default_rng(0)
    nodes, tensors, value = [], [], "x"
    for i in range(blocks):
        for name, shape in ((f"w{i}", (16, 32, 1, 1)), (f"v{i}", (32, 16, 1, 1))):
            tensors.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
        nodes += [
            helper.make_node("Conv", [value, f"w{i}"], [f"a{i}"]),
            helper.make_node("Relu", [f"a{i}"], [f"b{i}"]),
            helper.make_node("Conv", [f"b{i}", f"v{i}"], [f"c{i}"]),
            helper.make_node("Add", [value, f"c{i}"], [f"x{i}"]),
        ]
        value = f"x{i}"
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 32, 4, 4]) for name in ("x", value)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def analysis() -> None:
    import onnxprune
    from onnxprune.coupling.cut import cut
    from onnxprune.coupling.silence import silenced
    from onnxprune.proof.check import check_cut

    onnxprune.analyze(chain(5))
    print("\nCPU seconds for residual blocks, half of every group cut")
    print("   nodes  groups  analyse      cut  silence    check    total")
    for blocks in BLOCKS:
        model = onnxprune.load(chain(blocks))
        times = [time.process_time()]
        found = onnxprune.analyze(model)
        times.append(time.process_time())
        kept = [np.arange(group.width) % 2 == 0 for group in found.groups]
        small = cut(found, kept)
        times.append(time.process_time())
        silenced(found, kept)
        times.append(time.process_time())
        assert check_cut(found, kept, small).exact
        times.append(time.process_time())
        columns = " ".join(f"{seconds:8.2f}" for seconds in [*np.diff(times), times[-1] - times[0]])
        print(f"  {4 * blocks:6} {len(found.groups):7} {columns}")


SIMPLIFIED = """
import sys, onnx, onnxsim
model, _ = onnxsim.simplify(onnx.load(sys.argv[1]))
onnx.save(onnxsim.apply_structured_pruning_cpp(model, 0.5), sys.argv[2])
"""


def spent(command: list[str]) -> tuple[float, float]:
    """Return the CPU seconds and the peak MiB of a process, whose files of bytecode are there as after an installation."""
    own = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=own, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, command
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def against(model: str, other: str = "") -> None:
    """Print what either took in each of five turns, the first of which fills caches and does not count."""
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "small.onnx")
        commands = {
            "onnxprune": [sys.executable, "-m", "onnxprune", "prune", model, "-o", out, "--force", "--no-latency", "-q"]
        }
        if other:
            commands["onnxsim"] = [other, "-c", SIMPLIFIED, model, out]
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for _ in range(6):
            for name, command in commands.items():
                found[name].append(spent(command))
    for name, runs in found.items():
        seconds, peaks = zip(*runs[1:], strict=True)
        told = ", ".join(f"{s:.2f}" for s in seconds)
        print(f"{name:10} {sorted(seconds)[2]:.2f} CPU s in the middle of {told}; {max(peaks):.0f} MiB at most")


PARTS = {"resnet50": resnet50, "startup": startup, "analysis": analysis}

if __name__ == "__main__":
    if sys.argv[1:2] == ["once"]:
        prune_once(sys.argv[2], sys.argv[3] == "1")
    elif sys.argv[1:2] == ["against"]:
        against(*sys.argv[2:])
    else:
        for part in sys.argv[1:] or PARTS:
            PARTS[part]()
