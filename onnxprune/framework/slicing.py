"""A checkpoint matched with a model, and what becomes of each of its tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onnxprune.errors import DataError
from onnxprune.framework.folding import tell_scaled
from onnxprune.framework.matching import Matcher, Recognised, Remains, StoredFloats
from onnxprune.framework.placing import laid_back
from onnxprune.framework.safetensors import Remainder, SafeTensors, taken_shape

REFUSE, COPY, DROP = UNTOLD = ("refuse", "copy", "drop")
"""What becomes of a tensor that may have to be cut and is not told."""
JOINTS = ".:/_"
"""What stands between the name of a tensor and that of a state beside it."""
NAMED = 4


@dataclass(frozen=True)
class Fate:
    """What becomes of one tensor of a checkpoint: ``status`` sliced, copied or dropped; ``how`` it was told, and of which ``tensor`` (None: not).

    ``doubtful``: it was not told, and may have to be cut.
    """

    name: str
    status: str
    how: str
    tensor: str | None
    shape: tuple[int, ...]
    left: Remainder | None
    doubtful: bool = False

    @property
    def shape_after(self) -> tuple[int, ...] | None:
        return None if self.left is None else taken_shape(self.shape, self.left.positions)

    @property
    def zeros(self) -> int:
        """How many of its numbers a mask makes zero."""
        return 0 if self.left is None or self.left.mask is None else int((~self.left.mask).sum())


def fates(
    stored: StoredFloats, file: SafeTensors, remains: Remains, untold: str = REFUSE
) -> tuple[list[Fate], list[str]]:
    """Return what becomes of every tensor of a checkpoint, and which tensors of the model change and are none of it.

    ``untold``: what becomes of those that may have to be cut and are not told.

    Raises DataError where there are such and they are to be refused, or where the checkpoint is of another model.
    """
    matcher = Matcher(stored, file, remains)
    matcher.by_name()
    matcher.by_content()
    tell_scaled(matcher)
    matcher.by_readers()
    tell_beside(matcher)
    if not matcher.told:
        raise DataError(
            f"{file.path}: none of its {len(file)} tensors is one of {stored.model.name}, by name or by content; give the checkpoint that "
            "the model was exported from"
        )
    found = [_fate(matcher, name, untold) for name in sorted(file)]
    refused = [fate for fate in found if fate.status == REFUSE]
    lost = [name for name in matcher.open if remains.touches(name)]
    if refused:
        raise DataError(_refusal(file, refused, lost))
    return found, lost


def _fate(matcher: Matcher, name: str, untold: str) -> Fate:
    shape, remains = matcher.file.places[name].shape, matcher.remains
    told = matcher.told.get(name)
    if told is None:
        why = _may_be_cut(matcher, name)
        if not why:
            return Fate(
                name,
                "copied",
                matcher.doubts.get(name, "nothing that is cut has its sizes"),
                None,
                shape,
                Remainder({}),
            )
        left = None if untold == DROP else Remainder({})
        return Fate(name, {COPY: "copied", DROP: "dropped"}.get(untold, REFUSE), why, None, shape, left, True)
    if told.tensor in remains.gone:
        return Fate(name, "dropped", told.how, told.tensor, shape, None)
    left = _left_of(told, remains, matcher.stored)
    status = "sliced" if left.positions or left.mask is not None else "copied"
    return Fate(name, status, told.how, told.tensor, shape, left)


def _left_of(told: Recognised, remains: Remains, stored: StoredFloats) -> Remainder:
    """Return what stays of a checkpoint's tensor that lies along one of the model's."""
    places = remains.positions.get(told.tensor, {})
    positions = {own: places[axis] for own, axis in enumerate(told.axes) if axis is not None and axis in places}
    mask = remains.masks.get(told.tensor)
    whole = {axis for axis, size in enumerate(stored.shape(told.tensor)) if size > 1} <= set(told.axes)
    return Remainder(positions, laid_back(mask, told.axes) if mask is not None and whole else None)


def _may_be_cut(matcher: Matcher, name: str) -> str:
    """Return why a tensor that is not told may have to be cut, "" where no axis of it can."""
    remains, shape = matcher.remains, matcher.file.places[name].shape
    cut = {
        matcher.stored.shape(t)[axis] for t, axes in remains.positions.items() if t in matcher.stored for axis in axes
    }
    if name in matcher.doubts:
        return matcher.doubts[name]
    sizes = sorted({size for size in shape if size > 1} & cut)
    if sizes:
        return f"no tensor of the model is it, and axes of {' and '.join(map(str, sizes))} positions are cut"
    masked = {matcher.stored.shape(t) for t in remains.masks if t in matcher.open}
    return "no tensor of the model is it, and weights of its shape become zero" if shape in masked else ""


def _refusal(file: SafeTensors, refused: list[Fate], lost: list[str]) -> str:
    """Say what is not told, and which tensors of the model it could be."""
    rows = "; ".join(f"{fate.name} {list(fate.shape)}: {fate.how}" for fate in refused[:NAMED])
    more = f"; and {len(refused) - NAMED} more" if len(refused) > NAMED else ""
    names = f"{', '.join(lost[:NAMED])}{' ...' if len(lost) > NAMED else ''}"
    others = f" Of the model these are cut, and none of the checkpoint: {names}." if lost else ""
    return (
        f"{file.path}: {len(refused)} tensors may have to be cut, and it is not known where: {rows}{more}.{others} Give the checkpoint that "
        "the model was exported from, or say what becomes of them (--untold copy, --untold drop)"
    )


# --- what lies beside -----------------------------------------------------------------------------------------------


def tell_beside(matcher: Matcher) -> None:
    """Tell states of optimisers, and averages of weights: of one name with what is told but for its beginning or its end, and of one shape."""
    known = {name: one for name, one in matcher.told.items()}
    for begin in _beginnings(matcher, known):
        for name, one in known.items():
            other = begin + name.removeprefix(matcher.prefixes[0])
            if other not in matcher.told and _same_shape(matcher, other, name):
                matcher.tell(other, one.tensor, one.axes, f"beside {name}")
    for name in matcher.left:
        for owner in _owners(name):
            if owner in matcher.told and _same_shape(matcher, name, owner):
                one = matcher.told[owner]
                matcher.tell(name, one.tensor, one.axes, f"beside {owner}")
                break


def _same_shape(matcher: Matcher, name: str, other: str) -> bool:
    return name in matcher.file and matcher.file.places[name].shape == matcher.file.places[other].shape


def _owners(name: str) -> Iterator[str]:
    """Yield what a name begins with before each joint, the longest first."""
    for place in range(len(name) - 1, 0, -1):
        if name[place] in JOINTS:
            yield name[:place]


def _beginnings(matcher: Matcher, known: dict[str, Recognised]) -> list[str]:
    """Return with what else the names of all that is cut begin, so that a whole copy of the weights is there."""
    own = matcher.prefixes[0]
    cut = [name for name, one in known.items() if matcher.remains.touches(one.tensor) and name.startswith(own)]
    if not cut:
        return []
    end = min(cut).removeprefix(own)
    ends = [name for name in matcher.file if name.endswith(end) and _same_shape(matcher, name, own + end)]
    found = {name.removesuffix(end) for name in ends} - {own}
    return [
        begin
        for begin in sorted(found)
        if all(_same_shape(matcher, begin + name.removeprefix(own), name) for name in cut if not name.startswith(begin))
    ]
