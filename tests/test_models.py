"""The trained models in models/ are what digests.json and models/README.md say they are."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.external_data_helper import uses_external_data

FOLDER = Path(__file__).parents[1] / "models"
DIGESTS = json.loads((FOLDER / "digests.json").read_text())
MODELS = sorted(DIGESTS["models"])
SIZE_LIMIT = 6 * 2**20
BATCH_TOLERANCE = 1e-4  # float32 sums may be blocked differently at another batch size; logits are of order 10

REQUIRED_OPS = {
    "digits_cnn.onnx": {"Conv", "BatchNormalization", "Add", "Concat", "Sigmoid", "Mul", "Gemm"},
    "digits_transformer.onnx": {"MatMul", "Softmax", "LayerNormalization", "Erf", "Reshape", "Transpose", "Add"},
}


def load_npz(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / name, allow_pickle=False) as data:
        return dict(data)


def open_session(name: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(FOLDER / name, options, providers=["CPUExecutionProvider"])


def image_hashes(images: np.ndarray) -> list[str]:
    return [hashlib.sha256(image.tobytes()).hexdigest() for image in images]


def test_digests_list_every_binary_of_the_folder() -> None:
    present = {path.name for path in FOLDER.iterdir() if path.suffix in {".onnx", ".npz", ".data"}}
    assert present == set(DIGESTS["files"])
    assert set(MODELS) == set(REQUIRED_OPS)


@pytest.mark.parametrize("name", sorted(DIGESTS["files"]))
def test_file_matches_its_digest_and_the_readme(name: str) -> None:
    content = (FOLDER / name).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    assert DIGESTS["files"][name] == {"bytes": len(content), "sha256": digest}
    assert digest in (FOLDER / "README.md").read_text()


def test_folder_stays_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir() if path.is_file()) < SIZE_LIMIT


def test_data_is_ready_to_feed() -> None:
    calibration, test = load_npz("digits_calib.npz"), load_npz("digits_test.npz")
    assert set(calibration) == {"image"}
    assert set(test) == {"image", "labels"}
    for data, part in ((calibration, "calibration"), (test, "test")):
        image = data["image"]
        assert image.dtype == np.float32
        assert image.shape == (DIGESTS["splits"][part], 1, 8, 8)
        assert (image.min(), image.max()) == (0.0, 1.0)
    assert test["labels"].dtype == np.int64
    assert test["labels"].shape == (DIGESTS["splits"]["test"],)
    assert set(test["labels"]) == set(range(10))


def test_calibration_and_test_share_no_image() -> None:
    hashes = [
        digest for name in ("digits_calib.npz", "digits_test.npz") for digest in image_hashes(load_npz(name)["image"])
    ]
    assert len(set(hashes)) == len(hashes)


@pytest.mark.parametrize("name", MODELS)
def test_model_is_valid_self_contained_and_as_described(name: str) -> None:
    model = onnx.load(FOLDER / name, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert not any(uses_external_data(tensor) for tensor in model.graph.initializer)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", DIGESTS["models"][name]["opset"])]
    assert Counter(node.op_type for node in model.graph.node).keys() >= REQUIRED_OPS[name]
    (image,), (logits,) = model.graph.input, model.graph.output
    shapes = [[dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in (image, logits)]
    assert (image.name, logits.name) == ("image", "logits")
    assert shapes == [["batch", 1, 8, 8], ["batch", 10]]


@pytest.mark.parametrize("name", MODELS)
def test_accuracy_is_the_stated_one(name: str) -> None:
    test, stated = load_npz("digits_test.npz"), DIGESTS["models"][name]
    (logits,) = open_session(name).run(["logits"], {"image": test["image"]})
    hits = int((logits.argmax(axis=1) == test["labels"]).sum())
    assert hits == stated["test_correct"]
    assert hits / len(test["labels"]) == stated["test_accuracy"]


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("name", MODELS)
def test_rows_do_not_depend_on_the_batch(name: str, batch: int) -> None:
    session, images = open_session(name), load_npz("digits_test.npz")["image"][:28]
    (whole,) = session.run(["logits"], {"image": images})
    parts = [session.run(["logits"], {"image": images[i : i + batch]})[0] for i in range(0, len(images), batch)]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=0, atol=BATCH_TOLERANCE)


def test_cnn_keeps_batch_normalisation_apart_and_has_a_depthwise_convolution() -> None:
    graph = onnx.load(FOLDER / "digits_cnn.onnx").graph
    reader = {name: node.op_type for node in graph.node for name in node.input}
    weights = {tensor.name: tensor.dims for tensor in graph.initializer}
    convs = [node for node in graph.node if node.op_type == "Conv"]
    assert all(reader[conv.output[0]] == "BatchNormalization" for conv in convs if len(conv.input) == 2)
    groups = {conv.name: onnx.helper.get_node_attr_value(conv, "group") for conv in convs}
    depthwise = [conv for conv in convs if groups[conv.name] > 1]
    assert [(groups[conv.name], list(weights[conv.input[1]])) for conv in depthwise] == [(96, [96, 1, 3, 3])]
