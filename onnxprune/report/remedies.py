"""What a user can do about an axis that stays, by the kind of barrier, the operator and how its reason begins."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxprune.coupling.links import RULES, Barrier
from onnxprune.coupling.rules.experts import ROUTED
from onnxprune.model.facts import Facts, free_dimensions
from onnxprune.model.graph import Node

WINDOW = "a window slides over this axis"
UNKNOWN_SHAPE = "the shape of"
SHARING = ("Softmax", "LogSoftmax", "Hardmax", "com.microsoft::QLinearSoftmax")
NOTHING = "nothing to do"
COUNTED = f"{NOTHING}: its positions are numbers, whose mean is taken behind it (the bins of a box)"
MOVING = ("Transpose", "Reshape", "Identity", "Cast", "Squeeze", "Unsqueeze")
WEIGHING = ("Conv", "MatMul", "Gemm", "Mul")
STANDARD = "export it as standard operators, or add a rule (CONTRIBUTING.md)"

# (kind, operators or None for all, beginning of the reason) -> remedy; the first row that fits counts
REMEDIES: tuple[tuple[str, tuple[str, ...] | None, str, str], ...] = (
    ("output", None, "", f"{NOTHING}: the model's outputs keep their shapes"),
    ("input", None, "", f"{NOTHING}: the model's inputs keep their shapes"),
    ("cache", None, "", "--cut-cache lets heads go with their share of the cache; clients then feed a narrower one"),
    ("dynamic", None, "", "fix the input's size with --input-shape, or export with a fixed one"),
    ("setting", None, "", f"{NOTHING}: the operator takes this tensor as a setting, not as weights"),
    ("lossy", None, "mixes neighbouring positions", "--allow-lossy cuts it; what the window sees changes, so repair or fine-tune"),
    ("lossy", SHARING, "", f"{NOTHING} where positions are classes or numbers, such as the bins of a box; where any may "
     "go, --granularity stream cuts it: what is left shares out the whole, so give data that repairs"),
    ("lossy", None, "", "--granularity stream cuts it; the statistics change, so repair or fine-tune"),
    ("carrier", None, "", "--granularity width cuts this factor (such as head width) instead of the other (such as heads)"),
    ("check", None, "", f"{NOTHING}: it stays whole, the rest is cut; please report it with this reason"),
    ("single", None, "", f"{NOTHING}: one unit has to stay"),
    ("rule", None, WINDOW, f"{NOTHING}: kernel sizes are not pruned"),
    ("rule", None, "the states are quantised", "prune the float model, then quantise it"),
    ("rule", None, ROUTED, "--granularity experts removes whole experts"),
    ("rule", None, "no rule for operator", STANDARD),
    ("rule", None, UNKNOWN_SHAPE, "give --input-shape, or export with shapes that can be inferred"),
    ("rule", None, "the rule for", "please report it with this node"),
    ("rule", None, "", f"{NOTHING}: the operator needs every position of this axis"),
)  # fmt: skip
UNKNOWN_SHAPES = (
    (lambda family, free: family is None, f"the operator that gives it has no rule: {STANDARD}"),
    (lambda family, free: family == "barrier", f"{NOTHING}: how many values there are depends on the data"),
    (lambda family, free: not free, "export with shapes that can be inferred, from constants instead of inputs"),
)
"""What can be done about a value of unknown shape, by the family of the rule of the operator where shapes get lost."""


def remedies(facts: Facts) -> Callable[[Barrier], str]:
    """Return a function that says the way out for a barrier of a model, or that there is none."""
    lost, free = _lost_shapes(facts), bool(free_dimensions(facts.graph))

    def remedy(barrier: Barrier) -> str:
        node, origin = barrier.node, None
        if node is not None and barrier.reason.startswith(UNKNOWN_SHAPE):
            origin = next((lost[name] for name in (*node.inputs, *node.outputs) if name in lost), None)
        if origin is not None:
            rule = RULES.get(origin.op)
            family = None if rule is None else rule.family
            found = next((text for applies, text in UNKNOWN_SHAPES if applies(family, free)), None)
            if found is not None:
                return found
        op = None if node is None else node.op
        if node is not None and op in SHARING and barrier.kind == "lossy" and _weighs_numbers(facts, node):
            return COUNTED
        return next(
            text
            for kind, ops, start, text in REMEDIES
            if kind == barrier.kind and (ops is None or op in ops) and barrier.reason.startswith(start)
        )

    return remedy


def _weighs_numbers(facts: Facts, node: Node) -> bool:
    """Whether what a node gives is weighed, moved about at most, by a stored tensor that counts: a, a + d, a + 2 d, ..."""
    waiting, seen = list(node.outputs), set(node.outputs)
    while waiting:
        for reader, _ in facts.graph.consumers.get(waiting.pop(), ()):
            weights = (name for name in reader.inputs if name in facts.constants)
            if reader.op in WEIGHING and any(_counts(facts, name) for name in weights):
                return True
            if reader.op in MOVING and reader.outputs[0] not in seen:
                seen.add(reader.outputs[0])
                waiting.append(reader.outputs[0])
    return False


def _counts(facts: Facts, name: str) -> bool:
    shape = facts.shape(name) or ()
    if max(shape, default=0) < 3 or max(shape) != np.prod(shape):
        return False
    array = facts.array(name)
    steps = np.zeros(1) if array is None else np.diff(array.astype(np.float64).reshape(-1))
    return bool(steps[0]) and bool(np.allclose(steps, steps[0], rtol=1e-3))


def _lost_shapes(facts: Facts) -> dict[str, Node]:
    """Return, for every value of unknown shape, the node where that begins."""
    lost: dict[str, Node] = {}
    for node in facts.graph.nodes:
        origin = next((lost[name] for name in node.inputs if name in lost), node)
        lost.update((name, origin) for name in node.outputs if name and facts.shape(name) is None)
    return lost
