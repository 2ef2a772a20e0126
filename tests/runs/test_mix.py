"""Several kinds of change in one run: shares as given or as judged, one target, one proof each, one plan, a row per step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.networks import network

import onnxprune
from onnxprune.changes.plan import from_json
from onnxprune.errors import DataError, PlanError, TargetError, UsageError
from onnxprune.runs.mix import PARTS, TRIALS, best_mix, given_shares
from onnxprune.settings import GRANULARITIES, make_settings

MODELS = Path(__file__).parents[2] / "models"
CNN, TRANSFORMER = MODELS / "digits_cnn.onnx", MODELS / "digits_transformer.onnx"
CALIB = MODELS / "digits_calib.npz"
FAST = {"calibration": CALIB, "samples": 96, "latency": False}


# --- shares ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", [2, 3, 4])
def test_a_mix_is_never_worse_than_the_best_kind_alone(kinds: int) -> None:
    for seed in range(20):
        random = np.random.default_rng(seed)
        best, scale = random.dirichlet(np.ones(kinds)), random.uniform(0.1, 3, kinds)
        tried = best_mix(kinds, lambda mix: float((scale * (np.array(mix) / PARTS - best) ** 2).sum()))  # noqa: B023
        alone = [value for mix, value in tried.items() if max(mix) == PARTS]
        assert len(alone) == kinds <= len(tried) <= TRIALS
        assert min(tried.values()) <= min(alone)
        assert all(sum(mix) == PARTS and min(mix) >= 0 for mix in tried)


def test_two_kinds_come_within_a_part_of_the_best_mix() -> None:
    for best in np.linspace(0, 1, 23):
        tried = best_mix(2, lambda mix: abs(mix[0] / PARTS - best))  # noqa: B023
        assert min(tried.values()) <= 1 / PARTS


def test_kinds_that_cannot_go_alone_may_go_together() -> None:
    tried = best_mix(2, lambda mix: np.inf if max(mix) == PARTS else float(mix[0]))
    assert min(tried.values()) == 1


def test_shares_are_of_the_kinds_of_the_run() -> None:
    def given(granularity: str, **shares: float) -> dict[str, float]:
        return given_shares(make_settings({"granularity": granularity, "share": shares}))

    block, units = (GRANULARITIES[name].space for name in ("block", "heads"))
    assert make_settings({"granularity": "block,heads"}).spaces == (block, units)
    assert given("block,heads", block=0.2) == {block: 0.2}
    assert given("block,heads", block=0.2, width=0.8) == {block: 0.2, units: 0.8}
    for wrong in ({"eigen": 0.2}, {"block": 1.2}, {"block": 0.2, "heads": 0.7}):
        with pytest.raises(UsageError, match="share"):
            given("block,heads", **wrong)
    for wrong in ({"block": 0.2, "heads": 0.3}, {"lossless": 0.2}):
        with pytest.raises(UsageError, match="share"):
            given("lossless,block,heads", **wrong)
    with pytest.raises(UsageError, match="granularity"):
        given("block,heads", blocks=0.2)


# --- whole runs -----------------------------------------------------------------------------------------------------


def test_given_shares_need_no_data_and_are_replayed_to_the_same_bytes() -> None:
    options = {"granularity": "block,heads", "target": "macs=50%", "share": {"block": 0.4}, "latency": False}
    result = onnxprune.prune(TRANSFORMER, round_to=1, **options)
    report = result.report
    assert report["after"]["macs"] <= 0.5 * report["before"]["macs"]
    assert [step["kind"] for step in report["steps"]] == ["block", "units"]
    first, second = report["steps"]
    assert first["before"]["macs"] == report["before"]["macs"] and second["before"]["macs"] == first["after"]["macs"]
    assert second["after"]["macs"] == report["after"]["macs"]
    assert (
        first["before"]["bytes"] == report["before"]["bytes"] and second["before"]["bytes"] == first["after"]["bytes"]
    )
    assert first["after"]["macs"] <= (1 - 0.4 * 0.5) * report["before"]["macs"]
    assert {row["status"] for row in report["blocks"]} == {"removed", "kept"}
    assert any(row["status"] == "pruned" for row in report["groups"])
    assert report["surgery"]["exact"] and first["exact"] and second["exact"]
    plan = from_json(result.plan.to_json())
    assert plan == result.plan and [step.kind for step in plan.steps] == ["block", "units"]
    again = onnxprune.apply(plan, TRANSFORMER, latency=False)
    assert again.model.SerializeToString(deterministic=True) == result.model.SerializeToString(deterministic=True)
    once_more = onnxprune.prune(TRANSFORMER, round_to=1, **options)
    assert once_more.model.SerializeToString(deterministic=True) == result.model.SerializeToString(deterministic=True)


def test_judged_shares_are_the_best_of_those_tried_and_of_each_kind_alone() -> None:
    report = onnxprune.prune(TRANSFORMER, granularity="heads,eigen", target="macs=40%", **FAST).report
    mixes = report["shares"]
    assert [set(mix["shares"]) for mix in mixes] == [{"heads", "eigen"}] * len(mixes)
    assert {(1.0, 0.0), (0.0, 1.0)} <= {tuple(mix["shares"].values()) for mix in mixes}
    (chosen,) = [mix for mix in mixes if mix["chosen"]]
    nearest = min((mix for mix in mixes if mix["divergence"] is not None), key=lambda mix: mix["divergence"])
    assert (
        chosen is nearest or chosen["score"] >= nearest["score"] - 0.05
    )  # within noise, class scores at a temperature tell
    assert report["after"]["macs"] <= 0.4 * report["before"]["macs"]
    kinds = [step["kind"] for step in report["steps"]]
    assert kinds == [k for k, name in (("units", "heads"), ("eigen", "eigen")) if chosen["shares"][name]]


def test_what_carries_nothing_goes_first_and_has_no_share() -> None:
    model = network(
        "w1 = %6x16; w2 = %16x3; p = MatMul(x, w1); h = Relu(p); y = MatMul(h, w2)", "float[n,6] x", "float[n,3] y"
    )
    silent = onnxprune.load(model)
    weight = silent.weights["w2"].read().copy()
    weight[:4] = 0
    result = onnxprune.prune(
        silent.replaced({"w2": weight}), granularity="lossless,heads", target="macs=50%", round_to=1, latency=False
    )
    steps = result.report["steps"]
    assert [step["kind"] for step in steps] == ["lossless", "units"]
    assert steps[0]["after"]["macs"] == 0.75 * steps[0]["before"]["macs"]
    assert result.report["after"]["macs"] == 0.5 * result.report["before"]["macs"]


def test_recovery_by_blocks_knows_what_every_step_has_left() -> None:
    report = onnxprune.prune(
        TRANSFORMER, granularity="heads,eigen", share={"heads": 0.5}, target="macs=50%", recover=2, recover_loss="blocks",
        **FAST,
    ).report  # fmt: skip
    assert [step["kind"] for step in report["steps"]] == ["units", "eigen"]
    assert "recover" in report["steps"][-1] and "recover" not in report["steps"][0]


def test_a_step_that_is_not_needed_leaves_its_training_to_the_one_before() -> None:
    """All of the branches overshoot so small a target, so that no unit has to go."""
    report = onnxprune.prune(
        TRANSFORMER, granularity="block,heads", share={"block": 0.99}, target="macs=95%", recover=2, **FAST
    ).report
    assert [step["kind"] for step in report["steps"]] == ["block"]
    assert report["recover"]["steps"] == 2


def test_branches_go_in_the_steps_of_a_schedule() -> None:
    report = onnxprune.prune(
        TRANSFORMER, granularity="block", target="params=40%", schedule="linear:3", latency=False
    ).report
    assert len(report["steps"]) > 1 and report["after"]["parameters"] <= 0.4 * report["before"]["parameters"]
    gone = [row["name"] for row in report["blocks"] if row["status"] == "removed"]
    assert sum(step["changed"] for step in report["steps"]) == len(gone)


def test_what_cannot_be_is_refused_with_what_can() -> None:
    for wrong, words in (
        ({"ratio": 0.5}, "ratio is of one kind of change"),
        ({"max_divergence": 0.1, "calibration": CALIB}, "max_divergence is of one kind"),
        ({"target": "latency=0.5x"}, "give macs, params, size"),
        ({"share": {"eigen": 0.1}}, "no such kind of change"),
    ):
        with pytest.raises(UsageError, match=words):
            onnxprune.prune(TRANSFORMER, granularity="block,heads", latency=False, **wrong)
    with pytest.raises(DataError, match="--share block=30%"):
        onnxprune.prune(TRANSFORMER, granularity="block,heads", latency=False)
    with pytest.raises(TargetError, match="out of reach"):
        onnxprune.prune(TRANSFORMER, granularity="block,eigen", target="macs=0.1%", **FAST)
    plan = onnxprune.prune(
        TRANSFORMER, granularity="block,heads", share={"block": 0.5}, latency=False, target="macs=60%"
    ).plan
    renamed = plan.to_json().replace('"kind": "block"', '"kind": "fold"')
    with pytest.raises(PlanError, match="'fold'"):
        onnxprune.apply(from_json(renamed), TRANSFORMER, latency=False)


def test_old_spellings_mean_the_same() -> None:
    one, two = (make_settings({"granularity": given}) for given in ("block,heads", ("block", "heads")))
    assert one == two and one.mixes and str(one.aim) == "macs=0.5x"
    assert not make_settings({"granularity": ("heads", "stream")}).mixes
