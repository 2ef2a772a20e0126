"""Node data of Model Explorer: the form that its reader takes, keyed by what its ONNX adapter calls nodes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import onnx
import pytest

import onnxprune
from onnxprune import api
from onnxprune.report.documents import render

CNN = Path(__file__).parents[2] / "models" / "digits_cnn.onnx"


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return json.loads(render("json", onnxprune.prune(CNN, latency=False, exclude=("identity*",)).report))


def test_values_are_shares_of_nodes_that_the_model_has(report: dict[str, Any]) -> None:
    """Numbers and colours, by names of nodes; no key of results is called results, by which the reader tells several graphs."""
    found = json.loads(render("model_explorer", report))
    names = {node.name for node in onnx.load(CNN).graph.node}
    assert set(found["results"]) <= names and "results" not in found["results"]
    rows = {row["node"]: row for row in report["graph"]["nodes"] if row["status"]}
    assert set(found["results"]) == set(rows)
    for name, one in found["results"].items():
        row = rows[name]
        share = row["width_after"] / row["width_before"] if row["width_before"] else 1.0
        assert one["value"] == pytest.approx(100 * share, abs=0.01)
        assert re.fullmatch("#[0-9a-f]{6}", one["bgColor"]) and re.fullmatch("#[0-9a-f]{6}", one["textColor"])
    assert len({one["bgColor"] for one in found["results"].values()}) > 1


def test_macs_add_up_and_have_a_gradient(report: dict[str, Any]) -> None:
    found = json.loads(render("model_explorer_macs", report))
    assert sum(one["value"] for one in found["results"].values()) == report["after"]["macs"]
    assert [one["stop"] for one in found["gradient"]] == [0, 1]


def test_a_model_as_it_is_and_one_job_of_several(report: dict[str, Any]) -> None:
    whole = json.loads(render("model_explorer", api.inspect(CNN)))
    assert {one["value"] for one in whole["results"].values()} == {100.0}
    jobs = {"command": "run", "jobs": {"failed": {"command": "prune", "error": "no"}, "one": report}}
    assert render("model_explorer", jobs) == render("model_explorer", report)
    assert json.loads(render("model_explorer", {"command": "bench"}))["results"] == {}
