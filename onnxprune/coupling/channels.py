"""Where the channels of a model's outputs come from: followed through all layout to the layers that write them.

Every signature says which letters a layer's weight writes. Positions that share a component with such a letter are channels,
whatever the nodes in between transpose, split, join or reshape; a product axis is one where all its factors are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from onnxprune.coupling.links import Links, Product
from onnxprune.coupling.spec import RULES, Spec
from onnxprune.measure.outputs import VALUES, Layout, Outputs
from onnxprune.model.facts import Facts
from onnxprune.model.graph import Node
from onnxprune.model.read import FLOATS

SELECTS = frozenset({"NonMaxSuppression", "NonZero", "Unique", "Compress", "TopK"})
"""Operators whose results have as many entries as the data say, or are in an order that the data say."""
CHOOSES = frozenset({"Softmax", "LogSoftmax", "ArgMax"})
"""Operators that take what they read for class scores along their axis."""
BOUNDS = frozenset(
    {"Sigmoid", "HardSigmoid", "Tanh", "LpNormalization", "LayerNormalization", "SimplifiedLayerNormalization"}
)
"""Operators whose results are no class scores, even though they have channels."""
SQUASHES = frozenset({"Sigmoid", "HardSigmoid", "Softmax"})
"""Operators whose results lie between 0 and 1."""
PLAIN = frozenset({"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"})
"""Operators that only rearrange."""
NAMED_SCORES = "logit"


@dataclass(frozen=True)
class _Written:
    """Per component: whether it is a channel that some layer writes, and the sum of random numbers of these layers."""

    labels: np.ndarray
    channel: np.ndarray
    makers: np.ndarray


def layouts(links: Links) -> dict[str, Layout]:
    """Return what the graph says about each output, and about the inner values that stand in for some."""
    facts = links.facts
    written = _written(links)
    varying = {name: _selected_from(links, name) for name in facts.graph.outputs}
    names = dict.fromkeys([*facts.graph.outputs, *(source for found in varying.values() for source in found or ())])
    return {name: _layout(links, name, written, varying.get(name)) for name in names}


def _layout(links: Links, name: str, written: _Written, sources: tuple[str, ...] | None) -> Layout:
    facts = links.facts
    if name in facts.constants:
        return Layout(constant=True)
    if any(state.present == name for state in facts.decoding.caches):
        return Layout(state=True)
    if sources is not None:
        return Layout(varies=True, sources=sources)
    shape = facts.shape(name) or ()
    places = [written.labels[links.axis(name, axis)] for axis in range(len(shape))]
    shares = [float(written.channel[found].mean()) if len(found) else 0.0 for found in places]
    axis = max(range(len(shape)), key=lambda a: (shares[a], a), default=None)
    behind = _behind_layers(links, name)
    layers = [node for node, _ in last_layers(links, [name])]
    free = tuple(a for a in range(len(shape)) if not facts.static(name, a))
    if axis is None or not shares[axis]:
        followed = bool(layers) and all(node.op in RULES and RULES[node.op].family != "barrier" for node in behind)
        return Layout(
            bare=followed,
            free=free,
            scores=_named(name),
            bounded=_maker(facts, name) in BOUNDS,
            shares=_squashed(behind),
        )
    makers = np.where(written.channel[places[axis]], written.makers[places[axis]].astype(np.int64), -1)
    return Layout(
        axis,
        free=free,
        makers=makers,
        scores=_named(name) or _chosen_among(facts, name, axis),
        bounded=_maker(facts, name) in BOUNDS,
        shares=_squashed(behind),
        by_product=all(node.op in ("MatMul", "Gemm") for node in layers) and len(layers) == 1,
    )


# --- channels ---------------------------------------------------------------------------------------------------------


def written_letters(node: Node, spec: Spec, constants: frozenset[str]) -> Iterator[tuple[int, str]]:
    """Yield (input, letter) that a stored weight of a contraction writes: letters that the data it reads do not have."""
    sinks = spec.sinks()
    if not spec.cost or not spec.outputs or spec.outputs[0] is None:
        return
    read = [i for i, operand in enumerate(spec.inputs) if spec.letters([operand]) & sinks]
    weights = [i for i in read if node.input(i) in constants]
    data = spec.letters(spec.inputs[i] for i in read if node.input(i) not in constants)
    for number in weights:
        for letter in spec.letters([spec.inputs[number]]) & spec.letters(spec.outputs) - data:
            yield number, letter


def _written(links: Links) -> _Written:
    labels, _ = links.components()
    count = int(labels.max(initial=-1)) + 1
    channel, makers = np.zeros(count, bool), np.zeros(count, np.uint64)
    random = np.random.default_rng(7)
    for index, (node, spec) in enumerate(links.specs):
        own = random.integers(1, 2**62, dtype=np.uint64)
        for letter in {letter for _, letter in written_letters(node, spec, links.facts.constants)}:
            there = np.unique(labels[links.letter(index, letter)])
            channel[there] = True
            makers[there] += own
    _through_products(links, labels, channel, makers)
    return _Written(labels, channel, makers)


def _through_products(links: Links, labels: np.ndarray, channel: np.ndarray, makers: np.ndarray) -> None:
    """Carry channels from a product axis to its factors, and to a product from its factors, until nothing changes."""
    choices = [(choice, labels[choice.fine]) for choice in links.choices]
    changed = True
    while changed:
        changed = False
        for choice, fine in choices:
            factors = [labels[factor] for factor in choice.factors]
            whole, parts = bool(channel[fine].all()), [bool(channel[factor].all()) for factor in factors]
            if whole and not all(parts):
                for factor, place in zip(factors, choice.maps, strict=True):
                    makers[factor[place]] = np.where(channel[factor[place]], makers[factor[place]], makers[fine])
                    channel[factor] = True
                changed = True
            elif all(parts) and not whole and len(fine):
                makers[fine] = _product_makers(choice, factors, makers)
                channel[fine] = True
                changed = True


def _product_makers(choice: Product, factors: list[np.ndarray], makers: np.ndarray) -> np.ndarray:
    found = np.zeros(len(choice.fine), np.uint64)
    for factor, place in zip(factors, choice.maps, strict=True):
        found += makers[factor[place]]
    return found


def last_layers(links: Links, names: Iterable[str]) -> list[tuple[Node, int]]:
    """Return (node, number of its signature) of the contractions whose results reach these values through no other layer."""
    place = {output: index for index, (node, _) in enumerate(links.specs) for output in node.outputs if output}
    todo, seen, found = list(names), set[int](), []
    while todo:
        index = place.get(todo.pop())
        if index is None or index in seen:
            continue
        seen.add(index)
        node, spec = links.specs[index]
        if any(True for _ in written_letters(node, spec, links.facts.constants)):
            found.append((node, index))
        elif not (spec.lossy or spec.statistics):
            todo.extend(name for name in node.inputs if name and name not in links.facts.constants)
    return sorted(found, key=lambda entry: entry[1])


def row_importance(links: Links, outputs: Outputs) -> dict[str, np.ndarray]:
    """Return stored weight -> float64[channels it writes]: how much each counts where it directly makes an output of values."""
    labels, _ = links.components()
    found: dict[str, np.ndarray] = {}
    for output in outputs.judged:
        place = (output.name, output.channel_axis)
        if output.kind != VALUES or output.channel_axis is None or place not in links.axes:
            continue
        there = labels[links.axis(output.name, output.channel_axis)]
        weight = dict(zip(there.tolist(), (output.importance * output.weight).tolist(), strict=True))
        usual = float(output.importance * output.weight.mean())
        for node, index in last_layers(links, [output.name]):
            _, spec = links.specs[index]
            for number, letter in written_letters(node, spec, links.facts.constants):
                name, axis = node.input(number), _axis_of(spec, number, letter)
                if axis is not None and name not in found:
                    rows = labels[links.axis(name, axis)].tolist()
                    found[name] = np.array([weight.get(row, usual) for row in rows], np.float64)
    return found


def _axis_of(spec: Spec, number: int, letter: str) -> int | None:
    operand = spec.inputs[number] or ()
    return next((axis for axis, term in enumerate(operand) if letter in term.letters), None)


# --- what else the graph says -----------------------------------------------------------------------------------------


def _named(name: str) -> bool:
    return NAMED_SCORES in name.lower()


def _squashed(behind: Iterable[Node]) -> bool:
    return any(node.op in SQUASHES for node in behind)


def _maker(facts: Facts, name: str) -> str:
    """Return the operator behind a value, layout aside."""
    node = facts.graph.producer.get(name)
    while node is not None and node.op in PLAIN:
        node = facts.graph.producer.get(node.input(0))
    return node.op if node is not None else ""


def _chosen_among(facts: Facts, name: str, axis: int) -> bool:
    """Whether a node that reads the value picks, or shares out, along its channels."""
    rank = len(facts.shape(name) or ())
    users = (node for node, _ in facts.graph.consumers.get(name, ()) if node.op in CHOOSES)
    return any(int(node.attribute("axis", -1)) % rank == axis for node in users)


def _behind_layers(links: Links, name: str) -> list[Node]:
    """Return the nodes between an output and the last layers before it."""
    facts = links.facts
    layers = {node.outputs[0] for node, _ in last_layers(links, [name])}
    todo, found = [name], dict[str, Node]()
    while todo:
        node = facts.graph.producer.get(todo.pop())
        if node is not None and node.outputs[0] not in found and node.outputs[0] not in layers:
            found[node.outputs[0]] = node
            todo.extend(value for value in node.inputs if value and value not in facts.constants)
    return list(found.values())


def _selected_from(links: Links, name: str) -> tuple[str, ...] | None:
    """Return the last float values before an output's entries, or their order, are up to the data; None where they are not."""
    facts, nodes = links.facts, {id(node) for node in _behind_layers(links, name)}
    selected: dict[str, bool] = {}
    before: dict[str, None] = {}
    for node in (node for node in facts.graph.nodes if id(node) in nodes):
        by_data = node.op in SELECTS or any(selected.get(value, False) for value in node.inputs)
        selected.update((value, by_data) for value in node.outputs if value)
        before.update((value, None) for value in node.inputs if by_data and not selected.get(value, False))
    return _floats(facts, before) if selected.get(name, False) else None


def _floats(facts: Facts, values: Iterable[str]) -> tuple[str, ...]:
    """Return the inner float values among these, or where one is a flag or a number, those that it is made of."""
    found, seen, todo = dict[str, None](), set[str](), list(values)[::-1]
    while todo:
        value = todo.pop()
        node = facts.graph.producer.get(value)
        if node is None or value in facts.constants or value in seen:
            continue
        seen.add(value)
        if facts.dtype(value) in FLOATS and facts.shape(value):
            found.setdefault(value)
        elif facts.dtype(value) not in FLOATS:
            todo.extend(node.inputs)
    return tuple(found)
