"""What a proof has seen of two models, value by value, and what it says of each output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from onnx import TensorProto

from onnxprune.model.facts import Facts
from onnxprune.model.graph import Node
from onnxprune.proof.positions import Difference, difference
from onnxprune.proof.stand_ins import StandIns
from onnxprune.proof.witnesses import WAYS, Reach, Witnesses, drawable, reaches

DEFAULT_TOLERANCE = 1e-4  # of a position's own scale; honest results stay below 1e-5 in float32
TOLERANCE: dict[int, float] = {TensorProto.FLOAT16: 3e-2}
STORED_TOLERANCE = {TensorProto.FLOAT16: 5e-3, TensorProto.BFLOAT16: 4e-2}
"""The same where all is computed in float32: ten roundings of the scales and gains that a cut stores."""
DOUBLE_TOLERANCE = 1e-8  # where every float of the model is a double
ROUNDING_ROOM = 8.0  # times what rounding alone does: beyond it a value is wrong
NO_POWER = 0.1  # what may differ by more of its scale proves nothing
MOVED = 10.0  # times the tolerance: from here on silencing has moved an output


@dataclass(frozen=True)
class OutputProof:
    """What the proof says of one output; shares are of a position's own scale.

    ``moved``: what silencing did to it (None: it was not compared); ``reason``: why it is not proven, or what proves it
    beside its own movement.
    """

    name: str
    moved: float | None
    error: float
    tolerance: float
    proven: bool
    reason: str = ""


@dataclass(frozen=True)
class SurgeryCheck:
    """Result of comparing the cut model with its reference: the largest error on a position's own scale.

    ``exact``: all that was compared agrees, and nothing was left unseen. ``problem``: what differs, at node ``where``;
    ``unproven``: what was not seen. ``skipped``: nodes that are not run because ONNX Runtime does not have them.
    """

    exact: bool
    error: float
    max_abs_error: float
    tolerance: float
    lossy_nodes: tuple[str, ...] = ()
    frozen_by_check: tuple[str, ...] = ()
    problem: str = ""
    skipped: tuple[str, ...] = field(default=())
    outputs: tuple[OutputProof, ...] = ()
    unproven: str = ""
    where: Node | None = None

    @property
    def agrees(self) -> bool:
        """Whether nothing that was compared differs, though not everything may have been seen."""
        return self.exact or bool(self.unproven)


def all_of(checks: Sequence[SurgeryCheck]) -> SurgeryCheck:
    """Return what the proofs of several steps, each on the model that the last one led to, say together."""
    if len(checks) == 1:
        return checks[0]
    outputs: dict[str, OutputProof] = {}
    for one in (output for check in checks for output in check.outputs):
        old = outputs.get(one.name, one)
        moved = None if one.moved is None or old.moved is None else max(one.moved, old.moved)
        outputs[one.name] = OutputProof(
            one.name, moved, max(one.error, old.error), max(one.tolerance, old.tolerance), one.proven and old.proven,
            "; ".join(dict.fromkeys(filter(None, (old.reason, one.reason)))),
        )  # fmt: skip

    def named(key: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for check in checks for name in getattr(check, key)))

    return SurgeryCheck(
        all(check.exact for check in checks),
        max(check.error for check in checks),
        max(check.max_abs_error for check in checks),
        max(check.tolerance for check in checks),
        named("lossy_nodes"),
        named("frozen_by_check"),
        problem="; ".join(dict.fromkeys(check.problem for check in checks if check.problem)),
        skipped=named("skipped"),
        outputs=tuple(outputs.values()),
        unproven="; ".join(dict.fromkeys(check.unproven for check in checks if check.unproven)),
    )


class Observations:
    """All comparisons of one result with its reference, by name of the value.

    ``alone``: outputs are all that is compared, and they need not move.
    """

    def __init__(self, stand_ins: StandIns, witnesses: Witnesses, alone: bool):
        self.facts, self.foreign, self.witnesses, self.alone = stand_ins.facts, stand_ins.foreign, witnesses, alone
        self.base = base_tolerance(self.facts)
        self.found: dict[str, Difference] = {}
        self.moved: dict[str, float] = {}
        self.wrong: dict[str, float] = {}
        self.tolerances: dict[str, float] = {}
        self.shapes: dict[str, str] = {}
        self.branches: dict[Node, set[bool]] = {}

    # --- noting -----------------------------------------------------------------------------------------------------

    def judge(self, name: str, apart: Difference, noise: float) -> None:
        """Count one comparison; where rounding alone may do as much, it proves nothing."""
        allowed = max(self.base, ROUNDING_ROOM * noise)
        if allowed > NO_POWER and name not in self.shapes:
            self.found.setdefault(name, Difference())
            return
        if apart.error > allowed:
            self.wrong[name] = max(self.wrong.get(name, 0.0), apart.error)
        self.tolerances[name] = max(self.tolerances.get(name, 0.0), allowed)
        self.found[name] = self.found.get(name, Difference()) | apart

    def tolerance(self, name: str) -> float:
        """Return how far a value was allowed to be off."""
        return self.tolerances.get(name, self.base)

    def _seen(self, name: str, node: Node | None = None) -> bool:
        """Whether a value was seen; one that ``node`` makes of sizes alone is what it is, zeros too."""
        found = self.found.get(name, Difference())
        fixed = node is not None and not any(
            drawable(self.facts, n) or n in self.facts.graph.inputs for n in node.inputs
        )
        return found.seen or (fixed and found.finite)

    def note_branches(self, values: Mapping[str, Any]) -> None:
        """Remember which way each If and Loop went."""
        for node, names in self.witnesses.conditions.items():
            known = [values[name] for name in names if name in values]
            if len(known) == len(names):
                self.branches.setdefault(node, set()).add(all(bool(np.all(value > 0)) for value in known))

    def note_movement(self, name: str, before: Any, after: Any) -> None:
        """Remember how far silencing moved a value."""
        self.moved[name] = max(self.moved.get(name, 0.0), _movement(before, after))

    # --- what it says -----------------------------------------------------------------------------------------------

    @property
    def differs(self) -> bool:
        return bool(self.wrong)

    def _first_wrong(self) -> str:
        """The value that differs and stands first in the graph."""
        order = {name: place for place, name in enumerate(self.facts.first)}
        return min(self.wrong, key=lambda name: order.get(name, len(order)))

    @property
    def settled(self) -> bool:
        return all(output.proven for output in self._outputs())

    @property
    def unseen_outputs(self) -> set[str]:
        """Outputs that were compared and never had a finite value other than zero."""
        return {name for name in self.facts.graph.outputs if name in self.found and not self._seen(name)}

    def unseen(self) -> list[Node]:
        """Nodes reached by the cut of which no result was seen, or whose bodies were not seen to matter."""
        nodes: dict[Node, list[str]] = {}
        for name, node in self.witnesses.values.items():
            nodes.setdefault(node, []).append(name)
        found = [node for node, names in nodes.items() if not any(self._seen(name, node) for name in names)]
        for node in self.witnesses.hidden:
            ways = WAYS[node.op] if node in self.witnesses.conditions else set()
            names = [name for name in node.outputs if name]
            seen = any(self._seen(name) for name in names)
            if node in self.witnesses.veiled:
                seen = any(self.moved.get(name, 0.0) > MOVED * self.tolerance(name) for name in names)
            found += [] if seen and ways <= self.branches.get(node, set()) else [node]
        return found

    def _outputs(self) -> list[OutputProof]:
        graph = self.facts.graph
        found = reaches(graph, self.witnesses.nodes, self.unseen())
        whole = Reach(cut=self.alone)
        return [self._output(name, found.get(name, whole)) for name in graph.outputs]

    def _output(self, name: str, reach: Reach) -> OutputProof:
        found, tolerance = self.found.get(name), self.tolerance(name)
        if found is None and not self.foreign:
            return OutputProof(name, None, 0.0, tolerance, True, "it goes with what makes it")
        if found is None:
            blind = [node.label for node in self.foreign]
            reason = f"it is made by {_some(blind)}, which ONNX Runtime does not have; all that goes in is proven"
            return OutputProof(name, None, 0.0, tolerance, not reach.unseen, reason)
        moved = self.moved.get(name, 0.0)
        agrees = name not in self.wrong

        def said(proven: bool, reason: str) -> OutputProof:
            return OutputProof(name, moved, found.error, tolerance, proven and agrees, reason)

        if not agrees:
            return said(False, f"it differs by {found.error:.1e} of its scale")
        if not reach.cut:
            return said(True, "the cut does not reach it")
        if reach.unseen:
            labels = _some([node.label for node in reach.unseen])
            return said(
                False, f"no input tried shows what becomes of {labels}: nothing there was finite and other than zero"
            )
        if self.alone:
            return said(
                self._seen(name), "" if self._seen(name) else "no input tried gives it a finite value other than zero"
            )
        return said(True, "" if moved > MOVED * tolerance else "by the inner values, since the output hardly moves")

    def verdict(self) -> SurgeryCheck:
        """Return what was found, the first value that differs named."""
        outputs = tuple(self._outputs())
        compared = [self.found[name] for name in self.facts.graph.outputs if name in self.found]
        worst = max((found.error for found in compared), default=0.0)
        largest = max((found.absolute for found in compared), default=0.0)
        skipped = tuple(node.label for node in self.foreign)
        unproven = next((f"output {o.name!r}: {o.reason}" for o in outputs if not o.proven), "")
        check = SurgeryCheck(
            not unproven, worst, largest, self.base, skipped=skipped, outputs=outputs, unproven=unproven
        )
        if not self.differs:
            return check
        name = self._first_wrong()
        what = "output" if name in self.facts.graph.outputs else "value"
        how = self.shapes.get(name) or f"differs by {self.found[name].error:.2e} of its scale"
        node = self.facts.graph.producer.get(name)
        at = "" if node is None else f" (node {node.label!r}, {node.op})"
        return replace(
            check, exact=False, unproven="", problem=f"{what} {name!r}{at} {how}", where=node,
            error=max(worst, self.found[name].error),
        )  # fmt: skip


def _movement(before: Any, after: Any) -> float:
    """Return how far silencing moved a value, 1 where it is of another kind (integers: the share that changed)."""
    change = difference(before, after)
    return change.error if np.isfinite(change.error) else min(change.absolute, 1.0)


def _some(labels: Sequence[str], most: int = 3) -> str:
    more = f" and {len(labels) - most} more" if len(labels) > most else ""
    return ", ".join(map(repr, labels[:most])) + more


def tolerance_of_stored(facts: Facts) -> float:
    """Return the tolerance where a model of two-byte floats is computed in float32."""
    return _coarsest(facts, STORED_TOLERANCE)


def base_tolerance(facts: Facts) -> float:
    """The coarsest float type of any tensor or output decides."""
    return _coarsest(facts, TOLERANCE)


def _coarsest(facts: Facts, tolerances: Mapping[Any, float]) -> float:
    dtypes = {facts.dtype(value) for value in (*facts.graph.tensors, *facts.graph.outputs, *facts.graph.inputs)}
    floats = dtypes & {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
    if floats == {TensorProto.DOUBLE}:
        return DOUBLE_TOLERANCE
    return max((tolerances.get(dtype, DEFAULT_TOLERANCE) for dtype in floats), default=DEFAULT_TOLERANCE)
