"""Recovery: optimisers and one step by hand, laws of the whole training, checkpoints, data, augmentation."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import ModelProto, numpy_helper
from support.networks import network

import onnxprune
from onnxprune.cli import main
from onnxprune.data import Dataset, input_specs, open_dataset
from onnxprune.errors import DataError, InputError, ModelError, UsageError
from onnxprune.means import Means
from onnxprune.model import read
from onnxprune.model.facts import gather_facts
from onnxprune.model.graph import Graph
from onnxprune.model.model import Model
from onnxprune.model.runtime import session
from onnxprune.progress import silent
from onnxprune.recover import Recipe, Recovered, Teaching, parse_length, recover, taught
from onnxprune.recover.augment import augmenter, flip, shift
from onnxprune.recover.batches import Shuffled
from onnxprune.recover.blocks import BlockTraining, extracted, own_parameters, segments
from onnxprune.recover.lessons import WholeModel
from onnxprune.recover.optimisers import Adam, Sgd, clipped, norm
from onnxprune.recover.parameters import trainable, with_parameters
from onnxprune.recover.statistics import with_statistics
from onnxprune.recover.train import Training

MODELS = Path(__file__).parents[2] / "models"

LINEAR = "w = %6x3; b = %3; p = MatMul(x, w); y = Add(p, b)"
MLP = "w1 = %6x8; b1 = %8; w2 = %8x3; b2 = %3; p = Gemm(x, w1, b1); h = Relu(p); y = Gemm(h, w2, b2)"
CNN = """
w1 = %4x3x3x3; g = %+4; s = %4; m = %4; v = %+4; w2 = %2x4
p = Conv<pads=[1,1,1,1]>(x, w1); n = BatchNormalization(p, g, s, m, v); r = Relu(n)
a = GlobalAveragePool(r); f = Flatten(a); y = Gemm<transB=1>(f, w2)
"""


def flat(body: str = MLP, seed: int = 0, **options) -> ModelProto:
    return network(body, "float[n,6] x", "float[n,3] y", seed=seed, **options)


def images(seed: int = 0) -> ModelProto:
    return network(CNN, "float[n,3,8,8] x", "float[n,2] y", seed=seed)


def data(model: ModelProto, rows: int = 64, labels: np.ndarray | None = None, seed: int = 0) -> Dataset:
    shape = [dim.dim_value or rows for dim in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return open_dataset(x, input_specs(model), labels=labels)


def damaged(model: ModelProto, amount: float = 0.3) -> ModelProto:
    """Return the model with every trainable weight moved at random."""
    random = np.random.default_rng(7)
    loaded = read.load(model)
    arrays = trainable(loaded)
    moved = {n: a + amount * random.standard_normal(a.shape).astype(a.dtype) for n, a in arrays.items()}
    return with_parameters(loaded, moved).proto


def run(original: ModelProto, pruned: ModelProto, dataset: Dataset | None = None, **settings) -> Recovered:
    extra = {name: settings.pop(name) for name in ("masks", "checkpoint") if name in settings}
    means = Means(progress=settings.pop("progress", silent), memory=settings.pop("memory", None))
    recipe = Recipe(**({"batch": 16, "learning_rate": 1e-2} | settings))
    found = recover(
        Model.of(pruned), taught(read.load(original), dataset or data(original), recipe.seed), recipe, means, **extra
    )
    return replace(found, model=found.model.proto)


# --- by hand --------------------------------------------------------------------------------------------------------


def test_adam_by_hand() -> None:
    """m = 0.1 g and v = 0.001 g^2 first, corrected to g and g^2; then m = 0.9 m + 0.1 g over 0.19, and so on."""
    weight = {"w": np.array([1.0])}
    adam = Adam(weight)
    adam.update({"w": np.array([2.0])}, 0.1)
    assert weight["w"][0] == pytest.approx(1 - 0.1 * 2 / (2 + 1e-8))
    adam.update({"w": np.array([-1.0])}, 0.1)
    mean = (0.9 * 0.2 - 0.1) / 0.19
    power = (0.999 * 0.004 + 0.001) / (1 - 0.999**2)
    assert weight["w"][0] == pytest.approx(0.9 - 0.1 * mean / (np.sqrt(power) + 1e-8))


def test_momentum_by_hand() -> None:
    weight = {"w": np.array([1.0])}
    sgd = Sgd(weight)
    sgd.update({"w": np.array([2.0])}, 0.1)
    sgd.update({"w": np.array([1.0])}, 0.1)
    assert weight["w"][0] == pytest.approx(1 - 0.1 * 2 - 0.1 * (0.9 * 2 + 1))


def test_weight_decay_is_apart_from_the_gradient_and_leaves_vectors_alone() -> None:
    weights = {"matrix": np.full((1, 1), 2.0), "vector": np.full(1, 2.0)}
    Sgd(weights, decay=0.5).update({name: np.zeros_like(w) for name, w in weights.items()}, 0.1)
    assert weights["matrix"][0, 0] == pytest.approx(2 - 0.1 * 0.5 * 2)
    assert weights["vector"][0] == 2


def test_clipping_keeps_the_direction() -> None:
    gradients = {"a": np.array([3.0]), "b": np.array([4.0])}
    assert norm(gradients) == 5
    assert {n: g[0] for n, g in clipped(gradients, 1.0).items()} == pytest.approx({"a": 0.6, "b": 0.8})
    assert {n: g[0] for n, g in clipped(gradients, 9.0).items()} == {"a": 3, "b": 4}


def test_schedule_rises_and_falls_to_zero() -> None:
    recipe = Recipe(10, learning_rate=0.2, warm_up=0.1)
    assert [recipe.rate_at(s) for s in (0, 0.05, 0.1, 0.55, 1)] == pytest.approx([0, 0.1, 0.2, 0.1, 0])


def test_one_step_by_hand() -> None:
    """Mean squared error over its variance through y = x w + b: dL/dw = 2 x^T (y - t) / (elements * variance)."""
    original = flat(LINEAR)
    pruned = damaged(original)
    recipe = Recipe(1, loss="mse", optimiser="sgd", learning_rate=0.1, batch=48, warm_up=0, clip=1e9)
    rows = data(original, 48)
    lessons = WholeModel(Teaching(read.load(original), rows, rows), recipe)
    training = Training(read.load(pruned), trainable(read.load(pruned)), lessons, recipe)
    list(training.run())
    w, b = trainable(read.load(pruned)).values()
    w0, b0 = trainable(read.load(original)).values()
    x = next(rows.batches(48))["x"].astype(np.float64)
    slope = 2 * (x @ (w - w0) + b - b0) / (len(x) * 3 * lessons.objective.terms[0].variance)
    halfway = 0.1 * 0.5  # the middle of the only step, halfway down the cosine
    found = training.parameters
    np.testing.assert_allclose(found["w"], w - halfway * x.T @ slope, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["b"], b - halfway * slope.sum(0), rtol=1e-5, atol=1e-6)


# --- laws -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
@pytest.mark.parametrize("make", [flat, images], ids=["mlp", "cnn"])
def test_outputs_come_back(make, optimiser: str) -> None:
    original = make()
    found = run(original, damaged(original), steps=60, optimiser=optimiser)
    assert found.after < 0.5 * found.before
    assert found.kept.startswith("trained")


def test_never_worse() -> None:
    original = flat()
    pruned = damaged(original, 1e-4)
    found = run(original, pruned, steps=20, learning_rate=30.0)
    assert found.after <= found.before
    assert found.went_back > 0
    assert found.kept != "original" or found.model == pruned


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_gradients_that_are_not_finite_go_back() -> None:
    original = flat("w = %6x3; e = Exp(x); p = MatMul(e, w); y = Mul(p, p)")
    dataset = open_dataset(np.full((64, 6), 60, np.float32), input_specs(original))
    found = run(original, damaged(original), dataset, steps=3, loss="mse")
    assert found.kept == "original"
    assert found.went_back == 3
    assert found.left_out


def test_steps_that_only_make_it_worse_are_not_called_infinite() -> None:
    original = flat()
    found = run(original, damaged(original, 1e-4), steps=1, learning_rate=30.0)
    assert (found.kept, found.went_back, found.left_out) == ("original", 1, ())


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_the_held_out_loss_does_not_depend_on_batches(batch: int) -> None:
    original = flat()
    losses = [run(original, damaged(original), data(original, 150), steps=1, batch=size).before for size in (64, batch)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_nothing_to_gain_changes_nothing() -> None:
    original = flat()
    found = run(original, original, steps=5)
    assert (found.before, found.after, found.kept) == (0, 0, "original")
    assert found.model == original


@pytest.mark.parametrize("augment", [(), ("flip", "shift")])
def test_two_runs_give_equal_bytes(augment: tuple[str, ...]) -> None:
    original = images()
    first, second = (run(original, damaged(original), steps=8, augment=augment).model for _ in range(2))
    assert first.SerializeToString() == second.SerializeToString()
    assert first != run(original, damaged(original), steps=8, augment=augment, seed=1).model


class Killed(Exception):
    pass


@pytest.mark.parametrize("augment", [(), ("flip",)])
def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, augment: tuple[str, ...]) -> None:
    original = images()
    settings = {"steps": 40, "augment": augment}
    calls = itertools.count(1)

    def kill(text: str) -> None:
        if next(calls) == 25:
            raise Killed

    path = tmp_path / "state.npz"
    with pytest.raises(Killed):
        run(original, damaged(original), checkpoint=path, progress=kill, **settings)
    later: list[str] = []
    resumed = run(original, damaged(original), checkpoint=path, progress=later.append, **settings)
    assert len(later) < 40
    whole = run(original, damaged(original), **settings)
    assert resumed.model.SerializeToString() == whole.model.SerializeToString()
    assert (resumed.steps, resumed.before, resumed.after) == (whole.steps, whole.before, whole.after)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    original, path = flat(), tmp_path / "state.npz"
    run(original, damaged(original), steps=2, checkpoint=path)
    with pytest.raises(UsageError, match="another model"):
        run(original, damaged(original), steps=3, checkpoint=path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="delete it"):
        run(original, damaged(original), steps=2, checkpoint=path)


def test_masked_weights_stay_zero() -> None:
    original = flat()
    mask = np.random.default_rng(0).random((6, 8)) < 0.5
    found = run(original, damaged(original), steps=30, masks={"w1": mask}, weight_decay=0.1)
    weights = trainable(read.load(found.model))
    assert found.kept.startswith("trained")
    assert not weights["w1"][~mask].any()
    assert weights["w1"][mask].all()
    kept = run(original, original, steps=2, masks={"w1": mask}, learning_rate=1e-9)
    assert not trainable(read.load(kept.model))["w1"][~mask].any()


def test_time_ends_a_training() -> None:
    original = flat()
    assert run(original, damaged(original), seconds=0.05).steps >= 1


# --- losses and data ------------------------------------------------------------------------------------------------


def test_labels_take_part_where_they_are_class_numbers() -> None:
    original = flat()
    classes = np.arange(64) % 3
    without = run(original, damaged(original), steps=10)
    mixed = run(original, damaged(original), data(original, labels=classes), steps=10)
    alone = run(original, damaged(original), data(original, labels=classes), steps=30, loss="labels")
    assert (without.labels, mixed.labels, alone.labels) == (False, True, True)
    assert alone.after < alone.before
    distilled = run(original, damaged(original), data(original, labels=classes), steps=10, loss="distill")
    assert distilled.model == without.model
    with pytest.raises(DataError, match="class number"):
        run(original, damaged(original), data(original, labels=classes + 1), steps=10, loss="labels")


def test_probabilities_are_compared_as_scores() -> None:
    original = flat(MLP.replace("y = Gemm", "z = Gemm") + "; y = Softmax(z)")
    found = run(original, damaged(original), steps=40)
    assert found.after < 0.5 * found.before


def test_16_bit_weights_keep_their_type() -> None:
    body = "w = %6x3:float16; y = MatMul(x, w)"
    original = network(body, "float16[n,6] x", "float16[n,3] y")
    x = np.random.default_rng(0).standard_normal((64, 6)).astype(np.float16)
    found = run(original, damaged(original), open_dataset(x, input_specs(original)), steps=30)
    assert found.after < found.before
    assert found.model.graph.initializer[0].data_type == onnx.TensorProto.FLOAT16


def test_running_statistics_and_settings_are_not_trained() -> None:
    assert list(trainable(read.load(images()))) == ["w1", "g", "s", "w2"]
    clip = flat(
        "low = @0.0; high = @6.0; w = %6x3; grid = %3x3; p = MatMul(x, w); c = Clip(p, low, high); y = Mul(c, @2.0)"
    )
    assert list(trainable(read.load(clip))) == ["w"]
    with pytest.raises(ModelError, match="no float weights"):
        trainable(read.load(flat("y = Slice(x, @[0], @[3], @[1])")))


def test_statistics_are_those_of_the_data() -> None:
    model = images()
    batches = list(data(model).batches(16))
    fresh = {
        t.name: numpy_helper.to_array(t) for t in with_statistics(read.load(model), batches).proto.graph.initializer
    }
    model.graph.output.append(onnx.ValueInfoProto(name="p"))
    p = np.concatenate([session(model).run(batch)["p"] for batch in batches]).astype(np.float64)
    np.testing.assert_allclose(fresh["m"], p.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(fresh["v"], p.var((0, 2, 3)), rtol=1e-5)
    plain = read.load(flat())
    assert with_statistics(plain, batches) is plain


@pytest.mark.parametrize("memory", [1 << 20, 300])
def test_every_row_comes_once_per_epoch(memory: int) -> None:
    model = flat()
    x = np.arange(40, dtype=np.float32)[:, None].repeat(6, 1)
    stream = Shuffled(open_dataset(x, input_specs(model)), 4, 0, lambda inputs, labels: inputs, memory)
    epochs = [[batch["x"][:, 0] for batch in itertools.islice(iter(stream), k, k + 10)] for k in (0, 10)]
    for epoch in epochs:
        assert sorted(np.concatenate(epoch)) == list(range(40))
    assert not np.array_equal(*(np.concatenate(epoch) for epoch in epochs))


# --- augmentation ---------------------------------------------------------------------------------------------------


def test_flipped_images_are_mirrored_or_as_they_were() -> None:
    x = np.random.default_rng(0).standard_normal((20, 3, 4, 4)).astype(np.float32)
    flipped = flip(x, np.random.default_rng(1))
    mirrored = [np.array_equal(a, b[..., ::-1]) for a, b in zip(flipped, x, strict=True)]
    same = [np.array_equal(a, b) for a, b in zip(flipped, x, strict=True)]
    assert all(m != s for m, s in zip(mirrored, same, strict=True))
    assert 0 < sum(mirrored) < 20


def test_shifted_images_are_windows_of_the_padded_ones() -> None:
    x = np.random.default_rng(0).standard_normal((20, 3, 16, 16)).astype(np.float32)
    shifted = shift(x, np.random.default_rng(1))
    padded = np.pad(x, ((0, 0), (0, 0), (2, 2), (2, 2)), mode="symmetric")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (16, 16), (2, 3))
    found = [(windows[i] == shifted[i][:, None, None]).all((0, 3, 4)) for i in range(20)]
    assert all(match.sum() == 1 for match in found)
    assert sum(match[2, 2] for match in found) < 10


def test_augmentation_knows_both_layouts_and_refuses_what_is_no_image() -> None:
    model = network("y = Relu(x)", "float[n,8,8,3] x", "float[n,8,8,3] y")
    x = np.random.default_rng(0).standard_normal((9, 8, 8, 3)).astype(np.float32)
    found = augmenter(["flip"], input_specs(model))({"x": x}, np.random.default_rng(0))["x"]
    assert all(np.array_equal(a, b) or np.array_equal(a, b[:, ::-1]) for a, b in zip(found, x, strict=True))
    with pytest.raises(UsageError, match="image input"):
        augmenter(["flip"], input_specs(flat()))


# --- settings and the command line ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "fields"),
    [("200", {"steps": 200}), (7, {"steps": 7}), ("90s", {"seconds": 90}), ("1.5m", {"seconds": 90})],
)
def test_lengths(text: str | int, fields: dict[str, float]) -> None:
    assert parse_length(text) == fields


@pytest.mark.parametrize("text", ["", "5x", "1.5", "-3", "0m"])
def test_what_is_no_length(text: str) -> None:
    with pytest.raises(UsageError, match="5m"):
        parse_length(text)


@pytest.mark.parametrize(
    "settings", [{}, {"steps": 1, "seconds": 1.0}, {"steps": 1, "learning_rate": 0}, {"steps": 1, "loss": "x"}]
)
def test_recipes_that_make_no_sense(settings: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Recipe(**settings)


def test_from_the_command_line_to_the_report(tmp_path: Path) -> None:
    arguments = [MODELS / "digits_cnn.onnx", tmp_path / "small.onnx", "--ratio", "0.75", "--criterion", "l2"]
    arguments += [
        "--calib",
        MODELS / "digits_test.npz",
        "--repair",
        "none",
        "--no-latency",
        "--json",
        tmp_path / "r.json",
    ]
    arguments += [
        "--recover",
        "20",
        "--learning-rate",
        "0.003",
        "--augment",
        "shift",
        "--checkpoint",
        tmp_path / "c.npz",
    ]
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    assert "trained for 20 steps" in result.stdout
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["recover"]["after"] < report["recover"]["before"]
    assert report["recover"]["labels"]
    assert report["settings"]["augment"] == ["shift"]


def test_recovery_without_data_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, [str(MODELS / "digits_cnn.onnx"), str(tmp_path / "o.onnx"), "--recover", "5"])
    assert result.exit_code == DataError.exit_code
    assert "--calib" in result.output


# --- batches that the file, or memory, sets -------------------------------------------------------------------------


def fixed(batch: int) -> ModelProto:
    return network(MLP, f"float[{batch},6] x", f"float[{batch},3] y")


def rows_for(model: ModelProto, count: int = 48) -> Dataset:
    return open_dataset(np.random.default_rng(4).standard_normal((count, 6)).astype(np.float32), input_specs(model))


def close(a: ModelProto, b: ModelProto) -> None:
    for one, other in zip(trainable(read.load(a)).values(), trainable(read.load(b)).values(), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_a_file_with_a_batch_of_its_own_is_trained_as_if_it_had_none(batch: int) -> None:
    """The gradients of the runs that make up a batch add up to those of the batch: the same steps on the same rows."""
    settings = {"steps": 12, "batch": 8, "seed": 3}
    free = run(flat(), damaged(flat()), rows_for(flat()), **settings)
    own = run(fixed(batch), damaged(fixed(batch)), rows_for(fixed(batch)), **settings)
    assert free.after < free.before and own.after < own.before
    if batch == 1:  # larger units are held out, and shuffled, otherwise
        close(free.model, own.model)


@pytest.mark.parametrize(("batch", "loss"), [(2, "distill"), (64, "mse"), (2, "labels"), (2, "blocks")])
def test_the_batch_of_the_file_wins(batch: int, loss: str) -> None:
    labels = np.arange(48) % 3 if loss == "labels" else None
    rows = np.random.default_rng(4).standard_normal((48, 6)).astype(np.float32)
    model = network(MLP + "; z = Tanh(y)" if loss == "labels" else MLP, "float[6,6] x", "float[6,3] y")
    found = run(
        model, damaged(model), open_dataset(rows, input_specs(model), labels=labels), steps=6, batch=batch, loss=loss
    )
    assert found.steps >= 6 and found.after <= found.before


def test_what_memory_holds_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is the same whether its rows go through the gradients at once or in parts that fit; it is said how many do."""
    said: list[str] = []
    whole = run(flat(), damaged(flat()), rows_for(flat()), steps=8, batch=16)
    monkeypatch.setattr("onnxprune.recover.lessons.COMPUTED", 1e-6)  # 1 kB for values: some rows
    parted = run(flat(), damaged(flat()), rows_for(flat()), steps=8, batch=16, memory=10**9, progress=said.append)
    close(whole.model, parted.model)
    match = re.fullmatch(r"recovering: at most (\d+) rows at once, to stay within 1.0 GB", said[0])
    assert match is not None and 1 <= int(match[1]) < 16


@pytest.mark.parametrize("memory", [10**6, 10**7, 10**9])
def test_rows_at_once_follow_the_memory(memory: int) -> None:
    model = read.load(images())
    pixels = data(images(), 64)
    lessons = WholeModel(Teaching(model, pixels, pixels), Recipe(steps=1, batch=64), Means(memory=memory))
    Training(model, trainable(model), lessons, lessons.recipe)
    assert (lessons.part == 64) == (memory > 10**6)
    parts = [part.rows for part in lessons.parts(next(lessons.feeds(0, lessons.batch)))]
    assert sum(parts) == 64 and max(parts) == lessons.part and max(parts) - min(parts) <= len(parts)


# --- by blocks ------------------------------------------------------------------------------------------------------


RESIDUAL = """
w1 = %6x3x3x3; b1 = %6; w2 = %6x6x3x3; w3 = %6x6x3x3; w4 = %4x6; b4 = %4
p = Conv<pads=[1,1,1,1]>(x, w1, b1); a = Relu(p)
q = Conv<pads=[1,1,1,1]>(a, w2); r = Relu(q); s = Conv<pads=[1,1,1,1]>(r, w3); t = Add(a, s); c = Relu(t)
g = GlobalAveragePool(c); f = Flatten(g); y = Gemm<transB=1>(f, w4, b4)
"""


def residual(body: str = RESIDUAL) -> ModelProto:
    return network(body, "float[n,3,6,6] x", "float[n,4] y")


def blocks_of(model: ModelProto, comparable=lambda name: True) -> list[tuple[str, ...]]:
    loaded = read.load(model)
    facts = gather_facts(loaded, Graph(loaded.structure))
    return [part.outputs for part in segments(facts, comparable)]


def test_blocks_end_where_one_value_carries_everything() -> None:
    """Inside the branch two values are alive; a block goes on to the last value before the next matrix."""
    assert blocks_of(residual()) == [("a",), ("f",), ("y",)]
    assert blocks_of(residual(), lambda name: name != "f") == [("a",), ("g",), ("y",)]
    assert blocks_of(residual(), lambda name: name not in "actgf") == [("p",), ("y",)]
    assert blocks_of(flat()) == [("h",), ("y",)]
    assert blocks_of(flat(), lambda name: False) == [("y",)]


@pytest.mark.parametrize("name", ["digits_cnn", "digits_transformer"])
def test_blocks_one_after_the_other_are_the_model(name: str) -> None:
    model = read.load(MODELS / f"{name}.onnx")
    facts = gather_facts(model, Graph(model.structure))
    values = dict(data(model.proto, 4).batches(4).__next__())
    expected = session(model).run(values)
    for part in segments(facts, lambda value: True):
        block = extracted(facts, part, [{value: values[value] for value in part.inputs}])
        values |= session(block).run({value: values[value] for value in part.inputs})
    for output, array in expected.items():
        np.testing.assert_allclose(values[output], array, rtol=1e-4, atol=1e-5)


def test_a_parameter_that_two_blocks_read_belongs_to_none() -> None:
    body = "w = %6x6; v = %6x3; k = Identity(w); p = MatMul(x, k); h = Relu(p); q = MatMul(h, w); r = Relu(q); y = MatMul(r, v)"
    model = read.load(network(body, "float[n,6] x", "float[n,3] y"))
    facts = gather_facts(model, Graph(model.structure))
    parts = segments(facts, lambda name: True)
    assert [part.outputs for part in parts] == [("h",), ("r",), ("y",)]
    assert [own_parameters(facts, part) for part in parts] == [[], [], ["v"]]


def test_one_step_of_a_block_is_a_step_towards_the_originals_value() -> None:
    """The first block of the perceptron alone: its target is the original's hidden layer, whatever comes after."""
    original = flat()
    broken = damaged(original)
    later = with_parameters(read.load(broken), {"w2": np.zeros((8, 3), np.float32)}).proto
    settings = {"steps": 1, "loss": "blocks", "optimiser": "sgd", "warm_up": 0.0}
    teaching = Teaching(read.load(original), data(original), data(original, seed=1))
    lessons = WholeModel(teaching, Recipe(batch=16, **settings))
    found = []
    for model in (broken, later):
        training = BlockTraining(read.load(model), lessons, lambda value: {})
        list(training.run())
        found.append(training.parameters["w1"])
        before = trainable(read.load(model))["w1"]
        assert not np.array_equal(found[-1], before)
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("make", [residual, flat, images], ids=["residual", "mlp", "cnn"])
def test_outputs_come_back_block_by_block(make) -> None:
    original = make()
    found = run(original, damaged(original, 0.2), steps=60, loss="blocks")
    assert found.after < 0.5 * found.before and found.kept.startswith("trained")


def test_blocks_of_narrower_models_are_compared_at_what_is_left() -> None:
    """Hidden units 1 and 4 are gone; the rest is compared with the same units of the original."""
    original = flat()
    keep = np.array([0, 2, 3, 5, 6, 7])
    arrays = trainable(read.load(original))
    small = ModelProto()
    small.CopyFrom(original)
    for tensor in small.graph.initializer:
        axis = {"w1": 1, "b1": 0, "w2": 0}.get(tensor.name)
        if axis is not None:
            tensor.CopyFrom(numpy_helper.from_array(np.take(arrays[tensor.name], keep, axis), tensor.name))
    broken = damaged(small, 0.2)
    left = {"p": {1: keep}, "h": {1: keep}}
    teaching = Teaching(read.load(original), data(original), data(original, seed=1))
    lessons = WholeModel(teaching, Recipe(200, loss="blocks", batch=16, learning_rate=1e-2))
    training = BlockTraining(read.load(broken), lessons, lambda value: left.get(value, {}))
    list(training.run())
    gaps = [np.abs(p["w1"] - arrays["w1"][:, keep]).mean() for p in (trainable(read.load(broken)), training.parameters)]
    assert gaps[1] < 0.5 * gaps[0]


def test_blocks_are_never_worse_and_repeat(tmp_path: Path) -> None:
    original = residual()
    broken = damaged(original, 0.1)
    first, second = (run(original, broken, steps=5, loss="blocks") for _ in range(2))
    assert first.model.SerializeToString(deterministic=True) == second.model.SerializeToString(deterministic=True)
    worse = run(original, damaged(original, 1e-5), steps=3, loss="blocks", learning_rate=1.0)
    assert worse.after <= worse.before


def test_blocks_go_on_where_they_were_killed(tmp_path: Path) -> None:
    original = residual()
    broken = damaged(original, 0.1)
    whole = run(original, broken, steps=4, loss="blocks")
    path = tmp_path / "state.npz"

    def stop(text: str) -> None:
        if "block 3 of 3" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(original, broken, steps=4, loss="blocks", checkpoint=path, progress=stop)
    again = run(original, broken, steps=4, loss="blocks", checkpoint=path)
    assert again.model.SerializeToString(deterministic=True) == whole.model.SerializeToString(deterministic=True)
    assert again.steps == whole.steps == 12


def test_masked_weights_stay_zero_in_blocks() -> None:
    original = flat()
    mask = np.random.default_rng(0).random((6, 8)) < 0.5
    found = run(original, damaged(original), steps=10, loss="blocks", masks={"w1": mask})
    assert not trainable(read.load(found.model))["w1"][~mask].any()


def test_blocks_take_no_augmentation_and_no_pairs() -> None:
    with pytest.raises(UsageError, match="leave augmentation out"):
        Recipe(1, loss="blocks", augment=("flip",))
    with pytest.raises(UsageError, match="granularity paired"):
        onnxprune.prune(MODELS / "digits_cnn.onnx", granularity=("paired",), recover=1, recover_loss="blocks")


def test_a_bundled_model_recovers_by_blocks() -> None:
    result = onnxprune.prune(
        MODELS / "digits_cnn.onnx", calibration=MODELS / "digits_calib.npz", evaluation=MODELS / "digits_test.npz",
        criterion="l2", repair="none", ratio=0.5, recover=10, recover_loss="blocks", samples=128, latency=False,
    )  # fmt: skip
    found = result.report["recover"]
    assert found["after"] < 0.6 * found["before"] and found["steps"] == 60
    assert result.report["task"]["after"] > 0.85


FOLDED = """
k = Reshape(x, @[-1, 8]); a = Gemm(k, %8x12, %12); r = Relu(a); b = Gemm(r, %12x8, %8); c = Reshape(b, @[-1, 5, 8])
s = Add(x, c); d = MatMul(s, %8x12); t = Tanh(d); y = MatMul(t, %12x4)
"""
LOOP = """
l = Loop(@2, @true, b) <
    body = turn (int64 i, bool go, float[n,6] u) => (bool on, float[n,6] v) { on = Identity(go) v = Sin(u) }
>
"""
LOOPING = (
    f"w1 = %3x6; w2 = %6x6; w3 = %6x4; a = MatMul(x, w1); r = Relu(a); b = MatMul(r, w2)\n{LOOP}\ny = MatMul(l, w3)"
)


def test_blocks_between_which_the_batch_is_folded_are_trained() -> None:
    """Steps times samples on one axis: the two inputs of a block belong together at the sizes of the data alone."""
    model = network(FOLDED, "float[n,5,8] x", "float[n,5,4] y")
    rows = np.random.default_rng(1).standard_normal((23, 5, 8)).astype(np.float32)
    found = run(model, damaged(model), open_dataset(rows, input_specs(model)), steps=5, loss="blocks", batch=8)
    assert found.after < found.before and not found.left_out


def test_blocks_without_a_gradient_are_left_out_and_named() -> None:
    model = network(LOOPING.replace("\n", "\n"), "float[n,3] x", "float[n,4] y")
    rows = np.random.default_rng(1).standard_normal((24, 3)).astype(np.float32)
    dataset = open_dataset(rows, input_specs(model))
    found = run(model, damaged(model), dataset, steps=5, loss="blocks", batch=8)
    assert found.steps >= 5 and len(found.left_out) == 1 and "Loop" in found.left_out[0]
    with pytest.raises(ModelError, match="no gradient through Loop"):
        run(model, damaged(model), dataset, steps=5, batch=8)


def test_a_model_without_a_block_that_has_a_gradient_is_refused() -> None:
    model = network("w1 = %3x6\na = MatMul(x, w1)\n" + LOOP.replace("b) <", "a) <"), "float[n,3] x", "float[n,6] l")
    rows = np.random.default_rng(1).standard_normal((24, 3)).astype(np.float32)
    with pytest.raises(ModelError, match="no gradient through Loop"):
        run(model, damaged(model), open_dataset(rows, input_specs(model)), steps=3, loss="blocks")
