"""Which tokens of a vocabulary stay: numbers of them, a list of tokens, or the text that a model is used for."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.data.columns import NpyColumn, NpzColumn, reading
from onnxprune.data.texts import LONGEST_LINE, line_starts, open_tokenizer
from onnxprune.errors import DataError
from onnxprune.model.files import require_regular

LARGEST_TEXT = 1 << 32  # bytes of a corpus
MOST_IDS = 1 << 26
"""More tokens than any vocabulary has."""
AT_ONCE = 256  # lines that are encoded together
NAMED = ("ids", "new_to_old")
"""Arrays of an .npz file that hold numbers of tokens; one that is alone may have any name."""
NUMBERS, TOKENS, CORPUS = "numbers", "tokens", "corpus"


@dataclass(frozen=True)
class TokenList:
    """``ids``: int64, ascending: the tokens that a file names; ``found``: what kind of file it is. ``special``: int64, those of the tokenizer that always stay.

    ``unknown``: the token that stands for what the tokenizer does not know (None: it names none). ``size``: tokens of the
    tokenizer (None: none was given).
    """

    ids: np.ndarray
    found: str
    special: np.ndarray
    unknown: int | None = None
    size: int | None = None


def read_tokens(path: Path, tokenizer: Path | None) -> TokenList:
    """Read the tokens that stay: .npy or .npz (numbers), else text: a number or a token per line, or a corpus.

    Raises DataError for what is none of these, or needs a tokenizer that was not given.
    """
    opened = None if tokenizer is None else open_tokenizer(tokenizer)
    if path.suffix in (".npy", ".npz"):
        ids, found = _stored_numbers(path), NUMBERS
    else:
        ids, found = _of_text(path, opened)
    if not ids.size:
        raise DataError(f"{path} names no token; list the tokens that stay")
    if ids[0] < 0:
        raise DataError(f"{path}: {ids[0]} is no number of a token; numbers begin with 0")
    if opened is None:
        return TokenList(ids, found, np.empty(0, np.int64))
    unknown = _unknown(opened)
    return TokenList(ids, found, _special(opened, unknown), unknown, opened.get_vocab_size(with_added_tokens=True))


def _stored_numbers(path: Path) -> np.ndarray:
    """Return the numbers of an array file in ascending order, each once."""
    column = NpyColumn(path) if path.suffix == ".npy" else NpzColumn(path, _member(path))
    count = math.prod(column.shape)
    if count > MOST_IDS:
        raise DataError(f"{path} holds {count:,} numbers, more than any vocabulary has")
    found = np.asarray(column.load())
    if found.dtype.kind not in "iu":
        raise DataError(f"{path} holds {found.dtype} values; numbers of tokens are whole (int64)")
    return np.unique(found.reshape(-1).astype(np.int64))


def _member(path: Path) -> str:
    """Return the array of an .npz file that holds numbers of tokens; raises DataError where none can be told."""
    with reading(path), zipfile.ZipFile(path) as archive:
        known = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    named = [name for name in NAMED if name in known] or (known if len(known) == 1 else [])
    if not named:
        raise DataError(f"{path} holds {', '.join(known[:5]) or 'no array'}; name the array of tokens that stay 'ids'")
    return named[0]


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines that are not empty."""
    if require_regular(path, DataError, "a list of tokens").st_size > LARGEST_TEXT:
        raise DataError(f"{path} is larger than {LARGEST_TEXT >> 30} GiB; give a part of the text")
    starts = line_starts(path)
    with reading(path), path.open("rb") as stream:
        for start in starts:
            stream.seek(int(start))
            yield stream.readline(LONGEST_LINE).decode("utf-8-sig", errors="ignore").strip("\r\n")


def _of_text(path: Path, tokenizer: Any) -> tuple[np.ndarray, str]:
    """Return the tokens of a text file and what it is: numbers or tokens where every line is one, else a corpus."""
    if all(_is_number(line) for line in _lines(path)):
        return np.unique(np.array([int(line) for line in _lines(path)], np.int64)), NUMBERS
    if tokenizer is None:
        raise DataError(
            f"{path} holds text, not a number of a token per line; give the model's tokenizer (--tokenizer)"
        )
    known = tokenizer.get_vocab(with_added_tokens=True)
    if all(line in known or line.strip() in known for line in _lines(path)):
        return np.unique([known.get(line, known.get(line.strip(), -1)) for line in _lines(path)]), TOKENS
    return _used(path, tokenizer), CORPUS


def _is_number(line: str) -> bool:
    text = line.strip()
    return text.isascii() and text.removeprefix("-").isdigit() and len(text) < 19


def _used(path: Path, tokenizer: Any) -> np.ndarray:
    """Return the tokens that lines of text are made of."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    seen, block = set[int](), list[str]()
    for line in _lines(path):
        block.append(line)
        if len(block) == AT_ONCE:
            seen.update(*(encoded.ids for encoded in tokenizer.encode_batch(block)))
            block = []
    if block:
        seen.update(*(encoded.ids for encoded in tokenizer.encode_batch(block)))
    return np.array(sorted(seen), np.int64)


def _special(tokenizer: Any, unknown: int | None) -> np.ndarray:
    """Return the tokens that a tokenizer adds by itself: those it calls special, pads with, or puts around an empty text."""
    found = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    found.update(tokenizer.encode("").ids)
    found.update(() if tokenizer.padding is None else (tokenizer.padding["pad_id"],))
    found.update(() if unknown is None else (unknown,))
    return np.array(sorted(found), np.int64)


def _unknown(tokenizer: Any) -> int | None:
    """Return the token that a tokenizer takes for what it does not know, None where it has none."""
    if not hasattr(tokenizer.model, "unk_token"):  # of Unigram models only the file tells
        number = json.loads(tokenizer.to_str())["model"].get("unk_id")
        return number if isinstance(number, int) else None
    token = tokenizer.model.unk_token
    return None if not isinstance(token, str) else tokenizer.token_to_id(token)
