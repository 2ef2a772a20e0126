"""Where a result may be written: settled before any work, and before anything heavy is loaded."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from onnxprune.errors import OutputError, UsageError
from onnxprune.model.files import is_stream, kind_of, of_devices, shown, status


def output_path(model: Path, requested: str | os.PathLike | None, force: bool) -> Path:
    """Settle where the pruned model goes; raise UsageError or OutputError before any work is done."""
    path = Path(requested) if requested else model.with_name(f"{model.stem}.pruned.onnx")
    if path.resolve() == model.resolve():
        raise UsageError(f"output {path} is the input file; choose another name (the input is never modified)")
    check_writable(path, force)
    return path


def check_writable(path: Path, force: bool) -> None:
    """Raise UsageError unless ``path`` is free, or a regular file and ``force``; OutputError if its folder takes no file."""
    found = status(path, UsageError)
    kind = kind_of(found) if found else ""
    if kind == "a folder":
        raise UsageError(f"output {path} is a folder; give a file name")
    if kind or is_stream(path):
        what = kind or "an open file of a process"
        raise UsageError(f"output {path} is {what}; a model is written to a regular file (--dry-run writes none)")
    if found and not force:
        raise UsageError(f"output {path} exists; add --force to replace it")
    check_folder(path, "choose another place with -o")


def check_folder(path: Path, remedy: str = "choose another place") -> None:
    """Raise OutputError unless files can be made in the folder of ``path``."""
    folder = path.parent
    if not folder.is_dir():
        raise OutputError(f"folder {shown(folder)} does not exist; create it first")
    if of_devices(folder):
        raise OutputError(f"folder {folder} is the system's, for devices and processes; {remedy}")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"folder {folder} is read-only; {remedy}")
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OutputError(f"no file can be written in folder {folder}: {error.strerror or error}; {remedy}") from error
