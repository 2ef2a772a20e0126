"""What recovery is taught, and how long and fast: hints, temperature, layers left alone, changed pictures, rates and rows."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto
from scipy.special import log_softmax
from support.networks import network

from onnxprune.data import Dataset, input_specs, open_dataset
from onnxprune.grad import backward
from onnxprune.measure.kinds import outputs_like
from onnxprune.model import read
from onnxprune.model.model import Model
from onnxprune.model.runtime import session
from onnxprune.recover import Recipe, Teaching
from onnxprune.recover.augment import harmless
from onnxprune.recover.hints import hinted
from onnxprune.recover.lessons import WholeModel
from onnxprune.recover.parameters import to_train, trainable, with_parameters

RESIDUAL = """
w1 = %6x3x3x3; b1 = %6; w2 = %6x6x3x3; w3 = %6x6x3x3; w4 = %4x6; b4 = %4
p = Conv<pads=[1,1,1,1]>(x, w1, b1); a = Relu(p)
q = Conv<pads=[1,1,1,1]>(a, w2); r = Relu(q); s = Conv<pads=[1,1,1,1]>(r, w3); t = Add(a, s); c = Relu(t)
g = GlobalAveragePool(c); f = Flatten(g); y = Gemm<transB=1>(f, w4, b4)
"""


def residual() -> Model:
    return read.load(network(RESIDUAL, "float[n,3,6,6] x", "float[n,4] y"))


def pictures(model: ModelProto, rows: int = 24, *, seed: int = 0) -> Dataset:
    x = np.random.default_rng(seed).standard_normal((rows, 3, 6, 6)).astype(np.float32)
    return open_dataset(x, input_specs(model))


def moved(model: Model, *names: str) -> Model:
    """Return the model with these weights moved at random."""
    random, arrays = np.random.default_rng(7), trainable(model)
    return with_parameters(
        model, {n: arrays[n] + 0.2 * random.standard_normal(arrays[n].shape).astype(np.float32) for n in names}
    )


def values_of(model: Model, names: list[str], x: np.ndarray) -> dict[str, np.ndarray]:
    probe = model.draft()
    probe.graph.output.extend(type(probe.graph.output[0])(name=name) for name in names)
    return session(model.derived(probe)).run({"x": x})


# --- hints and temperature ------------------------------------------------------------------------------------------


def test_hints_are_what_layers_read_and_nothing_was_cut_of() -> None:
    original, shapes = residual(), {"x": (1, 3, 6, 6)}
    gone = {"q": {1: np.arange(4)}, "r": {1: np.arange(4)}}
    assert hinted(original, original, lambda value: {}, shapes) == ("a", "r", "f")
    assert hinted(original, original, lambda value: gone.get(value, {}), shapes) == ("a", "f")


def test_the_loss_by_hand() -> None:
    """KL at temperature 4 times 16, and the mean over hints of the squared error over the variance in the original."""
    original = residual()
    pruned, rows = moved(original, "w2", "w4"), pictures(original.proto)
    lessons = WholeModel(Teaching(original, rows, rows), Recipe(steps=1, batch=24, hints=0.5), hints=("a", "f"))
    x = next(rows.batches(24))["x"]
    (part,) = lessons.parts(lessons._complete({"x": x}, None))
    found = session(backward(pruned, ["w2"], lessons.objective.loss)).run(part.feed)["loss"]
    want, have = (values_of(model, ["a", "f"], x) for model in (original, pruned))
    p, q = (log_softmax(v["y"].astype(np.float64) / 4, 1) for v in (want, have))
    divergence = 16 * (np.exp(p) * (p - q)).sum(1).mean()
    errors = [np.square(want[n] - have[n]).mean() / want[n].var(dtype=np.float64) for n in ("a", "f")]
    assert errors[0] == 0 and errors[1] > 0
    assert found == pytest.approx(divergence + 0.5 * np.mean(errors), rel=1e-4)
    assert lessons.score(pruned) == pytest.approx(divergence, rel=1e-4)  # what judges: the outputs at the temperature


def test_probabilities_are_softened_like_their_scores() -> None:
    bodies = ("w = %6x3; y = MatMul(x, w)", "w = %6x3; z = MatMul(x, w); y = Softmax(z)")
    losses = []
    for body in bodies:
        original = read.load(network(body, "float[n,6] x", "float[n,3] y"))
        original = with_parameters(original, {"w": np.linspace(-1, 1, 18, dtype=np.float32).reshape(6, 3) ** 3})
        x = 0.3 * np.random.default_rng(0).standard_normal((32, 6)).astype(np.float32)
        rows = open_dataset(x, input_specs(original.proto))
        lessons = WholeModel(Teaching(original, rows, rows), Recipe(steps=1))
        losses.append(lessons.score(moved(original, "w")))
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


# --- what is trained ------------------------------------------------------------------------------------------------


def test_layers_before_any_change_stay() -> None:
    original = residual()
    assert list(to_train(moved(original, "w3"), original)) == ["w3", "w4", "b4"]
    assert list(to_train(moved(original, "w3"), original, masked=["w1"])) == ["w1", "w3", "w4", "b4"]
    assert list(to_train(original, original)) == list(trainable(original))


def test_a_weight_behind_a_transpose_is_trained_where_it_is_read() -> None:
    body = "w = %6x6; v = %3x6; t = Transpose(v); h = MatMul(x, w); r = Relu(h); y = MatMul(r, t)"
    original = read.load(network(body, "float[n,6] x", "float[n,3] y"))
    assert list(to_train(moved(original, "w"), original)) == ["w", "v"]
    assert list(to_train(moved(original, "v"), original)) == ["v"]


# --- pictures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "flips"),
    [("y = GlobalAveragePool(x)", True), ("w = %4x3x6x6; y = Conv(x, w)", False)],
    ids=["no-sides", "sides"],
)
def test_pictures_are_changed_as_far_as_they_look_real(body: str, flips: bool) -> None:
    """Pictures are dark on the left: mirrored ones give outputs never seen where a model tells sides apart."""
    model = read.load(network(body, "float[n,3,6,6] x", "float[n,c,1,1] y"))
    ramp = 20 * np.linspace(0, 1, 6, dtype=np.float32)
    x = np.random.default_rng(0).standard_normal((64, 3, 6, 6)).astype(np.float32) + ramp
    rows, run = open_dataset(x, input_specs(model.proto)), session(model).run
    outputs = outputs_like([run({"x": x})])
    assert ("flip" in harmless(("auto",), rows, run, outputs)) == flips
    assert harmless(("none",), rows, run, outputs) == ()
    assert harmless(("shift",), rows, run, outputs) == ("shift",)


def test_what_is_no_picture_is_not_changed() -> None:
    model = read.load(network("w = %6x3; y = MatMul(x, w)", "float[n,6] x", "float[n,3] y"))
    rows = open_dataset(np.zeros((8, 6), np.float32), input_specs(model.proto))
    assert (
        harmless(("auto",), rows, session(model).run, outputs_like([session(model).run(next(rows.batches(8)))])) == ()
    )


# --- length ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "rate"), [(1, 3e-4), (240, 3e-4), (800, 1e-3), (1200, 1.5e-3), (10**6, 1.5e-3)])
def test_the_rate_grows_with_the_steps(steps: int, rate: float) -> None:
    assert Recipe(steps=steps).rate(steps) == pytest.approx(rate)
    assert Recipe(steps=steps, learning_rate=0.1).rate(steps) == 0.1
    assert Recipe(steps=steps, optimiser="sgd").rate(steps) == 0.01


@pytest.mark.parametrize(("of_a_row", "rows"), [(1e-6, 64), (0.01, 64), (0.02, 32), (0.1, 8), (10.0, 4)])
def test_steps_have_as_many_rows_as_leave_enough_steps(of_a_row: float, rows: int) -> None:
    """1,024 steps in 1,024 seconds, a second each: 64 rows where one takes 0.01 s, 32 where it takes 0.02."""
    assert Recipe(seconds=1024.0).affordable(of_a_row) == rows
    assert Recipe(seconds=1024.0, batch=48).affordable(of_a_row) == 48
    assert Recipe(steps=5).affordable(of_a_row) == 64
