"""Every operator rule against its rows: the groups it must find, and every oracle on random cuts of them."""

from __future__ import annotations

import zlib
from itertools import chain

import numpy as np
import pytest
from cases import OPERATORS
from support.oracles import analysed, assert_early_values_are_slices, assert_sound, golden_lines, keep_all, random_plan
from support.rows import Row

from onnxprune.coupling import rules
from onnxprune.coupling.cut import cut
from onnxprune.coupling.spec import RULES
from onnxprune.model.graph import Graph
from onnxprune.model.read import check_structure

ALL = list(chain(*OPERATORS.values()))
ROWS = {row.name: row for row in ALL}


def rows(runs: bool) -> pytest.MarkDecorator:
    """Parametrise over the rows whose operators ONNX Runtime has, or has not."""
    chosen = [row for row in ROWS.values() if row.runs == runs]
    return pytest.mark.parametrize("row", chosen, ids=[row.name for row in chosen])


def test_every_rule_has_a_row() -> None:
    covered = {node.op for row in ROWS.values() for node in Graph(row.model()).nodes}
    assert sorted(set(RULES) - covered) == []
    assert list(OPERATORS) == rules.__all__, "one module of rows per module of rules"


def test_rows_have_names_of_their_own() -> None:
    assert len(ROWS) == len(ALL)


@pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))
def test_finds_the_expected_groups(row: Row) -> None:
    assert golden_lines(analysed(row.model(), row.allow)) == list(row.golden)


@rows(runs=True)
def test_cut_equals_silence(row: Row) -> None:
    """Each group alone, then all at once; what no consumed axis lies upstream of is a plain slice."""
    analysis = analysed(row.model(), row.allow)
    plan = random_plan(analysis, np.random.default_rng(zlib.crc32(row.name.encode())))
    alone = [[m if g == h else np.ones_like(m) for h, m in enumerate(plan)] for g in range(len(plan))]
    for kept in [*alone, plan] if len(plan) > 1 else [plan or keep_all(analysis)]:
        small = assert_sound(analysis, kept, row.below)
        assert_early_values_are_slices(analysis, kept, small, row.below)


@rows(runs=False)
def test_cut_is_well_formed(row: Row) -> None:
    """What cannot be run must still infer to the declared shapes."""
    analysis = analysed(row.model(), row.allow)
    small = cut(analysis, random_plan(analysis, np.random.default_rng(1)))
    check_structure(small, "the cut model", full=True)
