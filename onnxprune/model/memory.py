"""Memory of a model: weights exactly, activations by liveness, and what a fresh process really takes."""

from __future__ import annotations

import ctypes
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto

from onnxprune.errors import ModelError
from onnxprune.means import Means
from onnxprune.model.facts import Facts, gather_facts
from onnxprune.model.graph import Graph
from onnxprune.model.read import Model
from onnxprune.model.tensors import packed_size

DEFAULT_LIMIT = 2 << 30
OVERHEAD = 2
"""What a run takes per byte of values that are alive at once."""
ONE_RUN, USUAL_ROWS = 1 << 27, 32
"""Bytes of memory that one run of a model is to take, and rows at a time where it takes less."""


def tensor_bytes(dtype: int, shape: tuple[int, ...]) -> int:
    """Return the bytes of a tensor; 0 for strings and other things that are no numbers."""
    if dtype in (TensorProto.UNDEFINED, TensorProto.STRING):
        return 0
    return packed_size(dtype, math.prod(shape))


def weight_bytes(facts: Facts) -> int:
    """Return the bytes of all stored tensors, initializers and constants, of bodies too."""
    return sum(tensor_bytes(tensor.data_type, tuple(tensor.dims)) for tensor in facts.graph.tensors.values())


def peak_activation_bytes(facts: Facts) -> int | None:
    """Return the most bytes that are alive at once when nodes run in stored order; None where a shape is unknown.

    A value lives from the node that makes it to the last that reads it, inputs and outputs of the model throughout. No node works
    in place and bodies count by what they read and give, so that a runtime may need less, or, with scratch memory, more.
    """
    graph = facts.graph
    sizes = _sizes(facts)
    if sizes is None:
        return None
    last = {name: index for index, node in enumerate(graph.top) for name in node.reads()}
    alive = peak = sum(sizes.get(name, 0) for name in graph.inputs)
    kept = {*graph.inputs, *graph.outputs}
    for index, node in enumerate(graph.top):
        alive += sum(sizes.get(name, 0) for name in node.outputs)
        peak = max(peak, alive)
        ended = {name for name in (*node.reads(), *node.outputs) if last.get(name, index) == index and name not in kept}
        alive -= sum(sizes.get(name, 0) for name in ended)
    return peak


def rows_at_once(facts: Facts, means: Means) -> int | None:
    """Return on how many rows at a time to run a model: as many as given, else those whose values stay within ``ONE_RUN`` bytes.

    More would be no faster, and the runtime keeps what one run took as long as the model is loaded. None where sizes are unknown:
    the bytes of the rows decide.
    """
    peak = peak_activation_bytes(facts)
    if means.batch or peak is None:
        return means.batch
    return min(max(room(means, ONE_RUN) * max(facts.batch, 1) // max(OVERHEAD * peak, 1), 1), USUAL_ROWS)


def bytes_allowed(given: int | None) -> int:
    """Return the bytes that work may take: as many as given, else 2 GB, or half of the machine's memory where that is less."""
    return min(DEFAULT_LIMIT, machine_memory() // 2) if given is None else given


def room(means: Means, usual: int) -> int:
    """Return the bytes that a part of the work may keep: ``usual``, or as large a share of ``means.memory`` as that is of 2 GB."""
    return usual if means.memory is None else max(usual * means.memory // DEFAULT_LIMIT, 1)


def machine_memory() -> int:
    """Return the bytes of memory of this machine; 4 GB where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 4 << 30


def bytes_per_row(model: Model, shapes: Callable[[int], Mapping[str, Sequence[int]]]) -> int:
    """Return the bytes of memory that one more row takes in a run; at least 1, and 1 where sizes are unknown.

    ``shapes``: rows -> shape of every input that has a free size, as real data has it. The values that are alive at once
    times what ONNX Runtime takes for them, which is twice as much (measured: 1.2 to 2.1 times on gradients of four networks).
    """
    graph = Graph(model.structure)
    known = ({name: shape for name, shape in shapes(rows).items() if name in graph.inputs} for rows in (1, 2))
    one, two = (peak_activation_bytes(gather_facts(model, graph, sizes)) for sizes in known)
    return 1 if one is None or two is None else max(OVERHEAD * (two - one), 1)


def _sizes(facts: Facts) -> dict[str, int] | None:
    """Return the bytes of every value that is computed from inputs; None where one is unknown."""
    graph, found = facts.graph, {}
    for name in (*graph.inputs, *(name for node in graph.top for name in node.outputs if name)):
        shape = facts.shape(name)
        if name in facts.constants:
            continue
        if shape is None:
            return None
        found[name] = tensor_bytes(facts.dtype(name), shape)
    return found


def peak_rss(model: Model, feeds: Mapping[str, np.ndarray], threads: int = 1) -> dict[str, int]:
    """Return ``idle`` (ONNX Runtime imported, nothing loaded) and ``peak`` bytes of a fresh process that runs the model once.

    Raises ModelError where the process fails, or the model is not in a file.
    """
    if model.path is None:
        raise ModelError("peak memory is measured in another process, which needs the model in a file")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "feeds.npz"
        np.savez(place, *feeds.values())
        request = json.dumps({"model": str(model.path), "names": list(feeds), "feeds": str(place), "threads": threads})
        command = [sys.executable, "-m", "onnxprune.model.memory", request]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ModelError(f"{model.path}: the process that measures memory failed: {reason}")
    return json.loads(done.stdout)


def _child(request: Mapping[str, Any]) -> dict[str, int]:
    from onnxprune.model.runtime import runtime_version, session

    runtime_version()  # imports ONNX Runtime
    with np.load(request["feeds"], allow_pickle=False) as stored:
        feeds = {name: stored[f"arr_{number}"] for number, name in enumerate(request["names"])}
    idle = peak_rss_bytes()
    session(request["model"], threads=request["threads"]).run(feeds)
    return {"idle": idle, "peak": peak_rss_bytes()}


def peak_rss_bytes() -> int:
    """Return the most memory this process has held; Linux counts from the start of the program, not of its parent."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return _peak_working_set()
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class _Counters(ctypes.Structure):
    """PROCESS_MEMORY_COUNTERS of the Windows API."""

    _fields_ = (
        ("cb", ctypes.c_uint32),
        ("page_faults", ctypes.c_uint32),
        ("peak_working_set", ctypes.c_size_t),
        ("others", ctypes.c_size_t * 7),
    )


def _peak_working_set() -> int:
    """Return the peak working set of this process on Windows (GetProcessMemoryInfo)."""
    kernel = ctypes.windll.kernel32  # type: ignore[attr-defined]
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    found = _Counters(cb=ctypes.sizeof(_Counters))
    process = ctypes.c_void_p(kernel.GetCurrentProcess())
    kernel.K32GetProcessMemoryInfo(process, ctypes.byref(found), found.cb)
    return int(found.peak_working_set)


if __name__ == "__main__":
    print(json.dumps(_child(json.loads(sys.argv[1]))))
