"""Whether onnxprune can work on this machine: its packages, each loaded on its own, and what the machine offers.

Needs the standard library alone, so that it can say what is missing.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, NamedTuple

import onnxprune
from onnxprune import __version__
from onnxprune.registry import near_names

MODULES = {"pillow": "PIL", "onnx-graphsurgeon": "onnx_graphsurgeon"}
"""Packages whose modules have another name."""
EXTRAS = {
    "images": "pictures as data",
    "text": "text as data",
    "report": "HTML reports",
    "cluster": "work shared out to processes and clusters",
}
"""Extras for users -> what for."""
TRIAL = """
import numpy, onnx, onnxruntime
from onnx import TensorProto, helper
x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "trial", [x], [y])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
assert session.run(None, {"x": numpy.array([-1, 1], "f")})[0].tolist() == [0, 1], "it computes something else"
print("; ".join(onnxruntime.get_available_providers()))
"""
"""A process of its own: a runtime that was built for another processor ends it."""
PATIENCE = 60.0  # seconds for the trial


class Package(NamedTuple):
    """``state``: ok, missing, old or broken; ``problem``: what is wrong; ``extra``: which extra it belongs to ("": all need it)."""

    name: str
    needs: str
    found: str | None
    state: str
    problem: str = ""
    extra: str = ""


def requirements() -> Iterator[tuple[str, str, str]]:
    """Yield (package, lowest version, extra) as a checkout's pyproject.toml or the installed package says."""
    project = Path(onnxprune.__file__).parents[1] / "pyproject.toml"
    try:
        said = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        lines = [(line, "") for line in said["dependencies"]]
        lines += [(line, extra) for extra, more in said["optional-dependencies"].items() for line in more]
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        required = metadata.requires("onnxprune") or []
        lines = [(line, (re.findall(r"extra == ['\"]([\w-]+)", line) or [""])[0]) for line in required]
    for line, extra in lines:
        found = re.match(r"([\w.-]+)\s*(?:>=\s*([\w.]+))?", line)
        if found and extra in ("", *EXTRAS):
            yield found[1], found[2] or "", extra


def examine(name: str, needs: str, extra: str = "") -> Package:
    """Load a package and compare its version."""
    try:
        found: str | None = metadata.version(name)
    except metadata.PackageNotFoundError:
        found = None
    try:
        import_module(MODULES.get(name, name.replace("-", "_")))
    except Exception as error:  # whatever a package raises while it is loaded
        missing = found is None and isinstance(error, ImportError)
        problem = "" if missing else f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        return Package(name, needs, found, "missing" if missing else "broken", problem, extra)
    old = found is not None and _numbers(found) < _numbers(needs)
    return Package(name, needs, found, "old" if old else "ok", f"{needs} or newer is needed" if old else "", extra)


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3]]


def tried_runtime() -> tuple[list[str], str]:
    """Return the providers of ONNX Runtime, and what was wrong when a model of one node was run in a process of its own."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", TRIAL], capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return [], str(error)
    if done.returncode == 0:
        return done.stdout.strip().splitlines()[-1].split("; "), ""
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return [], f"ended by signal {-done.returncode}" if done.returncode < 0 else last


def widths() -> dict[str, Any] | None:
    """Return what ``--round-to auto`` means here; None where that cannot be loaded."""
    try:
        from onnxprune.api import rounding

        return rounding()
    except Exception:  # a package that is broken is told elsewhere
        return None


def machine() -> dict[str, Any]:
    """Return what the machine offers; None for what the system does not say."""
    info, memory = _text("/proc/cpuinfo"), _text("/proc/meminfo")
    model = re.search(r"(?m)^model name\s*:\s*(.+)$", info)
    flags = set(" ".join(re.findall(r"(?mi)^(?:flags|features)\s*:\s*(.+)$", info)).split())
    sizes = {key: int(value) * 1024 for key, value in re.findall(r"(?m)^(\w+):\s+(\d+) kB", memory)}
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": model[1] if model else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "usable_cores": usable,
        "instructions": [name for name in ("avx2", "fma", "avx512f", "avx512_vnni", "asimd") if name in flags],
        "memory": sizes.get("MemTotal"),
        "free_memory": sizes.get("MemAvailable"),
    }


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def temporary() -> dict[str, Any]:
    """Return where temporary files go, how much room is there, and what is wrong with it."""
    try:
        folder = tempfile.gettempdir()
        tempfile.TemporaryFile(dir=folder).close()
        return {"folder": folder, "free": shutil.disk_usage(folder).free, "problem": ""}
    except OSError as error:
        return {"folder": os.environ.get("TMPDIR"), "free": None, "problem": error.strerror or str(error)}


def variables(known: list[str]) -> dict[str, Any]:
    """Return the variables that stand for options, and what is wrong with those that stand for none."""
    own = {name: value for name, value in sorted(os.environ.items()) if name.startswith("ONNXPRUNE_")}
    wrong = {name: f"no option has this name{near_names(name, known)}" for name in own if name not in known}
    return {"given": own, "unknown": wrong}


def remedy(package: Package) -> str:
    """Return the command that brings a package into order."""
    if package.extra and package.state == "missing":
        return f"pip install 'onnxprune[{package.extra}]'"
    again = "--force-reinstall " if package.state == "broken" else ""
    return f"pip install {again}'{package.name}{f'>={package.needs}' if package.needs else ''}'"


def diagnosis(known: list[str]) -> dict[str, Any]:
    """Return all of it, with the problems that keep onnxprune from working; ``known``: names of variables."""
    packages = [examine(*entry) for entry in requirements()]
    providers, wrong = tried_runtime()
    problems = [_problem(package) for package in packages if not package.extra and package.state != "ok"]
    if wrong and all(package.state == "ok" for package in packages if package.name in ("numpy", "onnx", "onnxruntime")):
        problems.append(f"ONNX Runtime runs no model: {wrong}; pip install --force-reinstall onnxruntime")
    place = temporary()
    if place["problem"]:
        problems.append(f"no temporary file can be written: {place['problem']}; set TMPDIR to a folder with room")
    return {
        "schema_version": 1,
        "tool": {"name": "onnxprune", "version": __version__},
        "command": "doctor",
        "exit_code": 3 if problems else 0,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": [
            package._asdict() | {"remedy": "" if package.state == "ok" else remedy(package)} for package in packages
        ],
        "providers": providers,
        "rounding": widths(),
        "machine": machine(),
        "temporary": place,
        "variables": variables(known),
        "problems": problems,
    }


def _problem(package: Package) -> str:
    what = {"missing": "is missing", "broken": "cannot be loaded", "old": "is too old"}[package.state]
    return f"{package.name} {what}{f' ({package.problem})' if package.problem else ''}; {remedy(package)}"
