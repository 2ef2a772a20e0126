"""Small tensors without their zeros decoded together: one mask and one row of numbers for all, taken apart at the end.

What decodes one tensor takes some 500 bytes, which a network of many small ones would notice.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from onnxprune.changes.storage.building import Decoder, in_bytes
from onnxprune.changes.storage.forms import CODERS, CODES, Packing, TensorNumbers

SMALL, TOGETHER = 1 << 17, 1 << 20
"""Elements of a tensor that is decoded with others, and of all of these: what is decoded takes up to 40 bytes of memory each while a file is loaded."""


def bundles(forms: Mapping[str, Packing], tensors: Mapping[str, TensorProto]) -> list[list[str]]:
    """Return the names of tensors that are decoded together: alone, or those of one form and element type whose mask is one."""
    found, open_ones = list[list[str]](), defaultdict[tuple[Packing, int], list[str]](list)
    room = defaultdict[tuple[Packing, int], int](int)
    for name, form in forms.items():
        key, size = (form, tensors[name].data_type), math.prod(tensors[name].dims)
        if form.layout != "bitmap" or size > SMALL:
            found.append([name])
            continue
        if room[key] < size:
            open_ones[key], room[key] = [], TOGETHER
            found.append(open_ones[key])
        open_ones[key].append(name)
        room[key] -= size
    return found


def decoded_together(decoder: Decoder, members: Mapping[str, TensorNumbers], form: Packing) -> dict[str, gs.Variable]:
    """Add the nodes that make the tensors; return tensor -> value."""
    if len(members) == 1:
        ((name, numbers),) = members.items()
        form.decode(decoder, numbers)
        return {name: decoder.nodes[-1].outputs[0]}
    there = np.concatenate([numbers.present for numbers in members.values()])
    packed = in_bytes(there, 8)
    mask = decoder.row(decoder.apart(packed, 8, "mask"), 8 * packed.size, 8 * packed.size)
    place = decoder.node("Mul", decoder.summed(mask), mask)
    values, tables = _stored(decoder, members, form)
    sizes = [numbers.flat.size for numbers in members.values()]
    rest = 8 * packed.size - sum(sizes)
    parts = decoder.parted(decoder.node("Gather", values, place), [*sizes, rest] if rest else sizes)
    made = {}
    for number, (name, numbers) in enumerate(members.items()):
        part = parts[number]
        if tables:
            part = decoder.node("Gather", decoder.constant(f"t{number}", tables[number]), part)
        made[name] = decoder.shaped(part, numbers.array.shape)
    return made


def _stored(
    decoder: Decoder, members: Mapping[str, TensorNumbers], form: Packing
) -> tuple[gs.Tensor, list[np.ndarray]]:
    """Return what the places count in, zero first: numbers, or codes of the tables that follow."""
    values = [numbers.flat[numbers.places] for numbers in members.values()]
    if form.coder in CODES:
        coded = [numbers.with_zero_first(own) for numbers, own in zip(members.values(), values, strict=True)]
        codes = np.concatenate([np.zeros(1, np.uint8), *(codes for _, codes in coded)])
        return CODES[form.coder](decoder, codes), [table for table, _ in coded]
    first = next(iter(members.values()))
    row = np.concatenate([np.zeros(1, first.array.dtype), *values])
    return CODERS[form.coder].decode(decoder, first, row), []
