"""A reader of captchas (CNN and recurrence, CTC): the share read exactly, of those that have a truth."""

from pathlib import Path

from common import files, main

PACKAGES = ("ddddocr==1.6.1",)
MODEL = "ddddocr/common_old.onnx"
INPUTS = "captchas"
FIGURE = "captchas read exactly"
LABELLED = True


def work(folder: Path) -> list:
    import ddddocr

    client = ddddocr.DdddOcr(old=True, show_ad=False)
    return [client.classification(path.read_bytes()).upper() for path in files(folder, ".png")]


def score(wanted: list, found: list, truth: dict) -> float:
    return sum(a == b for a, b in zip(truth.values(), found, strict=True)) / len(truth)


if __name__ == "__main__":
    main(work)
