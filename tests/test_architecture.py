"""Edges that hold the design together: downward imports, a sorted surface, light help, complete packages."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import onnxprune

ROOT = Path(__file__).parents[1]
SOURCES = {"onnxprune": ROOT / "onnxprune", "onnxprune.cli": ROOT / "cli"}
FORWARDER = ROOT / "onnxprune" / "cli"  # stands in for the installed package in a checkout

# from the ground up; a module may import from its own layer and from those before it
LAYERS = (
    {"version", "errors", "registry", "progress", "notebook", "sheet", "means", "choices"},
    {"model"},
    {"data", "recording", "spread"},
    {"framework", "measure"},
    {"coupling", "grad"},
    {"evidence"},
    {"criteria"},
    {"allocate"},
    {"proof", "repair", "recover", "gating"},
    {"search"},
    {"settings", "report"},
    {"changes"},
    {"runs", "options"},
    {"api", "__init__"},
    {"cli", "__main__"},
)
LAYER_OF = {module: number for number, layer in enumerate(LAYERS) for module in layer}
BLIND = (("coupling", "grad"), ("grad", "coupling"))
FOR_COMMANDS = {"api", "choices", "cli", "criteria", "data", "errors", "model", "progress", "registry", "report", ""}
HEAVY = {"numpy", "onnx", "onnx_graphsurgeon", "onnxruntime", "scipy", "rich", "google.protobuf"}


def modules() -> Iterator[tuple[str, Path]]:
    """Yield (dotted name, file) of every module."""
    for package, folder in SOURCES.items():
        for path in sorted(folder.rglob("*.py")):
            if path.parent == FORWARDER:
                continue
            parts = path.relative_to(folder).with_suffix("").parts
            yield ".".join([package, *(p for p in parts if p != "__init__")]), path


def part(name: str) -> str:
    """The part of the package that a dotted name belongs to: ``onnxprune.coupling.links`` -> ``coupling``."""
    return [*name.split("."), ""][1] or "__init__"


def imported(path: Path) -> set[str]:
    """Return the dotted names of everything imported anywhere in a file, type-checking imports included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            found.update(whole if node.module == "onnxprune" else [node.module])
    return found


MODULES = dict(modules())


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_downwards(name: str) -> None:
    own = part(name)
    assert own in LAYER_OF, f"give {own} a layer"
    if own == "__init__":
        return  # the lazy surface names everything and imports nothing
    for target in {part(t) for t in imported(MODULES[name]) if t.split(".")[0] == "onnxprune"} - {"__version__"}:
        assert LAYER_OF[target] <= LAYER_OF[own], f"{name} imports {target} from above"
        assert (own, target) not in BLIND, f"{own} and {target} are to be blind to each other"


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("onnxprune.cli")])
def test_commands_use_the_public_functions(name: str) -> None:
    parts = {target.split(".")[1] for target in imported(MODULES[name]) if target.startswith("onnxprune.")}
    assert parts - {"__version__"} <= FOR_COMMANDS


def test_one_module_opens_sessions() -> None:
    users = [name for name, path in MODULES.items() if any(t.split(".")[0] == "onnxruntime" for t in imported(path))]
    assert users == ["onnxprune.model.quantiser", "onnxprune.model.runtime"]
    quantiser = MODULES["onnxprune.model.quantiser"].read_text()
    assert "InferenceSession" not in quantiser, "it runs rows on a session of the other one"


def test_no_training_framework_and_no_pickle() -> None:
    for name, path in MODULES.items():
        assert not {t.split(".")[0] for t in imported(path)} & {"torch", "tensorflow", "pickle"}, name
        assert "allow_pickle=True" not in path.read_text(), name


def test_criteria_know_no_operators() -> None:
    """A criterion sees groups and roles; an operator's name in quotes would be knowledge that belongs into a rule."""
    import onnx

    operators = {schema.name for schema in onnx.defs.get_all_schemas()}
    for path in (ROOT / "onnxprune" / "criteria").glob("*.py"):
        texts = {n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)}
        named = texts & operators
        assert named <= {"DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}, path.name


LONGEST, MOST_PARAMETERS = 40, 7
OVER: set[str] = set()
"""Functions that are still over: may only shrink, to nothing."""


def functions(tree: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yield (dotted name, function) of all functions, those inside others included."""
    for node in ast.iter_child_nodes(tree):
        name = f"{prefix}.{node.name}" if isinstance(node, ast.FunctionDef | ast.ClassDef) else prefix
        if isinstance(node, ast.FunctionDef):
            yield name, node
        yield from functions(node, name)


def is_over(function: ast.FunctionDef) -> bool:
    """Whether it has too many lines or parameters; click hands a command as many as it has options."""
    assert function.end_lineno is not None
    takes = function.args
    count = len(takes.posonlyargs + takes.args + takes.kwonlyargs) + bool(takes.vararg) + bool(takes.kwarg)
    is_command = any(ast.unparse(decorator).startswith("click.command") for decorator in function.decorator_list)
    wide = count > MOST_PARAMETERS and not is_command
    return function.end_lineno - function.lineno >= LONGEST or wide


def test_functions_fit_on_a_screen() -> None:
    over = {
        name
        for module, path in MODULES.items()
        for name, function in functions(ast.parse(path.read_text()), module)
        if is_over(function)
    }
    assert sorted(over - OVER) == []
    assert sorted(OVER - over) == [], "what is no longer over leaves the list"


def test_public_surface_is_sorted_and_there() -> None:
    assert onnxprune.__all__ == sorted(onnxprune.__all__)
    assert len(onnxprune.__all__) <= 15
    for name in onnxprune.__all__:
        assert getattr(onnxprune, name) is not None
    assert callable(onnxprune.plan)


def test_unknown_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'prunee'"):
        _ = onnxprune.prunee


def loaded_by(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint('LOADED', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("LOADED")[2].split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert not loaded_by("import onnxprune") & HEAVY


@pytest.mark.parametrize("arguments", [["--help"], ["prune", "--help"], ["inspect", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = f"from onnxprune.cli import main\nmain({arguments!r}, standalone_mode=False)"
    assert not loaded_by(code) & HEAVY


def test_every_package_is_installed() -> None:
    """package-dir rules out automatic discovery, so the list in pyproject.toml has to be complete."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    assert sorted(settings["packages"]) == sorted(found)


@pytest.mark.parametrize("module", ["onnxprune", "onnxprune.cli"])
def test_the_checkout_runs_without_being_installed_from(module: str, tmp_path: Path) -> None:
    """The folder ``onnxprune`` hides an installed package of that name, whose command line is in another folder."""
    code = f"import runpy, sys; sys.argv = ['onnxprune', '--version']; sys.path[:0] = [{str(ROOT)!r}]; import {module}"
    run = f"{code}; from onnxprune.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-S", "-c", _with_packages(run)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("onnxprune ")


def _with_packages(code: str) -> str:
    """Give an interpreter without site (-S: no editable install is found) the folders of installed packages."""
    folders = [path for path in sys.path if path.endswith("site-packages")]
    return f"import sys; sys.path += {folders!r}; {code}"


def test_it_runs_where_posix_modules_are_missing(tmp_path: Path) -> None:
    """As on Windows: every module can be imported, and a model be saved."""
    code = f"""
import os, pkgutil, sys
for name in ("resource", "fcntl", "pwd", "grp", "termios"):
    sys.modules[name] = None
for name in ("O_TMPFILE", "O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC"):
    if hasattr(os, name):
        delattr(os, name)
import importlib, onnx, onnxprune, onnxprune.cli
for package in (onnxprune, onnxprune.cli):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        try:
            importlib.import_module("onnxprune" if module.name.endswith("__main__") else module.name)
        except ModuleNotFoundError as error:
            if error.name.split(".")[0] not in ("jinja2", "markupsafe", "PIL"):  # extras
                raise
model = onnxprune.load({str(ROOT / "models" / "digits_cnn.onnx")!r})
from onnxprune.model.write import save
for _ in range(2):
    digest = save(model.proto, {str(tmp_path / "small.onnx")!r}, force=True, external=True)
assert onnxprune.load({str(tmp_path / "small.onnx")!r}).sha256 == digest
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.iterdir())) == 2
