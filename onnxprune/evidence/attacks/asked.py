"""How inputs are to be attacked, as text: ``pgd:8/255,norm=l2,steps=20,range=-1:1``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import isfinite

from onnxprune.errors import UsageError
from onnxprune.registry import near_names

FGSM, PGD = METHODS = ("fgsm", "pgd")
LINF, L2 = NORMS = ("linf", "l2")
STEPS = 10
LARGEST = {LINF: 1.0, L2: 1e6}
FORM = "give the method and the size, such as pgd:8/255 or fgsm:0.01, then options such as norm=l2, steps=20, range=-1:1, input=NAME"
Extent = tuple[float, float]


@dataclass(frozen=True)
class Attack:
    """``size``: the radius of the ball around every row, as a share of the range of its values (l2: the length of such shares).

    ``ranges``: least and largest value of the input, one for all its channels or one for each; (): as the data tells.
    ``input``: the name of the input ("": the only one of floats).
    """

    method: str
    size: float
    norm: str = LINF
    steps: int = STEPS
    ranges: tuple[Extent, ...] = ()
    input: str = ""

    @property
    def step(self) -> float:
        """How far one step goes: all of them 2.5 times as far as the radius (Madry et al. 2018, appendix B, has as much)."""
        return self.size if self.method == FGSM else 2.5 * self.size / self.steps

    def to_json(self) -> dict[str, object]:
        return {"method": self.method, "size": self.size, "norm": self.norm, "steps": self.steps}


def parse_attack(text: str) -> Attack:
    """Read the form above; raises UsageError."""
    head, *rest = (part.strip() for part in text.split(","))
    method, _, size = head.partition(":")
    if method not in METHODS:
        hint = near_names(method, list(METHODS)) or f"; known: {', '.join(METHODS)}"
        raise UsageError(f"unknown attack {method!r}{hint}; {FORM}")
    values: dict[str, object] = {"steps": 1 if method == FGSM else STEPS}
    for part in rest:
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name not in OPTIONS_OF_ATTACKS:
            raise UsageError(f"attack {text!r}: no option {name!r}; {FORM}")
        values |= OPTIONS_OF_ATTACKS[name](value, text)
    found = Attack(method, _number(size, text), **values)  # type: ignore[arg-type]
    if not 0 < found.size <= LARGEST[found.norm]:
        raise UsageError(f"attack {text!r}: the size is a share of the range of the values, above 0; {FORM}")
    if method == FGSM and found.steps != 1:
        raise UsageError(f"attack {text!r}: fgsm is one step; leave steps out, or take pgd")
    return found


def with_ranges(text: str, ranges: Sequence[Extent]) -> str:
    """Return the text of an attack that says none with these ranges."""
    return f"{text},range={'/'.join(f'{low!r}:{high!r}' for low, high in ranges)}"


def _number(text: str, whole: str) -> float:
    """Read 0.03, 3% or 8/255."""
    plain = text.replace(" ", "")
    try:
        found = float(Fraction(plain.removesuffix("%"))) / (100 if plain.endswith("%") else 1)
    except (ValueError, ZeroDivisionError, OverflowError):
        raise UsageError(f"attack {whole!r}: {text!r} is no number; {FORM}") from None
    if not isfinite(found):
        raise UsageError(f"attack {whole!r}: {text!r} is not finite; {FORM}")
    return found


def _norm(text: str, whole: str) -> dict[str, object]:
    if text not in NORMS:
        raise UsageError(f"attack {whole!r}: the norm is {' or '.join(NORMS)}; {FORM}")
    return {"norm": text}


def _steps(text: str, whole: str) -> dict[str, object]:
    if not text.isdigit() or not 1 <= int(text[:9]) <= 10_000:
        raise UsageError(f"attack {whole!r}: steps is a whole number from 1 to 10000; {FORM}")
    return {"steps": int(text)}


def _ranges(text: str, whole: str) -> dict[str, object]:
    """Read ``-1:1``, or with a slash between them the ranges of all channels."""
    found = []
    for part in text.split("/"):
        low, _, high = part.partition(":")
        found.append((_number(low, whole), _number(high, whole)))
        if not found[-1][0] < found[-1][1]:
            raise UsageError(f"attack {whole!r}: a range goes from a number to a larger one; {FORM}")
    return {"ranges": tuple(found)}


OPTIONS_OF_ATTACKS: Mapping[str, Callable[[str, str], dict[str, object]]] = {
    "norm": _norm,
    "steps": _steps,
    "range": _ranges,
    "input": lambda text, whole: {"input": text},
}
"""Option -> how its value is read."""
