"""What a name of ``spread`` stands for."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.util import find_spec

from onnxprune.errors import UsageError
from onnxprune.means import Spread

PROCESSES = re.compile(r"processes:([1-9]\d{0,3})")
CLUSTER = re.compile(r"dask://(.+:\d{1,5})")
KNOWN = "processes:N or dask://HOST:PORT"


def check_spread(name: str) -> None:
    """Refuse a name that stands for nothing, or whose packages are missing; raises UsageError."""
    if not name:
        return
    if not (PROCESSES.fullmatch(name) or CLUSTER.fullmatch(name)):
        raise UsageError(f"unknown spread {name!r}; give {KNOWN}, e.g. processes:4 or dask://127.0.0.1:8786")
    package = "loky" if PROCESSES.fullmatch(name) else "distributed"
    if find_spec(package) is None:
        raise UsageError(f"--spread {name} needs {package}; pip install 'onnxprune[cluster]'")


def spread_by(name: str) -> Spread | None:
    """Return what shares out work by a name, once for all who ask ("": nothing does); raises UsageError."""
    check_spread(name)
    return _made(name) if name else None


@lru_cache(maxsize=8)
def _made(name: str) -> Spread:
    if found := PROCESSES.fullmatch(name):
        from onnxprune.spread.processes import Processes

        return Processes(int(found[1]))
    from onnxprune.spread.cluster import Cluster

    return Cluster(name.removeprefix("dask://"))
