"""What an installation takes on disk, package by package: python benchmarks/install_size.py [EXTRA ...].

Makes a fresh virtual environment in a temporary folder, installs this checkout into it, with the extras that are named, and
prints for every distribution the megabytes of its files (without bytecode; pip itself left out), who asks for it, and the sum.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]


def installed(folder: Path, extras: list[str]) -> list[Distribution]:
    """Install into a fresh environment and return what is in it."""
    venv.create(folder, with_pip=True)
    target = f"{ROOT}[{','.join(extras)}]" if extras else str(ROOT)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-compile", target], check=True)
    (place,) = (folder / "lib").glob("python*/site-packages")
    found = {named(one.name): one for one in distributions(path=[str(place)]) if one.name}
    return [one for name, one in found.items() if name not in ("pip", "setuptools")]


def named(name: str) -> str:
    """Return the name of a distribution as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def size(found: Distribution) -> int:
    """Return the bytes of a distribution's files, bytecode left out."""
    paths = (Path(str(found.locate_file(path))) for path in found.files or () if path.suffix != ".pyc")
    return sum(path.stat().st_size for path in paths if path.is_file())


def asked_for(found: Distribution, extras: list[str]) -> Iterator[str]:
    """Yield the names that a distribution requires here: always, or by one of the extras."""
    for text in found.requires or ():
        requirement, _, marker = text.partition(";")
        extra = re.search(r"extra\s*==\s*['\"](.+?)['\"]", marker)
        if extra is None or (named(found.name) == "onnxprune" and extra[1] in extras):
            yield named(re.split(r"[\s<>=!~\[(;]", requirement.strip())[0])


def main(extras: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = {named(one.name): one for one in installed(Path(folder), extras)}
        needs = {name: set(asked_for(one, extras)) for name, one in found.items()}
        rows = sorted(((size(one), name, one.version) for name, one in found.items()), reverse=True)
    print("| package | version | MB | asked for by |\n|---|---|---|---|")
    for count, name, version in rows:
        by = ", ".join(sorted(other for other, wanted in needs.items() if name in wanted))
        print(f"| {name} | {version} | {count / 1e6:.1f} | {by or '-'} |")
    print(f"| **all** | | **{sum(count for count, *_ in rows) / 1e6:.0f}** | |")


if __name__ == "__main__":
    main(sys.argv[1:])
