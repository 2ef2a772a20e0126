"""Nodes and edges as inline SVG: what became of each is told by colour, by the width of its edges, and by its outline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from onnxprune.report.documents.graph.layering import Layering, layout
from onnxprune.report.visible import visible

if TYPE_CHECKING:
    from markupsafe import Markup  # of an extra: words about nodes are for every document, and only drawing needs it

Row = Mapping[str, Any]

WIDE, HIGH, PITCH, PORT_HIGH = 164, 44, 74, 24
MARGIN = 6
LETTERS = 22
"""Of a line inside a box; the font has letters of one width."""
FULL, LEAST, PLAIN = 9.0, 1.5, 2.0
"""How wide an edge is of which all can go and all stays, of which hardly anything stays, and of which nothing can go."""
PORT = "port"
LOOKS = {"pruned": "pruned", "kept": "kept", "frozen": "frozen", None: "plain", "removed": "gone"}
"""Status -> the class of a box; every other status is of what has become something else."""
CAN = "can be pruned"
LONGEST_TITLE, LONGEST_NAME, LONGEST_OPERATOR = 240, 72, 48


class Box(NamedTuple):
    """A box: of node number ``node``, or of what is read from outside or given out (``text``)."""

    node: int | None
    text: str = ""


def drawn(graph: Mapping[str, Any], block: Sequence[int], title: str, decided: bool) -> Markup:
    """Draw some nodes of a graph, what they read from elsewhere, and the outputs of the model among them."""
    from markupsafe import Markup, escape

    rows: Sequence[Row] = graph["nodes"]
    outside = sorted({source for node in block for source in rows[node]["reads"] if source not in block})
    given = [(one["name"], one["node"]) for one in graph["outputs"] if one["node"] in block]
    parts = [Box(None, _outside(graph, source)) for source in outside]
    place = {source: number for number, source in enumerate([*outside, *block])}
    parts += [Box(node) for node in block] + [Box(None, visible(name)) for name, _ in given]
    edges = [(place[source], place[node]) for node in block for source in rows[node]["reads"]]
    edges += [(place[node], len(place) + number) for number, (_, node) in enumerate(given)]
    found = layout([WIDE] * len(parts), edges)
    width, height = round(found.width + 2 * MARGIN), found.layers * PITCH - (PITCH - HIGH) + 2 * MARGIN
    sources = [*outside, *block]
    body = "".join(_edge(found, edge, _values(rows, sources[edge[0]])) for edge in dict.fromkeys(edges))
    body += "".join(_box(found, number, part, rows, decided) for number, part in enumerate(parts))
    return Markup(
        f'<svg class="graph" role="img" aria-label="{escape(title)}" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}">{body}</svg>'
    )


def _outside(graph: Mapping[str, Any], source: int) -> str:
    """Return what a value is called that comes from elsewhere: an input of the model, or the node that writes it."""
    return visible(graph["inputs"][-1 - source]) if source < 0 else short(graph["nodes"][source])


def _values(rows: Sequence[Row], source: int) -> tuple[int | None, int | None]:
    return (rows[source]["width_before"], rows[source]["width_after"]) if source >= 0 else (None, None)


def _edge(found: Layering, edge: tuple[int, int], width: tuple[int | None, int | None]) -> str:
    """Draw an edge as wide as it was and, over that, as wide as it is; thin and dashed where nothing of it can go."""
    source, target = edge
    points = [(found.x[source], found.layer[source])]
    points += [(x, found.layer[source] + 1 + number) for number, x in enumerate(found.routes[edge])]
    points.append((found.x[target], found.layer[target]))
    path, (x, layer) = f"M{_at(points[0][0])} {_top(points[0][1]) + HIGH}", points[0]
    for number, (to, below) in enumerate(points[1:], 1):
        start, end = _top(layer) + HIGH, _top(below)
        middle = (start + end) // 2
        path += f"C{_at(x)} {middle} {_at(to)} {middle} {_at(to)} {end}" if to != x else f"V{end}"
        if number < len(points) - 1:
            path += f"v{HIGH}"
        x, layer = to, below
    before, after = width
    if not before or after is None:
        return f'<path class="e" d="{path}"/>'
    left = max(LEAST, FULL * after / before) if after else 0
    wide = f'<path class="was" d="{path}"/>' if after < before else ""
    return f'{wide}<path class="{"cut" if after < before else "all"}" stroke-width="{left:.1f}" d="{path}"/>'


def _top(layer: int) -> int:
    return MARGIN + layer * PITCH


def _at(x: float) -> int:
    return round(x + MARGIN)


def _box(found: Layering, number: int, part: Box, rows: Sequence[Row], decided: bool) -> str:
    from markupsafe import escape

    left, top = _at(found.x[number] - WIDE / 2), _top(found.layer[number])
    if part.node is None:
        text = escape(_fitted(part.text))
        shift = (HIGH - PORT_HIGH) // 2
        return (
            f'<g class="{PORT}" transform="translate({left} {top + shift})"><title>{escape(part.text[:LONGEST_TITLE])}'
            f'</title><path d="M0-{shift}m{WIDE // 2} 0v{HIGH}"/><rect width="{WIDE}" height="{PORT_HIGH}" rx="12"/>'
            f'<text x="{WIDE // 2}" y="16">{text}</text></g>'
        )
    row = rows[part.node]
    look = look_of(row, decided)
    share = share_left(row)
    bar = "" if share is None else f'<rect class="bar" y="40" width="{round(WIDE * share)}" height="4"/>'
    return (
        f'<g class="{look}" transform="translate({left} {top})"><title>{escape(_title(row, decided))}</title>'
        f'<rect width="{WIDE}" height="{HIGH}" rx="{4 if row["status"] else 20}"/>{bar}'
        f'<text x="{WIDE // 2}" y="17">{escape(_fitted(short(row)))}</text>'
        f'<text class="s" x="{WIDE // 2}" y="33">{escape(_fitted(figures_of(row), LETTERS + 4))}</text></g>'
    )


def look_of(row: Row, decided: bool) -> str:
    """Return the class of a node's box; where nothing was decided yet, what can be pruned looks as if it were."""
    look = LOOKS.get(row["status"], "changed")
    return "pruned" if look == "kept" and not decided else look


def share_left(row: Row) -> float | None:
    """Return the share of what a node writes that stays, None where nothing of it can go."""
    before, after = row["width_before"], row["width_after"]
    return after / before if before and after is not None and row["status"] is not None else None


def figures_of(row: Row) -> str:
    """Say in a few letters what a node is: operator, width, MACs; of one without these, what follows it, as much as fits."""
    words = [_operator(row["op"])]
    before, after = row["width_before"], row["width_after"]
    if before and row["status"] is not None:
        words.append(f"{after} of {before}" if after != before else str(before))
    if row["macs_before"]:
        words.append(counted(row["macs_after"]))
    elif len(words) == 1 and row["then"]:
        return _listed([*words, *map(_operator, row["then"])])
    return " · ".join(words)


def _listed(words: Sequence[str]) -> str:
    """Return operators as far as they fit into a box, and how many more there are."""
    texts = [" · ".join(words)]
    texts += [" · ".join((*words[:count], f"{len(words) - count} more")) for count in range(len(words) - 1, 0, -1)]
    return next((text for text in texts if len(text) <= LETTERS + 4), texts[-1])


def _operator(op: str) -> str:
    """Return the name of an operator without its domain."""
    return visible(op).rpartition("::")[2][:LONGEST_OPERATOR]


def counted(number: float) -> str:
    """Return a count in three digits and a unit: 1.33M."""
    for unit in ("", "k", "M", "G", "T"):
        if number < 999.5 or unit == "T":
            return f"{number:.0f}" if not unit else f"{number:.3g}{unit}"
        number /= 1000
    raise AssertionError


def short(row: Row) -> str:
    """Return the end of a node's name that tells it from others: the last of those that were joined, without the operator behind."""
    parts = [part for part in visible(row["node"]).rpartition(";")[2].split("/") if part]
    if len(parts) > 1 and parts[-1].startswith(row["op"]):
        parts.pop()
    named = [part for at, part in enumerate(parts) if at + 1 == len(parts) or not parts[at + 1].startswith(f"{part}.")]
    return _fitted("/".join(named) or visible(row["op"]), LONGEST_NAME)


def _fitted(text: str, letters: int = LETTERS) -> str:
    """Return the end of a text that is too long: that is where names differ."""
    return text if len(text) <= letters else f"…{text[-(letters - 1) :]}"


def _title(row: Row, decided: bool) -> str:
    return "\n".join(_lines(row, decided))


def _lines(row: Row, decided: bool) -> Iterator[str]:
    """Yield what is said of a node when a pointer rests on it."""
    name = visible(row["node"])
    yield name if len(name) <= LONGEST_TITLE else f"{name[: LONGEST_TITLE // 2]}…{name[-LONGEST_TITLE // 2 :]}"
    then = ", ".join(map(_operator, row["then"][:8]))
    yield _operator(row["op"]) + (f", then {then}" if then else "")
    if row["status"]:
        word = CAN if row["status"] == "kept" and not decided else row["status"]
        yield f"{word}: {visible(row['reason'])[:LONGEST_TITLE]}" if row["reason"] else word
    for key, what in (("width", "width"), ("macs", "MACs"), ("parameters", "parameters")):
        before, after = row[f"{key}_before"], row[f"{key}_after"]
        if before:
            yield f"{what} {before:,}" + ("" if before == after else f" to {after:,}")
