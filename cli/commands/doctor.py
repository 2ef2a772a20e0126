"""``onnxprune doctor``: whether everything that it needs works here, and what this machine offers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from onnxprune.cli.options import MESSAGES, options
from onnxprune.cli.sections import Sectioned
from onnxprune.cli.streams import write_document
from onnxprune.errors import UsageError
from onnxprune.model.files import atomic_file  # the standard library alone


@click.command(cls=Sectioned, short_help="Check the installation and show what this machine offers.")
@click.option("--json", "document", metavar="FILE", help="Write the findings as JSON (-: to stdout).")
@options(MESSAGES)
@click.pass_context
def command(ctx: click.Context, document: str | None) -> None:
    """Load every package that onnxprune needs, run a model of one node, and show versions, processor, memory and extras.

    Ends with 0 where all of it works, with 3 where something does not; the last line says which command mends it. An extra that is
    missing is no fault.
    """
    from onnxprune.cli.app import known_variables
    from onnxprune.cli.health import diagnosis
    from onnxprune.report.visible import visible

    found = diagnosis(known_variables(ctx))
    if document is not None:
        _write(json.dumps(found, indent=1) + "\n", document)
    if document != "-" and not ctx.meta.get("quiet"):
        for line in shown_lines(found, bool(ctx.meta.get("verbose"))):
            click.echo(visible(line))
    for problem in found["problems"]:
        click.echo(f"error: {visible(problem)}", err=True)
    ctx.exit(found["exit_code"])


def _write(text: str, path: str) -> None:
    """Write the document; what is there and none of onnxprune's stays, and where packages are broken, whatever is there."""
    if path == "-":
        write_document(text)
        return
    place = Path(path)
    try:
        from onnxprune.model.paths import check_document

        check_document(place, "json", "--json")
    except ImportError:
        if place.exists():
            raise UsageError(f"--json {path} exists; choose another name") from None
    with atomic_file(place) as stream:
        stream.write(text.encode())


def shown_lines(found: dict[str, Any], verbose: bool) -> Iterator[str]:
    """Yield what is shown: packages, extras, machine, variables."""
    yield f"onnxprune {found['tool']['version']}, Python {found['python']}, {found['system']}"
    yield "packages"
    for package in found["packages"]:
        if not package["extra"]:
            yield f"  {package['state']:8}{_package(package, verbose)}"
    yield "extras"
    from onnxprune.cli.health import EXTRAS

    for extra, purpose in EXTRAS.items():
        own = [package for package in found["packages"] if package["extra"] == extra]
        wrong = [package for package in own if package["state"] != "ok"]
        state = wrong[0]["state"] if wrong else "ok"
        yield f"  {state:8}{extra}: {purpose}"
        yield from (f"{'':10}{_package(package, verbose)}" for package in (wrong or (own if verbose else ())))
        yield from sorted({f"{'':10}{package['remedy']}" for package in wrong})
    yield from _machine(found)


def _package(package: dict[str, Any], verbose: bool) -> str:
    needs = f" (at least {package['needs']})" if package["needs"] and (verbose or package["state"] != "ok") else ""
    problem = f": {package['problem']}" if package["problem"] else ""
    return f"{package['name']} {package['found'] or 'is not there'}{needs}{problem}"


def _machine(found: dict[str, Any]) -> Iterator[str]:
    own, place, rounding = found["machine"], found["temporary"], found["rounding"]
    yield "machine"
    yield f"  {own['processor']}"
    yield f"  cores {own['usable_cores']} of {own['cores']}; a run takes 1, --threads says more"
    if own["instructions"]:
        yield f"  instructions {', '.join(own['instructions'])}"
    if rounding:
        yield f"  widths are multiples of {rounding['multiple']} ({rounding['profile']}); --round-to says otherwise"
    yield f"  ONNX Runtime: {', '.join(name.removesuffix('ExecutionProvider') for name in found['providers']) or 'does not run'}"
    if own["memory"]:
        yield f"  memory {_size(own['memory'])}, {_size(own['free_memory'] or 0)} free; --memory says what a run may take"
    if place["free"] is not None:
        yield f"  temporary files in {place['folder']}, {_size(place['free'])} free"
    for name, value in found["variables"]["given"].items():
        problem = found["variables"]["unknown"].get(name)
        yield f"variable {name}={value}{f': {problem}' if problem else ''}"
    yield "everything works" if not found["problems"] else "something does not work"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
