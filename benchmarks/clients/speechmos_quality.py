"""How good speech sounds (DNSMOS): correlation of the overall opinion score."""

from pathlib import Path

import numpy as np
from common import files, main, sound

PACKAGES = ("speechmos==0.0.1.1", "librosa", "requests", "tqdm", "pandas", "onnxruntime")
MODEL = "speechmos/dnsmos_models/sig_bak_ovr.onnx"
INPUTS = "speech"
FIGURE = "correlation of opinion scores"


def work(folder: Path) -> list:
    from speechmos import dnsmos

    return [float(dnsmos.run(sound(path) / np.float32(32768), 16000)["ovrl_mos"]) for path in files(folder, ".wav")]


def score(wanted: list, found: list, truth: object) -> float:
    return float(np.corrcoef(wanted, found)[0, 1])


if __name__ == "__main__":
    main(work)
