"""stdout and stderr while a command runs: no line is a command to CI, every character can be encoded, a reader may leave."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from onnxprune.errors import OutputError
from onnxprune.report.visible import harmless_lines


class Stream:
    """A text stream whose lines are guarded; what a closed pipe does not take is dropped, and the run goes on.

    Raises OutputError where stdout takes nothing for another reason, such as a full disk; stderr has nowhere to say so.
    """

    def __init__(self, stream: TextIO, name: str):
        self._stream, self._name, self._begins_line = stream, name, True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        head, line_end, rest = text.partition("\n")
        shown = harmless_lines(text) if self._begins_line else head + line_end + harmless_lines(rest)
        self._begins_line = text.endswith("\n") if text else self._begins_line
        encoding = self._stream.encoding or "utf-8"
        with self._taken():
            self._stream.write(shown.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def write_document(self, text: str) -> None:
        """Write text as it is, in UTF-8 whatever the console's encoding: the same bytes that a file gets."""
        with self._taken():
            self._stream.flush()
            self._stream.buffer.write(text.encode())
            self._stream.buffer.flush()

    def flush(self) -> None:
        with self._taken():
            self._stream.flush()

    @contextmanager
    def _taken(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            self._abandon()
        except OSError as error:
            self._abandon()
            if self._name == "stdout":
                raise OutputError(f"stdout cannot be written: {error.strerror or error}") from error

    def _abandon(self) -> None:
        """Let what is still buffered go nowhere, so that the interpreter ends in peace."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


@contextmanager
def guarded_streams() -> Iterator[None]:
    """Put a ``Stream`` before stdout and stderr, where these are open."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (
        stream and Stream(stream, name)  # type: ignore[assignment]
        for stream, name in zip(before, ("stdout", "stderr"), strict=True)
    )
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def write_document(text: str) -> None:
    """Write a document to stdout, if that is open."""
    if sys.stdout is not None:
        (sys.stdout if isinstance(sys.stdout, Stream) else Stream(sys.stdout, "stdout")).write_document(text)
