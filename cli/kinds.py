"""What kind of file a path leads to, as far as its name and first bytes say, and what kind every argument and option takes."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

DATA = (".npz", ".npy", ".wav", ".txt", ".pb", ".png", ".jpg", ".jpeg")
CHECKPOINTS = (".safetensors", ".pt", ".pth", ".ckpt")
SEEN = 128
"""Bytes of a file by which its kind is told."""


class FilePlace(NamedTuple):
    """What an argument or option takes, what its files are called, and where one comes from; files of other kinds are refused."""

    kind: str
    what: str
    way: str
    refused: tuple[str, ...]


MODEL, PLAN, REPORT, ROWS, CHECKPOINT = "a model", "a plan", "a report", "data", "a checkpoint"
MODELS = FilePlace(MODEL, MODEL, "give the .onnx file", (PLAN, REPORT, ROWS, CHECKPOINT))
SOURCES = FilePlace(
    ROWS, ROWS, "give arrays (.npz), a folder of files, or what 'onnxprune record' keeps", (MODEL, PLAN, REPORT, CHECKPOINT)
)  # fmt: skip
REPORTS = FilePlace(REPORT, REPORT, "write one with --json", (MODEL, PLAN, ROWS, CHECKPOINT))
PLACES: Mapping[str, FilePlace] = {
    **dict.fromkeys(("model", "other", "before", "after", "rewind"), MODELS),
    **dict.fromkeys(("calib", "calibration", "evaluation", "data"), SOURCES),
    **dict.fromkeys(("baseline", "reports"), REPORTS),
    "plan": FilePlace(
        PLAN, PLAN, "'onnxprune MODEL --plan plan.json --dry-run' writes a plan", (MODEL, REPORT, ROWS, CHECKPOINT)
    ),
    "weights": FilePlace(CHECKPOINT, CHECKPOINT, "give what was trained, as .safetensors", (MODEL, PLAN, REPORT)),
    "stats": FilePlace("statistics", "a file of statistics", "'onnxprune stats' writes one", (MODEL, PLAN, REPORT)),
    "vocabulary": FilePlace("tokens", "a list of tokens", "give .npy, .npz or .txt", (MODEL, PLAN, REPORT)),
    "labels": FilePlace("labels", "labels", "give .npy, .npz or .txt", (MODEL, PLAN, REPORT)),
    "tokenizer": FilePlace("tokenizer", "a tokenizer", "give the model's tokenizer.json", (MODEL, PLAN, REPORT)),
}
"""Name of an argument or option -> what it takes."""

ONNX, JSON = ("onnx",), ("json",)
ENDINGS: Mapping[str, tuple[str, ...]] = {
    **{name: ONNX for name, place in PLACES.items() if place is MODELS},
    **{name: ("npz", "npy", "wav", "txt", "py") for name, place in PLACES.items() if place is SOURCES},
    **{name: JSON for name, place in PLACES.items() if place is REPORTS},
    **dict.fromkeys(("plan", "plan_path", "tokenizer", "json", "model_explorer", "model_explorer_macs"), JSON),
    **dict.fromkeys(("stats", "statistics", "masks", "masks_path"), ("npz",)),
    **dict.fromkeys(("labels", "vocabulary"), ("npz", "npy", "txt")),
    **dict.fromkeys(("cache", "folder"), ()),
    "out": ONNX,
    "output": ("onnx", "safetensors"),
    "weights": ("safetensors",),
    "parts": ("onnx", "npz"),
    "config": ("toml",),
    "markdown": ("md",),
    "junit": ("xml",),
    "html": ("html",),
}
"""Name of an argument or option -> what its files are called, as shells complete them (beside folders); none: folders alone."""


def kind_of_path(path: str) -> str:
    """Return what kind a file is, one that is not there by its name; "" where neither says."""
    head = first_bytes(path)
    if head.lstrip().startswith(b"{"):
        return REPORT if b'"tool"' in head or b'"command"' in head else PLAN if b'"model_sha256"' in head else ""
    suffix = Path(path).suffix.lower()
    if is_checkpoint(path) or suffix in CHECKPOINTS:
        return CHECKPOINT
    return "" if Path(path).is_dir() else MODEL if suffix == ".onnx" else ROWS if is_data(path) else ""


def may_be_plan(path: str) -> bool:
    """Whether a file begins like a JSON object and is no report; no model begins with a brace."""
    return first_bytes(path).lstrip().startswith(b"{") and kind_of_path(path) != REPORT


def is_data(path: str) -> bool:
    """Whether a file is called like data."""
    return Path(path).suffix.lower() in DATA


def is_checkpoint(path: str) -> bool:
    """Whether a file begins like one of safetensors: the length of its header, and a JSON object."""
    head = first_bytes(path)
    return Path(path).suffix == ".safetensors" or (head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 40)


def first_bytes(path: str) -> bytes:
    """Return how a file begins; nothing where there is none."""
    try:
        with open(path, "rb") if Path(path).is_file() else BytesIO() as stream:
            return stream.read(SEEN)
    except OSError:
        return b""
