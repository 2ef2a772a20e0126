"""Sizes that a file leaves open: those of real rows first, else such at which the model runs; reports say which."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import ModelProto
from support.networks import network

import onnxprune
from onnxprune.api import inspect
from onnxprune.cli import main
from onnxprune.coupling.groups import analyse
from onnxprune.errors import ModelError
from onnxprune.model.facts import gather_facts
from onnxprune.model.graph import Graph
from onnxprune.model.read import load
from onnxprune.report.sizes import TRIED, sizes_sentence

STRIDED = (
    "u = Unsqueeze(x, @[1]); {}w = %16x1x{}; p = Conv<strides = [160]>({}, w); r = Relu(p); v = Conv(r, %5x16x1); "
    "g = GlobalAveragePool(v); y = Flatten(g)"
)
WAVES = {
    "strides": STRIDED.format("", 400, "u"),
    "reflected": STRIDED.format('d = Pad<mode = "reflect">(u, @[0, 0, 64, 0, 0, 64]); ', 100, "d"),
}
PICTURE = (
    "p = Conv<pads = [1,1,1,1]>(x, %16x3x3x3); r = Relu(p); q = Conv(r, %5x16x1x1); g = GlobalAveragePool(q); "
    "y = Flatten(g)"
)
FRAMES = (
    "p = Conv<pads = [1,1]>(x, %16x4x3); r = Relu(p); q = Conv<pads = [1,1]>(r, %5x16x3); g = GlobalAveragePool(q); "
    "y = Add(g, h)"
)
DRAW = np.random.default_rng(0)


def wave(name: str) -> ModelProto:
    return network(WAVES[name], "float[batch,samples] x", "float[batch,5] y")


def normal(*shape: int) -> np.ndarray:
    return DRAW.standard_normal(shape).astype(np.float32)


def pruned(model: ModelProto, **settings: Any) -> dict[str, Any]:
    return onnxprune.prune(model, **({"ratio": 0.5, "round_to": 1, "latency": False} | settings)).report


@pytest.mark.parametrize("name", WAVES)
def test_sizes_at_which_the_model_does_not_run_are_passed_over(name: str) -> None:
    report = inspect(wave(name))
    samples = report["sizes"]["inputs"]["x"][1]
    assert report["sizes"]["from"] == TRIED
    assert samples > 64
    assert report["prunable"]["macs"] == 1
    assert pruned(wave(name))["surgery"]["exact"]


@pytest.mark.parametrize("name", WAVES)
@pytest.mark.parametrize("rows", ["calibration", "evaluation"])
def test_costs_are_those_of_real_rows(name: str, rows: str) -> None:
    """MACs are counted by hand for 2,000 samples: 16 channels of as many steps as the window takes."""
    kernel, padded = {"strides": (400, 2000), "reflected": (100, 2128)}[name]
    steps = (padded - kernel) // 160 + 1
    report = pruned(wave(name), criterion="l2", repair="none", **{rows: normal(6, 2000)})
    assert report["sizes"] == {"inputs": {"x": [1, 2000]}, "from": f"the {rows} rows"}
    assert report["before"]["macs"] == steps * 16 * (kernel + 5)
    seen = inspect(wave(name), calibration=normal(6, 2000))
    assert (seen["sizes"]["inputs"], seen["before"]["macs"]) == (report["sizes"]["inputs"], report["before"]["macs"])
    assert sizes_sentence(report) == f"costs at 1x2000, from the {rows} rows"


def test_axes_that_rows_settle_stay_open() -> None:
    model = network(PICTURE, "float[N,3,H,W] x", "float[N,5] y")
    result = onnxprune.prune(model, ratio=0.5, round_to=1, latency=False, calibration=normal(8, 3, 20, 12))
    assert result.report["sizes"]["inputs"] == {"x": [1, 3, 20, 12]}
    facts = gather_facts(load(result.model), Graph(result.model), rows={"x": (1, 3, 20, 12)})
    assert facts.sizes == {"x": (2, 3, 20, 12)}
    assert facts.batch == 2
    assert [facts.static("x", axis) for axis in range(4)] == [False, True, False, False]
    before, after = (onnx.load_from_string(m.SerializeToString()) for m in (model, result.model))
    assert [d.dim_param for d in after.graph.input[0].type.tensor_type.shape.dim] == [
        d.dim_param for d in before.graph.input[0].type.tensor_type.shape.dim
    ]


def test_an_option_that_gives_sizes_wins_over_rows() -> None:
    model = network(PICTURE, "float[N,3,H,W] x", "float[N,5] y")
    report = pruned(model, criterion="l2", calibration=normal(8, 3, 20, 12), input_shape={"x": (1, 3, 8, 8)})
    assert report["sizes"] == {"inputs": {"x": [1, 3, 8, 8]}, "from": "--input-shape"}


def test_a_fixed_file_says_its_sizes_itself() -> None:
    report = inspect(network(PICTURE, "float[1,3,8,8] x", "float[1,5] y"))
    assert report["sizes"] == {"inputs": {"x": [1, 3, 8, 8]}, "from": "the file"}


def test_sequences_on_the_first_axis_beside_a_state(tmp_path: Path) -> None:
    """Rows are whole feeds of unlike sizes; costs are told of the one in the middle, and the target is met."""
    model = network(FRAMES, "float[frames,4,10] x, float[1,5,1] h", "float[frames,5,1] y")
    for row in range(6):
        np.savez(tmp_path / f"{row}.npz", x=normal(30 + 3 * row, 4, 10), h=np.zeros((1, 5, 1), np.float32))
    report = pruned(model, ratio=None, target="macs=60%", calibration=tmp_path)
    assert report["sizes"]["inputs"] == {"x": [39, 4, 10], "h": [1, 5, 1]}
    assert (report["sizes"]["smallest"]["x"], report["sizes"]["largest"]["x"]) == ([30, 4, 10], [45, 4, 10])
    assert report["before"]["macs"] == 39 * 10 * 3 * (16 * 4 + 5 * 16)
    assert report["after"]["macs"] <= 0.6 * report["before"]["macs"]
    assert report["repair"]["method"] == "least-squares"


RECURRENT = (
    "s = Unsqueeze(x, @[1]); c = Conv<strides = [64], pads = [0, 32]>(s, %8x1x128); r = Relu(c); e = Conv(r, %6x8x1); "
    "m = ReduceMean<keepdims = 0>(e, @[2]); z = Unsqueeze(m, @[0]); h0 = Slice(state, @[0], @[1], @[0]); "
    "c0 = Slice(state, @[1], @[2], @[0]); o, hn, cn = LSTM<hidden_size = 4>(z, %1x16x6, %1x16x4, , , h0, c0); "
    "stateN = Concat<axis = 0>(hn, cn); q = Squeeze(hn, @[0]); y = MatMul(q, %4x2)"
)


@pytest.mark.parametrize("named", [True, False])
def test_states_have_the_batch_on_their_second_axis(named: bool) -> None:
    """What stays stays for the state's sake; nothing is blamed on a shape that only the analysis had."""
    model = network(RECURRENT, "float[N,L] x, float[2,N,4] state", "float[N,2] y, float[2,N,4] stateN")
    for value in model.graph.input if not named else ():
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.ClearField("value")
    report = inspect(model)
    assert {group["name"] for group in report["groups"] if group["width_before"] > 1} >= {"t2"}
    assert not [row for row in report["frozen"] if "shape" in row["reason"] or "the rule" in row["reason"]]
    rows = {"x": normal(5, 1, 256), "state": normal(5, 2, 1, 4)}
    cut = pruned(model, criterion="l2", calibration=rows)
    assert cut["surgery"]["exact"]
    assert cut["sizes"]["inputs"] == {"x": [1, 256], "state": [2, 1, 4]}


def test_integers_of_the_proof_are_those_of_the_rows() -> None:
    """A table is looked up at ids that shape arithmetic hides, and those that no row has would be out of it."""
    model = network(
        "c = Mul(ids, @[2]); k = Sub(c, @[200]); e = Gather(%8x6, k); w = %6x16; p = MatMul(e, w); r = Relu(p); "
        "y = MatMul(r, %16x5)",
        "int64[N,4] ids",
        "float[N,4,5] y",
    )
    rows = DRAW.integers(100, 104, (12, 4))
    report = pruned(model, criterion="l2", calibration=rows)
    assert report["surgery"]["exact"]
    with pytest.raises(ModelError, match="cannot be run on drawn inputs"):
        pruned(model)


def test_a_replayed_plan_is_analysed_at_the_sizes_it_was_made_at(tmp_path: Path) -> None:
    result = onnxprune.prune(wave("strides"), ratio=0.5, criterion="l2", calibration=normal(6, 2000), latency=False)
    assert result.plan.settings["row_shape"] == [["x", [1, 2000]]]
    planned = onnxprune.plan(wave("strides"), ratio=0.5, criterion="l2", calibration=normal(6, 2000))
    assert planned.settings["row_shape"] == [["x", [1, 2000]]]
    again = onnxprune.apply(result.plan, wave("strides"), latency=False, calibration=normal(6, 2000), repair="none")
    assert again.report["before"]["macs"] == result.report["before"]["macs"]


def test_every_document_says_the_sizes(tmp_path: Path) -> None:
    onnx.save(wave("strides"), tmp_path / "net.onnx")
    np.save(tmp_path / "x.npy", normal(6, 2000))
    names = {kind: tmp_path / f"report.{kind}" for kind in ("markdown", "html")}
    documents = [word for kind, path in names.items() for word in (f"--{kind}", str(path))]
    data = ["--calib", str(tmp_path / "x.npy"), "--criterion", "l2", "--no-latency", "--dry-run"]
    result = CliRunner().invoke(main, [str(tmp_path / "net.onnx"), *data, *documents])
    assert result.exit_code == 0, result.output
    said = "costs at 1x2000, from the calibration rows"
    for text in (result.stdout, *(path.read_text() for path in names.values())):
        assert said in text


HEADS = """
wq = %6x12; wk = %6x12; wv = %6x12; q = MatMul(x, wq); k = MatMul(x, wk); v = MatMul(x, wv)
split = @[0, -1, 3, 4]; qr = Reshape(q, split); kr = Reshape(k, split); vr = Reshape(v, split)
qt = Transpose<perm=[0,2,1,3]>(qr); kt = Transpose<perm=[0,2,3,1]>(kr); vt = Transpose<perm=[0,2,1,3]>(vr)
z = MatMul(qt, kt); a = Softmax(z); m = MatMul(a, vt); mt = Transpose<perm=[0,2,1,3]>(m)
join = @[0, -1, 12]; c = Reshape(mt, join); wo = %12x5; y = MatMul(c, wo)
"""


@pytest.mark.parametrize("length", [1, 2, 7])
def test_heads_go_whatever_the_length_of_the_rows(length: int) -> None:
    """A decoder is fed one token at a time: an axis of size one takes no letter, and the others keep theirs."""
    model = network(HEADS, inputs="float[B,L,6] x")
    facts = gather_facts(load(model), Graph(model), rows={"x": (1, length, 6)})
    assert [(group.name, group.width, group.multiplicity) for group in analyse(facts).groups] == [("wq", 3, 4)]
