"""What a criterion is: a function from one group to scores, registered with the evidence it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxprune.coupling.groups import Analysis, Group, Member
from onnxprune.criteria.tensors import WeightReader
from onnxprune.registry import Registry

ROLES = {"writes": ("writes",), "reads": ("reads",), "both": ("writes", "reads")}


@dataclass(frozen=True)
class Scoring:
    """What a criterion may look at: weights, evidence by kind, the seed; ``notes``: warning -> names of groups."""

    analysis: Analysis
    weights: WeightReader
    roles: str = "both"
    seed: int = 0
    evidence: Mapping[str, Any] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)

    def members(self, group: Group) -> list[Member]:
        """Return the members that count, each parameter axis once: those in the wanted roles, all if there is none."""
        return self.in_roles(group, ROLES[self.roles]) or self.in_roles(group, ROLES["both"]) or _once(group.members)

    def note(self, message: str, group: Group) -> None:
        """Leave a warning about a group; equal messages are told once, with all their groups."""
        self.notes.setdefault(message, []).append(group.name)

    def in_roles(self, group: Group, roles: tuple[str, ...]) -> list[Member]:
        """Return the members in some roles; scales and zero points of quantised weights are part of those."""
        operands = self.weights.quantisation
        return _once(m for m in group.members if m.role in roles and m.parameter not in operands)


def _once(members: Any) -> list[Member]:
    """Keep the first member of each parameter axis."""
    return list({(m.parameter, m.axis): m for m in reversed(list(members))}.values())[::-1]


Function = Callable[[Group, Scoring], np.ndarray]  # float64[rows, width]: higher is more important


@dataclass(frozen=True)
class Scorer:
    """A registered criterion: ``score`` gives one row per member that counts (or a single row for the group).

    ``needs``: kinds of evidence that must be in the context. ``normaliser``: what makes its groups comparable. ``scope``: over what
    its scores are ranked where nothing else is said.
    """

    name: str
    score: Function
    needs: tuple[str, ...]
    normaliser: str
    summary: str
    scope: str = "layer"


CRITERIA: Registry[Scorer] = Registry("criterion")
LEARNED = "gates-"
"""How kinds of evidence begin that take training, before the kind of gates."""


def criterion(
    name: str, needs: tuple[str, ...] = (), normaliser: str = "mean", scope: str = "layer"
) -> Callable[[Function], Function]:
    """Register a function (group, context) -> float64[rows, width] as a criterion."""

    def decorate(function: Function) -> Function:
        summary = (function.__doc__ or name).strip().partition("\n")[0]
        CRITERIA.add(name, Scorer(name, function, needs, normaliser, summary, scope))
        return function

    return decorate
