"""Where text stands on pages (PP-OCRv4): F1 of its boxes at an overlap of one half."""

from pathlib import Path

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
        corners = [[[float(v) for v in point] for point in box] for box in boxes or []]
        found.append([["", [*map(min, zip(*box)), *map(max, zip(*box))]] for box in corners])
    return found


def score(wanted: list, found: list, truth: object) -> float:
    return box_f1(wanted, found)


if __name__ == "__main__":
    main(work)
