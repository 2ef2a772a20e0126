"""What a run reads and writes, settled before any work: no path that is read is written, no document replaces another thing."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from onnxprune.errors import OnnxPruneError, UsageError
from onnxprune.model.files import is_stream, kind_of, of_devices, shown, status
from onnxprune.model.places import check_folder
from onnxprune.model.read import Model, read_text

Inode = tuple[int, int]  # device, number
HEAD = 1 << 14
COMMANDS = "prune|apply|inspect|validate|bench|sensitivity|sweep|stats|checkpoint|report|criteria|ops|check|run"
MODELS = (".onnx", ".ort")
DATA_SUFFIXES = (".npz", ".npy", ".pb", ".wav")

READ = {
    "model": "the input file",
    "other": "a model that is measured",
    "before": "a model that is compared",
    "after": "a model that is compared",
    "rewind": "read as --rewind",
    "calib": "read as --calib",
    "calibration": "read as calibration data",
    "evaluation": "read as evaluation data",
    "data": "read as data",
    "labels": "read as labels",
    "tokenizer": "read as the tokenizer",
    "vocabulary": "read as the vocabulary",
    "sparsity": "read as masks",
    "masks": "read as masks",
    "weights": "the checkpoint that is sliced",
    "metric": "the script of the metric",
    "plan": "the plan that is carried out",
    "baseline": "read as the baseline",
    "config": "read as the configuration",
    "reports": "a report that is joined",
    "stats": "read as --stats",
    "parts": "an input of stats",
}
"""Settings that name what is read -> what a path is then."""
WRITTEN = {
    "out": "output",
    "output": "output",
    "plan_path": "plan",
    "masks_path": "masks",
    "checkpoint": "checkpoint",
    "statistics": "output",
    "json": "--json",
    "markdown": "--markdown",
    "junit": "--junit",
    "html": "--html",
    "model_explorer": "--model-explorer",
    "model_explorer_macs": "--model-explorer-macs",
}
"""Settings that name what is written -> how messages call it."""
FOLDERS = {"cache": "cache", "folder": "folder"}
"""Settings that name a folder whose files come and go."""


# --- documents ------------------------------------------------------------------------------------------------------


def _holds_keys(*keys: str, **said: str) -> Callable[[Path], bool]:
    """A JSON object with these keys, and others with these values."""

    def holds(path: Path) -> bool:
        try:
            found = json.loads(read_text(path))
        except (ValueError, RecursionError, OnnxPruneError):
            return False
        return isinstance(found, dict) and found.keys() >= set(keys) and found.items() >= said.items()

    return holds


def _shows(*patterns: str) -> Callable[[Path], bool]:
    """A text that shows one of these patterns in its first or last lines."""

    def holds(path: Path) -> bool:
        with path.open("rb") as stream:
            text = stream.read(HEAD)
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - HEAD))
            text += b"\n" + stream.read(HEAD)
        return any(re.search(pattern, text.decode(errors="replace")) for pattern in patterns)

    return holds


def _has_member(name: str) -> Callable[[Path], bool]:
    """An npz file with an array of that name."""

    def holds(path: Path) -> bool:
        try:
            with zipfile.ZipFile(path) as archive:
                return f"{name}.npy" in archive.namelist()
        except (OSError, ValueError, zipfile.BadZipFile):
            return False

    return holds


MASKS = "onnxprune.masks"
"""The array by which a file of masks is told from others."""
STATISTICS = "onnxprune.statistics"
"""The same of a file of statistics."""
DOCUMENTS: dict[str, tuple[str, Callable[[Path], bool]]] = {
    "json": ("a JSON report", _holds_keys("schema_version", "command")),
    "markdown": (
        "a Markdown report",
        _shows(r"<!-- written by onnxprune -->", rf"\A# onnxprune (?:{COMMANDS}|None|)\r?\n"),
    ),
    "junit": ("a JUnit report", _shows(r'<testsuites\b[^>]*\bname="onnxprune"')),
    "html": ("an HTML report", _shows(r'<meta name="generator" content="onnxprune', r"<title>onnxprune\b")),
    "model_explorer": ("node data", _holds_keys("results", generator="onnxprune")),
    "model_explorer_macs": ("node data", _holds_keys("results", generator="onnxprune")),
    "plan": ("a plan", _holds_keys("schema_version", "groups", "kept")),
    "checkpoint": ("a checkpoint", _has_member("facts")),
    "masks": ("a file of masks", _has_member(MASKS)),
    "statistics": ("a file of statistics", _has_member(STATISTICS)),
}
"""Kind of document -> its name, and how a file of that kind is told, of earlier versions too."""
READ_BACK = frozenset({"checkpoint", "statistics"})
"""Kinds that the next run reads, so that they are regular files."""


def check_document(path: str | os.PathLike[str], kind: str, option: str = "", replace: bool = True) -> None:
    """Refuse a document's path where something else is, or where nothing can be written.

    Devices and FIFOs are written into; an empty file, and where ``replace`` a document of the same kind, are replaced. Raises
    UsageError, OutputError.
    """
    place, (name, own) = Path(path), DOCUMENTS[kind]
    where = f"{option or kind} {shown(place)}"
    if place.suffix.lower() in MODELS:
        raise UsageError(f"{where}: a model's name; {option or kind} takes the name of {name} to write")
    found = status(place, UsageError)
    if found is not None and kind_of(found) in ("a folder", "a socket", "a block device"):
        raise UsageError(f"{where} is {kind_of(found)}; give a file name")
    if found is not None and is_stream(place):
        if kind in READ_BACK:
            raise UsageError(f"{where} is {kind_of(found) or 'a stream'}, not a regular file; choose another name")
        return
    if found is not None and not replace:
        raise UsageError(f"{where} exists; add --force to replace it")
    if found is not None and found.st_size and not own(place):
        raise UsageError(f"{where} exists and is not {name} of onnxprune; delete it or choose another name")
    check_folder(place)


# --- what is read against what is written ---------------------------------------------------------------------------


class PathUse(NamedTuple):
    """A path, and what a run does with it."""

    what: str
    path: Path


class Uses(NamedTuple):
    """All paths of a run: files and folders that are read, files that are written, folders whose files come and go."""

    read: tuple[PathUse, ...]
    written: tuple[PathUse, ...]
    folders: tuple[PathUse, ...]

    def of(self, job: str) -> Uses:
        """Return the same with the name of a job in all words."""
        return Uses(*(tuple(PathUse(f"{use.what} (job {job})", use.path) for use in part) for part in self))


def settle_paths(*, steps: int = 1, **values: Any) -> None:
    """Settle all paths among the values of settings; ``steps`` of a schedule: each has a checkpoint. Raises UsageError, OutputError."""
    refuse_overlap(uses(values))
    if (checkpoint := values.get("checkpoint")) is not None:
        check_document(checkpoint, "checkpoint")
        for number in range(1, steps + 1 if steps > 1 else 1):
            check_document(f"{os.fspath(checkpoint)}.{number}", "checkpoint")


def uses(values: Mapping[str, Any]) -> Uses:
    """Sort the values of settings, of which some are paths, by what is done with them."""
    return Uses(*(tuple(_named(values, table)) for table in (READ, WRITTEN, FOLDERS)))


def _named(values: Mapping[str, Any], table: Mapping[str, str]) -> Iterator[PathUse]:
    for name, what in table.items():
        value = values.get(name)
        for item in value if isinstance(value, list | tuple) else (value,):
            path = item.path if isinstance(item, Model) else item
            if not isinstance(path, str | os.PathLike) or (name in WRITTEN and str(path) == "-"):
                continue
            if name == "sparsity" and not os.fspath(path).endswith(".npz"):
                continue  # a share or a pattern
            text = os.fspath(path).rpartition(":")[0] if name == "metric" else os.fspath(path)
            yield PathUse(what, Path(text))


def refuse_overlap(found: Uses) -> None:
    """Raise UsageError where a written path is one that is read, or two written paths are one, whatever links lead there."""
    taken: dict[Hashable, PathUse] = {}
    for use in found.read:
        taken |= dict.fromkeys(_identity(use.path), use)
    read_folders = [use for use in found.read if _is_folder(use.path)]
    files = {inode: use for use in found.written if (inode := _inode(use.path))}
    inside = {inode: use for use in read_folders for inode in _members(use.path, files)} if files else {}
    for use in (*found.written, *found.folders):
        reader = next((taken[key] for key in _identity(use.path) if key in taken), None)
        if reader is None and use in found.written:
            among = next((folder for folder in read_folders if _becomes_data(use.path, folder.path)), None)
            reader = inside.get(_inode(use.path) or (0, 0), among)
        if reader is not None:
            raise UsageError(
                f"{use.what} {shown(use.path)} is {reader.what}; choose another name (what is read is never written)"
            )
    _refuse_twice((*found.written, *found.folders))
    for use in found.folders:
        there = status(use.path, UsageError)
        if there is not None and kind_of(there) != "a folder":
            raise UsageError(f"{use.what} {shown(use.path)} is no folder; choose another name")
        if of_devices(use.path):
            raise UsageError(f"{use.what} {shown(use.path)} is the system's, for devices and processes; choose another")


def _refuse_twice(written: Iterable[PathUse]) -> None:
    taken: dict[Hashable, PathUse] = {}
    for use in written:
        for key in _identity(use.path):
            other = taken.get(key, use)
            if other.what != use.what:
                raise UsageError(f"{other.what} and {use.what} are one file, {shown(use.path)}; choose another name")
            taken[key] = use


def refuse_data_files(path: Path, models: Iterable[Model]) -> None:
    """Raise UsageError where a file that is to be replaced holds the weights of one of these models."""
    inode = _inode(path)
    for model in models:
        if inode is not None and any(inode == _inode(file) for file in model.data):
            raise UsageError(
                f"output {shown(path)} holds weights of {model.name}; choose another name (what is read is never written)"
            )


def _identity(path: Path) -> set[Hashable]:
    """Return what is the same for all names of a file: its place, all links followed, and its inode; {} for a device."""
    found = status(path, UsageError)
    if found is not None and kind_of(found) not in ("", "a folder"):
        return set()
    place: set[Hashable] = {os.path.normcase(os.path.realpath(path))}
    return place if found is None else place | {(found.st_dev, found.st_ino)}


def _inode(path: Path) -> Inode | None:
    found = status(path, UsageError)
    return None if found is None or kind_of(found) else (found.st_dev, found.st_ino)


def _is_folder(path: Path) -> bool:
    found = status(path, UsageError)
    return found is not None and kind_of(found) == "a folder"


def _members(folder: Path, wanted: Iterable[Inode]) -> Iterator[Inode]:
    """Yield which of the wanted files (device, inode) a folder has, at any depth and by any link."""
    left = list(wanted)
    numbers = {inode for _, inode in left}
    for place, _, _ in os.walk(folder):
        with os.scandir(place) as entries:
            for entry in entries:
                if (entry.inode() in numbers or entry.is_symlink()) and entry.is_file():
                    key = (entry.stat().st_dev, entry.stat().st_ino)
                    if key in left:
                        yield key


def _becomes_data(path: Path, folder: Path) -> bool:
    """Whether a new file would be read as data the next time."""
    new = status(path, UsageError) is None and path.suffix.lower() in DATA_SUFFIXES
    return new and os.path.realpath(path.parent) == os.path.realpath(folder)
