"""The plan file: it says what the cut does, replays to the same bytes, and refuses what does not fit."""

import json

import numpy as np
import pytest
from support.networks import network
from support.oracles import analysed

from onnxprune.changes.plan import Plan, Planned, from_json, kept_units, make_plan
from onnxprune.coupling.cut import cut
from onnxprune.coupling.groups import Analysis
from onnxprune.errors import PlanError

TEXT = "w = %4x3x1x1\nb = %4\nm = %16x5\nc = Conv(x, w, b)\nr = Relu(c)\nf = Flatten(r)\ny = MatMul(f, m)"
KEPT = [np.array([True, False, True, True])]


def model(width: int = 4, seed: int = 0) -> Analysis:
    text = TEXT.replace("4x3", f"{width}x3").replace("%4\n", f"%{width}\n").replace("16x5", f"{4 * width}x5")
    return analysed(network(text, "float[1,3,2,2] x", "float[1,5] y", seed=seed))


def plan() -> Plan:
    return make_plan(model(), KEPT, {"ratio": 0.25, "seed": 0})


def changed(**entries: object) -> str:
    return json.dumps({**json.loads(plan().to_json()), **entries})


def test_a_plan_lists_what_stays_of_every_tensor_that_changes() -> None:
    rows = (0, 1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 15)
    assert plan().kept == {"w": {0: (0, 2, 3)}, "b": {0: (0, 2, 3)}, "m": {0: rows}}
    assert [(g.name, g.width, g.kept) for g in plan().groups] == [("w", 4, (0, 2, 3))]
    assert make_plan(model(), [np.ones(4, bool)], {}).kept == {}


def test_slicing_by_the_plan_gives_the_tensors_of_the_cut() -> None:
    analysis = model()
    for name, tensor in cut(analysis, KEPT).weights.items():
        content = analysis.facts.content(name)
        for axis, positions in plan().kept.get(name, {}).items():
            content = content.take(positions, axis)
        np.testing.assert_array_equal(content, tensor.read())


def test_the_file_is_read_back_and_has_the_same_bytes_every_time() -> None:
    text = plan().to_json()
    assert from_json(text) == plan()
    assert from_json(text).to_json() == text == plan().to_json()
    (step,) = plan().steps
    record = {"groups": step.record["groups"], "kept": dict(reversed(step.record["kept"].items()))}
    reordered = Plan(plan().model_sha256, {"seed": 0, "ratio": 0.25}, (Planned("units", record),))
    assert reordered.to_json() == text
    assert json.loads(text)["schema_version"] == 1
    empty = Plan("0", {}, (Planned("units", {"groups": [], "kept": {}}),))
    assert from_json(empty.to_json()) == empty


def test_replaying_keeps_the_same_units() -> None:
    assert [mask.tolist() for mask in kept_units(plan(), model())] == [KEPT[0].tolist()]


def test_keys_of_later_versions_are_ignored() -> None:
    assert from_json(changed(note="from the future")) == plan()


def test_another_model_needs_force_and_equal_shapes() -> None:
    other = model(seed=1)
    with pytest.raises(PlanError, match="--force"):
        kept_units(plan(), other)
    assert kept_units(plan(), other, force=True)[0].tolist() == KEPT[0].tolist()
    with pytest.raises(PlanError, match="one of 6 units"):
        kept_units(plan(), model(width=6), force=True)
    renamed = analysed(network(TEXT.replace("w", "v"), "float[1,3,2,2] x", "float[1,5] y"))
    with pytest.raises(PlanError, match="no such group"):
        kept_units(plan(), renamed, force=True)


def test_groups_and_tensors_that_disagree_are_refused() -> None:
    wrong = from_json(changed(groups=[{"name": "w", "width": 4, "kept": [0, 1]}]))
    with pytest.raises(PlanError, match="tensor 'b'"):
        kept_units(wrong, model())
    missing = from_json(changed(kept={"w": {"0": [0, 2, 3]}}))
    with pytest.raises(PlanError, match="tensor 'b'"):
        kept_units(missing, model())


GROUP = {"name": "w", "width": 4, "kept": [0, 2]}
BAD_ENTRIES = [
    ({"schema_version": 2}, "schema_version 2"),
    ({"schema_version": True}, "schema_version is bool"),
    ({"model_sha256": 3}, "model_sha256"),
    ({"settings": []}, "settings"),
    ({"groups": {}}, "groups is dict"),
    ({"groups": [3]}, r"groups\[0\] is int"),
    ({"groups": [{"name": "w", "kept": [0]}]}, "no entry 'width'"),
    ({"groups": [GROUP, GROUP]}, "'w' twice"),
    ({"groups": [{**GROUP, "kept": [0, 4]}]}, "only 4 units"),
    ({"groups": [{**GROUP, "kept": []}]}, "empty"),
    ({"groups": [{**GROUP, "kept": [2, 0]}]}, "ascending"),
    ({"groups": [{**GROUP, "kept": [0, 0]}]}, "ascending"),
    ({"groups": [{**GROUP, "kept": [-1, 0]}]}, "ascending"),
    ({"groups": [{**GROUP, "kept": [0.0]}]}, "is float"),
    ({"groups": [{**GROUP, "kept": [True]}]}, "is bool"),
    ({"kept": {"w": {"zero": [0]}}}, "not the number of an axis"),
    ({"kept": {"w": {"00": [0]}}}, "not the number of an axis"),
    ({"kept": {"w": {"9" * 5000: [0]}}}, "not the number of an axis"),
    ({"kept": {"w": {}}}, "lists no axis"),
    ({"kept": {"w": {"0": "012"}}}, "is str"),
]


@pytest.mark.parametrize(("entries", "message"), BAD_ENTRIES)
def test_wrong_entries_are_named(entries: dict, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        from_json(changed(**entries))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"schema_version": 1}',
        "[" * 10**5,
        '{"schema_version": NaN}',
        '{"a": 1, "a": 2}',
        "1" * 5000,
    ],
)
def test_what_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(PlanError):
        from_json(text)
