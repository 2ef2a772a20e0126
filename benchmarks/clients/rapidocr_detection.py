"""Where text stands on pages (PP-OCRv4): F1 of its boxes at an overlap of one half."""

from pathlib import Path

import numpy as np
from common import box_f1, files, main

PACKAGES = ("rapidocr-onnxruntime==1.4.4",)
MODEL = "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx"
INPUTS = "pages"
FIGURE = "F1 of boxes of text"


def work(folder: Path) -> list:
    from rapidocr_onnxruntime import RapidOCR

    client, found = RapidOCR(), []
    for path in files(folder, ".png"):
        boxes, _ = client(str(path), use_det=True, use_cls=False, use_rec=False)
        corners = [np.array(box, float) for box in boxes or []]
        found.append([["", [*box.min(0).tolist(), *box.max(0).tolist()]] for box in corners])
    return found


def score(wanted: list, found: list, truth: object) -> float:
    return box_f1(wanted, found)


if __name__ == "__main__":
    main(work)
