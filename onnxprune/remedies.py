"""What a user can do about an axis that stays, by the kind of barrier and how its reason begins."""

from __future__ import annotations

from onnxprune.coupling.links import Barrier

WINDOW = "a window slides over this axis"

# (kind, beginning of the reason) -> remedy; the first row that fits counts
REMEDIES = (
    ("output", "", "nothing to do: the model's outputs keep their shapes"),
    ("input", "", "nothing to do: the model's inputs keep their shapes"),
    ("dynamic", "", "export with a fixed size, or fix it with --input-shape"),
    ("setting", "", "nothing to do: the operator takes this tensor as a setting, not as weights"),
    ("lossy", "normalises over a window", "nothing to do in this version"),
    ("lossy", "", "--granularity stream cuts it; the statistics change, so repair or fine-tune"),
    ("carrier", "", "where both can go, --granularity width cuts the inner factor (head width) instead of the heads"),
    ("single", "", "nothing to do: one unit has to stay"),
    ("rule", WINDOW, "nothing to do: kernel sizes are not pruned"),
    ("rule", "no rule for operator", "export it as standard operators, or add a rule (CONTRIBUTING.md)"),
    ("rule", "the shape of", "give --input-shape, or export with shapes that can be inferred"),
    ("rule", "the rule for", "please report it with this node; re-exporting at a newer opset may help"),
    ("rule", "", "nothing to do: the operator needs every position of this axis"),
)  # fmt: skip


def remedy(barrier: Barrier) -> str:
    """Return the way out for a barrier, or that there is none."""
    return next(text for kind, start, text in REMEDIES if kind == barrier.kind and barrier.reason.startswith(start))
