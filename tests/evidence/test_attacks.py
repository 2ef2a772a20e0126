"""Attacks: a linear model's are known in closed form; what a unit is moved by; two models, each attacked by its own gradients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from support.networks import network

import onnxprune
from onnxprune.api import validate
from onnxprune.changes.analysing import analyse_model, facts_of
from onnxprune.cli import main
from onnxprune.data import ImageOptions, input_specs, open_dataset
from onnxprune.data.observe import Batch
from onnxprune.errors import DataError, UsageError
from onnxprune.evidence.attacks import parse_attack
from onnxprune.evidence.attacks.attacker import Attacker, attacker_of
from onnxprune.evidence.attacks.vulnerability import vulnerabilities
from onnxprune.means import Means
from onnxprune.model.read import load
from onnxprune.settings import make_settings

DRAW = np.random.default_rng(0)
WEIGHT = DRAW.standard_normal((6, 3))
ROWS = DRAW.uniform(0.2, 0.8, (40, 6)).astype(np.float32)
LINEAR = network(f"y = MatMul(x, @{WEIGHT.tolist()})", "float[n,6] x", "float[n,3] y")
DEEP = network(
    "c = Sub(x, @0.5); h = MatMul(c, %6x12); r = Relu(h); g = MatMul(r, %12x8); s = Relu(g); y = MatMul(s, %8x3)",
    "float[n,6] x",
    "float[n,3] y",
)
ALIKE = {"round_to": 1, "latency": False, "repair": "none"}


def attacker(model: onnx.ModelProto, attack: str, rows: np.ndarray = ROWS, seed: int = 0) -> Attacker:
    loaded = load(model)
    data = open_dataset({"x": rows}, input_specs(loaded.structure))
    return attacker_of(facts_of(loaded, make_settings({})), loaded, parse_attack(attack), data, Means(seed=seed), None)


def moved(own: Attacker, rows: np.ndarray = ROWS, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return the classes that were chosen, and the rows that are not chosen so any more."""
    inputs: Any = {"x": rows}
    wanted = own.chosen(inputs)
    return wanted[:, 0], own.attacked(Batch(inputs, None, first, len(rows)), wanted)["x"]


def gradient(rows: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return that of the cross entropy of the linear model: (softmax - one-hot) W^T."""
    scores = rows.astype(np.float64) @ WEIGHT
    shares = np.exp(scores - scores.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    return (shares - np.eye(3)[chosen]) @ WEIGHT.T


# --- FGSM and PGD ---------------------------------------------------------------------------------------------------


def test_one_step_goes_along_the_signs_of_the_gradient() -> None:
    chosen, found = moved(attacker(LINEAR, "fgsm:0.05"))
    np.testing.assert_allclose(found, ROWS + 0.05 * np.sign(gradient(ROWS, chosen)), atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_stays_in_the_ball_and_in_the_range_and_finds_more_than_chance(norm: str) -> None:
    rows = np.concatenate([ROWS, np.zeros((1, 6), np.float32), np.ones((1, 6), np.float32)])
    own = attacker(DEEP, f"pgd:0.1,norm={norm}", rows)
    chosen, found = moved(own, rows)
    off = np.abs(found - rows).max(1) if norm == "linf" else np.linalg.norm(found - rows, axis=1)
    assert off.max() <= 0.1 + 1e-6 and found.min() >= 0 and found.max() <= 1 and off[:40].min() > 0.05
    again = own.chosen({"x": found})[:, 0]
    noise = np.random.default_rng(1).uniform(-0.1, 0.1, rows.shape).astype(np.float32)
    assert (again != chosen).sum() > (own.chosen({"x": np.clip(rows + noise, 0, 1)})[:, 0] != chosen).sum()


def test_the_worst_row_on_the_way_is_taken() -> None:
    def loss(rows: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        scores = rows.astype(np.float64) @ WEIGHT
        return np.log(np.exp(scores).sum(1)) - scores[np.arange(len(rows)), chosen]

    chosen, one = moved(attacker(LINEAR, "pgd:0.05,steps=1"))
    _, many = moved(attacker(LINEAR, "pgd:0.05,steps=20"))
    assert (loss(many, chosen) >= loss(one, chosen) - 1e-6).all() and (loss(one, chosen) > loss(ROWS, chosen)).all()


def test_data_in_other_units_is_attacked_by_as_much_of_its_range() -> None:
    """The same network, whose input is 255 times as large, or normalised channel by channel."""
    mean, std = np.linspace(0.1, 0.6, 6), np.linspace(0.2, 0.7, 6)
    scaled = network(f"z = Mul(x, @{1 / 255}); y = MatMul(z, @{WEIGHT.tolist()})", "float[n,6] x", "float[n,3] y")
    normed = network(
        f"u = Mul(x, @{std.tolist()}); z = Add(u, @{mean.tolist()}); y = MatMul(z, @{WEIGHT.tolist()})",
        "float[n,6] x",
        "float[n,3] y",
    )
    _, plain = moved(attacker(LINEAR, "pgd:8/255"))
    _, large = moved(attacker(scaled, "pgd:8/255", ROWS * 255), ROWS * 255)
    ranges = "/".join(f"{-m / s}:{(1 - m) / s}" for m, s in zip(mean, std, strict=True))
    rows = ((ROWS - mean) / std).astype(np.float32)
    _, other = moved(attacker(normed, f"pgd:8/255,range={ranges}", rows), rows)
    np.testing.assert_allclose(large / 255, plain, atol=1e-5)
    np.testing.assert_allclose(other * std + mean, plain, atol=1e-5)


def test_what_is_drawn_for_a_row_is_told_by_its_number_and_the_seed_alone() -> None:
    own = attacker(DEEP, "pgd:0.1")
    whole = moved(own)[1]
    np.testing.assert_array_equal(whole[10:20], moved(own, ROWS[10:20], 10)[1])
    assert not np.array_equal(whole, moved(attacker(DEEP, "pgd:0.1", seed=1))[1])


# --- what is asked --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pdg:8/255", "unknown attack 'pdg'; did you mean 'pgd'"),
        ("cw:1", "unknown attack 'cw'; known: fgsm, pgd"),
        ("pgd:8/0", "no number"),
        ("pgd", "'' is no number"),
        ("pgd:2", "a share of the range"),
        ("pgd:0", "a share of the range"),
        ("pgd:0.1,norm=l1", "the norm is linf or l2"),
        ("pgd:0.1,steps=0", "steps is a whole number"),
        ("fgsm:0.1,steps=3", "fgsm is one step"),
        ("pgd:0.1,range=1:0", "to a larger one"),
        ("pgd:0.1,speed=3", "no option 'speed'"),
    ],
)
def test_what_is_no_attack_is_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make_settings({"attack": text})


@pytest.mark.parametrize(
    ("model", "attack", "rows", "words"),
    [
        (LINEAR, "pgd:0.1", ROWS * 3 - 2.0, "none of the usual ranges; give what they would be of black and of white"),
        (LINEAR, "pgd:0.1,range=0:0.5", ROWS, "outside of the range"),
        (LINEAR, "pgd:0.1,range=0:1/0:1", ROWS, "no axis of .* has as many channels"),
        (LINEAR, "pgd:0.1,input=z", ROWS, "'z' is no input of floats; such are x"),
        (
            network("y = Gather(%9x6, x)", "int64[n,6] x", "float[n,6,6] y"),
            "pgd:0.1",
            ROWS > 0.5,
            "has no input of floats",
        ),
        (
            network("y = MatMul(x, %6x1)", "float[n,6] x", "float[n,1] y"),
            "pgd:0.1",
            ROWS,
            "no output is one of class scores",
        ),
    ],
)
def test_what_cannot_be_attacked_is_refused(model: onnx.ModelProto, attack: str, rows: np.ndarray, words: str) -> None:
    with pytest.raises(DataError, match=words):
        attacker(model, attack, rows.astype(np.int64) if rows.dtype == bool else rows)


def test_one_of_several_inputs_is_named() -> None:
    two = network("s = Add(x, z); y = MatMul(s, %6x3)", "float[n,6] x, float[n,6] z", "float[n,3] y")
    rows = {"x": ROWS, "z": ROWS}
    with pytest.raises(DataError, match=r"several inputs of floats; name one \(input=x\)"):
        validate(two, two, rows, attack="pgd:0.1")
    assert validate(two, two, rows, attack="pgd:0.1,input=z")["robustness"]["input"] == "z"


def test_the_range_follows_from_how_pixels_are_read() -> None:
    model = network("p = Conv<kernel_shape=[4,4]>(x, %5x3x4x4); y = Flatten(p)", "float[n,3,4,4] x", "float[n,5] y")
    pixels = np.random.default_rng(2).integers(0, 256, (6, 4, 4, 3), np.uint8)
    images = ImageOptions(mean=(0.5, 0.4, 0.3), std=(0.2,), layout="NCHW")
    found = validate(model, model, {"x": pixels}, attack="fgsm:8/255", images=images)["robustness"]
    np.testing.assert_allclose(found["range"], [[-2.5, 2.5], [-2.0, 3.0], [-1.5, 3.5]])


# --- units and models -----------------------------------------------------------------------------------------------


def test_evidence_is_how_far_values_move() -> None:
    loaded = load(DEEP)
    analysis = analyse_model(loaded, make_settings({}))
    data = open_dataset({"x": ROWS}, input_specs(loaded.structure))
    attack = parse_attack("pgd:0.1,steps=3")
    found = vulnerabilities(analysis, ("vulnerability",), data, Means(), None, attack)["vulnerability"]
    own = attacker(DEEP, "pgd:0.1,steps=3")
    first = next(t for t in DEEP.graph.initializer if list(t.dims) == [6, 12])
    weight = onnx.numpy_helper.to_array(first)
    clean, other = (np.maximum(rows @ weight, 0) for rows in (ROWS - 0.5, moved(own)[1] - 0.5))
    seen = found["r", 1]
    np.testing.assert_allclose(seen.moved_power / seen.count, np.square(other - clean).mean(0), rtol=1e-3)
    np.testing.assert_allclose(seen.moved / seen.count, np.abs(other - clean).mean(0), rtol=1e-3)
    np.testing.assert_allclose(seen.power / seen.count, np.square(clean).mean(0), rtol=1e-4)


def test_a_unit_that_attacks_move_goes_before_one_that_says_as_much() -> None:
    """Two units read one input each, of equal power; the outputs hang on both alike, but one is moved along."""
    steep, flat = np.array([[4.0], [0.0]]), np.array([[0.0], [0.1]])
    body = (
        f"a = MatMul(x, @{np.concatenate([steep, flat], 1).tolist()}); h = Add(a, @[-1.5, 1.0]); r = Abs(h); "
        "y = MatMul(r, @[[1.0, -1.0], [1.0, -1.1]])"
    )
    rows = np.stack([np.linspace(0.3, 0.7, 40), np.linspace(0.2, 0.8, 40)], 1).astype(np.float32)
    model = network(body, "float[n,2] x", "float[n,2] y")
    run: dict[str, Any] = {"criterion": "vulnerability", "ratio": 0.5, "calibration": {"x": rows}, "attack": "pgd:0.1"}
    (group,) = onnxprune.prune(model, **run, **ALIKE).plan.groups
    assert group.kept == (1,)
    plain = onnxprune.prune(model, **run | {"criterion": "wanda", "attack": ""}, **ALIKE).plan.groups
    assert plain[0].kept in ((0,), (1,))


def test_equal_runs_give_equal_bytes_and_a_shard_of_them_the_same(tmp_path: Path) -> None:
    run: dict[str, Any] = {
        "criterion": "vulnerability",
        "ratio": 0.5,
        "attack": "pgd:0.05,steps=3",
        "calibration": {"x": ROWS},
    }
    first, second = (onnxprune.prune(DEEP, **run, **ALIKE).model.SerializeToString() for _ in range(2))
    assert first == second


def test_both_models_are_attacked_by_their_own_gradients() -> None:
    small = onnxprune.prune(DEEP, ratio=0.3, **ALIKE).model
    labels = np.arange(40) % 3
    plain = validate(DEEP, small, {"x": ROWS}, attack="pgd:0.1")
    found, warned = plain["robustness"], plain["warnings"]
    assert found["against"] == "own class" and found["before"].keys() == {"clean_agreement", "robust_agreement"}
    assert found["before"]["clean_agreement"] == 1 and 0 < found["before"]["robust_agreement"] < 1
    assert (
        found["after"]["robust_agreement"]
        <= found["after"]["clean_agreement"]
        == plain["drift"]["outputs"]["y"]["top1_agreement"]
    )
    own = attacker(small, "pgd:0.1")
    chosen, rows = moved(own)
    reference = attacker(DEEP, "pgd:0.1").chosen({"x": ROWS})[:, 0]
    right = (chosen == reference) & (own.chosen({"x": rows})[:, 0] == reference)
    assert found["after"]["robust_agreement"] == right.mean()
    told = validate(DEEP, small, {"x": ROWS}, labels=labels, attack="pgd:0.1")["robustness"]
    assert told["against"] == "labels" and told["before"]["clean_accuracy"] >= told["before"]["robust_accuracy"]
    assert not any("attack" in text for text in warned)


def test_the_command_prints_what_is_left_when_attacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(DEEP, "a.onnx")
    np.savez("x.npz", x=ROWS)
    done = CliRunner().invoke(
        main, "validate a.onnx a.onnx --data x.npz --attack pgd:0.1 --json r.json --markdown r.md".split()
    )
    assert (
        done.exit_code == 0
        and "attacked too" in done.output
        and "each model by its own gradients" in " ".join(done.output.split())
    )
    report = json.loads(Path("r.json").read_text())
    assert report["robustness"]["drop"] == 0 and report["settings"]["attack"] == "pgd:0.1"
    assert "attacked too" in Path("r.md").read_text()
    assert "robustness" not in validate(DEEP, DEEP, {"x": ROWS})


def test_criteria_of_gradients_look_at_the_rows_as_attacked(monkeypatch: pytest.MonkeyPatch) -> None:
    run: dict[str, Any] = {"criterion": "group-fisher", "ratio": 0.5, **ALIKE}
    attacked = onnxprune.plan(DEEP, attack="pgd:0.2", calibration={"x": ROWS}, **run)
    by_hand = onnxprune.plan(DEEP, calibration={"x": moved(attacker(DEEP, "pgd:0.2"))[1]}, **run)
    plain = onnxprune.plan(DEEP, calibration={"x": ROWS}, **run)
    assert attacked.groups == by_hand.groups != plain.groups


def test_an_attack_that_nothing_looks_at_is_refused() -> None:
    with pytest.raises(UsageError, match="this run names none; name one"):
        onnxprune.prune(DEEP, ratio=0.5, attack="pgd:0.1", calibration={"x": ROWS}, criterion="wanda", **ALIKE)
