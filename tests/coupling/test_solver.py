"""Links, carriers and groups against components worked out by hand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from support.networks import network
from support.oracles import analysed, group_line

from onnxprune.coupling.carriers import Solution, resolve
from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.links import FREE, Barrier, Links, Product, components
from onnxprune.coupling.spec import Term, parse


@dataclass
class Shapes:
    """What the solver asks of facts: shapes, and which values are weights."""

    shapes: dict[str, tuple[int, ...]]
    weights: frozenset[str] = frozenset()

    def shape(self, value: str) -> tuple[int, ...]:
        return self.shapes[value]

    def is_parameter(self, value: str) -> bool:
        return value in self.weights


def links_of(shapes: dict[str, tuple[int, ...]], weights: str = "") -> Links:
    links = Links(Shapes(shapes, frozenset(weights.split())))  # type: ignore[arg-type]
    for value, shape in shapes.items():
        for axis, size in enumerate(shape):
            links.axes[value, axis] = links.size
            links.size += size
    return links


def product(links: Links, fine: str, *factors: str) -> None:
    """Say that the first axis of ``fine`` is the row-major product of the first axes of ``factors``."""
    sizes = [links.facts.shape(f)[0] for f in factors]  # type: ignore[index]
    maps = tuple(np.unravel_index(np.arange(int(np.prod(sizes))), sizes))
    links.choices.append(
        Product(None, links.axis(fine, 0), factors, tuple(links.axis(f, 0) for f in factors), maps)  # type: ignore[arg-type]
    )


def classes(solution: Solution, value: str) -> str:
    """Print the components along a value's first axis as letters in order of appearance, barred ones as ``.``."""
    labels = solution.labels[solution.links.axis(value, 0)]
    names: dict[int, str] = {}
    return "".join(
        "." if solution.reasons[label] != FREE else names.setdefault(int(label), "abcdefgh"[len(names)])
        for label in labels
    )


# --- hand-made links ------------------------------------------------------------------------------------------------


def test_components_are_numbered_by_first_appearance() -> None:
    count, labels = components(6, np.array([4, 5]), np.array([1, 4]))
    assert (count, labels.tolist()) == (4, [0, 1, 2, 3, 1, 1])


def test_one_free_factor_carries() -> None:
    """(g c) of 2x3 with g barred: position k goes with c = k % 3."""
    links = links_of({"f": (6,), "g": (2,), "c": (3,)})
    product(links, "f", "g", "c")
    links.bar(links.axis("g", 0), Barrier(None, "g stays"))
    solution = resolve(links)
    assert (classes(solution, "f"), classes(solution, "g"), classes(solution, "c")) == ("abcabc", "..", "abc")
    assert solution.carriers == {0: "c"}


def test_the_outer_factor_carries_in_blocks() -> None:
    links = links_of({"f": (6,), "g": (2,), "c": (3,)})
    product(links, "f", "g", "c")
    links.bar(links.axis("c", 0)[1:], Barrier(None, "one of c stays"))
    links.bar(links.axis("c", 0)[:1], Barrier(None, "another stays"))
    assert classes(resolve(links), "f") == "aaabbb"


def test_no_free_factor_bars_the_product() -> None:
    links = links_of({"f": (6,), "g": (2,), "c": (3,)})
    product(links, "f", "g", "c")
    links.bar(links.axis("g", 0), Barrier(None, "g stays"))
    links.bar(links.axis("c", 0), Barrier(None, "c stays"))
    solution = resolve(links)
    assert classes(solution, "f") == "......"
    assert {links.barriers[n].reason for n in solution.reasons[solution.labels[links.axis("f", 0)]]} == {"g stays"}


def test_a_barred_product_bars_its_factors() -> None:
    links = links_of({"f": (6,), "g": (2,), "c": (3,)})
    product(links, "f", "g", "c")
    links.bar(links.axis("f", 0), Barrier(None, "f stays"))
    solution = resolve(links)
    assert classes(solution, "g") + classes(solution, "c") == "....."


def test_one_barred_position_bars_only_its_class() -> None:
    """Position 4 of (2 3) stays: with c as carrier, c = 1 and with it position 1 stay too."""
    links = links_of({"f": (6,), "g": (2,), "c": (3,)})
    product(links, "f", "g", "c")
    links.bar(links.axis("f", 0)[4:5], Barrier(None, "picked"))
    links.bar(links.axis("g", 0), Barrier(None, "g stays"))
    assert classes(resolve(links), "f") == "a.ba.b"


@pytest.mark.parametrize(("prefer", "expected"), [("outer", "aaabbb"), ("inner", "abcabc")])
def test_equal_weight_is_decided_by_preference(prefer: str, expected: str) -> None:
    links = links_of({"f": (6,), "g": (2,), "c": (3,)}, "f")
    product(links, "f", "g", "c")
    assert classes(resolve(links, prefer), "f") == expected


@pytest.mark.parametrize(("heavy", "expected"), [("g", "aaabbb"), ("c", "abcabc")])
def test_the_factor_with_more_weight_carries(heavy: str, expected: str) -> None:
    """Whichever factor stands on the larger weight is cut, against the preference too."""
    links = links_of({"f": (6,), "g": (2, 50 if heavy == "g" else 1), "c": (3, 50 if heavy == "c" else 1)}, "g c")
    product(links, "f", "g", "c")
    for prefer in ("outer", "inner"):
        links.barriers.clear()
        assert classes(resolve(links, prefer), "f") == expected


def test_two_products_on_one_axis_meet_in_their_common_divisor() -> None:
    """12 = (3 4) = (2 6), inner factors cut: k % 4 and k % 6 leave the classes of k % 2."""
    links = links_of({"f": (12,), "g": (3,), "o": (4,), "h": (2,), "c": (6,)})
    product(links, "f", "g", "o")
    product(links, "f", "h", "c")
    for outer in "gh":
        links.bar(links.axis(outer, 0), Barrier(None, f"{outer} stays"))
    solution = resolve(links)
    assert [classes(solution, v) for v in ("f", "o", "c")] == ["abababababab", "abab", "ababab"]


def test_carriers_travel_from_product_to_product() -> None:
    """x = (g c), y = (g o), y barred: g and o stay, so that c carries x."""
    links = links_of({"x": (6,), "y": (4,), "g": (2,), "c": (3,), "o": (2,)})
    product(links, "x", "g", "c")
    product(links, "y", "g", "o")
    links.bar(links.axis("y", 0), Barrier(None, "an output"))
    solution = resolve(links)
    assert (classes(solution, "x"), classes(solution, "c")) == ("abcabc", "abc")


def test_three_factors_leave_one() -> None:
    links = links_of({"f": (12,), "a": (2,), "b": (3,), "c": (2,)}, "b")
    product(links, "f", "a", "b", "c")
    assert classes(resolve(links), "f") == "aabbccaabbcc"


def test_links_join_what_products_split() -> None:
    """Two positions of c linked to each other are one unit of two blocks."""
    links = links_of({"f": (6,), "g": (2,), "c": (3,)})
    product(links, "f", "g", "c")
    links.link(links.axis("c", 0)[:1], links.axis("c", 0)[2:])
    links.bar(links.axis("g", 0), Barrier(None, "g stays"))
    assert classes(resolve(links), "f") == "abaaba"


# --- signatures -----------------------------------------------------------------------------------------------------


def test_a_signature_binds_to_shapes() -> None:
    spec = parse(
        "n (g c) *, (g o) c *, (g o) -> n (g o) *", [(1, 6, 8), (4, 3, 3), (4,)], [(1, 4, 6)], {"g": 2, "c": 3}
    )
    assert spec.sizes == {"n": 1, "g": 2, "c": 3, "x0_0": 8, "o": 2, "x1_0": 3, "y0_0": 6}
    assert spec.inputs[2] == (Term(("g", "o")),)
    assert {bar.letter for bar in spec.bars} == {"x0_0", "x1_0", "y0_0"}
    assert spec.sinks() == {"c", "x0_0", "x1_0"}
    assert [spec.role(1, letter, [0]) for letter in "goc"] == ["scales", "writes", "reads"]


@pytest.mark.parametrize("shapes", [[(2, 3), (4, 5)], [(2, 3, 4), (3, 5)], [(2, 3), (3,)]])
def test_a_signature_refuses_shapes_that_do_not_fit(shapes: list[tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="fit"):
        parse("m k, k n -> m n", shapes, [(2, 5)])


# --- whole networks -------------------------------------------------------------------------------------------------


def units(analysis: Analysis, parameter: str, axis: int) -> str:
    """Print the unit of each position of a weight's axis: letters for a group's units in turn, ``.`` where it stays."""
    printed = ["."] * (analysis.facts.shape(parameter) or ())[axis]
    offset = 0
    for group in analysis.groups:
        for member in group.members:
            if (member.parameter, member.axis) == (parameter, axis):
                for position in np.flatnonzero(member.units >= 0):
                    printed[position] = "abcdefghijklmnopqrstuvwxyz"[offset + member.units[position]]
        offset += group.width
    return "".join(printed)


NETS = {
    "reshape that splits": (
        "w = %3x24; p = MatMul(x, w); r = Reshape(p, @[2, 4, 3, 8]); y = MatMul(r, %8x5)",
        "float[2,4,3] x",
        {("w", 1): "abcdefghabcdefghabcdefgh"},
    ),
    # 4x6 to 3x8: no boundary in common
    "reshape across its boundaries": (
        "w = %3x6; p = MatMul(x, w); r = Reshape(p, @[2, 3, 8]); y = MatMul(r, %8x5)",
        "float[2,4,3] x",
        {("w", 1): "......"},
    ),
    # (2 3) -> (3 2): position 2 o + g holds channel o of group g; both carry alike, the outer g is taken
    "channel shuffle": (
        "w = %6x3x1x1; p = Conv(x, w); r = Reshape(p, @[0, 2, 3, 4, 4]); t = Transpose<perm=[0,2,1,3,4]>(r);"
        "s = Reshape(t, @[0, 6, 4, 4]); v = %5x6x1x1; y = Conv(s, v)",
        "float[2,3,4,4] x",
        {("w", 0): "aaabbb", ("v", 1): "ababab"},
    ),
    "grouped convolution": (
        "w = %6x3x1x1; p = Conv(x, w); v = %9x2x1x1; q = Conv<group=3>(p, v); y = Conv(q, %4x9x1x1)",
        "float[2,3,4,4] x",
        {("w", 0): "ababab", ("v", 1): "ab", ("v", 0): "cdecdecde"},
    ),
    "pixel shuffle, depth first": (
        "w = %8x3x1x1; p = Conv(x, w); q = DepthToSpace<blocksize=2>(p); y = Conv(q, %4x2x1x1)",
        "float[2,3,4,4] x",
        {("w", 0): "abababab"},
    ),
    "pixel shuffle, columns first": (
        'w = %8x3x1x1; p = Conv(x, w); q = DepthToSpace<blocksize=2, mode="CRD">(p); y = Conv(q, %4x2x1x1)',
        "float[2,3,4,4] x",
        {("w", 0): "aaaabbbb"},
    ),
    "flatten to a dense layer": (
        "w = %3x3x1x1; p = Conv(x, w); f = Flatten(p); v = %12x5; y = Gemm(f, v)",
        "float[2,3,2,2] x",
        {("w", 0): "abc", ("v", 0): "aaaabbbbcccc"},
    ),
    # q, k, v of two heads of two: the heads go together through all three
    "packed attention, split in three": (
        "w = %3x12; p = MatMul(x, w); q, k, v = Split<axis=2, num_outputs=3>(p);"
        "q4 = Reshape(q, @[0, 5, 2, 2]); k4 = Reshape(k, @[0, 5, 2, 2]); v4 = Reshape(v, @[0, 5, 2, 2]);"
        "qt = Transpose<perm=[0,2,1,3]>(q4); kt = Transpose<perm=[0,2,3,1]>(k4); vt = Transpose<perm=[0,2,1,3]>(v4);"
        "s = MatMul(qt, kt); a = Softmax(s); m = MatMul(a, vt); mt = Transpose<perm=[0,2,1,3]>(m);"
        "o = Reshape(mt, @[0, 5, 4]); u = %4x3; y = MatMul(o, u)",
        "float[2,5,3] x",
        {("w", 1): "aabbaabbaabb", ("u", 0): "aabb"},
    ),
    # two key heads serve two query heads each; widths 3: key head h goes with query heads 2h and 2h + 1
    "grouped queries": (
        "w = %3x12; v = %3x6; q = MatMul(x, w); k = MatMul(x, v); q4 = Reshape(q, @[0, 5, 4, 3]);"
        "k4 = Reshape(k, @[0, 5, 2, 3]); qt = Transpose<perm=[0,2,1,3]>(q4); kt = Transpose<perm=[0,2,3,1]>(k4);"
        "ku = Unsqueeze(kt, @[2]); ke = Expand(ku, @[2, 2, 2, 3, 5]); kr = Reshape(ke, @[2, 4, 3, 5]);"
        "s = MatMul(qt, kr); a = Softmax(s); r = ReduceSum<keepdims=0>(a, @[3]); y = ReduceL2<keepdims=0>(r, @[1])",
        "float[2,5,3] x",
        {("w", 1): "aaaaaabbbbbb", ("v", 1): "aaabbb"},
    ),
    "windows of a picture": (
        "w = %3x6; p = MatMul(x, w); r = Reshape(p, @[1, 2, 2, 2, 2, 6]); t = Transpose<perm=[0,1,3,2,4,5]>(r);"
        "s = Reshape(t, @[4, 4, 6]); v = %6x5; m = MatMul(s, v); y = Reshape(m, @[1, 4, 4, 5])",
        "float[1,4,4,3] x",
        {("w", 1): "abcdef", ("v", 0): "abcdef"},
    ),
    "one tensor twice in a concatenation": (
        "w = %3x3x1x1; p = Conv(x, w); c = Concat<axis=1>(p, p); v = %5x6x1x1; y = Conv(c, v)",
        "float[2,3,4,4] x",
        {("w", 0): "abc", ("v", 1): "abcabc"},
    ),
    "unequal splits joined in another order": (
        "w = %5x3x1x1; p = Conv(x, w); a, b = Split<axis=1>(p, @[2, 3]); c = Concat<axis=1>(b, a); v = %4x5x1x1;"
        "y = Conv(c, v)",
        "float[2,3,4,4] x",
        {("w", 0): "abcde", ("v", 1): "cdeab"},
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_units_of_a_pattern(name: str) -> None:
    text, inputs, expected = NETS[name]
    analysis = analysed(network(text, inputs))
    assert {key: units(analysis, *key) for key in expected} == expected


def test_boundaries_are_frozen_with_their_reason() -> None:
    analysis = analysed(network("y = Conv(x, w); w = %4x3x1x1"))
    assert [group_line(group) for group in analysis.groups] == []
    assert [(f.parameter, f.axis, f.positions, f.size, f.barrier.reason) for f in analysis.frozen] == [
        ("w", 0, 4, 4, "axis 1 of the model's output 'y'"),
        ("w", 1, 3, 3, "axis 1 of the model's input 'x'"),
    ]


def test_volumes_follow_the_kept_widths() -> None:
    """Two 1x1 convolutions 3 -> 8 -> 5 over 2x4x4 positions: MACs 32*(3*8 + 8*5), and 32*(3*6 + 6*5) with six units."""
    analysis = analysed(network("w = %8x3x1x1; h = Conv(x, w); y = Conv(h, %5x8x1x1)"))
    assert sum(volume.at(np.array([8])) for volume in analysis.macs) == 32 * (24 + 40)
    assert sum(volume.at(np.array([6])) for volume in analysis.macs) == 32 * (18 + 30)
    assert sum(volume.at(np.array([6])) for volume in analysis.parameters) == 18 + 30
