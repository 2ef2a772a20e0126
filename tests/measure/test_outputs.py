"""The judge: what an output is, and one distance in which every channel counts on its own scale."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import ModelProto, numpy_helper
from support.networks import network

import onnxprune
from onnxprune.api import sensitivity
from onnxprune.cli import main
from onnxprune.coupling.channels import layouts, row_importance
from onnxprune.coupling.groups import analyse
from onnxprune.coupling.links import build_links
from onnxprune.data import Dataset, input_specs, open_dataset
from onnxprune.errors import DataError, UsageError
from onnxprune.grad import backward
from onnxprune.measure.divergence import Reference, mean_divergence
from onnxprune.measure.kinds import observed, outputs_like
from onnxprune.measure.outputs import INTEGERS, PROBABILITIES, SCORES, VALUES, VARYING, Outputs, spans
from onnxprune.measure.weights import weighed
from onnxprune.model import read
from onnxprune.model.facts import gather_facts
from onnxprune.model.graph import Graph
from onnxprune.model.runtime import session
from onnxprune.recover.objective import objective
from onnxprune.recover.parameters import trainable
from onnxprune.repair.targets import on_own_scales
from onnxprune.report.baseline import Baseline
from onnxprune.report.entries import DRIFT, drift_rows
from onnxprune.runs.sweep import MEASURED

RNG = np.random.default_rng(0)

# boxes of up to 640 pixels beside class scores in 0..1, from layers of their own, as detectors give them
DETECTOR = """
h = Conv<kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,2]>(x, w1, v1)
g = Sigmoid(h)
a = Mul(h, g)
k = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(a, w2, v2)
r = Relu(k)
b = Conv<kernel_shape=[1,1]>(r, w3, v3)
c = Conv<kernel_shape=[1,1]>(r, w4, v4)
flatboxes = Reshape(b, @[0,4,64])
boxes = Mul(flatboxes, @100.0)
flatscores = Reshape(c, @[0,6,64])
scores = Sigmoid(flatscores)
w1 = %16x3x3x3
w2 = %16x16x3x3
w3 = %4x16x1x1
w4 = %6x16x1x1
v1 = %16
v2 = %16
v3 = %4
v4 = %6
"""
# the same from one convolution, whose rows for boxes are a hundred times as large as those for scores
ONE_HEAD = """
h = Conv<kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,2]>(x, w1, v1)
g = Sigmoid(h)
a = Mul(h, g)
k = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(a, w2, v2)
r = Relu(k)
q = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(r, w5, v5)
s = Relu(q)
c = Conv<kernel_shape=[1,1]>(s, w3, v3)
f = Reshape(c, @[0,10,64])
boxes, l = Split<axis=1>(f, @[4,6])
scores = Sigmoid(l)
w1 = %16x3x3x3
w2 = %16x16x3x3
w5 = %24x16x3x3
w3 = %10x24x1x1
v1 = %16
v2 = %16
v5 = %24
v3 = %10
"""
JOINED = (DETECTOR + "y = Concat<axis=1>(boxes, scores)", "float[n,3,16,16] x", "float[n,10,64] y")
APART = (DETECTOR, "float[n,3,16,16] x", "float[n,4,64] boxes, float[n,6,64] scores")

ONE_TENSOR = (ONE_HEAD + "y = Concat<axis=1>(boxes, scores)", *JOINED[1:])
TWO_TENSORS = (ONE_HEAD, *APART[1:])


def drawn(text: tuple[str, str, str], seed: int = 0) -> ModelProto:
    """A network whose channels say different things: kernels of low rank, each channel of a strength of its own."""
    model = network(*text)
    for tensor in model.graph.initializer:
        shape = tuple(tensor.dims)
        rng = np.random.default_rng([seed, *shape, *tensor.name.encode()])
        if len(shape) == 4:
            rank, inputs = max(shape[0] // 3, 2), int(np.prod(shape[1:]))
            low = rng.standard_normal((shape[0], rank)) @ rng.standard_normal((rank, inputs)) / np.sqrt(rank)
            low = (low + 0.5 * rng.standard_normal(low.shape)) * np.exp(0.5 * rng.standard_normal((shape[0], 1)))
            array = (low * np.sqrt(1.5 / inputs)).reshape(shape)
            array[:4] *= 100 if shape[0] == 10 else 1
        elif shape == (10,):
            array = np.r_[rng.uniform(200, 440, 4), rng.uniform(-2.5, -0.5, 6)]
        elif tensor.name.startswith("v"):
            array = 0.2 * rng.standard_normal(shape)
        else:
            continue
        tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float32), tensor.name))
    return model


def pictures(count: int, seed: int) -> np.ndarray:
    """Smooth pictures: a few waves each."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(np.arange(16), np.arange(16))) / 16
    waves = np.einsum("nckd,dhw->nckhw", rng.uniform(-8, 8, (count, 3, 4, 2)), grid)
    phases, sizes = rng.uniform(0, 6.3, (count, 3, 4, 1, 1)), rng.uniform(0.2, 1, (count, 3, 4, 1, 1))
    return (sizes * np.sin(waves + phases)).sum(2).astype(np.float32)


def looked_at(model: ModelProto, rows: object) -> tuple[Outputs, read.Model, Dataset]:
    loaded = read.load(model)
    links = build_links(gather_facts(loaded, Graph(loaded.structure)))
    dataset = open_dataset(rows, input_specs(model))
    return observed(loaded, dataset, layouts(links)), loaded, dataset


def run(model: ModelProto, rows: np.ndarray) -> dict[str, np.ndarray]:
    return session(model).run({"x": rows})


# --- what an output is ------------------------------------------------------------------------------------------------

X2, X3 = (RNG.standard_normal(shape).astype(np.float32) for shape in ((9, 6), (9, 5, 6)))
X4 = RNG.standard_normal((9, 3, 8, 8)).astype(np.float32)
CASES = {
    # body, inputs, outputs, rows, (kind, samples axis, channel axis, groups)
    "classifier": ("y = MatMul(x, %6x4)", "float[n,6] x", "float[n,4] y", X2, (SCORES, 0, 1, ["y"])),
    "softmax": ("l = MatMul(x, %6x4); y = Softmax(l)", "float[n,6] x", "float[n,4] y", X2, (PROBABILITIES, 0, 1, ["y"])),
    "several labels": ("l = MatMul(x, %6x4); y = Sigmoid(l)", "float[n,6] x", "float[n,4] y", X2, (VALUES, 0, 1, ["y"])),
    "one number": ("l = MatMul(x, %6x1); y = Squeeze(l, @[1])", "float[n,6] x", "float[n] y", X2, (VALUES, 0, None, ["y"])),
    "a unit embedding": (
        "l = MatMul(x, %6x16); s = ReduceL2<keepdims=1>(l, @[1]); y = Div(l, s)",
        "float[n,6] x", "float[n,16] y", X2, (VALUES, 0, 1, ["y"]),
    ),
    "two heads in one": (
        "a = MatMul(x, %6x3); b = MatMul(x, %6x2); y = Concat<axis=1>(a, b)",
        "float[n,6] x", "float[n,5] y", X2, (VALUES, 0, 1, ["y[0:3]", "y[3:5]"]),
    ),
    "scores of a sequence, time first": (
        "t = Transpose<perm=[1,0,2]>(x); l = MatMul(t, %6x7); logits = Add(l, %7)",
        "float[n,5,6] x", "float[5,n,7] logits", X3, (SCORES, 1, 2, ["logits"]),
    ),
    "steps before features": (
        "l = MatMul(x, %6x7); y = Transpose<perm=[1,2,0]>(l)",
        "float[n,5,6] x", "float[5,7,n] y", X3, (VALUES, 2, 1, ["y"]),
    ),
    "steps folded into the samples": (
        "l = MatMul(x, %6x7); y = Reshape(l, @[-1, 7])", "float[n,5,6] x", "float[m,7] y", X3, (VALUES, 0, 1, ["y"]),
    ),
    "classes per pixel": (
        "l = Conv<kernel_shape=[1,1]>(x, %4x3x1x1); y = LogSoftmax<axis=1>(l)",
        "float[n,3,8,8] x", "float[n,4,8,8] y", X4, (SCORES, 0, 1, ["y"]),
    ),
    "channels last": (
        "l = Conv<kernel_shape=[1,1]>(x, %4x3x1x1); y = Transpose<perm=[0,2,3,1]>(l)",
        "float[n,3,8,8] x", "float[n,8,8,4] y", X4, (VALUES, 0, 3, ["y"]),
    ),
    "anchors": (
        "l = Conv<kernel_shape=[1,1]>(x, %14x3x1x1); r = Reshape(l, @[0,2,7,8,8]); t = Transpose<perm=[0,1,3,4,2]>(r);"
        "s = Sigmoid(t); b, c = Split<axis=4>(s, @[4,3]); p = Mul(b, @64.0); j = Concat<axis=4>(p, c); y = Reshape(j, @[0,-1,7])",
        "float[n,3,8,8] x", "float[n,128,7] y", X4, (VALUES, 0, 2, ["y[0:4]", "y[4:7]"]),
    ),
    "pooled and flattened": (
        "c = Conv<kernel_shape=[3,3]>(x, %5x3x3x3); r = Relu(c); g = GlobalAveragePool(r); y = Flatten(g)",
        "float[n,3,8,8] x", "float[n,5] y", X4, (SCORES, 0, 1, ["y"]),
    ),
    "a mean over pixels": (
        "c = Conv<kernel_shape=[3,3]>(x, %5x3x3x3); y = ReduceMean<keepdims=0>(c, @[2, 3])",
        "float[n,3,8,8] x", "float[n,5] y", X4, (SCORES, 0, 1, ["y"]),
    ),
    "a number per step": (
        "l = MatMul(x, %6x1); s = Sigmoid(l); y = Squeeze(s, @[2])",
        "float[n,t,6] x", "float[n,t] y", X3, (VALUES, 0, None, ["y"]),
    ),
    "chosen classes": ("l = MatMul(x, %6x4); y = ArgMax<axis=1, keepdims=0>(l)", "float[n,6] x", "int64[n] y", X2, (INTEGERS, 0, None, ["y"])),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_an_output_is(case: str) -> None:
    body, inputs, outputs, rows, expected = CASES[case]
    found, model, _ = looked_at(network(body, inputs, outputs), rows)
    (output,) = found.of.values()
    labels = [group.label for group in output.groups]
    assert (output.kind, output.samples_axis, output.channel_axis, labels) == expected
    assert found.left_out == ()
    value = session(model).run({"x": rows})[output.name]
    assert output.rows(value).shape[0] == len(rows)
    assert output.fits(value.shape)
    assert output.weight.sum() == pytest.approx(1)
    np.testing.assert_array_equal(output.per_sample(value, value), np.zeros(len(rows)))


def test_boxes_and_scores_are_two_kinds_of_channels() -> None:
    """Half of the weight each, whatever their number, so that one tensor is judged like two."""
    joined, apart = (looked_at(drawn(text), pictures(12, 0))[0] for text in (JOINED, APART))
    assert [group.label for group in joined.of["y"].groups] == ["y[0:4]", "y[4:10]"]
    assert [joined.of["y"].weight[group.channels].sum() for group in joined.of["y"].groups] == pytest.approx([0.5, 0.5])
    both = np.concatenate([apart.of["boxes"].scale, apart.of["scores"].scale])
    np.testing.assert_allclose(joined.of["y"].scale, both, rtol=1e-6)


def test_a_fixed_batch_has_samples_too() -> None:
    model = network("t = Transpose<perm=[1,0,2]>(x); y = MatMul(t, %6x7)", "float[3,5,6] x", "float[5,3,7] y")
    assert looked_at(model, X3)[0].of["y"].samples_axis == 1
    square = network("t = Transpose<perm=[1,0,2]>(x); y = MatMul(t, %6x7)", "float[5,5,6] x", "float[5,5,7] y")
    assert looked_at(square, np.concatenate([X3, X3[:1]]))[0].of["y"].samples_axis == 1  # as many steps as samples


def test_spans_of_channels() -> None:
    assert [spans(np.array(c)) for c in ([3], [0, 1, 2], [0, 1, 5, 7, 8])] == ["3", "0:3", "0:2,5,7:9"]


# --- how far two values are apart -------------------------------------------------------------------------------------


def test_scores_do_not_drown_beside_boxes() -> None:
    """The fault: random class scores beside boxes in pixels were 1.7e-5 away, less than boxes that are a pixel off."""
    model = drawn(JOINED)
    found, _, _ = looked_at(model, pictures(24, 0))
    value = run(model, pictures(24, 0))["y"]
    random, moved = value.copy(), value.copy()
    random[:, 4:] = np.random.default_rng(1).permuted(value[:, 4:], axis=0)
    moved[:, :4] += 0.5
    worse, better = (mean_divergence([{"y": value}], [{"y": other}], found) for other in (random, moved))
    assert worse > 0.5 > 0.1 > better
    errors = found.errors({"y": value}, {"y": random})
    assert found.worst(errors)["y"] >= 4


def test_one_tensor_or_two_are_equally_far() -> None:
    rows, noise = pictures(16, 0), RNG.standard_normal((16, 10, 64)).astype(np.float32)
    values = []
    for text in (JOINED, APART):
        found, model, _ = looked_at(drawn(text), rows)
        before = session(model).run({"x": rows})
        parts = {"y": noise, "boxes": noise[:, :4], "scores": noise[:, 4:]}
        values.append(mean_divergence([before], [{name: a + 0.1 * parts[name] for name, a in before.items()}], found))
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_a_channel_that_never_varies_decides_nothing() -> None:
    """Rounding of a constant 640 beside a channel that moves by 1: 1e-4 of noise weighs less than a tenth of a deviation."""
    value = np.stack([np.full(200, 640.0), RNG.standard_normal(200)], axis=1).reshape(200, 1, 2).astype(np.float32)
    (found,) = outputs_like([{"y": value}]).of.values()
    output = replace(found, channel_axis=2, weight=np.full(2, 0.5), scale=np.array([0.0, 1.0]))
    model = network("y = MatMul(x, w)\nw = @[[1., 0.], [0., 1.]]", "float[n,1,2] x", "float[n,1,2] y")
    output = looked_at(model, value)[0].of["y"]
    noise, error = (output.errors(value, value + np.float32(step)).distance(output) for step in ([1e-4, 0], [0, 0.1]))
    assert noise < 0.1 * error


def test_what_the_original_does_not_say_is_left_out_and_what_breaks_is_infinite() -> None:
    a = np.array([[[1.0, np.nan], [2.0, 3.0]]])
    outputs = outputs_like([{"y": a}])
    assert mean_divergence([{"y": a}], [{"y": np.nan_to_num(a)}], outputs) == 0
    assert mean_divergence([{"y": a}], [{"y": np.where(a == 2, np.inf, a)}], outputs) == np.inf


def test_sizes_that_change_from_batch_to_batch_are_no_channels() -> None:
    """Rows of two lengths: what was taken for channels is one channel, then and later."""
    batches = [{"y": RNG.standard_normal((4, steps))} for steps in (5, 7)]
    found = outputs_like(batches)
    assert found.of["y"].channel_axis is None
    assert mean_divergence(batches, batches, found) == 0
    guessed = outputs_like(batches[:1])
    moved = [{"y": batch["y"] + 1.0} for batch in batches]
    assert 0 < mean_divergence(batches, moved, guessed) < np.inf


def test_padding_does_not_count() -> None:
    body = "h = MatMul(x, %6x5); y = Add(h, %5)"
    model = network(body, "float[n,t,6] x, int64[n,t] mask", "float[n,t,5] y")
    rows = {"x": X3, "mask": np.tile(np.arange(5) < 3, (9, 1)).astype(np.int64)}
    found, _, dataset = looked_at(model, rows)
    assert found.mask == "mask"
    inputs = next(dataset.batches(9))
    value = session(model).run(inputs)["y"]
    padding, steps = value.copy(), value.copy()
    padding[:, 3:] += 9
    steps[:, 2] += 9
    assert found.distance(found.errors({"y": value}, {"y": padding}, inputs)) == 0
    assert found.distance(found.errors({"y": value}, {"y": steps}, inputs)) > 1
    output, mask = found.of["y"], inputs["mask"]
    np.testing.assert_array_equal(output.per_sample(value, padding, mask), np.zeros(9))
    whole = found.distance(found.errors({"y": value}, {"y": steps}, inputs))
    assert output.per_sample(value, steps, mask).mean() == pytest.approx(whole)


def test_boxes_after_suppression_are_judged_before_it() -> None:
    """How many boxes are left is up to the data: never infinitely far, and said."""
    body = """
    h = MatMul(x, %6x8)
    b = MatMul(h, %8x4)
    c = MatMul(h, w)
    s = Sigmoid(c)
    p = Transpose<perm=[0,2,1]>(s)
    y = NonMaxSuppression(b, p, @10, @0.5, @0.5)
    w = %8x3
    """
    model = network(body, "float[n,5,6] x", "int64[k,3] y")
    found, loaded, dataset = looked_at(model, X3)
    assert found.inner == ("b", "p") and [output.name for output in found.judged] == ["b", "p"]
    assert len(found.left_out) == 1 and "'y' has entries that depend on the data" in found.left_out[0]
    other = onnx.ModelProto()
    other.CopyFrom(model)
    for tensor in other.graph.initializer:
        if tensor.name == "w":
            tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), "w"))
    reference = Reference(loaded, list(dataset.batches(4)), outputs=found)
    assert reference.divergence(loaded) == 0
    assert 0.1 < reference.divergence(read.load(other)) < np.inf
    result = onnxprune.prune(model, ratio=0.25, calibration=X3, latency=False, min_width=2)
    assert any("depend on the data" in text for text in result.report["warnings"])
    drift = result.report["drift"]["outputs"]
    assert {name: found["kind"] for name, found in drift.items()} == {"y": VARYING, "b": VALUES, "p": VALUES}
    same, changed = (onnxprune.validate(model, one, X3, min_cosine=0.999)["exit_code"] for one in (model, other))
    assert (same, changed) == (0, 1)  # by what is compared in its place
    assert all(np.isfinite(entry["divergence"]) for entry in result.report["search"])


def test_experts_chosen_inside_a_network_hide_no_output() -> None:
    """A choice before the last layers changes nothing about what the output is."""
    body = "v, i = TopK<axis=1>(x, @[3]); h = MatMul(v, %3x8); r = Relu(h); y = MatMul(r, %8x4)"
    found, _, _ = looked_at(network(body, "float[n,6] x", "float[n,4] y"), X2)
    assert found.of["y"].kind == SCORES and not found.left_out


# --- the same distance as nodes ---------------------------------------------------------------------------------------

TRAINED = ("classifier", "softmax", "several labels", "two heads in one", "scores of a sequence, time first",
           "steps before features", "steps folded into the samples", "classes per pixel", "channels last", "one number")  # fmt: skip


@pytest.mark.parametrize("case", TRAINED)
def test_the_loss_is_the_distance(case: str) -> None:
    """At temperature 1 the graph that recovery descends gives what the judge says (probabilities up to their floor)."""
    body, inputs, outputs, rows, _ = CASES[case]
    original, pruned = (network(body, inputs, outputs, seed=seed) for seed in (0, 1))
    found, loaded, _ = looked_at(original, rows)
    expected, have = session(loaded).run({"x": rows}), session(pruned).run({"x": rows})
    aim = objective(expected, None, "distill", temperature=1.0, how=found)
    graph = backward(read.load(pruned), list(trainable(read.load(pruned))), aim.loss)
    loss = session(graph).run({"x": rows, **aim.fed(aim.targets(expected))})["loss"]
    assert float(loss) == pytest.approx(aim.score(expected, have, None), rel=2e-4)
    assert float(loss) == pytest.approx(mean_divergence([expected], [have], found), rel=2e-4)


def test_padding_is_no_part_of_the_loss() -> None:
    model, other = (
        network("y = MatMul(x, w)\nw = %6x5", "float[n,t,6] x, int64[n,t] mask", "float[n,t,5] y", seed=s)
        for s in (0, 1)
    )
    rows = {"x": X3, "mask": (np.arange(5) < 3).astype(np.int64)[None].repeat(9, 0)}
    found, loaded, dataset = looked_at(model, rows)
    inputs = next(dataset.batches(9))
    expected, have = session(loaded).run(inputs), session(other).run(inputs)
    aim = objective(expected, None, "distill", how=found)
    loss = session(backward(read.load(other), ["w"], aim.loss)).run({**inputs, **aim.fed(aim.targets(expected))})[
        "loss"
    ]
    assert float(loss) == pytest.approx(aim.score(expected, have, None, inputs), rel=1e-4)
    assert float(loss) != pytest.approx(aim.score(expected, have, None), rel=1e-2)


# --- everyone who judges ----------------------------------------------------------------------------------------------

TIME_FIRST = """
t = Transpose<perm=[1,0,2]>(x)
h = MatMul(t, %6x24)
r = Relu(h)
l = MatMul(r, %24x7)
logits = Add(l, %7)
"""


def test_samples_on_another_axis_are_samples_everywhere() -> None:
    """Rows of 13 steps and 100 samples: search, repair, recovery and drift went by the first axis ("index out of bounds")."""
    model = network(TIME_FIRST, "float[n,13,6] x", "float[13,n,7] logits")
    rows = RNG.standard_normal((100, 13, 6)).astype(np.float32)
    result = onnxprune.prune(model, ratio=0.5, calibration=rows, evaluation=rows, latency=False, recover=20, batch=16)
    report = result.report
    drift = report["drift"]["outputs"]["logits"]
    before, after = (session(one).run({"x": rows})["logits"] for one in (model, result.model))
    assert drift["kind"] == SCORES
    assert drift["top1_agreement"] == pytest.approx((before.argmax(-1) == after.argmax(-1)).mean())
    a, b = (value.transpose(1, 0, 2).reshape(100, -1) for value in (before, after))
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert drift["cosine"] == pytest.approx(cosines.mean(), rel=1e-5)
    assert report["recover"]["after"] <= report["recover"]["before"] < 1


def test_search_repair_and_recovery_keep_scores_beside_boxes() -> None:
    """The bar: scores in one tensor with boxes lose no more than half again what they lose in a tensor of their own."""
    lost = []
    for text in (ONE_TENSOR, TWO_TENSORS):
        model, unseen = drawn(text, seed=6), pictures(24, 9)
        result = onnxprune.prune(
            model, target="macs=70%", calibration=pictures(64, 0), latency=False, recover=10, round_to=1
        )
        before, after = (session(one).run({"x": unseen}) for one in (model, result.model))
        scores = [found["scores"] if "scores" in found else found["y"][:, 4:] for found in (before, after)]
        lost.append(float(np.abs(scores[0] - scores[1]).mean()))
    assert 0 < lost[0] <= 1.5 * lost[1]


def test_layers_that_make_outputs_weigh_by_these() -> None:
    """Box rows and score rows of one weight: as loud as their importance says, not as large as they are."""
    body = "h = Relu(x); a = MatMul(h, w); b, c = Split<axis=2>(a, @[2,3]); s = Sigmoid(c); y = Concat<axis=2>(b, s)\nw = %6x5"
    model = network(body, "float[n,5,6] x", "float[n,5,5] y")
    found, loaded, _ = looked_at(model, 3 * X3)
    analysis = analyse(gather_facts(loaded, Graph(loaded.structure)))
    (importance,) = row_importance(analysis.solution.links, found).values()
    assert importance == pytest.approx([1 / 4, 1 / 4, 1 / 6, 1 / 6, 1 / 6])
    variance = np.array([400.0, 100.0, 1.0, 2.0, 4.0])
    loud = on_own_scales(variance, importance) ** 2 * variance
    np.testing.assert_allclose(loud / loud.sum(), importance)
    assert loud.sum() == pytest.approx(variance.sum())
    assert (on_own_scales(variance, None) == 1).all()


def damaged(model: ModelProto, seed: int = 5) -> ModelProto:
    """The same with random class scores."""
    other = onnx.ModelProto()
    other.CopyFrom(model)
    for tensor in other.graph.initializer:
        if tensor.name == "w4":
            array = np.random.default_rng(seed).permuted(numpy_helper.to_array(tensor), axis=0)
            tensor.CopyFrom(numpy_helper.from_array(-array, "w4"))
    return other


def test_gates_look_at_groups_of_channels() -> None:
    model = drawn(JOINED)
    report = onnxprune.validate(model, damaged(model), pictures(24, 0), min_cosine=0.9999)
    drift = report["drift"]["outputs"]["y"]
    assert drift["cosine"] > 0.9999 and drift["groups"][0]["cosine"] > 0.9999  # boxes hide the scores
    assert drift["groups"][1]["name"] == "y[4:10]" and drift["groups"][1]["cosine"] < 0.99
    assert drift["worst_channel"] >= 4 and drift["worst_channel_error"] > 0.3
    assert report["exit_code"] == 1 and not report["gates"][0]["passed"]
    json.dumps(report, allow_nan=False)
    fine = onnxprune.validate(model, model, pictures(24, 0), min_cosine=0.9999)
    assert fine["exit_code"] == 0 and {group["cosine"] for group in fine["drift"]["outputs"]["y"]["groups"]} == {1.0}


@pytest.mark.parametrize("text", [JOINED, APART], ids=["joined", "apart"])
def test_a_choice_of_classes_where_there_is_none_is_refused_first(text: tuple[str, str, str], monkeypatch) -> None:
    monkeypatch.setattr("onnxprune.changes.units.choose.search_units", None)  # not to be reached
    with pytest.raises(UsageError, match=r"min_agreement needs an output of class scores.*\(values\).*min_cosine"):
        onnxprune.prune(drawn(text), calibration=pictures(8, 0), min_agreement=0.9)
    with pytest.raises(UsageError, match="min_agreement needs"):
        onnxprune.validate(drawn(text), drawn(text), pictures(8, 0), min_agreement=0.9)


def test_rows_that_judge_what_was_fitted_to_them_are_said() -> None:
    model = network("h = MatMul(x, %6x16); r = Relu(h); y = MatMul(r, %16x4)", "float[n,6] x", "float[n,4] y")
    few, many = (
        onnxprune.prune(model, ratio=0.5, calibration=X2.repeat(n, 0)[:rows], latency=False, recover=2).report
        for n, rows in ((1, 1), (8, 72))
    )
    said = [text for text in few["warnings"] if "too few rows to hold any out" in text]
    assert [text.split(": ")[1].split(" judged")[0] for text in said] == [
        "proposals were",
        "the repair was",
        "the training was",
    ]
    assert not any("too few rows" in text for text in many["warnings"])
    for report, held_out in ((few, False), (many, True)):
        assert report["repair"]["held_out"] == report["recover"]["held_out"] == held_out
    assert many["repair"]["refitted"]


HIDDEN = "h0 = MatMul(x, %6x16); h = Relu(h0);"
FORMS = {
    # what comes after a hidden layer, outputs, what is compared, whether recovery can train towards it
    "samples against samples": ("l = MatMul(h, %16x4); t = Transpose(l); y = MatMul(l, t)", "float[n,m] y", ["y"], False),
    "a mean over the samples": ("l = MatMul(h, %16x3); y = ReduceMean<keepdims=0>(l, @[0])", "float[3] y", ["y"], False),
    "the best few": (
        "l = MatMul(h, %16x8); s = Sigmoid(l); v, i = TopK<axis=1>(s, @[3])", "float[n,3] v, int64[n,3] i", ["s"], True
    ),
    "places of flags": ("l = MatMul(h, %16x8); g = Greater(l, @0.0); y = NonZero(g)", "int64[2,k] y", ["l"], True),
    "a constant beside": ("y = MatMul(h, %16x4); z = Identity(@[1.0, 2.0])", "float[n,4] y, float[2] z", ["y"], True),
}  # fmt: skip


@pytest.mark.parametrize("case", FORMS)
def test_unusual_outputs_are_judged_too(case: str) -> None:
    """Every judge says something finite that is not nothing, and recovery trains or says why it cannot."""
    body, outputs, compared, trains = FORMS[case]
    model, rows = network(HIDDEN + body, "float[n,6] x", outputs), RNG.standard_normal((40, 6)).astype(np.float32)
    assert [output.name for output in looked_at(model, rows)[0].judged] == compared
    common = {"ratio": 0.5, "calibration": rows, "latency": False, "batch": 8}
    report = onnxprune.prune(model, **common).report
    assert all(0 < entry["divergence"] < np.inf for entry in report["search"])
    for name in ("kl", "fisher"):
        onnxprune.prune(model, criterion=name, **common)
    if trains:
        assert onnxprune.prune(model, recover=2, **common).report["recover"]["before"] > 0
    else:
        with pytest.raises(DataError, match="follows the samples"):
            onnxprune.prune(model, recover=2, **common)


def test_gates_on_rows_that_decided_are_said() -> None:
    model = network("h = MatMul(x, %6x16); r = Relu(h); y = MatMul(r, %16x4)", "float[n,6] x", "float[n,4] y")
    rows = RNG.standard_normal((40, 6)).astype(np.float32)
    same, other = (
        onnxprune.prune(model, ratio=0.5, calibration=rows, evaluation=data, latency=False, min_cosine=0.1).report
        for data in (None, rows + 1)
    )
    assert [report["drift"]["rows"] for report in (same, other)] == ["calibration", "evaluation"]
    said = [
        any("min_cosine: judged on calibration rows" in text for text in report["warnings"]) for report in (same, other)
    ]
    assert said == [True, False]
    curves = [sensitivity(model, rows[:count])["warnings"] for count in (1, 40)]
    assert len(curves[0]) == 1 and "the curves were judged on the 1 rows" in curves[0][0] and not curves[1]


# --- weights by hand --------------------------------------------------------------------------------------------------


def test_weights_by_hand() -> None:
    found, _, _ = looked_at(drawn(JOINED), pictures(12, 0))
    more = weighed(found, [("y[4:10]", 3.0)]).of["y"]
    assert more.weight[4:].sum() == pytest.approx(0.75) and more.weight.sum() == pytest.approx(1)
    one = weighed(found, [("y", 2.0), ("y[0]", 0.0)]).of["y"]
    assert one.weight[0] == 0 and one.importance == pytest.approx(2 * 7 / 8)
    apart, _, _ = looked_at(drawn(APART), pictures(12, 0))
    alone = weighed(apart, [("boxes", 0.0)])
    value = {"boxes": np.zeros((1, 4, 64)), "scores": np.zeros((1, 6, 64))}
    assert mean_divergence([value], [value | {"boxes": value["boxes"] + 9}], alone) == 0


WRONG: Mapping[str, tuple[tuple[str, float], str]] = {
    "no such output": (("z", 2.0), "no such output"),
    "a near name": (("boxe", 2.0), "did you mean 'boxes'"),
    "no such channel": (("boxes[4]", 2.0), "boxes has channels 0 to 3"),
    "a range that ends before it starts": (("boxes[3:2]", 2.0), "boxes has channels 0 to 3"),
    "no numbers": (("boxes[a:b]", 2.0), r"boxes\[3\] or boxes\[4:84\]"),
    "a negative weight": (("boxes", -1.0), "at least 0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_weights_that_name_nothing_are_usage_errors(case: str) -> None:
    weight, message = WRONG[case]
    found, _, _ = looked_at(drawn(APART), pictures(4, 0))
    with pytest.raises(UsageError, match=message):
        weighed(found, [weight])


def test_an_exact_name_comes_before_channels() -> None:
    model = network("l = MatMul(x, %6x4)", "float[n,6] x", "float[n,4] l")
    model.graph.node[0].output[0] = model.graph.output[0].name = "y[0]"
    found, _, _ = looked_at(model, X2)
    assert weighed(found, [("y[0]", 2.0)]).of["y[0]"].importance == 2
    assert weighed(found, [("y[0][1]", 0.0)]).of["y[0]"].weight[1] == 0


def test_weights_need_data() -> None:
    with pytest.raises(UsageError, match="give data"):
        onnxprune.prune(drawn(APART), output_weight={"boxes": 2.0})
    with pytest.raises(UsageError, match="no such output"):
        onnxprune.prune(drawn(APART), calibration=pictures(4, 0), output_weight={"box": 2.0})


# --- what is told -----------------------------------------------------------------------------------------------------


def test_reports_and_comparisons_see_inside_an_output() -> None:
    """The table has a row per group; the error that sweeps and baselines go by is that of the worst group."""
    model = drawn(JOINED)
    fine, bad = (onnxprune.validate(model, other, pictures(12, 0)) for other in (model, damaged(model)))
    rows = drift_rows(bad["drift"]["outputs"])
    assert [row[0] for row in rows] == ["y", "y[0:4]", "y[4:10]"] and all(len(row) == len(DRIFT) for row in rows)
    assert rows[0][4].endswith(" sd)") and int(rows[2][4]) >= 4
    whole, scores = (
        part["relative_l2"] for part in (bad["drift"]["outputs"]["y"], bad["drift"]["outputs"]["y"]["groups"][1])
    )
    assert whole < 0.01 < 0.1 < scores == MEASURED["relative_l2"](bad)
    gates = {gate["name"]: gate["passed"] for gate in Baseline(fine, tolerance=0.05).judge(bad)}
    assert not gates["baseline_relative_l2_of_groups"]


def test_from_the_command_line(tmp_path) -> None:
    model, data = tmp_path / "m.onnx", tmp_path / "x.npy"
    onnx.save(drawn(APART), model)
    np.save(data, pictures(8, 0))
    base = [
        str(model),
        str(tmp_path / "small.onnx"),
        "--calib",
        str(data),
        "--no-latency",
        "--json",
        str(tmp_path / "r.json"),
    ]
    called = CliRunner().invoke(main, [*base, "--output-weight", "scores=3", "--output-weight", "boxes[2:4]=0"])
    assert called.exit_code == 0, called.output
    assert json.loads((tmp_path / "r.json").read_text())["settings"]["output_weight"] == [
        ["scores", 3.0],
        ["boxes[2:4]", 0.0],
    ]
    for wrong in ("scores", "score=2", "scores[7]=2"):
        assert CliRunner().invoke(main, [*base, "--force", "--output-weight", wrong]).exit_code == 2
