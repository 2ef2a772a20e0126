"""Memory: weights to the byte, activations by hand and by law, a fresh process for the rest."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from onnx import TensorProto, numpy_helper
from support.networks import network

from onnxprune.api import bench
from onnxprune.cli import main
from onnxprune.errors import ModelError, UsageError
from onnxprune.means import Means
from onnxprune.model.batched import owned
from onnxprune.model.facts import Facts, gather_facts
from onnxprune.model.graph import Graph
from onnxprune.model.memory import (
    DEFAULT_LIMIT,
    ONE_RUN,
    peak_activation_bytes,
    peak_rss,
    room,
    rows_at_once,
    tensor_bytes,
    weight_bytes,
)
from onnxprune.model.read import Model, load
from onnxprune.model.runtime import session

CNN = Path(__file__).parents[2] / "models" / "digits_cnn.onnx"


def facts(body: str, inputs: str = "float[2,8] x", outputs: str = "float[] y") -> Facts:
    model = Model.of(network(body, inputs=inputs, outputs=outputs))
    return gather_facts(model, Graph(model.structure))


def test_by_hand() -> None:
    """x is 64 bytes throughout. Relu: a 64. Tile: wide 256 beside a. Then a is gone; ReduceSum gives 8 beside wide."""
    chain = "a = Relu(x)\nwide = Tile(a, @[1, 4])\ny = ReduceSum<keepdims=0>(wide, @[1])"
    assert peak_activation_bytes(facts(chain)) == 64 + 64 + 256
    assert weight_bytes(facts(chain)) == 3 * 8


def test_a_run_takes_as_many_rows_as_its_memory_has_room_for() -> None:
    wide = facts(
        f"a = Tile(x, @[1, {ONE_RUN // 1024}])\ny = ReduceSum<keepdims=0>(a, @[1])", "float[n,8] x", "float[] y"
    )
    small = facts("y = Relu(x)", "float[n,8] x", "float[] y")
    assert rows_at_once(wide, Means()) == 15 and rows_at_once(small, Means()) == 32
    assert rows_at_once(wide, Means(batch=7)) == 7
    assert rows_at_once(wide, Means(memory=DEFAULT_LIMIT // 4)) == 3


def test_what_is_kept_follows_the_memory_that_is_given() -> None:
    given = (None, DEFAULT_LIMIT, DEFAULT_LIMIT // 8, 1)
    assert [room(Means(memory=memory), 1000) for memory in given] == [1000, 1000, 125, 1]


def test_what_is_kept_of_a_run_does_not_hold_its_memory() -> None:
    kept = owned(session(Model.of(network("y = Relu(x)", "float[2,8] x"))).run({"x": np.ones((2, 8), np.float32)})["y"])
    assert kept.base is None and kept.flags.owndata


def test_a_value_that_is_read_again_stays() -> None:
    """In the chain two values live beside x at a time; a skip keeps the first one alive as a third."""
    chain = "a = Relu(x)\nb = Neg(a)\nc = Neg(b)\ny = Neg(c)"
    skip = "a = Relu(x)\nb = Neg(a)\nc = Neg(b)\ny = Add(c, a)"
    assert (peak_activation_bytes(facts(chain)), peak_activation_bytes(facts(skip))) == (3 * 64, 4 * 64)


def test_a_value_that_nobody_reads_is_gone_at_once() -> None:
    assert peak_activation_bytes(facts("a = Relu(x)\nb = Neg(x)\nc = Neg(x)\ny = Neg(x)")) == 2 * 64


def test_bytes_of_element_types() -> None:
    sizes = {TensorProto.FLOAT: 12, TensorProto.FLOAT16: 6, TensorProto.INT64: 24, TensorProto.BOOL: 3}
    sizes |= {TensorProto.INT4: 2, TensorProto.BFLOAT16: 6, TensorProto.STRING: 0}
    assert {kind: tensor_bytes(kind, (3,)) for kind in sizes} == sizes


def test_weights_are_those_of_the_file() -> None:
    model = load(CNN)
    stored = sum(numpy_helper.to_array(tensor).nbytes for tensor in model.proto.graph.initializer)
    constants = [node for node in model.proto.graph.node if node.op_type == "Constant"]
    extra = sum(numpy_helper.to_array(attribute.t).nbytes for node in constants for attribute in node.attribute)
    assert weight_bytes(gather_facts(model, Graph(model.structure))) == stored + extra


def test_a_fresh_process_holds_more_with_a_model_than_without() -> None:
    found = peak_rss(load(CNN), _feeds())
    assert 0 < found["idle"] < found["peak"]
    with pytest.raises(ModelError, match="in a file"):
        peak_rss(Model.of(load(CNN).proto), {})


def _feeds() -> dict[str, np.ndarray]:
    """One sample for the bundled model, whatever its input is called."""
    value = load(CNN).proto.graph.input[0]
    shape = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
    return {value.name: np.zeros(shape, np.float32)}


def test_bench_reports_memory_and_refuses_unknown_providers() -> None:
    report = bench(CNN, CNN, pairs=2, seconds=0.1)
    assert report["memory"]["before"] == report["memory"]["after"]
    assert report["memory"]["before"]["peak_rss_bytes"] is None
    assert report["latency"]["providers"] == ["CPUExecutionProvider"]
    with pytest.raises(UsageError, match="not available"):
        bench(CNN, providers=["MagicExecutionProvider"])
    done = CliRunner().invoke(main, ["bench", str(CNN), "--providers", "Magic"])
    assert (done.exit_code, "MagicExecutionProvider" in done.stderr) == (2, True)


def test_bench_judges_a_ratio_and_states_the_conditions(tmp_path: Path) -> None:
    """A limit of next to nothing is missed (1), one of a million holds (0); one model has no ratio to judge (2)."""
    arguments = ["bench", str(CNN), str(CNN), "--pairs", "12", "--seconds", "1", "--threads", "1"]
    document = tmp_path / "bench.json"
    for limit, code in (("0.0001", 1), ("1000000", 0)):
        done = CliRunner().invoke(main, [*arguments, "--max-latency-ratio", limit, "--json", str(document)])
        found = json.loads(document.read_text())
        code = code if found["latency"]["ratio"] is not None else 1  # what is too noisy to say meets no limit
        assert done.exit_code == code, done.output
        assert "on CPUExecutionProvider" in done.stdout
        (gate,) = found["gates"]
        assert (gate["name"], gate["passed"]) == ("max_latency_ratio", code == 0)
    alone = CliRunner().invoke(main, ["bench", str(CNN), "--max-latency-ratio", "0.5"])
    assert (alone.exit_code, "give the other one too" in alone.stderr) == (2, True)
