"""An independent reader: onnx-graphsurgeon takes a pruned file, cleans and sorts it, and what it writes computes the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

import onnxprune
from onnxprune.model.runtime import session

MODELS = Path(__file__).parents[1] / "models"


@pytest.mark.parametrize("name", ["digits_cnn", "digits_transformer"])
def test_a_pruned_file_survives_another_editor(name: str) -> None:
    pruned = onnxprune.prune(MODELS / f"{name}.onnx", ratio=0.5, latency=False).model
    graph = gs.import_onnx(pruned)
    rewritten = gs.export_onnx(graph.cleanup().toposort())
    onnx.checker.check_model(rewritten, full_check=True)
    image = np.load(MODELS / "digits_calib.npz")["image"][:5]
    first, second = (session(model).run({"image": image})["logits"] for model in (pruned, rewritten))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", ["digits_cnn", "digits_transformer"])
def test_it_sees_the_widths_of_the_plan(name: str) -> None:
    result = onnxprune.prune(MODELS / f"{name}.onnx", ratio=0.5, latency=False)
    tensors = gs.import_onnx(result.model).tensors()
    for tensor, axes in result.plan.kept.items():
        for axis, positions in axes.items():
            assert tensors[tensor].shape[int(axis)] == len(positions)
