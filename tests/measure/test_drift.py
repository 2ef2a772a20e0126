"""Drift: every metric by hand, batches that may be cut and merged anywhere, intervals that mean what they say."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx.parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.data import Dataset, InputSpec, open_dataset, random_dataset
from onnxprune.errors import DataError, ModelError, UsageError
from onnxprune.means import Means
from onnxprune.measure import compared, metrics
from onnxprune.measure.accumulators import ErrorHistogram, Mean
from onnxprune.measure.bootstrap import paired_interval, prove, unseen_bound
from onnxprune.measure.compared import pair_outputs
from onnxprune.measure.drift import DriftReport, OutputDrift, TaskDrift, compare
from onnxprune.measure.metrics import TaskMetric, script_metric
from onnxprune.measure.outputs import VALUES, Output, Outputs
from onnxprune.model.runtime import session

SPEC = (InputSpec("x", np.dtype(np.float32), ("n", 3)),)
finite = st.floats(-100, 100, width=32)


class Model:
    """A model made of a Python function per output."""

    by_segments = False

    def __init__(self, **functions: Callable[[np.ndarray], object]):
        self.functions, self.outputs = functions, tuple(functions)

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, object]:
        return {name: function(feeds["x"]) for name, function in self.functions.items()}


def data(x: object, labels: object = None) -> Dataset:
    return open_dataset(np.asarray(x, np.float32), SPEC, labels=labels)


def drift(before: object, after: object, samples: int | None = None) -> OutputDrift:
    result = OutputDrift()
    a = np.asarray(before)
    result.add(a, np.asarray(after), len(a) if samples is None else samples)
    return result


# --- metrics by hand


def test_distances_by_hand() -> None:
    # signal 9 + 16 + 0 + 0 = 25, noise 0 + 0.25 + 0 + 0 = 0.25
    result = drift([[3.0, 4.0], [0.0, 0.0]], [[3.0, 4.5], [0.0, 0.0]])
    assert result.relative_l2 == pytest.approx(0.1)
    assert result.sqnr_db == pytest.approx(20.0)
    assert result.max_abs == 0.5
    assert result["cosine"] == pytest.approx(((9 + 18) / (5 * math.sqrt(29.25)) + 1) / 2)


def test_cosine_by_hand() -> None:
    a = np.array([[1.0, 0], [1, 0], [1, 0], [0, 0], [0, 0]])
    b = np.array([[2.0, 0], [0, 5], [-1, 0], [0, 0], [1, 0]])
    np.testing.assert_array_equal(metrics.cosine_of_rows(a, b), [1, 0, -1, 1, 0])


def test_top1_and_top5_by_hand() -> None:
    a = np.array([[0, 9, 0, 0, 0, 0, 0.0]] * 4)
    b = np.array(
        [
            [0, 1, 0, 0, 0, 0, 0],  # first
            [5, 4, 3, 2, 1, 0, 0],  # second
            [6, 1, 5, 4, 3, 2, 0],  # sixth
            [1, 1, 1, 1, 1, 1, 1.0],  # all equal: the lower index wins, class 1 is second
        ]
    )
    np.testing.assert_array_equal(metrics.top1_agreement(a, b), [1, 0, 0, 0])
    np.testing.assert_array_equal(metrics.top5_agreement(a, b), [1, 1, 0, 1])
    late = np.array([[0, 0, 0, 0, 0, 0, 9.0]])
    assert metrics.top5_agreement(late, np.ones((1, 7))) == 0  # six ties with lower indices come first


def test_kl_by_hand() -> None:
    # softmax (ln 3, 0) = (3/4, 1/4); softmax (0, 0) = (1/2, 1/2)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    logits = metrics.kl_of_rows(np.array([[math.log(3), 0.0]]), np.array([[7.0, 7.0]]))
    probabilities = metrics.kl_of_rows(np.array([[0.75, 0.25]]), np.array([[0.5, 0.5]]))
    np.testing.assert_allclose([logits[0], probabilities[0]], expected, rtol=1e-12)
    masked = metrics.kl_of_rows(np.array([[1.0, 2.0, -np.inf]]), np.array([[1.0, 2.0, -np.inf]]))
    assert masked == 0.0
    assert metrics.kl_of_rows(np.array([[1.0, 2.0]]), np.array([[1.0, -np.inf]])) == np.inf


def test_dense_and_integer_outputs_by_hand() -> None:
    a = np.zeros((1, 2, 2, 2), np.float32)
    b = a.copy()
    b[0, 1, 0, 0] = 1.0  # one pixel of four changes its class
    result = drift(a, b)
    assert result["pixel_agreement"] == 0.75 and result["top1_agreement"] is None and result["equal"] is None
    integers = drift(np.array([1, 2, 3]), np.array([1, 2, 4]))
    assert integers["equal"] == pytest.approx(2 / 3) and integers["top1_agreement"] is None


def test_only_classifiers_have_class_metrics() -> None:
    narrow = drift(np.ones((4, 1), np.float32), np.ones((4, 1), np.float32))
    assert narrow["top1_agreement"] is None and narrow["kl"] is None
    few = drift(np.ones((4, 5), np.float32), np.ones((4, 5), np.float32))
    assert few["top1_agreement"] == 1 and few["top5_agreement"] is None


@given(st.lists(st.floats(1e-20, 1e20), min_size=1, max_size=200), st.sampled_from([0.01, 0.5, 0.99, 1.0]))
def test_histogram_quantiles_are_tight_upper_bounds(values: list[float], share: float) -> None:
    histogram = ErrorHistogram()
    histogram.add(np.array(values))
    exact = np.quantile(np.array(values), share, method="inverted_cdf")
    # float32 rounds by 6e-8 before the value is put into a bin
    assert exact * (1 - 1e-7) <= histogram.quantile(share) <= exact * (1 + 1 / 64 + 1e-6)


def test_histogram_of_zeros_and_infinities() -> None:
    histogram = ErrorHistogram()
    histogram.add(np.array([0.0, 0.0, 0.0, np.inf]))
    assert histogram.quantile(0.75) == 0.0 and histogram.quantile(0.99) == math.inf
    assert drift(np.arange(1000.0), np.arange(1000.0) + 2.0).p99_abs == 2.0  # never above the maximum


# --- laws


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(*[finite] * 14), min_size=2, max_size=20), st.data())
def test_batches_merge_into_the_whole(values: list[tuple[float, ...]], draw: st.DataObject) -> None:
    array = np.array(values)
    a, b = array[:, :7], array[:, 7:]
    whole = drift(a, b).to_json()
    cut = draw.draw(st.integers(1, len(a) - 1))
    added, merged = drift(a[:cut], b[:cut]), drift(a[:cut], b[:cut])
    added.add(a[cut:], b[cut:], len(a) - cut)
    merged.merge(drift(a[cut:], b[cut:]))
    for other in (added.to_json(), merged.to_json()):
        for name, value in whole.items():
            assert other[name] == (value if value is None else pytest.approx(value, rel=1e-9, abs=1e-12)), name


@given(st.lists(st.tuples(finite, finite, finite), min_size=1, max_size=20))
def test_a_model_does_not_drift_from_itself(values: list[tuple[float, ...]]) -> None:
    result = drift(np.array(values), np.array(values))
    assert result.sqnr_db == math.inf and result.relative_l2 == result.max_abs == result.p99_abs == 0
    assert result["cosine"] == pytest.approx(1) and result["top1_agreement"] == 1
    assert result["kl"] == pytest.approx(0, abs=1e-12)
    assert result.to_json()["sqnr_db"] is None


@given(st.lists(st.tuples(*[finite] * 6), min_size=1, max_size=20), st.floats(0.1, 10))
def test_scale_free_metrics(values: list[tuple[float, ...]], factor: float) -> None:
    a, b = np.hsplit(np.array(values), 2)
    plain, scaled = drift(a, b), drift(a * factor, b * factor)
    assert scaled.relative_l2 == pytest.approx(plain.relative_l2, rel=1e-9)
    assert scaled["cosine"] == pytest.approx(plain["cosine"], abs=1e-9)
    assert scaled.max_abs == pytest.approx(plain.max_abs * factor)
    assert -1 - 1e-9 <= plain["cosine"] <= 1 + 1e-9 and plain["kl"] >= 0


def test_not_a_number_is_never_hidden() -> None:
    a = np.array([[1.0, 2.0], [3.0, 4.0]])
    broken = drift(a, np.array([[1.0, 2.0], [3.0, np.nan]]))
    assert broken.non_finite == 1 and broken.max_abs == math.inf and broken.sqnr_db == -math.inf
    assert broken["top1_agreement"] == 0.5 and broken["kl"] == math.inf and broken["cosine"] == 0.5
    json.dumps(broken.to_json(), allow_nan=False)
    same = drift(np.array([[1.0, -np.inf], [np.nan, 0.0]]), np.array([[1.0, -np.inf], [np.nan, 0.0]]))
    assert same.non_finite == 0 and same.max_abs == 0 and same["top1_agreement"] == 1


def test_shapes_that_differ_are_left_out_and_said() -> None:
    before = Model(boxes=lambda x: x)
    after = Model(boxes=lambda x: x[:1])
    report = compare(before, after, data(np.eye(3)), Means(batch=2))
    assert report.outputs["boxes"].incomparable == 1 and report.outputs["boxes"].elements == 3
    assert any("shapes differ in 1 batches" in text for text in report.warnings)
    everything = compare(before, after, data(np.eye(3)), Means(batch=3)).to_json()["drift"]["outputs"]["boxes"]
    assert everything["incomparable"] == 1 and everything["sqnr_db"] is None and everything["max_abs"] is None


def test_outputs_without_a_sample_axis_are_one_row() -> None:
    result = drift(np.array([3.0, 4.0]), np.array([4.0, 3.0]), samples=5)
    assert result["cosine"] == pytest.approx(24 / 25)
    assert drift(np.float32(2.0), np.float32(1.0), samples=1).max_abs == 1.0


# --- the task


def test_accuracy_by_hand() -> None:
    before = Model(logits=lambda x: x)
    after = Model(logits=lambda x: x[:, ::-1])
    report = compare(before, after, data(np.eye(3).repeat(2, axis=0), labels=[0, 0, 1, 1, 2, 1]), Means(batch=4))
    task = report.to_json()["task"]
    # before: classes 0 0 1 1 2 2; after: 2 2 1 1 0 0
    assert task["metric"] == "top1_accuracy" and task["before"] == pytest.approx(5 / 6)
    assert task["after"] == pytest.approx(2 / 6) and task["drop"] == pytest.approx(3 / 6) and task["samples"] == 6
    assert task["interval"][0] < 0.5 < task["interval"][1]


def test_pixel_accuracy_by_hand() -> None:
    logits = np.zeros((2, 2, 1, 3))
    logits[0, 1] = 1.0
    labels = np.array([[[1, 0, 255]], [[255, 255, 255]]])
    values = metrics.pixels_correct(logits, labels)
    assert values[0] == 0.5 and np.isnan(values[1])  # one void pixel; nothing labelled
    task = TaskDrift("pixel_accuracy")
    task.add(values, values)
    assert task.to_json()["samples"] == 1


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 3], "labels range from 0 to 3, the model knows classes 0 to 2"),
        ([0, 1, -1], "labels range from -1"),
        ([0.5, 1, 2], "not class numbers"),
        (np.eye(3), "not class numbers"),
    ],
)
def test_labels_that_do_not_fit(labels: object, message: str) -> None:
    model = Model(logits=lambda x: x)
    with pytest.raises(DataError, match=message):
        compare(model, model, data(np.eye(3), labels=labels))


def test_labels_may_be_a_column() -> None:
    model = Model(logits=lambda x: x)
    assert compare(model, model, data(np.eye(3), labels=[[0.0], [1.0], [1.0]])).task.values[0].tolist() == [1, 1, 0]


def test_the_output_can_be_chosen() -> None:
    model = Model(first=lambda x: x, second=lambda x: -x)
    chosen = compare(model, model, data(np.eye(3), labels=[1, 0, 0]), output="second")
    assert chosen.to_json()["task"]["before"] == 1.0
    with pytest.raises(UsageError, match="no output 'secnd'; did you mean 'second'"):
        compare(model, model, data(np.eye(3), labels=[1, 0, 0]), output="secnd")
    vector = Model(y=lambda x: x[:, 0])
    report = compare(vector, vector, data(np.eye(3), labels=[1, 0, 0]))
    assert report.task is None and any("--metric" in text for text in report.warnings)


def test_metric_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "def closeness(outputs, labels):\n    return -np.abs(outputs['y'] - labels)\n"
        "def wrong(outputs, labels):\n    return 1.0\n"
        "def nan(outputs, labels):\n    return np.where(outputs['y'] > 5, np.nan, 0.0)\n"
    )
    before, after = Model(y=lambda x: x[:, 0]), Model(other=lambda x: x[:, 0] + 9)
    dataset = data(np.diag([1.0, 2.0, 3.0]), labels=[1.0, 1.0, 0.0])
    report = compare(before, after, dataset, metric=script_metric(f"{tmp_path / 'mine.py'}:closeness"))
    # |1 - 1|, |0 - 1|, |0 - 0| before; |10 - 1|, |9 - 1|, |9 - 0| after
    task = report.to_json()["task"]
    assert task["metric"] == "closeness"
    assert task["before"] == pytest.approx(-1 / 3) and task["after"] == pytest.approx(-26 / 3)
    for name, message in (("wrong", r"returned float64\[\] for 3 samples"), ("nan", "NaN or Inf")):
        with pytest.raises(DataError, match=message):
            compare(before, after, dataset, metric=script_metric(f"{tmp_path / 'mine.py'}:{name}"))
    with pytest.raises(UsageError, match="did you mean 'closeness'"):
        script_metric(f"{tmp_path / 'mine.py'}:closenes")
    with pytest.raises(UsageError, match=r"script\.py:function"):
        script_metric("closeness")


# --- intervals


def test_interval_of_equal_models_is_a_point() -> None:
    same = np.array([1.0, 0.0, 1.0])
    assert paired_interval(same, same) == (0.0, 0.0)
    assert paired_interval(same + 0.25, same) == (0.25, 0.25)


def test_interval_agrees_with_the_normal_approximation() -> None:
    before, after = np.ones(1000), np.ones(1000)
    after[:100] = 0.0
    low, high = paired_interval(before, after, resamples=20000)
    half = 1.96 * math.sqrt(0.1 * 0.9 / 1000)
    # 20,000 resamples: quantiles are exact to some 3 % of the half width, lattice steps are 0.001
    assert low == pytest.approx(0.1 - half, abs=0.0015) and high == pytest.approx(0.1 + half, abs=0.0015)


def test_interval_agrees_with_plain_resampling() -> None:
    generator = np.random.default_rng(1)
    before, after = generator.normal(size=(2, 60))
    means = (before - after)[generator.integers(0, 60, (20000, 60))].mean(axis=1)
    spread = means.std()
    np.testing.assert_allclose(
        paired_interval(before, after, resamples=20000), np.quantile(means, [0.025, 0.975]), atol=0.1 * spread
    )


def test_interval_depends_on_the_seed_only() -> None:
    before, after = np.random.default_rng(0).random((2, 50))
    assert paired_interval(before, after, seed=1) == paired_interval(before, after, seed=1)
    assert paired_interval(before, after, seed=1) != paired_interval(before, after, seed=2)


def test_intervals_cover_the_truth() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        before = generator.random(300) < 0.9
        after = before ^ (generator.random(300) < 0.1)
        low, high = paired_interval(before.astype(float), after.astype(float), resamples=500, seed=seed)
        covered += low <= 0.08 <= high  # 0.1 * 0.9 lost, 0.1 * 0.1 won
    assert covered >= 178  # of 190 expected; four standard deviations below


def test_unseen_bound_is_the_rule_of_three() -> None:
    assert unseen_bound(59) <= 0.05 < unseen_bound(58)
    assert unseen_bound(10_000) == pytest.approx(3 / 10_000, rel=0.01)


def test_few_samples_prove_nothing() -> None:
    task = TaskDrift("top1_accuracy")
    task.add(np.ones(20), np.ones(20))
    proof = task.prove(0.01)
    assert not proof.holds and proof.samples_needed == 299  # ln 0.05 / ln 0.99 = 298.07
    assert "20 samples cannot prove a drop of at most 1.00%" in (proof.warning() or "")
    assert prove(np.ones(299), np.ones(299), (0.0, 0.0), 0.01).holds
    missed = prove(np.ones(4), np.zeros(4), (1.0, 1.0), 0.01)
    assert not missed.holds and missed.warning() is None and missed.samples_needed is None


def test_a_clear_gain_proves_a_budget_of_zero() -> None:
    task = TaskDrift("top1_accuracy")
    after = np.ones(1000)
    before = np.r_[np.zeros(100), np.ones(900)]
    task.add(before, after)
    assert task.prove(0.0).holds and task.prove(0.0).warning() is None


# --- whole comparisons


def test_outputs_are_paired() -> None:
    assert pair_outputs(("a", "b"), ("b", "a", "c")) == {"a": "a", "b": "b"}
    assert pair_outputs(("a", "b"), ("c", "d")) == {"a": "c", "b": "d"}
    with pytest.raises(ModelError, match="share no output: a against b, c"):
        pair_outputs(("a",), ("b", "c"))


def test_what_is_no_tensor_is_said_once() -> None:
    model = Model(names=lambda x: np.array(["a"] * len(x)), maps=lambda x: [{0: 1.0}], y=lambda x: x)
    report = compare(model, model, data(np.eye(3)), Means(batch=1))
    assert list(report.outputs) == ["y"]
    assert len([text for text in report.warnings if "not a tensor of numbers" in text]) == 2


def test_reports_merge() -> None:
    before, after = Model(logits=lambda x: x), Model(logits=lambda x: x * x)
    x, y = np.random.default_rng(0).standard_normal((9, 3)), np.arange(9) % 3
    whole = compare(before, after, data(x, y)).to_json()
    first, second = compare(before, after, data(x[:4], y[:4])), compare(before, after, data(x[4:], y[4:]))
    first.merge(second)
    merged = first.to_json()
    assert merged["drift"]["samples"] == 9 and merged["task"] == whole["task"]
    assert merged["drift"]["outputs"]["logits"] == pytest.approx(whole["drift"]["outputs"]["logits"])


def test_two_onnx_models() -> None:
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[n,3] x) => (float[n,3] y) <float[3] w = {1, 1, FACTOR}> { y = Mul(x, w) }"""
    a, b = (session(onnx.parser.parse_model(text.replace("FACTOR", factor))) for factor in ("1", "2"))
    report = compare(a, b, data([[3, 0, 4], [3, 4, 0]], labels=[2, 1]), Means(batch=1)).to_json()
    json.dumps(report, allow_nan=False)
    assert set(report) == {"drift", "task"}
    output = report["drift"]["outputs"]["y"]
    assert {"sqnr_db", "cosine", "max_abs", "relative_l2", "top1_agreement", "kl"} <= set(output)
    # noise 16 of signal 50
    assert output["relative_l2"] == pytest.approx(math.sqrt(16 / 50)) and output["max_abs"] == 4
    assert output["cosine"] == pytest.approx(((9 + 32) / (5 * math.sqrt(73)) + 1) / 2)
    assert {"metric", "before", "after", "drop", "interval"} <= set(report["task"])
    assert report["task"]["drop"] == 0 and report["task"]["interval"] == [0, 0]


def test_random_data_is_said_to_prove_nothing() -> None:
    model = Model(y=lambda x: x)
    report = compare(model, model, random_dataset(SPEC, 4)).to_json()["drift"]
    assert report["synthetic"] and "random" in report["warnings"][0] and report["samples"] == 4


def test_empty_mean_has_no_value() -> None:
    assert Mean().value is None


def test_values_of_a_custom_metric_are_checked() -> None:
    with pytest.raises(DataError, match="one number per sample"):
        TaskMetric("m", lambda outputs, labels: ["a"]).values({}, None, 1)


@pytest.mark.parametrize("axis, folded", [(0, 1), (1, 1), (0, 2)])
def test_large_outputs_are_compared_some_samples_at_a_time(
    axis: int, folded: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((2, 3, folded * 4)).astype(np.float32)

    def gives(weight: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        return lambda x: np.moveaxis((x @ weight).reshape(len(x) * folded, 4), 0, axis)

    one, two = (Model(y=gives(weight)) for weight in weights)
    plain = np.ones(4)
    how = Outputs({"y": Output("y", VALUES, plain, plain / 4, (), axis, 1 - axis, folded, classes=True)})
    x, labels = rng.standard_normal((11, 3)), rng.integers(0, 4, 11) if folded == 1 and axis == 0 else None
    whole = compare(one, two, data(x, labels), Means(batch=5), outputs=how)
    seen: list[int] = []
    add = DriftReport._add
    monkeypatch.setattr(DriftReport, "_add", lambda self, part: seen.append(part.batch.samples) or add(self, part))
    monkeypatch.setattr(compared, "MOST", 8 * folded)
    parts = compare(one, two, data(x, labels), Means(batch=5), outputs=how)
    assert seen == [2, 2, 1, 2, 2, 1, 1]
    flat = [flattened(report.to_json()) for report in (whole, parts)]
    assert flat[0].keys() == flat[1].keys()
    for name, value in flat[0].items():
        assert flat[1][name] == (pytest.approx(value, rel=1e-6) if isinstance(value, float) else value), name
    seen.clear()
    compare(one, two, data(x), Means(batch=5))
    assert seen == [5, 5, 1]  # nobody knows whose entries are whose


def flattened(value: object, name: str = "") -> dict[str, object]:
    """Return every number and text of a document by where it stands."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if inner is None:
        return {name: value}
    return {k: v for key, each in inner for k, v in flattened(each, f"{name}.{key}").items()}
