"""Data files beside a written model: named by their content, and removed once nothing refers to them.

``small.onnx`` refers to ``small.onnx.<12 hex digits of its SHA-256>.data``. A new one never takes the place of one in use, so that
renaming the model is the moment from which the new weights count; what the old model had goes after that.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from io import BufferedIOBase
from pathlib import Path

from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto

from onnxprune.model.files import shortened_name
from onnxprune.model.locks import alone
from onnxprune.model.read import PROTOBUF_LIMIT
from onnxprune.model.tensors import model_tensors

DIGITS = 12
SUFFIX = ".data"
SEARCHED = 1 << 33  # bytes of other files that are searched for a name before a file is rather left

HELD = "another process holds it"
LARGE_MODEL = 1 << 26
IR_VERSION = b"\x08"  # the tag of a model's first field
ORT_FORMAT = b"ORTM"
OTHERS = (b"\x93NUMPY", b"PK\x03\x04", b"\x89PNG", b"\xff\xd8\xff")  # npy, npz, pictures

logger = logging.getLogger(__name__)


def data_name(model: Path, digest: str) -> str:
    """Return the name of a model's data file; ``digest``: SHA-256 of its content, in hex."""
    return f"{_stem(model)}.{digest[:DIGITS]}{SUFFIX}"


def _stem(model: Path) -> str:
    return shortened_name(model.name, DIGITS + len(SUFFIX) + 1)


def content_digest(stream: BufferedIOBase) -> str:
    """Return the SHA-256 of a file from its start, in hex."""
    stream.seek(0)
    return hashlib.file_digest(stream, "sha256").hexdigest()


def former_data(model: Path) -> set[Path]:
    """Return the data files of a model that is about to be replaced, as far as they are named after it.

    Earlier versions called them ``<name>.data``.
    """
    own = {*_own(model), model.with_name(model.name + SUFFIX)}
    proto = ModelProto()
    try:
        there = {path for path in own if path.is_file()}
        if not there or not model.is_file() or model.stat().st_size > PROTOBUF_LIMIT:
            return set()
        proto.ParseFromString(model.read_bytes())
    except (DecodeError, OSError):  # no model, or a name that is too long
        return set()
    named = set(_locations(proto))
    return {path for path in there if path.name in named}


def _locations(proto: ModelProto) -> Iterator[str]:
    for tensor in model_tensors(proto):
        if tensor.data_location == TensorProto.EXTERNAL:
            yield next((entry.value for entry in tensor.external_data if entry.key == "location"), "")


def remove_data(model: Path, former: Collection[Path] = (), needed: Collection[Path] = ()) -> None:
    """Remove data files of ``model`` that no file of its folder names: ``former`` ones, and those a killed process left.

    Where anything is in doubt a file stays, and that is said: links, content that its name does not tell, processes
    that hold it, ``needed`` ones (the input's), a folder too large to be searched. An interrupt waits until this is done.
    """
    try:
        _remove_data(model, former, needed)
    except BaseException:
        _remove_data(model, former, needed)
        raise


def _remove_data(model: Path, former: Collection[Path], needed: Collection[Path]) -> None:
    for path in sorted({*former, *_own(model)}):
        if path.resolve() in needed:
            continue
        if reason := _doubt(path, path in former):
            level = logging.INFO if reason == HELD else logging.WARNING  # whoever holds it will see to it
            logger.log(level, "%s was left: %s", path, reason)


def _own(model: Path) -> Iterator[Path]:
    pattern = re.compile(re.escape(_stem(model)) + rf"\.[0-9a-f]{{{DIGITS}}}" + re.escape(SUFFIX))
    with suppress(OSError), os.scandir(model.parent) as entries:
        for entry in entries:
            if pattern.fullmatch(entry.name):
                yield Path(entry.path)


def _doubt(path: Path, former: bool) -> str:
    """Remove a data file, or return why it is left; "" too where a file names it, as it should."""
    try:
        if path.is_symlink() or path.stat().st_nlink != 1:
            return "it has other links"
        with alone(path) as free:  # before it is looked at: nobody who needs it can come in between
            if not free:
                return HELD if path.exists() else ""
            named = _named_in(path.parent, path.name)
            if named is None:
                return "its folder is too large to look for models that need it"
            if not named and not former and not _is_own_content(path):
                return "its content is not what its name says"
            if not named:
                os.unlink(path)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return str(error)
    return ""


def _is_own_content(path: Path) -> bool:
    with path.open("rb") as stream:
        return path.name.endswith(f".{content_digest(stream)[:DIGITS]}{SUFFIX}")


def _named_in(folder: Path, name: str) -> bool | None:
    """Whether a file of a folder holds a file's name, as a model does that refers to it; None where that takes too long."""
    wanted, left = os.fsencode(name), SEARCHED
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # temporary ones come and go
                if entry.name == name or not entry.is_file() or not _may_be_model(entry, len(wanted)):
                    continue
                left -= entry.stat().st_size
                if left < 0:
                    return None
                with (
                    open(entry.path, "rb") as stream,
                    mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content,
                ):
                    if content.find(wanted) >= 0:
                        return True
    return False


def _may_be_model(entry: os.DirEntry[str], least: int) -> bool:
    """Whether a file may refer to data: small enough for a message, no array or picture, and where large, it begins like a model."""
    size = entry.stat().st_size
    if not least <= size <= PROTOBUF_LIMIT:
        return False
    with open(entry.path, "rb") as stream:
        head = stream.read(8)
    return not head.startswith(OTHERS) and (size < LARGE_MODEL or head[:1] == IR_VERSION or head[4:] == ORT_FORMAT)
