"""What the tests ask of an analysis and a cut: a printed line per group, random plans, and every oracle at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, numpy_helper

from onnxprune.coupling.cut import cut
from onnxprune.coupling.groups import Analysis, Group, analyse
from onnxprune.coupling.kept import Kept
from onnxprune.model.facts import gather_facts
from onnxprune.model.graph import Graph
from onnxprune.model.read import check_structure, load
from onnxprune.proof.check import check_cut
from support.networks import feeds

LEVELS = (
    ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
)
Plan = list[np.ndarray]  # per group, bool[width]: the units that stay
TOLERANCE = 1e-4  # relative to the largest value: float32 rounding of networks a few layers deep


def analysed(model: ModelProto, allow: Sequence[str] = (), prefer: str = "outer") -> Analysis:
    """Analyse a model; ``allow``: kinds of lossy operators whose axes may be cut, beside the default."""
    loaded = load(model)
    return analyse(gather_facts(loaded, Graph(loaded.structure)), frozenset({"neighbours", *allow}), prefer)


def group_line(group: Group) -> str:
    """Print a group: ``name width[xmultiplicity]: parameter.axis role, ... [~ lossy operators]``."""
    size = f"{group.width}x{group.multiplicity}" if group.multiplicity > 1 else str(group.width)
    members = ", ".join(f"{m.parameter}.{m.axis} {m.role}" for m in group.members)
    lossy = f" ~ {' '.join(node.op for node in group.lossy)}" if group.lossy else ""
    return f"{group.name} {size}: {members}{lossy}"


def golden_lines(analysis: Analysis) -> list[str]:
    """Print all groups, then what is frozen for other reasons than the model's own inputs, outputs and caches."""
    frozen = [
        f"! {f.parameter}.{f.axis} {f.positions}/{f.size}: {f.barrier.reason}"
        for f in analysis.frozen
        if f.barrier.kind not in ("input", "output", "cache")
    ]
    return [*(group_line(group) for group in analysis.groups), *frozen]


def random_plan(analysis: Analysis, rng: np.random.Generator) -> Plan:
    """Draw bool[width] per group: some units stay, at least one goes where a group has two."""
    plan = []
    for group in analysis.groups:
        kept = np.zeros(group.width, bool)
        kept[rng.permutation(group.width)[: rng.integers(1, max(group.width, 2))]] = True
        plan.append(kept)
    return plan


def halves(analysis: Analysis) -> Plan:
    """Keep every second unit of every group."""
    return [np.arange(group.width) % 2 == 0 for group in analysis.groups]


def keep_all(analysis: Analysis) -> Plan:
    return [np.ones(group.width, bool) for group in analysis.groups]


def run(
    model: ModelProto, inputs: dict[str, np.ndarray], level: ort.GraphOptimizationLevel = LEVELS[0]
) -> dict[str, np.ndarray]:
    """Run a model in ONNX Runtime at an optimisation level."""
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def same(want: dict[str, np.ndarray], have: dict[str, np.ndarray], tolerance: float = TOLERANCE) -> None:
    """Assert that two results agree up to rounding, NaN and infinities in the same places."""
    assert list(want) == list(have)
    for name in want:
        a, b = np.asarray(want[name]), np.asarray(have[name])
        assert a.shape == b.shape and a.dtype == b.dtype, name
        scale = float(np.abs(a[np.isfinite(a)]).max(initial=1e-6)) if a.dtype.kind == "f" else 0.0
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale, err_msg=name)


def assert_sound(
    analysis: Analysis, kept: Sequence[np.ndarray], below: int = 2, tolerance: float = TOLERANCE
) -> ModelProto:
    """Cut, hold every oracle against the result, and return the smaller model."""
    original = analysis.facts.model.proto
    small = cut(analysis, kept)
    found = check_cut(analysis, kept, small)
    assert found.exact, found.problem
    check_structure(small, "the cut model", full=True)
    return _hold(original, small.proto, below, tolerance)


def _hold(original: ModelProto, small: ModelProto, below: int, tolerance: float) -> ModelProto:
    """Hold a cut model that is proven against what any runtime can tell, and return it."""
    inputs = feeds(small, below=below)
    plain = run(small, inputs)
    for level in LEVELS[1:]:
        same(plain, run(small, inputs, level), 10 * tolerance)
    before = run(original, inputs)
    assert [a.shape for a in before.values()] == [a.shape for a in plain.values()]
    assert [v.SerializeToString() for v in original.graph.input if v.name in inputs] == [
        v.SerializeToString() for v in small.graph.input if v.name in inputs
    ]
    assert [v.SerializeToString() for v in original.graph.output] == [v.SerializeToString() for v in small.graph.output]
    return small


def early_values(analysis: Analysis, kept: Sequence[np.ndarray]) -> list[str]:
    """Names of cut values that no consumed axis lies upstream of: they must be plain slices of the original's."""
    late, left = set[str](), Kept.of(analysis, kept)
    early = []
    for index, (node, spec) in enumerate(analysis.solution.links.specs):
        touched = {letter for letter in spec.sizes if left.letter(index, letter) is not None}
        changes = touched & (spec.sinks() | set(spec.lossy))
        for name in filter(None, node.outputs):
            if changes or late & set(node.inputs) or node.bodies or node not in analysis.facts.graph.top:
                late.add(name)
            elif left.masks(name):
                early.append(name)
    return [name for name in early if name not in analysis.facts.graph.tensors]


def assert_early_values_are_slices(
    analysis: Analysis, kept: Sequence[np.ndarray], small: ModelProto, below: int = 2
) -> int:
    """Compare every early value of the smaller model with the slice of the original's; return how many there were."""
    names, left = early_values(analysis, kept), Kept.of(analysis, kept)
    inputs = feeds(small, below=below)
    before = run(_exposed(analysis.facts.model.proto, names), inputs)
    after = run(_exposed(small, names), inputs)
    for name in names:
        want = before[name]
        for axis in range(want.ndim):
            mask = left.mask(name, axis)
            if mask is not None:
                whole = np.tile(mask, want.shape[axis] // len(mask)) if want.shape[axis] != len(mask) else mask
                want = np.compress(whole, want, axis)
        same({name: want}, {name: after[name]})
    return len(names)


def _exposed(model: ModelProto, names: Sequence[str]) -> ModelProto:
    """Return the model with the named values as further outputs."""
    result = ModelProto()
    result.CopyFrom(model)
    known = {value.name for value in model.graph.output}
    result.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    return result


def silence_readers(analysis: Analysis, plan: Plan, model: ModelProto) -> bool:
    """Set to zero what reads the units that go; False where something else than a weight consumes them."""
    readers = {(m.parameter, m.axis) for group in analysis.groups for m in group.members if m.role == "reads"}
    left = Kept.of(analysis, plan)
    for index, (node, spec) in enumerate(analysis.solution.links.specs):
        for letter in spec.sinks():
            stored = any(
                (name, axis) in readers
                for name, operand in zip(node.inputs, spec.inputs, strict=False)
                for axis, term in enumerate(operand or ())
                if letter in term.letters
            )
            if left.letter(index, letter) is not None and not stored:
                return False
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor).copy()
        for axis in range(array.ndim):
            mask = left.mask(tensor.name, axis)
            if mask is not None and (tensor.name, axis) in readers:
                array[(slice(None),) * axis + (~mask,)] = 0
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return True
