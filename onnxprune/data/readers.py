"""Which source a path or a Python value is: one table of file kinds, one of folder kinds."""

from __future__ import annotations

import inspect
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, TypedDict

import numpy as np

from onnxprune.data.columns import ArrayColumn, Column, NpyColumn, NpzColumn, TensorColumn, reading
from onnxprune.data.images import EXTENSIONS, ImageOptions
from onnxprune.data.inputs import LABEL_KEYS, Schema
from onnxprune.data.recordings import folder_of_model
from onnxprune.data.scripts import load_module
from onnxprune.data.sounds import AudioOptions, Sounds
from onnxprune.data.sources import (
    Chain,
    Columns,
    Converted,
    FromCallable,
    Labelled,
    Pictures,
    RowSource,
    as_array,
    guarded,
    hold,
)
from onnxprune.data.texts import TextOptions, Texts
from onnxprune.errors import DataError
from onnxprune.model.decoding import NO_DECODER, Decoding
from onnxprune.model.files import kind_of, require_regular, status
from onnxprune.model.values import FedValues


class ReadOptions(TypedDict, total=False):
    """How data is read: ``images``, ``audio``, ``text``: files of that kind. ``sizes``: whole shapes of inputs that leave theirs open.
    ``values``: of inputs that the data may lack. ``decoding``: inputs that follow from token numbers, which it may lack too.
    """

    images: ImageOptions | None
    audio: AudioOptions | None
    text: TextOptions | None
    sizes: Mapping[str, tuple[int, ...]]
    values: FedValues
    decoding: Decoding


@dataclass(frozen=True)
class Request:
    """What a reader needs to know besides the path: the model's inputs, how many rows suffice, and ``ReadOptions``."""

    schema: Schema
    samples: int | None = None
    images: ImageOptions | None = None
    audio: AudioOptions | None = None
    text: TextOptions | None = None
    sizes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    values: FedValues = field(default_factory=dict)
    decoding: Decoding = NO_DECODER


def open_source(data: Any, request: Request) -> RowSource:
    """Return the source behind a path, an array, a dict of arrays, an iterable, or a function returning these."""
    if isinstance(data, str | os.PathLike):
        source = open_path(Path(data), request)
    else:
        source = open_value(data, request, "the data")
    if request.images is None or isinstance(source, Converted):
        return source
    return Converted(source, request.images, request.schema)


def open_path(path: Path, request: Request) -> RowSource:
    """Return the source for a file or folder; raise DataError when it is missing or of no known kind."""
    found = status(path, DataError)
    if found is None:
        raise DataError(f"{path}: no such file")
    if kind_of(found) == "a folder":
        return _open_folder(path, request)
    require_regular(path, DataError)
    reader = FILE_READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"{path}: data comes from {', '.join(FILE_READERS)} files or a folder, not from {path.suffix!r}"
        )
    return reader(path, request)


def open_labels(path: Path) -> Column:
    """Return labels from .npy, .npz (a lone array or one called label, labels or y) or .txt (one integer per line)."""
    match path.suffix.lower():
        case ".npy":
            return NpyColumn(path)
        case ".npz":
            keys = npz_keys(path)
            chosen = keys if len(keys) == 1 else [key for key in keys if key.lower() in LABEL_KEYS]
            if len(chosen) != 1:
                raise DataError(f"{path}: which array are the labels? Call one of {', '.join(keys) or 'none'} 'labels'")
            return NpzColumn(path, chosen[0])
        case ".txt":
            with reading(path):
                return ArrayColumn(np.array([int(line) for line in path.read_text().split()], np.int64))
    raise DataError(f"{path}: labels come from .npy, .npz or .txt files")


def npz_keys(path: Path) -> list[str]:
    """Return the names of the arrays in a .npz file, in file order."""
    with reading(path), zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def _open_npy(path: Path, request: Request) -> RowSource:
    if len(request.schema.specs) > 1:
        names = ", ".join(request.schema.by_name)
        raise DataError(f"{path} holds one array, the model has the inputs {names}; pass a .npz with these names")
    return Columns({request.schema.specs[0].name: NpyColumn(path)}, request.schema, str(path))


def _open_npz(path: Path, request: Request) -> RowSource:
    return Columns({key: NpzColumn(path, key) for key in npz_keys(path)}, request.schema, str(path))


def _open_script(path: Path, request: Request) -> RowSource:
    """Run a Python file and use its ``load_data()``, or its one CalibrationDataReader (class or instance)."""
    module = load_module(path)
    loader = getattr(module, "load_data", None)
    if callable(loader):
        return open_value(loader, request, f"{path}: load_data()")
    readers = _data_readers(module)
    if len(readers) != 1:
        found = ", ".join(readers) or "none"
        raise DataError(f"{path} needs a function load_data() or one object with get_next() (found: {found})")
    return open_value(next(iter(readers.values())), request, f"{path}: {next(iter(readers))}")


def _data_readers(module: ModuleType) -> dict[str, Any]:
    """Return instances with ``get_next``, or, where there is none, the classes the module itself defines."""
    having = {name: value for name, value in vars(module).items() if callable(getattr(value, "get_next", None))}
    instances = {name: value for name, value in having.items() if not inspect.isclass(value)}
    own = {
        name: value
        for name, value in having.items()
        if inspect.isclass(value) and value.__module__ == module.__name__ and not inspect.isabstract(value)
    }
    return instances or own


def _open_sound(path: Path, request: Request) -> RowSource:
    return _open_sounds([path], request)


def _open_sounds(paths: list[Path], request: Request) -> RowSource:
    """Open recordings for the one input that no value is given for."""
    schema = request.schema
    if len(schema.specs) > 1:
        other = schema.specs[1]
        raise DataError(
            f"recordings serve models with one input, and there is {other} too; give the others a value "
            f"(--input-value {other.name}:0), or write a .py loader with load_data()"
        )
    spec = schema.specs[0]
    shape = request.sizes.get(spec.name) or spec.shape
    if shape is None:
        raise DataError(f"input {spec} does not say how many axes it has; give --input-shape {spec.name}:1,16000")
    alone = len(shape) == 1 or not schema.samples
    return Sounds(paths, spec, shape if alone else shape[1:], request.audio or AudioOptions(), whole_feeds=alone)


def _open_text(path: Path, request: Request) -> RowSource:
    if request.text is None:
        raise DataError(f"{path}: text is read with the model's own tokenizer; say --tokenizer tokenizer.json")
    return Texts(path, request.schema, request.text, request.sizes)


FILE_READERS: dict[str, Callable[[Path, Request], RowSource]] = {
    ".npy": _open_npy,
    ".npz": _open_npz,
    ".py": _open_script,
    ".wav": _open_sound,
    ".txt": _open_text,
}


def open_value(value: Any, request: Request, where: str) -> RowSource:
    """Return the source for a Python value; functions and reader classes are called anew for every pass."""
    schema = request.schema
    if inspect.isclass(value) and hasattr(value, "get_next"):
        return FromCallable(lambda: _drain(value()), schema, where)
    if hasattr(value, "get_next"):
        if hasattr(value, "rewind"):
            return FromCallable(lambda: _rewound(value), schema, where)
        return hold(_drain(value), schema, request.samples, where)
    if callable(value) and not hasattr(value, "__array__"):
        result = guarded(value, where)
        return FromCallable(value, schema, where) if _is_one_shot(result) else open_value(result, request, where)
    if isinstance(value, Mapping):
        columns = {str(key): ArrayColumn(as_array(array, where)) for key, array in value.items()}
        return Columns(columns, schema, where)
    if hasattr(value, "__array__"):
        return Columns({schema.specs[0].name: ArrayColumn(as_array(value, where))}, schema, where)
    if _is_one_shot(value):
        return hold(value, schema, request.samples, where)
    if isinstance(value, Iterable):
        return FromCallable(lambda: value, schema, where)
    raise DataError(f"{where}: {type(value).__name__} is neither a path, an array, a dict of arrays nor an iterable")


def _is_one_shot(value: Any) -> bool:
    return isinstance(value, Iterator)


def _drain(reader: Any) -> Iterator[Any]:
    return iter(reader.get_next, None)


def _rewound(reader: Any) -> Iterator[Any]:
    reader.rewind()
    return _drain(reader)


def _open_folder(folder: Path, request: Request) -> RowSource:
    """Return the source for a folder of one kind of data; raise DataError for none or for a mixture."""
    folder = folder_of_model(folder, request.schema)
    kinds = {kind: find(folder) for kind, (find, _) in FOLDER_READERS.items()}
    present = [kind for kind, paths in kinds.items() if paths]
    if not present:
        raise DataError(f"{folder} has no data: looked for {', '.join(FOLDER_READERS)}")
    if len(present) > 1:
        raise DataError(f"{folder} mixes {' and '.join(present)}; keep one kind of data in a folder")
    _, reader = FOLDER_READERS[present[0]]
    return reader(kinds[present[0]], request)


def _natural(path: Path) -> list[Any]:
    """Sort key in which item_2 comes before item_10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(path))]


def _matching(pattern: str) -> Callable[[Path], list[Path]]:
    return lambda folder: sorted(filter(Path.is_file, folder.glob(pattern)), key=_natural)


def _find_pictures(folder: Path) -> list[Path]:
    found = (path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file())
    return sorted(found, key=_natural)


def _find_sounds(folder: Path) -> list[Path]:
    found = (path for path in folder.rglob("*") if path.suffix.lower() == ".wav" and path.is_file())
    return sorted(found, key=_natural)


def _find_test_sets(folder: Path) -> list[Path]:
    sets = [path.parent for path in folder.glob("test_data_set_*/input_0.pb")]
    return sorted(sets, key=_natural) or ([folder] if (folder / "input_0.pb").is_file() else [])


def _open_npys(paths: list[Path], request: Request) -> RowSource:
    """Open one file per input, or files of rows for the one input; a file called labels, label or y has the labels."""
    schema = request.schema
    labels = [path for path in paths if path.stem.lower() in LABEL_KEYS and path.stem not in schema.by_name]
    rows = [path for path in paths if path not in labels]
    if len(schema.specs) > 1 or {path.stem for path in rows} == set(schema.by_name):
        return Columns({path.stem: NpyColumn(path) for path in paths}, schema, str(paths[0].parent))
    source: RowSource = Chain([_open_npy(path, request) for path in rows])
    for path in labels:
        source = Labelled(source, NpyColumn(path), str(path))
    return source


def _open_npzs(paths: list[Path], request: Request) -> RowSource:
    return Chain([_open_npz(path, request) for path in paths])


def _open_test_sets(folders: list[Path], request: Request) -> RowSource:
    return Chain([_open_test_set(folder, request.schema) for folder in folders])


def _open_test_set(folder: Path, schema: Schema) -> RowSource:
    """Open ``input_<i>.pb``: by the tensor's name where it is an input's, else by position."""
    columns: dict[str, Column] = {}
    for path in _matching("input_*.pb")(folder):
        column = TensorColumn(path)
        position = (
            int(path.stem.removeprefix("input_")) if path.stem.removeprefix("input_").isdigit() else len(schema.specs)
        )
        by_position = schema.specs[position].name if position < len(schema.specs) else path.stem
        columns[column.name if column.name in schema.by_name else by_position] = column
    return Columns(columns, schema, str(folder))


def _open_pictures(paths: list[Path], request: Request) -> RowSource:
    if len(request.schema.specs) > 1:
        raise DataError("a folder of images serves models with one input; pass a .npz or a .py loader for this model")
    (spec,), options = request.schema.specs, request.images or ImageOptions()
    given = request.sizes.get(spec.name)
    spec = spec if given is None else replace(spec, shape=given)
    options = replace(options, layout=options.layout_of(spec))
    return Converted(Pictures(paths, spec.name, options.geometry(spec), options), options, request.schema)


FOLDER_READERS: dict[str, tuple[Callable[[Path], list[Path]], Callable[[list[Path], Request], RowSource]]] = {
    "test_data_set_* folders": (_find_test_sets, _open_test_sets),
    "npz files": (_matching("*.npz"), _open_npzs),
    "npy files": (_matching("*.npy"), _open_npys),
    "images": (_find_pictures, _open_pictures),
    "wav files": (_find_sounds, _open_sounds),
}
