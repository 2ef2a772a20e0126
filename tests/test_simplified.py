"""Simplify, then prune: tensors that a simplifier stores once because they are equal tie nothing together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxsim
import onnxslim
import pytest
from onnx import ModelProto
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from support.networks import feeds, network
from support.oracles import assert_sound, halves

import onnxprune
from onnxprune.allocate import Costs
from onnxprune.coupling.groups import Analysis

MODELS = Path(__file__).parents[1] / "models"
SIMPLIFIERS: dict[str, Callable[[ModelProto], ModelProto]] = {
    "onnxslim": onnxslim.slim,
    "onnxsim": lambda model: onnxsim.simplify(model)[0],
}
ZEROS, ONES = (f"@[{', '.join([value] * 16)}]" for value in ("0.", "1."))


def simplified(model: ModelProto, tool: str) -> ModelProto:
    copied = ModelProto()
    copied.CopyFrom(model)
    return SIMPLIFIERS[tool](copied)


def normed(norm: str, shared: bool = False) -> ModelProto:
    """Four convolutions, each with a zero bias and a norm that neither scales nor shifts."""
    text, value, width = f"z = {ZEROS}; o = {ONES}; " if shared else "", "x", 3
    zeros, ones = ("z", "o") if shared else (ZEROS, ONES)
    for i in range(4):
        text += f"c{i} = Conv({value}, %16x{width}x3x3, {zeros}); "
        text += f"n{i} = {norm.format(i=i, z=zeros, o=ones)}; r{i} = Relu(n{i}); "
        value, width = f"r{i}", 16
    return network(f"{text} y = Conv({value}, %4x16x1x1)", "float[1,3,12,12] x", "float[1,4,4,4] y")


INSTANCE, BATCH = "InstanceNormalization(c{i}, {o}, {z})", "BatchNormalization(c{i}, {o}, {z}, {z}, {o})"


LAYER = """
q{i} = MatMul(v{i}, %6x6); k{i} = MatMul(v{i}, %6x6); u{i} = MatMul(v{i}, %6x6)
qb{i} = Add(q{i}, ZEROS); kb{i} = Add(k{i}, ZEROS); ub{i} = Add(u{i}, ZEROS)
qr{i} = Reshape(qb{i}, @[0, 0, 2, 3]); kr{i} = Reshape(kb{i}, @[0, 0, 2, 3]); ur{i} = Reshape(ub{i}, @[0, 0, 2, 3])
qt{i} = Transpose<perm = [0, 2, 1, 3]>(qr{i}); kt{i} = Transpose<perm = [0, 2, 3, 1]>(kr{i})
ut{i} = Transpose<perm = [0, 2, 1, 3]>(ur{i}); z{i} = MatMul(qt{i}, kt{i}); a{i} = Softmax(z{i})
m{i} = MatMul(a{i}, ut{i}); mt{i} = Transpose<perm = [0, 2, 1, 3]>(m{i}); c{i} = Reshape(mt{i}, @[0, 0, -1])
o{i} = MatMul(c{i}, %6x6); ob{i} = Add(o{i}, ZEROS); s{i} = Add(ob{i}, v{i}); l{i} = LayerNormalization(s{i}, ONES, ZEROS)
f{i} = MatMul(l{i}, %6x16); g{i} = Add(f{i}, MANY); h{i} = Relu(g{i}); p{i} = MatMul(h{i}, %16x6)
pb{i} = Add(p{i}, ZEROS); e{i} = Add(pb{i}, l{i}); v{j} = LayerNormalization(e{i}, ONES, ZEROS)
"""


def encoder() -> ModelProto:
    """Two layers of attention and feed-forward, six wide, with the zero biases that training begins with."""
    text = "v0 = Add(x, ZEROS)" + "".join(LAYER.replace("{i}", str(i)).replace("{j}", str(i + 1)) for i in range(2))
    for name, value, width in (("ZEROS", "0.", 6), ("ONES", "1.", 6), ("MANY", "0.", 16)):
        text = text.replace(name, f"@[{', '.join([value] * width)}]")
    return network(f"{text} y = MatMul(v2, %6x4)", "float[2,4,6] x", "float[2,4,4] y")


def quantised(model: ModelProto, folder: Path) -> ModelProto:
    """Quantise weights per channel and activations, in QDQ form."""

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter([feeds(model, seed) for seed in range(3)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    kind = {"quant_format": QuantFormat.QDQ, "weight_type": QuantType.QInt8, "per_channel": True}
    quantize_static(model, folder / "q.onnx", Reader(), **kind)
    return onnx.load(folder / "q.onnx")


def networks(folder: Path) -> dict[str, ModelProto]:
    return {
        "instance norm": normed(INSTANCE),
        "batch norm": normed(BATCH),
        "encoder": encoder(),
        "encoder, QDQ": quantised(encoder(), folder),
        **{path.stem: onnx.load(path) for path in sorted(MODELS.glob("*.onnx"))},
    }


def shares(analysis: Analysis) -> dict[str, float]:
    return Costs(analysis).prunable()


@pytest.mark.parametrize("tool", SIMPLIFIERS)
def test_simplifying_first_loses_nothing_to_prune(tool: str, tmp_path: Path) -> None:
    for name, model in networks(tmp_path).items():
        before, after = (shares(onnxprune.analyze(m)) for m in (model, simplified(model, tool)))
        assert after["macs"] >= before["macs"] - 1e-9, name
        assert after["parameters"] >= before["parameters"] - 0.01, name


def elements(model: ModelProto) -> int:
    return sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)


@pytest.mark.parametrize("norm", [INSTANCE, BATCH])
def test_equal_constants_stored_once_are_each_readers_own(norm: str) -> None:
    """They are cut as if every reader had its own; what is equal afterwards is stored once again."""
    model = normed(norm, shared=True)
    assert shares(onnxprune.analyze(model)) == {"parameters": 1.0, "macs": 1.0}
    found = onnxprune.prune(model, ratio=0.5, latency=False)
    assert found.report["before"]["parameters"] == elements(model)
    assert found.report["after"]["parameters"] == elements(found.model) < elements(model) / 3
    assert {t.name for t in found.model.graph.initializer} == {t.name for t in model.graph.initializer}
    assert onnxprune.apply(found.plan, model).model == found.model
    assert {name for name in found.plan.kept if "/" in name} == {f"{t}{i}" for t in ("z/c", "o/n") for i in (1, 2, 3)}


def test_copies_that_are_cut_apart_stay_apart() -> None:
    model = normed(INSTANCE, shared=True)
    found = onnxprune.prune(model, layer_ratio=(("c1", 0.25), ("c2", 0.75)), ratio=0.5, round_to=1, latency=False)
    dims = {t.name: list(t.dims) for t in found.model.graph.initializer if len(t.dims) == 1}
    assert dims == {"z": [8], "o": [8], "z/c1": [12], "o/n1": [12], "z/c2": [4], "o/n2": [4]}
    assert found.report["after"]["parameters"] == elements(found.model)
    assert onnxprune.apply(found.plan, model).model == found.model


USES = "a = Conv(x, %8x3x1x1, z); b = Relu(a); c = Conv(b, %8x8x1x1, z); d = Sigmoid(c); y = Conv(d, %4x8x1x1)"
APART = {
    "a Constant node": "z = Constant<value = float[8] {0, 0, 0, 0, 0, 0, 0, 0}>()",
    "computed": "s = @0.5; i = %8:int8; z = DequantizeLinear(i, s)",
    "computed in steps": "i = %8; j = Neg(i); k = Unsqueeze(j, @[1, 2]); z = Reshape(k, @[8])",
    "uniform": "k = @[[1., 1.], [1., 1.], [1., 1.], [1., 1.]]; z = Reshape(k, @[8])",
}


@pytest.mark.parametrize("text", APART.values(), ids=APART)
def test_constants_of_every_make_are_taken_apart(text: str) -> None:
    analysis = onnxprune.analyze(network(f"{text}; {USES}", "float[1,3,4,4] x"))
    assert [group.width for group in analysis.groups] == [8, 8] or "k = @" in text
    assert_sound(analysis, halves(analysis))


TIED = {
    "tied matrices": "w = %8x8x1x1; a = Conv(x, w, z); b = Relu(a); c = Conv(b, w, z); d = Relu(c); y = Conv(d, %4x8x1x1)",
    "one stream": "a = Conv(x, %8x8x1x1); b = Mul(a, z); c = Conv(b, %8x8x1x1); d = Mul(c, z); e = Add(a, d); y = Conv(e, %4x8x1x1)",
}


@pytest.mark.parametrize("text", TIED.values(), ids=TIED)
def test_what_goes_together_anyway_is_not_copied(text: str) -> None:
    model = network(f"z = %8{'' if 'Mul' not in text else 'x1x1'}; {text}", "float[1,8,4,4] x")
    assert not onnxprune.analyze(model).facts.model.copies


def test_a_constant_read_inside_a_body_is_taken_apart() -> None:
    body = (
        "z = %8; a = Conv(x, %8x3x1x1, z); w = %8x8x1x1; "
        "b = If(f)<then_branch = t () => (float[1,8,4,4] p) { p = Conv(a, w, z) }, "
        "else_branch = e () => (float[1,8,4,4] q) { q = Conv(a, w, z) }>; y = Conv(b, %4x8x1x1)"
    )
    model = network(body.replace("If(f)<", "If <").replace("}>;", "}> (f);"), "float[1,3,4,4] x, bool f")
    analysis = onnxprune.analyze(model)
    assert [group.width for group in analysis.groups] == [8, 8]
    assert_sound(analysis, halves(analysis))
