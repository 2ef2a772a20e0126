"""Allocation: legal widths, budgets, rankings and patterns; laws on random scores, exact results on small networks."""

from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from support.networks import network
from support.oracles import analysed

from onnxprune.allocate import Costs, Options, Target, allocate, parse_ratio, parse_target, select
from onnxprune.allocate.legal import aligned_widths, group_widths, nearest
from onnxprune.allocate.policies import THRESHOLDS, keep_best, masks, pools
from onnxprune.coupling.cut import cut
from onnxprune.coupling.groups import Analysis, Group
from onnxprune.errors import TargetError, UsageError

TOTALS = {"macs": "macs", "params": "parameters", "size": "bytes"}


@lru_cache
def chain(*widths: int) -> Analysis:
    """Convolutions conv0, conv1, ... with Relu between them: one group per width, named w0, w1, ..."""
    lines, value, before = [], "x", 3
    for number, width in enumerate((*widths, 5)):
        kernel = 1 if number % 2 else 3
        lines += [f"w{number} = %{width}x{before}x{kernel}x{kernel}"]
        lines += [f"[conv{number}] c{number} = Conv <pads = {[kernel // 2] * 4}> ({value}, w{number})"]
        lines += [f"[relu{number}] {'y' if number == len(widths) else f'r{number}'} = Relu(c{number})"]
        value, before = f"r{number}", width
    return analysed(network("\n".join(lines), "float[1,3,6,6] x", "float[1,5,6,6] y"))


@lru_cache
def stream() -> Analysis:
    """A residual stream of 12 channels (stem, out0, out1) and two inner widths of 8 and 20."""
    lines = ["stem = %12x3x3x3", "[stem_conv] s = Conv <pads = [1, 1, 1, 1]> (x, stem)"]
    for number, (before, width) in enumerate((("s", 8), ("a0", 20))):
        lines += [f"in{number} = %{width}x12x3x3", f"out{number} = %12x{width}x3x3"]
        lines += [f"[in_conv{number}] i{number} = Conv <pads = [1, 1, 1, 1]> ({before}, in{number})"]
        lines += [f"j{number} = Relu(i{number})"]
        lines += [f"[out_conv{number}] o{number} = Conv <pads = [1, 1, 1, 1]> (j{number}, out{number})"]
        lines += [f"a{number} = Add({before}, o{number})"]
    lines += ["[head] y = Conv(a1, %4x12x1x1)"]
    return analysed(network("\n".join(lines), "float[1,3,6,6] x", "float[1,4,6,6] y"))


def counts(kept: list[np.ndarray]) -> list[int]:
    return [int(mask.sum()) for mask in kept]


def flat(analysis: Analysis) -> list[np.ndarray]:
    """Scores that rise within every group, equal between groups."""
    return [np.arange(1.0, group.width + 1) for group in analysis.groups]


def drawn(analysis: Analysis, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.random(group.width) * rng.choice([0.1, 1, 10]) for group in analysis.groups]


# --- costs ----------------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999))
def test_costs_are_those_of_the_model_that_is_cut(seed: int) -> None:
    analysis, rng = stream(), np.random.default_rng(seed)
    kept = [keep_best(rng.random(g.width), int(rng.integers(1, g.width + 1))) for g in analysis.groups]
    widths = np.array(counts(kept))
    totals = Costs(analysis).totals(widths)
    small = cut(analysis, kept).proto
    assert totals["parameters"] == sum(numpy_helper.to_array(t).size for t in small.graph.initializer)
    assert totals["weight_bytes"] == 4 * totals["parameters"]
    assert totals["macs"] == sum(volume.at(widths) for volume in analysis.macs)
    assert abs(totals["bytes"] - len(small.SerializeToString())) < 100
    assert totals["channels"] == widths.sum()


def test_variants_are_counted_at_once_as_one_by_one() -> None:
    analysis = stream()
    variants = np.array([[12, 8, 20], [6, 4, 10], [1, 1, 1]]).T
    for kind in ("parameters", "macs", "weight_bytes", "bytes", "channels"):
        single = [float(Costs(analysis).total(kind, column)) for column in variants.T]
        assert Costs(analysis).total(kind, variants).tolist() == single


def test_prunable_share_counts_what_groups_can_take_away() -> None:
    assert Costs(stream()).prunable() == {"parameters": 1.0, "macs": 1.0}
    frozen_half = network("a = MatMul(x, %4x4)\ny = Add(a, x)", "float[1,4] x", "float[1,4] y")
    assert Costs(analysed(frozen_half)).prunable() == {"parameters": 0.0, "macs": 0.0}


# --- legal widths ---------------------------------------------------------------------------------------------------


def group(width: int, multiplicity: int = 1) -> Group:
    return Group("g", 0, width, multiplicity, (), ())


@settings(max_examples=200)
@given(width=st.integers(1, 300), multiplicity=st.integers(1, 70), step=st.integers(1, 70), cap=st.floats(0, 1))
def test_legal_widths(width: int, multiplicity: int, step: int, cap: float) -> None:
    options = Options(round_to=step, max_layer_ratio=cap)
    aligned = aligned_widths(group(width, multiplicity), options)
    assert aligned == sorted(set(aligned)) and aligned[0] >= 1 and aligned[-1] == width
    assert len(aligned) > 1 or width == 1
    used = [
        s
        for s in (step, *(2**k for k in range(7) if 2**k < step))
        if all(w * multiplicity % s == 0 for w in aligned[:-1])
    ]
    assert used
    for allowed in group_widths(group(width, multiplicity), options):
        assert width - allowed <= cap * width + 1e-6


@pytest.mark.parametrize(
    ("width", "multiplicity", "step", "expected"),
    [
        (64, 1, 16, [16, 32, 48, 64]),
        (20, 1, 8, [8, 16, 20]),
        (12, 1, 8, [4, 8, 12]),
        (3, 1, 16, [1, 2, 3]),
        (1, 1, 16, [1]),
        (4, 16, 16, [1, 2, 3, 4]),
        (12, 3, 16, [4, 8, 12]),
        (12, 4, 16, [4, 8, 12]),
        (40, 1, 12, [12, 24, 36, 40]),
        (20, 1, 12, [8, 16, 20]),
    ],
)
def test_alignment_counts_positions_and_falls_back_to_powers_of_two(width, multiplicity, step, expected) -> None:
    assert aligned_widths(group(width, multiplicity), Options(round_to=step)) == expected


def test_minimum_and_cap() -> None:
    assert aligned_widths(group(10), Options(minimum=7)) == [7, 8, 9, 10]
    assert aligned_widths(group(10), Options(minimum=50)) == [10]
    assert aligned_widths(group(32), Options(minimum=9, round_to=8)) == [16, 24, 32]
    assert group_widths(group(10), Options(max_layer_ratio=0.3)) == [7, 8, 9, 10]
    assert group_widths(group(10), Options(max_layer_ratio=0.0)) == [10]


def test_nearest_takes_the_wider_of_two() -> None:
    assert [nearest([8, 16, 24], wanted) for wanted in (0, 11.9, 12, 16, 30)] == [8, 8, 16, 16, 24]


@pytest.mark.parametrize(
    "wrong",
    [
        {"round_to": 0},
        {"minimum": 0},
        {"max_layer_ratio": 1.5},
        {"max_layer_ratio": float("nan")},
        {"layer_ratios": (("w0", 1.0),)},
    ],
)
def test_options_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(UsageError):
        Options(**wrong)


# --- ratio ----------------------------------------------------------------------------------------------------------


def test_half_of_every_layer_goes_and_the_best_stay() -> None:
    kept = allocate(
        chain(4, 7), [np.array([4.0, 1, 3, 2]), np.array([1.0, 1, 1, 5, 1, 1, 1])], parse_ratio(0.5), Options()
    )
    assert kept[0].tolist() == [True, False, True, False]
    assert np.flatnonzero(kept[1]).tolist() == [0, 1, 2, 3]  # 3.5 of 7: the wider; of equals the first


def test_rounding_keeps_the_width_nearest_to_the_ratio() -> None:
    analysis = chain(24, 12, 20)
    assert counts(allocate(analysis, flat(analysis), parse_ratio(0.5), Options(round_to=8))) == [16, 8, 8]
    assert counts(allocate(analysis, flat(analysis), parse_ratio(0.999), Options(round_to=8))) == [8, 4, 8]


def test_global_ranking_takes_the_weakest_of_all() -> None:
    analysis, scores = chain(4, 4), [np.array([1.0, 2, 3, 4]), np.array([10.0, 20, 30, 40])]
    assert counts(allocate(analysis, scores, parse_ratio(0.25), Options(scope="global"))) == [2, 4]
    assert counts(allocate(analysis, scores, parse_ratio(0.5), Options(scope="global"))) == [1, 3]  # never the last one
    capped = Options(scope="global", max_layer_ratio=0.5)
    assert counts(allocate(analysis, scores, parse_ratio(0.5), capped)) == [2, 2]  # others make up for the cap


def test_thresholds_make_classes_comparable() -> None:
    analysis, scores = chain(4, 4), [np.array([1.0, 2, 3, 4]), np.array([10.0, 20, 30, 40])]
    for threshold in ("class-uniform", "class-distribution"):
        kept = allocate(analysis, scores, parse_ratio(0.5), Options(scope="global", threshold=threshold))
        assert counts(kept) == [2, 2]
    uneven = [np.array([1.0, 1, 3, 3]), np.array([4.0, 4, 5, 5])]  # sigma 1 and 0.5: 1 1 3 3 against 8 8 10 10
    kept = allocate(analysis, uneven, parse_ratio(0.25), Options(scope="global", threshold="class-distribution"))
    assert counts(kept) == [2, 4]


def test_masks_of_whole_tensors() -> None:
    scores = [np.array([[1.0, 6.0], [3.0, 4.0]]), np.array([2.0, 5.0])]
    assert [m.tolist() for m in masks(scores, 0.5)] == [[[False, True], [False, True]], [False, True]]
    assert [m.tolist() for m in masks(scores, 0.5, "class-uniform")] == [[[False, True], [False, True]], [False, True]]
    assert sum(int(m.sum()) for m in masks(scores, 0.0)) == 6
    assert sum(int(m.sum()) for m in masks(scores, 0.49)) == 4  # at most the share goes


def test_isomorphic_groups_are_ranked_together() -> None:
    """Kernels alternate between 3x3 and 1x1; the first reads 3 fixed channels, the last has 5 fixed readers."""
    assert pools(chain(6, 6, 6, 6, 6), "isomorphic", range(5)) == [[0], [1, 3], [2], [4]]
    assert pools(chain(6, 6), "layer", range(2)) == [[0], [1]]
    assert pools(chain(6, 6), "global", range(2)) == [[0, 1]]


def test_equal_scores_are_taken_from_all_groups_alike() -> None:
    analysis = chain(8, 4, 12)
    kept = allocate(analysis, [np.ones(8), np.ones(4), np.ones(12)], parse_ratio(0.5), Options(scope="global"))
    assert counts(kept) == [4, 2, 6]


# --- laws -----------------------------------------------------------------------------------------------------------

SETTINGS = st.builds(
    Options,
    scope=st.sampled_from(["layer", "global", "isomorphic"]),
    threshold=st.sampled_from(sorted(THRESHOLDS)),
    round_to=st.sampled_from([1, 2, 3, 4, 8]),
    minimum=st.sampled_from([1, 3]),
    max_layer_ratio=st.sampled_from([1.0, 0.8, 0.5]),
)


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 999), options=SETTINGS, share=st.floats(0.05, 0.99), kind=st.sampled_from(sorted(TOTALS)))
def test_budgets_are_met_and_used_up(seed: int, options: Options, share: float, kind: str) -> None:
    analysis = stream()
    costs, legal = Costs(analysis), [group_widths(g, options) for g in analysis.groups]
    limit = share * float(costs.total(TOTALS[kind], costs.widths))
    try:
        kept = allocate(analysis, drawn(analysis, seed), Target(kind, share), options)
    except TargetError as error:
        smallest = np.array([widths[0] for widths in legal])
        assert error.best == float(costs.total(TOTALS[kind], smallest)) > limit
        return
    widths = np.array(counts(kept))
    assert float(costs.total(TOTALS[kind], widths)) <= limit
    for g, allowed in enumerate(legal):
        assert widths[g] in allowed
        if widths[g] < allowed[-1]:
            wider = widths.copy()
            wider[g] = allowed[allowed.index(widths[g]) + 1]
            assert float(costs.total(TOTALS[kind], wider)) > limit


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 999), options=SETTINGS, ratios=st.tuples(st.floats(0.01, 0.99), st.floats(0.01, 0.99)))
def test_a_higher_ratio_only_takes_more(seed: int, options: Options, ratios: tuple[float, float]) -> None:
    analysis = stream()
    scores = drawn(analysis, seed)
    less, more = (allocate(analysis, scores, Target("ratio", ratio), options) for ratio in sorted(ratios))
    for wide, narrow, group in zip(less, more, analysis.groups, strict=True):
        assert (narrow <= wide).all() and narrow.sum() in group_widths(group, options)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), options=SETTINGS)
def test_units_may_change_places(seed: int, options: Options) -> None:
    analysis, rng = stream(), np.random.default_rng(seed)
    scores = drawn(analysis, seed)
    orders = [rng.permutation(group.width) for group in analysis.groups]
    straight = allocate(analysis, scores, Target("ratio", 0.5), options)
    shuffled = allocate(analysis, [s[o] for s, o in zip(scores, orders, strict=True)], Target("ratio", 0.5), options)
    for kept, order, moved in zip(straight, orders, shuffled, strict=True):
        assert (kept[order] == moved).all()


def test_units_that_must_stay_go_last() -> None:
    analysis = chain(4, 4)
    scores = [np.array([np.inf, 1, np.inf, 2]), np.array([5.0, 6, 7, 8])]
    for scope in ("layer", "global", "isomorphic"):
        kept = allocate(analysis, scores, parse_ratio(0.5), Options(scope=scope))
        assert kept[0][[0, 2]].all()


# --- targets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("macs=50%", Target("macs", 0.5)),
        ("macs = 0.5x", Target("macs", 0.5)),
        ("params=2M", Target("params", 2e6, False)),
        ("params=1.5k", Target("params", 1500.0, False)),
        ("macs=1e6", Target("macs", 1e6, False)),
        ("size=8MB", Target("size", 8e6, False)),
        ("size=8 MiB", Target("size", 8 * 2.0**20, False)),
        ("size=800B", Target("size", 800.0, False)),
    ],
)
def test_targets_are_read(text: str, expected: Target) -> None:
    assert parse_target(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "mac=50%",
        "macs",
        "macs=",
        "macs=0",
        "macs=0%",
        "macs=100%",
        "macs=2x",
        "macs=-5%",
        "macs=nan",
        "params=8MB",
        "size=8XB",
        "params=inf",
    ],
)
def test_targets_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_target(text)


@pytest.mark.parametrize("ratio", [0, 1, -1, 1.5, "nan", "half", "inf", ""])
def test_ratios_that_make_no_sense_are_refused(ratio: float | str) -> None:
    with pytest.raises(UsageError, match="--ratio"):
        parse_ratio(ratio)


def test_a_budget_above_the_original_keeps_everything() -> None:
    kept = allocate(stream(), drawn(stream(), 0), parse_target("params=1G"), Options())
    assert all(mask.all() for mask in kept)


def test_a_target_out_of_reach_names_the_best() -> None:
    with pytest.raises(TargetError, match="out of reach") as caught:
        allocate(chain(4, 4), flat(chain(4, 4)), parse_target("params=10"), Options(max_layer_ratio=0.5))
    assert caught.value.best == 2 * 27 + 2 * 2 + 5 * 2 * 9


def test_nothing_to_prune_is_said() -> None:
    frozen = analysed(network("y = MatMul(x, %4x4)", "float[1,4] x", "float[1,4] y"))
    with pytest.raises(TargetError, match="nothing in this model"):
        allocate(frozen, [], parse_ratio(0.5), Options())
    with pytest.raises(TargetError, match="none of the 2 groups"):
        allocate(chain(4, 4), flat(chain(4, 4)), parse_ratio(0.5), Options(exclude=("w*",)))


# --- patterns -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("w1", {"w1"}),
        ("conv1", {"w1"}),
        ("relu0", {"w0"}),
        ("conv?", {"w0", "w1", "w2"}),
        ("re:^conv[01]$", {"w0", "w1"}),
        ("re:onv", {"w0", "w1", "w2"}),
        ("op:Conv", {"w0", "w1", "w2"}),
        ("c2", {"w2"}),
        ("*", {"w0", "w1", "w2"}),
    ],
)
def test_patterns_name_the_groups_that_nodes_write(pattern: str, names: set[str]) -> None:
    analysis = chain(4, 6, 8)
    assert {analysis.groups[g].name for g in select(analysis, pattern, "--include")} == names


def test_a_stream_is_named_by_any_of_its_writers() -> None:
    for pattern in ("stem", "stem_conv", "out_conv1", "out0", "op:Add"):
        assert select(stream(), pattern, "--include") == {0}


@pytest.mark.parametrize("pattern", ["conv9", "re:^nothing", "op:Gemm", "op:conv", "re:("])
@pytest.mark.parametrize("option", ["include", "exclude"])
def test_patterns_without_match_are_refused(pattern: str, option: str) -> None:
    with pytest.raises(UsageError):
        allocate(chain(4, 6), flat(chain(4, 6)), parse_ratio(0.5), Options(**{option: (pattern,)}))


def test_a_frozen_layer_may_be_excluded_but_not_included() -> None:
    analysis = chain(4, 6)
    assert counts(allocate(analysis, flat(analysis), parse_ratio(0.5), Options(exclude=("conv2",)))) == [2, 3]
    with pytest.raises(UsageError, match="nothing that can be cut"):
        allocate(analysis, flat(analysis), parse_ratio(0.5), Options(include=("conv2",)))


def test_include_exclude_and_layer_ratio() -> None:
    analysis = chain(8, 8, 8)
    scores = flat(analysis)
    assert counts(allocate(analysis, scores, parse_ratio(0.5), Options(include=("conv0", "w2")))) == [4, 8, 4]
    assert counts(allocate(analysis, scores, parse_ratio(0.5), Options(exclude=("conv0",)))) == [8, 4, 4]
    own = Options(layer_ratios=(("conv*", 0.75), ("conv1", 0.25)))
    assert counts(allocate(analysis, scores, parse_ratio(0.5), own)) == [2, 6, 2]
    untouched = Options(layer_ratios=(("conv1", 0.0),), scope="global")
    assert counts(allocate(analysis, scores, parse_ratio(0.5), untouched)) == [4, 8, 4]


def test_unknown_scope_and_threshold_are_refused_with_near_names() -> None:
    for wrong in (Options(scope="globl"), Options(threshold="class-blnd")):
        with pytest.raises(UsageError, match="did you mean"):
            allocate(chain(4, 6), flat(chain(4, 6)), parse_ratio(0.5), wrong)
