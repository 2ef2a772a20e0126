"""Runs in steps: how much goes when, what may come back, rewinding to earlier weights, and greedy selection."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import ModelProto, numpy_helper
from support.networks import network

import onnxprune
from onnxprune.allocate.schedule import parse_schedule
from onnxprune.changes.context import Context
from onnxprune.changes.units import space
from onnxprune.changes.units.steps import overlap, parts_of, still_alive
from onnxprune.changes.units.written import written_back
from onnxprune.cli import main
from onnxprune.coupling.cut import cut
from onnxprune.errors import UsageError
from onnxprune.model.runtime import session
from onnxprune.settings import make_settings

MODELS = Path(__file__).parents[2] / "models"
MLP = "w1 = %6x16; b1 = %16; w2 = %16x12; b2 = %12; w3 = %12x3; p = Gemm(x, w1, b1); h = Relu(p); q = Gemm(h, w2, b2); g = Relu(q); y = Gemm(g, w3)"


def mlp(seed: int = 0) -> ModelProto:
    return network(MLP, "float[n,6] x", "float[n,3] y", seed=seed)


def rows(count: int = 96) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, 6)).astype(np.float32)


def stored(model: ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def kept_of(plan) -> dict[str, set[int]]:
    return {group.name: set(group.kept) for group in plan.groups}


# --- how much, when -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("one-shot", [0.875]),
        ("linear:2", [0.4375, 0.875]),
        ("cubic:2", [0.765625, 0.875]),  # 0.875 (1 - 1/8)
        ("geometric:3", [0.5, 0.75, 0.875]),  # a half of what is left each time
    ],
)
def test_shares_by_hand(text: str, shares: list[float]) -> None:
    assert parse_schedule(text).shares(0.875) == pytest.approx(shares)


@pytest.mark.parametrize("text", ["cubical", "cubic:1", "cubic:-2", "cubic:two", "cubic:1000", "one-shot:3"])
def test_schedules_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="schedule"):
        make_settings({"schedule": text})


def test_a_budget_is_shared_out_and_ends_at_itself() -> None:
    analysis = onnxprune.analyze(mlp())
    given = make_settings({"target": "params=50%", "schedule": "linear:4", "recover": 80})
    context = Context(analysis, analysis.facts.model, given)
    steps = list(parts_of(context, analysis, given.aim))
    assert [aim.value for aim, _ in steps] == pytest.approx([0.875, 0.75, 0.625, 0.5])
    assert [own.recover for _, own in steps] == [20] * 4
    timed = make_settings({"ratio": 0.5, "schedule": "linear:4", "recover": "2m"})
    parts = parts_of(replace(context, settings=timed), analysis, timed.aim)
    assert [own.recipe.seconds for _, own in parts] == pytest.approx([30] * 4)


@pytest.mark.parametrize(
    "settings",
    [
        {"schedule": "cubic", "target": "latency=0.5x"},
        {"schedule": "cubic", "max_divergence": 0.1},
        {"schedule": "cubic", "lossless": True},
        {"may_return": True},
        {"selection": "greedy"},
        {"selection": "greedy", "criterion": "wanda"},
        {"selection": "eager", "criterion": "l1"},
    ],
)
def test_what_does_not_go_together_is_refused(settings: dict) -> None:
    with pytest.raises(UsageError):
        make_settings(settings)


# --- steps ----------------------------------------------------------------------------------------------------------


def test_without_training_or_repair_magnitude_steps_end_where_one_shot_ends() -> None:
    """Weights that no step changes rank alike in every step where no layer reads another's units."""
    model = network(
        "w1 = %6x16; w2 = %16x3; p = MatMul(x, w1); h = Relu(p); y = MatMul(h, w2)", "float[n,6] x", "float[n,3] y"
    )
    options = {"criterion": "l2", "repair": "none", "ratio": 0.5, "round_to": 1, "latency": False}
    once, steps = onnxprune.prune(model, **options), onnxprune.prune(model, schedule="linear:3", **options)
    assert kept_of(steps.plan) == kept_of(once.plan)
    assert stored(steps.model).keys() == stored(once.model).keys()
    for name, array in stored(once.model).items():
        np.testing.assert_array_equal(stored(steps.model)[name], array)


@pytest.mark.parametrize("may_return", [False, True])
def test_every_step_is_reported_and_what_went_stays_away_unless_it_may_return(may_return: bool) -> None:
    found = onnxprune.prune(
        mlp(), criterion="random", repair="none", ratio=0.75, round_to=1, schedule="linear:6", may_return=may_return,
        calibration=rows(), recover=6, latency=False, seed=3,
    ).report  # fmt: skip
    steps = found["schedule"]["steps"]
    assert [step["units"] for step in steps] == sorted((step["units"] for step in steps), reverse=True)
    assert len(steps) == 6 and steps[-1]["parameters"] == found["after"]["parameters"]
    assert all("recover" in step for step in steps)
    if not may_return:
        assert sum(step["went"] for step in steps) == 28 - steps[-1]["units"]
        assert all(step["returned"] == 0 for step in steps)


def test_units_come_back_when_others_have_become_weaker() -> None:
    """In the second step a criterion that changes its mind may have back what went in the first."""
    found = onnxprune.prune(
        mlp(), criterion="taylor", repair="none", ratio=0.75, round_to=1, schedule="linear:6", may_return=True,
        calibration=rows(), recover=60, learning_rate=0.05, latency=False,
    ).report  # fmt: skip
    assert sum(step["returned"] for step in found["schedule"]["steps"]) > 0


def test_written_back_weights_compute_what_the_pruned_model_computes() -> None:
    analysis = onnxprune.analyze(MODELS / "digits_cnn.onnx")
    rng = np.random.default_rng(0)
    kept = [rng.random(width) < 0.6 for width in analysis.widths]
    for mask in kept:
        mask[0] = True
    small = cut(analysis, kept)
    matrices = (n for n, t in small.weights.items() if t.dtype == onnx.TensorProto.FLOAT and len(t.shape) > 1)
    small = small.replaced({name: small.weights[name].read() * np.float32(1.25) for name in matrices})
    whole = written_back(analysis, kept, small, silent=True)
    with np.load(MODELS / "digits_test.npz") as archive:
        feeds = {"image": archive["image"][:32]}
    want, have = session(small).run(feeds), session(whole).run(feeds)
    for name, expected in want.items():
        np.testing.assert_allclose(have[name], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    loud = written_back(analysis, kept, small, silent=False)
    assert any(
        (numpy_helper.to_array(a) != numpy_helper.to_array(b)).any()
        for a, b in zip(whole.proto.graph.initializer, loud.proto.graph.initializer, strict=True)
    )


def test_dead_units_are_not_revived_by_ties() -> None:
    analysis = onnxprune.analyze(mlp())
    alive = [np.arange(group.width) >= 4 for group in analysis.groups]
    wanted = [np.arange(group.width) < 6 for group in analysis.groups]
    for mask, before in zip(still_alive(analysis, wanted, alive, make_settings({})), alive, strict=True):
        assert mask.sum() == 6 and not (mask & ~before).any()
        assert mask[4] and mask[5]


def test_steps_are_repeatable_and_go_on_from_checkpoints(tmp_path: Path) -> None:
    options = {"ratio": 0.5, "schedule": "cubic:2", "calibration": rows(), "recover": 40, "latency": False}
    first = onnxprune.prune(mlp(), checkpoint=tmp_path / "state", **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state.1", "state.2"]
    again = onnxprune.prune(mlp(), checkpoint=tmp_path / "state", **options)
    fresh = onnxprune.prune(mlp(), **options)
    texts = {found.model.SerializeToString(deterministic=True) for found in (first, again, fresh)}
    assert len(texts) == 1


# --- rewinding ------------------------------------------------------------------------------------------------------


def test_a_ticket_holds_the_early_weights_at_the_places_the_trained_ones_chose() -> None:
    options = {"criterion": "l2", "ratio": 0.5, "round_to": 1, "latency": False}
    chosen = onnxprune.prune(mlp(), **options)
    ticket = onnxprune.prune(mlp(), rewind=mlp(seed=7), **options)
    assert kept_of(ticket.plan) == kept_of(chosen.plan)
    expected = onnxprune.apply(chosen.plan, mlp(seed=7), force=True, latency=False)
    for name, array in stored(expected.model).items():
        np.testing.assert_array_equal(stored(ticket.model)[name], array)
    same = onnxprune.prune(mlp(), rewind=mlp(), **options).report["schedule"]["overlap_with_rewind"]
    other = ticket.report["schedule"]["overlap_with_rewind"]
    assert same["jaccard"] == 1.0 and other["jaccard"] < 0.8


def test_iterative_rewinding_trains_from_the_early_weights_in_every_step() -> None:
    found = onnxprune.prune(
        mlp(), rewind=mlp(seed=7), schedule="geometric:2", ratio=0.5, round_to=1, calibration=rows(256), recover=200,
        learning_rate=0.02, latency=False,
    ).report  # fmt: skip
    first, second = (step["recover"] for step in found["schedule"]["steps"])
    assert first["after"] < first["before"] and second["after"] < second["before"]
    assert second["before"] > first["after"]  # it began at the early weights again


def test_another_network_is_refused() -> None:
    other = network(MLP.replace("12", "11"), "float[n,6] x", "float[n,3] y")
    with pytest.raises(UsageError, match="another network"):
        onnxprune.prune(mlp(), rewind=other, ratio=0.5)
    with pytest.raises(UsageError, match="lossless"):
        onnxprune.prune(mlp(), rewind=mlp(), lossless=True)


def test_overlap_by_hand() -> None:
    first, second = [np.array([1, 1, 0, 0], bool)], [np.array([1, 0, 1, 0], bool)]
    assert overlap(first, second) == {
        "jaccard": pytest.approx(1 / 3, abs=1e-6),
        "chance": pytest.approx(1 / 3, abs=1e-6),
    }
    whole = [np.ones(4, bool)]
    assert overlap(whole, whole) == {"jaccard": 1.0, "chance": 1.0}


# --- greedy selection -----------------------------------------------------------------------------------------------


def test_greedy_selection_leaves_out_weights_that_meet_units_gone_before() -> None:
    """Unit 0 of the second layer is the stronger one, but only through unit 0 of the first, which goes."""
    model = network(
        "w1 = %3x2; w2 = %2x2; w3 = %2x3; p = MatMul(x, w1); h = Relu(p); q = MatMul(h, w2); g = Relu(q); y = MatMul(g, w3)",
        "float[n,3] x", "float[n,3] y",
    )  # fmt: skip
    content = {
        "w1": [[0.1, 1], [0.1, 1], [0.1, 1]],
        "w2": [[2.0, 0.0], [0.1, 1.5]],
        "w3": [[1.0, 1, 1], [1, 1, 1]],
    }
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(np.array(content[tensor.name], np.float32), tensor.name))
    options = {"criterion": "l1", "roles": "writes", "ratio": 0.5, "round_to": 1, "repair": "none", "latency": False}
    kept = [
        sorted(map(sorted, kept_of(onnxprune.prune(model, selection=name, **options).plan).values()))
        for name in ("independent", "greedy")
    ]
    assert kept == [[[0], [1]], [[1], [1]]]


# --- the command line -----------------------------------------------------------------------------------------------


def test_the_command_line_prunes_in_steps(tmp_path: Path) -> None:
    onnx.save(mlp(), tmp_path / "m.onnx")
    onnx.save(mlp(seed=7), tmp_path / "early.onnx")
    report = tmp_path / "r.json"
    found = CliRunner().invoke(
        main,
        ["prune", str(tmp_path / "m.onnx"), str(tmp_path / "s.onnx"), "--schedule", "linear:2", "--no-latency",
         "--rewind", str(tmp_path / "early.onnx"), "--json", str(report)],
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    assert "schedule linear: units left" in found.output and "would let go" in found.output
    assert len(json.loads(report.read_text())["schedule"]["steps"]) == 2
    refused = CliRunner().invoke(main, ["prune", str(tmp_path / "m.onnx"), "--dry-run", "--schedule", "cubik"])
    assert refused.exit_code == 2 and "cubic" in refused.output


def test_groups_frozen_by_the_surgery_check_in_a_later_step_keep_their_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second step may not cut what the first did: the group stays whole, and all steps are taken anew without it."""
    honest, calls = space.check_cut, 0

    def blaming(analysis, kept, small, **options):
        nonlocal calls
        calls += 1
        found = honest(analysis, kept, small, **options)
        return found if calls == 1 or kept[0].all() else replace(found, exact=False, problem="made up")

    monkeypatch.setattr(space, "check_cut", blaming)
    found = onnxprune.prune(mlp(), criterion="l2", ratio=0.5, round_to=1, schedule="linear:2", latency=False).report
    assert found["groups"][0]["width_after"] == found["groups"][0]["width_before"]
    assert found["groups"][1]["width_after"] == found["groups"][1]["width_before"] // 2


# --- lottery variants -----------------------------------------------------------------------------------------------


def _earlier_and_now() -> tuple[Any, Any]:
    """Three units; the first grew, the second shrank though it is the largest, the third turned its sign."""
    then = network(
        "h = MatMul(x, @[[0.1, 3.0, -1.0], [0.2, -3.0, 1.0]]); r = Relu(h); y = MatMul(r, @[[0.1], [2.0], [1.0]])",
        "float[n,2] x",
        "float[n,1] y",
    )
    now = network(
        "h = MatMul(x, @[[1.0, 2.0, 1.5], [1.0, -2.0, -1.5]]); r = Relu(h); y = MatMul(r, @[[1.0], [1.5], [1.0]])",
        "float[n,2] x",
        "float[n,1] y",
    )
    return then, now


@pytest.mark.parametrize(("criterion", "stays"), [("magnitude-increase", (0, 2)), ("movement", (0, 2)), ("l1", (1, 2))])
def test_units_are_chosen_by_the_way_their_weights_went(criterion: str, stays: tuple[int, ...]) -> None:
    """By hand, l1 of writers: increases 1.7, -2 and 1; movement (now times the way): 1.7, -4, 7.5."""
    then, now = _earlier_and_now()
    found = onnxprune.prune(now, rewind=then, criterion=criterion, ratio=0.34, round_to=1, latency=False)
    (group,) = found.plan.groups
    assert group.kept == stays
    left = numpy_helper.to_array(found.model.graph.initializer[0])
    early = numpy_helper.to_array(then.graph.initializer[0])
    np.testing.assert_array_equal(left, early[:, list(stays)])
    schedule = found.report["schedule"]
    assert ("overlap_with_magnitude" in schedule) == (criterion != "l1")
    if criterion != "l1":  # by size the early weights would let the first go, the trained ones too
        assert schedule["overlap_with_rewind"]["jaccard"] == schedule["overlap_with_magnitude"]["jaccard"] == 0.0


def test_only_the_signs_of_early_weights_remain() -> None:
    then, now = _earlier_and_now()
    run: dict[str, Any] = {"rewind": then, "rewind_as": "signs", "round_to": 1, "latency": False}
    found = onnxprune.prune(now, criterion="l1", ratio=0.34, **run)
    early = numpy_helper.to_array(then.graph.initializer[0])
    constant = np.sqrt(np.square(early).mean())
    np.testing.assert_allclose(
        numpy_helper.to_array(found.model.graph.initializer[0]), np.sign(early[:, 1:]) * constant, rtol=1e-6
    )
    zeros = onnxprune.prune(now, sparsity="0.5", criterion="magnitude-increase", **run)
    left = numpy_helper.to_array(zeros.model.graph.initializer[0])
    assert set(np.round(np.abs(left[left != 0]), 5)) == {np.round(np.float32(constant), 5)}
    assert zeros.report["overlap"]["with_rewind"].keys() == {"jaccard", "chance"}
    with pytest.raises(UsageError, match="give these"):
        onnxprune.prune(now, rewind_as="signs")
    with pytest.raises(UsageError, match="unknown rewind_as 'sign'"):
        onnxprune.prune(now, rewind=then, rewind_as="sign")
    with pytest.raises(UsageError, match="compares weights with earlier ones"):
        onnxprune.prune(now, criterion="magnitude-increase", ratio=0.5, latency=False)


def test_overlap_of_zeros() -> None:
    then, now = _earlier_and_now()
    run: dict[str, Any] = {"rewind": then, "sparsity": "0.5", "latency": False}
    by_size = onnxprune.prune(now, criterion="l1", **run).report["overlap"]
    by_way = onnxprune.prune(now, criterion="magnitude-increase", **run).report["overlap"]
    assert by_size["with_magnitude"]["jaccard"] == 1.0
    # of the first matrix the middle column grew least and is the largest; of the second its entry
    assert by_way["with_magnitude"]["jaccard"] < 0.5 and by_way["with_rewind"]["jaccard"] < 0.5
    assert 0 < by_way["with_rewind"]["chance"] < 1
