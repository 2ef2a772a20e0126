"""Which tensor of a checkpoint is which of a model: by name, else by what it holds, else by the module that it stands in."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from onnxprune.framework.placing import ORDERS, AxisMap, content_of, equal_content, is_turned, laid_as, placings
from onnxprune.framework.safetensors import SafeTensors
from onnxprune.model.graph import Graph, Node
from onnxprune.model.model import Model
from onnxprune.model.tensors import FLOATS

SEPARATORS = re.compile(r"[./]")
DISTINCT, SAMPLED = 4, 4096  # different numbers, among the first so many, of what tells a tensor by itself
OTHER = "other content"
"""How the word ends of what is told by its name alone."""
AMBIGUOUS = "{} tensors of the model hold the same, and lose other positions"


class Recognised(NamedTuple):
    """A tensor of a checkpoint, and the ``tensor`` of the model that it is, or lies along, with how that is known."""

    name: str
    tensor: str
    axes: AxisMap
    how: str


@dataclass(frozen=True)
class Remains:
    """What is left of the stored tensors of a model, by their names.

    ``positions``: axis -> the positions that stay, in order, of tensors that lose or reorder some. ``gone``: those that are
    no more. ``masks``: bool of the smaller shape, False where a weight is zero.
    """

    positions: Mapping[str, Mapping[int, np.ndarray]] = field(default_factory=dict)
    gone: frozenset[str] = frozenset()
    masks: Mapping[str, np.ndarray] = field(default_factory=dict)

    def touches(self, name: str) -> bool:
        return name in self.positions or name in self.gone or name in self.masks

    def of(self, told: Recognised) -> bytes:
        """Return what becomes of a checkpoint's tensor, as something to be compared."""
        places = self.positions.get(told.tensor, {})
        own = [places[a].tobytes() if a is not None and a in places else b"" for a in told.axes]
        mask = self.masks.get(told.tensor)
        return repr((told.tensor in self.gone, own, None if mask is None else mask.tobytes())).encode()


def module_of(name: str) -> str:
    """Return the name of what a tensor belongs to: all but the last part of its own."""
    return name[: max((match.start() for match in SEPARATORS.finditer(name)), default=0)]


class StoredFloats(Mapping[str, np.ndarray]):
    """The stored tensors of floats of a model, without those that an analysis has added; ``graph`` says who reads them."""

    def __init__(self, model: Model):
        self.model, self.graph = model, Graph(model.structure)
        added = {name for one in model.widened for name in (one.matrix, one.shift)}
        self._tensors = {
            name: tensor
            for name, tensor in self.graph.tensors.items()
            if tensor.data_type in FLOATS and name not in added
        }

    def __getitem__(self, name: str) -> np.ndarray:
        return self.model.array(self._tensors[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].dims)

    def near(self, name: str) -> Iterator[tuple[Node, set[str]]]:
        """Yield every node that reads a tensor, with the tensors that it and the nodes next to it read beside it."""
        for node, _ in self.graph.consumers.get(name, ()):
            own = {other for other in node.inputs if other in self._tensors and other != name}
            before = [self.graph.producer[value] for value in node.inputs if value in self.graph.producer]
            behind = [reader for value in node.outputs for reader, _ in self.graph.consumers.get(value, ())]
            yield node, own or self._read_by(before) - {name} or self._read_by(behind) - {name}

    def _read_by(self, nodes: Iterable[Node]) -> set[str]:
        return {name for node in nodes for name in node.inputs if name in self._tensors}


@dataclass
class Matcher:
    """Tells the tensors of a checkpoint one after the other; ``told`` by their names, ``doubts``: why one was not.

    ``explained``: tensors of the model that were computed of several that are told.
    """

    stored: StoredFloats
    file: SafeTensors
    remains: Remains
    told: dict[str, Recognised] = field(default_factory=dict)
    doubts: dict[str, str] = field(default_factory=dict)
    explained: set[str] = field(default_factory=set)

    def tell(self, name: str, tensor: str, axes: AxisMap, how: str) -> None:
        self.told[name] = Recognised(name, tensor, axes, how)
        self.doubts.pop(name, None)

    @property
    def left(self) -> list[str]:
        """The checkpoint's tensors that are not told yet."""
        return [name for name in self.file if name not in self.told]

    @property
    def open(self) -> list[str]:
        """The model's tensors that none is yet."""
        known = {told.tensor for told in self.told.values()} | self.explained
        return [name for name in self.stored if name not in known]

    # --- by name ----------------------------------------------------------------------------------------------------

    @cached_property
    def prefixes(self) -> tuple[str, str]:
        """What names of the checkpoint begin with beside those of the model, and the other way round."""
        ends = defaultdict(list)
        for tensor in self.stored:
            for end in _ends(tensor):
                ends[end].append(tensor)
        votes: Counter[tuple[str, str]] = Counter()
        for name in self.file:
            for end in _ends(name):
                for tensor in ends.get(end, ()):
                    pair = name.removesuffix(end), tensor.removesuffix(end)
                    if "" in pair and any(
                        True for _ in placings(self.file.places[name].shape, self.stored.shape(tensor))
                    ):
                        votes[pair] += 1
        most = max(votes.values(), default=0)
        best = sorted(
            (pair for pair, count in votes.items() if count == most), key=lambda pair: (len("".join(pair)), pair)
        )
        if len(best) > 1 and ("", "") not in best:
            best.sort(key=lambda pair: -self._equal_by(pair))
        return best[0] if best else ("", "")

    def _pairs(self, prefixes: tuple[str, str]) -> Iterator[tuple[str, str]]:
        own, theirs = prefixes
        for name in self.file:
            tensor = theirs + name.removeprefix(own)
            if name.startswith(own) and tensor in self.stored:
                yield name, tensor

    def _equal_by(self, prefixes: tuple[str, str]) -> int:
        return sum(
            any(self._is(name, tensor, axes) for axes in self.placings_of(name, tensor))
            for name, tensor in self._pairs(prefixes)
        )

    def placings_of(self, name: str, tensor: str) -> list[AxisMap]:
        return list(placings(self.file.places[name].shape, self.stored.shape(tensor)))

    def _is(self, name: str, tensor: str, axes: AxisMap) -> bool:
        """Whether a checkpoint's tensor, laid so, holds what the model's does."""
        return equal_content(laid_as(self.file[name], axes, self.stored.shape(tensor)), self.stored[tensor])

    def by_name(self) -> None:
        """Tell tensors of one name; where a square one can lie in two ways, its content says in which."""
        for name, tensor in self._pairs(self.prefixes):
            ways = self.placings_of(name, tensor)
            if not ways:
                shapes = (
                    f"{list(self.file.places[name].shape)}, that of the model's is {list(self.stored.shape(tensor))}"
                )
                self.doubts[name] = f"its shape is {shapes}"
                continue
            equal = [axes for axes in ways if self._is(name, tensor, axes)]
            axes = (equal or ways)[0]
            how = "name, transposed" if is_turned(axes) else "name"
            self.tell(name, tensor, axes, how if equal else f"{how}, {OTHER}")

    # --- by content -------------------------------------------------------------------------------------------------

    def by_content(self) -> None:
        """Tell tensors that hold the numbers of one of the model's, whatever they are called: tied ones and averages may be several."""
        for pairs in self._alike():
            if len({one.tensor for one in pairs}) == 1 and _says_much(self.stored[pairs[0].tensor]):
                for one in pairs:
                    self.tell(*one)

    def by_readers(self) -> None:
        """Tell those of several tensors of one content that stand in the module of what is read beside, then those whose fate is the same."""
        alike = self._alike()
        served: set[tuple[str, str]] = set()
        while any([self._by_module(pairs, served) for pairs in alike]):
            pass
        for pairs in alike:
            self._any_of(pairs)

    def _any_of(self, pairs: Sequence[Recognised]) -> None:
        """Tell tensors that can be several, if the same becomes of all of these."""
        there = set(self.open)
        rest = [one for one in pairs if one.name not in self.told]
        rest = [one for one in rest if one.tensor in there or _says_much(self.stored[one.tensor])]
        becomes = {self.remains.of(one) for one in rest}
        for one in rest:
            if len(becomes) > 1:
                self.doubts[one.name] = AMBIGUOUS.format(len({one.tensor for one in rest}))
            elif one.name not in self.told:
                self.tell(*one)

    def _alike(self) -> list[list[Recognised]]:
        """Return, for every content, which tensor of the checkpoint can be which of the model."""
        places = defaultdict(list)
        for tensor in self.stored:
            if any(size > 1 for size in self.stored.shape(tensor)):
                array = self.stored[tensor]
                places[content_of(array, array.dtype)].append((tensor, array.dtype))
        kinds = {kind for found in places.values() for _, kind in found}
        classes: dict[bytes, list[Recognised]] = defaultdict(list)
        for name in self.left:
            array = self.file[name]
            if array.dtype.kind in "biu" or array.size < 2:
                continue
            for kind in kinds:
                for key in _contents(array, kind):
                    for tensor, own in places.get(key, ()):
                        classes[key] += self._as(name, tensor) if own == kind else []
        return [list(dict.fromkeys(pairs)) for _, pairs in sorted(classes.items())]

    def _as(self, name: str, tensor: str) -> list[Recognised]:
        found = [axes for axes in self.placings_of(name, tensor) if self._is(name, tensor, axes)][:1]
        return [Recognised(name, tensor, axes, "transposed" if is_turned(axes) else "equal") for axes in found]

    def _by_module(self, pairs: Sequence[Recognised], served: set[tuple[str, str]]) -> bool:
        """Tell tensors whose module is that of what a node reads beside, one for each such node; whether there were any."""
        found = False
        for tensor in dict.fromkeys(one.tensor for one in pairs):
            for node, others in self.stored.near(tensor):
                modules = self._modules(others)
                able = [
                    one
                    for one in pairs
                    if one.tensor == tensor and one.name not in self.told and module_of(one.name) in modules
                ]
                if len(able) == 1 and (tensor, node.outputs[0]) not in served:
                    self.tell(*able[0]._replace(how=f"{able[0].how}, by its module"))
                    served.add((tensor, node.outputs[0]))
                    found = True
        return found

    def _modules(self, tensors: Iterable[str]) -> set[str]:
        wanted = set(tensors)
        return {module_of(told.name) for told in self.told.values() if told.tensor in wanted}


def _says_much(array: np.ndarray) -> bool:
    """Whether a tensor can hardly be equal to another by chance, as fresh shifts and scales are."""
    return len(np.unique(array.reshape(-1)[:SAMPLED])) >= DISTINCT


def _contents(array: np.ndarray, kind: np.dtype) -> Iterator[bytes]:
    """Yield the digests of a checkpoint's tensor as it is, and in the orders that operators take."""
    yield content_of(array, kind)
    core = np.squeeze(array)
    for order in ORDERS:
        if core.ndim == len(order):
            yield content_of(core.transpose(np.argsort(order)), kind)


def _ends(name: str) -> Iterator[str]:
    """Yield a name, and what is left of it without its first parts."""
    yield name
    for match in SEPARATORS.finditer(name):
        yield name[match.end() :]
