"""Audio to notes (constant-Q transform and convolutions): F1 of notes, of one pitch and begun within 50 ms."""

from pathlib import Path

from common import f1, files, main

PACKAGES = ("basic-pitch==0.4.0", "librosa", "resampy", "pretty_midi", "mir_eval", "onnxruntime", "setuptools<80")
NO_DEPENDENCIES = ("basic-pitch==0.4.0",)  # it asks for TensorFlow
MODEL = "basic_pitch/saved_models/icassp_2022/nmp.onnx"
INPUTS = "music"
FIGURE = "F1 of notes"


def work(folder: Path) -> list:
    import basic_pitch
    from basic_pitch.inference import Model, predict

    client = Model(Path(basic_pitch.__file__).parent / "saved_models" / "icassp_2022" / "nmp.onnx")
    found = [predict(path, client)[2] for path in files(folder, ".wav")]
    return [[[float(begun), int(pitch)] for begun, _, pitch, *_ in notes] for notes in found]


def score(wanted: list, found: list, truth: object) -> float:
    right = 0
    for a, b in zip(wanted, found, strict=True):
        left = list(b)
        for begun, pitch in a:
            near = [other for other in left if other[1] == pitch and abs(other[0] - begun) <= 0.05]
            if near:
                left.remove(near[0])
                right += 1
    return f1(right, sum(map(len, wanted)), sum(map(len, found)))


if __name__ == "__main__":
    main(work)
