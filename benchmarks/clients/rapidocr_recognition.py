"""What the lines of pages say (PP-OCRv4): the share of lines that are read as the original reads them."""

from pathlib import Path

from common import files, main, same

PACKAGES = ("rapidocr-onnxruntime==1.4.4",)
MODEL = "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"
INPUTS = "pages"
FIGURE = "lines read the same"


def work(folder: Path) -> list:
    from rapidocr_onnxruntime import RapidOCR

    client = RapidOCR(text_score=0.0)
    pages = [client(str(path), use_cls=False)[0] or [] for path in files(folder, ".png")]
    return [text for page in pages for _, text, _ in page]


def score(wanted: list, found: list, truth: object) -> float:
    return same(wanted, found)


if __name__ == "__main__":
    main(work)
