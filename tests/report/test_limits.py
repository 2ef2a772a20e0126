"""What gates say of their value and their limit: in the unit that is read, never equal where they are not."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.report.baseline import COMPARED
from onnxprune.report.documents import render
from onnxprune.report.documents.headline import gate_badge
from onnxprune.report.gates import GATES
from onnxprune.report.limits import GAUGES, gate_rows, gate_words

TOLD = {
    "max_drop": (0.00201, 0.01, "0.20 points", "1 point"),
    "min_agreement": (0.98765, 0.99, "98.77%", "99%"),
    "min_cosine": (0.998765, 0.99, "0.9988", "0.99"),
    "max_latency_ratio": (0.6213, 0.6, "62.1%", "60%"),
    "max_size": (927_451, 800_000, "927,451 bytes", "800,000 bytes"),
    "min_prunable": (0.5, 0.8, "50.00%", "80%"),
    "max_params": (199_210, 2e5, "199,210", "200,000"),
    "baseline_drop": (-0.000001, 0.0225, "0.00 points", "2.25 points"),
    "baseline_macs": (5_500_000, 5_600_000, "5,500,000", "5,600,000"),
    "of a later version": (0.25, 2.0, "0.25", "2"),
}


@pytest.mark.parametrize("name", TOLD)
def test_a_gate_is_told_in_its_own_unit(name: str) -> None:
    value, limit, told, bound = TOLD[name]
    assert gate_words({"name": name, "value": value, "limit": limit}) == (told, bound)


def test_every_gate_that_is_no_count_has_a_unit() -> None:
    counts = {"max_params", "max_macs", "baseline_parameters", "baseline_macs"}
    every = {*GATES, "max_params", "max_macs", "min_prunable", *(f"baseline_{name}" for name in COMPARED)}
    assert {*GAUGES} == every - counts


def number(text: str) -> float:
    return float(re.sub(r"[^\d.-]", "", text))


@given(
    name=st.sampled_from(sorted(GAUGES)),
    limit=st.integers(-1000, 1000).map(lambda n: n / 1000),
    off=st.sampled_from([0.0, 1e-9, -1e-9, 4e-5, -4e-5, 0.3, -0.3]),
)
def test_a_value_stands_on_its_own_side_of_the_limit(name: str, limit: float, off: float) -> None:
    """A failed gate never reads like one that was met by a hair: 1.00001 points beside 1 point, not 1.00."""
    scale = 1e6 if name in ("max_size", "baseline_bytes") else 1.0
    value, limit = (limit + off) * scale, limit * scale
    told, bound = map(number, gate_words({"name": name, "value": value, "limit": limit}))
    assert (told < bound, told > bound) == (value < limit, value > limit)


def test_documents_tell_the_unit_and_json_the_number() -> None:
    gate = {"name": "max_drop", "limit": 0.01, "value": 0.00201, "passed": True}
    report = {"schema_version": 1, "command": "prune", "gates": [gate]}
    assert gate_rows([gate]) == [("max_drop", "1 point", "0.20 points", "yes")]
    assert gate_badge(gate).text == "max_drop: 0.20 points, limit 1 point"
    for kind in ("html", "markdown"):
        assert "0.20 points, limit 1 point" in render(kind, report)
    assert '"value": 0.00201' in render("json", report)
