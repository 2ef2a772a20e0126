"""A remedy that is printed works: each is followed, by the letter, on a small model that calls it forth."""

from __future__ import annotations

import ast
import json
import re
import shlex
import sys
import tomllib
import wave
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import ModelProto
from onnxruntime import InferenceSession
from support.checkpoints import write_state
from support.decoders import decoder
from support.networks import network, unseen_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from onnxprune.api import inspect, record
from onnxprune.cli import main
from onnxprune.report.remedies import NOTHING, REMEDIES, UNKNOWN_SHAPES

ROOT = Path(__file__).parents[2]
TRANSFORMER = ROOT / "models" / "digits_transformer.onnx"
IMAGE = "float[N,3,6,6] x"
CUSTOM = "p = Conv(x, %6x3x1x1); q = {}(p); y = Conv(q, %5x6x1x1)"
HEADS = (
    "q = MatMul(x, %3x12); k = MatMul(x, %3x12); v = MatMul(x, %3x12); q4 = Reshape(q, @[0, 4, 4, 3]); "
    "k4 = Reshape(k, @[0, 4, 4, 3]); v4 = Reshape(v, @[0, 4, 4, 3]); m = Mul(v4, %3); "
    "qt = Transpose<perm=[0,2,1,3]>(q4); kt = Transpose<perm=[0,2,3,1]>(k4); vt = Transpose<perm=[0,2,1,3]>(m); "
    "s = MatMul(qt, kt); a = Softmax(s); o = MatMul(a, vt); ot = Transpose<perm=[0,2,1,3]>(o); "
    "oo = Reshape(ot, @[0, 4, 12]); y = MatMul(oo, %12x5)"
)
TABLE = (
    "p = MatMul(x, %3x6); d = Shape(p); l = Gather(d, @[1]); g = Slice(%1x20x6, @[0], l, @[1]); s = Add(p, g); "
    "y = MatMul(s, %6x5)"
)
NORMED = "p = MatMul(x, %3x6); n = MeanVarianceNormalization<axes=[2]>(p); y = MatMul(n, %6x5)"
MANY = (
    "; ".join(f"p{n} = MatMul(x, %3x6); m{n} = MeanVarianceNormalization<axes=[2]>(p{n})" for n in range(30))
    + f"; s = Sum({', '.join(f'm{n}' for n in range(30))}); y = MatMul(s, %6x5)"
)


def free(body: str, inputs: str = IMAGE, outputs: str = "float[] y", **more: Any) -> ModelProto:
    return network(body, inputs, outputs, **more)


# --- inspect --------------------------------------------------------------------------------------------------------

# beginning of the remedy -> (model, model or settings that follow it)
FOLLOWED: dict[str, tuple[ModelProto, ModelProto | dict[str, Any]]] = {
    "fix the input's size with --input-shape": (
        free(TABLE, "float[N,L,3] x", "float[N,L,5] y"),
        {"input_shape": {"x": (1, 12, 3)}},
    ),
    "nothing to do where positions are classes or numbers": (
        free("p = Conv(x, %16x3x1x1); q = Softmax<axis=1>(p); y = Conv(q, %1x16x1x1)"),
        {"granularity": ("heads", "stream")},
    ),
    "--allow-lossy cuts it": (
        free("p = Conv(x, %16x3x1x1); q = LRN<size=3>(p); y = Conv(q, %1x16x1x1)"),
        {"allow_lossy": True},
    ),
    "--cut-cache lets heads go": (decoder(), {"cut_cache": True}),
    "--granularity stream cuts it": (free(NORMED, "float[N,4,3] x"), {"granularity": ("heads", "stream")}),
    "--granularity width cuts this factor": (free(HEADS, "float[N,4,3] x"), {"granularity": ("width",)}),
    "prune the float model": (
        free(
            "p = MatMul(x, %3x6); w = %1x6x20:int8; r = %1x5x20:int8; ws = %+1; wz = %1:int8; "
            "q = com.microsoft.DynamicQuantizeLSTM<hidden_size = 5>(p, w, r, , , , , , ws, wz, ws, wz); h = Squeeze(q, @[1]); "
            "y = MatMul(h, %5x4)",
            "float[2,4,3] x",
            domains={"com.microsoft": 1},
        ),
        free(
            "p = MatMul(x, %3x6); w = %1x20x6; r = %1x20x5; q = LSTM<hidden_size = 5>(p, w, r); h = Squeeze(q, @[1]); "
            "y = MatMul(h, %5x4)",
            "float[2,4,3] x",
        ),
    ),
    "export it as standard operators": (
        free(CUSTOM.format("foo.Bar"), outputs="float[N,5,6,6] y", domains={"foo": 1}),
        free(CUSTOM.format("Relu"), outputs="float[N,5,6,6] y"),
    ),
    "give --input-shape": (
        free("p = Conv(x, %6x3x1x1); f = Flatten(p); y = MatMul(f, %96x5)", "float[N,3,H,W] x"),
        {"input_shape": {"x": (1, 3, 4, 4)}},
    ),
    "the operator that gives it has no rule": (
        free(CUSTOM.format("foo.Bar"), outputs="float[N,5,6,6] y", domains={"foo": 1}),
        free(CUSTOM.format("Relu"), outputs="float[N,5,6,6] y"),
    ),
    "export with shapes that can be inferred, from constants": (
        free("p = MatMul(x, %3x6); q = Reshape(p, s); y = MatMul(q, %6x5)", "float[4,3] x, int64[2] s", "float[A,B] y"),
        free("p = MatMul(x, %3x6); q = Reshape(p, @[4, 6]); y = MatMul(q, %6x5)", "float[4,3] x", "float[4,5] y"),
    ),
}
UNFOLLOWED = {
    "please report it with this node": "a defect of a rule is mended here, not by the user",
    "--granularity experts removes whole experts": "another kind of change, which has no axes that stay; test_experts.py",
    "times each alone": "a model of more than 4 GB as float32",
    "no room for {} GB of sums": "a disk that is full",
}


def texts() -> list[str]:
    return [row[-1] for row in (*REMEDIES, *UNKNOWN_SHAPES)]


def test_every_remedy_of_inspect_is_followed_here() -> None:
    for text in texts():
        if text.startswith((f"{NOTHING}:", f"{NOTHING} in this version", *UNFOLLOWED)):
            continue
        assert [start for start in FOLLOWED if text.startswith(start)], text
    for start in FOLLOWED:
        assert [text for text in texts() if text.startswith(start)], start


def frozen(found: dict[str, Any], start: str) -> set[tuple[str, str]]:
    return {(row["axis"], row["reason"]) for row in found["frozen"] if row["remedy"].startswith(start)}


@pytest.mark.parametrize("start", FOLLOWED)
def test_what_inspect_says_helps(start: str) -> None:
    """Where the remedy was followed the axis is no longer kept for that reason, and more can be pruned."""
    model, way = FOLLOWED[start]
    before = inspect(model)
    named = frozen(before, start)
    assert named
    after = inspect(way) if isinstance(way, ModelProto) else inspect(model, **way)
    assert not named & {(row["axis"], row["reason"]) for row in after["frozen"]}
    assert sum(len(group["members"]) for group in after["groups"]) > sum(len(g["members"]) for g in before["groups"])


@pytest.mark.parametrize(
    ("body", "inputs", "reason"),
    [
        ("p = Conv(x, %6x3x1x1); f = Flatten(p); z = MatMul(f, %216x5); y = Softmax(z)", IMAGE, "output"),
        (
            "p = Conv(x, %6x3x1x1); f = Flatten(p); z = MatMul(f, %216x5); n = ReduceMean(z, @[1]); y = Sub(z, n)",
            IMAGE,
            "output",
        ),
        ("n = LayerNormalization(x, %3, %3); y = MatMul(n, %3x5)", "float[N,4,3] x", "input"),
    ],
)
def test_no_setting_is_advised_where_the_boundary_keeps_an_axis(body: str, inputs: str, reason: str) -> None:
    """A final Softmax, a mean of the outputs, a norm of the inputs: stream lifts statistics, not the boundary."""
    found = inspect(free(body, inputs))
    assert {row["kind"] for row in found["frozen"]} <= {"input", "output"}
    assert reason in {row["kind"] for row in found["frozen"]}
    stream = inspect(free(body, inputs), granularity=("heads", "stream"))
    assert [row["axis"] for row in stream["frozen"]] == [row["axis"] for row in found["frozen"]]


BOX = (
    "p = Conv(x, %16x3x1x1); r = Reshape(p, @[-1, 1, 16, 36]); t = Transpose<perm=[0,2,1,3]>(r); q = Softmax<axis=1>(t); {}; "
    "y = Flatten(d)"
)


@pytest.mark.parametrize(
    ("mean", "numbers"),
    [
        ("k = @[0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.]; b = Unsqueeze(k, @[0, 2, 3]); d = Conv(q, b)", True),
        ("m = Transpose<perm=[0,2,3,1]>(q); b = @[0., 2., 4., 6., 8., 10., 12., 14., 16., 18., 20., 22., 24., 26., 28., 30.]; d = MatMul(m, b)", True),
        ("d = Conv(q, %1x16x1x1)", False),
    ],
)  # fmt: skip
def test_the_bins_of_a_box_are_not_called_a_matter_of_granularity(mean: str, numbers: bool) -> None:
    """A distribution over numbers of which the mean is taken, however it is written."""
    found = [row["remedy"] for row in inspect(free(BOX.format(mean)))["frozen"] if row["op"] == "Softmax"]
    assert found
    assert all(("whose mean is taken" in remedy) == numbers for remedy in found)
    assert all(("--granularity" in remedy) != numbers for remedy in found)


def test_a_value_whose_size_is_in_the_data_has_no_remedy() -> None:
    found = inspect(
        free("p = Conv(x, %6x3x1x1); q = NonZero(p); r = Cast<to=1>(q); y = MatMul(%3x4, r)", outputs="float[A,B] y")
    )
    assert all(row["remedy"].startswith(NOTHING) for row in found["frozen"])


# --- errors and warnings --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("remedies")
    draw = np.random.default_rng(0)
    conv, out = "h = Conv(x, w1); r = Relu(h); y = Conv(r, w2)", "float[N,4,4,4] y"
    head = "h = Conv(x, w1); r = Relu(h); g = Flatten(r); y = MatMul(g, %128x4)"
    stored, wider = "w1 = %8x3x3x3; w2 = %4x8x1x1; ", "w1 = %12x3x3x3; w2 = %4x12x1x1; "
    branch = "p = Conv(x, %8x3x1x1); q = Relu(p); s = Conv(q, %8x8x1x1); r = Add(p, s); y = Conv(r, %4x8x1x1)"
    models = {
        "net": free(stored + conv, IMAGE, out),
        "twin": free(stored + conv, IMAGE, out, seed=1),
        "wide": free(wider + conv, IMAGE, out),
        "coded": free(
            "d = DequantizeLinear(%8x3x1x1:int8, @0.05); h = Conv(x, d); e = DequantizeLinear(%4x8x1x1:int8, @0.05); y = Conv(h, e)",
            IMAGE,
            "float[N,4,6,6] y",
        ),
        "narrow": free("w1 = %8x3x1x1; w2 = %4x8x3x3; " + conv, IMAGE, out),
        "classes": free("w1 = %8x3x3x3; " + head, IMAGE, "float[N,4] y"),
        "any": free(stored + conv, "float[N,3,H,W] x", "float[N,4,A,B] y"),
        "both": free(stored + conv, "float[N,A,B,C] x", "float[N,4,D,E] y"),
        "two": free(
            "a = MatMul(x, %3x8); b = MatMul(z, %3x8); h = Add(a, b); y = MatMul(h, %8x4)", "float[N,3] x, float[N,3] z"
        ),
        "value": free("h = MatMul(x, %3x8); r = Relu(h); y = MatMul(r, %8x1)", "float[N,3] x", "float[N,1] y"),
        "normed": free(NORMED, "float[N,4,3] x"),
        "many": free(MANY, "float[N,4,3] x"),
        "branch": free(branch, IMAGE, "float[N,4,6,6] y"),
        "quantised": free(
            "p = Conv(x, %8x3x1x1); q = Relu(p); d = DequantizeLinear(%8x8x1x1:int8, @0.05); s = Conv(q, d); r = Add(p, s); y = Conv(r, %4x8x1x1)",
            IMAGE,
            "float[N,4,6,6] y",
        ),
    }
    models["unseen"] = unseen_model()
    models["picky"] = free(
        "p = MatMul(x, %3x8); r = Relu(p); m = MatMul(r, %8x6); h = Squeeze(s, @[0]); q = Reshape(m, h); y = Identity(q)",
        "float[1,4,3] x, int64[1,2] s",
        "float[A,B] y",
    )
    body = "p = MatMul(x, %3x6); r = Relu(p); {}; q = Mul(r, f); y = MatMul(q, %6x5)"
    models["rated"] = network(body.format("f = Cast<to = 1>(s)"), "float[N,3] x, int64 s", "float[N,5] y")
    models["masked"] = network(
        body.format("f = ReduceMean<keepdims = 0>(m)"), "float[N,3] x, float[1,K] m", "float[N,5] y"
    )
    models["long"] = network(
        'd = Pad<mode = "reflect">(x, @[0, 0, 20000, 0, 0, 0]); p = Conv(d, %6x3x1); r = Relu(p); y = Conv(r, %5x6x1)',
        "float[N,3,L] x",
    )
    weights = "w = %1x3x20{0}; r = %1x5x20{0}; ws = %+1; wz = %1{0}; "
    quantised = "q = com.microsoft.DynamicQuantizeLSTM<hidden_size = 5>(x, w, r, , , , , , ws, wz, ws, wz); {}"
    ending = "h = Squeeze(q, @[1]); y = MatMul(h, %5x4)"
    models["states"] = network(
        weights.format(":int8") + quantised.format(ending), "float[2,4,3] x", "float[] y", domains={"com.microsoft": 1}
    )
    models["float_states"] = network(
        f"w = %1x20x3; r = %1x20x5; q = LSTM<hidden_size = 5>(x, w, r); {ending}", "float[2,4,3] x", "float[] y"
    )
    sound = "u = Unsqueeze(x, @[1]); p = Conv(u, %6x1x8); r = Relu(p); g = GlobalAveragePool(r); f = Flatten(g); "
    models["wave"] = network(sound + "y = MatMul(f, %6x5)", "float[N,64] x", "float[N,5] y")
    rate = "k = Cast<to = 1>(s); m = Add(f, k); y = MatMul(m, %6x5)"
    models["voice"] = network(sound + rate, "float[N,64] x, int64 s", "float[N,5] y")
    words = "e = Gather(%8x6, ids); p = MatMul(e, %6x6); r = Relu(p); "
    models["words"] = network(words + "y = MatMul(r, %6x5)", "int64[N,L] ids", "float[N,L,5] y")
    models["scaled"] = network(
        words + "m = Mul(r, z); y = MatMul(m, %6x5)", "int64[N,L] ids, float[1] z", "float[N,L,5] y"
    )
    models["mixture"] = network(
        's = MatMul(x, %3x4); h = com.microsoft.MoE<k = 2, activation_type = "relu">(x, s, %4x7x3, %4x7, %4x3x7, %4x3); y = MatMul(h, %3x5)',
        "float[N,3] x",
        "float[N,5] y",
        domains={"com.microsoft": 1},
    )
    models["halves"] = free(
        "p = MatMul(x, %3x8:float16); y = MatMul(p, %8x4:float16)", "float16[N,3] x", "float16[N,4] y"
    )
    models["old"] = network(
        "p = MatMul(x, %3x8); y = MatMul(p, %8x4)", "float[N,3] x", "float[N,4] y", opset=9, ir_version=4
    )
    for name, model in models.items():
        onnx.save(model, path / f"{name}.onnx")
    x = draw.standard_normal((24, 3, 6, 6)).astype(np.float32)
    np.savez(path / "x.npz", x=x)
    np.savez(path / "fresh.npz", x=x[::-1] + np.float32(1))
    np.savez(path / "nan.npz", x=np.full_like(x, np.nan))
    np.savez(path / "huge.npz", x=np.full_like(x, 1e30))
    np.savez(path / "three.npz", x=x[:, 0, 0, :3].copy(), z=x[:, 0, 1, :3].copy())
    np.savez(path / "picky.npz", x=x[:, 0, :4, :3].copy(), s=np.tile(np.array([[4, 6]]), (24, 1)))
    np.save(path / "one.npy", x[:, 0, 0, :3].copy())
    np.save(path / "bytes.npy", (x * 20 + 128).clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1).copy())
    np.save(path / "labels.npy", draw.integers(0, 4, 24))
    np.save(path / "vectors.npy", draw.standard_normal((24, 2)))
    from PIL import Image

    (path / "pictures").mkdir()
    for number in range(4):
        Image.fromarray(draw.integers(0, 255, (6, 6, 3), np.uint8)).save(path / "pictures" / f"{number}.png")
    for folder, rates in (("takes", (8000,)), ("rates", (8000, 16000))):
        (path / folder).mkdir()
        for rate in rates:
            with wave.open(str(path / folder / f"{rate}.wav"), "wb") as stream:
                stream.setparams((1, 2, rate, 0, "NONE", ""))
                stream.writeframes(draw.integers(-9000, 9000, 640).astype("<i2").tobytes())
    (path / "words.txt").write_text("a cat\ncat a\na\ncat\n" * 4)
    Tokenizer(WordLevel({"[UNK]": 0, "a": 1, "cat": 2}, unk_token="[UNK]")).save(str(path / "tokenizer.json"))
    np.save(path / "keep.npy", [0, 1, 2])
    np.save(path / "first.npy", [0])
    np.save(path / "far.npy", [50])
    np.savez(path / "ids.npz", ids=np.arange(3), others=np.arange(3))
    (path / "metric.py").write_text(
        "import numpy as np\ndef score(outputs, labels):\n    return np.ones(len(outputs['y']))\n"
    )
    (path / "exits.py").write_text("import sys\ndef load_data():\n    sys.exit(0)\n")
    (path / "returns.py").write_text("import numpy as np\ndef load_data():\n    return np.load('x.npz')['x']\n")
    (path / "empty").mkdir()
    np.savez(path / "broken.npz", facts=np.zeros(3, np.uint8))
    np.save(path / "x.npy", x)
    (path / "feeds.py").write_text(
        "import numpy as np, onnxruntime\nonnxruntime.InferenceSession('net.onnx').run(None, dict(np.load('x.npz')))\n"
    )
    (path / "damaged").mkdir()
    (path / "damaged" / "recording.json").write_text("{}")
    for place, names in (("recorded", ("net", "twin")), ("again", ("net",))):
        with record(path / place):
            for name in names:
                InferenceSession(path / f"{name}.onnx").run(None, {"x": x})
    (path / "jobs.toml").write_text("[jobs.a]\nmodel = 'net.onnx'\ndry-run = true\nno-latency = true\n")
    (path / "none.toml").write_text("")
    rows = draw.standard_normal((600, 3, 6, 6)).astype(np.float32)
    np.savez(path / "rows.npz", x=rows)
    np.savez(path / "others.npz", x=np.concatenate([rows[:300], -rows[300:301], rows[301:]]))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        for command in (
            "net.onnx small.onnx --no-latency --plan plan.json --json report.json",
            "run --config jobs.toml --json jobs.json",
            "net.onnx spare.onnx --calib x.npz --criterion l2 --recover 1 --checkpoint state.npz --no-latency",
            f"stats net.onnx --calib rows.npz {RANGES} -o s.npz",
            f"stats net.onnx --calib rows.npz {RANGES} --shard 1/2 -o s1.npz",
            f"stats net.onnx --calib rows.npz {RANGES} --shard 2/2 -o s2.npz",
            f"stats net.onnx --calib rows.npz {RANGES} --shard 2/2 --seed 1 -o seeded.npz",
        ):
            assert run(command).exit_code == 0, command
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in models["net"].graph.initializer}
    write_state(path / "w.safetensors", weights)
    write_state(path / "aux.safetensors", weights | {"aux": np.ones(8, np.float32)})
    write_state(path / "other.safetensors", {"a": np.ones(3, np.float32)})
    (path / "pickle.bin").write_bytes(b"PK and more, as torch writes it")
    plan = json.loads((path / "plan.json").read_text())
    plan["kept"] = {name: {axis: kept[:-1] for axis, kept in axes.items()} for name, axes in plan["kept"].items()}
    (path / "edited.json").write_text(json.dumps(plan))
    damaged = json.loads((path / "report.json").read_text())
    (path / "nulls.json").write_text(json.dumps(damaged | {"after": 3, "before": 3, "surgery": 3}))
    (path / "words.json").write_text(json.dumps(damaged | {"after": damaged["after"] | {"macs": "many"}}))
    return path


def run(command: str) -> Result:
    return CliRunner().invoke(main, shlex.split(command))


DRY = "--dry-run --no-latency"
PROGRAM = f"{sys.executable} feeds.py"
DATA = f"--calib x.npz {DRY}"
RANGES = "--criterion wanda"
TEXT, SOUND = f"--calib words.txt {DRY}", f"--calib takes {DRY}"
KEEP, TOKENS = f"--vocabulary keep.npy {DRY}", f"--tokenizer tokenizer.json {DRY}"
# what the message says -> (command that calls it forth, command that follows it; several in a row with &&)
ATTACKED = "validate classes.onnx classes.onnx --data x.npz --attack"
SLICE, SMALL = "checkpoint plan.json net.onnx", "-o small.safetensors --force"
ERRORS = {
    "fgsm is one step; leave steps out": (f"{ATTACKED} fgsm:0.1,steps=2,range=-9:9", f"{ATTACKED} pgd:0.1,steps=2,range=-9:9"),
    "scores or probabilities; leave the attack out": ("validate net.onnx net.onnx --data x.npz --attack fgsm:0.1,range=-9:9", "validate net.onnx net.onnx --data x.npz"),
    "would be of black and of white, such as": (f"{ATTACKED} fgsm:0.1", f"{ATTACKED} fgsm:0.1,range=-9:9/-9:9/-9:9"),
    "give the range that the data has": (f"{ATTACKED} fgsm:0.1,range=0:0.1", f"{ATTACKED} fgsm:0.1,range=-9:9"),
    "give one for all, or one for each": (f"{ATTACKED} fgsm:0.1,range=0:1/0:1", f"{ATTACKED} fgsm:0.1,range=-9:9"),
    "(--criterion group-fisher), or leave attack out": (f"net.onnx {DATA} --criterion l2 --attack fgsm:0.1", f"net.onnx {DATA} --criterion l2"),
    "save the checkpoint with": (f"{SLICE} pickle.bin {SMALL}", f"{SLICE} w.safetensors {SMALL}"),
    "give the checkpoint that the model was exported from": (f"{SLICE} other.safetensors {SMALL}", f"{SLICE} w.safetensors {SMALL}"),
    "say what becomes of them (--untold": (f"{SLICE} aux.safetensors {SMALL}", f"{SLICE} aux.safetensors {SMALL} --untold copy"),
    "is no safetensors file; delete it": (f"{SLICE} w.safetensors -o words.txt --force", f"{SLICE} w.safetensors {SMALL}"),
    "makes no single weights zero; leave --masks out": (f"{SLICE} w.safetensors {SMALL} --masks x.npz", f"{SLICE} w.safetensors {SMALL}"),
    "give ones that it takes, like --input-shape": (f"long.onnx {DRY}", f"long.onnx {DRY} --input-shape x:1,3,30000"),
    "is not of the input's type": (f"rated.onnx {DRY} --input-value s:0.5", f"rated.onnx {DRY} --input-value s:2"),
    "numbers do not fill an input": (f"rated.onnx {DRY} --input-value s:1,2", f"rated.onnx {DRY} --input-value s:2"),
    "so that no data is needed": (f"rated.onnx --calib one.npy {DRY} --input-value s:2 --input-value x:1", f"rated.onnx {DRY} --input-value s:2 --input-value x:1"),
    "no data gives it the sizes": (f"masked.onnx --calib one.npy {DRY} --input-value m:1", f"masked.onnx --calib one.npy {DRY} --input-value m:1 --input-shape m:1,4"),
    "goes with text; say --tokenizer too": (f"words.onnx {TEXT} --text-length 4", f"words.onnx {TEXT} --text-length 4 --tokenizer tokenizer.json"),
    "text is read with the model's own tokenizer": (f"words.onnx {TEXT}", f"words.onnx {TEXT} --tokenizer tokenizer.json"),
    "give a number of tokens": (f"words.onnx {TEXT} --tokenizer tokenizer.json --text-length 0", f"words.onnx {TEXT} --tokenizer tokenizer.json --text-length 3"),
    "takes no line of text": (f"scaled.onnx {TEXT} --tokenizer tokenizer.json", f"scaled.onnx {TEXT} --tokenizer tokenizer.json --input-value z:1"),
    "recordings serve models with one input": (f"voice.onnx {SOUND}", f"voice.onnx {SOUND} --input-value s:0"),
    "takes no plain sound": (f"net.onnx {SOUND}", f"net.onnx --calib returns.py {DRY}"),
    "give a finite number other than zero": (f"wave.onnx {SOUND} --audio-scale 0", f"wave.onnx {SOUND} --audio-scale 32768"),
    "samples per second; say --audio-rate": (f"wave.onnx --calib rates {DRY}", f"wave.onnx --calib rates {DRY} --audio-rate 16000"),
    "samples; leave the option out": (f"wave.onnx {SOUND} --audio-window 32", f"wave.onnx {SOUND}"),
    "give a whole number above zero": (f"wave.onnx {SOUND} --audio-hop 0", f"wave.onnx {SOUND} --audio-hop 16000"),
    "and --fit crop": (f"net.onnx --calib pictures {DRY} --fit stretch --resize 8", f"net.onnx --calib pictures {DRY} --fit crop --resize 256"),
    "or mix in another granularity": (f"mixture.onnx {DRY} --granularity experts --target params=10%", f"mixture.onnx {DRY} --granularity experts --target params=80%"),
    "--granularity experts says which and why": (f"net.onnx {DRY} --granularity experts", "inspect net.onnx --granularity experts"),
    "add granularity experts, or name another": (f"mixture.onnx {DRY} --criterion routing-mass --calib one.npy", f"mixture.onnx {DRY} --criterion routing-mass --calib one.npy --granularity experts"),
    "both say how many weights go": (f"net.onnx {DRY} --unstructured --ratio 0.5 --sparsity 0.7", f"net.onnx {DRY} --unstructured --ratio 0.5"),
    "ask for some (--sparsity": (f"net.onnx {DRY} --masks m.npz", f"net.onnx {DRY} --masks m.npz --sparsity 0.5"),
    "a share of blocks, such as": (f"net.onnx {DRY} --sparsity half", f"net.onnx {DRY} --sparsity 0.7"),
    "can have zeros in the pattern": (f"net.onnx {DRY} --sparsity 5:7", f"net.onnx {DRY} --sparsity 0.5"),
    "give a number from 0 to 255": (f"net.onnx --calib pictures {DRY} --fit letterbox --fill 300", f"net.onnx --calib pictures {DRY} --fit letterbox --fill 0"),
    "prune the float model, then quantise it": (f"states.onnx {DRY}", f"float_states.onnx {DRY}"),
    "cannot be run on drawn inputs": (f"picky.onnx {DRY}", f"picky.onnx {DRY} --calib picky.npz --criterion l2 --repair none"),
    "not everything was seen": (f"unseen.onnx {DRY}", f"unseen.onnx {DRY} --allow-unproven"),
    "removed nothing": (f"net.onnx {DRY} --ratio 5% --round-to 4", f"net.onnx {DRY} --ratio 20% --round-to 1"),
    "comes nearer": (f"net.onnx {DRY} --target macs=95% --round-to 4", f"net.onnx {DRY} --target macs=95% --round-to 1"),
    "ask for less, or relax --include": (f"net.onnx {DRY} --target macs=30% --max-layer-ratio 0.5 --round-to 1", f"net.onnx {DRY} --target macs=30% --round-to 1"),
    "groups can become narrower with these settings; relax": (f"net.onnx {DRY} --min-width 8", f"net.onnx {DRY} --min-width 2"),
    "where --granularity stream or --allow-lossy is a way out": (f"normed.onnx {DRY}", f"normed.onnx {DRY} --granularity stream"),
    "give a share between 0 and 1": (f"net.onnx {DRY} --max-layer-ratio 2", f"net.onnx {DRY} --max-layer-ratio 0.5"),
    "give a share from 0 to less than 1": (f"net.onnx {DRY} --layer-ratio h=1", f"net.onnx {DRY} --layer-ratio h=0.5"),
    "neither a whole number of at least 1 nor the name": (f"net.onnx {DRY} --round-to 0", f"net.onnx {DRY} --round-to 2"),
    "give the share of units to remove": (f"net.onnx {DRY} --ratio 50", f"net.onnx {DRY} --ratio 50%"),
    "give what may remain, e.g.": (f"net.onnx {DRY} --target macs", f"net.onnx {DRY} --target macs=50%"),
    "is not a positive amount; use 50%": (f"net.onnx {DRY} --target macs=few", f"net.onnx {DRY} --target macs=0.5x"),
    "latency is a share of the original's": ("net.onnx --dry-run --target latency=3", "net.onnx --dry-run --target macs=0.6x"),
    "a share of the original is what remains; give less": (f"net.onnx {DRY} --target macs=1x", f"net.onnx {DRY} --target macs=0.9x"),
    "give data (--calib or --eval)": ("sweep net.onnx --ratios 0.5", "sweep net.onnx --ratios 0.5 --eval x.npz"),
    "is not a report of onnxprune; write one with --json": ("report tokenizer.json", f"net.onnx {DRY} --json n.json && report n.json"),
    "not an object; write it again with --json": (
        f"net.onnx {DRY} --baseline nulls.json", f"net.onnx {DRY} --json n.json && net.onnx {DRY} --baseline n.json"),
    "not a number; write it again with --json": (
        f"net.onnx {DRY} --baseline words.json", f"net.onnx {DRY} --json n.json && net.onnx {DRY} --baseline n.json"),
    "is damaged: ": ("report nulls.json", f"net.onnx {DRY} --json n.json && report n.json"),
    "--baseline takes what 'onnxprune run --json' wrote": (
        "run --config jobs.toml --baseline report.json", "run --config jobs.toml --baseline jobs.json"),
    "every --std value must be above zero": (f"net.onnx --calib pictures {DRY} --std 0", f"net.onnx --calib pictures {DRY} --std 1"),
    "--mean, --std and --scale are finite": (f"net.onnx --calib pictures {DRY} --scale inf", f"net.onnx --calib pictures {DRY} --scale 2"),
    "say --layout NCHW or --layout NHWC": (
        f"both.onnx --calib pictures {DRY}", f"both.onnx --calib pictures {DRY} --input-shape x:1,3,6,6 --layout NCHW"),
    "has no fixed image size: give the one it is used at, such as": (
        f"any.onnx --calib pictures {DRY}", f"any.onnx --calib pictures {DRY} --input-shape x:1,3,6,6"),
    "turn uint8 images into what": (f"net.onnx --calib bytes.npy {DRY} --criterion l2", f"net.onnx --calib bytes.npy {DRY} --criterion l2 --scale 0.1"),
    "image options apply to uint8 images only": (f"net.onnx {DATA} --scale 2", f"net.onnx {DATA}"),
    "pass a .npz with these names": (f"two.onnx {DRY} --calib one.npy", f"two.onnx {DRY} --calib three.npz"),
    "pass a .npz or a .py loader": (f"two.onnx {DRY} --calib pictures", f"two.onnx {DRY} --calib three.npz"),
    "widths can: leave out --granularity block": (f"net.onnx {DRY} --granularity block", f"net.onnx {DRY}"),
    "prune widths in a second run": (
        f"branch.onnx {DRY} --granularity block --target macs=1%",
        "branch.onnx b.onnx --force --no-latency --granularity block && b.onnx c.onnx --force --no-latency"),
    "prune widths too, in another run": (
        f"branch.onnx {DATA} --granularity eigen --target macs=0.1%",
        "branch.onnx b.onnx --force --no-latency --calib x.npz --granularity eigen --target macs=95% && b.onnx c.onnx --force --no-latency"),
    "has no stored float matrix to judge it by": (
        f"quantised.onnx {DRY} --granularity block", f"quantised.onnx {DATA} --granularity block"),
    "the model has no input": (f"net.onnx {DRY} --input-shape z:1,3,6,6", f"net.onnx {DRY} --input-shape x:1,3,6,6"),
    "does not fit it": (f"net.onnx {DRY} --input-shape x:1,5,6,6", f"net.onnx {DRY} --input-shape x:1,3,6,6"),
    "no output looks like a classifier's; pass --metric": (
        "validate value.onnx value.onnx --data one.npy --labels labels.npy",
        "validate value.onnx value.onnx --data one.npy --labels labels.npy --metric metric.py:score"),
    "or your own --metric": (
        "validate classes.onnx classes.onnx --data x.npz --labels vectors.npy",
        "validate classes.onnx classes.onnx --data x.npz --labels vectors.npy --metric metric.py:score"),
    "exists; add --force to replace it": ("net.onnx small.onnx --no-latency", "net.onnx small.onnx --no-latency --force"),
    "choose another name (": ("net.onnx net.onnx --force --no-latency", "net.onnx other.onnx --force --no-latency"),
    "; give a file name": (f"net.onnx {DRY} --json empty", f"net.onnx {DRY} --json empty/e.json"),
    "is a folder; give a file name": ("net.onnx empty --force --no-latency", "net.onnx empty/e.onnx --force --no-latency"),
    "does not exist; create it first": ("net.onnx no/e.onnx --force --no-latency", "net.onnx empty/e.onnx --force --no-latency"),
    "a folder, not a model; give the .onnx file": ("empty", f"net.onnx {DRY}"),
    "add --force to use it if all shapes agree": (f"apply plan.json twin.onnx {DRY}", f"apply plan.json twin.onnx {DRY} --force"),
    "make the plan again": (f"apply edited.json net.onnx {DRY}", f"net.onnx {DRY} --plan again.json --force && apply again.json net.onnx {DRY}"),
    "takes directions from data; give calibration data": (f"net.onnx {DRY} --granularity eigen", f"net.onnx {DATA} --granularity eigen"),
    "--max-divergence is judged on data": (f"net.onnx {DRY} --max-divergence 5", f"net.onnx {DATA} --max-divergence 5"),
    "--search judges widths on data": (f"net.onnx {DRY} --search 1", f"net.onnx {DATA} --search 1"),
    "--recover trains on data": (f"net.onnx {DRY} --recover 1", f"net.onnx {DATA} --recover 1 --criterion l2"),
    "looks at data; give calibration data": (f"net.onnx {DRY} --repair bias", f"net.onnx {DATA} --repair bias --criterion l2"),
    "looks at data; give calibration data (--calib)": (f"net.onnx {DRY} --criterion obs", f"net.onnx {DATA} --criterion obs"),
    "is another network: the model has a group": (f"net.onnx {DRY} --rewind wide.onnx", f"net.onnx {DRY} --rewind twin.onnx"),
    "name a file with --config": ("run", "run --config jobs.toml"),
    "give the number of steps, 2 to 999": (f"net.onnx {DRY} --schedule linear:1", f"net.onnx {DRY} --schedule linear:2"),
    "give at least one pair and some time": ("bench net.onnx --pairs 0 --seconds 1", "bench net.onnx --pairs 100 --seconds 0.1"),
    "compares two models; give the other one too": (
        "bench net.onnx --max-latency-ratio 90", "bench net.onnx net.onnx --seconds 0.2"),
    "rewind goes with widths": (f"branch.onnx {DRY} --rewind branch.onnx --granularity block", f"branch.onnx {DRY} --rewind branch.onnx"),
    "labels without data; give": (f"net.onnx {DRY} --labels labels.npy", f"classes.onnx {DATA} --labels labels.npy --criterion l2"),
    "let it return or raise instead": (f"net.onnx --calib exits.py {DRY}", f"net.onnx --calib returns.py {DRY}"),
    "look at these rows and leave them out": (f"net.onnx --calib huge.npz {DRY}", f"net.onnx {DATA}"),
    "take them out of either": (f"net.onnx {DATA} --eval x.npz --strict", f"net.onnx {DATA} --eval fresh.npz --strict"),
    "delete it or name another file": (
        "net.onnx s.onnx --force --no-latency --calib x.npz --ratio 0.75 --round-to 1 --recover 1 --criterion l2 --checkpoint state.npz",
        "net.onnx s.onnx --force --no-latency --calib x.npz --ratio 0.75 --round-to 1 --recover 1 --criterion l2 --checkpoint more.npz"),
    "give a number of steps such as 200, or a time": (f"net.onnx {DATA} --recover soon", f"net.onnx {DATA} --criterion l2 --recover 2"),
    "sees what the blocks read once, as it is; leave": (
        f"net.onnx {DATA} --recover 1 --recover-loss blocks --augment flip --criterion l2", f"net.onnx {DATA} --recover 1 --recover-loss blocks --criterion l2"),
    "give a number above zero, such as 0.001": (f"net.onnx {DATA} --learning-rate 0", f"net.onnx {DATA} --criterion l2 --recover 1 --learning-rate 0.001"),
    "give one of ratio, target and": (f"net.onnx {DRY} --ratio 0.5 --target macs=50%", f"net.onnx {DRY} --ratio 0.5"),
    "give a whole number of at least": (f"net.onnx {DRY} --samples 0", f"net.onnx {DATA} --samples 1 --criterion l2 --repair none"),
    "; this machine has ": (f"net.onnx {DRY} --threads 100000", f"net.onnx {DRY} --threads 2"),
    "give a number of steps, such as 50": (f"net.onnx {DATA} --search-recover -1", f"net.onnx {DATA} --search-recover 1 --search 1"),
    "leave criterion and repair at auto": (f"net.onnx {DATA} --search-recover 1 --criterion l2", f"net.onnx {DATA} --search-recover 1 --search 1"),
    "does not go with granularity block; leave it out": (f"branch.onnx {DRY} --granularity block --criterion l1", f"branch.onnx {DRY} --granularity block"),
    "target latency does not go with granularity block": (
        f"branch.onnx {DRY} --granularity block --target latency=0.5x", f"branch.onnx {DRY} --granularity block --target macs=80%"),
    "does not go with granularity eigen; leave it out": (f"net.onnx {DATA} --granularity eigen --criterion l1", f"net.onnx {DATA} --granularity eigen"),
    "target latency does not go with granularity eigen": (
        f"net.onnx {DATA} --granularity eigen --target latency=0.5x", f"net.onnx {DATA} --granularity eigen --target macs=90%"),
    "does not go with lossless; leave it out": (f"quantised.onnx {DRY} --lossless --ratio 0.5", f"quantised.onnx {DRY} --ratio 0.5"),
    "name a criterion that looks at weights alone": (f"net.onnx {DRY} --selection greedy", f"net.onnx {DRY} --selection greedy --criterion l1"),
    "allow more (--max-divergence)": (f"branch.onnx {DATA} --granularity block --max-divergence 1e-9", f"branch.onnx {DATA} --granularity block --max-divergence 1000"),
    "a codebook changes every weight": (
        f"net.onnx {DRY} --ratio 0 --storage codebook:16",
        f"net.onnx {DRY} --ratio 0 --storage codebook:16 --calib x.npz",
    ),
    "leave quantize out, or give the float model": (f"quantised.onnx {DRY} --quantize dynamic", f"net.onnx {DRY} --quantize dynamic"),
    "give the model as float32, or leave quantize out": (f"halves.onnx {DRY} --quantize dynamic", f"halves.onnx {DRY}"),
    "no file is raised unasked": (f"old.onnx {DRY} --quantize dynamic", f"old.onnx {DRY} && two.onnx {DRY} --quantize dynamic"),
    "finds ranges of values on data, which dynamic does not need": (f"net.onnx {DRY} --quantize int8", f"net.onnx {DATA} --quantize int8 --criterion l2"),
    "packs float weights, and quantize": (f"net.onnx {DRY} --quantize dynamic --storage auto", f"net.onnx {DRY} --quantize dynamic"),
    "leave rewind or vocabulary out": (f"words.onnx {KEEP} --rewind words.onnx", f"words.onnx {KEEP}"),
    "export it with its embedding as a plain Gather": (f"net.onnx {KEEP}", f"words.onnx {KEEP}"),
    "rows; give numbers below that": (f"words.onnx --vocabulary far.npy {DRY}", f"words.onnx {KEEP}"),
    "or the tokenizer that belongs to the model": (f"words.onnx --vocabulary far.npy {TOKENS}", f"words.onnx --vocabulary keep.npy {TOKENS}"),
    "name them in vocabulary, or give other rows": (
        f"words.onnx --vocabulary first.npy --eval words.txt {TOKENS}", f"words.onnx --vocabulary keep.npy --eval words.txt {TOKENS}"),
    "; give the model's tokenizer (--tokenizer)": (f"words.onnx --vocabulary words.txt {DRY}", f"words.onnx --vocabulary words.txt {TOKENS}"),
    "name them with vocabulary, or leave token_numbers out": (f"words.onnx {DRY} --token-numbers new", f"words.onnx {KEEP} --token-numbers new"),
    "name the array of tokens that stay": (f"words.onnx --vocabulary three.npz {DRY}", f"words.onnx --vocabulary ids.npz {DRY}"),
    "give --unstructured, or leave scope out": (f"net.onnx {DRY} --scope erdos-renyi", f"net.onnx {DRY} --scope erdos-renyi --unstructured"),
    "(--calib), or leave scope out": (f"net.onnx {DRY} --sparsity 0.5 --scope error", f"net.onnx {DRY} --sparsity 0.5 --scope error --calib x.npz"),
    "add quantize int8 or dynamic, or leave keep_float out": (
        f"net.onnx {DRY} --keep-float op:Conv", f"net.onnx {DRY} --keep-float op:Conv --quantize dynamic"),
    "give names that onnxprune inspect MODEL --quantize dynamic lists": (
        f"net.onnx {DRY} --quantize dynamic --keep-float nothing", f"net.onnx {DRY} --quantize dynamic --keep-float op:Conv"),
    "such as macs=75% or latency=80%": (f"net.onnx {DATA} --criterion l2 --dynamic 75%", f"net.onnx {DATA} --criterion l2 --dynamic macs=75%"),
    "prune further (--target macs=), or allow more": (
        f"net.onnx {DATA} --criterion l2 --ratio 0.2 --dynamic macs=10%", f"net.onnx {DATA} --criterion l2 --target macs=60% --round-to 1 --dynamic macs=95%"),
    "--dynamic teaches a gate on data": (f"net.onnx {DRY} --dynamic macs=75%", f"net.onnx {DATA} --criterion l2 --dynamic macs=75%"),
    "give a ratio or a target, or leave dynamic out": (
        f"net.onnx {DATA} --ratio 0 --storage fp16 --dynamic macs=75%", f"net.onnx {DATA} --criterion l2 --ratio 0.5 --storage fp16 --dynamic macs=75%"),
    "give --sparsity 0.5, or leave embeddings out": (f"net.onnx {DRY} --embeddings", f"net.onnx {DRY} --embeddings --sparsity 0.5"),
    "give --no-permute": (f"net.onnx {DRY} --rewind net.onnx --sparsity 2:4", f"net.onnx {DRY} --rewind net.onnx --sparsity 2:4 --no-permute"),
    "give these (--rewind": (
        f"net.onnx {DRY} --sparsity 0.5 --criterion movement", f"net.onnx {DRY} --sparsity 0.5 --criterion movement --rewind net.onnx"),
    "give params=30%, or leave it out": (f"net.onnx {DRY} --unstructured --target macs=50%", f"net.onnx {DRY} --unstructured --target params=50%"),
    "give --sparsity 2:4, or leave permute out": (f"net.onnx {DRY} --permute --sparsity 0.5", f"net.onnx {DRY} --permute --sparsity 2:4"),
    "which permute changes; leave one of them out": (
        f"net.onnx {DRY} --permute --sparsity 2:4 --recover-loss blocks", f"net.onnx {DRY} --sparsity 2:4 --recover-loss blocks"),
    "leave rotate or lossless out": (f"net.onnx {DRY} --rotate --lossless", f"net.onnx {DRY} --lossless"),
    "leave one of them out": (f"net.onnx {DATA} --schedule linear:2 --max-divergence 0.1", f"net.onnx {DRY} --schedule linear:2"),
    "lossless takes units out; leave granularity": (f"branch.onnx {DRY} --lossless --granularity block", f"branch.onnx {DRY} --granularity lossless,block"),
    "give a target, such as macs=50%": (f"branch.onnx {DRY} --granularity block,heads --ratio 0.5", f"branch.onnx {DRY} --granularity block,heads --target macs=90% --share block=100%"),
    "the run has no such kind of change; add": (f"branch.onnx {DRY} --granularity heads --share block=30%", f"branch.onnx {DRY} --granularity heads,block --share block=100%"),
    "takes all it finds and has no share; leave it out": (f"branch.onnx {DRY} --granularity lossless,block --share lossless=10%", f"branch.onnx {DRY} --granularity lossless,block"),
    "shares are of what is saved in all": (f"branch.onnx {DRY} --granularity block,heads --share block=130%", f"branch.onnx {DRY} --granularity block,heads --share block=100%"),
    "is judged on data; give calibration data (--calib), or say it": (f"branch.onnx {DRY} --granularity block,heads", f"branch.onnx {DRY} --granularity block,heads --share block=0%"),
    "has no jobs; add a table [jobs.NAME]": ("run --config none.toml", "run --config jobs.toml"),
    "two outputs, ": ("net.onnx a.onnx -o b.onnx --no-latency", "net.onnx -o b.onnx --no-latency --force"),
    "a model is written to a regular file (--dry-run writes none)": ("net.onnx /dev/null --force --no-latency", f"net.onnx {DRY}"),
    "delete it or choose another name": (f"net.onnx {DRY} --json x.npz", f"net.onnx {DRY} --json n.json"),
    ", not a regular file; choose another name": (
        f"net.onnx {DATA} --criterion l2 --recover 1 --checkpoint /dev/null", f"net.onnx {DATA} --criterion l2 --recover 1 --checkpoint f.npz"),
    "is no folder; choose another name": (f"net.onnx {DATA} --criterion obs --cache x.npy", f"net.onnx {DATA} --criterion obs --cache cache"),
    " are one file, ": (f"net.onnx {DRY} --json same.json --junit same.json", f"net.onnx {DRY} --json same.json --junit same.xml"),
    "delete it to start anew": (
        f"net.onnx {DATA} --criterion l2 --recover 1 --checkpoint broken.npz", f"net.onnx {DATA} --criterion l2 --recover 1 --checkpoint f.npz"),
    "is another network: tensor": (f"net.onnx {DRY} --rewind narrow.onnx", f"net.onnx {DRY} --rewind twin.onnx"),
    "ask for more, or prune widths": (
        f"net.onnx {DATA} --granularity eigen --ratio 0.01", f"net.onnx {DATA} --granularity eigen --ratio 0.9 && net.onnx {DRY} --ratio 0.5"),
    "can be written as factors; onnxprune inspect": (
        f"coded.onnx {DATA} --granularity eigen", f"inspect coded.onnx --granularity eigen && coded.onnx {DRY}"),
    "give one of them more than 0": (f"net.onnx {DATA} --output-weight y=0", f"net.onnx {DATA} --output-weight y[0]=0"),
    "give a number of at least 0": (f"net.onnx {DATA} --output-weight y=-1", f"net.onnx {DATA} --output-weight y=2"),
    ": give channels as": (f"net.onnx {DATA} --output-weight y[a:b]=2", f"net.onnx {DATA} --output-weight y[1:3]=2"),
    "; it has threshold": (f"net.onnx {DATA} --task multilabel:limit=1", f"net.onnx {DATA} --task multilabel:threshold=0.4"),
    ": give threshold as a number from 0 to 1": (f"net.onnx {DATA} --task multilabel:threshold=2", f"net.onnx {DATA} --task multilabel:threshold=0.4"),
    "; say it: --task": (
        f"net.onnx {DATA} --max-drop 99%", f"net.onnx {DATA} --task regression:tolerance=1 --max-drop 100%"),
    "labelled data, or data and a task": (f"net.onnx {DRY} --max-drop 99%", f"classes.onnx {DATA} --max-drop 100%"),
    "; --task says what the model is for": (f"net.onnx {DATA}", f"net.onnx {DATA} --task regression"),
    " is judged on data; give some": (f"net.onnx {DRY} --task regression", f"net.onnx {DATA} --task regression"),
    "give others to judge by (--eval)": (
        f"net.onnx {DATA} --min-cosine 0.1", f"net.onnx {DATA} --eval rows.npz --min-cosine 0.1"),
    "nothing was repaired, since no data decides; give --calib": (
        f"net.onnx --eval x.npz {DRY} --min-cosine 0.9999", f"net.onnx --eval x.npz {DATA} --ratio 0.1 --min-cosine 0.5"),
    "take a smaller --ratio or give more rows": (f"net.onnx {DATA} --ratio 0.5 --min-cosine 0.9999", "sweep net.onnx --calib x.npz --ratios 0.1 --max-drop 100% --task regression && "
        f"net.onnx {DATA} --ratio 0.1 --min-cosine 0.5"),
    "allow more by --max-drop": (
        "sweep net.onnx --calib x.npz --ratios 0.5 --max-drop 0% --task regression",
        "sweep net.onnx --calib x.npz --ratios 0.5 --max-drop 500% --task regression"),
    "nothing says that this model still works": (f"net.onnx {DRY}", f"net.onnx {DATA}"),
    "; nothing says that it still works: give --calib": (f"net.onnx {DRY}", f"net.onnx {DATA}"),
    "nothing says so: give --calib": (f"net.onnx {DRY}", f"net.onnx {DATA}"),
    "give calibration data (--calib)": (f"net.onnx {DRY} --repair least-squares", f"net.onnx {DATA} --repair least-squares --criterion l2"),
    "for devices and processes; choose another": (f"net.onnx {DATA} --criterion obs --cache /proc", f"net.onnx {DATA} --criterion obs --cache cache"),
    "give at least one of each": (f"record -o one --samples 0 -- {PROGRAM}", f"record -o one --samples 1 -- {PROGRAM}"),
    "add --force to replace it": (f"record -o again -- {PROGRAM}", f"record -o again --force -- {PROGRAM}"),
    "); choose another folder": (f"record -o pictures --force -- {PROGRAM}", f"record -o other --force -- {PROGRAM}"),
    "give the program as you start it, such as": ("record -o works -- no-such-program", f"record -o works -- {PROGRAM}"),
    "give the folder of this one: ": (
        f"net.onnx --calib recorded --criterion l2 {DRY}", f"net.onnx --calib recorded/net --criterion l2 {DRY}"),
    "; record this model": (f"two.onnx --calib recorded {DRY}", f"any.onnx --calib recorded/net --criterion l2 {DRY} --input-shape x:1,3,6,6"),
    "; record again": (f"net.onnx --calib damaged {DRY}", f"record -o damaged-not -- {PROGRAM} && net.onnx --calib damaged-not --criterion l2 {DRY}"),
    "--all shows them": ("inspect many.onnx", "inspect many.onnx --all"),
    "merge takes files of parts and -o alone": (f"stats merge s1.npz s2.npz -o w.npz {RANGES}", "stats merge s1.npz s2.npz -o w.npz"),
    "; name it with --calib": ("stats net.onnx --criterion apoz -o s.npz", f"stats net.onnx --calib rows.npz {RANGES} -o s.npz"),
    "to put parts together: onnxprune stats merge": (
        "stats s1.npz s2.npz --calib rows.npz -o w.npz", "stats merge s1.npz s2.npz -o w.npz"),
    "and this run gathers none; name the criterion": (
        f"net.onnx --calib rows.npz --stats s.npz {DRY}", f"net.onnx --calib rows.npz --stats s.npz {RANGES} {DRY}"),
    "write one with 'onnxprune stats'": (f"net.onnx --calib rows.npz --stats x.npz {RANGES} {DRY}", f"stats net.onnx --calib rows.npz {RANGES} -o s.npz"),
    "; gather the missing shards too": ("stats merge s1.npz -o w.npz", f"stats net.onnx --calib rows.npz {RANGES} --shard 2/2 -o s2.npz && stats merge s1.npz s2.npz -o w.npz"),
    "would be counted twice; leave one": ("stats merge s1.npz s2.npz s1.npz -o w.npz", "stats merge s1.npz s2.npz -o w.npz"),
    "this run decides by": (
        f"net.onnx --calib x.npz --stats s.npz {RANGES} {DRY}", f"net.onnx --calib rows.npz --stats s.npz {RANGES} {DRY}"),
    "; use the same, or gather it anew": (
        f"net.onnx --calib rows.npz --stats s.npz {RANGES} --seed 1 {DRY}", f"net.onnx --calib rows.npz --stats s.npz {RANGES} {DRY}"),
    "was gathered for another": (
        f"twin.onnx --calib rows.npz --stats s.npz {RANGES} {DRY}", f"stats twin.onnx --calib rows.npz {RANGES} -o t.npz && twin.onnx --calib rows.npz --stats t.npz {RANGES} {DRY}"),
    "gather all parts with the same options": ("stats merge s1.npz seeded.npz -o w.npz", "stats merge s1.npz s2.npz -o w.npz"),
    "merge all parts first (onnxprune stats merge": (
        f"net.onnx --calib rows.npz --stats s1.npz {RANGES} {DRY}", f"stats merge s1.npz s2.npz -o w.npz && net.onnx --calib rows.npz --stats w.npz {RANGES} {DRY}"),
    "was gathered from other rows than": (
        f"net.onnx --calib others.npz --stats s.npz {RANGES} {DRY}", f"net.onnx --calib rows.npz --stats s.npz {RANGES} {DRY}"),
    "give which part of how many": (f"stats net.onnx --calib rows.npz {RANGES} --shard 3/2 -o s.npz", f"stats net.onnx --calib rows.npz {RANGES} --shard 1/2 -o one.npz"),
    "name one that looks at data, such as": ("stats net.onnx --calib rows.npz -o s.npz", f"stats net.onnx --calib rows.npz {RANGES} -o s.npz"),
    "gate_weights moving is of trained gates; add": (f"net.onnx {DATA} --gate-weights moving --criterion l2", f"net.onnx {DATA} --gate-weights moving --criterion gates:l0 --gate-training 2"),
    "that repair {} would solve for; leave".format("bias"): (f"net.onnx {DATA} --criterion gates --gate-weights moving --repair bias", f"net.onnx {DATA} --criterion gates --repair bias --gate-training 2"),
    "there is nothing to merge; name": ("stats merge -o w.npz", "stats merge s1.npz s2.npz -o w.npz"),
    "e.g. processes:4 or dask://": (f"net.onnx {DRY} --spread 4", f"net.onnx {DRY} --spread processes:4"),
    "no scheduler answers at": (f"net.onnx {DATA} {RANGES} --spread dask://127.0.0.1:9", f"net.onnx {DATA} {RANGES}"),
}  # fmt: skip


@pytest.mark.parametrize("words", ERRORS)
def test_what_a_message_says_helps(words: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    wrong, right = ERRORS[words]
    refused = run(wrong)
    assert words in refused.output
    for command in right.split(" && "):
        done = run(command)
        assert done.exit_code == 0, (command, done.stderr)
        assert words not in done.output


# --- completeness ---------------------------------------------------------------------------------------------------

ADVICE = re.compile(
    r"(?<![\w-])--[a-z]{2}|pip install|'onnxprune |"
    r"[;:,.] (?:\w+ )?(?:try|leave|give|pass|drop|relax|create|choose|add|delete|prune|let|name|use|take|make|write|settle|look) "
)
EXPLAINED = {
    "has several inputs of floats; name one": "a model with two; tests/evidence/test_attacks.py",
    "cannot be changed a little; leave the attack out": "a model of tokens; tests/evidence/test_attacks.py",
    "attacked along it; leave such rows out": "gradients that are not finite; rows to leave out are followed where values are not finite",
    "chosen by {}, which it does not hold; give the masks": "followed by test_zeros_that_data_chose_need_the_masks_that_were_written",
    "so that there is nothing to gate": "a model of integers alone; other criteria say more of those",
    "would solve for; leave one of them out": "followed above, with the name of a repair",
    "whole when you prune (--exclude {!r})": "a stream that is rid of its mean; tests/framework/test_norms.py",
    "leave the axes that these norms are taken over whole": "a note beside a result; tests/framework/test_norms.py",
    "more tensors; --all lists them": "what an option shows, not what to do",
    "holds other data on {} than where the run began": "another machine; test_travel.py has the rule",
    "is another model on {} than where the run began": "another machine; test_travel.py has the rule",
    "were lost again and again": "workers that are killed again and again; test_cluster.py has one that is killed once",
    "has no worker; start some with": "a scheduler without workers is waited for a minute; test_cluster.py",
    "worker processes were killed {} times": "workers that are killed again and again; test_processes.py",
    "sends the data to other processes, and this cannot be sent": "for callers in Python; test_travel.py",
    "ranges found on data (--quantize int8) may be quicker": "what a machine takes is not for a test; test_quantise_commands.py has the rule",
    "or --min-width and --max-layer-ratio leave": "a note beside a result; test_experts.py",
    "are more than ONNX Runtime's quantiser takes": "weights of gigabytes are not written by a test; test_quantising.py lowers the limit",
    "or report it to ONNX Runtime with this message": "a failure of ONNX Runtime's quantiser; test_quantising.py makes one",
    "the plan quantises by ranges of data": "a plan without its data; test_quantising.py",
    "vocabulary is read from a file; give one": "for callers of the settings in Python, such as sensitivity",
    "of which vocabulary takes some; leave labels out": "for data of models that score tokens; test_vocabulary_cut.py",
    "the plan's vocabulary is a list": "a plan damaged by hand; test_vocabulary_cut.py",
    "the plan's tokens have no numbers": "a plan damaged by hand; test_vocabulary_cut.py",
    "takes the numbers it took; leave token_numbers out": "a model of which the head alone can be cut; test_vocabulary_forms.py",
    "the numbers of tokens as they come in; leave": "a model with bodies that read its input; test_vocabulary_forms.py",
    "other outputs under new numbers": "a result that is wrong; test_vocabulary_forms.py makes one",
    "cannot say: --scope layer takes as many": "a note beside a result; test_caches.py",
    "has no cache of several heads": "a model that has none; test_caches.py",
    "export it with these sizes, or give rows of it": "a cache of which the file says nothing; test_decoded.py",
    "give a part of the text": "a corpus of gigabytes is not written by a test",
    "a gate goes around nodes that run always": "a model with bodies; test_dynamic.py",
    "a gate needs Where, which opset": "a model of an old opset; test_dynamic.py",
    "a gate decides on whole samples": "a model that takes several samples at a time; test_dynamic.py",
    "a gate finds nothing to look at": "a model without floats by samples",
    "the plan teaches a gate": "a plan without its data; test_dynamic.py",
    "weights that can become zero; ask for less": "a model of few weights and many biases; test_zeros.py",
    "prune with --rewind again": "a plan of earlier weights; test_zeros.py",
    "--sparsity FILE.npz again": "a plan of masks; test_zeros.py",
    "no output changes by that (--no-permute": "what an option does, not what to do",
    "leaves zeros out of the file": "what an option does, not what to do",
    "cannot be judged: what is measured is": "a machine too noisy to measure on is not made by a test (test_latency.py has the rule)",
    "on a quieter machine": "a machine too noisy to measure on is not made by a test (test_latency.py has the rule)",
    "which are one row; say --audio-window": "a recording of hours is not written by a test",
    "reading text needs tokenizers": "followed by test_extras_named_in_messages_exist",
    "reading images needs pillow": "followed by test_extras_named_in_messages_exist",
    "needs {}; pip install": "followed by test_extras_named_in_messages_exist",
    "take its elements out before the model": "the file has to be exported anew (test_analysed_forms.py)",
    "where data is given, fewer --samples": "memory of a machine is not to be used up by a test",
    "a script that was given ended the run": "scripts are run where sys.exit is named (test_hostile_values.py)",
    "('onnxprune inspect' lists them)": "points to a command that tests of the command line run",
    "prune the file that this one was optimised from": "what the tool before it wrote; both forms are in test_interop.py",
    "needs {}; give calibration data with --calib": "for callers of the criteria; runs say it first, in other words",
    "an iterator that can be read only once": "for callers in Python, with more data than memory",
    "leaves sizes open: settle them": "for callers of random data in Python",
    "no random data for input": "for callers of random data in Python",
    "the calibration inputs are random": "for callers of random data in Python",
    "is being recorded into by another run": "two recordings at once; tests/recording/test_sessions.py",
    "--exclude {}": "lines to paste; test_documents.py reads them as the option does",
    "give fixed input shapes": "for callers of gradients in Python; test_grad.py",
    "name inputs, parameters or activations": "for callers of gradients in Python; test_grad.py",
    "ask for gradients of values after it": "for callers of gradients in Python; test_grad.py",
    "the sequence length depends on the inputs": "for callers of gradients in Python; test_grad.py",
    "give the model as a path": "for callers with a ModelProto in Python",
    "holds weights of the model that is written": "a race of two runs; test_paths.py",
    "; leave these rows out": "gradients of finite values; rows to leave out are followed where values are not finite",
    "nothing was trained: no step of the recovery": "rows are named where they can be; test_few_rows.py",
    " (--input-shape or --calib gives real sizes)": "followed by test_costs_are_those_of_real_rows",
    ". Give real inputs (--calib)": "followed below 'cannot be run on drawn inputs'",
    "read as --": "what a path is, not what to do",
    " of --calib, which decided": "what rows are, not what to do",
    "--repair {} looks at data": "the first half; the second is followed below 'give calibration data (--calib)'",
    "give one of them, above zero": "for callers of Recipe in Python; test_recover.py",
    "give a number of at least {}": "for callers of Recipe in Python; test_recover.py",
    "left alone by --include or --exclude": "what was asked for",
    "is out of reach: the fastest result measured": "names the best, advises nothing",
    "out of reach: {}; ask for less": "the reason names the best; for kinds of change without a choice of their own, test_toy_kind.py",
    "by any kind of change alone or with the others; ask for less": "a target that is reached by less is any other here",
    "{} {} does not go with {}; leave it out": "followed below, with the names of kinds",
    "target {} does not go with {}; give {}": "followed below, with the names of kinds",
    "is out of reach: the smallest result has": "names the best, advises nothing",
    ": give {} as {} from {} to {}": "followed below, with the name of an option",
    "; a run takes 1, --threads says more": "what a machine has; advises nothing",
    "; --round-to says otherwise": "what a machine has; advises nothing",
    "; --memory says what a run may take": "what a machine has; advises nothing",
    "--json {} exists; choose another name": "a checkout whose packages are broken; test_doctor.py",
    "'onnxprune doctor' tells which": "followed in test_doctor.py",
    "pip install {}'{}{}'": "packages are not installed by a test; test_doctor.py reads the line",
    "pip install 'onnxprune[{}]'": "packages are not installed by a test; test_doctor.py reads the line",
    "--force-reinstall ": "packages are not installed by a test; test_doctor.py reads the line",
    "; give data with --{}": "the other order of arguments; followed in test_foreseen.py",
    "is data, not a model; give it with --{}": "the other order of arguments; followed in test_foreseen.py",
    "give arrays (.npz), a folder of files, or what 'onnxprune record' keeps": "another kind of file; test_kinds.py",
    "'onnxprune MODEL --plan plan.json --dry-run' writes a plan": "followed in test_kinds.py",
    "write one with --json": "another kind of file; test_kinds.py",
    "'onnxprune stats' writes one": "another kind of file; test_kinds.py",
    "give the file inside it": "a folder; test_kinds.py",
    "give {} inside it": "a folder; test_kinds.py",
    "where the result would go; ": "the line that was meant, which test_foreseen.py reads",
    "--help-all' explains it": "points to help, which test_help.py reads",
    "--help-all' lists all": "points to help, which test_help.py reads",
    "{} more options: {} --help-all": "points to help, which test_help.py reads",
    "is missed: the result would have": "a guard behind the choice, which meets the target itself; test_proof.py",
}


@cache
def messages() -> list[tuple[str, str]]:
    """Return (place, text) of every string in the sources that advises something; expressions in it are ``{}``."""
    found = []
    for path in sorted([*(ROOT / "onnxprune").rglob("*.py"), *(ROOT / "cli").rglob("*.py")]):
        tree = ast.parse(path.read_text())
        nodes = list(ast.walk(tree))
        quiet = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}  # docstrings
        quiet |= {
            id(node.value)
            for node in nodes
            if isinstance(node, ast.keyword) and node.arg in ("help", "short_help", "epilog")
        }
        quiet |= {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in nodes:
            if id(node) in quiet or not isinstance(node, ast.JoinedStr | ast.Constant):
                continue
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in parts)
            if " " in text and ADVICE.search(text):
                found.append((f"{path.relative_to(ROOT)}:{node.lineno}", text))
    return found


def test_every_message_that_advises_is_followed_here() -> None:
    known = [*ERRORS, *EXPLAINED, *FOLLOWED, *UNFOLLOWED]
    missing = [(place, text) for place, text in messages() if not any(words in text for words in known)]
    assert missing == []
    spoken = [text for _, text in messages()]
    assert [words for words in EXPLAINED if not any(words in text for text in spoken)] == []


def test_extras_named_in_messages_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {match for _, text in messages() for match in re.findall(r"onnxprune\[(\w+)\]", text)}
    assert named == {"cluster", "images", "report", "text"}
    assert {"distributed", "loky"} <= {re.split(r"\W", package)[0] for package in extras["cluster"]}
    assert any(package.startswith("pillow") for package in extras["images"])
    assert any(package.startswith("tokenizers") for package in extras["text"])
    assert {"jinja2"} <= {re.split(r"\W", package)[0] for package in extras["report"]}


def test_the_line_that_sweep_prints_is_a_command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    printed = run("sweep net.onnx --ratios 0.25,0.5 --calib x.npz --criteria l1,l2 --max-drop 500%").stdout.splitlines()
    assert printed[-1].startswith("onnxprune prune net.onnx --calib x.npz ")
    assert run(f"{printed[-1].removeprefix('onnxprune ')} {DRY}").exit_code == 0
