"""Labels carried through layout by signatures stand where the operators put what they are labels of."""

from __future__ import annotations

import numpy as np
import pytest
from support.networks import network
from support.oracles import run

from onnxprune.coupling.heads.following import traced
from onnxprune.coupling.links import build_links
from onnxprune.model.facts import gather_facts
from onnxprune.model.graph import Graph
from onnxprune.model.read import load

STEPS = {
    "reshape": "r = Reshape(v, @[2, 3, 4, 3])",
    "back": "s = Reshape(v, @[2, 3, 4, 3]); r = Reshape(s, @[6, 12])",
    "transpose": "s = Reshape(v, @[2, 3, 4, 3]); r = Transpose<perm = [2, 0, 3, 1]>(s)",
    "slice": "r = Slice(v, @[2], @[9], @[2])",
    "slice of tokens": "r = Slice(v, @[1], @[3], @[1])",
    "split": "r, t = Split<axis = 2, num_outputs = 2>(v)",
    "second part": "t, r = Split<axis = 2, num_outputs = 2>(v)",
    "gather one": "s = Reshape(v, @[2, 3, 4, 3]); r = Gather<axis = 2>(s, @2)",
    "gather some": "r = Gather<axis = 2>(v, @[5, 0, 7])",
    "join": "s, t = Split<axis = 2, num_outputs = 2>(v); r = Concat<axis = 2>(t, s)",
    "pad": "r = Pad(v, @[0, 0, 1, 0, 0, 2])",
    "repeat": "s = Unsqueeze(v, @[2]); t = Expand(s, @[1, 1, 2, 1]); r = Reshape(t, @[2, 3, 24])",
    "tile": "r = Tile(v, @[1, 1, 2])",
    "heads into the batch": "s = Reshape(v, @[2, 3, 4, 3]); t = Transpose<perm = [0, 2, 1, 3]>(s); r = Reshape(t, @[8, 3, 3])",
}


@pytest.mark.parametrize("name", STEPS)
def test_labels_stand_where_the_operators_put_them(name: str) -> None:
    written = network(f"w = %5x12; v = MatMul(x, w); {STEPS[name]}; o = Relu(r)", "float[2,3,5] x", "float[] o")
    moved = network(f"{STEPS[name]}; o = Identity(r)", "float[2,3,12] v", "float[] o")
    loaded = load(written)
    trace = traced(build_links(gather_facts(loaded, Graph(loaded.structure))))
    (start,), (found,) = trace.labels["v"], trace.labels["r"]
    numbers = np.broadcast_to(start + 1.0, (2, 3, 12)).astype(np.float32)
    (there,) = run(moved, {"v": numbers}).values()
    np.testing.assert_array_equal(np.broadcast_to(found, there.shape), there.astype(int) - 1)
    assert trace.barred, "nobody follows it behind the Relu"


def test_tokens_that_are_joined_are_turned_alike() -> None:
    text = "w = %5x4; v = MatMul(x, w); u = %5x4; k = MatMul(x, u); j = Concat<axis = 1>(v, k); y = Relu(j)"
    loaded = load(network(text, "float[2,3,5] x", "float[2,6,4] y"))
    trace = traced(build_links(gather_facts(loaded, Graph(loaded.structure))))
    (one,), (two,), (both,) = (trace.labels[name] for name in "vkj")
    assert both.shape == (1, 1, 4)
    linked = {
        pair
        for own in trace.pairs
        if not own.inverse
        for pair in zip(own.left.tolist(), own.right.tolist(), strict=True)
    }
    assert set(zip(one.reshape(-1).tolist(), two.reshape(-1).tolist(), strict=True)) <= linked
