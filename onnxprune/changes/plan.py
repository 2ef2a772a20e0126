"""The plan: which units stay, as JSON that can be reviewed, replayed, and used to slice a checkpoint elsewhere."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

import numpy as np

from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.kept import Kept
from onnxprune.errors import PlanError
from onnxprune.model.digests import SourceDigest
from onnxprune.sheet import SeenAsSheet, Sheet, SheetTable

SCHEMA_VERSION = 1
Indices = tuple[int, ...]
Record = Mapping[str, Any]
FLAT = {"directions": "eigen", "blocks": "block", "groups": "units"}
"""Key -> kind of change whose record stands in the plan itself where the run had one step; the first that is there tells which."""


class PlanGroup(NamedTuple):
    """One group of the model and the units of it that stay."""

    name: str
    width: int
    kept: Indices


class Planned(NamedTuple):
    """One step of a run: the kind of its change, and what that kind says of it, as JSON."""

    kind: str
    record: Record


@dataclass(frozen=True, repr=False)
class Plan(SeenAsSheet):
    """What a run decided for the model with this digest: a record per step, in order."""

    model_sha256: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    steps: tuple[Planned, ...] = ()

    def _first(self, key: str, otherwise: Any) -> Any:
        return next((step.record[key] for step in self.steps if key in step.record), otherwise)

    @property
    def groups(self) -> tuple[PlanGroup, ...]:
        """The groups and their units that stay."""
        return tuple(PlanGroup(g["name"], g["width"], tuple(g["kept"])) for g in self._first("groups", ()))

    @property
    def kept(self) -> dict[str, dict[int, Indices]]:
        """Stored tensor -> axis -> positions that stay, for every tensor whose shape changes."""
        found = self._first("kept", {})
        return {name: {int(axis): tuple(at) for axis, at in axes.items()} for name, axes in found.items()}

    @property
    def blocks(self) -> tuple[str, ...]:
        """The residual branches that go."""
        return tuple(self._first("blocks", ()))

    @property
    def directions(self) -> dict[str, tuple[int, int]]:
        """Weight -> how many directions of its input's and its output's stay."""
        return {name: (first, second) for name, (first, second) in self._first("directions", {}).items()}

    @property
    def sheet(self) -> Sheet:
        """Which steps there are, and what stays of each group."""
        kinds = ", ".join(step.kind for step in self.steps) or "nothing"
        said = f"Plan for the model {self.model_sha256[:12]}: {kinds}"
        rows = tuple((g.name, f"{g.width:,}", f"{len(g.kept):,}") for g in self.groups if len(g.kept) < g.width)
        return Sheet((said,), (SheetTable("groups that are cut", ("group", "units", "stay"), rows),) if rows else ())

    def to_json(self) -> str:
        """Return the file's text: the same for equal plans, one group or tensor per line."""
        head = {"schema_version": SCHEMA_VERSION, "model_sha256": self.model_sha256, "settings": self.settings}
        lines = [f"{_dump(key)}: {_dump(value)}" for key, value in head.items()]
        if len(self.steps) == 1 and _flat(self.steps[0].record):
            own = self.steps[0].record
            whole: Record = {"groups": [], "kept": {}} | {
                key: value for key, value in own.items() if value or key in KEPT
            }
            lines += _entries(whole)
        else:
            steps = ["{\n" + ",\n".join([f'"kind": {_dump(s.kind)}', *_entries(s.record)]) + "\n}" for s in self.steps]
            lines.append('"steps": [\n' + ",\n".join(steps) + "\n]")
        return "{\n" + ",\n".join(lines) + "\n}\n"


KEPT = ("groups", "kept")


def _flat(record: Record) -> bool:
    return any(key in record for key in FLAT)


def _entries(record: Record) -> list[str]:
    """Return a line per key, and below it a line per item."""
    lines = []
    for key, value in record.items():
        if isinstance(value, Mapping):
            names = sorted(value) if key == "kept" else value
            items = [f"{_dump(name)}: {_dump(value[name])}" for name in names]
            lines.append(f"{_dump(key)}: {{\n{_lines(items)}\n}}")
        else:
            lines.append(f"{_dump(key)}: [\n{_lines([_dump(item) for item in value])}\n]")
    return lines


def _dump(value: Any) -> str:
    return json.dumps(value, sort_keys=isinstance(value, Mapping) and "width" not in value, allow_nan=False)


def _lines(items: Sequence[str]) -> str:
    return ",\n".join(f"  {item}" for item in items)


def make_plan(analysis: Analysis, kept: Sequence[np.ndarray], settings: Mapping[str, Any]) -> Plan:
    """Write down which units stay: ``kept`` is bool[width] per group, ``settings`` what decided it (JSON values)."""
    return Plan(analysis.facts.model.source_sha256, settings, (Planned("units", units_record(analysis, kept)),))


def units_record(analysis: Analysis, kept: Sequence[np.ndarray]) -> Record:
    """Return the units that stay of every group, and the positions of every tensor that changes its shape."""
    groups = [
        {"name": group.name, "width": group.width, "kept": list(_indices(mask))}
        for group, mask in zip(analysis.groups, kept, strict=True)
    ]
    return {"groups": groups, "kept": _tensors(analysis, kept)}


def _indices(mask: np.ndarray) -> Indices:
    return tuple(np.flatnonzero(mask).tolist())


def _tensors(analysis: Analysis, kept: Sequence[np.ndarray]) -> dict[str, dict[str, list[int]]]:
    """Return what stays of every stored tensor that changes its shape."""
    found: dict[str, dict[str, list[int]]] = {}
    left = Kept.of(analysis, kept)
    for name in analysis.facts.graph.tensors:
        if masks := left.masks(name):
            found[name] = {str(axis): list(_indices(mask)) for axis, mask in masks.items()}
    return found


def kept_units(plan: Plan, analysis: Analysis, *, force: bool = False) -> Kept:
    """Return the units that stay of the model that a plan is for; see ``check_digest`` and ``kept_of``."""
    check_digest(plan, analysis.facts.model.source_sha256, force=force)
    return kept_of(plan.steps[0].record, analysis)


def kept_of(record: Record, analysis: Analysis) -> Kept:
    """Return the units that stay of a model; groups the record does not name stay whole.

    Raises PlanError where the model lacks a group, or where the groups do not lead to exactly the tensor shapes listed.
    """
    widths = {group.name: group for group in analysis.groups}
    masks = [np.ones(group.width, bool) for group in analysis.groups]
    for planned in record.get("groups", ()):
        group = widths.get(planned["name"])
        if group is None or group.width != planned["width"]:
            have = "no such group" if group is None else f"one of {group.width} units"
            raise PlanError(
                f"the plan has a group {planned['name']!r} of {planned['width']} units, the model has {have}"
            )
        masks[group.index] = np.isin(np.arange(group.width), planned["kept"])
    kept = Kept(analysis, masks)
    listed, found = record.get("kept", {}), _tensors(analysis, kept)
    for name in sorted({*listed, *found}):
        if listed.get(name) != found.get(name):
            raise PlanError(
                f"the plan's list for tensor {name!r} is not what its groups give on this model; "
                "make the plan again (edit groups and kept together, if by hand)"
            )
    return kept


def check_digest(plan: Plan, sha256: SourceDigest, *, force: bool = False) -> None:
    """Raise PlanError where a plan is for another model, unless ``force``."""
    if plan.model_sha256 != sha256 and not force:
        raise PlanError(
            f"the plan was made for a model with SHA-256 {plan.model_sha256[:12]}..., this one has "
            f"{sha256[:12]}...; add --force to use it if all shapes agree"
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
    settings = _entry(top, "settings", dict, "the plan")
    steps = tuple(_steps(top["steps"])) if "steps" in top else (_flat_step(top),)
    return Plan(_entry(top, "model_sha256", str, "the plan"), settings, steps)


def _steps(found: Any) -> Iterator[Planned]:
    for number, item in enumerate(_of_type(found, list, "the plan: steps")):
        where = f"steps[{number}]"
        record = dict(_of_type(item, dict, where))
        kind = _of_type(record.pop("kind", None), str, f"{where}: kind")
        for key, value in record.items():
            READERS.get(key, _any)(value, f"{where}: {key}")
        yield Planned(kind, record)


def _flat_step(top: dict[str, Any]) -> Planned:
    for key, kind in (("groups", list), ("kept", dict)):
        _entry(top, key, kind, "the plan")
    record = {key: top[key] for key in (*KEPT, "blocks", "directions") if key in top}
    for key, value in record.items():
        READERS[key](value, key if key in KEPT else f"the plan: {key}")
    key = next(key for key in FLAT if key in record)
    return Planned(FLAT[key], record if key == "groups" else {key: record[key]})


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


def _groups(value: Any, where: str) -> None:
    for number, item in enumerate(_of_type(value, list, where)):
        _group(_of_type(item, dict, f"{where}[{number}]"), f"{where}[{number}]")
    twice = [name for name, count in Counter(group["name"] for group in value).items() if count > 1]
    if twice:
        raise PlanError(f"the plan names group {twice[0]!r} twice")


def _group(item: Mapping[str, Any], where: str) -> None:
    width, _ = _entry(item, "width", int, where), _entry(item, "name", str, where)
    kept = _positions(_entry(item, "kept", list, where), f"{where}: kept")
    if kept[-1] >= width:
        raise PlanError(f"{where}: kept has {kept[-1]}, but the group has only {width} units")


def _tensor_axes(value: Any, where: str) -> None:
    for name, axes in _of_type(value, dict, where).items():
        _axes(axes, f"{where}[{name!r}]")


def _names(value: Any, where: str) -> None:
    for number, name in enumerate(_of_type(value, list, where)):
        _of_type(name, str, f"{where.removeprefix('the plan: ')}[{number}]")


def _directions(value: Any, where: str) -> None:
    for name, counts in _of_type(value, dict, where).items():
        place = f"{where.removeprefix('the plan: ')}[{name!r}]"
        if len(_of_type(counts, list, place)) != 2 or any(_of_type(count, int, place) < 1 for count in counts):
            raise PlanError(f"{place} must be two numbers of directions of at least 1; found {counts}")


def _any(value: Any, where: str) -> None:
    """What other kinds record is theirs to read."""
    if not isinstance(value, list | dict):
        raise PlanError(f"{where} is {type(value).__name__}, neither a list nor an object")


def _axes(axes: Any, where: str) -> None:
    for axis, positions in _of_type(axes, dict, where).items():
        if not (axis.isascii() and axis.isdigit() and str(int(axis[:9])) == axis):
            raise PlanError(f"{where}: {axis!r} is not the number of an axis")
        _positions(_of_type(positions, list, f"{where}[{axis}]"), f"{where}[{axis}]")
    if not axes:
        raise PlanError(f"{where} lists no axis")


READERS: Mapping[str, Callable[[Any, str], None]] = {
    "groups": _groups,
    "kept": _tensor_axes,
    "blocks": _names,
    "directions": _directions,
}
"""Key of a record -> what refuses, with PlanError that says where, what it cannot be."""


def _positions(values: list[Any], where: str) -> Indices:
    """Check that positions are whole, ascending, not negative, and at least one."""
    if not values:
        raise PlanError(f"{where} is empty; at least one has to stay")
    for before, value in zip([-1, *values], values, strict=False):
        if _of_type(value, int, where) <= before:
            raise PlanError(f"{where} must be ascending positions from 0 on, each once; found {value} after {before}")
    return tuple(values)
