"""Units in steps: prune a little, repair, recover, and again (``--schedule``); or from earlier weights (``--rewind``).

Between two steps the model keeps its shapes: trained weights go back into the original's tensors, and the weights of units
that are gone are zero there, or stay as they were where units may come back. So every step means by a ratio, a budget or
a limit per group what the whole run means by it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from onnxprune.allocate import Costs, Target, keep_best
from onnxprune.allocate.account import model_totals
from onnxprune.allocate.target import KINDS
from onnxprune.changes.analysing import analyse_model
from onnxprune.changes.change import Change
from onnxprune.changes.context import Context, Notes
from onnxprune.changes.proven import carried_out
from onnxprune.changes.units.choose import same_network
from onnxprune.changes.units.scored import Chosen, by_scores
from onnxprune.changes.units.space import Narrowing, Units
from onnxprune.changes.units.written import written_back
from onnxprune.changes.zeros.signs import signed_network
from onnxprune.choices import REWOUND_SIGNS
from onnxprune.coupling.cut import cut
from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.kept import Kept
from onnxprune.criteria import score
from onnxprune.criteria.earlier import EARLIER
from onnxprune.errors import SurgeryError
from onnxprune.model.model import Model
from onnxprune.recover import parse_length
from onnxprune.report.entries import Report
from onnxprune.search import Reconstruction
from onnxprune.settings import Settings

BY_SIZE = "l1"
"""What a comparison of sizes is compared with."""


class SteppedUnits(Units):
    """Units that go in the steps of a schedule, where there is one; every step may start from the weights of a ``rewind``."""

    stepwise = True

    def choose(self, aim: Target) -> Narrowing:
        """Take all steps; return what stays after the last, and the weights that they have led to."""
        context, settings, analysis = self.context, self.context.settings, self.analysis
        if context.rewind is None and settings.steps.steps == 1:
            return super().choose(aim)
        rewound = remaining = None
        if context.rewind is not None:
            rewound = remaining = same_network(analysis, analyse_model(context.rewind, settings), context.rewind)
            if settings.rewind_as == REWOUND_SIGNS:
                remaining = analyse_model(signed_network(rewound), settings)
        now, alive = analysis, Kept.whole(analysis)
        log: list[Report] = []
        for number, (share, own) in enumerate(parts_of(context, analysis, aim), 1):
            step = Rewound(_numbered(context, now, own, number), remaining)
            chosen = step.choose(share)
            if not settings.may_return:
                chosen = step.narrowing(replace(chosen.chosen, kept=still_alive(now, chosen.kept, alive, own)))
            kept, taken = chosen.kept, carried_out(chosen)
            log.append(_entry(analysis, kept, alive) | step.context.notes.entries)
            context.notes.warn(*step.context.notes.warnings)
            alive = kept
            now = analyse_model(written_back(now, kept, taken.model, silent=not settings.may_return), own)
            now = now.without(analysis.barred)
        start = Reconstruction(taken.model, alive, alive)
        told = step.context.notes.entries
        context.notes.entries |= {key: told[key] for key in ("repair", "recover", "search", "learned") if key in told}
        likeness = {} if rewound is None else self._likeness(rewound, alive, aim)
        context.notes.entries["schedule"] = {"name": settings.steps.name, "steps": log} | likeness
        return self.narrowing(Chosen(alive, start, final=True))

    def repaired(self, change: Change[int], small: Model) -> Model:
        """Give the cut of the original the weights that the steps have led to."""
        assert isinstance(change, Narrowing)
        if change.chosen.final and change.chosen.start is not None and change.chosen.start.kept != change.kept:
            raise SurgeryError("the steps led to a cut that is not exact on the original; nothing was written")
        return super().repaired(change, small)

    def _likeness(self, rewound: Analysis, kept: Kept, aim: Target) -> Report:
        """Compare with what the criterion would keep of the rewound weights alone, or where it compares both, with what the size of either would."""
        settings = self.context.settings
        if settings.scorer.needs == (EARLIER,):
            by_size = replace(self.context, settings=replace(settings, criterion=BY_SIZE))
            early, late = (by_scores(by_size, one, aim)[0] for one in (rewound, self.analysis))
            return {"overlap_with_rewind": overlap(kept, early), "overlap_with_magnitude": overlap(kept, late)}
        if settings.scorer.needs:
            return {}
        own, _ = by_scores(self.context, rewound, aim)
        return {"overlap_with_rewind": overlap(kept, own)}


class Rewound(Units):
    """One step: like a run of its own, but its weights may come from ``rewound``, the same network as it was earlier."""

    def __init__(self, context: Context, rewound: Analysis | None):
        super().__init__(context)
        self.rewound = rewound

    def repaired(self, change: Change[int], small: Model) -> Model:
        assert isinstance(change, Narrowing)
        return super().repaired(change, small) if self.rewound is None else cut(self.rewound, change.kept)


def _numbered(context: Context, analysis: Analysis, settings: Settings, number: int) -> Context:
    """Return the context of one step: notes, a checkpoint and a progress line of its own."""
    stages = context.stages.named(f"step {number} of {settings.steps.steps}: ")
    place = context.checkpoint and context.checkpoint.with_name(f"{context.checkpoint.name}.{number}")
    return context.on(analysis, settings=settings, stages=stages, notes=Notes(), checkpoint=place)


def parts_of(context: Context, analysis: Analysis, aim: Target) -> Iterator[tuple[Target, Settings]]:
    """Yield the aim of every step, and settings with an equal part of all training."""
    settings = context.settings
    recover, gates = (
        part_of_training(length, settings.steps.steps) for length in (settings.recover, settings.gate_training)
    )
    own = replace(settings, recover=recover, gate_training=gates)
    if aim.kind == "ratio":
        final = aim.value
    else:
        costs = Costs(analysis)
        whole = float(costs.total(KINDS[aim.kind], costs.widths))
        final = 1 - context.per_run(aim).budget(whole) / whole
    for share in settings.steps.shares(final)[:-1]:
        yield (Target("ratio", share) if aim.kind == "ratio" else Target(aim.kind, round(1 - share, 9))), own
    yield aim, own


def part_of_training(length: str | int, steps: int) -> str | int:
    if length in (0, "0"):
        return 0
    ((unit, number),) = parse_length(length).items()
    return f"{number / steps:.6f}s" if unit == "seconds" else max(1, round(number / steps))


def still_alive(analysis: Analysis, kept: Kept, alive: Kept, settings: Settings) -> Kept:
    """Return ``kept`` without units that were gone already; as many others stay instead, as long as there are any.

    Units that are gone have zero weights and rank last, so that only ties and rounding to legal widths bring them here.
    """
    if not any((mask & ~before).any() for mask, before in zip(kept, alive, strict=True)):
        return kept
    weights = score(analysis, replace(settings, criterion="l2").scorer, settings.means).values
    found = []
    for mask, before, strength in zip(kept, alive, weights, strict=True):
        rank = np.where(mask & before, np.inf, np.where(before, strength, -np.inf))
        found.append(keep_best(rank, min(int(mask.sum()), int(before.sum()))))
    return Kept(analysis, found)


def overlap(first: Kept, second: Kept) -> dict[str, float]:
    """Return the Jaccard index of what two decisions remove, and what it would be for random units of the same number."""
    gone = [(~a, ~b) for a, b in zip(first, second, strict=True)]
    together = sum(float((a & b).sum()) for a, b in gone)
    chance = sum(float(a.sum()) * float(b.sum()) / len(a) for a, b in gone)
    total = sum(float(a.sum() + b.sum()) for a, b in gone)
    return {"jaccard": jaccard(together, total), "chance": jaccard(chance, total)}


def jaccard(common: float, total: float) -> float:
    """Return the index of two sets that have so much in common, and together so many."""
    return round(common / (total - common), 6) if total > common else 1.0


def _entry(analysis: Analysis, kept: Kept, before: Kept) -> Report:
    """What one step did: units that are left, that went, that came back, and how many parameters and MACs are left."""
    found = model_totals(analysis, kept.widths)
    pairs = list(zip(kept, before, strict=True))
    return {
        "units": int(kept.widths.sum()),
        "went": sum(int((old & ~new).sum()) for new, old in pairs),
        "returned": sum(int((new & ~old).sum()) for new, old in pairs),
        **{kind: found[kind] for kind in ("parameters", "macs")},
    }
