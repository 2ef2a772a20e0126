"""Which way up a page is: the share of pages whose turn is found."""

from pathlib import Path

from common import files, main

PACKAGES = ("occular-deskew==0.5.0",)
MODEL = "occular_deskew/weights/orientation_orinet_fp32.onnx"
INPUTS = "turned"
FIGURE = "pages whose turn is found"
LABELLED = True


def work(folder: Path) -> list:
    import numpy as np
    from occular_deskew.orient_onnx import OriNetOrientation
    from PIL import Image

    client = OriNetOrientation(prefer_gpu=False)
    return [client.orientation_deg(np.asarray(Image.open(path).convert("RGB")))[0] for path in files(folder, ".png")]


def score(wanted: list, found: list, truth: dict) -> float:
    return sum((a + b) % 360 == 0 for a, b in zip(truth.values(), found, strict=True)) / len(truth)


if __name__ == "__main__":
    main(work)
