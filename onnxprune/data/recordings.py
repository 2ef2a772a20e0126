"""The folder of one model in a recording of a whole program (``onnxprune record``): found by the inputs that the model has."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxprune.data.inputs import Schema
from onnxprune.errors import DataError, OnnxPruneError
from onnxprune.model.read import read_text
from onnxprune.recording.written import LISTING


def folder_of_model(folder: Path, schema: Schema) -> Path:
    """Return the folder in a recording that has this model's samples; a folder that is no recording as it is.

    Raises DataError where no model in it, or more than one, has inputs of these names, sizes and types.
    """
    if not (folder / LISTING).is_file():
        return folder
    try:
        models = [dict(model) for model in json.loads(read_text(folder / LISTING))["models"] if model["folder"]]
        fitting = [str(model["folder"]) for model in models if _fits(model["inputs"], schema)]
    except (OnnxPruneError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"{folder / LISTING} is damaged ({error}); record again") from error
    if len(fitting) == 1:
        return folder / Path(fitting[0]).name
    if fitting:
        raise DataError(
            f"{folder} has recordings of {len(fitting)} models with these inputs ({', '.join(sorted(fitting))}); "
            f"give the folder of this one: {folder / sorted(fitting)[0]}"
        )
    recorded = ", ".join(str(model["folder"]) for model in models) or "no model"
    wanted = ", ".join(map(str, schema.specs))
    raise DataError(f"{folder} is a recording of {recorded}, none with the inputs {wanted}; record this model")


def _fits(inputs: Sequence[Mapping[str, Any]], schema: Schema) -> bool:
    """Whether recorded inputs are those of a model: names, ranks, and sizes where both are fixed."""
    shapes = {str(entry["name"]): list(entry["shape"]) for entry in inputs}
    return shapes.keys() == schema.by_name.keys() and all(
        spec.shape is None
        or not shapes[name]
        or (
            len(shapes[name]) == len(spec.shape)
            and all(
                a == b or not (isinstance(a, int) and isinstance(b, int))
                for a, b in zip(shapes[name], spec.shape, strict=True)
            )
        )
        for name, spec in schema.by_name.items()
    )
