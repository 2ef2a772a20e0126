"""Measure what each node takes at several widths on this machine, for latency targets.

Runtimes compute channels in blocks, so time falls in steps and MACs say little about it. Every distinct multiplying node is timed
alone, with one thread by its CPU time, at full, half and quarter widths of each letter that can shrink; what the whole model takes beyond that follows its channels.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from onnx import ModelProto, helper, numpy_helper

from onnxprune.allocate.times import NodeTime, Times, Width
from onnxprune.coupling.groups import Analysis, linear_width
from onnxprune.coupling.spec import Spec, Term
from onnxprune.errors import ModelError, OutputError
from onnxprune.means import Means
from onnxprune.measure.latency import clock_of, cpu_tells, interleave
from onnxprune.model.facts import Shape
from onnxprune.model.files import atomic_file
from onnxprune.model.graph import Node
from onnxprune.model.runtime import runtime_version, session

SHARES = (0.25, 0.5, 1.0)
MOST_LETTERS = 2  # letters beyond these are timed at full width and taken as proportional
RUNS, SECONDS = 30, 0.05
WARMUP_RUNS, WARMUP_SECONDS = 3, 0.005


def with_times(
    analysis: Analysis,
    whole_us: float,
    means: Means = Means(),
    *,
    cache: Path | None = None,
) -> Analysis:
    """Return the analysis with measured times; ``whole_us``: the original's latency by the same clock. Raises ModelError where a node does not run."""
    table = TimeTable(means, cache)
    costly = [
        (index, node, spec)
        for index, (node, spec) in enumerate(analysis.solution.links.specs)
        if spec.cost and not all(name in analysis.facts.constants for name in node.inputs if name)
    ]
    nodes = [table.at(number, len(costly)).node(analysis, *one) for number, one in enumerate(costly)]
    table.save()
    full = analysis.widths
    alone = sum(float(node.at(full)) for node in nodes)
    scale = min(1.0, 0.95 * whole_us / alone) if alone else 1.0
    return replace(analysis, times=Times(tuple(nodes), max(whole_us - scale * alone, 0.0), scale))


def cache_file(means: Means) -> Path:
    """Where measured times are kept between runs: a file per processor, runtime version and thread count."""
    try:
        cpu = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor()
    clock = "cpu" if cpu_tells(means.threads) else "wall"
    key = hashlib.sha256(
        f"{cpu}|{platform.machine()}|{runtime_version()}|{means.threads}|{clock}".encode()
    ).hexdigest()[:16]
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "onnxprune" / f"times-{key}.json"


class TimeTable:
    """Measured microseconds by node signature, kept in a file between runs."""

    def __init__(self, means: Means, cache: Path | None = None):
        self.means, self.path = means, cache_file(means) if cache is None else cache
        self.fresh, self.place = False, (0, 1)
        try:
            entries = json.loads(self.path.read_text())
            self.entries = {str(key): float(value) for key, value in entries.items()}
        except (OSError, ValueError, AttributeError, TypeError):
            self.entries = {}

    def at(self, number: int, of: int) -> TimeTable:
        """Take note of which of all nodes is timed now."""
        self.place = number, of
        return self

    def save(self) -> None:
        """Write what was measured; a folder that cannot be written only costs measuring again."""
        if not self.fresh:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(self.path) as stream:
                stream.write(json.dumps(self.entries, sort_keys=True).encode())
        except (OSError, OutputError):
            self.fresh = False

    def node(self, analysis: Analysis, index: int, node: Node, spec: Spec) -> NodeTime:
        """Time one node on the grid of its shrinking letters."""
        found = {letter: _width(analysis, index, letter) for letter in spec.cost}
        letters = sorted((name for name, width in found.items() if width.slopes), key=lambda name: -spec.sizes[name])[
            :MOST_LETTERS
        ]
        grid = tuple(
            tuple(sorted({max(1, round(spec.sizes[letter] * share)) for share in SHARES})) for letter in letters
        )
        letters, grid = _timed(letters, grid)
        table = np.zeros([len(widths) for widths in grid])
        for place in itertools.product(*(range(len(widths)) for widths in grid)):
            sizes = spec.sizes | {letter: grid[i][place[i]] for i, letter in enumerate(letters)}
            table[place] = self._time(analysis, node, spec, sizes)
        return NodeTime(node.label, tuple(found[letter] for letter in letters), grid, table)

    def _time(self, analysis: Analysis, node: Node, spec: Spec, sizes: Mapping[str, int]) -> float:
        proto, feeds = single_node(analysis, node, spec, sizes)
        shapes = [list(feed.shape) for feed in feeds.values()] + [list(t.dims) for t in proto.graph.initializer]
        return self.time(signature_of(node, proto, feeds), f"{node.op} {shapes}", proto, feeds)

    def time(self, signature: object, name: str, proto: ModelProto, feeds: Mapping[str, np.ndarray]) -> float:
        """Return the microseconds of a model of a few nodes, of which ``signature``, as JSON, says all that its time depends on."""
        key = hashlib.sha256(json.dumps(signature).encode()).hexdigest()[:24]
        if key not in self.entries:
            self.means.progress(f"timing {name}", *self.place)
            opened = session(proto, threads=self.means.threads)
            (times,) = interleave(
                [lambda: opened.run(feeds)], rounds=RUNS, max_seconds=SECONDS,
                warmup_runs=WARMUP_RUNS, warmup_seconds=WARMUP_SECONDS, clock=clock_of(self.means.threads),
            )  # fmt: skip
            self.entries[key] = float(np.percentile(times, 10)) / 1000
            self.fresh = True
        return self.entries[key]


def _timed(letters: list[str], grid: tuple[tuple[int, ...], ...]) -> tuple[list[str], tuple[tuple[int, ...], ...]]:
    """Drop letters that have one width only: nothing can be read between one point."""
    kept = [i for i, widths in enumerate(grid) if len(widths) > 1]
    return [letters[i] for i in kept], tuple(grid[i] for i in kept)


def _width(analysis: Analysis, index: int, letter: str) -> Width:
    """How the size of a letter follows the kept units."""
    return Width(*linear_width(analysis.unit[analysis.solution.links.letter(index, letter)], analysis.starts))


def signature_of(node: Node, proto: ModelProto, feeds: Mapping[str, np.ndarray]) -> list[object]:
    """Return what the time of a node alone, as ``single_node`` gives it, depends on."""
    operands = [(helper.np_dtype_to_tensor_dtype(feed.dtype), list(feed.shape)) for feed in feeds.values()]
    operands += [(tensor.data_type, list(tensor.dims)) for tensor in proto.graph.initializer]
    attributes = sorted(a.SerializeToString().hex() for a in proto.graph.node[0].attribute)
    return [node.op, node.version, operands, attributes]


def single_node(
    analysis: Analysis, node: Node, spec: Spec, sizes: Mapping[str, int]
) -> tuple[ModelProto, dict[str, np.ndarray]]:
    """Return a model of one node with its letters at ``sizes``, and random inputs for it; raises ModelError where it cannot be built."""
    facts, rng = analysis.facts, np.random.default_rng(0)
    copy = helper.make_node(node.proto.op_type, node.proto.input, node.proto.output, domain=node.proto.domain)
    copy.attribute.extend(node.proto.attribute)
    for attribute in copy.attribute:
        if attribute.name == "group" and "g" in sizes:
            attribute.i = sizes["g"]
    feeds: dict[str, np.ndarray] = {}
    stored = []
    for position, name in enumerate(node.inputs):
        if not name or node.proto.input[position] in feeds:
            continue
        operand = spec.inputs[position] if position < len(spec.inputs) else None
        content = facts.array(name) if operand is None else None
        if operand is None and content is None:
            raise ModelError(f"node {node.label!r} cannot be timed alone: input {position} is not known")
        if content is None:
            dtype = helper.tensor_dtype_to_np_dtype(facts.dtype(name))
            content = rng.standard_normal(_shape(operand, facts.shape(name) or (), sizes)).astype(dtype)
        if name in facts.constants:
            stored.append(numpy_helper.from_array(np.ascontiguousarray(content), node.proto.input[position]))
        else:
            feeds[node.proto.input[position]] = content
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in feeds.items()
    ]
    outputs = [helper.make_empty_tensor_value_info(name) for name in copy.output if name]
    graph = helper.make_graph([copy], "one", inputs, outputs, stored)
    opsets = [helper.make_opsetid(domain, version) for domain, version in facts.graph.versions.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8), feeds


def _shape(operand: tuple[Term, ...] | None, shape: Shape, sizes: Mapping[str, int]) -> Shape:
    """The shape of an operand with letters at ``sizes``; axes without letters stay."""
    return tuple(
        int(np.prod([sizes[letter] for letter in term.letters])) if term.letters else size
        for term, size in zip(operand or (), shape, strict=True)
    )
