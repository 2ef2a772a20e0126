"""The plan: which units stay, as JSON that can be reviewed, replayed, and used to slice a checkpoint elsewhere."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

from onnxprune.coupling.groups import Analysis
from onnxprune.errors import PlanError
from onnxprune.model.model import SourceDigest

SCHEMA_VERSION = 1
Indices = tuple[int, ...]


@dataclass(frozen=True)
class PlanGroup:
    """One group of the model and the units of it that stay."""

    name: str
    width: int
    kept: Indices


@dataclass(frozen=True)
class Plan:
    """``kept``: stored tensor -> axis -> positions that stay, for every tensor whose shape changes.

    ``blocks``: the residual branches that go. ``directions``: weight -> how many of its input's and its output's stay.
    """

    model_sha256: str
    groups: tuple[PlanGroup, ...]
    kept: Mapping[str, Mapping[int, Indices]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    blocks: tuple[str, ...] = ()
    directions: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the file's text: the same for equal plans, one group or tensor per line."""
        head = {"schema_version": SCHEMA_VERSION, "model_sha256": self.model_sha256, "settings": self.settings}
        lines = [f"{_dump(key)}: {_dump(value)}" for key, value in head.items()]
        groups = [_dump({"name": g.name, "width": g.width, "kept": g.kept}) for g in self.groups]
        lines.append(f'"groups": [\n{_lines(groups)}\n]')
        tensors = [f"{_dump(name)}: {_dump(_text_keys(self.kept[name]))}" for name in sorted(self.kept)]
        lines.append(f'"kept": {{\n{_lines(tensors)}\n}}')
        if self.blocks:
            lines.append(f'"blocks": [\n{_lines([_dump(name) for name in self.blocks])}\n]')
        if self.directions:
            entries = [f"{_dump(name)}: {_dump(counts)}" for name, counts in self.directions.items()]
            lines.append(f'"directions": {{\n{_lines(entries)}\n}}')
        return "{\n" + ",\n".join(lines) + "\n}\n"


def _dump(value: Any) -> str:
    return json.dumps(value, sort_keys=isinstance(value, Mapping) and "width" not in value, allow_nan=False)


def _text_keys(axes: Mapping[int, Indices]) -> dict[str, Indices]:
    return {str(axis): axes[axis] for axis in sorted(axes)}


def _lines(items: Sequence[str]) -> str:
    return ",\n".join(f"  {item}" for item in items)


def make_plan(analysis: Analysis, kept: Sequence[np.ndarray], settings: Mapping[str, Any]) -> Plan:
    """Write down a decision: ``kept`` is bool[width] per group, ``settings`` what decided it (JSON values)."""
    groups = tuple(
        PlanGroup(group.name, group.width, _indices(mask)) for group, mask in zip(analysis.groups, kept, strict=True)
    )
    return Plan(analysis.facts.model.source_sha256, groups, _tensors(analysis, kept), settings)


def _indices(mask: np.ndarray) -> Indices:
    return tuple(np.flatnonzero(mask).tolist())


def _tensors(analysis: Analysis, kept: Sequence[np.ndarray]) -> dict[str, dict[int, Indices]]:
    """Return what stays of every stored tensor that changes its shape."""
    found: dict[str, dict[int, Indices]] = {}
    for name in analysis.facts.graph.tensors:
        for axis in range(len(analysis.facts.shape(name) or ())):
            mask = analysis.keep_mask(kept, name, axis)
            if mask is not None:
                found.setdefault(name, {})[axis] = _indices(mask)
    return found


def kept_units(plan: Plan, analysis: Analysis, *, force: bool = False) -> list[np.ndarray]:
    """Return bool[width] per group of a model; groups the plan does not name stay whole.

    Raises PlanError where the model has another digest (unless ``force``), lacks a group, or where the plan's groups do
    not lead to exactly the tensor shapes that the plan lists.
    """
    check_digest(plan, analysis.facts.model.source_sha256, force=force)
    widths = {group.name: group for group in analysis.groups}
    kept = [np.ones(group.width, bool) for group in analysis.groups]
    for planned in plan.groups:
        group = widths.get(planned.name)
        if group is None or group.width != planned.width:
            have = "no such group" if group is None else f"one of {group.width} units"
            raise PlanError(f"the plan has a group {planned.name!r} of {planned.width} units, the model has {have}")
        kept[group.index] = np.isin(np.arange(group.width), planned.kept)
    _check_tensors(plan, _tensors(analysis, kept))
    return kept


def check_digest(plan: Plan, sha256: SourceDigest, *, force: bool = False) -> None:
    """Raise PlanError where a plan is for another model, unless ``force``."""
    if plan.model_sha256 != sha256 and not force:
        raise PlanError(
            f"the plan was made for a model with SHA-256 {plan.model_sha256[:12]}..., this one has "
            f"{sha256[:12]}...; add --force to use it if all shapes agree"
        )


def _check_tensors(plan: Plan, found: Mapping[str, Mapping[int, Indices]]) -> None:
    for name in sorted({*plan.kept, *found}):
        if plan.kept.get(name) != found.get(name):
            raise PlanError(
                f"the plan's list for tensor {name!r} is not what its groups give on this model; "
                "make the plan again (edit groups and kept together, if by hand)"
            )


# --- reading --------------------------------------------------------------------------------------------------------


def from_json(text: str) -> Plan:
    """Read a plan; raises PlanError that says which entry is wrong. Keys this version does not know are ignored."""
    try:
        data = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except PlanError:
        raise
    except (ValueError, RecursionError) as error:
        raise PlanError(f"the plan is not valid JSON: {error}") from error
    top = _of_type(data, dict, "the plan")
    version = _entry(top, "schema_version", int, "the plan")
    if version != SCHEMA_VERSION:
        raise PlanError(f"the plan has schema_version {version}; this onnxprune reads {SCHEMA_VERSION}")
    groups = tuple(
        _group(_of_type(item, dict, f"groups[{number}]"), f"groups[{number}]")
        for number, item in enumerate(_entry(top, "groups", list, "the plan"))
    )
    twice = [name for name, count in Counter(group.name for group in groups).items() if count > 1]
    if twice:
        raise PlanError(f"the plan names group {twice[0]!r} twice")
    kept = {name: _axes(axes, f"kept[{name!r}]") for name, axes in _entry(top, "kept", dict, "the plan").items()}
    settings = _entry(top, "settings", dict, "the plan")
    names = _of_type(top.get("blocks", []), list, "the plan: blocks")
    blocks = tuple(_of_type(name, str, f"blocks[{number}]") for number, name in enumerate(names))
    found = _of_type(top.get("directions", {}), dict, "the plan: directions")
    directions = {name: _counts(value, f"directions[{name!r}]") for name, value in found.items()}
    return Plan(_entry(top, "model_sha256", str, "the plan"), groups, kept, settings, blocks, directions)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise PlanError(f"the plan has the key {key!r} twice in one object")
        result[key] = value
    return result


def _no_constant(name: str) -> NoReturn:
    raise PlanError(f"the plan holds {name}, which is no JSON number")


def _of_type(value: Any, kind: type, where: str) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise PlanError(f"{where} is {type(value).__name__}, not {kind.__name__}")
    return value


def _entry(container: Mapping[str, Any], key: str, kind: type, where: str) -> Any:
    if key not in container:
        raise PlanError(f"{where} has no entry {key!r}")
    return _of_type(container[key], kind, f"{where}: {key}")


def _group(item: Mapping[str, Any], where: str) -> PlanGroup:
    width = _entry(item, "width", int, where)
    kept = _positions(_entry(item, "kept", list, where), f"{where}: kept")
    if kept[-1] >= width:
        raise PlanError(f"{where}: kept has {kept[-1]}, but the group has only {width} units")
    return PlanGroup(_entry(item, "name", str, where), width, kept)


def _counts(value: Any, where: str) -> tuple[int, int]:
    counts = _of_type(value, list, where)
    if len(counts) != 2 or any(_of_type(count, int, where) < 1 for count in counts):
        raise PlanError(f"{where} must be two numbers of directions of at least 1; found {value}")
    return counts[0], counts[1]


def _axes(axes: Any, where: str) -> dict[int, Indices]:
    found = {}
    for axis, positions in _of_type(axes, dict, where).items():
        if not (axis.isascii() and axis.isdigit() and str(int(axis[:9])) == axis):
            raise PlanError(f"{where}: {axis!r} is not the number of an axis")
        found[int(axis)] = _positions(_of_type(positions, list, f"{where}[{axis}]"), f"{where}[{axis}]")
    if not found:
        raise PlanError(f"{where} lists no axis")
    return found


def _positions(values: list[Any], where: str) -> Indices:
    """Check that positions are whole, ascending, not negative, and at least one."""
    if not values:
        raise PlanError(f"{where} is empty; at least one has to stay")
    for before, value in zip([-1, *values], values, strict=False):
        if _of_type(value, int, where) <= before:
            raise PlanError(f"{where} must be ascending positions from 0 on, each once; found {value} after {before}")
    return tuple(values)
