"""Every pattern: the groups to be found, the prunable share of the MACs, and every oracle on a random cut."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from cases import PATTERNS
from support.networks import network
from support.oracles import assert_sound, golden_lines, random_plan
from support.patterns import Pattern

from onnxprune.allocate.cost import Costs
from onnxprune.coupling.cut import cut
from onnxprune.coupling.groups import Analysis, Group, analyse
from onnxprune.coupling.prepare import prepare
from onnxprune.model.facts import gather_facts
from onnxprune.model.graph import Graph
from onnxprune.model.read import check_structure, load
from onnxprune.proof.check import check_cut


def analysed(model: onnx.ModelProto | Path, allow: tuple[str, ...] = ()) -> Analysis:
    plain = prepare(load(model))
    return analyse(gather_facts(plain, Graph(plain.structure)), frozenset({"neighbours", *allow}))


def size(group: Group) -> str:
    width = f"{group.width}x{group.multiplicity}" if group.multiplicity > 1 else str(group.width)
    return f"{group.name} {width}{' ~' if group.lossy else ''}"


@pytest.mark.parametrize("pattern", PATTERNS, ids=[pattern.name for pattern in PATTERNS])
def test_pattern(pattern: Pattern) -> None:
    analysis = analysed(pattern.model(), pattern.allow)
    assert "; ".join(map(size, analysis.groups)) == pattern.groups
    assert round(Costs(analysis).prunable()["macs"], 3) == pattern.share
    plan = random_plan(analysis, np.random.default_rng(zlib.crc32(pattern.name.encode())))
    if pattern.runs:
        small = assert_sound(analysis, plan, pattern.below)
        assert small.opset_import == analysis.facts.model.proto.opset_import
        assert small.ir_version == pattern.ir_version
    else:
        small = cut(analysis, plan)
        assert check_cut(analysis, plan, small).exact
        check_structure(small, "the cut model", full=True)


def test_names_are_unique() -> None:
    assert len({pattern.name for pattern in PATTERNS}) == len(PATTERNS) >= 80


def test_weights_beside_the_file(tmp_path: Path) -> None:
    """External data is analysed and cut like stored tensors."""
    text = "w1 = %64x3x1x1; a = Conv(x, w1); w2 = %32x64x1x1; b = Conv(a, w2); y = Conv(b, %4x32x1x1)"
    path = tmp_path / "net.onnx"
    onnx.save(network(text), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    inside, outside = analysed(network(text)), analysed(path)
    assert golden_lines(outside) == golden_lines(inside)
    plan = random_plan(outside, np.random.default_rng(0))
    small = [cut(analysis, plan) for analysis in (inside, outside)]
    assert check_cut(outside, plan, small[1]).exact
    arrays = [{name: tensor.read() for name, tensor in model.weights.items()} for model in small]
    assert all(np.array_equal(arrays[0][name], arrays[1][name]) for name in arrays[0])
