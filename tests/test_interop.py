"""Other tools take pruned files and compute the same; files that other tools made are pruned exactly (docs/interop.md)."""

from __future__ import annotations

import importlib.util
import logging
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto

import onnxprune

MODELS = Path(__file__).parents[1] / "models"
NAMES = ("digits_cnn", "digits_transformer")
CALIBRATION = MODELS / "digits_calib.npz"
IMAGES = np.load(MODELS / "digits_test.npz")["image"]
NORMS = {"LayerNormalization", "SkipLayerNormalization"}
"""Operators that become several where their stream is cut."""
NORM_PARTS = {*NORMS, "Pow", "ReduceMean", "Sub", "Mul", "Add", "Sqrt", "Div"}
FEW = 50  # images for runtimes that take one at a time

Compute = Callable[[np.ndarray], np.ndarray]


def loaded(model: str | Path | ModelProto) -> Compute:
    """Return what ONNX Runtime computes: images -> logits."""
    source = model.SerializeToString() if isinstance(model, ModelProto) else str(model)
    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    assert [value.name for value in (*session.get_inputs(), *session.get_outputs())] == ["image", "logits"]
    return lambda images: session.run(["logits"], {"image": images})[0]


@pytest.fixture(scope="module", params=NAMES)
def pruned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The half of a bundled model whose surviving weights are repaired, as a file."""
    path = tmp_path_factory.mktemp("pruned") / f"{request.param}.onnx"
    onnxprune.prune(MODELS / path.name, ratio=0.5, criterion="l2", calibration=CALIBRATION, output=path, latency=False)
    return path


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Keep what the tools set about logging to their tests."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


# --- the file itself ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_all_but_the_widths_is_as_it_was(name: str, tmp_path: Path) -> None:
    """Inputs, outputs, versions, metadata of model and nodes, names, operators and their order."""
    original = onnx.load(MODELS / f"{name}.onnx")
    original.doc_string, original.domain, original.model_version = "for the door camera", "org.example", 7
    original.metadata_props.add(key="classes", value="0,1,2,3,4,5,6,7,8,9")
    onnx.save(original, tmp_path / "original.onnx")
    onnxprune.prune(tmp_path / "original.onnx", ratio=0.5, latency=False, output=tmp_path / "small.onnx")
    small = onnx.load(tmp_path / "small.onnx")
    for field in ("ir_version", "opset_import", "producer_name", "doc_string", "domain", "model_version"):
        assert getattr(small, field) == getattr(original, field)
    assert (small.graph.name, small.graph.input, small.graph.output) == (
        original.graph.name,
        original.graph.input,
        original.graph.output,
    )
    metadata = {entry.key: entry.value for entry in small.metadata_props}
    assert metadata.pop("classes") == "0,1,2,3,4,5,6,7,8,9"
    assert {key.partition(".")[0] for key in metadata} == {"onnxprune"}
    kept = [node for node in small.graph.node if "_pruned" not in node.name]
    assert [_identity(node) for node in kept] == [
        _identity(node) for node in original.graph.node if node.op_type not in NORMS
    ]
    assert (len(kept) == len(small.graph.node)) == (name == "digits_cnn"), (
        "norms of a stream that is cut are spelled out"
    )
    rewritten = {tensor.name for tensor in small.graph.initializer} - {t.name for t in original.graph.initializer}
    assert all("_pruned" in tensor for tensor in rewritten)
    assert len(small.SerializeToString()) < 0.7 * len(original.SerializeToString())


def _identity(node: onnx.NodeProto) -> tuple:
    entries = tuple((entry.key, entry.value) for entry in node.metadata_props)
    return node.name, node.op_type, node.domain, node.doc_string, tuple(node.output), entries


# --- what other tools make of it ------------------------------------------------------------------------------------


def onnxslim(source: Path, folder: Path) -> Compute:
    slim = pytest.importorskip("onnxslim").slim(onnx.load(source))
    assert len(slim.graph.node) <= len(onnx.load(source).graph.node)
    return loaded(slim)


def onnxsim(source: Path, folder: Path) -> Compute:
    simple, equal = pytest.importorskip("onnxsim").simplify(onnx.load(source))
    assert equal
    return loaded(simple)


def ort_format(source: Path, folder: Path) -> Compute:
    from onnxruntime.tools.convert_onnx_models_to_ort import OptimizationStyle, convert_onnx_models_to_ort

    convert_onnx_models_to_ort(source, output_dir=folder, optimization_styles=[OptimizationStyle.Fixed])
    return loaded(folder / f"{source.stem}.ort")


def fused(source: Path, folder: Path) -> Compute:
    """Fuse with the transformers optimizer of ONNX Runtime; its levels above 0, which need torch, are those of sessions."""
    pytest.importorskip("sympy")
    from onnxruntime.transformers import optimizer

    found = optimizer.optimize_model(str(source), model_type="bert", num_heads=0, hidden_size=0, opt_level=0)
    found.save_model_to_file(str(folder / "fused.onnx"))
    if source.stem == "digits_transformer":
        assert "BiasGelu" in operators(folder / "fused.onnx")
    return loaded(folder / "fused.onnx")


def openvino(source: Path, folder: Path) -> Compute:
    tool = pytest.importorskip("openvino")
    compiled = tool.compile_model(tool.convert_model(source), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert [port.any_name for port in (*compiled.inputs, *compiled.outputs)] == ["image", "logits"]
    return lambda images: compiled(images)["logits"]


def ncnn(source: Path, folder: Path) -> Compute:
    """Convert with pnnx, run with ncnn; it computes the transformer's mean over tokens wrongly, unpruned as pruned."""
    tool, converter = pytest.importorskip("ncnn"), importlib.util.find_spec("pnnx")
    if converter is None or source.stem == "digits_transformer":
        pytest.skip("pnnx is not installed" if converter is None else "ncnn cannot run the original either")
    (folder / "model.onnx").write_bytes(source.read_bytes())
    program = Path(str(converter.origin)).with_name("pnnx")
    subprocess.run([program, "model.onnx", "inputshape=[1,1,8,8]"], cwd=folder, check=True, capture_output=True)
    net = tool.Net()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    assert net.load_param(str(folder / "model.ncnn.param")) == net.load_model(str(folder / "model.ncnn.bin")) == 0

    def one(image: np.ndarray) -> np.ndarray:
        extractor = net.create_extractor()
        extractor.input("in0", tool.Mat(image).clone())
        return np.array(extractor.extract("out0")[1])

    return lambda images: np.stack([one(image) for image in images[:FEW]])


def tflite(source: Path, folder: Path) -> Compute:
    """Convert with onnx2tf, run with TensorFlow Lite; it cannot convert the CNN, unpruned as pruned."""
    tool = pytest.importorskip("onnx2tf")
    if source.stem == "digits_cnn":
        pytest.skip("onnx2tf cannot convert the original either")
    tool.convert(
        input_onnx_file_path=str(source),
        output_folder_path=str(folder),
        batch_size=1,
        non_verbose=True,
        verbosity="error",
    )
    import tensorflow

    network = tensorflow.lite.Interpreter(str(folder / f"{source.stem}_float32.tflite"))
    network.allocate_tensors()
    image, logits = network.get_input_details()[0]["index"], network.get_output_details()[0]["index"]

    def one(pixels: np.ndarray) -> np.ndarray:
        network.set_tensor(image, pixels.transpose(1, 2, 0)[None])
        network.invoke()
        return network.get_tensor(logits)[0]

    return lambda images: np.stack([one(pixels) for pixels in images[:FEW]])


SAME: dict[Callable[[Path, Path], Compute], float] = {
    onnxslim: 1e-5,
    onnxsim: 1e-5,
    ort_format: 1e-5,
    fused: 1e-5,
    openvino: 1e-5,
    ncnn: 2e-3,  # Winograd convolutions
    tflite: 1e-5,
}
"""Tool -> the largest difference, as a share of the largest output."""


@pytest.mark.parametrize("tool", SAME, ids=lambda tool: tool.__name__)
def test_converted_it_computes_the_same(pruned: Path, tool: Callable, tmp_path: Path) -> None:
    found, expected = tool(pruned, tmp_path)(IMAGES), loaded(pruned)(IMAGES)
    difference = np.abs(found - expected[: len(found)]).max() / np.abs(expected).max()
    print(f"{pruned.stem} through {tool.__name__}: {difference:.1e} of the largest output, {len(found)} images")
    assert len(found) >= FEW and difference <= SAME[tool]


@pytest.mark.parametrize("kind", ["dynamic", "QDQ", "QDQ per channel", "QOperator"])
def test_quantised_it_keeps_the_classes(pruned: Path, kind: str, tmp_path: Path) -> None:
    small = quantised(pruned, tmp_path, kind)
    same = loaded(small)(IMAGES).argmax(1) == loaded(pruned)(IMAGES).argmax(1)
    print(f"{pruned.stem} quantised {kind}: {same.mean():.2%} same class, {small.stat().st_size:,} bytes")
    assert same.mean() >= 0.97
    assert small.stat().st_size < pruned.stat().st_size


def quantised(source: Path, folder: Path, kind: str) -> Path:
    """Quantise a model as ONNX Runtime's guide says: prepared first, calibrated where activations are static."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(np.array_split(np.load(CALIBRATION)["image"], 6))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"image": batch}

    prepared, result = str(folder / "prepared.onnx"), folder / "quantised.onnx"
    if kind == "dynamic":
        pytest.importorskip("sympy")
    quant_pre_process(str(source), prepared, skip_symbolic_shape=kind != "dynamic")
    if kind == "dynamic":
        quantize_dynamic(prepared, result)
    else:
        layout = QuantFormat.QOperator if kind == "QOperator" else QuantFormat.QDQ
        quantize_static(prepared, result, Reader(), quant_format=layout, per_channel="channel" in kind)
    return result


def operators(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


# --- what other tools made, pruned ----------------------------------------------------------------------------------


def slimmed(source: Path, folder: Path) -> Path:
    onnx.save(pytest.importorskip("onnxslim").slim(onnx.load(source)), folder / "slim.onnx")
    return folder / "slim.onnx"


def simplified(source: Path, folder: Path) -> Path:
    onnx.save(pytest.importorskip("onnxsim").simplify(onnx.load(source))[0], folder / "simple.onnx")
    return folder / "simple.onnx"


def qdq(source: Path, folder: Path) -> Path:
    return quantised(source, folder, "QDQ")


def qdq_per_channel(source: Path, folder: Path) -> Path:
    return quantised(source, folder, "QDQ per channel")


def qoperator(source: Path, folder: Path) -> Path:
    return quantised(source, folder, "QOperator")


def dynamic(source: Path, folder: Path) -> Path:
    return quantised(source, folder, "dynamic")


def optimised(source: Path, folder: Path) -> Path:
    fused(source, folder)
    return folder / "fused.onnx"


def extended(source: Path, folder: Path) -> Path:
    """Save what ONNX Runtime runs; layouts of this processor, which the level above adds, no tool could cut."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "extended.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    return folder / "extended.onnx"


MADE: dict[Callable[[Path, Path], Path], dict[str, set[str]]] = {
    slimmed: {name: set() for name in NAMES},
    simplified: {name: set() for name in NAMES},
    qdq: {name: {"QuantizeLinear", "DequantizeLinear"} for name in NAMES},
    qdq_per_channel: {name: {"QuantizeLinear", "DequantizeLinear"} for name in NAMES},
    qoperator: {"digits_cnn": {"QLinearConv", "QLinearAdd"}, "digits_transformer": {"QLinearMatMul", "QLinearSoftmax"}},
    dynamic: {"digits_cnn": {"ConvInteger"}, "digits_transformer": {"MatMulInteger"}},
    optimised: {"digits_cnn": set(), "digits_transformer": {"BiasGelu", "SkipLayerNormalization"}},
    extended: {"digits_cnn": {"FusedConv"}, "digits_transformer": {"FusedMatMul", "SkipLayerNormalization"}},
}
"""Tool -> model -> operators that it is sure to have put in."""


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tool", MADE, ids=lambda tool: tool.__name__)
def test_what_a_tool_made_is_pruned_exactly(tool: Callable, name: str, tmp_path: Path) -> None:
    source = tool(MODELS / f"{name}.onnx", tmp_path)
    assert MADE[tool][name] <= operators(source)
    result = onnxprune.prune(source, ratio=0.5, round_to=1, latency=False, output=tmp_path / "small.onnx")
    before, after = (result.report[when]["parameters"] for when in ("before", "after"))
    print(
        f"{name} {tool.__name__}: error {result.report['surgery']['max_relative_error']:.1e}, {after / before - 1:.1%}"
    )
    assert result.report["surgery"]["exact"] and not result.report["surgery"]["frozen_by_check"]
    assert after < 0.6 * before
    assert operators(tmp_path / "small.onnx") - NORM_PARTS == operators(source) - NORM_PARTS
    assert np.isfinite(loaded(tmp_path / "small.onnx")(IMAGES)).all()
