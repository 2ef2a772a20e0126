"""Sizes and values that real rows give to what a model leaves open."""

from __future__ import annotations

from dataclasses import replace

from onnxprune.data import Dataset
from onnxprune.data.survey import Survey, surveyed
from onnxprune.model.graph import Graph
from onnxprune.model.model import Model
from onnxprune.model.sizes import batch_axes, free_dimensions
from onnxprune.settings import Settings


def sized(model: Model, settings: Settings, dataset: Dataset | None) -> tuple[Settings, Survey | None]:
    """Return the settings with the sizes and scalars of real rows, which then decide, as far as they say nothing of them."""
    if dataset is None:
        return settings, None
    graph = Graph(model.structure)
    free = {(name, axis) for name, axis, _ in free_dimensions(graph)}
    survey = surveyed(dataset)
    values = survey.constants | dict(settings.input_value)
    settings = replace(settings, input_value=tuple(values.items()))
    if settings.row_shape or not free or (dataset.schema.samples and free <= batch_axes(graph)):
        return settings, survey
    return replace(settings, row_shape=tuple(survey.shapes.items())), survey
