"""Proofs by segments say what proofs of whole models say, and see what these see."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from cases import PATTERNS
from support.decoders import Form, decoder
from support.mutations import Bench
from support.networks import network
from support.oracles import analysed, halves, random_plan

from onnxprune.coupling import silence
from onnxprune.coupling.absorb import absorbed
from onnxprune.coupling.cut import cut
from onnxprune.coupling.groups import analyse
from onnxprune.model.facts import gather_facts
from onnxprune.model.graph import Graph
from onnxprune.model.read import load
from onnxprune.proof import pieces
from onnxprune.proof.check import Prover, check_cut
from onnxprune.proof.verdict import STORED_TOLERANCE


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "LARGE", 1)
    monkeypatch.setattr(pieces, "HELD", 200)


def test_every_pattern_is_proven_segment_by_segment_and_its_damages_are_refused() -> None:
    proven = seen = missed = 0
    for row in PATTERNS[::6]:
        analysis = analysed(row.model(), row.allow)
        random = np.random.default_rng(zlib.crc32(row.name.encode()))
        kept = random_plan(analysis, random)
        bench = Bench(analysis, kept)
        if all(mask.all() for mask in kept) or not bench.prover.by_segments:
            continue
        assert bench.accepts(bench.small), row.name
        proven += 1
        refused, harmful = bench.tried(random)
        seen, missed = seen + refused, missed + harmful
    assert proven > 12 and seen > 24
    assert not missed


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_decoder_is_proven_in_float32_whatever_it_stores(dtype: type) -> None:
    analysis = analysed(decoder(Form(dtype=dtype)))
    kept = halves(analysis)
    small = cut(analysis, kept)
    prover = Prover(analysis.facts)
    trial = pieces.Pieces(prover, analysis.facts.model, small, None)
    assert prover.by_segments and len(trial.segments) > 8
    check = check_cut(analysis, kept, small, prover=prover)
    assert check.exact and check.error < (1e-5 if dtype is np.float32 else STORED_TOLERANCE[10])
    assert all(output.proven and output.moved for output in check.outputs)
    assert prover.compare(small, absorbed(small), None).exact  # each on what it has given itself


def test_a_product_with_a_large_matrix_is_run_some_columns_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    analysis = analysed(decoder(Form(dtype=np.float16, vocabulary=70)))
    kept = halves(analysis)
    opened = []
    monkeypatch.setattr(silence, "LARGE", 1)  # what meets a large matrix is silenced, not the matrix
    monkeypatch.setattr(pieces, "session", lambda model, **how: opened.append(model) or _session(model, **how))
    assert check_cut(analysis, kept, cut(analysis, kept)).exact
    widths = [tuple(model.weights[name].shape) for model in opened for name in model.weights if "head" in name]
    assert len(widths) > 4 and all(shape[-1] < 70 for shape in widths if len(shape) == 2)


_session = pieces.session


def test_what_the_original_refuses_is_no_fault_of_the_cut() -> None:
    """A reshape to a size of its own: other sizes than those of the file are left out."""
    row = next(row for row in PATTERNS if "residual" in row.name)
    analysis = analysed(row.model(), row.allow)
    prover = Prover(analysis.facts)
    trial = pieces.Pieces(prover, analysis.facts.model, analysis.facts.model, None)
    feeds = prover.feeds("normal")
    name = next(iter(feeds[0]))
    wrong = {**feeds[0], name: np.zeros((1, 1), feeds[0][name].dtype)}
    prover.feeds = lambda kind: [wrong, *feeds] if kind == "unit" else []  # type: ignore[method-assign]
    assert trial.look(["unit"]) and prover.refusal and not trial.seen.differs
    prover.feeds = lambda kind: [wrong]  # type: ignore[method-assign]
    assert not trial.look(["unit"])


def test_models_with_steps_are_proven_as_a_whole() -> None:
    rounding = network("a = Conv(x, %6x3x1x1); b = Round(a); y = Conv(b, %2x6x1x1)")
    assert not Prover(analysed(rounding).facts).by_segments
    assert Prover(analysed(decoder()).facts).by_segments


class Counted:
    """A session that notes what it is asked for."""

    def __init__(self, opened, asked: list[list[str]]):
        self._opened, self._asked, self.outputs = opened, asked, opened.outputs

    def run(self, feeds, names):
        self._asked.append(names)
        return self._opened.run(feeds, names)


def test_a_segment_behind_an_empty_cache_gives_its_values_in_few_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """On real rows a cache is empty, on drawn ones it is not; its values are no thousand times larger for that."""
    model = load(decoder(Form()))
    graph = Graph(model.structure)
    sizes = {"batch": 1, "steps": 6, "total": 6, "past": 0}
    dims = {value.name: value.type.tensor_type.shape.dim for value in model.structure.graph.input}
    rows = {name: tuple(sizes.get(dim.dim_param, dim.dim_value) for dim in axes) for name, axes in dims.items()}
    analysis = analyse(gather_facts(model, graph, rows=rows), frozenset({"neighbours"}), "outer")
    asked: list[list[str]] = []
    monkeypatch.setattr(pieces, "session", lambda model, **how: Counted(_session(model, **how), asked))
    monkeypatch.setattr(pieces, "HELD", 1 << 16)
    monkeypatch.setattr(pieces, "LIVE_BYTES", 1 << 16)
    kept = halves(analysis)
    assert check_cut(analysis, kept, cut(analysis, kept)).exact
    assert len(asked) < 40 and sum(map(len, asked)) > 4 * len(asked)
