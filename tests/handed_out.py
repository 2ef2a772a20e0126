"""What is handed out works by itself: python tests/handed_out.py [lowest].

Builds the source distribution and the wheel, unpacks the first into a temporary folder, and runs its quick tests there against the wheel, in a
fresh environment with the newest versions of what it needs, or with the lowest ones that pyproject.toml allows. Needs pip and an index; minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTING = ("hypothesis>=6.100", "pyyaml>=6", "pytest>=8.2")


def built(folder: Path) -> tuple[Path, Path]:
    """Build both distributions and return (source distribution, wheel)."""
    builder = folder / "builder"
    venv.create(builder, with_pip=True)
    python = builder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "build"], check=True)
    subprocess.run([python, "-m", "build", "--outdir", folder / "dist", ROOT], check=True, stdout=subprocess.DEVNULL)
    (source,), (wheel,) = (folder / "dist").glob("*.tar.gz"), (folder / "dist").glob("*.whl")
    return source, wheel


def main(lowest: bool) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        source, wheel = built(folder)
        with tarfile.open(source) as archive:
            archive.extractall(folder, filter="data")
        unpacked = folder / source.name.removesuffix(".tar.gz")
        needs = tomllib.loads((unpacked / "pyproject.toml").read_text())["project"]["dependencies"]
        pinned = [f"{need.replace('>=', '==')}.*" for need in needs] if lowest else []
        venv.create(folder / "user", with_pip=True)
        python = folder / "user" / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", wheel, *pinned, *TESTING], check=True)
        subprocess.run([python, "-m", "pip", "list"], check=True)
        for name in ("onnxprune", "cli"):  # the tests are to import what was installed
            (unpacked / name).rename(unpacked / f"{name}.source")
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        quick = (unpacked / "tests" / "quick.txt").read_text().split()
        files = [name for name in quick if name.count("/") > 1]  # the others are about the sources' layout
        subprocess.run(
            [python, "-m", "pytest", "-p", "no:cacheprovider", *files], cwd=unpacked, env=environment, check=True
        )


if __name__ == "__main__":
    main("lowest" in sys.argv[1:])
