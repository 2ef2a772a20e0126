"""Reports as files: one renderer per kind of document, imported on first use."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from onnxprune.errors import UsageError

RENDERERS = {
    "json": ("onnxprune.report.entries", "dumps"),
    "markdown": ("onnxprune.report.documents.markdown", "render"),
    "junit": ("onnxprune.report.documents.junit", "render"),
    "html": ("onnxprune.report.documents.page", "render"),
    "model_explorer": ("onnxprune.report.documents.explorer", "render"),
    "model_explorer_macs": ("onnxprune.report.documents.explorer", "render_macs"),
}
EXTRAS = {"html": ("jinja2",)}


def require(kind: str) -> None:
    """Refuse a kind of document whose optional packages are missing, before any work; raises UsageError."""
    missing = [package for package in EXTRAS.get(kind, ()) if find_spec(package) is None]
    if missing:
        raise UsageError(f"--{kind} needs {' and '.join(missing)}; pip install 'onnxprune[report]'")


def render(kind: str, report: Mapping[str, Any]) -> str:
    """Return a report as one kind of document: a name of ``RENDERERS``."""
    module, function = RENDERERS[kind]
    return getattr(import_module(module), function)(report)
