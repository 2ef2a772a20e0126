"""The nine architectures of the onnx wheel, pruned by half: exact, loadable at every level, prunable throughout."""

from __future__ import annotations

import onnx
import pytest
from onnx import ModelProto
from support import light
from support.oracles import LEVELS

import onnxprune

SMALL = (
    "densenet121",
    "inception_v1",
    "shufflenet",
    "squeezenet",
)  # filled in here; all nine in benchmarks/light_models.py


def prune_by_half(model: ModelProto | str) -> onnxprune.Result:
    result = onnxprune.prune(model, ratio=0.5, round_to=1, allow_lossy=True, latency=False)
    report = result.report
    assert report["surgery"]["proven"]
    assert not report["surgery"]["frozen_by_check"]
    assert report["prunable"]["macs"] >= 0.95
    assert report["after"]["macs"] < 0.6 * report["before"]["macs"]
    return result


def assert_loads_everywhere(model: ModelProto) -> None:
    import onnxruntime as ort

    content = model.SerializeToString()
    for level in LEVELS:
        options = ort.SessionOptions()
        options.graph_optimization_level = level
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", light.NAMES)
def test_as_shipped(name: str) -> None:
    """Weights are made by ConstantOfShape nodes, whose shape operands are rewritten."""
    original = onnx.load(light.light_path(name))
    small = prune_by_half(original).model
    assert list(small.graph.output) == list(original.graph.output)
    assert small.ir_version == original.ir_version == 3
    assert_loads_everywhere(small)


@pytest.mark.parametrize("name", SMALL)
def test_with_random_weights(name: str) -> None:
    original = light.filled(name)
    small = prune_by_half(original).model
    assert list(small.graph.output) == list(original.graph.output)
    assert_loads_everywhere(small)
