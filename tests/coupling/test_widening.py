"""Streams that are outputs: read through a matrix while they are cut, and left alone while they are not."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper
from support.networks import feeds, network
from support.oracles import run, same

import onnxprune
from onnxprune.allocate import Costs
from onnxprune.changes.analysing import analyse_model
from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.prepare import restore
from onnxprune.coupling.streams.widening import outlets
from onnxprune.model.read import load
from onnxprune.settings import Settings

X = "float[2,4,6] x"
BODY = "w1{0} = %{2}x24; f{0} = MatMul({1}, w1{0}); g{0} = Relu(f{0}); w2{0} = %24x{2}; h{0} = MatMul(g{0}, w2{0}); "
NORM = "{0}g = %8; {0}b = %8; {0}n = LayerNormalization({1}, {0}g, {0}b); "
START = "w0 = %6x8; s0 = MatMul(x, w0); "


def encoder(end: str, blocks: int = 2, norm: str = NORM) -> ModelProto:
    """Return a network of pre-norm branches whose stream ``s`` ends as ``end`` says."""
    text = START
    for n in range(blocks):
        text += norm.format(f"a{n}", f"s{n}") + BODY.format(n, f"a{n}n", 8) + f"s{n + 1} = Add(s{n}, h{n}); "
    return network(text + end.format(s=f"s{blocks}"), X, opset=18)


def analysed(proto: ModelProto) -> Analysis:
    return analyse_model(load(proto), Settings())


ENDS = {
    "a norm of the stream": NORM.format("z", "{s}") + "y = Identity(zn)",
    "the stream itself": "y = Identity({s})",
    "one token of the norm": NORM.format("z", "{s}") + "y = Gather <axis = 1> (zn, @0)",
    "channels first": NORM.format("z", "{s}") + "y = Transpose <perm = [0, 2, 1]> (zn)",
    "of length one": "m = ReduceMean <keepdims = 0> ({s}, @[1]); y = LpNormalization <axis = -1> (m)",
    "of length one, by parts": (
        "m = ReduceMean <keepdims = 0> ({s}, @[1]); q = ReduceL2(m, @[-1]); c = Clip(q, @0.000001); y = Div(m, c)"
    ),
    "norm and stream": NORM.format("z", "{s}") + "y = Identity(zn); y2 = Identity({s})",
}


@pytest.mark.parametrize("end", ENDS, ids=str)
def test_a_stream_that_is_an_output_is_cut(end: str) -> None:
    """All of it is free, and half of it goes exactly."""
    proto = encoder(ENDS[end])
    analysis = analysed(proto)
    assert Costs(analysis).prunable()["macs"] == 1
    result = onnxprune.prune(proto, ratio=0.5, round_to=1, latency=False)
    before, after = result.report["before"], result.report["after"]
    assert before["macs"] == 2 * 4 * (6 * 8 + 4 * 8 * 24)
    assert after["parameters"] < before["parameters"]
    assert result.report["surgery"]["exact"]
    assert {row["status"] for row in result.report["widened"]} == {"widened"}
    assert any("nothing tells the others" in text for text in result.report["warnings"])
    found = run(result.model, feeds(proto))
    assert {n: a.shape for n, a in found.items()} == {n: a.shape for n, a in run(proto, feeds(proto)).items()}


@pytest.mark.parametrize("end", ENDS, ids=str)
def test_a_matrix_that_does_nothing_is_taken_out_again(end: str) -> None:
    """Where the stream stays whole, the file is the original's, to its names."""
    model = analysed(proto := encoder(ENDS[end])).facts.model
    assert model.widened
    left = restore(model, model)
    assert left.proto.graph.node == proto.graph.node
    assert {t.name for t in left.proto.graph.initializer} == {t.name for t in proto.graph.initializer}
    result = onnxprune.prune(proto, ratio=0.5, round_to=1, latency=False, include=["w1*"])
    assert {row["status"] for row in result.report["widened"]} == {"kept"}
    assert [n.op_type for n in result.model.graph.node] == [n.op_type for n in proto.graph.node]


KEPT = {
    "a head without a norm": (encoder(NORM.format("z", "{s}") + "wy = %8x5; y = MatMul(zn, wy)"), False),
    "a matrix would cost as much as it frees": (encoder(NORM.format("z", "{s}") + "y = Identity(zn)", blocks=0), False),
    "other layers hold it too": (encoder("k = Softmax <axis = -1> ({s}); y = Identity({s}); y2 = Identity(k)"), False),
}


@pytest.mark.parametrize("case", KEPT, ids=str)
def test_other_outputs_are_given_out_as_they_are(case: str) -> None:
    proto, wanted = KEPT[case]
    assert bool(analysed(proto).facts.model.widened) == wanted


def test_lengths_stay_one() -> None:
    """What is divided by its length is widened before that, so that dot products are cosines still."""
    proto = encoder(ENDS["of length one, by parts"])
    result = onnxprune.prune(proto, ratio=0.5, round_to=1, latency=False)
    found = run(result.model, feeds(proto))
    np.testing.assert_allclose(np.linalg.norm(found["y"], axis=-1), 1, rtol=1e-5)


def test_the_matrix_is_fitted_to_data() -> None:
    """A stream of rank four of eight loses half of its channels: fitted, the matrix brings most of the output back."""
    rng = np.random.default_rng(3)
    low = rng.normal(size=(4, 8)).astype(np.float32)
    proto = encoder("y = Identity({s})", norm=NORM)
    arrays = {t.name: t for t in proto.graph.initializer}
    for name in ("w0", "w20", "w21"):
        old = numpy_helper.to_array(arrays[name])
        arrays[name].CopyFrom(numpy_helper.from_array((old @ low.T @ low / 8).astype(np.float32), name))
    rows = {"x": rng.normal(size=(64, 4, 6)).astype(np.float32)}
    plain, fitted = (
        onnxprune.prune(proto, ratio=0.5, round_to=1, calibration=rows, latency=False, repair=repair, include=["w0"])
        for repair in ("none", "least-squares")
    )
    seen = {"x": rows["x"][:2]}
    whole = run(proto, seen)["y"]
    lost = [float(((run(result.model, seen)["y"] - whole) ** 2).mean()) for result in (plain, fitted)]
    assert lost[1] < 0.1 * lost[0]
    assert not any("nothing tells the others" in text for text in fitted.report["warnings"])


def test_outlets_are_told_from_the_links() -> None:
    proto = encoder(ENDS["of length one"])
    analysis = analysed(proto)
    assert not outlets(analysis)  # those that were found are read through a matrix now
    assert {one.value for one in analysis.facts.model.widened} == {"m"}
    same(run(analysis.facts.model.proto, feeds(proto)), run(proto, feeds(proto)), 0)
