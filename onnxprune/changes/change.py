"""The unit of change: a decision that has a cost, an error and a proof, and the space of what may be decided in a model."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np

from onnxprune.allocate import Target, matcher
from onnxprune.allocate.account import model_totals
from onnxprune.allocate.target import KINDS
from onnxprune.changes.context import Context
from onnxprune.coupling.links import Barrier
from onnxprune.errors import PlanError, TargetError, UsageError
from onnxprune.model.graph import Node
from onnxprune.model.model import Model
from onnxprune.model.write import stored_bytes
from onnxprune.proof.check import SurgeryCheck
from onnxprune.proof.witnesses import of_change
from onnxprune.report.entries import Report

P = TypeVar("P")
Totals = dict[str, int]
NOWHERE = Path("model.onnx")  # where a model would be written, to know its size
Takes = Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Change(Generic[P]):
    """What becomes of a model: ``parts`` of what may change in ``space``, each of which a bisection can take out."""

    space: Space[P]
    parts: tuple[P, ...]

    def only(self, parts: Sequence[P]) -> Self:
        return replace(self, parts=tuple(parts))

    def made(self) -> Model:
        """Return the changed model, before any repair."""
        return self.space.made(self)

    def checked(self, small: Model) -> SurgeryCheck:
        """Prove that ``small`` is the original in which what goes says nothing."""
        return self.space.checked(self, small)

    def totals(self, small: Model | None = None) -> Totals:
        """Return parameters, MACs of one sample, bytes; ``small``: the model as it was made."""
        return self.space.totals(self, small)

    def record(self) -> Mapping[str, Any]:
        """Return what a plan holds of it."""
        return self.space.record(self)

    def positions(self, value: str) -> dict[int, np.ndarray]:
        """Return axis -> positions that stay, for every axis of a value that loses some."""
        return self.space.positions(self, value)


class Space(Generic[P]):
    """What may change in one model under the settings; one class per kind of change.

    A kind gives its ``parts`` with a score each, what a change ``made`` of the model, and the ``silent`` original that this
    has to equal. From these follow the choice, the proof, the plan and the report; a kind that knows better overrides them.
    """

    kind: ClassVar[str]
    """What plans and reports call a step of this kind."""
    name: ClassVar[str]
    """The key under which its parts stand there."""
    noun: ClassVar[str] = "part"
    verb: ClassVar[str] = "changes"
    changed: ClassVar[str] = "changed"
    """The status of a part that changes."""
    takes: ClassVar[Takes] = {}
    """Setting -> the values that go with this kind; settings that are not named: all."""
    aims: ClassVar[tuple[str, ...]] = ("ratio", "macs", "params", "size")
    """Kinds of targets that it can be given."""
    loses: ClassVar[bool] = True
    """Whether something of the model is lost by it; where not, all may as well stay as it is."""
    saves: ClassVar[bool] = True
    """Whether there is less of the model afterwards."""
    passes: ClassVar[Mapping[str, float] | None] = None
    """Stage of a run -> how many times as long as running the model on its rows it takes with data, about (None: as for units)."""
    trains: ClassVar[bool] = True
    """Whether weights may be trained once it is made."""
    recovers: ClassVar[bool] = False
    """Whether a recovery of the whole run belongs behind it, though it has no target of its own."""
    stepwise: ClassVar[bool] = False
    """Whether it takes the steps of a schedule by itself, all in one change."""

    def __init__(self, context: Context):
        self.context = context
        self.barred: Mapping[Any, Barrier] = {}

    # --- what a kind says -------------------------------------------------------------------------------------------

    def parts(self) -> Sequence[Any]:
        """Return what may change: parts of a change, or their owners."""
        raise NotImplementedError

    def scores(self) -> np.ndarray:
        """Return float64[parts]: what is lost with each."""
        raise NotImplementedError

    def made(self, change: Change[P]) -> Model:
        raise NotImplementedError

    def silent(self, change: Change[P]) -> Model:
        """Return the original in which what goes says nothing."""
        raise NotImplementedError

    # --- what follows -----------------------------------------------------------------------------------------------

    def label(self, part: Any) -> str:
        return str(getattr(part, "name", part))

    def owner(self, part: P) -> Any:
        """Return what the check keeps whole where it refuses a part."""
        return part

    @property
    def open(self) -> tuple[Any, ...]:
        """What may still change."""
        return tuple(part for part in self.parts() if part not in self.barred)

    def most(self) -> tuple[P, ...]:
        """Return the parts that change when as much as can changes."""
        return self.open

    def without(self, refuted: Refuted) -> Self:
        """Return what is left to choose from; raises TargetError where that is nothing, and something was to be lost."""
        rest = copy.copy(self)
        rest.barred = {**self.barred, **{self.owner(part): barrier for part, barrier in refuted.parts.items()}}
        if self.loses and not rest.open:
            raise refuted.nothing_left(self.noun)
        return rest

    def choose(self, aim: Target) -> Change[P]:
        """Take the parts that lose least per what they save, until ``aim`` is met; a ratio is a share of the parts.

        Raises TargetError where all parts together do not meet it.
        """
        parts, scores = self.parts(), self.scores()
        able = [number for number, part in enumerate(parts) if part not in self.barred]
        if aim.kind == "ratio":
            ranked = sorted(able, key=lambda number: (scores[number], number))
            taken = ranked[: max(1, math.floor(aim.value * len(parts) + 0.5))]
            return Change(self, tuple(parts[number] for number in sorted(taken)))
        key, whole = KINDS[aim.kind], self.totals()
        saved = {n: whole[key] - self.totals(Change(self, (parts[n],)))[key] for n in able}
        left, limit, taken = float(whole[key]), aim.budget(whole[key]), []
        for number in sorted((n for n in able if saved[n] > 0), key=lambda n: (scores[n] / saved[n], n)):
            if left <= limit:
                break
            left -= saved[number]
            taken.append(number)
        if left > limit:
            share = f"with every {self.noun} changed {left / max(whole[key], 1):.1%} of the {key} are left"
            raise TargetError(f"--target {aim} is out of reach: {share}; ask for less", left)
        return Change(self, tuple(parts[number] for number in sorted(taken)))

    def probes(self) -> Iterator[tuple[str, int, dict[int, Change[P]]]]:
        """Yield every part's name, its size, and what is left of that -> the change that leaves so much of it alone."""
        for part in self.open if self.loses else ():
            yield self.label(part), 1, {0: Change(self, (part,))}

    def checked(self, change: Change[P], small: Model) -> SurgeryCheck:
        return self.context.prover.compare(self.silent(change), small, of_change(self.context.facts, small))

    def totals(self, change: Change[P] | None = None, small: Model | None = None) -> Totals:
        analysis = self.context.analysis
        found = model_totals(analysis, analysis.widths)
        if change is not None:
            model = small or change.made()
            found["bytes"] += stored_bytes(model, NOWHERE) - stored_bytes(self.context.facts.model, NOWHERE)
        return found

    def prunable(self) -> dict[str, float]:
        """Return the share of parameters and of MACs that goes when all changes that can together."""
        whole, rest = self.totals(), self.totals(Change(self, self.most()))
        return {kind: 1 - rest[kind] / whole[kind] if whole[kind] else 0.0 for kind in ("parameters", "macs")}

    def reached(self, change: Change[P], aim: Target) -> str:
        """Return what to say of a change that is far from ``aim`` ("": nothing); raises TargetError where it misses it."""
        return ""

    def repaired(self, change: Change[P], small: Model) -> Model:
        """Return the proven model with its weights repaired."""
        return small

    def trained(self, change: Change[P]) -> bool:
        """Whether the weights of ``repaired`` have been through the recovery already."""
        return False

    def masks(self, change: Change[P]) -> Mapping[str, np.ndarray]:
        """Return stored tensor -> bool of its shape: weights that must stay zero where it is False, in a recovery too."""
        return {}

    def positions(self, change: Change[P], value: str) -> dict[int, np.ndarray]:
        return {}

    def placed(self, change: Change[P], tensor: str) -> dict[int, np.ndarray]:
        """Return axis -> the positions of a stored tensor that are left of it, in their order afterwards, for axes that change."""
        return self.positions(change, tensor)

    def record(self, change: Change[P]) -> Mapping[str, Any]:
        return {self.name: [self.label(part) for part in change.parts]}

    def read(self, record: Mapping[str, Any]) -> Change[P]:
        """Return the change that a plan records; raises PlanError where it does not fit the model."""
        known = {self.label(part): part for part in self.parts()}
        for name in record.get(self.name, ()):
            if name not in known:
                raise PlanError(f"the plan {self.verb} the {self.noun} {name!r}, which this model does not have")
        chosen = [known[name] for name in record.get(self.name, ())]
        return Change(self, tuple(part for part in chosen if self.owner(part) not in self.barred))

    def entries(self, change: Change[P] | None = None) -> Report:
        """Describe every part, by the report's key: what becomes of it and why."""
        chosen = set(map(id, change.parts)) if change is not None else set()
        return {self.name: [self.standing(part, id(part) in chosen) for part in self.parts()]}

    def standing(self, part: Any, changes: bool) -> Report:
        """Return what becomes of one part, or of the owner of one."""
        barrier = self.barred.get(part)
        status = "frozen" if barrier else self.changed if changes else "kept"
        return {"name": self.label(part), "status": status, "reason": barrier and barrier.reason}


class Refuted(Exception):
    """Parts of a change that cannot be carried out exactly, and why."""

    def __init__(self, parts: Mapping[Any, Barrier]):
        super().__init__("; ".join(dict.fromkeys(barrier.reason for barrier in parts.values())))
        self.parts = parts

    def nothing_left(self, what: str) -> TargetError:
        """Return the error for a model of which no other part could go."""
        return TargetError(
            f"no {what} of this model can go exactly: {self}. Nothing was written; onnxprune inspect MODEL lists what else "
            "there is"
        )


N = TypeVar("N")


def selected(found: Mapping[N, Sequence[Node]], context: Context, what: str, *, all_match: bool = True) -> list[N]:
    """Return those whose nodes ``include`` and ``exclude`` leave; raises UsageError where a pattern matches none, if ``all_match``."""

    settings = context.settings

    def matching(pattern: str, option: str) -> set[N]:
        known = {name for nodes in found.values() for n in nodes for name in (n.label, *n.inputs, *n.outputs)}
        by_node, by_name = matcher(pattern, known)
        hit = {
            item
            for item, nodes in found.items()
            for n in nodes
            if by_node(n) or any(map(by_name, (*n.inputs, *n.outputs)))
        }
        if not hit and all_match and not settings.mixes:
            raise UsageError(f"{option} {pattern!r} matches no {what}")
        return hit

    included = [matching(pattern, "--include") for pattern in settings.include] or [set(found)]
    chosen = set().union(*included).difference(*(matching(pattern, "--exclude") for pattern in settings.exclude))
    return [item for item in found if item in chosen]
