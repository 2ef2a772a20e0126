"""Forward and backward of a network, batch 64, one thread: CPU time and peak memory here against torch autograd.

    python benchmarks/gradients/bench.py [model.onnx] [--batch 64] [--rounds 10]

Needs torch for the comparison; without it only this side is measured. The torch side runs the same ONNX graph node by
node.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from onnx import numpy_helper

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

MODEL = ROOT.parent / "shared" / "models" / "resnet20_cifar10.onnx"
Step = Callable[[], None]


def feeds_of(model, batch: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    value = model.proto.graph.input[0]
    shape = [dim.dim_value or batch for dim in value.type.tensor_type.shape.dim]
    return {value.name: random.standard_normal([batch, *shape[1:]]).astype(np.float32)}


def parameters_of(model) -> dict[str, np.ndarray]:
    """Float parameters that are trained: not the running statistics, inputs 3 and 4 of a BatchNormalization."""
    graph = model.proto.graph
    frozen = {name for node in graph.node if node.op_type == "BatchNormalization" for name in node.input[3:]}
    arrays = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    return {name: a for name, a in arrays.items() if a.dtype.kind == "f" and name not in frozen and a.ndim}


def own_step(path: Path, batch: int) -> Step:
    from onnxprune.grad import backward, losses
    from onnxprune.model.read import load
    from onnxprune.model.runtime import session

    model = load(path)
    parameters = parameters_of(model)
    labels = np.arange(batch) % 10
    graph = backward(model, list(parameters), losses.cross_entropy(), parameters_as_inputs=True)
    running = session(graph, threads=1)
    feeds = {**feeds_of(model, batch), **parameters, "labels": labels}
    return lambda: void(running.run(feeds))


def torch_step(path: Path, batch: int) -> Step:
    import torch
    from support import torch_reference

    from onnxprune.model.read import load

    torch.set_num_threads(1)
    model = load(path)
    trained = parameters_of(model)
    values = {t.name: torch.tensor(numpy_helper.to_array(t)) for t in model.proto.graph.initializer}
    values |= {name: torch.tensor(array) for name, array in feeds_of(model, batch).items()}
    leaves = [values[name].requires_grad_() for name in trained]
    labels = torch.arange(batch) % 10

    def step() -> None:
        logits = torch_reference.run(model.proto, values)
        torch.autograd.grad(torch.nn.functional.cross_entropy(logits, labels), leaves)

    return step


def void(result: object) -> None:
    """Drop a result."""


SIDES = {"onnxprune": own_step, "torch": torch_step}


def cpu_ms(steps: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    """CPU time of each round in milliseconds, the sides in turn, after one round to warm up."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.process_time()
            step()
            times[name].append(1e3 * (time.process_time() - start))
    return times


def peak_mb(side: str, path: Path, batch: int, queue) -> None:
    """Growth of the peak resident memory over the first two steps in MiB, everything loaded before (Linux only)."""
    step = SIDES[side](path, batch)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is resident now
    before = memory_kb("VmRSS")
    step()
    step()
    queue.put((memory_kb("VmHWM") - before) / 1024)


def memory_kb(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def in_own_process(side: str, path: Path, batch: int) -> float:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=peak_mb, args=(side, path, batch, queue))
    process.start()
    result = queue.get()
    process.join()
    return float(result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, default=MODEL)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    steps = {}
    for name, make in SIDES.items():
        try:
            steps[name] = make(arguments.model, arguments.batch)
        except ModuleNotFoundError as error:
            print(f"{name}: skipped, {error}")
    times = cpu_ms(steps, arguments.rounds)
    memory: dict[str, float] = {}
    for name, found in times.items():
        memory[name] = in_own_process(name, arguments.model, arguments.batch)
        spent = f"CPU median {np.median(found):7.1f} ms, best {min(found):7.1f} ms"
        print(f"{name:10s} {spent}, peak memory +{memory[name]:.0f} MiB")
    if len(times) == 2:
        own, other = (np.median(times[name]) for name in SIDES)
        print(f"CPU time: {own / other:.2f} x torch, memory: {memory['onnxprune'] / memory['torch']:.2f} x torch")


if __name__ == "__main__":
    main()
