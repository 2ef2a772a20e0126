"""A reader of captchas (CNN, LSTM, CTC): the share read exactly."""

from pathlib import Path

from common import files, main

PACKAGES = ("captcha-whisperer==0.1.0",)
MODEL = "captcha_whisperer/models/captcha_crnn.onnx"
INPUTS = "captchas"
FIGURE = "captchas read exactly"
LABELLED = True


def work(folder: Path) -> list:
    from captcha_whisperer import CaptchaRecognizer
    from captcha_whisperer.preprocess import preprocess_bytes

    client, paths = CaptchaRecognizer(), files(folder, ".png")
    found = [client.recognize_batch([preprocess_bytes(path.read_bytes())])[0] for path in paths]
    return [(item if isinstance(item, dict) else vars(item))["text"] for item in found]


def score(wanted: list, found: list, truth: dict) -> float:
    return sum(a == b for a, b in zip(truth.values(), found, strict=True)) / len(truth)


if __name__ == "__main__":
    main(work)
