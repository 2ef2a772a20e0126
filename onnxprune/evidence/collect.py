"""All the kinds of evidence that a set of criteria asks for, from one pass over the data."""

from __future__ import annotations

from collections.abc import Iterable

from onnxprune.coupling.groups import Analysis
from onnxprune.data import Dataset, input_specs, random_dataset
from onnxprune.evidence.sites import REQUESTS, requested
from onnxprune.evidence.store import Cache, Evidence
from onnxprune.evidence.stream import gather
from onnxprune.means import Means

RANDOM_SAMPLES = 8


def collect(
    analysis: Analysis,
    kinds: Iterable[str],
    dataset: Dataset | None,
    means: Means = Means(),
    *,
    cache: Cache | None = None,
) -> dict[str, Evidence]:
    """Return kind -> evidence for the kinds in REQUESTS; others are left to whoever makes them.

    Without data random inputs stand in, which the evidence says loudly (``synthetic``, ``warnings``).
    """
    wanted = tuple(kind for kind in dict.fromkeys(kinds) if kind in REQUESTS)
    if dataset is None:
        specs = input_specs(analysis.facts.model.structure)
        facts = analysis.facts
        dataset = random_dataset(specs, RANDOM_SAMPLES, means.seed, dict(facts.sizes), facts.values)
    found = gather(analysis.facts, dataset, requested(analysis, wanted), means, cache=cache)
    return dict.fromkeys(wanted, found)
