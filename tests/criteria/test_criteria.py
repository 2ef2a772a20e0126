"""Data-free criteria: exact scores on hand-sized networks, and the laws they obey."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, numpy_helper
from support.networks import network
from support.oracles import analysed

from onnxprune.criteria import CRITERIA, Criterion, parse_criterion, score, tensors
from onnxprune.criteria.spec import criterion
from onnxprune.errors import DataError, UsageError
from onnxprune.means import Means

A = np.array([[1.0, 0.0, 3.0], [2.0, -1.0, 4.0]])
B = np.array([[1.0, 1.0], [0.0, 2.0], [3.0, -4.0]])
WEIGHT_CRITERIA = ["l1", "l2", "linf", "lamp", "fpgm"]


def dense(a: np.ndarray, b: np.ndarray) -> ModelProto:
    """x @ a, Relu, @ b: one group, the columns of a and the rows of b."""
    text = "h = MatMul(x, a)\nr = Relu(h)\ny = MatMul(r, b)"
    model = network(text, f"float[1,{len(a)}] x", f"float[1,{b.shape[1]}] y")
    for name, content in (("a", a), ("b", b)):
        model.graph.initializer.append(numpy_helper.from_array(content.astype(np.float32), name))
    return model


def scores(model: ModelProto, text: str, roles: str = "both", seed: int = 0) -> np.ndarray:
    """Scores of the first group."""
    return score(analysed(model), parse_criterion(text, roles), Means(seed=seed)).values[0]


R2, R5, R8, R10, R34 = np.sqrt([2, 5, 8, 10, 34])
EXACT = [
    ("l1:sum:none", "writes", [3, 1, 7]),
    ("l1:sum:none", "reads", [2, 2, 7]),
    ("l1:sum:none", "both", [5, 3, 14]),
    ("l1:mean:none", "both", [2.5, 1.5, 7]),
    ("l1:max:none", "both", [3, 2, 7]),
    ("l1:prod:none", "both", [6, 2, 49]),
    ("l1:first:none", "both", [3, 1, 7]),
    ("l1:sum:mean", "writes", [9 / 11, 3 / 11, 21 / 11]),
    ("l1:sum:max", "writes", [3 / 7, 1 / 7, 1]),
    ("l1:sum:standard", "writes", [-2 / 3 / (np.sqrt(56) / 3), -8 / 3 / (np.sqrt(56) / 3), 10 / 3 / (np.sqrt(56) / 3)]),
    ("l2:sum:none", "writes", [R5, 1, 5]),
    ("l2:sum:none", "reads", [R2, 2, 5]),
    ("linf:sum:none", "both", [3, 3, 8]),
    ("lamp", "both", [7 / 57, 5 / 62, 1]),
    ("fpgm:sum:none", "writes", [R10 + R8, R10 + R34, R8 + R34]),
]


@pytest.mark.parametrize(("text", "roles", "expected"), EXACT)
def test_scores_are_the_formulas(text: str, roles: str, expected: list[float]) -> None:
    np.testing.assert_allclose(scores(dense(A, B), text, roles), expected, rtol=1e-12)


def test_batch_norm_scale_is_gamma() -> None:
    model = network(
        "c = Conv(x, %4x3x1x1)\nn = BatchNormalization(c, gamma, %4, %4, %+4)\ny = Conv(n, %2x4x1x1)",
        outputs="float[2,2,4,4] y",
    )
    model.graph.initializer.append(numpy_helper.from_array(np.float32([0.5, -2, 0, 1]), "gamma"))
    found = score(analysed(model), parse_criterion("bn-scale:mean:none"))
    np.testing.assert_array_equal(found.values[0], [0.5, 2, 0, 1])
    assert not found.warnings


def test_a_group_without_batch_norm_is_scored_by_l2_and_says_so() -> None:
    found = score(analysed(dense(A, B)), parse_criterion("bn-scale"))
    np.testing.assert_array_equal(found.values[0], scores(dense(A, B), "l2"))
    assert found.warnings == ("no normalisation scale (folded away?), scored by l2 instead of bn-scale: group a",)


def test_a_unit_of_several_positions_has_one_norm() -> None:
    """Flattening gives every channel of the convolution four rows of the matrix."""
    text = "w = %3x2x1x1\nm = %12x5\nc = Conv(x, w)\nf = Flatten(c)\ny = MatMul(f, m)"
    model = network(text, "float[2,2,2,2] x", "float[2,5] y")
    stored = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer}
    rows = stored["m"].reshape(3, 20)
    np.testing.assert_allclose(scores(model, "l2:sum:none", "reads"), np.linalg.norm(rows, axis=1))
    distances = np.linalg.norm(rows[:, None] - rows[None], axis=2).sum(axis=1)
    np.testing.assert_allclose(scores(model, "fpgm:sum:none", "reads"), distances, rtol=1e-6)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 99), name=st.sampled_from(WEIGHT_CRITERIA))
def test_permuting_units_permutes_scores(seed: int, name: str) -> None:
    rng = np.random.default_rng(seed)
    a, b, order = rng.standard_normal((3, 6)), rng.standard_normal((6, 2)), rng.permutation(6)
    straight, permuted = scores(dense(a, b), name), scores(dense(a[:, order], b[order]), name)
    np.testing.assert_allclose(permuted, straight[order], rtol=1e-9)


@pytest.mark.parametrize("name", WEIGHT_CRITERIA)
def test_scaling_all_weights_scales_raw_scores_and_leaves_normalised_ones(name: str) -> None:
    expected = scores(dense(A, B), name)
    np.testing.assert_allclose(scores(dense(8 * A, 8 * B), name), expected, rtol=1e-12)
    if name != "lamp":
        raw = scores(dense(A, B), f"{name}:mean:none")
        np.testing.assert_allclose(scores(dense(8 * A, 8 * B), f"{name}:mean:none"), 8 * raw, rtol=1e-12)


@pytest.mark.parametrize("name", WEIGHT_CRITERIA)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_units_with_weights_that_are_no_numbers_stay(name: str, bad: float) -> None:
    a = A.copy()
    a[0, 1] = bad
    found = score(analysed(dense(a, B)), parse_criterion(name))
    assert np.isfinite(found.values[0]).tolist() == [True, False, True]
    assert found.values[0][1] == np.inf
    assert found.warnings == ("units with NaN or infinite weights are kept: group a",)


def test_random_depends_on_the_seed_alone() -> None:
    one, again, other = (scores(dense(A, B), "random", seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


@pytest.mark.parametrize("name", WEIGHT_CRITERIA)
def test_equal_weights_score_equally_but_for_the_order(name: str) -> None:
    found = scores(dense(np.ones((2, 4)), np.ones((4, 2))), name)
    assert (np.diff(found) <= 0).all()


# --- tensors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 64, 10**6])
@pytest.mark.parametrize("name", WEIGHT_CRITERIA)
def test_block_size_does_not_matter(monkeypatch: pytest.MonkeyPatch, name: str, size: int) -> None:
    model = network("c = Conv(x, %6x3x3x3)\ny = Conv(c, %2x6x3x3)", "float[1,3,8,8] x", "float[1,2,4,4] y")
    expected = scores(model, name)
    monkeypatch.setattr(tensors, "BLOCK", size)
    np.testing.assert_allclose(scores(model, name), expected, rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_every_float_type_is_read(dtype: type) -> None:
    model = dense(A, B)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = model.graph.initializer[0].data_type
    np.testing.assert_array_equal(scores(model, "l1:sum:none"), [5, 3, 14])


@pytest.mark.parametrize("name", ["l1", "l2", "linf"])
def test_generated_weights_count_like_stored_ones(name: str) -> None:
    made = "a = ConstantOfShape <value = float[1] {-0.5}> (@[2, 3])\n"
    made += "b = ConstantOfShape <value = float[1] {0.5}> (@[3, 2])"
    text = f"{made}\nh = MatMul(x, a)\ny = MatMul(h, b)"
    generated = network(text, "float[1,2] x", "float[1,2] y")
    stored = dense(np.full((2, 3), -0.5), np.full((3, 2), 0.5))
    np.testing.assert_array_equal(scores(generated, f"{name}:sum:none"), scores(stored, f"{name}:sum:none"))


@pytest.mark.parametrize("block", [2, 10**6])
def test_quantised_weights_are_read_by_their_meaning(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(tensors, "BLOCK", block)
    text = "d = DequantizeLinear <axis = 1> (q, s, z)\nh = MatMul(x, d)\ny = MatMul(h, %3x2)"
    model = network(text, "float[1,2] x", "float[1,2] y")
    quantised = {
        "q": np.uint8([[130, 128, 0], [126, 129, 2]]),
        "s": np.float32([0.5, 2, 1]),
        "z": np.uint8([128, 128, 0]),
    }
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in quantised.items())
    np.testing.assert_array_equal(scores(model, "l1:sum:none", "writes"), [2, 2, 2])


# --- names ----------------------------------------------------------------------------------------------------------


def test_parts_of_a_criterion_are_optional() -> None:
    assert parse_criterion("l2") == Criterion("l2", "mean", "mean", "both")
    assert parse_criterion("lamp") == Criterion("lamp", "mean", "none", "both")
    assert parse_criterion("l1:sum", "writes") == Criterion("l1", "sum", "mean", "writes")
    assert parse_criterion("l1::max") == Criterion("l1", "mean", "max", "both")
    assert parse_criterion(str(parse_criterion("fpgm:prod:standard"))) == parse_criterion("fpgm:prod:standard")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("l3", "'l2'"),
        ("lmap", "'lamp'"),
        ("l2:summ", "'sum'"),
        ("l2:sum:men", "'mean'"),
        ("l2:sum:mean:x", "unknown"),
        ("", "known"),
    ],
)
def test_unknown_names_are_refused_with_near_ones(text: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        parse_criterion(text)
    with pytest.raises(UsageError, match="writes"):
        parse_criterion("l2", roles="write")


def test_missing_evidence_is_named() -> None:
    criterion("needs-means", needs=("means",))(lambda group, context: context.evidence["means"][group.name][None])
    try:
        model = analysed(dense(A, B))
        with pytest.raises(DataError, match="needs means"):
            score(model, parse_criterion("needs-means"))
        given_means = score(model, parse_criterion("needs-means:first:none"), evidence={"means": {"a": np.arange(3.0)}})
        np.testing.assert_array_equal(given_means.values[0], [0, 1, 2])
    finally:
        del CRITERIA._entries["needs-means"]
