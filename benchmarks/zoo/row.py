"""One row of the zoo: what to build, what to feed it, and how to export it."""

import re
from dataclasses import dataclass, field
from typing import Any

_INPUT = re.compile(r"(?P<name>\w+):(?P<kind>[a-z]+)(?P<high>\d*)\[(?P<dims>[^\]]*)\]")


@dataclass(frozen=True)
class Input:
    """One graph input: `kind` is float, ones (a mask) or int (below `high`); `free` maps a dimension to its name."""

    name: str
    kind: str
    high: int
    shape: tuple[int, ...]
    free: dict[int, str]


def parse_input(text: str) -> Input:
    """Read `name:kind[dims]` such as `ids:int1000[batch=2,16]`, where a dimension with a name is dynamic."""
    match = _INPUT.fullmatch(text)
    if match is None:
        raise ValueError(f"input {text!r} does not read name:kind[dims]")
    dims = [dim.rpartition("=") for dim in match["dims"].split(",")]
    return Input(
        name=match["name"],
        kind=match["kind"],
        high=int(match["high"] or 2),
        shape=tuple(int(size) for _, _, size in dims),
        free={index: label for index, (label, _, _) in enumerate(dims) if label},
    )


@dataclass(frozen=True)
class Row:
    """`source` is `library:constructor`, `inputs` are for `parse_input`, `output` picks one field of the result."""

    name: str
    family: str
    source: str
    inputs: tuple[str, ...]
    exporter: str = "torchscript"
    opset: int = 17
    options: dict[str, Any] = field(default_factory=dict)
    output: str = ""
    fold: bool = True
    half: bool = False


def image(size: int, free: str = "", channels: int = 3) -> tuple[str, ...]:
    """Text of one square image input; `free` holds the first letters of the dynamic dimensions (`b`, `h`, `w`)."""
    dims = (("batch", 1), ("", channels), ("height", size), ("width", size))
    return ("image:float[" + ",".join(f"{n}={s}" if n and n[0] in free else str(s) for n, s in dims) + "]",)
