"""Laws that every cut must obey, whatever the operators: held over all rows of the case table that can be run."""

from __future__ import annotations

import zlib
from itertools import chain

import numpy as np
import pytest
from cases import OPERATORS
from onnx import ModelProto, numpy_helper
from support.networks import feeds
from support.oracles import Plan, analysed, keep_all, random_plan, run, same, silence_readers
from support.rows import Row

from onnxprune.coupling.cut import cut
from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.kept import Kept

ROWS = list(chain(*OPERATORS.values()))
every_row = pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
EXCEPTED = {
    "its silence is not the number zero": (
        "QLinearConv QLinearMatMul com.microsoft::DynamicQuantizeMatMul com.microsoft::QGemm"
        " com.microsoft::DynamicQuantizeLSTM com.microsoft::QLinearAdd com.microsoft::QLinearMul"
        " com.microsoft::QLinearAveragePool"
    ),
    "its attributes have the order of the units": "ai.onnx.ml::Scaler ai.onnx.ml::Imputer",
    "over the rest it is spelled out, each part with its own silence": (
        "LayerNormalization com.microsoft::SkipLayerNormalization"
    ),
    "groups of one channel each are coupled otherwise than wider ones": "DeformConv",
}
EXCEPTIONS = {name for names in EXCEPTED.values() for name in names.split()}
some = [row for row in ROWS if row.runs and "/" not in row.name and row.name not in EXCEPTIONS]
plain_rows = pytest.mark.parametrize("row", some, ids=[row.name for row in some])


def drawn(row: Row) -> tuple[Analysis, Plan]:
    analysis = analysed(row.model(), row.allow)
    return analysis, random_plan(analysis, np.random.default_rng(zlib.crc32(row.name.encode())))


def weights(model: ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@every_row
def test_keeping_everything_changes_no_byte(row: Row) -> None:
    analysis = analysed(row.model(), row.allow)
    assert cut(analysis, keep_all(analysis)).proto.SerializeToString(
        deterministic=True
    ) == row.model().SerializeToString(deterministic=True)


@every_row
def test_equal_inputs_give_equal_bytes_and_leave_the_original_alone(row: Row) -> None:
    model = row.model()
    before = model.SerializeToString(deterministic=True)
    results = []
    for _ in range(2):
        analysis = analysed(model, row.allow)
        plan = random_plan(analysis, np.random.default_rng(3))
        results.append(cut(analysis, plan).proto.SerializeToString(deterministic=True))
    assert results[0] == results[1]
    assert model.SerializeToString(deterministic=True) == before


@every_row
def test_kept_weights_are_bit_equal_slices(row: Row) -> None:
    analysis, plan = drawn(row)
    small = weights(cut(analysis, plan).proto)
    for name, whole in weights(analysis.facts.model.proto).items():
        masks = [Kept.of(analysis, plan).mask(name, axis) for axis in range(whole.ndim)]
        if whole.dtype.kind in "ib" and all(mask is None for mask in masks):
            continue  # sizes, axes and bounds: what they must become is for the other oracles to say
        for axis, mask in enumerate(masks):
            whole = whole if mask is None else np.compress(mask, whole, axis)
        assert whole.tobytes() == small[name].tobytes() and whole.shape == small[name].shape


@plain_rows
def test_two_cuts_equal_one(row: Row) -> None:
    """Removing some of the units, analysing again and removing the rest ends in the same weights as one cut."""
    analysis, plan = drawn(row)
    rng = np.random.default_rng(5)
    part = [mask | (rng.random(len(mask)) < 0.5) for mask in plan]
    middle = analysed(cut(analysis, part).proto, row.allow)
    whole, half = axis_masks(analysis, plan), axis_masks(analysis, part)
    rest = plan_of(middle, {key: whole[key][half[key]] for key in whole})
    once, twice = cut(analysis, plan).proto, cut(middle, rest).proto
    own = weights(row.model())
    assert {n: a.tobytes() for n, a in weights(once).items() if n in own} == {
        n: a.tobytes() for n, a in weights(twice).items() if n in own
    }
    inputs = feeds(once, below=row.below)
    same(run(once, inputs), run(twice, inputs))


@plain_rows
def test_the_order_of_groups_does_not_matter(row: Row) -> None:
    """Cutting the groups one at a time, last first, gives the weights of cutting them at once."""
    analysis, plan = drawn(row)
    masks, done = axis_masks(analysis, plan), {key: np.arange(len(m)) for key, m in axis_masks(analysis, plan).items()}
    step = analysis
    for _ in plan:
        pending = plan_of(step, {key: masks[key][done[key]] for key in masks})
        chosen = max((g for g, mask in enumerate(pending) if not mask.all()), default=None)
        if chosen is None:
            break
        trial = [mask if g == chosen else np.ones_like(mask) for g, mask in enumerate(pending)]
        taken = axis_masks(step, trial)
        done = {key: positions[taken[key]] for key, positions in done.items()}
        step = analysed(cut(step, trial).proto, row.allow)
    small, last, own = weights(cut(analysis, plan).proto), weights(step.facts.model.proto), weights(row.model())
    assert {n: small[n].tobytes() for n in small if n in own} == {n: last[n].tobytes() for n in last if n in own}


@plain_rows
def test_removing_units_that_are_zero_changes_nothing(row: Row) -> None:
    """Where all that reads a unit reads it with zeros, the unit can go without a trace."""
    analysis, plan = drawn(row)
    model = row.model()
    if row.allow or not silence_readers(analysis, plan, model):
        pytest.skip("its units are not read by weights alone")
    small = cut(analysed(model, row.allow), plan).proto
    inputs = feeds(model, below=row.below)
    same(run(model, inputs), run(small, inputs))


@plain_rows
def test_permuting_units_commutes_with_cutting(row: Row) -> None:
    """A model whose units are reordered, cut by the reordered plan, computes what the cut original computes."""
    analysis, plan = drawn(row)
    rng = np.random.default_rng(7)
    orders = [rng.permutation(group.width) for group in analysis.groups]
    model = row.model()
    if not permute(analysis, orders, model):
        pytest.skip("its units stand in an order that has a meaning")
    inputs = feeds(model, below=row.below)
    same(run(row.model(), inputs), run(model, inputs))
    again = analysed(model, row.allow)
    reordered = [mask[order] for mask, order in zip(plan, orders, strict=True)]
    same(run(cut(analysis, plan).proto, inputs), run(cut(again, reordered).proto, inputs))


def axis_masks(analysis: Analysis, plan: Plan) -> dict[tuple[str, int], np.ndarray]:
    """Return bool[size] for each axis of each stored tensor: the positions that stay."""
    found = {}
    for name, array in weights(analysis.facts.model.proto).items():
        for axis, size in enumerate(array.shape):
            mask = Kept.of(analysis, plan).mask(name, axis)
            found[name, axis] = np.ones(size, bool) if mask is None else mask
    return found


def plan_of(analysis: Analysis, masks: dict[tuple[str, int], np.ndarray]) -> Plan:
    """Return the plan under which exactly the positions of ``masks`` stay."""
    plan = [np.ones(group.width, bool) for group in analysis.groups]
    for group, kept in zip(analysis.groups, plan, strict=True):
        for member in group.members:
            mask = masks.get((member.parameter, member.axis))
            if mask is not None:
                kept[member.units[~mask & (member.units >= 0)]] = False
    return plan


def permute(analysis: Analysis, orders: list[np.ndarray], model: ModelProto) -> bool:
    """Reorder every stored axis alike; False where the order of units matters or they are not all stored."""
    if any(node.op == "LRN" for group in analysis.groups for node in group.lossy):
        return False
    stored = {tensor.name for tensor in model.graph.initializer}
    members = {(m.parameter, m.axis) for group in analysis.groups for m in group.members}
    nothing = [np.zeros(group.width, bool) for group in analysis.groups]
    reached = {key for key, mask in axis_masks(analysis, nothing).items() if not mask.all()}
    if not reached <= members or any(
        name not in stored and name in analysis.facts.graph.tensors for name, _ in members
    ):
        return False
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        for group, order in zip(analysis.groups, orders, strict=True):
            for member in {m.axis: m for m in group.members if m.parameter == tensor.name}.values():
                moved = moved_positions(member.units, order)
                if moved is None:
                    return False
                array = np.take(array, moved, member.axis)
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(array, order="C"), tensor.name))
    return True


def moved_positions(units: np.ndarray, order: np.ndarray) -> np.ndarray | None:
    """Return int64[size]: where each position's content comes from when unit ``order[u]`` takes the place of unit u."""
    places = [np.flatnonzero(units == unit) for unit in range(len(order))]
    if len({len(place) for place in places}) != 1:
        return None
    moved = np.arange(len(units))
    for unit, old in enumerate(order):
        moved[places[unit]] = places[old]
    return moved
