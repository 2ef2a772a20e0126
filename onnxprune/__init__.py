"""Makes ONNX models smaller and faster by removing whole channels, heads and neurons, and proves every cut exact.

    import onnxprune
    result = onnxprune.prune("model.onnx", ratio=0.5, output="small.onnx")

Everything is imported on first use, so that ``import onnxprune`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from onnxprune.version import __version__ as __version__

if TYPE_CHECKING:
    from onnxprune import errors as errors
    from onnxprune.api import analyze as analyze
    from onnxprune.api import apply as apply
    from onnxprune.api import expand as expand
    from onnxprune.api import load as load
    from onnxprune.api import plan as plan
    from onnxprune.api import prune as prune
    from onnxprune.api import record as record
    from onnxprune.api import save as save
    from onnxprune.api import validate as validate
    from onnxprune.changes.plan import Plan as Plan
    from onnxprune.coupling.groups import Analysis as Analysis
    from onnxprune.model.read import Model as Model
    from onnxprune.runs.run import Result as Result
    from onnxprune.settings import Settings as Settings

_HOMES = {
    "Analysis": "onnxprune.coupling.groups",
    "Model": "onnxprune.model.read",
    "Plan": "onnxprune.changes.plan",
    "Result": "onnxprune.runs.run",
    "Settings": "onnxprune.settings",
    "analyze": "onnxprune.api",
    "apply": "onnxprune.api",
    "errors": "",
    "expand": "onnxprune.api",
    "load": "onnxprune.api",
    "plan": "onnxprune.api",
    "prune": "onnxprune.api",
    "record": "onnxprune.api",
    "save": "onnxprune.api",
    "validate": "onnxprune.api",
}

__all__ = [
    "Analysis",
    "Model",
    "Plan",
    "Result",
    "Settings",
    "analyze",
    "apply",
    "errors",
    "expand",
    "load",
    "plan",
    "prune",
    "record",
    "save",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'onnxprune' has no attribute {name!r}")
    home = _HOMES[name]
    value = getattr(import_module(home), name) if home else import_module(f"onnxprune.{name}")
    globals()[name] = value
    return value
