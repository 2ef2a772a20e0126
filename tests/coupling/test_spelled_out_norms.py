"""A layer norm that a file spells out is cut as the one in a single operator is: silent positions count in its variance.

``w`` writes eight positions, through Tanh, so that their mean cannot be taken out of it; ``v`` reads them.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper
from support.networks import feeds, network
from support.oracles import run

import onnxprune

FRAME = "w = %6x8; p = MatMul(x, w); t = Tanh(p); {}; v = %8x5; y = MatMul(h, v)"
MEAN = "m = ReduceMean(t, @[-1]); "
NORM = "e = Add(s, @1e-5); r = Sqrt(e); q = Div(d, r); g = %8; b = %8; n = Mul(q, g); h = Add(n, b)"
SPELLINGS = {
    "Pow": f"{MEAN}d = Sub(t, m); z = Pow(d, @2.); s = ReduceMean(z, @[-1]); {NORM}",
    "Mul": f"{MEAN}d = Sub(t, m); z = Mul(d, d); s = ReduceMean(z, @[2]); {NORM}",
    "the mean first": f"{MEAN}d0 = Sub(m, t); z = Mul(d0, d0); s = ReduceMean(z, @[-1]); d = Neg(d0); {NORM}",
    "no operand of its own": f"{MEAN}d = Sub(t, m); z = Pow(d, @2); s = ReduceMean(z, @[-1]); {NORM}",
    "in one operator": "g = %8; b = %8; h = LayerNormalization(t, g, b)",
    "a deviation alone": f"{MEAN}c = Sub(t, m); z = Mul(c, c); s = ReduceMean(z, @[-1]); d = Identity(t); {NORM}",
}


def model(text: str) -> ModelProto:
    return network(FRAME.format(text), "float[2,3,6] x")


def by_hand(original: ModelProto, plan: onnxprune.Plan) -> ModelProto:
    """Return the original in which what writes, shifts, scales and reads the positions that go is zero."""
    copy = onnx.ModelProto.FromString(original.SerializeToString())
    for tensor in copy.graph.initializer:
        for axis, kept in plan.kept.get(tensor.name, {}).items():
            content = numpy_helper.to_array(tensor).copy()
            content.swapaxes(0, axis)[np.setdiff1d(np.arange(8), kept)] = 0
            tensor.CopyFrom(numpy_helper.from_array(content, tensor.name))
    return copy


@pytest.mark.parametrize("text", SPELLINGS.values(), ids=SPELLINGS)
def test_silent_positions_count_in_a_variance(text: str) -> None:
    original = model(text)
    found = onnxprune.prune(original, ratio=0.5, round_to=1, latency=False)
    assert found.report["surgery"]["exact"] and len(found.plan.kept["w"][1]) == 4
    hand = by_hand(original, found.plan)
    for seed in range(3):
        drawn = feeds(original, seed)
        np.testing.assert_allclose(run(found.model, drawn)["y"], run(hand, drawn)["y"], rtol=1e-4, atol=1e-5)


def test_other_squares_are_left_alone() -> None:
    """Less the mean over something else, the silent positions hold no such square."""
    text = f"m = ReduceMean(t, @[1]); d = Sub(t, m); z = Mul(d, d); s = ReduceMean(z, @[-1]); {NORM}"
    found = onnxprune.prune(model(text), ratio=0.5, round_to=1, latency=False)
    assert found.report["surgery"]["exact"]
