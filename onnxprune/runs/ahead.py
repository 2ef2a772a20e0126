"""What lies ahead of a run, and how long each stage of it may take: what a progress bar begins with, before the run shows its own pace."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from onnxprune.allocate.account import model_totals
from onnxprune.changes.context import Context
from onnxprune.changes.judging import TURNS
from onnxprune.measure.kinds import SAMPLES
from onnxprune.recover import Recipe
from onnxprune.repair import MOST_ROWS
from onnxprune.report.course import Stretch
from onnxprune.report.gates import LATENCY_SECONDS
from onnxprune.runs.turning import ROWS
from onnxprune.settings import Settings, space_of

MACS_A_SECOND = 3e10  # of a convolution or product on one thread, about
NODE_SECONDS = 1e-5  # that a node costs in every run, however small
BYTES_A_SECOND = 4e8  # that are copied, compared or written
TRAINING, DRIFT = 4.0, 4.0
"""How many times as long as running the model on the rows a step of training, and the comparison of outputs, take, about."""
BY_REPAIR = {"allocate": 2.0, "repair": 1.0}
BY_SCORES = {"evidence": 2.0, "repair": 2.0}
BY_WEIGHTS = {"repair": 2.0}
"""Stage -> the same of a kind of change that says nothing itself: where it is chosen by what repairs best, by data, by weights alone."""
SOLVED = 30_000
"""Rows that running the model on takes as long as the fits of a repair, or of a choice by what repairs best, however many rows there are: both
take as many positions of few rows as of many. 22,000 to 38,000 on ResNet-20 and ResNet-56, 7,000 to 21,000 on digits_cnn (benchmarks/presets.py)."""
ALONE = 0.3  # of that for one repair, where others are not tried beside it
QUANTISED = {"": 0.0, "dynamic": 8.0, "int8": 30.0}
"""What ``quantize`` is -> how many times as long as running the model on its rows the choice of a recipe takes, about."""
CHECKS = 12  # samples that a proof runs, of all models together
MIXES = 12  # runs of the whole way that judge how kinds of change share a target


def ahead(context: Context, pace: float | None = None) -> dict[str, Stretch]:
    """Return the stages that follow the analysis, with the seconds of one thread that they may take.

    ``pace``: seconds that the model takes for a row; None: as its MACs and nodes say.
    """
    return {name: stretch for name, stretch in _stages(context, pace) if stretch.seconds > 0}


def _stages(context: Context, pace: float | None) -> Iterator[tuple[str, Stretch]]:
    settings, data, analysis = context.settings, context.data, context.analysis
    macs, size = model_totals(analysis, analysis.widths)["macs"], context.original.size or 1
    run = pace or macs / MACS_A_SECOND + len(analysis.facts.graph.nodes) * NODE_SECONDS
    copied = size / BYTES_A_SECOND
    rows = 0 if data.calibration is None else min(len(data.calibration), MOST_ROWS)
    turns = max(len(settings.spaces), 1) * settings.steps.steps
    if settings.max_divergence is not None and not all(space_of(path).stepwise for path in settings.spaces):
        turns *= TURNS
    seconds = {stage: factor * rows * run * settings.steps.steps for stage, factor in _passes(settings).items()}
    solving = "allocate" if settings.reconstructs else "repair"
    if rows and solving in seconds and any(space_of(path).passes is None for path in settings.spaces):
        fits = ALONE if solving == "repair" and settings.repair == "least-squares" else 1.0
        seconds[solving] += SOLVED * fits * run * settings.steps.steps
    way = sum(seconds.values())
    yield "outputs", Stretch(min(rows, SAMPLES) * run + 0.1 if data.measured is not None else 0.0)
    if settings.mixes and len(settings.share) < len(settings.aimed) - 1:
        yield "shares", Stretch(MIXES * way)
    if (
        settings.rotate is None
        and settings.reconstructs
        and any(spec.statistics for _, spec in analysis.solution.links.specs)
    ):
        yield "rotation", Stretch(2 * way * min(ROWS / max(rows, 1), 1.0))
    yield "gates", Stretch(_gates(context, run), turns)
    yield "evidence", Stretch(seconds.get("evidence", 0.0), turns)
    yield "allocate", Stretch(0.1 * turns + seconds.get("allocate", 0.0) + settings.search, turns)
    yield "cut", Stretch(copied * turns, turns)
    yield "check", Stretch((CHECKS * run + 2 * copied + 0.2) * turns, turns)
    yield "repair", Stretch(seconds.get("repair", 0.0), turns)
    yield "recover", Stretch(_training(context, run))
    yield "quantise", Stretch(QUANTISED[settings.quantize] * rows * run)
    yield "drift", Stretch(DRIFT * run * len(data.measured or ()))
    yield "latency", Stretch((LATENCY_SECONDS + 1.0) if settings.latency else 0.0)
    yield "save", Stretch(copied + 0.01)


def _passes(settings: Settings) -> dict[str, float]:
    """Return stage -> how many times as long as running the model on its rows it takes, of all kinds of change together."""
    by_scores = settings.scorer.needs and not settings.scorer.learned
    usual = BY_REPAIR if settings.searches else BY_SCORES if by_scores else BY_WEIGHTS
    found = defaultdict[str, float](float)
    for space in map(space_of, settings.spaces):
        for stage, factor in (usual if space.passes is None else space.passes).items():
            found[stage] += factor
    return {stage: factor for stage, factor in found.items() if stage != "repair" or settings.repair != "none"}


def _gates(context: Context, run: float) -> float:
    """Return the seconds of a training of gates."""
    return _lasting(context.settings.gate_recipe, run) if context.settings.scorer.learned else 0.0


def _training(context: Context, run: float) -> float:
    """Return the seconds of a recovery."""
    recipe = context.settings.recipe
    return 0.0 if recipe is None else _lasting(recipe, run)


def _lasting(recipe: Recipe, run: float) -> float:
    """Return the seconds of a training: as asked for, or what its steps take."""
    return recipe.seconds or recipe.steps * recipe.rows * run * TRAINING
