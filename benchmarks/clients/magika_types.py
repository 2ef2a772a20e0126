"""The type of files (embedding of bytes, 1-D convolutions): the share of files with the same label."""

from pathlib import Path

from common import main, same

PACKAGES = ("magika==1.0.3",)
MODEL = "magika/models/standard_v3_3/model.onnx"
INPUTS = "files"
FIGURE = "files with the same label"


def work(folder: Path) -> list:
    from magika import Magika

    client = Magika()
    paths = (folder / "files.txt").read_text().splitlines()
    return [str(client.identify_path(path).dl.label) for path in paths]


def score(wanted: list, found: list, truth: object) -> float:
    return same(wanted, found)


if __name__ == "__main__":
    main(work)
