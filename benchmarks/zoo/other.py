"""Export networks of other frameworks (TensorFlow through tf2onnx, scikit-learn through skl2onnx) into the same folder.

Each framework is skipped, with the reason, where it is not installed.
"""

import argparse
import importlib.util
import json
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ |= {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
sys.path.insert(0, str(Path(__file__).parent))

Export = Callable[[], Any]

TENSORFLOW: list[tuple[str, int, int | None, dict[str, Any]]] = [
    ("MobileNetV2", 15, None, {"alpha": 0.35}),
    ("MobileNet", 11, 1, {"alpha": 0.25}),
    ("MobileNetV3Small", 13, 1, {}),
    ("EfficientNetB0", 17, 1, {}),
    ("EfficientNetV2B0", 15, 1, {}),
    ("DenseNet121", 13, None, {}),
    ("ResNet50V2", 15, 1, {}),
    ("NASNetMobile", 15, 1, {}),
    ("unet", 15, None, {}),
    ("flatten_dense", 11, None, {}),
    ("attention", 15, None, {}),
    ("signal", 15, 1, {}),
    ("recurrent", 15, 1, {}),
    ("recurrent_gru", 13, 1, {"cell": "GRU"}),
]


def _tensorflow(target: str, opset: int, batch: int | None, options: dict[str, Any]) -> Any:
    import tensorflow as tf
    import tf2onnx
    from nets.channels_last import build

    model = build(target.removesuffix("_gru"), zlib.crc32(target.encode()), **options)
    signature = [tf.TensorSpec([batch, *model.input_shape[1:]], tf.float32, name="image")]
    function = tf.function(lambda image: model(image, training=False))
    return tf2onnx.convert.from_function(function, signature, opset=opset)[0]


def _scikit(kind: str, opset: int) -> Any:
    import numpy as np
    from skl2onnx import to_onnx
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    random = np.random.default_rng(7)
    data = random.normal(size=(200, 20)).astype(np.float32)
    target = data[:, 0] * data[:, 1] + data[:, 2]
    model = {
        "regressor": make_pipeline(
            StandardScaler(), MLPRegressor(hidden_layer_sizes=(64, 32), max_iter=20, random_state=7)
        ),
        "classifier": MLPClassifier((64, 32), activation="tanh", max_iter=20, random_state=7),
    }[kind]
    model.fit(data, target if kind == "regressor" else (target > 0).astype(np.int64))
    return to_onnx(model, data[:1], target_opset={"": opset, "ai.onnx.ml": 3})


def _magnitude(content: bytes) -> float:
    """Largest magnitude of the outputs for one normal random input; free dimensions are 2."""
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    spec = session.get_inputs()[0]
    shape = [size if isinstance(size, int) else 2 for size in spec.shape]
    feeds = {spec.name: np.random.default_rng(7).normal(size=shape).astype(np.float32)}
    results = [value for value in session.run(None, feeds) if isinstance(value, np.ndarray)]
    return max(float(np.abs(value).max()) for value in results)


def exports() -> Iterator[tuple[str, str, int, Export]]:
    """Name, exporter, opset and export function of every model whose framework is installed."""
    if importlib.util.find_spec("tf2onnx") and importlib.util.find_spec("tensorflow"):
        for target, opset, batch, options in TENSORFLOW:
            yield (
                f"tf-{target.lower()}",
                "tf2onnx",
                opset,
                lambda row=(target, opset, batch, options): _tensorflow(*row),
            )
    else:
        print("tensorflow or tf2onnx is not installed: its models are skipped")
    if importlib.util.find_spec("skl2onnx"):
        for kind, opset in (("regressor", 13), ("classifier", 15)):
            yield f"sklearn-mlp-{kind}", "skl2onnx", opset, lambda row=(kind, opset): _scikit(*row)
    else:
        print("skl2onnx is not installed: its models are skipped")


def main() -> int:
    """Export what is not there yet; return 1 if something failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    failures = 0
    for name, exporter, opset, export in exports():
        path, started = folder / f"{name}.onnx", time.perf_counter()
        if path.exists():
            continue
        line: dict[str, Any] = {
            "name": name,
            "family": exporter,
            "exporter": exporter,
            "opset": opset,
            "file": path.name,
        }
        try:
            content = export().SerializeToString()
            line["magnitude"] = _magnitude(content)
            path.write_bytes(content)
        except Exception as error:
            line["error"] = f"{type(error).__name__}: {error}"[:600]
            failures += 1
        line["seconds"] = round(time.perf_counter() - started, 1)
        print(f"{name:32} {line['seconds']:6.1f} s  {line.get('error', 'ok')}", flush=True)
        with (folder / "manifest.jsonl").open("a") as manifest:
            print(json.dumps(line), file=manifest)
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
