"""One word, one meaning: no class, public function or type alias is defined in two modules."""

from __future__ import annotations

import ast
from collections import defaultdict

from test_architecture import MODULES

TABLES = ("rule", "vjp", "criterion", "register")
"""Decorators that enter a function into a table under an operator's or an option's name, which it takes as its own."""

PROTOCOL = {
    "command": "every module of cli/commands has one, found by that name",
    "evaluate": "a command's work, called by cli.results.perform",
    "render": "every kind of document has one",
    "load": "onnxprune.load takes more than a path; it reads by the function of that name",
    "save": "onnxprune.save, as above",
}


def defined(tree: ast.Module) -> set[str]:
    """Return the classes, public functions and type aliases (``Name = ...``) that a module defines at its top level."""
    found = set()
    for node in tree.body:
        match node:
            case ast.ClassDef(name=name):
                found.add(name)
            case ast.FunctionDef(name=name, decorator_list=decorators):
                if not any(ast.unparse(d).partition("(")[0].split(".")[-1] in TABLES for d in decorators):
                    found.add(name)
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                if name[0].isupper() and not name.isupper():
                    found.add(name)
    return {name for name in found if not name.startswith("_")}


def test_no_name_is_defined_twice() -> None:
    places = defaultdict(list)
    for module, path in MODULES.items():
        for name in defined(ast.parse(path.read_text())):
            places[name].append(module)
    assert {name: where for name, where in places.items() if len(where) > 1 and name not in PROTOCOL} == {}
    assert [name for name in PROTOCOL if len(places[name]) < 2] == []
