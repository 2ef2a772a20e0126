"""Gradients of every model of a folder: built? like central differences? like torch autograd, where it can follow?

    python benchmarks/gradients/zoo.py folder [--limit 60] [--skip-differences]

One JSON line per model, a summary at the end. Every model runs in a process of its own, for a minute or two at most.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

TORCH_TOLERANCE = 1e-4
SECONDS = 120


def feeds_of(facts, graph) -> dict[str, np.ndarray]:
    """Normal floats, small tokens; ones for masks, positions and whatever else is an integer of rank one."""
    from onnx import helper

    random = np.random.default_rng(0)
    feeds = {}
    for name in graph.inputs:
        kind, shape = helper.tensor_dtype_to_np_dtype(facts.dtype(name)), facts.shape(name)
        tokens = kind.kind in "iu" and len(shape) > 1 and "mask" not in name and "pos" not in name
        drawn = random.integers(1, 50, shape) if tokens else np.ones(shape)
        feeds[name] = np.asarray(random.standard_normal(shape) if kind.kind == "f" else drawn, kind)
    return feeds


def torch_error(model, feeds, names, shapes) -> float | None:
    """Largest relative difference of a tensor's gradient from torch's; None where the interpreter cannot follow.

    Models with 16-bit floats are left out: torch would compute them in 16 bits.
    """
    from onnxprune.grad import backward, gradient_name, losses
    from onnxprune.grad.prepare import NARROW
    from onnxprune.model.runtime import session

    try:
        import torch
        from support import torch_reference
    except ModuleNotFoundError:
        return None
    if any(tensor.data_type in NARROW for tensor in model.proto.graph.initializer):
        return None
    torch.set_num_threads(1)
    output = model.proto.graph.output[0].name
    graph = backward(model, names, losses.total(output, weights="weights"), input_shapes=shapes)
    try:
        with torch.no_grad():
            values = torch_reference.stored(model.proto) | {n: torch.tensor(a) for n, a in feeds.items()}
            shape = torch_reference.run(model.proto, values).shape
        weights = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
        theirs = torch_reference.gradients(model.proto, feeds, names, lambda y: (y * torch.tensor(weights)).sum())
    except (KeyError, AssertionError, RuntimeError, TypeError, IndexError, ValueError):
        return None
    ours = session(graph).run({**feeds, "weights": weights})
    largest = max(float(np.linalg.norm(g.astype(np.float64))) for g in theirs.values())
    pairs = ((ours[gradient_name(name)].astype(np.float64), g.astype(np.float64)) for name, g in theirs.items())
    return max(float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-4 * largest)) for a, b in pairs)


def row(path: Path, differences: bool) -> dict:
    from onnxprune.errors import OnnxPruneError
    from onnxprune.grad import backward, check_grads
    from onnxprune.grad.check import default_targets
    from onnxprune.model.facts import gather_facts
    from onnxprune.model.graph import Graph
    from onnxprune.model.read import load

    result: dict = {"model": path.stem}
    try:
        model = load(path)
        graph = Graph(model.structure)
        facts = gather_facts(model, graph)
        names, feeds = default_targets(model), feeds_of(facts, graph)
        shapes = {name: facts.shape(name) for name in graph.inputs}
        backward(model, names, input_shapes=shapes)
        result["built"] = True
        result["torch"] = torch_error(model, feeds, names, shapes)
        if differences:
            check = check_grads(model, feeds=feeds, input_shapes=shapes)
            result |= {"error": check.error, "dtype": check.dtype, "passed": check.passed}
    except OnnxPruneError as error:
        result["reason"] = str(error)
    return result


def preload() -> None:
    """Import what every process needs once, before they are forked."""
    import onnxruntime  # noqa: F401

    import onnxprune.grad  # noqa: F401

    with contextlib.suppress(ModuleNotFoundError):
        from support import torch_reference  # noqa: F401


def worker(path: Path, differences: bool, queue) -> None:
    queue.put(row(path, differences))


def in_own_process(path: Path, differences: bool) -> dict:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=worker, args=(path, differences, queue))
    process.start()
    process.join(SECONDS)
    if process.is_alive():
        process.kill()
        return {"model": path.stem, "reason": f"longer than {SECONDS} s"}
    return queue.get() if not process.exitcode else {"model": path.stem, "reason": f"exit code {process.exitcode}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--skip-differences", action="store_true")
    arguments = parser.parse_args()
    preload()
    rows = []
    for path in sorted(arguments.folder.glob("*.onnx"), key=lambda path: path.stat().st_size)[: arguments.limit]:
        rows.append(in_own_process(path, not arguments.skip_differences))
        print(json.dumps(rows[-1]), flush=True)
    compared = [r["torch"] for r in rows if r.get("torch") is not None]
    print(f"{len(rows)} models, {sum(r.get('built', False) for r in rows)} built")
    print(f"{sum(r.get('passed', False) for r in rows)} like central differences")
    print(f"{sum(error <= TORCH_TOLERANCE for error in compared)} of {len(compared)} within {TORCH_TOLERANCE} of torch")


if __name__ == "__main__":
    main()
