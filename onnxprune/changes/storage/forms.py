"""The forms in which a tensor can be stored: where its numbers stand (layouts), and what a number is stored as (coders).

Whatever a form, what comes out is equal bit for bit to the ``TensorNumbers`` that went in. Only operators of the file's own opset are
used: Cast, Gather, Reshape, Slice, CumSum, Mul, ConstantOfShape, ScatterElements.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import onnx_graphsurgeon as gs
from ml_dtypes import uint4
from onnx import numpy_helper

from onnxprune.changes.storage.building import Decoder, in_bytes

HALF = np.dtype(np.float16)
LONGEST_GAP = 255
MOST_ELEMENTS = 1 << 31  # that int32 counts
PIECE = 38  # bytes of a node or a stored tensor beside its content, about


@dataclass(frozen=True, eq=False)
class TensorNumbers:
    """What a stored tensor is to hold: float16 or float32 ``array``; ``table``: its values, ascending, where these are at most 256.

    ``half``: whether float16 holds every value as it is.
    """

    array: np.ndarray
    table: np.ndarray | None
    half: bool

    @classmethod
    def of(cls, array: np.ndarray, most: int) -> TensorNumbers:
        """Look at an array; ``most``: values that a table may have."""
        with np.errstate(over="ignore"):
            half = array.dtype == HALF or _same(array.astype(HALF).astype(array.dtype), array)
        return cls(array, _table(array, most), half)

    @cached_property
    def flat(self) -> np.ndarray:
        return self.array.reshape(-1)

    @cached_property
    def places(self) -> np.ndarray:
        """int64[n]: where something other than +0 stands."""
        return np.flatnonzero(_bits(self.flat))

    @property
    def present(self) -> np.ndarray:
        """uint8[elements]: 1 where something other than +0 stands."""
        found = np.zeros(self.flat.size, np.uint8)
        found[self.places] = 1
        return found

    @cached_property
    def gaps(self) -> tuple[np.ndarray, np.ndarray]:
        """uint8[m], int64[m]: steps from one place to the next, the first from 0, and the places; zeros that stand so far apart count too."""
        return _gaps(self.places, self.flat.size)

    def codes(self, values: np.ndarray) -> np.ndarray:
        """Return the number of each value in the table."""
        assert self.table is not None
        return np.searchsorted(_ordered(self.table), _ordered(values)).astype(np.uint8)

    def with_zero_first(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return a table that begins with zero, and the numbers of values other than zero in it."""
        assert self.table is not None
        zero = int(np.flatnonzero(_bits(self.table) == 0)[0])
        codes = self.codes(values)
        return np.append(self.table[zero], np.delete(self.table, zero)), codes + (codes < zero).astype(np.uint8)

    @property
    def zeros(self) -> float:
        """The share of zeros."""
        return 1 - len(self.places) / max(self.flat.size, 1)


def _bits(array: np.ndarray) -> np.ndarray:
    return array.view(np.dtype(f"u{array.dtype.itemsize}"))


def _same(one: np.ndarray, two: np.ndarray) -> bool:
    return bool((_bits(one) == _bits(two)).all())


def _ordered(array: np.ndarray) -> np.ndarray:
    """Return unsigned integers in an order of the floats that keeps -0 and every NaN apart."""
    bits = _bits(array)
    top = bits.dtype.type(1 << (8 * bits.itemsize - 1))
    return np.where(bits & top, ~bits, bits | top)


def _table(array: np.ndarray, most: int) -> np.ndarray | None:
    """Return the values of an array in ``_ordered`` order; None where they are more than ``most``."""
    found = _distinct(_bits(array.reshape(-1)), most)
    if found is None:
        return None
    values = found.view(array.dtype)
    return values[np.argsort(_ordered(values))]


def _distinct(bits: np.ndarray, most: int) -> np.ndarray | None:
    """Return the numbers that occur; None where they are more than ``most``, which a first part shows soon."""
    for part in (bits[:4096], bits):
        found = np.unique(part)
        if len(found) > most:
            return None
    return found


def _gaps(places: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return steps of at most ``LONGEST_GAP``, and where they lead: to every place and on to the end of ``count`` elements.

    There is at least one, and one for ``LONGEST_GAP`` elements, so that what a file expands to is bounded by its size.
    """
    if not places.size:
        places = np.zeros(1, np.int64)
    steps = np.diff(places, prepend=0)
    more = np.maximum(-(-steps // LONGEST_GAP) - 1, 0)  # further steps on the way
    found = np.full((more + 1).sum() + (count - 1 - places[-1]) // LONGEST_GAP, LONGEST_GAP, np.int64)
    found[np.cumsum(more + 1) - 1] = steps - LONGEST_GAP * more
    return found.astype(np.uint8), np.cumsum(found)


# --- coders: a vector or a whole tensor of numbers --------------------------------------------------------------------


class Coder(NamedTuple):
    """``bits`` of a number; ``values``: of the table (0: none); ``opset``: the first whose operators and types suffice; ``pieces``: nodes and tensors."""

    bits: int
    values: int
    opset: int
    pieces: int
    decode: Callable[[Decoder, TensorNumbers, np.ndarray], gs.Tensor]


def _floats(decoder: Decoder, numbers: TensorNumbers, values: np.ndarray) -> gs.Tensor:
    return decoder.constant("values", values)


def _halves(decoder: Decoder, numbers: TensorNumbers, values: np.ndarray) -> gs.Tensor:
    stored = decoder.constant("values", values.astype(HALF))
    return stored if values.dtype == HALF else decoder.cast(stored, values.dtype)


def _bytes(decoder: Decoder, numbers: TensorNumbers, values: np.ndarray) -> gs.Tensor:
    return _looked_up(decoder, numbers, byte_codes(decoder, numbers.codes(values)))


def _fours(decoder: Decoder, numbers: TensorNumbers, values: np.ndarray) -> gs.Tensor:
    return _looked_up(decoder, numbers, four_bit_codes(decoder, numbers.codes(values)))


def _pairs(decoder: Decoder, numbers: TensorNumbers, values: np.ndarray) -> gs.Tensor:
    packed = in_bytes(numbers.codes(values), 2)
    found = _looked_up(decoder, numbers, decoder.apart(packed, 2, "codes"))
    if values.ndim > 1 and values.size == 2 * packed.size:
        return decoder.shaped(found, values.shape)
    row = decoder.row(found, 2 * packed.size, values.size)
    return decoder.shaped(row, values.shape) if values.ndim != 1 else row


def byte_codes(decoder: Decoder, codes: np.ndarray) -> gs.Tensor:
    """Return int32 codes of their own shape, stored in bytes."""
    return decoder.index(decoder.constant("codes", codes))


def four_bit_codes(decoder: Decoder, codes: np.ndarray) -> gs.Tensor:
    """Return int32 codes of their own shape, stored as UINT4."""
    return decoder.index(decoder.constant("codes", codes.astype(uint4)))


def paired_codes(decoder: Decoder, codes: np.ndarray) -> gs.Tensor:
    """Return an int32 vector of codes, stored two in a byte."""
    packed = in_bytes(codes, 2)
    return decoder.row(decoder.apart(packed, 2, "codes"), 2 * packed.size, codes.size)


def _looked_up(decoder: Decoder, numbers: TensorNumbers, codes: gs.Tensor) -> gs.Tensor:
    assert numbers.table is not None
    return decoder.node("Gather", decoder.constant("table", numbers.table), codes)


CODES = {"8-bit codes": byte_codes, "4-bit codes": four_bit_codes, "4-bit codes, two in a byte": paired_codes}
"""Coder of codes -> how a vector of these is stored."""
CODERS: Mapping[str, Coder] = {
    "float32": Coder(32, 0, 1, 1, _floats),
    "fp16": Coder(16, 0, 6, 2, _halves),
    "8-bit codes": Coder(8, 256, 6, 4, _bytes),
    "4-bit codes": Coder(4, 16, 21, 4, _fours),
    "4-bit codes, two in a byte": Coder(4, 16, 10, 9, _pairs),
}


# --- layouts: where the numbers stand ---------------------------------------------------------------------------------


class Placing(NamedTuple):
    """``count``: numbers that are stored; ``bytes``: what says where they stand; ``opset``, ``pieces``: as of a coder."""

    opset: int
    pieces: int
    count: Callable[[TensorNumbers], int]
    bytes: Callable[[TensorNumbers], int]
    decode: Callable[[Decoder, TensorNumbers, Coder], object]


def _whole(decoder: Decoder, numbers: TensorNumbers, coder: Coder) -> None:
    coder.decode(decoder, numbers, numbers.array)


def _by_bits(decoder: Decoder, numbers: TensorNumbers, coder: Coder) -> None:
    """The running count of what is no zero is a number's place among the values, the first of which is zero."""
    there = numbers.present
    packed = in_bytes(there, 8)
    mask = decoder.row(decoder.apart(packed, 8, "mask"), 8 * packed.size, 8 * packed.size)
    place = decoder.node("Mul", decoder.summed(mask), mask)
    odd = (len(numbers.places) + 1) % 2  # then one more, so that bytes are full
    values = np.concatenate([np.zeros(1), numbers.flat[numbers.places], np.zeros(odd)], dtype=numbers.array.dtype)
    found = decoder.node("Gather", coder.decode(decoder, numbers, values), place)
    if there.size != 8 * packed.size:
        found = decoder.row(found, 8 * packed.size, there.size)
    decoder.shaped(found, numbers.array.shape)


def _by_gaps(decoder: Decoder, numbers: TensorNumbers, coder: Coder) -> None:
    """The running sums of the gaps are the places."""
    gaps, places = numbers.gaps
    values = coder.decode(decoder, numbers, numbers.flat[places])
    steps = decoder.summed(decoder.index(decoder.constant("gaps", gaps)))
    zero = numpy_helper.from_array(np.zeros(1, numbers.array.dtype))
    empty = decoder.node(
        "ConstantOfShape", decoder.constant("count", np.array([numbers.flat.size], np.int64)), value=zero
    )
    decoder.shaped(decoder.node("ScatterElements", empty, steps, values), numbers.array.shape)


LAYOUTS: Mapping[str, Placing] = {
    "whole": Placing(1, 0, lambda n: n.flat.size, lambda n: 0, _whole),
    "bitmap": Placing(11, 9, lambda n: len(n.places) + 1, lambda n: -(-n.flat.size // 8), _by_bits),
    "gaps": Placing(11, 8, lambda n: len(n.gaps[0]), lambda n: len(n.gaps[0]), _by_gaps),
}


class Packing(NamedTuple):
    """A layout and a coder, by name."""

    layout: str
    coder: str

    @property
    def name(self) -> str:
        return self.coder if self.layout == "whole" else f"{self.layout} + {self.coder}"

    @property
    def opset(self) -> int:
        return max(LAYOUTS[self.layout].opset, CODERS[self.coder].opset)

    def fits(self, numbers: TensorNumbers) -> bool:
        """Whether the numbers come back as they are."""
        coder, table = CODERS[self.coder], numbers.table
        if self.coder == "fp16":
            fits = numbers.half and (self.layout != "whole" or numbers.array.dtype != HALF)  # where it is so already
        elif self.coder == "float32":
            fits = numbers.array.dtype != HALF
        else:
            fits = table is not None and len(table) <= coder.values
        zero = self.layout == "whole" or table is None or not coder.values or not _bits(table).all()
        return fits and zero and numbers.flat.size < MOST_ELEMENTS

    def size(self, numbers: TensorNumbers) -> int:
        """Return the bytes that a tensor of such numbers takes in the file, about."""
        layout, coder = LAYOUTS[self.layout], CODERS[self.coder]
        table = len(numbers.table) * numbers.array.itemsize if coder.values and numbers.table is not None else 0
        content = layout.bytes(numbers) + -(-layout.count(numbers) * coder.bits // 8) + table
        return content + PIECE * (layout.pieces + coder.pieces)

    def decode(self, decoder: Decoder, numbers: TensorNumbers) -> None:
        """Add the nodes, the last of which gives the tensor."""
        LAYOUTS[self.layout].decode(decoder, numbers, CODERS[self.coder])


PLAIN = Packing("whole", "float32")
"""What changes nothing."""
FORMS = {
    form.name: form for form in (Packing(layout, coder) for layout in LAYOUTS for coder in CODERS) if form != PLAIN
}
"""Name -> form."""


def plain_size(array: np.ndarray) -> int:
    """Return the bytes of a tensor that is stored as it is, about."""
    return array.nbytes + PIECE
