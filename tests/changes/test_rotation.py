"""``--rotate``: what a stream does not use goes without loss; plans repeat it; what cannot be turned is cut as it is."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper
from support.networks import network
from support.oracles import run, same

import onnxprune
from onnxprune.coupling.streams.residual import mean_free
from onnxprune.errors import PlanError, UsageError

LAYER = "{0}g = %+16; {0}b = %16; {0}n = LayerNormalization({1}, {0}g, {0}b); "
BODY = "w0 = %5x16; x0 = MatMul(x, w0); {}w2 = %16x16; h = MatMul(an, w2); e = Add(x0, h); {}wy = %16x3; y = MatMul(zn, wy)".format(
    LAYER.format("a", "x0"), LAYER.format("z", "e")
)
X = "float[N,4,5] x"


def narrow_stream(directions: int = 6) -> ModelProto:
    """Return a network whose stream of 16 channels stays within so many directions, none of which is a channel's."""
    model = network(BODY, X, "float[N,4,3] y", opset=18)
    draw = np.random.default_rng(5)
    basis, _ = np.linalg.qr(draw.standard_normal((16, directions)))
    for tensor in model.graph.initializer:
        if tensor.name in ("w0", "w2"):
            inside = numpy_helper.to_array(tensor) @ basis @ basis.T
            tensor.CopyFrom(numpy_helper.from_array(inside.astype(np.float32), tensor.name))
    return model


ROWS = {"x": np.random.default_rng(1).standard_normal((64, 4, 5)).astype(np.float32)}
HALF = {"round_to": 1, "latency": False, "repair": "none", "criterion": "wanda"}


def test_unused_directions_go_without_loss() -> None:
    """A mean takes one direction more; without a rotation the same width costs dearly."""
    model = narrow_stream()
    inputs = {"x": ROWS["x"][:8]}
    found = onnxprune.prune(model, calibration=ROWS, rotate=True, ratio=0.5, **HALF)
    assert [row["kind"] for row in found.report["steps"]] == ["rotate", "units"]
    assert found.report["streams"][0]["status"] == "rotated" and found.report["surgery"]["proven"]
    kept = {group.name: len(group.kept) for group in found.plan.groups}
    assert kept["w0"] == 8
    same(run(model, inputs), run(found.model, inputs), 1e-4)
    plain = onnxprune.prune(model, calibration=ROWS, ratio=0.5, **HALF)
    with pytest.raises(AssertionError):
        same(run(model, inputs), run(plain.model, inputs), 1e-2)


def test_a_plan_repeats_a_rotation() -> None:
    model = narrow_stream()
    found = onnxprune.prune(model, calibration=ROWS, rotate=True, ratio=0.5, **HALF)
    again = onnxprune.apply(found.plan, model, calibration=ROWS, latency=False, repair="none")
    assert again.model == found.model
    with pytest.raises(PlanError, match="give the calibration data"):
        onnxprune.apply(found.plan, model, latency=False)
    blind = onnxprune.prune(model, rotate=True, ratio=0.5, **(HALF | {"criterion": "l2"}))
    assert onnxprune.apply(blind.plan, model, latency=False).model == blind.model
    with pytest.raises(PlanError, match="leave calibration data out"):
        onnxprune.apply(blind.plan, model, calibration=ROWS, latency=False)


def test_where_nothing_can_be_turned_the_run_goes_on_and_says_so() -> None:
    model = network("p = Conv(x, %8x3x1x1); r = Relu(p); y = Conv(r, %4x8x1x1)")
    found = onnxprune.prune(model, rotate=True, ratio=0.5, round_to=1, latency=False)
    assert any("can be rotated" in text for text in found.report["warnings"])
    assert [len(group.kept) for group in found.plan.groups] == [4]


def test_kinds_share_what_is_saved_after_a_rotation() -> None:
    """A rotation saves nothing, so that it has no share."""
    found = onnxprune.prune(
        narrow_stream(),
        calibration=ROWS,
        rotate=True,
        granularity=("heads", "eigen"),
        target="macs=70%",
        round_to=1,
        latency=False,
    )
    assert found.report["steps"][0]["kind"] == "rotate"
    assert all(set(row["shares"]) == {"heads", "eigen"} for row in found.report["shares"])


def test_a_mean_that_is_left_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layer norms would hide it: what is compared with the original has no layer norm left."""

    def half_done(array: np.ndarray, axis: int) -> np.ndarray:
        return array if array.shape == (16, 16) else mean_free(array, axis)

    monkeypatch.setattr("onnxprune.coupling.streams.centring.mean_free", half_done)
    found = onnxprune.prune(network(BODY, X, "float[N,4,3] y", opset=18), ratio=0.5, round_to=1, latency=False)
    assert not found.report["centred"]["exact"] and found.report["surgery"]["proven"]
    assert "Sub" in {node.op_type for node in found.model.graph.node}, "its norms are spelled out"


def test_a_rotation_that_is_not_exact_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxprune.changes.rotation.space.random_basis", lambda width, seed: 1.1 * np.eye(width))
    model = network(BODY, X, "float[N,4,3] y", opset=18)
    found = onnxprune.prune(model, rotate=True, ratio=0.5, round_to=1, latency=False)
    assert found.report["streams"][0]["status"] == "frozen"
    assert any("whose rotation is not exact" in text for text in found.report["warnings"])
    plain = onnxprune.prune(model, ratio=0.5, round_to=1, latency=False)
    assert [group.kept for group in found.plan.groups] == [group.kept for group in plain.plan.groups]


@pytest.mark.parametrize("other", [{"lossless": True}, {"recover": 3, "recover_loss": "blocks"}])
def test_what_does_not_go_with_a_rotation_is_refused(other: dict) -> None:
    with pytest.raises(UsageError, match="rotate"):
        onnxprune.prune(narrow_stream(), calibration=ROWS, rotate=True, **other)
