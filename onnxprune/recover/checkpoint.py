"""The state of a training in one npz file that is replaced atomically, so that a killed run goes on where it was."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.errors import InputError, UsageError
from onnxprune.model.runtime import Arrays
from onnxprune.model.write import atomic_file

FACTS = "facts"


def write(path: Path, digest: str, facts: Mapping[str, Any], groups: Mapping[str, Arrays]) -> None:
    """Write ``facts`` and groups of arrays; ``digest`` says what they belong to. Raises OutputError."""
    arrays = {
        f"{group}/{number}": array for group, members in groups.items() for number, array in enumerate(members.values())
    }
    text = json.dumps({"digest": digest, **facts}, sort_keys=True)
    with atomic_file(path) as stream:
        np.savez(stream, **{FACTS: np.frombuffer(text.encode(), np.uint8)}, **arrays)  # type: ignore[arg-type]


def read_checkpoint(path: Path, digest: str, groups: Mapping[str, Arrays]) -> dict[str, Any]:
    """Fill the arrays of ``groups`` in place and return the facts.

    Raises InputError for a file that cannot be read, UsageError for one of another run.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            facts = json.loads(content[FACTS].tobytes())
            if facts.pop("digest") != digest:
                raise UsageError(
                    f"checkpoint {path} belongs to a run with another model, other data or settings; "
                    "delete it or name another file"
                )
            for group, members in groups.items():
                for number, array in enumerate(members.values()):
                    array[...] = content[f"{group}/{number}"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"checkpoint {path} cannot be read ({error}); delete it to start anew") from error
    return dict(facts)
