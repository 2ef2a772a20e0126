"""Runs a program as if nobody watched, with recorders in every Python interpreter that it starts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from onnxprune.errors import UsageError
from onnxprune.recording.draft import Draft
from onnxprune.recording.start.sitecustomize import VARIABLE

START = Path(__file__).resolve().parent / "start"
FORWARDED = ("SIGTERM", "SIGHUP", "SIGINT")
SIGNALLED = 128
"""Exit code of a program that a signal ended, less the signal's number, as shells say it."""


def run_program(command: Sequence[str], draft: Draft) -> int:
    """Run a program to its end, however it ends, and return its exit code; raises UsageError where it cannot be started."""
    with _forwarded() as started:
        try:
            child = subprocess.Popen(list(command), env=environment(draft))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UsageError(
                f"{command[0]!r} cannot be started: {reason}; give the program as you start it, such as: "
                "onnxprune record -- python app.py"
            ) from error
        started(child)
        code = child.wait()
    return SIGNALLED - code if code < 0 else code


def environment(draft: Draft) -> dict[str, str]:
    """Return the environment in which interpreters record."""
    limits = draft.limits
    settings = {"folder": str(draft.pool), "samples": limits.samples, "size": limits.size}
    settings |= {"seed": limits.seed, "outputs": limits.outputs}
    paths = [str(START), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), VARIABLE: json.dumps(settings)}


@contextmanager
def _forwarded() -> Iterator[Callable[[subprocess.Popen[bytes]], None]]:
    """Hand signals on to the program, which decides what they mean; what was recorded is written all the same.

    Yields a function that is told the program once it runs; what came before reaches it then.
    """
    children: list[subprocess.Popen[bytes]] = []
    early: list[int] = []

    def forward(number: int, _: object = None) -> None:
        if not children:
            early.append(number)
        elif number != signal.SIGINT or not _in_foreground():
            with suppress(OSError):
                children[0].send_signal(number)

    def started(child: subprocess.Popen[bytes]) -> None:
        children.append(child)
        for number in early:
            child.send_signal(number)

    if threading.current_thread() is not threading.main_thread():
        yield started
        return

    numbers = [getattr(signal, name) for name in FORWARDED if hasattr(signal, name)]
    before = {number: signal.signal(number, forward) for number in numbers}
    try:
        yield started
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _in_foreground() -> bool:
    """Whether Ctrl-C in the terminal reaches the program by itself."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except (OSError, AttributeError):
        return False
    finally:
        os.close(terminal)
