"""Which widths a group may have: multiples, minimum, caps, and the user's choice of where to prune."""

from __future__ import annotations

import fnmatch
import glob
import math
import re
from bisect import bisect_left
from collections.abc import Callable, Collection
from dataclasses import dataclass

from onnxprune.coupling.groups import Analysis, Group, groups_on
from onnxprune.coupling.rules.recurrent import QUANTISED
from onnxprune.errors import TargetError, UsageError
from onnxprune.model.facts import free_dimensions
from onnxprune.model.graph import Node

SLACK = 1e-9  # of a width: decimal ratios such as 0.3 are not exact in binary


@dataclass(frozen=True)
class Options:
    """How units are shared out; see ``policies`` for scope and threshold, ``profiles.width_step`` for round_to.

    ``max_layer_ratio``: the largest share that may go from any group. ``layer_ratios``: (pattern, share that goes) of
    groups with a share of their own, the last match wins. ``include``, ``exclude``: patterns.
    """

    scope: str = "layer"
    threshold: str = "class-blind"
    round_to: int = 1
    minimum: int = 1
    max_layer_ratio: float = 1.0
    layer_ratios: tuple[tuple[str, float], ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.round_to < 1 or self.minimum < 1:
            raise UsageError("round_to and minimum must be at least 1")
        if not 0 <= self.max_layer_ratio <= 1:
            raise UsageError(f"--max-layer-ratio {self.max_layer_ratio}: give a share between 0 and 1")
        for pattern, ratio in self.layer_ratios:
            if not 0 <= ratio < 1:
                raise UsageError(f"--layer-ratio {pattern}={ratio}: give a share from 0 to less than 1")


def legal_widths(analysis: Analysis, options: Options) -> list[list[int]]:
    """Return for each group the widths it may have, ascending; the last is the most it can keep.

    Raises UsageError where a pattern matches nothing.
    """
    count = len(analysis.groups)
    included = [select(analysis, pattern, "--include") for pattern in options.include] or [set(range(count))]
    chosen = set().union(*included)
    for pattern in options.exclude:
        chosen -= select(analysis, pattern, "--exclude")
    legal = [group_widths(g, options) if g.index in chosen else [g.width] for g in analysis.groups]
    for pattern, ratio in options.layer_ratios:
        for index in select(analysis, pattern, "--layer-ratio"):
            group = analysis.groups[index]
            legal[index] = [nearest(aligned_widths(group, options), (1 - ratio) * group.width)]
    return [[g.width] if g.index in analysis.barred else legal[g.index] for g in analysis.groups]


def narrower_widths(analysis: Analysis, options: Options) -> list[list[int]]:
    """Return the legal widths; raises TargetError where no group has another than its own."""
    legal = legal_widths(analysis, options)
    if all(widths == [group.width] for widths, group in zip(legal, analysis.groups, strict=True)):
        raise TargetError(_why_nothing(analysis))
    return legal


def _why_nothing(analysis: Analysis) -> str:
    if not analysis.groups and any(frozen.barrier.kind == "lossy" for frozen in analysis.frozen):
        return (
            "nothing in this model can be pruned as it is, some axes because statistics are taken over them: "
            "onnxprune inspect MODEL says which node keeps each axis, why, and where --granularity stream or --allow-lossy is a way out"
        )
    if not analysis.groups and any(frozen.barrier.reason == QUANTISED for frozen in analysis.frozen):
        return f"nothing in this model can be pruned: {QUANTISED}; prune the float model, then quantise it"
    free = [f"{name}[{axis}]" for name, axis, _ in free_dimensions(analysis.facts.graph) if axis]
    if not analysis.groups and free and any(f.barrier.reason.startswith("the shape of") for f in analysis.frozen):
        return (
            f"nothing in this model can be pruned: no size that was tried for the free axes {', '.join(free)} fits the model; "
            "give --input-shape, e.g. --input-shape x:1,3,224,224"
        )
    if not analysis.groups:
        return "nothing in this model can be pruned; onnxprune inspect MODEL says which node keeps each axis, and why"
    return (
        f"none of the {len(analysis.groups)} groups can become narrower with these settings; "
        "relax --include, --exclude, --layer-ratio, --max-layer-ratio, --min-width or --round-to"
    )


def group_widths(group: Group, options: Options) -> list[int]:
    """Return the aligned widths of a group that the cap allows."""
    return capped(aligned_widths(group, options), options)


def capped(widths: list[int], options: Options) -> list[int]:
    """Return the widths that the cap allows, the last being the whole."""
    floor = math.ceil(widths[-1] * (1 - options.max_layer_ratio) - SLACK * widths[-1])
    return [width for width in widths if width >= floor]


def aligned_widths(group: Group, options: Options) -> list[int]:
    """Return the widths whose positions on the writing axis are a multiple of ``round_to``, and the whole width."""
    return aligned_parts(group.width, options, group.multiplicity)


def aligned_parts(width: int, options: Options, multiplicity: int = 1) -> list[int]:
    """Return the parts of ``width`` units, of so many positions each, whose positions are a multiple of ``round_to``, and the whole.

    What is narrower than two steps falls back to the largest power of two of which it has two steps.
    """
    step = next((s for s in _steps(options.round_to) if width >= 2 * s // math.gcd(s, multiplicity)), 1)
    step //= math.gcd(step, multiplicity)
    lowest = -(-min(options.minimum, width) // step) * step
    return [*range(lowest, width, step), width]


def _steps(step: int) -> list[int]:
    """The step itself and the powers of two below it, descending."""
    return [step, *(1 << bit for bit in reversed(range((step - 1).bit_length())))]


def nearest(widths: list[int], wanted: float) -> int:
    """Return the width next to ``wanted``, the wider of two at the same distance."""
    place = bisect_left(widths, wanted)
    if place == 0:
        return widths[0]
    if place == len(widths):
        return widths[-1]
    low, high = widths[place - 1], widths[place]
    return low if wanted - low < high - wanted - SLACK * high else high


# --- patterns -------------------------------------------------------------------------------------------------------


def select(analysis: Analysis, pattern: str, option: str) -> set[int]:
    """Return the groups a pattern names: those on its nodes' outputs, and those its tensors hold but do not only read.

    A pattern is a name, else a glob on node or tensor names, re:REGEX (found in a name), or op:Type. Raises UsageError
    where it names nothing in the model, and for options other than --exclude where it names nothing that can be cut.
    """
    facts = analysis.facts
    known = {*facts.first, *(node.label for node in facts.graph.nodes), *(group.name for group in analysis.groups)}
    by_node, by_name = matcher(pattern, known)
    nodes = [node for node in facts.graph.nodes if by_node(node)]
    names = {name for name in facts.first if by_name(name)}
    groups = {group.index for group in analysis.groups if by_name(group.name)}
    for group in analysis.groups:
        groups.update(group.index for m in group.members if m.parameter in names and m.role != "reads")
    for value in {name for node in nodes for name in node.outputs if name} | names:
        if value not in facts.constants:
            groups |= _groups_on(analysis, value)
    if not (nodes or names or groups):
        raise UsageError(f"{option} {pattern!r} matches no node or tensor; onnxprune inspect MODEL lists them")
    if not groups and option != "--exclude":
        raise UsageError(f"{option} {pattern!r} matches nothing that can be cut; onnxprune inspect MODEL says why")
    return groups


def _groups_on(analysis: Analysis, value: str) -> set[int]:
    """Return the groups that have units on some axis of a value."""
    links = analysis.solution.links
    found: set[int] = set()
    for axis in range(len(analysis.facts.shape(value) or ())):
        found.update(groups_on(analysis.unit[links.axis(value, axis)], analysis.starts))
    return found


def literal(name: str) -> str:
    """Return a pattern that names ``name`` alone, on one line: what does not print matches as any character."""
    escaped = "".join(c if c.isprintable() else "?" for c in glob.escape(name))
    return f"[{escaped[0]}]{escaped[1:]}" if name.startswith(("op:", "re:")) else escaped


def matcher(pattern: str, known: Collection[str] = ()) -> tuple[Callable[[Node], bool], Callable[[str], bool]]:
    """Return tests for nodes and for names of tensors; what is one of the ``known`` names means that name alone.

    Raises UsageError for a bad expression.
    """
    kind, colon, rest = pattern.partition(":")
    if pattern in known:
        found = re.compile(re.escape(pattern)).fullmatch
    elif kind == "op" and colon:
        return (lambda node: node.op == rest), (lambda name: False)
    elif kind == "re" and colon:
        try:
            found = re.compile(rest).search
        except re.error as error:
            raise UsageError(f"pattern {pattern!r} is not a regular expression: {error}") from error
    else:
        found = re.compile(fnmatch.translate(pattern)).match
    return (lambda node: found(node.label) is not None), (lambda name: found(name) is not None)
