"""One small registry for everything that is looked up by name: operator rules, criteria, policies, losses."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from onnxprune.errors import UsageError

T = TypeVar("T")


def near_names(name: str, known: list[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known names, or an empty string."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(repr(c) for c in close)}?" if close else ""


class Registry(Generic[T]):
    """Names mapped to values, filled by decorators at import; a duplicate name is refused there and then."""

    def __init__(self, what: str):
        self.what = what
        self._entries: dict[str, T] = {}

    def add(self, name: str, value: T) -> T:
        if name in self._entries:
            raise ValueError(f"{self.what} {name!r} is registered twice")
        self._entries[name] = value
        return value

    def register(self, *names: str) -> Callable[[T], T]:
        """Decorate a value with the names it is found under."""

        def decorate(value: T) -> T:
            for name in names:
                self.add(name, value)
            return value

        return decorate

    def get(self, name: str) -> T | None:
        return self._entries.get(name)

    def __getitem__(self, name: str) -> T:
        """Return the entry; raise UsageError with near names when there is none."""
        if name not in self._entries:
            hint = near_names(name, list(self)) or f"; known: {', '.join(self)}"
            raise UsageError(f"unknown {self.what} {name!r}{hint}")
        return self._entries[name]

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)
