"""A headless Chromium that tests talk to over a pipe, in the DevTools protocol: messages of JSON that end with a zero byte."""

from __future__ import annotations

import fcntl
import io
import json
import os
import select
import shutil
import subprocess
from base64 import b64decode
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip
PATIENCE = 60  # seconds for an answer
HIGH = 64  # file descriptors from here on are in nobody's way; Chromium reads 3 and writes 4


class Browser:
    """One tab; ``events`` is everything that happened in it: (method, parameters)."""

    def __init__(self, profile: Path):
        theirs_in, self._write = os.pipe()
        self._read, theirs_out = os.pipe()
        passed = [fcntl.fcntl(end, fcntl.F_DUPFD, HIGH) for end in (theirs_in, theirs_out)]
        script = f'exec "$@" 3<&{passed[0]} 4>&{passed[1]}'
        command = ["bash", "-c", script, "bash", CHROMIUM or "", *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(command, pass_fds=passed, stderr=subprocess.DEVNULL)
        for end in (theirs_in, theirs_out, *passed):
            os.close(end)
        self._pending, self._number, self._session = b"", 0, ""
        self.events: list[tuple[str, dict[str, Any]]] = []
        tab = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        found = self.call("Target.attachToTarget", targetId=tab["targetId"], flatten=True)
        self._session = found["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.terminate()
        self._process.wait(timeout=30)
        os.close(self._write)
        os.close(self._read)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Return the result of a command; raises RuntimeError with the browser's reason."""
        self._number += 1
        session = {"sessionId": self._session} if self._session else {}
        message = {"id": self._number, "method": method, "params": parameters} | session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._message()).get("id") != self._number:
            self.events.append((answer["method"], answer.get("params", {})))
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._pending:
            ready, _, _ = select.select([self._read], [], [], PATIENCE)
            part = os.read(self._read, 1 << 16) if ready else b""
            if not part:
                raise RuntimeError("the browser has ended, or hangs")
            self._pending += part
        line, _, self._pending = self._pending.partition(b"\0")
        return json.loads(line)

    def wait(self, event: str) -> None:
        """Return when an event has happened since ``events`` was last emptied."""
        while all(method != event for method, _ in self.events):
            answer = self._message()
            self.events.append((answer["method"], answer.get("params", {})))

    def open(self, page: Path, width: int, scheme: str) -> None:
        """Load a file at a width in CSS pixels, in the light or the dark scheme, scripts of the page switched off."""
        self.events.clear()
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Emulation.setScriptExecutionDisabled", value=True)
        self.call("Page.navigate", url=page.as_uri())
        self.wait("Page.loadEventFired")

    def value(self, expression: str) -> Any:
        """Return what a JavaScript expression of ours is worth in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def picture(self, whole: bool = False) -> np.ndarray:
        """Return what is in sight, or the whole page, as uint8[height, width, 3]."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        return np.asarray(Image.open(io.BytesIO(b64decode(data))).convert("RGB"))
