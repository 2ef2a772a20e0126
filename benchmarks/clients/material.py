"""Inputs for the clients, disjoint for recording (``calib``) and for judging (``eval``): python material.py FOLDER PHOTOS.

PHOTOS: a folder with the photographs of photos.py. Speech needs espeak-ng; captchas need the package ``captcha``. Everything is drawn
with fixed seeds. ``truth.json`` beside the files has the labels where there are any.
"""

from __future__ import annotations

import ast
import json
import random
import string
import subprocess
import sys
import sysconfig
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PARTS = {"calib": 0, "eval": 1}
FONTS = sorted(Path("/usr/share/fonts/truetype/dejavu").glob("*.ttf"))
RATE = 16000


def sentences() -> dict[str, list[str]]:
    """Return sentences from docstrings of the standard library, by a hash of their module's name parted in two."""
    found: dict[str, list[str]] = {part: [] for part in PARTS}
    for number, path in enumerate(sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))):
        tree = ast.parse(path.read_text(errors="replace"))
        texts = [
            ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.Module)
        ]
        for text in texts:
            line = " ".join(text.split("\n\n")[0].split())
            if 30 < len(line) < 160 and line.isascii():
                found["eval" if number % 3 == 0 else "calib"].append(line)
    for part in found:
        random.Random(part).shuffle(found[part])
    return found


# --- pictures -------------------------------------------------------------------------------------------------------


def crops(photos: list[Path], count: int, seed: int) -> list[Image.Image]:
    """Return crops of photographs: a third to all of each side, mirrored by half, brighter and darker."""
    draw, found = random.Random(seed), []
    for number in range(count):
        with Image.open(photos[number % len(photos)]) as opened:
            picture = opened.convert("RGB")
        share = draw.uniform(0.35, 1)
        width, height = max(48, int(picture.width * share)), max(48, int(picture.height * share))
        left, top = (draw.randint(0, max(0, a - b)) for a, b in ((picture.width, width), (picture.height, height)))
        cut = picture.crop((left, top, left + width, top + height))
        if draw.random() < 0.5:
            cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        light = draw.uniform(0.75, 1.2)
        found.append(cut.point([min(255, int(value * light)) for value in range(256)] * 3))
    return found


def make_photos(folder: Path, part: str, photos: Path) -> None:
    for number, picture in enumerate(
        crops(sorted((photos / part).glob("*.png")), 160 if part == "calib" else 80, PARTS[part])
    ):
        picture.save(folder / f"{number:04}.png")


def page(lines: list[str], draw: random.Random, size: tuple[int, int]) -> Image.Image:
    """Return a printed page: lines of one font and size on paper with a little noise."""
    paper = draw.randint(215, 255)
    picture = Image.new("RGB", size, (paper, paper, draw.randint(200, paper)))
    canvas, font = ImageDraw.Draw(picture), ImageFont.truetype(str(draw.choice(FONTS)), draw.randint(16, 26))
    top = draw.randint(10, 40)
    for line in lines:
        canvas.text(
            (draw.randint(10, 40), top), line[: draw.randint(24, 44)], fill=(draw.randint(0, 80),) * 3, font=font
        )
        top += font.size + draw.randint(8, 30)
        if top > size[1] - 40:
            break
    noise = np.random.default_rng(draw.randint(0, 1 << 30)).normal(0, draw.uniform(0, 8), (size[1], size[0], 3))
    return Image.fromarray((np.asarray(picture) + noise).clip(0, 255).astype(np.uint8))


def make_pages(folder: Path, part: str, photos: Path) -> None:
    """Pages upright; every second has the crop of a photograph on it."""
    draw, texts = random.Random(part), sentences()[part]
    pictures = crops(sorted((photos / part).glob("*.png")), 40, 5 + PARTS[part])
    for number in range(60 if part == "calib" else 30):
        made = page(draw.sample(texts, 12), draw, (draw.choice([480, 640, 800]), draw.choice([480, 640])))
        if number % 2:
            made.paste(draw.choice(pictures).resize((160, 120)), (made.width - 170, made.height - 130))
        made.save(folder / f"{number:04}.png", compress_level=1)


def make_turned(folder: Path, part: str, photos: Path) -> None:
    """Pages turned by 0, 90, 180 or 270 degrees; the truth is the turn."""
    draw, texts, truth = random.Random(f"turned {part}"), sentences()[part], {}
    for number in range(120 if part == "calib" else 80):
        turn = draw.choice([0, 90, 180, 270])
        page(draw.sample(texts, 12), draw, (480, 640)).rotate(turn, expand=True).save(
            folder / f"{number:04}.png", compress_level=1
        )
        truth[f"{number:04}.png"] = turn
    (folder / "truth.json").write_text(json.dumps(truth))


def make_captchas(folder: Path, part: str, photos: Path) -> None:
    """Captchas of the package ``captcha``, 160 x 60, four digits and capitals; the truth is the text."""
    from captcha.image import ImageCaptcha

    random.seed(10 + PARTS[part])
    make, truth = ImageCaptcha(160, 60), {}
    for number in range(400 if part == "calib" else 200):
        text = "".join(random.choices(string.digits + string.ascii_uppercase, k=4))
        make.generate_image(text).save(folder / f"{number:04}.png")
        truth[f"{number:04}.png"] = text
    (folder / "truth.json").write_text(json.dumps(truth))


# --- sound ----------------------------------------------------------------------------------------------------------


def spoken(text: str, draw: random.Random) -> np.ndarray:
    """Return speech, float64[samples] at 16 kHz, by one of several voices of espeak-ng."""
    voice = (
        f"{draw.choice(['en-us', 'en-gb', 'en-gb-scotland', 'de', 'es'])}+{draw.choice(['m1', 'm3', 'f2', 'f4', 'm7'])}"
    )
    command = [
        "espeak-ng",
        "-v",
        voice,
        "-s",
        str(draw.randint(120, 200)),
        "-p",
        str(draw.randint(30, 70)),
        "--stdout",
        text,
    ]
    content = subprocess.run(command, capture_output=True, check=True).stdout
    sound, rate = np.frombuffer(content[44:], np.int16).astype(float), 22050
    places = np.arange(0, len(sound) - 1, rate / RATE)
    return np.interp(places, np.arange(len(sound)), sound) / 32768


def write_sound(path: Path, sound: np.ndarray) -> None:
    with wave.open(str(path), "wb") as stream:
        stream.setnchannels(1)
        stream.setsampwidth(2)
        stream.setframerate(RATE)
        stream.writeframes((sound.clip(-1, 1) * 32767).astype(np.int16).tobytes())


def in_noise(sound: np.ndarray, draw: random.Random) -> np.ndarray:
    """Return sound between pauses, louder or softer, in noise of a random level."""
    quiet = [np.zeros(int(RATE * draw.uniform(0.3, 1.2))) for _ in range(2)]
    whole = np.concatenate([quiet[0], sound * draw.uniform(0.2, 1.2), quiet[1]])
    return whole + np.random.default_rng(draw.randint(0, 1 << 30)).normal(0, 10 ** draw.uniform(-4, -1.7), len(whole))


def make_speech(folder: Path, part: str, photos: Path) -> None:
    draw, texts = random.Random(f"speech {part}"), sentences()[part]
    for number in range(30 if part == "calib" else 16):
        write_sound(folder / f"{number:04}.wav", in_noise(spoken(texts[number], draw), draw))


def make_wake(folder: Path, part: str, photos: Path) -> None:
    """Speech, two of three times with a wake word in front; the truth is the word."""
    draw, texts, truth = random.Random(f"wake {part}"), sentences()[part], {}
    words = {
        "alexa": "alexa",
        "hey_mycroft": "hey mycroft",
        "hey_jarvis": "hey jarvis",
        "timer": "set a timer for ten minutes",
    }
    for number in range(50 if part == "calib" else 40):
        word = draw.choice([*words, *words, "", ""])
        text = f"{words[word]}. {texts[number][:40]}" if word else texts[number][:60]
        write_sound(folder / f"{number:04}.wav", in_noise(spoken(text, draw), draw))
        truth[f"{number:04}.wav"] = word
    (folder / "truth.json").write_text(json.dumps(truth))


def note(pitch: int, seconds: float, draw: random.Random) -> np.ndarray:
    """Return a plucked or bowed note: harmonics that fall, an onset, a decay, a little vibrato."""
    time = np.arange(int(seconds * RATE)) / RATE
    base, fall = 440 * 2 ** ((pitch - 69) / 12), draw.uniform(0.3, 0.8)
    phase = 2 * np.pi * base * (time + draw.choice([0, 3e-5]) * np.sin(2 * np.pi * 5 * time))
    tone = sum(fall**k * np.sin((k + 1) * phase) for k in range(8) if base * (k + 1) < RATE / 2)
    return np.asarray(tone * np.minimum(time / draw.uniform(0.005, 0.05), 1) * np.exp(-time * draw.uniform(0.5, 5)))


def make_music(folder: Path, part: str, photos: Path) -> None:
    """Melodies with chords, 16 seconds each."""
    draw = random.Random(f"music {part}")
    for number in range(10 if part == "calib" else 6):
        sound, at, scale = np.zeros(16 * RATE), 0.2, draw.choice([[0, 2, 4, 5, 7, 9, 11], [0, 2, 3, 5, 7, 8, 10]])
        root = draw.randint(40, 60)
        while at < 15:
            long = draw.choice([0.25, 0.5, 0.5, 1.0])
            for pitch in {
                root + draw.choice(scale) + 12 * draw.randint(0, 2) for _ in range(draw.choice([1, 1, 2, 3]))
            }:
                one = note(pitch, min(long * 1.2, 15.9 - at), draw)
                sound[int(at * RATE) : int(at * RATE) + len(one)] += one * draw.uniform(0.05, 0.2)
            at += long
        noise = np.random.default_rng(number).normal(0, 10 ** draw.uniform(-5, -2.5), len(sound))
        write_sound(folder / f"{number:04}.wav", sound + noise)


# --- files ----------------------------------------------------------------------------------------------------------


def make_files(folder: Path, part: str, photos: Path) -> None:
    """A list of files of this machine, at most 60 of a suffix; halves by the name of their folder."""
    draw, by_suffix = random.Random("files"), {}
    places = (
        Path(sysconfig.get_paths()["stdlib"]),
        Path("/usr/share"),
        Path("/usr/lib"),
        Path("/etc"),
        Path("/usr/bin"),
    )
    for path in sorted(p for place in places for p in place.rglob("*") if p.is_file() and not p.is_symlink()):
        if (sum(map(ord, str(path.parent))) % 2 == 0) == (part == "calib") and 64 < path.stat().st_size < 1 << 22:
            by_suffix.setdefault(path.suffix, []).append(path)
    found = [p for paths in by_suffix.values() for p in draw.sample(paths, min(60, len(paths)))]
    draw.shuffle(found)
    (folder / "files.txt").write_text("\n".join(map(str, found[:800])))


KINDS: dict[str, Callable[[Path, str, Path], None]] = {
    "photos": make_photos,
    "pages": make_pages,
    "turned": make_turned,
    "captchas": make_captchas,
    "speech": make_speech,
    "wake": make_wake,
    "music": make_music,
    "files": make_files,
}


def main(folder: Path, photos: Path) -> None:
    for kind, make in KINDS.items():
        for part in PARTS:
            place = folder / kind / part
            if not place.exists():
                place.mkdir(parents=True)
                make(place, part, photos)
                print(kind, part, len(list(place.iterdir())))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
