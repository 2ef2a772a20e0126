"""A YOLOv8n detector on photographs: F1 of its boxes, per class, at an overlap of one half."""

from pathlib import Path

from common import box_f1, files, main

PACKAGES = ("nudenet==3.4.2",)
MODEL = "nudenet/320n.onnx"
INPUTS = "photos"
FIGURE = "F1 of boxes"


def work(folder: Path) -> list:
    from nudenet import NudeDetector

    client = NudeDetector()
    found = [client.detect(str(path)) for path in files(folder, ".png")]
    return [[[d["class"], [x, y, x + w, y + h]] for d in page for x, y, w, h in [d["box"]]] for page in found]


def score(wanted: list, found: list, truth: object) -> float:
    return box_f1(wanted, found)


if __name__ == "__main__":
    main(work)
