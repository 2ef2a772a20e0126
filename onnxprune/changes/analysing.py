"""From a model to its groups, in the form that changes are decided on."""

from __future__ import annotations

from dataclasses import replace

from onnxprune.changes.change import Change
from onnxprune.changes.context import Context
from onnxprune.changes.pairing import Pairing
from onnxprune.changes.proven import step_of
from onnxprune.coupling.caches import with_picks
from onnxprune.coupling.channels import layouts
from onnxprune.coupling.groups import Analysis, analyse
from onnxprune.coupling.prepare import prepare
from onnxprune.coupling.sharing import unshared
from onnxprune.coupling.streams.widening import outlets, widened, without_identities, worthwhile
from onnxprune.data import Dataset
from onnxprune.errors import ModelError, OnnxPruneError, UsageError
from onnxprune.means import Means
from onnxprune.measure.kinds import observed
from onnxprune.measure.outputs import Outputs
from onnxprune.measure.weights import weighed
from onnxprune.model import read
from onnxprune.model.facts import Facts, gather_facts
from onnxprune.model.graph import Graph
from onnxprune.model.memory import rows_at_once
from onnxprune.model.read import Model
from onnxprune.model.runtime import session
from onnxprune.settings import Settings


def analyse_model(model: Model, settings: Settings) -> Analysis:
    """Find the groups of a model and everything that stays, with reasons.

    Raises ModelError where the analysis fails on a model that the strict checker or ONNX Runtime refuses as well.
    """
    try:
        return _analysed(model, settings)
    except (OnnxPruneError, MemoryError):
        raise
    except Exception:
        read.check_structure(model, model.name, full=True)
        try:
            session(model, optimise=False)
        except ModelError as error:
            raise ModelError(f"{model.name}: {error}") from error
        raise


def _analysed(model: Model, settings: Settings) -> Analysis:
    analysis = _with_outlets(
        grouped(unshared(facts_of(prepare(_picking(model, settings)), settings), settings.allowed), settings), settings
    )
    if not settings.pairs:
        return analysis
    pairing = Pairing(Context(analysis, model, settings))
    if not pairing.parts():
        return analysis
    reordered = step_of(pairing, lambda space: Change(space, space.open)).model
    return grouped(facts_of(reordered, settings), settings)


def _picking(model: Model, settings: Settings) -> Model:
    """Let heads go with their share of the cache, where that is asked for; raises UsageError for a model without a cache."""
    if not settings.cut_cache:
        return model
    if not (found := with_picks(model)).picked:
        raise UsageError(
            f"cut_cache: {model.name} has no cache of several heads that comes out longer than it goes in; leave cut_cache out"
        )
    return found


def _with_outlets(analysis: Analysis, settings: Settings) -> Analysis:
    """Return the analysis of the model whose outputs no longer hold the streams behind them, where that is worth a matrix each."""
    chosen = outlets(analysis)
    while chosen:
        fresh = grouped(facts_of(widened(analysis.facts.model, analysis.solution.links, chosen), settings), settings)
        worth = worthwhile(fresh, chosen)
        if len(worth) == len(chosen):
            return fresh
        chosen = worth
    return analysis


def facts_of(model: Model, settings: Settings) -> Facts:
    shapes, rows, values = dict(settings.input_shape), dict(settings.row_shape), dict(settings.input_value)
    return gather_facts(model, Graph(model.structure), shapes, rows, values)


def plain_facts(context: Context) -> Facts:
    """Return the facts of the model without what was added to analyse it."""
    facts = context.analysis.facts
    model = without_identities(facts.model, facts.model.widened)
    return facts if model is facts.model else facts_of(model, context.settings)


def means_of_runs(settings: Settings, facts: Facts) -> Means:
    """Return with what a whole model is run on data: on as many rows at a time as memory has room for."""
    return replace(settings.means, batch=rows_at_once(facts, settings.means))


def grouped(facts: Facts, settings: Settings) -> Analysis:
    return analyse(facts, settings.allowed, settings.prefer)


def outputs_of(analysis: Analysis, settings: Settings, dataset: Dataset) -> Outputs:
    """Return how the model's outputs are compared, from its graph and from data; raises UsageError for weights and tasks that fit none."""
    means, links = means_of_runs(settings, analysis.facts), analysis.solution.links
    found = observed(analysis.facts.model, dataset, layouts(links), means, asked=settings.purpose)
    return weighed(found, settings.output_weight)
