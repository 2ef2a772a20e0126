"""A recording as it is written: a folder per model that ``--calib`` reads, and what is said of it."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from onnxprune.recording.inside.recorder import COUNTS, FACTS, PROBLEM
from onnxprune.recording.inside.reservoir import Limits, Reservoir, read_array, read_head
from onnxprune.version import __version__

LISTING = "recording.json"
OUTPUTS = "outputs"
VERSION = 1

Head = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class RecordedModel:
    """What was recorded of one model; ``folder`` is the name of its folder ("" where no sample was kept).

    ``calls`` and ``seen`` count what the program did, ``kept`` the samples in the folder, ``left_out`` reason -> what is not there.
    ``inputs``, ``outputs``: name, type and shape as the session declares them.
    """

    folder: str
    name: str
    path: str | None
    sha256: str
    bytes: int
    sessions: int
    calls: int
    seen: int
    kept: int
    left_out: Mapping[str, int]
    inputs: Sequence[Mapping[str, Any]]
    outputs: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Recording:
    """What was recorded, model by model in the order of their names; ``problems``: what went wrong on the way."""

    folder: Path
    models: tuple[RecordedModel, ...]
    problems: tuple[str, ...] = ()

    def moved(self, folder: Path) -> Recording:
        return replace(self, folder=folder)

    def nothing(self) -> str:
        """Return why nothing was kept."""
        if self.problems:
            return f"nothing was recorded: {self.problems[0]}"
        if not self.models:
            return (
                "nothing was recorded: the program opened no session of ONNX Runtime in Python "
                "(interpreters that run with -I, -E or -S, or without the program's environment, are not seen)"
            )
        reasons = [f"{model.name}: {model.calls} calls{_reasons(model)}" for model in self.models]
        return f"nothing was recorded: no session was fed anything that can be kept ({'; '.join(reasons)})"

    def lines(self) -> Iterator[str]:
        """Yield what to say of each model: where its samples are, how many, and what was left out."""
        for model in self.models:
            place = self.folder / model.folder if model.folder else "no folder"
            yield f"{place}: {model.kept} of {model.seen} samples in {model.calls} calls of {model.name}{_reasons(model)}"


def _reasons(model: RecordedModel) -> str:
    return "".join(f"; {count} left out: {reason}" for reason, count in model.left_out.items())


def write_recording(pool: Path, folder: Path, limits: Limits) -> Recording:
    """Write a folder per model with the samples of a pool, and what they are, as JSON; raises OSError."""
    found = []
    names = _folder_names({path.name: _json(path / FACTS) for path in _models(pool)})
    for path in _models(pool):
        facts = _json(path / FACTS)
        samples = Reservoir(str(path), limits)
        place = folder / names[path.name]
        kept = write_samples([Path(sample) for sample in samples.paths()], place)
        model = _recorded(facts, _counted(path), place.name if kept else "", kept)
        if kept:
            _write_json(place / FACTS, asdict(model))
        found.append(model)
    problems = tuple(sorted({path.read_text(errors="replace") for path in pool.glob(f"{PROBLEM}*")}))
    recording = Recording(folder, tuple(sorted(found, key=lambda model: model.folder)), problems)
    listed = [asdict(model) for model in recording.models]
    settings = {"samples": limits.samples, "bytes": limits.size, "seed": limits.seed, "outputs": limits.outputs}
    _write_json(
        folder / LISTING,
        {"recording_version": VERSION, "onnxprune": __version__, "settings": settings, "models": listed},
    )
    return recording


def _models(pool: Path) -> list[Path]:
    return sorted(path.parent for path in pool.glob(f"*/{FACTS}"))


def _recorded(facts: Mapping[str, Any], counts: Mapping[str, Any], folder: str, kept: int) -> RecordedModel:
    same = {name: facts[name] for name in ("name", "path", "sha256", "bytes", "inputs", "outputs")}
    return RecordedModel(
        folder,
        **same,
        sessions=counts["sessions"],
        calls=counts["calls"],
        seen=counts["samples"],
        kept=kept,
        left_out=counts["left_out"],
    )


def _counted(path: Path) -> dict[str, Any]:
    """Return the sums of what all processes counted for one model."""
    found: dict[str, Any] = {"sessions": 0, "calls": 0, "samples": 0}
    left_out: Counter[str] = Counter()
    for file in sorted(path.glob(f"{COUNTS}*")):
        try:
            counts = _json(file)
        except ValueError:  # a process was killed while it wrote
            continue
        found = {name: value + counts[name] for name, value in found.items()}
        left_out.update(counts["left_out"])
    return found | {"left_out": dict(sorted(left_out.items()))}


def _folder_names(models: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return digest -> folder: the model's name as far as file systems take it, with a digest where two would be the same."""
    plain = {key: re.sub(r"[^\w.+-]", "_", facts["name"])[:100].strip(".") or "model" for key, facts in models.items()}
    taken = Counter(name.lower() for name in plain.values())
    reserved = {LISTING}
    alone = {key for key, name in plain.items() if taken[name.lower()] == 1 and name.lower() not in reserved}
    return {key: name if key in alone else f"{name}-{key[:12]}" for key, name in plain.items()}


# --- samples --------------------------------------------------------------------------------------------------------


def write_samples(samples: Sequence[Path], folder: Path) -> int:
    """Write samples as rows of .npz files, a file for those whose inputs have equal shapes; return how many there were.

    Outputs, where every sample has them, go to files of the same names in a folder of their own. One row is in memory at a time.
    """
    heads = {path: _head(path) for path in samples}
    groups: dict[Any, list[Path]] = defaultdict(list)
    for path, head in heads.items():
        groups[tuple((name, _type_name(kind), shape) for name, (kind, shape, _) in head["inputs"].items())].append(path)
    outputs = set.intersection(*(set(head["outputs"]) for head in heads.values())) if heads else set()
    for number, rows in enumerate(groups.values()):
        name = "inputs.npz" if len(groups) == 1 else f"inputs-{number}.npz"
        folder.mkdir(exist_ok=True)
        _write_rows(folder / name, [(path, heads[path]["inputs"]) for path in rows])
        if outputs:
            (folder / OUTPUTS).mkdir(exist_ok=True)
            kept = [(path, {key: heads[path]["outputs"][key] for key in sorted(outputs)}) for path in rows]
            _write_outputs(folder / OUTPUTS / name, kept)
    return len(heads)


def _write_outputs(path: Path, rows: Sequence[tuple[Path, dict[str, Any]]]) -> None:
    """Write outputs of one shape as rows of a file, those of unlike shapes as a file per row."""
    if len({tuple((_type_name(kind), shape) for kind, shape, _ in entries.values()) for _, entries in rows}) == 1:
        _write_rows(path, rows)
        return
    for number, row in enumerate(rows):
        _write_rows(path.with_name(f"{path.stem}-row{number}.npz"), [row])


def _write_rows(path: Path, rows: Sequence[tuple[Path, dict[str, Any]]]) -> None:
    """Write an .npz with an array per name, whose first axis counts the rows; equal rows give equal bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, (dtype, shape, _) in rows[0][1].items():
            dtype = max((entries[name][0] for _, entries in rows), key=lambda kind: kind.itemsize)
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as stream:
                head = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": (len(rows), *shape)}
                npy.write_array_header_1_0(stream, head)
                for sample, entries in rows:
                    with open(sample, "rb") as source:
                        stream.write(read_array(source, entries[name]).astype(dtype).tobytes())


def _type_name(kind: np.dtype) -> str:
    """Return what element types that can stand in one array have in common: text of any length is one type."""
    return kind.kind if kind.kind == "U" else kind.str


def _head(path: Path) -> Head:
    with path.open("rb") as stream:
        return read_head(stream)


def _json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def _write_json(path: Path, value: Any) -> None:
    with path.open("w") as stream:
        stream.write(json.dumps(value, indent=2) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
