"""What is not silence is not cut unless asked for, and says by which option; what an option cannot lift does not name it."""

from __future__ import annotations

import pytest
from support.networks import network

import onnxprune
from onnxprune.errors import TargetError
from onnxprune.report.remedies import remedies

FRAME = "w = %8x3x1x1; p = Conv(x, w); {}; y = Conv(h, %5x8x1x1)"
ECA = (
    "g = GlobalAveragePool(p); s = Squeeze(g, @[2, 3]); u = Unsqueeze(s, @[1]); c = Conv<pads = [1, 1]>(u, %1x1x3); "
    "t = Squeeze(c, @[1]); e = Unsqueeze(t, @[2, 3]); a = Sigmoid(e); h = Mul(p, a)"
)
AVERAGES = (
    "q = Mul(p, p); u = Unsqueeze(q, @[1]); n = AveragePool<kernel_shape = [3, 1, 1], pads = [1, 0, 0, 1, 0, 0]>(u); "
    "t = Squeeze(n, @[1]); d = Add(t, @1.); h = Div(p, d)"
)
WINDOWS = {
    "response norm": "h = LRN<size = 3>(p)",
    "convolution over channels": ECA,
    "averages over channels": AVERAGES,
}


@pytest.mark.parametrize("text", WINDOWS.values(), ids=WINDOWS)
def test_windows_over_channels_are_cut_when_asked_for(text: str) -> None:
    model = network(FRAME.format(text))
    plain = onnxprune.analyze(model)
    (kept,) = [frozen for frozen in plain.frozen if (frozen.parameter, frozen.axis) == ("w", 0)]
    assert not plain.groups and kept.barrier.kind == "lossy"
    assert "--allow-lossy" in remedies(plain.facts)(kept.barrier)
    with pytest.raises(TargetError, match="--allow-lossy"):
        onnxprune.prune(model, ratio=0.5, latency=False)
    found = onnxprune.prune(model, ratio=0.5, round_to=1, allow_lossy=True, latency=False)
    assert found.report["surgery"]["lossy_nodes"]
    assert [group.kept for group in found.plan.groups if len(group.kept) == 4]
    assert onnxprune.apply(found.plan, model).model == found.model
    assert onnxprune.analyze(model, granularity=("heads", "stream")).groups


@pytest.mark.parametrize("last", ["Softmax<axis = 1>", "LogSoftmax<axis = 1>", "Hardmax<axis = 1>"])
def test_an_output_is_no_matter_of_options(last: str) -> None:
    """The classes under a final softmax are the output's: no option cuts them."""
    text = f"w = %8x3x1x1; p = Conv(x, w); r = Relu(p); v = %5x8x1x1; q = Conv(r, v, %5); y = {last}(q)"
    frozen = {(f.parameter, f.axis): f.barrier for f in onnxprune.analyze(network(text)).frozen}
    assert frozen["v", 0].kind == "output"


def test_a_norm_over_the_stream_names_its_option() -> None:
    text = "w = %3x6; p = MatMul(x, w); n = MeanVarianceNormalization<axes = [2]>(p); y = MatMul(n, %6x5)"
    analysis = onnxprune.analyze(network(text, "float[2,4,3] x"))
    frozen = {(f.parameter, f.axis): f.barrier for f in analysis.frozen}
    assert "--granularity stream" in remedies(analysis.facts)(frozen["w", 1])


def test_values_of_an_input_are_not_cut() -> None:
    """One-hot vectors by comparison: rows of the table are a vocabulary, as those of OneHot and Gather are."""
    text = "e = Equal(ids, @[0, 1, 2, 3, 4, 5]); f = Cast<to = 1>(e); w = %6x8; h = MatMul(f, w); y = MatMul(h, %8x5)"
    analysis = onnxprune.analyze(network(text, "int64[2,7,1] ids"))
    assert [group.width for group in analysis.groups] == [8]
    assert [(f.parameter, f.positions) for f in analysis.frozen if "numbers in the input" in f.barrier.reason] == [
        ("w", 6)
    ]
