"""Proof that a cut was exact: the smaller model against the original with the removed units silenced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper

from onnxprune.coupling.groups import Analysis
from onnxprune.errors import ModelError
from onnxprune.facts import Facts, Sizes
from onnxprune.graph import Node
from onnxprune.io import Model
from onnxprune.runtime import release_memory, session
from onnxprune.silence import silenced
from onnxprune.surgery import Kept, cut

TOLERANCE: dict[int, float] = {TensorProto.FLOAT16: 3e-2, TensorProto.BFLOAT16: 1e-1, TensorProto.DOUBLE: 1e-7}
DEFAULT_TOLERANCE = (
    2e-3  # of the largest output: rounding in float32 through deep networks; a wrong slice is off by 1e-1 and more
)
SEQUENCE_TOLERANCE = 1e-2  # of each element's largest value: elements may be single numbers


@dataclass(frozen=True)
class SurgeryCheck:
    """Result of comparing the cut model with its reference: largest error relative to the largest output."""

    exact: bool
    error: float
    max_abs_error: float
    tolerance: float
    lossy_nodes: tuple[str, ...] = ()
    frozen_by_check: tuple[str, ...] = ()
    problem: str = ""
    skipped: tuple[str, ...] = field(default=())


def check_cut(
    analysis: Analysis, kept: Kept, small: ModelProto, *, seed: int = 0, threads: int = 1, runs: int = 1
) -> SurgeryCheck:
    """Compare ``small`` with the silenced original on random inputs."""
    reference, lossy, skipped = silenced(analysis, kept)
    found = agreement(analysis.facts, reference, small, seed=seed, threads=threads, runs=runs)
    return replace(found, lossy_nodes=lossy, skipped=skipped)


def agreement(
    facts: Facts,
    reference: ModelProto,
    small: ModelProto,
    *,
    seed: int = 0,
    threads: int = 1,
    runs: int = 1,
    complete: bool = False,
) -> SurgeryCheck:
    """Compare ``small`` with a reference that the original lends its initializers to (``complete``: it has its own), on random inputs.

    Where the caller chooses sizes, a second choice is tried too, as far as the original takes it.
    """
    feeds = [random_feeds(facts, seed + run) for run in range(runs)]
    blind = _unrunnable(facts)
    if blind:
        reference, small = _without_nodes(reference, blind, facts), _without_nodes(small, blind, facts)
        feeds = [{**f, **_stand_ins(blind, facts, seed)} for f in feeds]
    elif (other := _other_sizes(facts)) is not None:
        feeds.append(random_feeds(facts, seed, other))
    try:
        lender = None if complete else facts.model.proto
        expected = _run_all(reference, facts.model, feeds, threads, lender, lenient=len(feeds) > runs)
        del reference
        feeds = feeds[: len(expected)]
        found = _run_all(small, facts.model, feeds, threads)
    except ModelError as error:
        return SurgeryCheck(False, np.inf, np.inf, 0.0, problem=str(error))
    worst, largest, problem = 0.0, 0.0, ""
    tolerance = _tolerance(facts)
    for want, have in zip(expected, found, strict=True):
        for name in want:
            relative, absolute = difference(want[name], have[name])
            if relative > worst and relative > tolerance:
                problem = f"output {name!r} differs by {relative:.2e} of its largest value"
            worst, largest = max(worst, relative), max(largest, absolute)
    return SurgeryCheck(worst <= tolerance, worst, largest, tolerance, problem=problem)


def _other_sizes(facts: Facts) -> Sizes | None:
    """Input shapes of the second assignment of free sizes, None where nothing is free."""
    shapes = {name: facts.second[name].shape for name in facts.graph.inputs if name in facts.second}
    if facts.first is facts.second or shapes == dict(facts.sizes) or None in shapes.values():
        return None
    return {name: shape for name, shape in shapes.items() if shape is not None}


def _tolerance(facts: Facts) -> float:
    """The coarsest float type of any weight or output decides."""
    dtypes = {facts.dtype(v) for v in (*facts.graph.tensors, *facts.graph.outputs)}
    return max((TOLERANCE[d] for d in dtypes & set(TOLERANCE) - {TensorProto.DOUBLE}), default=DEFAULT_TOLERANCE)


def difference(want: np.ndarray, have: np.ndarray) -> tuple[float, float]:
    """Return (largest difference over largest value, largest difference); NaN and infinities must match in place."""
    if not isinstance(want, np.ndarray) or want.shape != np.shape(have):
        return (0.0, 0.0) if _same(want, have) else (np.inf, np.inf)
    if want.dtype.kind not in "fc":
        wrong = float(np.mean(want != have)) if want.size else 0.0
        return (0.0 if wrong <= 0.02 else np.inf), wrong  # a tie may fall the other way in an ArgMax
    a, b = want.astype(np.float64), np.asarray(have, np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)) or not np.array_equal(np.isnan(a), np.isnan(b)):
        return np.inf, np.inf
    if not finite.any():
        return 0.0, 0.0
    absolute = float(np.abs(a[finite] - b[finite]).max())
    scale = float(np.abs(a[finite]).max())
    return (absolute / scale if scale > 1e-30 else absolute), absolute


def _same(want: object, have: object) -> bool:
    """Whether sequences, or maps such as a classifier's probabilities, agree element by element."""
    if isinstance(want, list) and isinstance(have, list):
        return len(want) == len(have) and all(map(_same, want, have))
    if isinstance(want, dict) and isinstance(have, dict):
        return want.keys() == have.keys() and all(_same(want[key], have[key]) for key in want)
    if isinstance(want, str):
        return want == have
    return difference(np.asarray(want), np.asarray(have))[0] < SEQUENCE_TOLERANCE


def _run_all(
    proto: ModelProto,
    model: Model,
    feeds: list[dict[str, np.ndarray]],
    threads: int,
    lender: ModelProto | None = None,
    lenient: bool = False,
) -> list[dict]:
    """Run a model on all inputs; with ``lenient`` the last may be one that it does not take."""
    opened = session(Model(proto, "", model.path), threads=threads, optimise=False, lender=lender)
    results = []
    for number, feed in enumerate(feeds):
        try:
            results.append(opened.run(feed))
        except ModelError:
            if not lenient or number < len(feeds) - 1:
                raise
    del opened
    release_memory()
    return results


# --- random inputs --------------------------------------------------------------------------------------------------


def random_feeds(facts: Facts, seed: int, sizes: Sizes | None = None) -> dict[str, np.ndarray]:
    """Draw one input: standard normal floats, valid indices where a table is looked up, ones for other integers and flags."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for name in facts.graph.inputs:
        shape = (sizes or facts.sizes)[name]
        dtype = helper.tensor_dtype_to_np_dtype(facts.dtype(name))
        if dtype.kind == "f" or facts.dtype(name) == TensorProto.BFLOAT16:
            feeds[name] = rng.standard_normal(shape).astype(dtype)
        elif dtype.kind in "iu":
            feeds[name] = (
                rng.integers(0, _table_size(facts, name), shape).astype(dtype)
                if _table_size(facts, name)
                else np.ones(shape, dtype)
            )
        else:
            feeds[name] = np.ones(shape, dtype)
    return feeds


def _table_size(facts: Facts, name: str) -> int:
    """Rows of the smallest table that an input's values, possibly cast, look up (0: none)."""
    found = []
    for node, position in facts.graph.consumers.get(name, ()):
        if node.op == "Gather" and position == 1:
            axis = int(node.attribute("axis", 0))
            found.append((facts.shape(node.inputs[0]) or (1,))[axis])
        elif node.op in ("Cast", "Reshape", "Identity", "Unsqueeze", "Squeeze", "Flatten") and position == 0:
            found.extend(filter(None, [_table_size(facts, node.outputs[0])]))
    return min(found, default=0)


# --- operators that the runtime does not have -----------------------------------------------------------------------


KNOWN_DOMAINS = {"", "com.microsoft", "ai.onnx.ml", "com.ms.internal.nhwc", "com.microsoft.nchwc"}


def _unrunnable(facts: Facts) -> list[Node]:
    """Nodes of domains that ONNX Runtime does not ship, and what follows them in shapes nobody knows."""
    found: list[Node] = []
    lost: set[str] = set()
    for node in facts.graph.top:
        if node.op.rpartition("::")[0] not in KNOWN_DOMAINS or lost & set(node.inputs):
            found.append(node)
            lost.update(name for name in node.outputs if facts.shape(name) is None)
    return found


def _without_nodes(proto: ModelProto, blind: list[Node], facts: Facts) -> ModelProto:
    """Return the model with the given nodes taken out: what they read is an output, what they made is an input."""
    gone = {name for node in blind for name in node.outputs if name}
    result = ModelProto()
    result.CopyFrom(proto)
    for index in reversed(range(len(result.graph.node))):
        node = result.graph.node[index]
        if gone & set(node.output):
            outputs = {v.name for v in result.graph.output}
            computed = {o for n in proto.graph.node for o in n.output}
            for name in node.input:
                if name in computed and name not in outputs and name not in gone:
                    result.graph.output.append(onnx.ValueInfoProto(name=name))
            del result.graph.node[index]
    for index in reversed(range(len(result.graph.output))):
        if result.graph.output[index].name in gone:
            del result.graph.output[index]
    for name in sorted(gone):
        if facts.shape(name) is not None:
            result.graph.input.append(helper.make_tensor_value_info(name, facts.dtype(name) or 1, facts.shape(name)))
    return result


def _stand_ins(blind: list[Node], facts: Facts, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {name: facts.shape(name) for node in blind for name in node.outputs if name}
    return {n: rng.standard_normal(shape).astype(np.float32) for n, shape in shapes.items() if shape is not None}


# --- finding the group at fault -------------------------------------------------------------------------------------


def culprits(analysis: Analysis, kept: Kept, *, seed: int = 0, threads: int = 1) -> list[int]:
    """Bisect for the groups whose removal alone already breaks the check; returns group numbers, ascending."""
    active = [g for g, mask in enumerate(kept) if not mask.all()]

    def wrong(groups: Sequence[int]) -> bool:
        trial = [mask if g in groups else np.ones_like(mask) for g, mask in enumerate(kept)]
        try:
            return not check_cut(analysis, trial, cut(analysis, trial), seed=seed, threads=threads).exact
        except Exception:  # whatever the surgery trips over is what is being searched for
            return True

    return sorted(bisect(active, wrong))


def bisect(groups: Sequence[int], wrong: Callable[[Sequence[int]], bool]) -> list[int]:
    """Return the members of ``groups`` that are wrong on their own, or that are only together."""
    if not groups or not wrong(groups):
        return []
    if len(groups) == 1:
        return list(groups)
    middle = len(groups) // 2
    found = bisect(groups[:middle], wrong) + bisect(groups[middle:], wrong)
    return found or list(groups)  # only together are they wrong
