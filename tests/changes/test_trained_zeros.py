"""``--sparsity`` with masks that are trained: straight through the threshold, and by reweighted proximal steps."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper
from support.networks import network

import onnxprune
from onnxprune.errors import DataError
from onnxprune.gating.single import SOFTENED, TRAINED_MASKS, ReweightedProximal

KINDS = sorted(TRAINED_MASKS)
LOUD = np.where(np.arange(16) % 2 == 0, 1.0, 0.02)
ROWS = np.random.default_rng(1).standard_normal((128, 16)) * LOUD
OPTIONS = {"latency": False, "calibration": {"x": ROWS.astype(np.float32)}, "gate_training": 80, "learning_rate": 0.02}


def misleading() -> ModelProto:
    """A classifier of two layers with its larger weights where inputs are 50 times quieter."""
    random = np.random.default_rng(2)
    first = random.standard_normal((16, 16)) * np.where(LOUD == 1, 0.3, 1.0)[:, None]
    return network(
        f"w1 = @{first.tolist()}\nw2 = @{random.standard_normal((16, 4)).tolist()}\np = MatMul(x, w1)\nh = Relu(p)\ny = MatMul(h, w2)",
        "float[n,16] x", "float[n,4] y",
    )  # fmt: skip


def lost(found: onnxprune.Result) -> float:
    return float(next(iter(found.report["drift"]["outputs"].values()))["kl"])


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("name", KINDS)
def test_trained_masks_see_what_sizes_do_not(name: str, scope: str) -> None:
    options = OPTIONS | {"sparsity": "0.6", "scope": scope, "repair": "none"}
    found, sizes = (onnxprune.prune(misleading(), criterion=one, **options) for one in (name, "l1"))
    assert lost(found) < 0.7 * lost(sizes)
    masks = list(found.masks.values())
    assert sum(int((~mask).sum()) for mask in masks) == pytest.approx(0.6 * sum(mask.size for mask in masks), abs=2)
    again = onnxprune.prune(misleading(), criterion=name, **options)
    assert again.model.SerializeToString() == found.model.SerializeToString()


@pytest.mark.parametrize("name", KINDS)
def test_patterns_hold_what_is_left_is_refitted_and_plans_are_replayed(name: str) -> None:
    options = OPTIONS | {"sparsity": "2:4", "permute": False, "criterion": name}
    found, plain = (onnxprune.prune(misleading(), **options, repair=repair) for repair in ("auto", "none"))
    for tensor in plain.model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if tensor.name in plain.masks:
            assert ((array.T.reshape(-1, 4) != 0).sum(axis=1) <= 2).all()
            assert (plain.masks[tensor.name].T.reshape(-1, 4).sum(axis=1) == 2).all()
    assert lost(found) < lost(plain)
    again = onnxprune.apply(found.plan, misleading(), calibration=OPTIONS["calibration"], latency=False)
    assert again.model.SerializeToString() == found.model.SerializeToString()


def test_masks_take_data() -> None:
    with pytest.raises(DataError, match="looks at data"):
        onnxprune.prune(misleading(), sparsity="0.5", criterion="straight-through", latency=False)


def test_one_proximal_step_by_hand() -> None:
    """The penalty is as large as makes the budget's weights zero, and shrinks the others the less the larger they are."""
    training = object.__new__(ReweightedProximal)
    weight = np.array([2.0, -1.0, 0.5, 0.1])
    training.parameters, training.sizes = {"w": weight}, {"w": 1.0}
    training.optimiser = type("Still", (), {"update": lambda self, gradients, rate: None})()
    training.left = lambda scores, way: {name: array >= 1 for name, array in scores.items()}
    training._masks = lambda: training.left(training.scores, 1.0)
    training.update({"w": np.zeros(4)}, 1.0)
    penalty = 0.5 * (0.5 + SOFTENED)
    np.testing.assert_allclose(weight, [2 - penalty / (2 + SOFTENED), -(1 - penalty / (1 + SOFTENED)), 0, 0])
