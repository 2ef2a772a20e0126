"""What observers have seen as plain arrays and JSON, and back: no pickle, and nothing but the kinds of objects in one table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxprune.data.observe import Sums, Together
from onnxprune.evidence.gradients.statistics import (
    CurvatureObserver,
    GateObserver,
    HessianObserver,
    MeanOfArrays,
    ProductObserver,
)
from onnxprune.evidence.needs import Need
from onnxprune.evidence.stats import STATISTICS
from onnxprune.evidence.store import Evidence
from onnxprune.evidence.stream import ValueObserver

KINDS_OF_OBJECTS: tuple[Any, ...] = (
    *(Together, Sums, Evidence, ValueObserver, GateObserver, ProductObserver, HessianObserver, CurvatureObserver),
    *(MeanOfArrays, *STATISTICS.values()),
)
OBJECTS: dict[str, Any] = {kind.__name__: kind for kind in KINDS_OF_OBJECTS}
"""Name -> what is written as its attributes."""
PLAIN = (bool, int, str, type(None))


def coded(value: Any, arrays: list[np.ndarray]) -> Any:
    """Return JSON for a value, and add its arrays and numbers to ``arrays``; raises TypeError for what the table does not have."""
    value = int(value) if isinstance(value, np.integer) else value
    if type(value) in PLAIN:
        return {"plain": value}
    if isinstance(value, float | np.ndarray | np.generic):
        arrays.append(np.asarray(value))
        return {"array": len(arrays) - 1}
    if isinstance(value, Need):
        return {"need": value.to_json()}
    if isinstance(value, dict):
        return {"dict": [[coded(key, arrays), coded(held, arrays)] for key, held in value.items()]}
    for kind in (list, tuple):
        if type(value) is kind:
            return {kind.__name__: [coded(held, arrays) for held in value]}
    name = type(value).__name__
    if OBJECTS.get(name) is not type(value):
        raise TypeError(f"{name} has no form in a file")
    return {"object": name, "of": {key: coded(held, arrays) for key, held in sorted(vars(value).items())}}


def decoded_value(found: Mapping[str, Any], arrays: Any) -> Any:
    """Return what ``coded`` wrote, ``arrays`` by number; raises KeyError, TypeError, ValueError or IndexError for anything else."""
    (kind, held), *rest = found.items()
    match kind:
        case "plain" if type(held) in PLAIN:
            return held
        case "array":
            return arrays[held]
        case "need":
            return Need.from_json(held)
        case "dict":
            return {decoded_value(key, arrays): decoded_value(value, arrays) for key, value in held}
        case "list":
            return [decoded_value(each, arrays) for each in held]
        case "tuple":
            return tuple(decoded_value(each, arrays) for each in held)
        case "object":
            result = object.__new__(OBJECTS[held])
            ((_, attributes),) = rest
            vars(result).update({str(name): decoded_value(value, arrays) for name, value in attributes.items()})
            return result
    raise ValueError(f"{kind} is no kind of value")


def is_like(found: Any, expected: Any) -> bool:
    """Whether what was decoded is what observers have seen, who have seen less so far as ``expected``: the same kinds, keys and shapes.

    What has no shape there has seen nothing yet.
    """
    if isinstance(expected, dict):
        return isinstance(found, dict) and _are_like(found, expected)
    if isinstance(expected, list | tuple):
        return type(found) is type(expected) and _are_like(dict(enumerate(found)), dict(enumerate(expected)))
    if type(expected).__name__ in OBJECTS:
        return type(found) is type(expected) and is_like(vars(found), vars(expected))
    if expected is None or isinstance(expected, int | float | np.ndarray | np.generic):
        numbers = isinstance(found, int | float | np.ndarray | np.generic) and np.asarray(found).dtype.kind in "fiub"
        return (numbers and np.asarray(expected).shape in ((), np.asarray(found).shape)) or (
            found is None and expected is None
        )
    return type(found) is type(expected)


def _are_like(found: Mapping[Any, Any], expected: Mapping[Any, Any]) -> bool:
    return found.keys() == expected.keys() and all(is_like(found[key], expected[key]) for key in expected)
