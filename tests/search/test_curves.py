"""Sensitivity: what a group costs at half its width, and options to paste that leave the costliest alone."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper
from support.networks import network

from onnxprune.cli import main
from onnxprune.search.curves import Curve, most_sensitive


def curve(name: str, width: int, **measured: float) -> Curve:
    """A curve from ``w12=0.5``: divergence 0.5 with 12 units left."""
    widths, values = tuple(int(key[1:]) for key in measured), tuple(measured.values())
    return Curve(name, width, widths, values, values, values)


def test_half_is_read_between_measured_widths() -> None:
    assert curve("measured", 16, w12=0.1, w8=0.3, w4=0.9).half == pytest.approx(0.3)
    assert curve("between", 48, w32=0.2, w16=0.6).half == pytest.approx(0.4)
    assert curve("beside the whole", 16, w4=0.9).half == pytest.approx(0.6)
    assert curve("never so narrow", 16, w12=0.1).half == pytest.approx(0.1)


def test_what_costs_three_times_the_middle_is_sensitive() -> None:
    found = [curve(name, 16, w8=value) for name, value in (("a", 0.1), ("b", 0.31), ("c", 0.1), ("d", 0.9), ("e", 0.1))]
    assert [one.group for one in most_sensitive(found)] == ["d", "b"]
    assert most_sensitive(found[:1]) == most_sensitive([]) == []


@pytest.fixture
def funnel(tmp_path: Path) -> Path:
    """Four hidden layers of 16; all but the third repeat four directions, so that only the third needs its width."""
    layers = "".join(f"h{n} = Gemm(r{n - 1}, %16x16, %16); r{n} = Relu(h{n}); " for n in range(1, 5))
    model = network(layers.replace("r0", "x") + "y = Gemm(r4, %16x4, %4)", "float[n,16] x")
    rng = np.random.default_rng(0)
    weights = [tensor for tensor in model.graph.initializer if tuple(tensor.dims) == (16, 16)]
    for number, tensor in enumerate(weights):
        square = rng.standard_normal((16, 16)) / 2
        square = square if number == 2 else np.tile(square[:, :4], 4) + rng.normal(0, 1e-5, (16, 16))
        tensor.CopyFrom(numpy_helper.from_array(square.astype(np.float32), tensor.name))
    onnx.save(model, tmp_path / "funnel.onnx")
    np.save(tmp_path / "rows.npy", rng.standard_normal((256, 16), np.float32))
    return tmp_path


def test_pasted_options_leave_the_sensitive_group_alone(funnel: Path) -> None:
    model, rows, report = (str(funnel / name) for name in ("funnel.onnx", "rows.npy", "report.json"))
    done = CliRunner().invoke(main, ["sensitivity", model, "--calib", rows, "--json", report])
    assert done.exit_code == 0, done.output
    found = json.loads(Path(report).read_text())
    assert [entry["width"] for entry in found["curves"]] == [16] * 4
    for entry in found["curves"]:
        assert entry["widths"] == sorted(entry["widths"], reverse=True)
        assert entry["fitted"] == sorted(entry["fitted"])
    third = found["curves"][2]["group"]
    assert found["exclude"] == [third]
    pasted = next(line for line in done.stdout.splitlines() if line.startswith("--exclude"))
    arguments = [model, "--dry-run", "--no-latency", "--ratio", "0.5", "--round-to", "1", "--json", "-"]
    done = CliRunner().invoke(main, [*arguments, *shlex.split(pasted)])
    assert done.exit_code == 0, done.output
    widths = {group["name"]: group["width_after"] for group in json.loads(done.stdout)["groups"]}
    assert widths.pop(third) == 16
    assert set(widths.values()) == {8}
