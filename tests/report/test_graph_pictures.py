"""Pictures of graphs: blocks found by shape alone, layers without overlaps, SVG that is well formed and bounded."""

from __future__ import annotations

import copy
from collections import Counter
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from onnxprune.report.documents import page, render
from onnxprune.report.documents.graph.blocks import LARGEST, blocks, repeats
from onnxprune.report.documents.graph.layering import GAP, layout
from onnxprune.report.documents.graph.picture import counted, drawn, short
from onnxprune.report.documents.graph.sections import AT_ONCE, picture_of


def residual(count: int) -> list[list[int]]:
    """Return what is read by the nodes of a stem and ``count`` residual blocks of two layers and a sum."""
    reads = [[-1]]
    for _ in range(count):
        last = len(reads) - 1
        reads += [[last], [last + 1], [last, last + 2]]
    return reads


def row(number: int, reads: list[int], op: str = "Conv", **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": f"v{number}",
        "node": f"/layer{number}/{op}",
        "op": op,
        "then": [],
        "reads": reads,
        "reason": None,
    }
    found |= {"status": "pruned", "width_before": 64, "width_after": 32}
    return found | {f"{key}_{when}": 10**6 for key in ("macs", "parameters") for when in ("before", "after")} | more


def report_of(reads: list[list[int]], **more: Any) -> dict[str, Any]:
    nodes = [
        row(number, sources, "Add" if len(sources) > 1 else "Conv", **more) for number, sources in enumerate(reads)
    ]
    outputs = [{"name": "out", "node": len(nodes) - 1}]
    graph = {"of": len(nodes), "inputs": ["image"], "outputs": outputs, "nodes": nodes}
    return {"command": "prune", "schema_version": 1, "after": {}, "graph": graph}


def test_residual_blocks_are_found_and_are_built_alike() -> None:
    parts = blocks(residual(9))
    assert parts == [range(0, 1), *(range(at, at + 3) for at in range(1, 28, 3))]
    whole = [(len(reads),) for reads in residual(9)]
    found = repeats(parts, whole)
    assert [(one.times, one.period, len(one.blocks)) for one in found] == [(1, 1, 1), (9, 1, 9)]


def test_blocks_in_turns_are_one_repeat() -> None:
    """Attention and the layers after it, twelve times."""
    parts = [range(at, at + 2) for at in range(0, 48, 2)]
    found = repeats(parts, ["q", "add", "up", "down"] * 12)
    assert [(one.times, one.period) for one in found] == [(12, 2)]


def test_skips_over_far_are_ports() -> None:
    """In a U-Net nothing leads on alone until its skips are taken out, and a mask is read by every layer."""
    depth = 60
    down = [[number - 1] for number in range(depth)]
    up = [[depth + number - 1, depth - 1 - number] for number in range(depth)]
    parts = blocks(down + up)
    assert [number for part in parts for number in part] == list(range(2 * depth))
    assert max(map(len, parts)) <= LARGEST
    masked = [[-1], *([number, 0] for number in range(300))]
    assert max(map(len, blocks(masked))) <= LARGEST


@pytest.mark.parametrize("seed", range(6))
def test_any_graph_is_parted_whole_and_in_order(seed: int) -> None:
    random = np.random.default_rng(seed)
    reads = [[int(s) for s in set(random.integers(-1, n, random.integers(1, 4)))] if n else [-1] for n in range(400)]
    parts = blocks(reads)
    assert [number for part in parts for number in part] == list(range(400))
    assert max(map(len, parts)) <= LARGEST


@pytest.mark.parametrize("seed", range(6))
def test_boxes_of_a_layer_do_not_overlap_and_edges_lead_down(seed: int) -> None:
    random = np.random.default_rng(seed)
    count = 40
    edges = [(int(random.integers(0, n)), n) for n in range(1, count) for _ in range(int(random.integers(1, 3)))]
    sizes = random.integers(10, 200, count).astype(float).tolist()
    found = layout(sizes, edges)
    for layer in range(found.layers):
        inside = sorted((found.x[n], sizes[n]) for n in range(count) if found.layer[n] == layer)
        for (x, size), (next_x, next_size) in pairwise(inside):
            assert next_x - x >= (size + next_size) / 2 + GAP - 1e-6
    for source, target in edges:
        assert found.layer[source] < found.layer[target]
        assert len(found.routes[source, target]) == found.layer[target] - found.layer[source] - 1
    assert min(x - size / 2 for x, size in zip(found.x, sizes, strict=True)) >= -1e-6
    assert max(x + size / 2 for x, size in zip(found.x, sizes, strict=True)) <= found.width + 1e-6


def test_a_chain_is_straight_and_a_diamond_has_its_ends_in_the_middle() -> None:
    chain = layout([100.0] * 4, [(0, 1), (1, 2), (2, 3)])
    assert len(set(chain.x)) == 1
    diamond = layout([100.0] * 4, [(0, 1), (0, 2), (1, 3), (2, 3)])
    assert diamond.x[0] == pytest.approx(diamond.x[3]) == pytest.approx((diamond.x[1] + diamond.x[2]) / 2)


def test_a_small_graph_is_one_picture_with_every_node_once() -> None:
    found = picture_of(report_of(residual(5)))
    assert found is not None and found.whole is not None and not found.sections
    root = ElementTree.fromstring(found.whole)
    kinds = Counter(group.get("class") for group in root.iter("g"))
    assert kinds == {"pruned": 16, "port": 2}
    assert all(group.find("title") is not None for group in root.iter("g"))
    assert root.get("role") == "img" and root.get("aria-label")


def test_width_tells_what_is_left_beside_colour() -> None:
    """What is left of an edge is drawn over what it was; what cannot go is dashed by its class."""
    graph = report_of(residual(1))["graph"]
    half = ElementTree.fromstring(drawn(graph, range(4), "t", True))
    widths = {path.get("stroke-width") for path in half.iter("path") if path.get("class") == "cut"}
    assert widths == {"4.5"} and any(path.get("class") == "was" for path in half.iter("path"))
    for one in graph["nodes"]:
        one |= {"status": "frozen", "width_before": None, "width_after": None, "reason": "because"}
    whole = ElementTree.fromstring(drawn(graph, range(4), "t", True))
    assert {path.get("class") for path in whole.iter("path")} == {"e", None}
    assert "frozen: because" in next(whole.iter("g")).find("title").text or "because" in "".join(whole.itertext())


def test_a_deep_graph_is_blocks_below_a_picture_at_a_glance_and_below_a_megabyte() -> None:
    report = report_of(residual(700))
    text = render("html", report)
    assert len(text.encode()) <= page.LIMIT
    found = picture_of(report)
    assert found is not None and found.glance is not None and found.nodes == 2101
    assert sum(1 for group in ElementTree.fromstring(found.glance).iter("rect")) >= 2101
    assert [len(section.inner) for section in found.sections] == [0, 700]
    assert "700 times: 2 Conv, Add" in text


def test_links_of_the_glance_lead_to_blocks_that_are_there() -> None:
    for level in range(4):
        found = picture_of(report_of(residual(40)), level)
        assert found is not None and found.glance is not None
        root = ElementTree.fromstring(found.glance)
        targets = {anchor.get("href") for anchor in root.iter("a")}
        assert root.get("role") == "group"  # an image has nothing inside that can be reached
        assert all(anchor.findtext("title") for anchor in root.iter("a"))
        ids = {f"#{inner.id}" for section in found.sections for inner in (section, *section.inner) if inner.id}
        assert targets == ids


def test_names_of_strangers_are_text_and_do_not_grow() -> None:
    """Markup, quotes, control characters, marks of direction, and names of thousands of letters, in every place of a graph."""
    name = "</title></svg><script>alert('1')</script>\"&\x00\x1b[31m\u202egnp\n" + "y" * 3000
    report = report_of(residual(200), node=name, reason=name, then=[name])
    for one in report["graph"]["nodes"]:
        one["op"] = name
    report["graph"]["inputs"], report["graph"]["outputs"][0]["name"] = [name], name
    found = picture_of(report, 3)
    assert found is not None
    text = render("html", report)
    assert "<script" not in text and not set("\x00\x1b\u202e") & set(text)
    assert len(text.encode()) <= page.LIMIT


def test_graphs_of_one_node_and_of_none() -> None:
    assert picture_of({"command": "bench"}) is None
    assert picture_of(report_of([[-1]])) is not None
    empty = report_of([[-1]])
    empty["graph"] |= {"nodes": [], "outputs": []}
    assert picture_of(empty) is None
    assert AT_ONCE >= LARGEST


def test_equal_reports_give_equal_pictures() -> None:
    report = report_of(residual(30))
    assert render("html", report) == render("html", copy.deepcopy(report))


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (999, "999"), (1000, "1k"), (1327104, "1.33M"), (999999, "1M"), (2.5e15, "2.5e+03T")]
)
def test_counts_are_short(number: float, text: str) -> None:
    assert counted(number) == text


@pytest.mark.parametrize(
    ("node", "op", "text"),
    [
        ("/layer1/layer1.0/conv1/Conv", "Conv", "layer1.0/conv1"),
        ("node_MatMul_18", "MatMul", "node_MatMul_18"),
        ("/Add", "Add", "Add"),
        ("///", "Add", "Add"),
        ("model/a/Conv2D;model/b/BiasAdd", "Conv", "model/b/BiasAdd"),
    ],
)
def test_names_end_where_exporters_put_the_operator(node: str, op: str, text: str) -> None:
    assert short({"node": node, "op": op}) == text
