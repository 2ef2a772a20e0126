"""Streams of layer norms: what the cut writes with other constants, or with weights rid of their mean, is said or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper
from support.checkpoints import write_state
from support.networks import network

import onnxprune
from onnxprune.api import slice_checkpoint
from onnxprune.errors import PlanError

BODY = (
    "e = %5x16\nb = %16\nu = %16x24\nd = %24x16\nh = %16x4\ns = %+16\nt = %16\np = MatMul(x, e)\nq = Add(p, b)\n"
    "n = LayerNormalization(q, s, t)\nm = MatMul(n, u)\nr = Relu(m)\nw = MatMul(r, d)\nz = Add(q, w)\n"
    "o = LayerNormalization(z, s, t)\ny = MatMul(o, h)"
)


def model() -> Any:
    return network(BODY, "float[n,3,5] x", "float[n,3,4] y", opset=17)


def told(folder: Path, **settings: Any) -> dict[str, Any]:
    result = onnxprune.prune(model(), ratio=0.5, round_to=1, repair="none", latency=False, **settings)
    state = {t.name: numpy_helper.to_array(t) for t in model().graph.initializer}
    weights = write_state(folder / "w.safetensors", state)
    return slice_checkpoint(result.plan, model(), weights, folder / "small.safetensors")


def test_a_stream_rid_of_its_mean_is_refused_with_what_to_leave_whole(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"changes what stays of e, b, d.*--exclude 'e'"):
        told(tmp_path)
    assert told(tmp_path, exclude=["e"])["warnings"] == []


def test_norms_that_were_written_with_constants_are_said(tmp_path: Path) -> None:
    report = told(tmp_path, schedule="linear:2")
    assert "norms over fewer channels" in report["warnings"][0]


def test_a_rotated_stream_is_refused(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((40, 3, 5)).astype(np.float32)
    with pytest.raises(PlanError, match="no slice of a checkpoint"):
        told(tmp_path, rotate=True, calibration=rows)


def test_the_width_between_two_norms_is_sliced_without_a_word(tmp_path: Path) -> None:
    report = told(tmp_path, include=["u"])
    assert report["warnings"] == []
    assert {row["name"]: row["shape_after"] for row in report["sliced"] if row["status"] == "sliced"} == {
        "u": [16, 12],
        "d": [12, 16],
    }
