"""How several kinds of change share what is to be saved: as given, or as the repaired models are judged on held-out rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from onnxprune.changes.aims import SLACK
from onnxprune.changes.change import Totals
from onnxprune.changes.context import Context, Notes
from onnxprune.changes.judging import trial
from onnxprune.errors import DataError, TargetError, UsageError
from onnxprune.measure.tasks.choice import Judged, least_lost
from onnxprune.runs.legs import Shares, taken, to_target
from onnxprune.settings import GRANULARITIES, Settings

PARTS = 8  # shares are multiples of one in so many
TRIALS = 12  # mixes that are tried at most
TRIAL_ROWS = 256  # of the rest of the data, at most, that decide and repair in a trial

Mix = tuple[int, ...]
"""Per kind the parts of the saving that it takes, PARTS in all."""


def shares_of(context: Context, whole: Totals) -> Shares:
    """Return kind -> its share of the saving: one kind saves it all, several share it as given or as judged.

    Raises UsageError for shares of kinds that are not in the run, or that leave nothing to the others; DataError where shares
    are to be judged without data.
    """
    settings = context.settings
    given = given_shares(settings)
    rest, left = [path for path in settings.aimed if path not in given], 1 - sum(given.values())
    if len(rest) < 2:
        return given | dict.fromkeys(rest, left)
    if context.data.calibration is None:
        raise DataError(
            "how much each kind of change saves is judged on data; give calibration data (--calib), or say it "
            f"(--share {_called(settings, rest[0])}=30%)"
        )
    with context.stages("shares"):
        return {**given, **_judged(context, whole, given, rest, left)}


def given_shares(settings: Settings) -> dict[str, float]:
    """Return kind -> share for those that the settings give; raises UsageError."""
    found = {GRANULARITIES[name].space: share for name, share in settings.share}
    for name, share in settings.share:
        if GRANULARITIES[name].space not in settings.spaces:
            raise UsageError(f"share {name}={share:g}: the run has no such kind of change; add {name} to granularity")
        if GRANULARITIES[name].space not in settings.aimed:
            raise UsageError(f"share {name}={share:g}: {name} takes all it finds and has no share; leave it out")
    whole, all_given = sum(found.values()), 0 < len(found) == len(settings.aimed)
    if whole > 1 + SLACK or (all_given and abs(whole - 1) > SLACK):
        told = "all of them" if all_given else "at most"
        raise UsageError(f"shares are of what is saved in all: {told} 100%, not {whole:.0%}; change share")
    return found


def _called(settings: Settings, path: str) -> str:
    return next(name for name in settings.granularity if GRANULARITIES[name].space == path)


def _judged(context: Context, whole: Totals, given: Shares, kinds: Sequence[str], left: float) -> Shares:
    """Return the shares of what is ``left`` with which the repaired model comes nearest to the original on held-out rows: see ``least_lost``."""
    settings = context.settings
    trying, reference = trial(context, TRIAL_ROWS)

    def shares(mix: Mix) -> Shares:
        own = {path: left * parts / PARTS for path, parts in zip(kinds, mix, strict=True)}
        return {path: given.get(path, own.get(path, 0.0)) for path in context.settings.aimed}

    judged: dict[Mix, Judged] = {}

    def cost(mix: Mix) -> float:
        context.stages.progress(f"shares: {_told(settings, kinds, mix)}")
        own = replace(trying, notes=Notes(), settings=replace(trying.settings, quantize="", keep_float=(), dynamic=""))
        try:
            last = taken(own, to_target(own.settings, whole, shares(mix)))[-1]
        except TargetError:
            return np.inf
        judged[mix] = reference.judged(last.model)
        return judged[mix].cost

    tried = best_mix(len(kinds), cost)
    if not np.isfinite(min(tried.values())):
        raise TargetError(
            f"--target {settings.aim} is out of reach, by any kind of change alone or with the others; ask for less"
        )
    best = least_lost({mix: judged[mix] for mix in sorted(judged)})
    context.notes.entries["shares"] = [
        {"shares": {_called(settings, path): share for path, share in shares(mix).items()},
         "divergence": judged[mix].divergence if np.isfinite(value) else None, "chosen": mix == best,
         "softened": judged[mix].softened if np.isfinite(value) else None,
         "score": judged[mix].score if mix in judged else None}
        for mix, value in tried.items()
    ]  # fmt: skip
    return shares(best)


def _told(settings: Settings, kinds: Sequence[str], mix: Mix) -> str:
    return ", ".join(f"{_called(settings, path)} {parts / PARTS:.0%}" for path, parts in zip(kinds, mix, strict=True))


def best_mix(kinds: int, cost: Callable[[Mix], float]) -> dict[Mix, float]:
    """Return what was tried and its cost: each kind alone, then around the best so far, by ever smaller moves from one kind to another."""
    tried: dict[Mix, float] = {}

    def judge(mix: Mix) -> None:
        if mix not in tried and len(tried) < TRIALS:
            tried[mix] = cost(mix)

    for kind in range(kinds):
        judge(tuple(PARTS * (kind == other) for other in range(kinds)))
    move = PARTS // 2
    while move:
        best = min(tried, key=lambda mix: (tried[mix], mix))
        for source in (kind for kind in range(kinds) if best[kind] >= move):
            for target in (kind for kind in range(kinds) if kind != source):
                judge(tuple(p - move * (k == source) + move * (k == target) for k, p in enumerate(best)))
        if min(tried.values()) == tried[best]:
            move //= 2
    return tried
