"""What a command says, and which exit code it has, for every error that ends it."""

from __future__ import annotations

from typing import NamedTuple

from onnxprune.errors import OnnxPruneError

INTERRUPTED = 130
TERMINATED = 143
UNEXPECTED = 3
REPORT = "(run again with -v for the traceback, and please report it)"


class Terminated(KeyboardInterrupt):
    """SIGTERM: ends a run as Ctrl-C does."""


class Failure(NamedTuple):
    """``best``: the closest value that can be reached, where a target cannot."""

    message: str
    exit_code: int
    best: float | None = None


def failure(error: BaseException, verbose: bool = False) -> Failure:
    """Return what to say of an error."""
    if isinstance(error, OnnxPruneError):
        return Failure(str(error), error.exit_code, getattr(error, "best", None))
    if isinstance(error, KeyboardInterrupt):
        ended = isinstance(error, Terminated)
        word, code = ("terminated", TERMINATED) if ended else ("interrupted", INTERRUPTED)
        return Failure(f"{word}; nothing was left half-written", code)
    if isinstance(error, ImportError):
        return Failure(
            f"a package cannot be loaded: {first_line(error)}; 'onnxprune doctor' tells which, and what mends it",
            UNEXPECTED,
        )
    if isinstance(error, MemoryError):
        wanted = f" ({first_line(error)})" if str(error) else ""
        return Failure(
            f"out of memory{wanted}; where data is given, fewer --samples and a smaller --batch take less", 3
        )
    if isinstance(error, SystemExit):
        return Failure(f"a script that was given ended the run: sys.exit({error.code!r}); let it return", UNEXPECTED)
    if isinstance(error, OSError) and error.filename is not None:
        return Failure(f"{error.filename}: {error.strerror}", UNEXPECTED)
    hint = "" if verbose else f" {REPORT}"
    return Failure(f"unexpected {type(error).__name__}: {first_line(error)}{hint}", UNEXPECTED)


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]
