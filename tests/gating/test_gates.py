"""Learned gates: the gated model, each family of gates, the budget, and runs that choose by them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.networks import network

import onnxprune
from onnxprune.allocate import Options, Target, allocate
from onnxprune.changes.units.exchanging import exchanges
from onnxprune.changes.units.written import written_back
from onnxprune.coupling.cut import cut
from onnxprune.coupling.groups import Analysis, analyse
from onnxprune.coupling.kept import Kept
from onnxprune.coupling.silence import silenced
from onnxprune.criteria import parse_criterion
from onnxprune.data import input_specs, open_dataset
from onnxprune.errors import DataError, UsageError
from onnxprune.evidence.attacks import parse_attack
from onnxprune.evidence.attacks.attacker import Attacked, attacker_of
from onnxprune.evidence.store import Evidence
from onnxprune.evidence.stream import gather
from onnxprune.gating import FAMILIES
from onnxprune.gating.attacked import HalfAttacked
from onnxprune.gating.budget import Budget, least_multiplier
from onnxprune.gating.gated import GatedUnits, gated
from onnxprune.gating.training import GateTraining
from onnxprune.means import Means
from onnxprune.model.facts import gather_facts
from onnxprune.model.graph import Graph
from onnxprune.model.read import load
from onnxprune.model.runtime import revealing, session
from onnxprune.recover import taught
from onnxprune.recover.lessons import WholeModel
from onnxprune.settings import Settings, make_settings

MODELS = Path(__file__).parents[2] / "models"
STREAM = """
p = Conv<pads=[1,1,1,1]>(x, %6x3x3x3); a = Relu(p)
q = Conv<pads=[1,1,1,1]>(a, %5x6x3x3); b = Relu(q)
r = Conv<pads=[1,1,1,1]>(b, %6x5x3x3); s = Add(a, r)
j = Concat<axis=1>(s, b); g = GlobalAveragePool(j); f = Flatten(g); y = Gemm<transB=1>(f, %4x11, %4)
"""
ROWS = np.random.default_rng(0).standard_normal((96, 3, 6, 6)).astype(np.float32)
KINDS = sorted(FAMILIES)


def analysis_of(model) -> Analysis:
    loaded = load(model)
    return analyse(gather_facts(loaded, Graph(loaded.structure)))


@pytest.fixture(scope="module")
def stream() -> Analysis:
    return analysis_of(network(STREAM, "float[n,3,6,6] x", "float[n,4] y"))


def outputs(model) -> np.ndarray:
    return next(iter(session(model).run({"x": ROWS[:4]}).values()))


# --- the gated model ------------------------------------------------------------------------------------------------


def test_open_gates_change_nothing_and_shut_ones_are_silence(stream: Analysis) -> None:
    own = gated(stream)
    assert set(own.gates) == {group.index for group in stream.groups}
    np.testing.assert_allclose(outputs(own.model), outputs(stream.facts.model), rtol=1e-5, atol=1e-6)
    random = np.random.default_rng(1)
    for _ in range(3):
        kept = [random.random(group.width) < 0.6 for group in stream.groups]
        shut = own.model.replaced({name: kept[group].astype(np.float32) for group, name in own.gates.items()})
        reference, _ = silenced(stream, kept)
        np.testing.assert_allclose(outputs(shut), outputs(reference), rtol=1e-4, atol=1e-5)


def seen_by(own: GatedUnits) -> Evidence:
    facts = own.analysis.facts
    rows = open_dataset(ROWS, input_specs(facts.model.structure))
    return gather(facts, rows, [mending.need for mending in own.mendings])


def half_open(own: GatedUnits, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {name: random.uniform(0.1, 0.9, own.analysis.groups[group].width) for group, name in own.gates.items()}


def test_mended_readers_see_what_least_squares_makes_of_open_units(stream: Analysis) -> None:
    """With half of the units shut, each reader sees what a regression of the values on those that are open, and a constant, says."""
    own = gated(stream, mends=True)
    own.go_by(seen_by(own))
    opened = {name: np.ones(stream.groups[group].width) for group, name in own.gates.items()}
    whole = own.model.replaced({n: a.astype(np.float32) for n, a in own.fed(opened).items()})
    np.testing.assert_allclose(outputs(whole), outputs(stream.facts.model), rtol=1e-3, atol=2e-3)
    mending = next(mending for mending in own.mendings if mending.value == "a")
    ((gates, units),) = mending.units
    shut = np.arange(6) % 2 == 0
    matrix = mending.fed(opened | {gates: 1.0 - shut[units]})[mending.matrix]
    a = next(iter(revealing(stream.facts.model, ["a"]).run({"x": ROWS}, ["a"]).values()))
    values = np.moveaxis(a, 1, -1).reshape(-1, 6)
    design = np.column_stack([values[:, ~shut], np.ones(len(values))])
    expected = np.linalg.lstsq(design, values[:, shut], rcond=None)[0][:-1].T
    np.testing.assert_allclose(matrix[np.ix_(shut, ~shut)], expected, atol=0.05)
    assert np.abs(matrix[:, shut]).max() < 0.01 and np.abs(expected).max() > 0.2


def test_gradients_of_mended_gates_are_central_differences(stream: Analysis) -> None:
    own, random = gated(stream, mends=True), np.random.default_rng(6)
    own.go_by(seen_by(own))
    at, along = (
        half_open(own, 2),
        {name: random.standard_normal(array.shape) for name, array in own.fed(half_open(own, 2)).items()},
    )

    def loss(gates: dict[str, np.ndarray]) -> float:
        return sum(float((array * along[name]).sum()) for name, array in own.exact(gates).items())

    for name, found in own.pulled(at, along).items():
        for unit in range(len(found)):
            up, down = ({**at, name: at[name] + way * (np.arange(len(found)) == unit)} for way in (1e-5, -1e-5))
            assert found[unit] == pytest.approx((loss(up) - loss(down)) / 2e-5, rel=1e-3, abs=1e-4)


def test_gates_that_begin_at_a_repaired_model_compute_what_it_does(stream: Analysis) -> None:
    """Mended readers see the repaired weights' inputs as they are there, and more only as gates move: the mending of what went is in these weights."""
    random = np.random.default_rng(9)
    kept = Kept(stream, [np.arange(group.width) % 3 > 0 for group in stream.groups])
    small = cut(stream, kept)
    linear = [name for name in small.weights if small.weights[name].read().ndim > 1]
    small = small.replaced(
        {name: (small.weights[name].read() * random.uniform(0.5, 2)).astype(np.float32) for name in linear}
    )
    own = gated(stream, mends=True, model=written_back(stream, kept, small, silent=False))
    gates = {name: kept[group].astype(np.float64) for group, name in own.gates.items()}
    silent = own.silent(gates)
    np.testing.assert_allclose(outputs(silent), outputs(small), rtol=1e-4, atol=1e-5)
    rows = open_dataset(ROWS, input_specs(silent.structure))
    facts = gather_facts(silent, Graph(silent.structure))
    own.go_by(gather(facts, rows, [mending.need for mending in own.mendings]), gates)
    begun = own.model.replaced({n: a.astype(np.float32) for n, a in own.fed(gates).items()})
    np.testing.assert_allclose(outputs(begun), outputs(small), rtol=1e-4, atol=1e-5)
    opened = own.model.replaced({n: a.astype(np.float32) for n, a in own.fed(half_open(own, 3)).items()})
    assert np.abs(outputs(opened) - outputs(small)).max() > 1e-2


# --- families -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_slopes_are_those_of_the_gates(name: str) -> None:
    """Central differences with equal noise."""
    family, at, step = FAMILIES[name], np.linspace(0.1, 0.9, 40), 1e-5
    up, down = (family.drawn(at + way, np.random.default_rng(5)).gates for way in (step, -step))
    drawn = family.drawn(at, np.random.default_rng(5))
    np.testing.assert_allclose((up - down) / (2 * step), drawn.slopes, atol=1e-4)
    assert ((drawn.gates >= 0) & (drawn.gates <= 1)).all()


def test_hard_concrete_gates_are_open_as_often_as_they_count() -> None:
    family = FAMILIES["l0"]
    for parameter in (-1.0, 0.0, 2.0):
        drawn = family.drawn(np.full(20000, parameter), np.random.default_rng(2)).gates
        assert (drawn > 0).mean() == pytest.approx(float(family.opened(np.array([parameter]))[0]), abs=0.01)
    assert (drawn == 1).mean() > 0.3


def test_a_reweighted_penalty_leaves_the_large_and_shuts_the_small() -> None:
    """One proximal step by hand: 0.5 - 0.11 / 0.6, 1 - 0.11 / 1.1, 0.1 - 0.11 / 0.2."""
    family = FAMILIES["reweighted"]
    np.testing.assert_allclose(family.pressed(np.array([0.5, 1.0, 0.1]), 0.11), [0.5 - 0.11 / 0.6, 0.9, -0.45])
    np.testing.assert_allclose(family.opened(np.array([0.0, 0.1, 1.0])), [0, np.log(2) / np.log(11), 1])


def test_drawn_probabilities_are_those_of_their_distribution() -> None:
    """The mean of Beta(a, 1) is a / (1 + a), which is also how often a gate is more open than shut."""
    family = FAMILIES["bayes"]
    for parameter in (-1.0, 0.5, 2.0):
        drawn = family.drawn(np.full(20000, parameter), np.random.default_rng(2)).gates
        assert (drawn > 0.5).mean() == pytest.approx(float(family.opened(np.array([parameter]))[0]), abs=0.01)
    pressed = family.pressed(np.array([5.0, np.log(family.PRIOR)]), 1.0)
    assert pressed == pytest.approx(
        [4.0, np.log(family.PRIOR)], abs=1e-3
    )  # where posterior and prior are one nothing presses


def test_a_penalty_on_the_mean_draws_all_gates_alike() -> None:
    """By hand: 2 * 0.5 * (0.8 - 0.5) / 10, and nothing where the mean is there."""
    family = FAMILIES["density"]
    assert family.pull(0.8, 10, 0.5) == pytest.approx(0.03) and family.pull(0.5, 10, 0.5) == 0
    assert all(FAMILIES[name].pull(0.8, 10, 0.5) == 0 for name in KINDS if FAMILIES[name].held)


# --- the budget -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["macs", "params", "size", "ratio"])
def test_a_budget_counts_as_the_cut_does(stream: Analysis, kind: str) -> None:
    budget = Budget(stream, Target(kind, 0.6))
    assert budget.limit == pytest.approx(0.4 if kind == "ratio" else 0.6)
    assert budget.spent(stream.widths.astype(float)) == pytest.approx(1.0)
    low, high = np.array([3.0, 2.0]), np.array([4.0, 2.0])
    between = (low + high) / 2
    assert budget.spent(between) == pytest.approx((budget.spent(low) + budget.spent(high)) / 2)
    slopes = budget.slopes(between)
    assert (slopes > 0).all() and (slopes * stream.widths).sum() / stream.widths.sum() == pytest.approx(1.0)


def test_the_multiplier_is_as_small_as_can_be() -> None:
    assert least_multiplier(lambda m: 1 / (1 + m), 2.0) == 0.0
    assert least_multiplier(lambda m: 1 / (1 + m), 0.25) == pytest.approx(3.0, rel=1e-4)
    assert least_multiplier(lambda m: 1.0, 0.5) > 1e3  # out of reach: an end all the same


# --- runs -----------------------------------------------------------------------------------------------------------


def planted() -> onnxprune.model.model.Model:
    """A classifier of which every second hidden unit is read with weights a hundred times smaller than those of the others.

    Norms and activations of what writes them are the other way round.
    """
    random = np.random.default_rng(3)
    a, w = random.standard_normal((8, 16)), random.standard_normal((16, 3))
    a[:, ::2] *= 3
    w[::2] *= 0.01
    body = f"a = @{a.tolist()}\nw = @{w.tolist()}\np = MatMul(x, a)\nh = Relu(p)\nlogits = MatMul(h, w)"
    return network(body, "float[n,8] x", "float[n,3] logits")


PLANTED = np.random.default_rng(4).standard_normal((128, 8)).astype(np.float32)
OPTIONS = {"ratio": 0.5, "round_to": 1, "latency": False, "calibration": PLANTED}


@pytest.mark.parametrize("name", KINDS)
def test_gates_find_the_units_that_matter(name: str) -> None:
    found = onnxprune.prune(planted(), criterion=f"gates:{name}", gate_training=150, repair="none", **OPTIONS)
    (kept,) = {tuple(places) for axes in found.plan.kept.values() for places in axes.values()}
    assert kept == tuple(range(1, 16, 2))
    told = found.report["learned"]
    assert told["steps"] == 150 and told["weights"] == "frozen" and not told["labels"]
    assert (told["spent"] <= told["limit"] + 1e-6 or not FAMILIES[name].held) and told["limit"] == 0.5


def test_gates_of_what_must_stay_are_held_open(stream: Analysis, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole budget is found among the others, and nothing is said of groups that nobody asked about."""
    group = max(stream.groups, key=lambda group: group.width)
    own = gated(stream, movable={group.index})
    assert set(own.gates) == {group.index}
    options = OPTIONS | {"calibration": ROWS, "repair": "none", "ratio": 0.2}
    gates: list[int] = []
    train = GateTraining.run
    monkeypatch.setattr(GateTraining, "run", lambda self: gates.extend(self.gated.gates) or train(self))
    found = onnxprune.prune(
        network(STREAM, "float[n,3,6,6] x", "float[n,4] y"),
        criterion="gates:l1", gate_training=60, include=[group.name], **options,
    )  # fmt: skip
    assert gates == [group.index]
    before, after = (found.report[when]["channels"] for when in ("before", "after"))
    assert after < before and set(found.plan.kept) and found.report["learned"]["spent"] <= 0.8 + 1e-6
    assert not any("scored by l2" in text for text in found.report["warnings"])


def twins() -> onnxprune.model.model.Model:
    """A classifier of which units 0 to 5 are read the most, and are copies of each other in pairs, scaled; 6 to 9 are read less, each alone."""
    random = np.random.default_rng(8)
    a = random.standard_normal((8, 10))
    a[:, 1:6:2] = 0.9 * a[:, 0:6:2]
    w = random.standard_normal((10, 3)) * np.where(np.arange(10) < 6, 1.0, 0.5)[:, None]
    return network(
        f"a = @{a.tolist()}\nw = @{w.tolist()}\np = MatMul(x, a)\nh = Relu(p)\nlogits = MatMul(h, w)",
        "float[n,8] x", "float[n,3] logits",
    )  # fmt: skip


def test_gates_that_see_the_repair_give_up_what_others_say_too() -> None:
    """Of each pair one goes, although both are louder than those that nothing can make up for."""
    options = OPTIONS | {"ratio": 0.3, "criterion": "gates:reweighted", "gate_training": 150}

    def left(repair: str) -> set[int]:
        plan = onnxprune.prune(twins(), repair=repair, **options).plan
        (kept,) = {tuple(places) for axes in plan.kept.values() for places in axes.values()}
        return set(kept)

    assert {6, 7, 8, 9} <= left("least-squares")
    assert not {6, 7, 8, 9} <= left("none")


def test_gates_go_on_from_where_the_default_ends_and_are_no_worse() -> None:
    options = OPTIONS | {"target": "macs=60%", "ratio": None, "calibration": ROWS}
    net = network(STREAM, "float[n,3,6,6] x", "float[n,4] y")
    usual = onnxprune.prune(net, **options)
    found = onnxprune.prune(net, criterion="gates:l1", gate_training=80, **options)
    start = found.report["learned"]["start"]
    assert start["after"] <= start["divergence"]
    assert {one["name"] for one in found.report["search"]} == {one["name"] for one in usual.report["search"]}
    assert (found.plan.kept == usual.plan.kept) == (start["exchanged"] == 0)
    assert found.report["after"]["macs"] <= 0.6 * found.report["before"]["macs"]


def test_exchanges_bring_back_the_best_that_went_for_the_worst_that_stayed(stream: Analysis) -> None:
    kept = Kept(stream, [np.arange(group.width) >= 2 for group in stream.groups])
    scores: list[np.ndarray | None] = [
        np.linspace(0.1, 0.9, group.width) * (group.index + 1) for group in stream.groups
    ]

    def decide(ranked: list[np.ndarray | None]) -> Kept:
        values = [
            np.ones(group.width) if own is None else own for group, own in zip(stream.groups, ranked, strict=True)
        ]
        return Kept(stream, allocate(stream, values, Target("ratio", 4 / 11), Options(scope="global")))

    first, *others = exchanges(scores, kept, decide)
    came = [np.flatnonzero(new & ~old).tolist() for new, old in zip(first, kept, strict=True)]
    went = [np.flatnonzero(old & ~new).tolist() for new, old in zip(first, kept, strict=True)]
    assert came == [[], [1]] and went == [[2], []]
    assert all(other != kept and other.widths.sum() == 7 for other in others)
    assert exchanges([None, None], kept, decide) == []


def test_half_of_the_rows_are_attacked_and_answered_as_they_are() -> None:
    options = OPTIONS | {"criterion": "gates:l0", "gate_training": 20, "repair": "none"}
    found = onnxprune.prune(planted(), attack="fgsm:1/10,range=-6:6", **options)
    assert found.report["learned"]["steps"] == 20
    model, rows = planted(), open_dataset(PLANTED, input_specs(planted()))
    facts = analysis_of(model).facts
    teaching, recipe = taught(facts.model, rows), Settings(criterion="gates", batch=16).gate_recipe
    attack = parse_attack("fgsm:1/10,range=-6:6")
    attacked = Attacked(attacker_of(facts, facts.model, attack, rows, Means(), None))
    clean, half = WholeModel(teaching, recipe), HalfAttacked(attacked, teaching, recipe)
    batch = next(clean.feeds(0, 16))
    (plain,), (changed,) = clean.parts(dict(batch)), half.parts(dict(batch))
    moved = np.abs(changed.feed["x"] - plain.feed["x"])
    assert (moved[:8] == 0).all() and moved[8:].max() == pytest.approx(1.2, rel=1e-4)
    for name in plain.feed.keys() - {"x"}:
        np.testing.assert_array_equal(changed.feed[name], plain.feed[name])


@pytest.mark.parametrize("name", ["l0", "l1"])
def test_weights_that_move_are_written_and_are_no_worse(name: str) -> None:
    options = OPTIONS | {"target": "macs=30%", "ratio": None, "criterion": f"gates:{name}", "gate_training": 100}
    moved = onnxprune.prune(planted(), gate_weights="moving", **options)
    told, repaired = moved.report["learned"], moved.report["repair"]
    assert told["weights"] == "moving" and told["start"]["after"] <= told["start"]["divergence"]
    assert repaired["divergence"][repaired["method"]] < repaired["divergence"]["none"]
    again = onnxprune.prune(planted(), gate_weights="moving", **options)
    assert again.model.SerializeToString() == moved.model.SerializeToString()


def test_heads_have_a_gate_each_and_steps_train_their_part() -> None:
    report = onnxprune.prune(
        MODELS / "digits_transformer.onnx", calibration=MODELS / "digits_calib.npz", samples=64, criterion="gates:l0",
        gate_training=6, schedule="linear:2", target="macs=60%", repair="none", latency=False,
    ).report  # fmt: skip
    assert report["after"]["macs"] <= 0.6 * report["before"]["macs"]
    assert [step["learned"]["steps"] for step in report["schedule"]["steps"]] == [3, 3]


def test_widths_of_an_untrained_model_are_trained_on_labels() -> None:
    labels = (PLANTED[:, 0] > 0).astype(np.int64)
    calibration = open_dataset(PLANTED, input_specs(planted()), labels=labels)
    options = OPTIONS | {"calibration": calibration}
    report = onnxprune.prune(planted(), untrained=True, gate_training=20, recover=20, **options).report
    assert report["learned"]["labels"] and report["recover"]["labels"] and "repair" not in report
    chosen = report["settings"]
    assert (chosen["criterion"], chosen["recover_loss"]) == ("gates:density:mean:none", "labels")
    assert make_settings({"untrained": True, "criterion": "l2"}).criterion == "l2"
    with pytest.raises(DataError, match="labels"):
        onnxprune.prune(planted(), untrained=True, gate_training=20, **OPTIONS)


def test_sums_of_an_untrained_model_stay_as_wide_as_they_are() -> None:
    labels = np.arange(len(ROWS)) % 4
    block = STREAM.replace("j = Concat<axis=1>(s, b); g = GlobalAveragePool(j)", "g = GlobalAveragePool(s)")
    model = network(block.replace("4x11", "4x6"), "float[n,3,6,6] x", "float[n,4] y")
    calibration = open_dataset(ROWS, input_specs(model), labels=labels)
    options = OPTIONS | {"calibration": calibration, "ratio": None, "target": "macs=80%", "gate_training": 10}
    report = onnxprune.prune(model, untrained=True, **options).report
    widths = {group["width_before"]: group["width_after"] for group in report["groups"]}
    assert widths[6] == 6 and widths[5] < 5


# --- names and refusals ---------------------------------------------------------------------------------------------


def test_names_of_two_parts_take_reduction_and_normaliser() -> None:
    assert parse_criterion("gates:l0").name == "gates:l0"
    assert parse_criterion("gates").needs == parse_criterion("gates:l1").needs
    assert str(parse_criterion("gates:l0:max:mean")) == "gates:l0:max:mean"
    assert parse_criterion("gates:max").reduction == "max"
    assert Settings(criterion="gates").options.scope == "global" and Settings(criterion="l2").options.scope == "layer"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gate_weights": "moving"}, "leave gate_weights out"),
        ({"gate_weights": "moving", "criterion": "gates", "repair": "none"}, "leave one of them out"),
        ({"gate_weights": "loose"}, "unknown gate_weights"),
        ({"criterion": "gates", "gate_training": "soon"}, "give a number of steps"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Settings(**options)
