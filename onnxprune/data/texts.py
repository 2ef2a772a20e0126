"""From lines of text to what a language model is fed: numbers of a tokenizer file, padded to one length."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.data.columns import Index, reading
from onnxprune.data.inputs import InputSpec, Rows, Schema
from onnxprune.data.sources import RowSource
from onnxprune.errors import DataError, UsageError
from onnxprune.model.read import read_text

EXTENSION = ".txt"
LARGEST = 1 << 27  # bytes of a tokenizer file
LONGEST_LINE = 1 << 20  # bytes
MOST_TOKENS = 512
"""The length of rows where neither model nor options give one: that of the longest line, at most this."""
LOOKED_AT = 1000  # lines that tell the longest
PADDING = ("[PAD]", "<pad>", "<|pad|>", "<|endoftext|>", "</s>")
"""Tokens that pad, where the tokenizer file names none."""


@dataclass(frozen=True)
class TextOptions:
    """``tokenizer``: path of a tokenizer.json. ``length``: tokens of a row (None: the model's size, else that of the longest line)."""

    tokenizer: str | os.PathLike[str]
    length: int | None = None

    def __post_init__(self) -> None:
        if self.length is not None and self.length < 1:
            raise UsageError(f"--text-length {self.length}: give a number of tokens, such as 128")


class Texts(RowSource):
    """The lines of a file that are not empty, one row each, for inputs of token numbers, masks and types.

    Raises DataError for a tokenizer or text that cannot be read, and for inputs that take no text.
    """

    def __init__(self, path: Path, schema: Schema, options: TextOptions, sizes: Mapping[str, tuple[int, ...]]):
        self.path, self.specs = path, schema.specs
        self._parts = {spec.name: _part(spec) for spec in schema.specs}
        if "ids" not in self._parts.values():
            raise DataError(f"no input takes token numbers: {', '.join(map(str, schema.specs))}")
        self._tokenizer = open_tokenizer(Path(options.tokenizer))
        self._lines = line_starts(path)
        self.count = len(self._lines)
        if not self.count:
            raise DataError(f"{path} has no lines of text")
        given = options.length or _length(schema, sizes)
        padding = self._tokenizer.padding or {}
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(given or MOST_TOKENS)
        self.length = given or max(len(e.ids) for e in islice(self._encoded(np.arange(self.count), 100), LOOKED_AT))
        self._tokenizer.enable_truncation(self.length)
        self._pad(padding)

    def read(self, keep: Index | None, size: int) -> Iterator[Rows]:
        keep = np.arange(self.count or 0) if keep is None else keep
        encoded = self._encoded(keep, size)
        while block := list(islice(encoded, size)):
            found = {
                "ids": np.array([e.ids for e in block]),
                "mask": np.array([e.attention_mask for e in block]),
                "types": np.array([e.type_ids for e in block]),
                "positions": np.tile(np.arange(self.length), (len(block), 1)),
            }
            yield {spec.name: found[self._parts[spec.name]].astype(spec.dtype) for spec in self.specs}

    def _encoded(self, keep: Index, size: int) -> Iterator[Any]:
        with reading(self.path), self.path.open("rb") as stream:
            for start in range(0, len(keep), size):
                lines = []
                for row in keep[start : start + size]:
                    stream.seek(int(self._lines[row]))
                    lines.append(stream.readline(LONGEST_LINE).decode("utf-8-sig", errors="ignore").strip())
                yield from self._tokenizer.encode_batch(lines)

    def _pad(self, named: Mapping[str, Any]) -> None:
        """Fill rows up as the tokenizer file says, or else with a token that other files pad with."""
        found = ((token, self._tokenizer.token_to_id(token)) for token in PADDING)
        token, number = next(((t, n) for t, n in found if n is not None), ("", 0))
        self._tokenizer.enable_padding(
            length=self.length,
            pad_id=named.get("pad_id", number),
            pad_token=named.get("pad_token", token),
            pad_type_id=named.get("pad_type_id", 0),
        )


def open_tokenizer(path: Path) -> Any:
    """Read a tokenizer file; nothing in it is executed."""
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise DataError("reading text needs tokenizers: pip install 'onnxprune[text]'") from error
    content = read_text(path, LARGEST, DataError, "a tokenizer")
    try:
        return Tokenizer.from_str(content)
    except BaseException as error:  # the library panics on some files
        if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
            raise
        raise DataError(f"{path} is no tokenizer file (tokenizer.json): {error}") from error


def line_starts(path: Path) -> np.ndarray:
    """Return int64[lines]: where each line that is not empty begins; raises DataError for what is no text."""
    starts, place = [], 0
    with reading(path), path.open("rb") as stream:
        while line := stream.readline(LONGEST_LINE):
            if b"\0" in line:
                raise DataError(f"{path} is no text: byte {place + line.index(0)} is zero")
            if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
                raise DataError(f"{path}: the line at byte {place} is longer than {LONGEST_LINE >> 20} MiB")
            if line.strip(b"\xef\xbb\xbf \t\r\n"):
                starts.append(place)
            place += len(line)
    return np.array(starts, np.int64)


def _part(spec: InputSpec) -> str:
    """Return what an input is fed of an encoded line, by its name."""
    name = spec.name.lower()
    if (spec.shape is not None and len(spec.shape) != 2) or spec.dtype.kind not in "iufb":
        raise DataError(
            f"input {spec} takes no line of text: [batch, tokens] is needed; give it a value (--input-value {spec.name}:1), or "
            "write a .py loader with load_data()"
        )
    words = (("mask", "mask"), ("type", "types"), ("segment", "types"), ("position", "positions"))
    return next((part for word, part in words if word in name), "ids")


def _length(schema: Schema, sizes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Return the tokens that the model insists on, or that were given for an input."""
    shapes = [sizes.get(spec.name) or spec.shape or () for spec in schema.specs]
    return next((shape[1] for shape in shapes if len(shape) == 2 and isinstance(shape[1], int)), None)
