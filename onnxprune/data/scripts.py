"""Running a user's Python file (a data loader, a metric): the only place where onnxprune executes code it is given."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from onnxprune.errors import DataError, OnnxPruneError, UsageError
from onnxprune.registry import near_names


@contextmanager
def running(where: str) -> Iterator[None]:
    """Run a user's code: what it raises, ``sys.exit`` too, becomes a DataError that says where."""
    try:
        yield
    except OnnxPruneError:
        raise
    except SystemExit as error:
        raise DataError(f"{where} called sys.exit({error.code!r}); let it return or raise instead") from error
    except Exception as error:
        raise DataError(f"{where} failed with {type(error).__name__}: {error}") from error


def load_module(path: Path) -> ModuleType:
    """Execute a Python file, with its folder importable meanwhile; raise DataError when that fails."""
    name = f"_onnxprune_script_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise DataError(f"{path} is not a Python file that can be run")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and the like look their module up
    with _importing_from(path.parent.resolve()), running(str(path)):
        spec.loader.exec_module(module)
    return module


@contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    """Make a folder importable, without leaving compiled files in it."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.pop(0)
        sys.dont_write_bytecode = before


def load_function(reference: str) -> Callable[..., Any]:
    """Return the function named ``script.py:function``; raise UsageError when the reference makes no sense."""
    file, _, name = reference.rpartition(":")
    if not file or not name:
        raise UsageError(f"{reference!r} should be written script.py:function")
    module = load_module(Path(file))
    function = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UsageError(f"{file} has no function {name!r}{near_names(name, known)}")
    return function
