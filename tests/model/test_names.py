"""Names: what the tool makes up never collides with what is in the file, and an exact name is no pattern."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto
from support.networks import feeds, network
from support.oracles import analysed, assert_sound, halves, run, same

import onnxprune
from onnxprune.allocate import select
from onnxprune.grad import losses
from onnxprune.grad.builder import backward

NET = (
    "w1 = %8x3x1x1; a = Conv(x, w1); b = Relu(a); w2 = %8x8x1x1; c = Conv(b, w2); d = Add(b, c); y = Conv(d, %5x8x1x1)"
)
SUMS = "w1 = %8x3x1x1; a = Conv(x, w1); m = ReduceMean<axes = [1], keepdims = 1>(a); d = Sub(a, m); b = Relu(d); c = Exp(b); y = Conv(c, %5x8x1x1)"
TAKEN = ("silence", "silence_1", "silence_2", "a_sliced", "a_spread", "branch_0", "branch_0_scaled", "b_wide")
TAKEN += ("evidence_0_x", "evidence_0_mean_axes", "b:tap", "grad/Conv_0", "loss", "w1:grad", "recover:y", "x:float32")


CHUNKS = [TAKEN[i : i + 4] for i in range(0, len(TAKEN), 4)]


def called(model: ModelProto, names: dict[str, str]) -> ModelProto:
    """Return the model with some of its inner values renamed."""
    result = ModelProto()
    result.CopyFrom(model)
    for node in result.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    return result


@pytest.mark.parametrize("names", CHUNKS)
@pytest.mark.parametrize("text", [NET, SUMS])
def test_a_cut_and_its_reference_avoid_the_names_of_the_file(text: str, names: tuple[str, ...]) -> None:
    analysis = analysed(called(network(text, opset=17), dict(zip("dbca", names, strict=False))), allow=["statistics"])
    assert_sound(analysis, halves(analysis))


@pytest.mark.parametrize("names", CHUNKS)
def test_every_copy_that_is_run_avoids_the_names_of_the_file(names: tuple[str, ...]) -> None:
    """Probes of activations, taps and gradients, switches of branches, ablations and recovery."""
    data = np.random.default_rng(0).standard_normal((4, 3, 4, 4)).astype(np.float32)
    plain = network(NET, "float[n,3,4,4] x", "float[n,5,4,4] y")
    hostile = called(plain, dict(zip("dbca", names, strict=False)))
    runs = ({"criterion": "activation-variance"}, {"criterion": "group-fisher"}, {"granularity": ("block",)})
    for settings in ({"criterion": "taylor", "recover": 1}, {"criterion": "kl"}, *runs):
        made = [onnxprune.prune(m, calibration=data, latency=False, **settings) for m in (plain, hostile)]
        assert [g.kept for g in made[0].plan.groups] == [g.kept for g in made[1].plan.groups]


@pytest.mark.parametrize("old", ["d", "y", "w1"])
def test_gradients_of_a_model_with_a_value_called_loss(old: str) -> None:
    plain = network(NET)
    other = called(plain, {old: "loss"})
    for items in (other.graph.output, other.graph.initializer):
        for item in items:
            item.name = "loss" if item.name == old else item.name
    want, have = (backward(m, ["x"], losses.total()) for m in (plain, other))
    onnx.checker.check_model(have)
    inputs = feeds(plain)
    same(run(want, inputs), run(have, inputs))


def test_an_exact_name_comes_before_a_pattern() -> None:
    model = network(NET)
    for number, node in enumerate(model.graph.node):
        node.name = ("enc[0].conv", "enc[0].relu", "enc0.conv", "op:Add", "head*")[number]
    analysis = analysed(model)
    assert select(analysis, "enc[0].conv", "--exclude") == select(analysis, "w1", "--exclude") == {0}
    assert select(analysis, "enc[0].*", "--exclude") == select(analysis, "enc0.conv", "--exclude")
    assert select(analysis, "op:Add", "--exclude") == {0}
    assert select(analysis, "head*", "--exclude") == set()
