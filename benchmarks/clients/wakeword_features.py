"""The network of speech features below all wake words: F1 of clips in which a wake word is heard."""

from pathlib import Path

from common import f1, files, main, sound

PACKAGES = ("openwakeword==0.4.0", "onnxruntime", "scipy", "tqdm", "requests", "scikit-learn")
NO_DEPENDENCIES = ("openwakeword==0.4.0",)
MODEL = "openwakeword/resources/models/embedding_model.onnx"
INPUTS = "wake"
FIGURE = "F1 of wake words heard"


def work(folder: Path) -> list:
    from openwakeword.model import Model

    client, found = Model(), []
    for path in files(folder, ".wav"):
        client.reset()
        frames = client.predict_clip(sound(path))
        found.append({name: max(float(frame[name]) for frame in frames) for name in frames[0]})
    return found


def score(wanted: list, found: list, truth: object) -> float:
    a, b = ({(i, name) for i, clip in enumerate(r) for name, v in clip.items() if v >= 0.5} for r in (wanted, found))
    return f1(len(a & b), len(a), len(b))


if __name__ == "__main__":
    main(work)
