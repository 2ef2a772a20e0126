"""Low rank of embedding tables: what is lost against a count by hand, what is written, and which targets they are for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, numpy_helper
from support.networks import network
from support.oracles import analysed

import onnxprune
from onnxprune.allocate import Options as Widths
from onnxprune.changes.plan import from_json
from onnxprune.changes.ranks import Cut, Layer, find_layers, projected, with_factors
from onnxprune.changes.ranks.regression import Metric, Regression
from onnxprune.changes.ranks.tables import TableUse, looked_up_counts, lookup_shares, regressed_table, row_moment
from onnxprune.data import input_specs, open_dataset
from onnxprune.means import Means

TOKENS, WIDTH = 240, 24
BODY = f"e = %{TOKENS}x{WIDTH}; s = Gather(e, ids); m = ReduceMean<keepdims=0>(s, @[1]); h = MatMul(m, %{WIDTH}x6); y = Tanh(h)"


def language(body: str = BODY, rank: int = 0, table: str = "e") -> ModelProto:
    """Return a network whose table is of a rank, but for a little."""
    model = network(body, "int64[N,L] ids", "float[N,6] y")
    if rank:
        draw = np.random.default_rng(1)
        stored = next(t for t in model.graph.initializer if t.name == table)
        like = numpy_helper.to_array(stored)
        content = draw.standard_normal((len(like), rank)) @ draw.standard_normal((rank, like.shape[1]))
        stored.CopyFrom(numpy_helper.from_array(content.astype(like.dtype), table))
    return model


def table_of(model: ModelProto) -> tuple[Any, Layer]:
    analysis = analysed(model)
    return analysis, next(layer for layer in find_layers(analysis, tables=True).found if layer.looked_up)


def basis_of(analysis: Any, layer: Layer) -> Regression:
    """Return directions in which all tokens count alike."""
    moment = row_moment(analysis.facts.content("e"), np.full(TOKENS, 1 / TOKENS))
    return regressed_table(layer, [TableUse(np.eye(WIDTH), moment)], Widths(round_to=1))


def run(model: ModelProto, ids: np.ndarray) -> np.ndarray:
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"ids": ids})[
        0
    ]


@pytest.fixture
def rows() -> dict[str, np.ndarray]:
    """Numbers of which few are frequent, and the last ten are in no row."""
    shares = 1.0 / np.arange(1, TOKENS - 9)
    return {"ids": np.random.default_rng(0).choice(TOKENS - 10, (64, 8), p=shares / shares.sum())}


OPTIONS: dict[str, Any] = {"low_rank": True, "latency": False, "round_to": 1}


def test_what_is_lost_is_the_weighed_error_of_the_rows() -> None:
    analysis, layer = table_of(language())
    table, draw = analysis.facts.content("e"), np.random.default_rng(3)
    shares, root = draw.dirichlet(np.full(TOKENS, 0.3)), draw.standard_normal((WIDTH, WIDTH))
    metric = Metric.of(root @ root.T)
    basis = regressed_table(layer, [TableUse(metric.moment, row_moment(table, shares))], Widths(round_to=1))
    (way,) = basis.ways(Widths(round_to=1))
    assert way.form == "rows" and way.ranks.max() * (TOKENS + WIDTH) < TOKENS * WIDTH
    for place in (0, len(way.ranks) // 2, -1):
        cut = Cut(basis, "rows", TOKENS, int(way.ranks[place]))
        error = table - projected(analysis.facts, [cut]).array(analysis.facts.graph.tensors["e"])
        np.testing.assert_allclose(
            way.lost[place, 0], np.einsum("v,vi,ij,vj->", shares, error, metric.moment, error), rtol=1e-4
        )
        other = np.linalg.svd(table, full_matrices=False)[2][: cut.rank]
        plain = table - table @ other.T @ other
        assert way.lost[place, 0] < np.einsum("v,vi,ij,vj->", shares, plain, metric.moment, plain)


@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_the_written_table_computes_the_projected_one(kind: str) -> None:
    body = (
        BODY
        if kind == "float32"
        else BODY.replace(f"x{WIDTH}; s = Gather(e, ids)", f"x{WIDTH}:float16; g = Gather(e, ids); s = Cast<to=1>(g)")
    )
    analysis, layer = table_of(language(body))
    basis = basis_of(analysis, layer)
    cut = Cut(basis, "rows", TOKENS, 5)
    plain = projected(analysis.facts, [cut])
    small = with_factors(plain, [cut]).proto
    onnx.checker.check_model(small, full_check=True)
    sizes = {tuple(t.dims): t.data_type for t in small.graph.initializer}
    kinds = {onnx.TensorProto.FLOAT} if kind == "float32" else {onnx.TensorProto.FLOAT16}
    assert {sizes[TOKENS, 5], sizes[5, WIDTH]} == kinds
    ids = np.arange(TOKENS).reshape(-1, 10)
    np.testing.assert_allclose(
        run(small, ids), run(plain.proto, ids), rtol=1e-5, atol=1e-5 if kind == "float32" else 2e-2
    )


@pytest.mark.parametrize("target", ["params=60%", "size=77%"])
def test_a_table_of_low_rank_is_written_for_nothing(target: str, rows: dict[str, np.ndarray], tmp_path: Path) -> None:
    model = language(rank=4)
    onnx.save(model, tmp_path / "model.onnx")
    found = onnxprune.prune(
        tmp_path / "model.onnx", target=target, calibration=rows, output=tmp_path / "small.onnx", **OPTIONS
    )
    (row,) = [row for row in found.report["ranks"] if row["status"] == "pruned"]
    assert (row["name"], row["form"], row["inputs"], row["outputs"]) == ("e", "rows", TOKENS, WIDTH) and row[
        "rank"
    ] >= 4
    assert row["macs"] == 0 < row["macs_after"] and row["parameters_after"] == row["rank"] * (TOKENS + WIDTH)
    assert found.report["surgery"]["proven"]
    ids = np.random.default_rng(4).integers(0, TOKENS, (5, 8))  # unseen ones too
    np.testing.assert_allclose(run(found.model, ids), run(model, ids), atol=1e-5)
    again = onnxprune.apply(
        from_json(found.plan.to_json()),
        tmp_path / "model.onnx",
        calibration=rows,
        latency=False,
        output=tmp_path / "again.onnx",
    )
    assert again.passed and (tmp_path / "again.onnx").read_bytes() == (tmp_path / "small.onnx").read_bytes()


@pytest.mark.parametrize("aim", [{"target": "macs=70%"}, {"ratio": 0.4}])
def test_what_counts_macs_leaves_tables_alone(aim: dict[str, Any], rows: dict[str, np.ndarray]) -> None:
    body = BODY.replace(f"%{WIDTH}x6)", f"%{WIDTH}x{WIDTH}); k = MatMul(h, %{WIDTH}x6)").replace("Tanh(h)", "Tanh(k)")
    found = onnxprune.prune(language(body, rank=4), calibration=rows, **OPTIONS, **aim).report
    assert {row["status"] for row in found["ranks"] if row["name"] == "e"} == {"kept"}
    assert any(row["status"] == "pruned" for row in found["ranks"])


STAY = {
    "read twice": (BODY.replace("h = MatMul", "o = Mul(e, @2.); z = ReduceSum(o); h = MatMul").replace("Tanh(h)", "Add(h, z)"), "read by several nodes"),
    "other axis": (
        BODY.replace(f"%{TOKENS}x{WIDTH}; s = Gather(e, ids)", f"%{WIDTH}x{TOKENS}; g = Gather<axis=1>(e, ids); s = Transpose<perm=[1,2,0]>(g)"),
        "not the first axis",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STAY)
def test_tables_that_stay_say_why(name: str) -> None:
    body, reason = STAY[name]
    found = find_layers(analysed(language(body)), tables=True)
    assert [why for node, why in found.kept if node.op == "Gather" and reason in why]


def test_numbers_are_counted_where_a_mask_leaves_them() -> None:
    body = (
        "e = %6x4; p = %3x4; a = Gather(e, ids); k = Mod(ids, @3); b = Gather(p, k); s = Add(a, b); m = ReduceMean<keepdims=0>(s, @[1]); "
        "f = Cast<to=1>(mask); t = ReduceSum<keepdims=1>(f, @[1]); n = Mul(m, t); y = MatMul(n, %4x6)"
    )
    model = network(body, "int64[N,L] ids, int64[N,L] mask", "float[N,6] y")
    analysis = analysed(model)
    tables = [layer for layer in find_layers(analysis, tables=True).found if layer.looked_up]
    rows = {"ids": np.array([[0, 5, 5], [1, -1, 2]]), "mask": np.array([[1, 1, 0], [1, 1, 1]])}
    data = open_dataset(rows, input_specs(model))
    counts = dict(
        zip((t.name for t in tables), looked_up_counts(analysis.facts, tables, data, Means(mask="mask")), strict=True)
    )
    assert counts["e"].tolist() == [1, 1, 1, 0, 0, 2]
    assert counts["p"].sum() == 5


def test_numbers_that_no_row_has_count_a_little() -> None:
    """Seven lookups, of one number once: an eighth of the next two is new (Good 1953, with one more of each)."""
    shares = lookup_shares(np.array([4, 2, 1, 0]))
    np.testing.assert_allclose(shares, np.array([4, 2, 1, 0]) / 7 * 0.75 + 0.25 / 4)
    assert lookup_shares(np.zeros(5, int)).tolist() == [0.2] * 5


# --- tied heads -----------------------------------------------------------------------------------------------------

EMBED = f"e = %{TOKENS}x{WIDTH}; s = Gather(e, ids); h = MatMul(s, %{WIDTH}x{WIDTH}); r = Tanh(h)"
TIED = {
    "Transpose": f"{EMBED}; w = Transpose<perm=[1,0]>(e); y = MatMul(r, w)",
    "Gemm": f"{EMBED}; v = Reshape(r, @[-1, {WIDTH}]); b = %{TOKENS}; y = Gemm<transB=1, alpha=0.5>(v, e, b)",
    "FusedMatMul": f"{EMBED}; y = com.microsoft.FusedMatMul<transB=1>(r, e)",
}


def tied(name: str, rank: int = 0) -> ModelProto:
    model = network(TIED[name], "int64[N,L] ids", "float[] y", domains={"com.microsoft": 1})
    stored = next(t for t in model.graph.initializer if t.name == "e")
    draw = np.random.default_rng(1)
    content = draw.standard_normal((TOKENS, rank or WIDTH)) @ draw.standard_normal((rank or WIDTH, WIDTH)) / 5
    stored.CopyFrom(numpy_helper.from_array(content.astype(np.float32), "e"))
    return model


@pytest.mark.parametrize("name", TIED)
@pytest.mark.parametrize("target", ["params=50%", "macs=60%"])
def test_a_tied_head_shares_the_factors(name: str, target: str, rows: dict[str, np.ndarray]) -> None:
    model = tied(name, rank=3)
    found = onnxprune.prune(model, target=target, calibration=rows, include=("e",), **OPTIONS)
    (row,) = [row for row in found.report["ranks"] if row["status"] == "pruned"]
    assert (row["name"], row["form"]) == ("e", "rows") and found.report["surgery"]["proven"]
    assert row["macs_after"] < row["macs"]
    assert [other["reason"] for other in found.report["ranks"] if "tied to the table 'e'" in (other["reason"] or "")]
    assert sum(list(t.dims) == [TOKENS, row["rank"]] for t in found.model.graph.initializer) == 1
    assert not any(list(t.dims) == [TOKENS, WIDTH] for t in found.model.graph.initializer)
    onnx.checker.check_model(found.model, full_check=name != "FusedMatMul")
    ids = np.random.default_rng(4).integers(0, TOKENS, (5, 8))
    np.testing.assert_allclose(run(found.model, ids), run(model, ids), atol=2e-4)


def test_directions_of_two_uses_lose_what_both_lose() -> None:
    analysis, layer = table_of(tied("Transpose"))
    table, draw = analysis.facts.content("e").astype(np.float64), np.random.default_rng(3)
    uses, roots = [], draw.standard_normal((2, WIDTH, WIDTH))
    for root, shares in zip(roots, draw.dirichlet(np.full(TOKENS, 0.3), 2), strict=True):
        uses.append((root @ np.diag(np.geomspace(1, 1e-3, WIDTH)) @ root.T, shares))
    own = [TableUse(worth, row_moment(table, shares)) for worth, shares in uses]

    def lost(basis: Regression, rank: int) -> float:
        error = table - projected(analysis.facts, [Cut(basis, "rows", TOKENS, rank)]).array(
            analysis.facts.graph.tensors["e"]
        )
        return sum(float(np.einsum("v,vi,ij,vj->", shares, error, worth, error)) for worth, shares in uses)

    both = regressed_table(layer, own, Widths(round_to=1))
    (way,) = both.ways(Widths(round_to=1))
    for place in (0, len(way.ranks) // 2):
        rank = int(way.ranks[place])
        np.testing.assert_allclose(way.lost[place, 0], lost(both, rank), rtol=1e-3)
        assert way.lost[place, 0] < max(lost(regressed_table(layer, [use], Widths(round_to=1)), rank) for use in own)


def test_what_reads_embeddings_is_refitted_on_the_new_ones(rows: dict[str, np.ndarray]) -> None:
    """Also where nothing but the table was written as factors; the table itself stays as it was made."""
    model, off = language(), {}
    for repair in ("none", "least-squares"):
        found = onnxprune.prune(
            model, target="params=50%", calibration=rows, evaluation=rows, include=("e",), repair=repair, **OPTIONS
        )
        stored = {t.name: numpy_helper.to_array(t) for t in found.model.graph.initializer}
        off[repair] = found.report["drift"]["outputs"]["y"]["sqnr_db"], stored["e"]
    assert off["least-squares"][0] > off["none"][0] + 0.5
    np.testing.assert_array_equal(off["none"][1], off["least-squares"][1])
