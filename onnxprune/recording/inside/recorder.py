"""One recording as a process sees it: its sessions, which model each has, and the pool that each model's samples go to."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .feeds import NOT_FINITE, TOO_LARGE, LeftOut, all_finite, batch_axis, plain, sample_count
from .reservoir import Limits, Reservoir

FACTS, COUNTS, PROBLEM = "model.json", "counts-", "problem-"
BLOCK = 1 << 20
ROOM = 1024  # bytes of a file of counts, which is written anew in place


class Described:
    """A model that a session has: its facts, its pool, and what this process counted."""

    def __init__(self, folder: str, facts: dict[str, Any], limits: Limits):
        self.facts, self.pool = facts, Reservoir(folder, limits)
        self.counts: dict[str, Any] = {"sessions": 0, "calls": 0, "samples": 0, "left_out": {}}
        _write_once(os.path.join(folder, FACTS), json.dumps(facts).encode())
        self._file = os.path.join(folder, f"{COUNTS}{os.getpid()}-{secrets.token_hex(4)}.json")

    def left_out(self, reason: str, count: int = 1) -> None:
        self.counts["left_out"][reason] = self.counts["left_out"].get(reason, 0) + count

    def save(self) -> None:
        """Write the counts in place: whoever ends the process, the last ones that were written whole are there."""
        handle = os.open(self._file, os.O_WRONLY | os.O_CREAT, 0o666)
        try:
            os.write(handle, json.dumps(self.counts).encode().ljust(ROOM))
        finally:
            os.close(handle)


class Recorder:
    """Takes what sessions are fed; whatever goes wrong is written down and never reaches the program."""

    def __init__(self, folder: str, limits: Limits):
        self.folder, self.limits = folder, limits
        self.forget()

    def forget(self) -> None:
        """Begin anew: in a forked process nothing is counted twice, and no lock is held by a thread that is not there."""
        self._lock = threading.Lock()
        self._sessions: weakref.WeakKeyDictionary[Any, Described] = weakref.WeakKeyDictionary()
        self._models: dict[str, Described] = {}
        self._sound = True

    def opened(self, session: Any) -> None:
        """Note a session when it is opened, while its file is surely there."""
        self._guarded(self._open, session)

    def before(self, session: Any, feeds: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return copies of what a session is about to be fed, for a call that may overwrite it; None where it is not kept."""
        return self._guarded(self._copied, session, feeds)

    def took(
        self,
        session: Any,
        feeds: Mapping[str, Any],
        names: Sequence[str] | None = None,
        results: Sequence[Any] | None = None,
    ) -> None:
        """Take what a session was fed and, where asked for, what it gave: ``results`` in the order of ``names`` (None: of all)."""
        self._guarded(self._take, session, feeds, names, results)

    def failed(self, error: Exception) -> None:
        """Write down what went wrong, once."""
        if self._sound:
            self._sound = False
            try:
                path = os.path.join(self.folder, f"{PROBLEM}{os.getpid()}-{secrets.token_hex(4)}.txt")
                with open(path, "w", encoding="utf-8", errors="replace") as stream:
                    stream.write(f"{type(error).__name__}: {error}")
            except OSError:  # the recording has ended, or the disk is full
                pass

    def _guarded(self, work: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return work(*arguments)
        except Exception as error:
            self.failed(error)
            return None

    def _open(self, session: Any) -> Described:
        with self._lock:
            return self._described(session)

    def _described(self, session: Any) -> Described:
        found = self._sessions.get(session)
        if found is None:
            facts = _facts(session)
            key = facts["sha256"]
            if key not in self._models:
                self._models[key] = Described(os.path.join(self.folder, key), facts, self.limits)
            found = self._sessions[session] = self._models[key]
            found.counts["sessions"] += 1
            found.save()
        return found

    def _copied(self, session: Any, feeds: Mapping[str, Any]) -> Mapping[str, Any]:
        model = self._open(session)
        try:
            return {name: array.copy() for name, array in self._arrays(model, feeds).items()}
        except LeftOut:
            return feeds  # said where it is taken

    def _arrays(self, model: Described, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        kinds = {entry["name"]: entry["type"] for entry in model.facts["inputs"]}
        return {name: plain(value, kinds.get(name, "")) for name, value in feeds.items()}

    def _take(
        self, session: Any, feeds: Mapping[str, Any], names: Sequence[str] | None, results: Sequence[Any] | None
    ) -> None:
        model = self._open(session)
        try:
            arrays = self._arrays(model, feeds)
            missing = [entry["name"] for entry in model.facts["inputs"] if entry["name"] not in arrays]
            if missing or not arrays:
                raise LeftOut(NOT_FED)
        except LeftOut as reason:
            with self._lock:
                model.counts["calls"] += 1
                model.left_out(str(reason))
                model.save()
            return
        shapes = {entry["name"]: entry["shape"] for entry in model.facts["inputs"]}
        count = sample_count(shapes, arrays)
        outputs = self._outputs(model, count, shapes, names, results) if self.limits.outputs else None
        ranked = [self._sample(model, arrays, count, row) for row in range(1 if count is None else count)]
        with self._lock:
            model.counts["calls"] += 1
            model.counts["samples"] += len(ranked)
            for row, (rank, sample) in enumerate(ranked):
                self._keep(model, rank, sample, outputs(row) if outputs and rank < model.pool.bar else {})
            model.save()

    def _sample(
        self, model: Described, arrays: dict[str, np.ndarray], count: int | None, row: int
    ) -> tuple[str, dict[str, np.ndarray]]:
        sample = arrays if count is None else {name: array[row] for name, array in arrays.items()}
        return model.pool.rank(sample), sample

    def _keep(self, model: Described, rank: str, sample: dict[str, np.ndarray], outputs: dict[str, np.ndarray]) -> None:
        if rank >= model.pool.bar:
            return
        if not all_finite(sample):
            model.left_out(NOT_FINITE)
        elif sum(array.nbytes for part in (sample, outputs) for array in part.values()) >= self.limits.size // 2:
            model.left_out(TOO_LARGE)
        else:
            model.pool.add(rank, sample, outputs)

    def _outputs(
        self,
        model: Described,
        count: int | None,
        shapes: Mapping[str, Sequence[Any]],
        names: Sequence[str] | None,
        results: Sequence[Any] | None,
    ) -> Callable[[int], dict[str, np.ndarray]]:
        """Return a function that gives the outputs of one sample, those left out whose axis of samples cannot be told."""
        declared = {entry["name"]: entry["shape"] for entry in model.facts["outputs"]}
        found: dict[str, np.ndarray] = {}
        values = list(results or ())
        for place, name in enumerate(list(names or declared)[: len(values)]):
            try:
                found[name] = plain(values[place])
            except LeftOut:
                model.left_out("an output is no tensor of numbers or text")
        symbols = {shape[0] for shape in shapes.values() if shape and isinstance(shape[0], str)}
        axes = {name: batch_axis(declared.get(name), symbols, count, array) for name, array in found.items()}

        def one(row: int) -> dict[str, np.ndarray]:
            if count is None:
                return found
            return {name: found[name].take(row, axis) for name, axis in axes.items() if axis is not None}

        return one


NOT_FED = "an input was not seen: bound before the recording began, or on another device"


def _facts(session: Any) -> dict[str, Any]:
    """Return name, path, digest, size, inputs and outputs of a session's model."""
    path, content = getattr(session, "_model_path", None), getattr(session, "_model_bytes", None)
    digest, size = hashlib.sha256(), 0
    if path:
        path = os.path.abspath(os.fsdecode(path))
        try:
            with open(path, "rb") as stream:
                for block in iter(lambda: stream.read(BLOCK), b""):
                    digest.update(block)
                    size += len(block)
        except OSError:  # gone since it was opened, or elsewhere: the program has changed its folder
            digest.update(os.fsencode(path))
    else:
        digest.update(content or repr([_value(value) for value in session.get_inputs()]).encode())
        size = len(content or b"")
    name = os.path.splitext(os.path.basename(path))[0] if path else f"model-{digest.hexdigest()[:12]}"
    return {
        "name": name,
        "path": path or None,
        "sha256": digest.hexdigest(),
        "bytes": size,
        "program": [os.fsdecode(word) for word in sys.argv[:1]],
        "inputs": [_value(value) for value in session.get_inputs()],
        "outputs": [_value(value) for value in session.get_outputs()],
    }


def _value(value: Any) -> dict[str, Any]:
    return {"name": value.name, "type": value.type, "shape": list(value.shape or [])}


def _write_once(path: str, content: bytes) -> None:
    """Write a file that several processes may write, each the same, so that whoever reads it finds all of it."""
    if not os.path.exists(path):
        temporary = f"{path}.{secrets.token_hex(4)}"
        with open(temporary, "wb") as stream:
            stream.write(content)
        os.replace(temporary, path)
