"""Residual branches as a kind of change: sums become their trunks (``--granularity block``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from onnx import helper, numpy_helper

from onnxprune.allocate import Target
from onnxprune.changes.analysing import facts_of, grouped
from onnxprune.changes.branches.choose import choose_blocks, prunable_blocks
from onnxprune.changes.branches.costs import BlockCosts
from onnxprune.changes.branches.proof import switched
from onnxprune.changes.branches.scores import Effects, Silencing, weight_gains
from onnxprune.changes.branches.surgery import without_blocks
from onnxprune.changes.change import Change, Space, Takes, Totals, selected
from onnxprune.changes.context import Context
from onnxprune.coupling.blocks import Block, Flow, find_blocks
from onnxprune.coupling.skips import sums_apart, sums_joined
from onnxprune.model.model import Model
from onnxprune.report.entries import Report

MOST_ROWS = 512  # that judge branches, each of which takes a pass of its own over them


class Branches(Space[Block]):
    """The branches of a model that may go, what each costs, and what each is worth."""

    kind, name, noun, verb, changed = "block", "blocks", "branch", "removes", "removed"
    takes: ClassVar[Takes] = {
        "criterion": ("auto",), "repair": ("auto", "none"), "search": (0.0,), "search_recover": (0,), "selection": ("independent",),
    }  # fmt: skip

    def __init__(self, context: Context):
        plain, self.joined = sums_apart(context.facts)
        if self.joined:
            context = context.on(grouped(facts_of(plain, context.settings), context.settings))
        super().__init__(context)
        states = {pick.present: pick.past for pick in context.facts.model.picked}
        self.flow = Flow(context.facts.graph, states)
        found = {block: block.nodes for block in find_blocks(context.analysis, self.flow)}
        what = "branch that can go; onnxprune inspect MODEL lists them"
        self.blocks = tuple(selected(found, context, what))
        self.costs = BlockCosts(context.analysis, self.flow)
        self.values: np.ndarray | None = None
        self.effects: Effects | None = None

    def parts(self) -> Sequence[Block]:
        return self.blocks

    def choose(self, aim: Target) -> Change[Block]:
        """Remove what loses least: divergence when silenced where there is calibration data, else by weights."""
        context, together = self.context, None
        with context.stages("evidence"):
            if context.data.calibration is None or not self.blocks:
                self.values = weight_gains(context.facts, self.blocks)
            else:
                rows = context.data.calibration.take(MOST_ROWS, context.settings.seed)
                silencing = Silencing(context.facts, self.flow, self.blocks, rows, context.means.quiet, context.outputs)
                self.effects = context.once("effects", silencing.effects)
                self.values, together = self.effects.divergence, silencing.together
        with context.stages("allocate"):
            scores = self.values[[block not in self.barred for block in self.blocks]]
            return Change(self, choose_blocks(self.open, scores, self.costs, context.per_run(aim), together))

    def made(self, change: Change[Block]) -> Model:
        return sums_joined(without_blocks(self.context.facts, self.flow, change.parts), self.joined)

    def silent(self, change: Change[Block]) -> Model:
        """The original whose branches are multiplied by zero."""
        reference, switches = switched(self.context.facts, self.flow, change.parts)
        for name, dtype in switches:
            zero = np.zeros((), helper.tensor_dtype_to_np_dtype(dtype))
            reference.graph.initializer.append(numpy_helper.from_array(zero, name))
        gone = self.flow.gone(change.parts)
        outputs = [value for value in reference.graph.output if value.name not in gone]
        del reference.graph.output[:]
        reference.graph.output.extend(outputs)
        return self.context.facts.model.derived(reference)

    def totals(self, change: Change[Block] | None = None, small: Model | None = None) -> Totals:
        return self.context.per_sample(self.costs.totals(change.parts if change else ()))

    def most(self) -> tuple[Block, ...]:
        """Of two branches in one sum the first goes."""
        return prunable_blocks(self.open, self.costs)

    def entries(self, change: Change[Block] | None = None) -> Report:
        """Describe every branch: what becomes of it, what it costs, what it is worth."""
        needed = self.costs.flow.needed(change.parts if change else ())
        values: dict[str, Any] = {"score": self.values} | (self.effects._asdict() if self.effects else {})
        rows = []
        for number, block in enumerate(self.blocks):
            saved = self.context.per_sample(self.costs.saved(block))
            rows.append(
                self.standing(block, block.branch not in needed)
                | {
                    "sum": block.sum.label,
                    "nodes": [node.label for node in block.nodes],
                    "parameters": saved["parameters"],
                    "macs": saved["macs"],
                }
                | {name: float(array[number]) for name, array in values.items() if array is not None}
            )
        return {"blocks": rows}
