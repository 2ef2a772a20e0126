"""Begins a recording in an interpreter that starts, and leaves it as it would have been: paths, and a sitecustomize of its own."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import json
import os
import sys
from contextlib import suppress

VARIABLE = "ONNXPRUNE_RECORDING"
INSIDE = "_onnxprune_recording"


def _begin(settings: str) -> None:
    """Load the package that records, from its folder and under a name of its own, and attach a recorder."""
    folder = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "inside")
    spec = importlib.util.spec_from_file_location(
        INSIDE, os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
    )
    assert spec is not None and spec.loader is not None
    module = sys.modules[INSIDE] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    importlib.import_module(INSIDE + ".taps").begin(json.loads(settings))


def _go_on() -> None:
    """Run the sitecustomize that would have been run, were this one not there."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if not path or os.path.abspath(path) != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", sys.path)
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


if __name__ == "sitecustomize":
    try:
        if VARIABLE in os.environ:
            _begin(os.environ[VARIABLE])
    except Exception as error:  # the program runs as ever; what was not recorded is said at its end
        with suppress(Exception):
            place = json.loads(os.environ[VARIABLE])["folder"]
            with open(os.path.join(place, f"problem-{os.getpid()}-start.txt"), "w") as stream:
                stream.write(f"{type(error).__name__}: {error}")
    _go_on()
