"""Recurrent layers as rows times a matrix: what the gates sum up of a step's input and of the state before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from onnx import TensorProto, helper

from onnxprune.evidence.rows import Sampler
from onnxprune.model.facts import Facts
from onnxprune.model.graph import Node
from onnxprune.model.runtime import Session, session
from onnxprune.repair.maps import MAX_INPUTS, LinearMap, WeightBlock
from onnxprune.repair.operands import Operands
from onnxprune.repair.stored import Encoding, Stored

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
INPUTS = {"LSTM": 8, "GRU": 6, "RNN": 6}
X, W, R, B, LENGTHS, STATE = range(6)
UPDATE, RESET, NEW = range(3)  # gates of a GRU


@dataclass(frozen=True)
class Recurrent(LinearMap):
    """A recurrent layer: what its gates sum up of [x_t; h_(t-1)], in every direction.

    Rows have the states of the layer as its weights are now, on the inputs that it is shown. Groups are directions; of a GRU
    the gates of each: its new gate reads the reset state, or, where the reset comes after the product, has one group that reads
    the input and one that reads the state.
    """

    stored: Stored = field(compare=False)
    own: Encoding | None

    @property
    def reads(self) -> int:
        return -1

    @property
    def by_position(self) -> bool:
        return False

    @property
    def recurs(self) -> bool:
        return True

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(name for name in self.node.inputs if name and name not in self._constants)

    @property
    def _constants(self) -> dict[str, np.ndarray]:
        found = {name: self.stored.content(name) for name in self.node.inputs if name}
        lengths = self.node.input(LENGTHS)
        if lengths in self.stored.arrays:
            found[lengths] = self.stored.arrays[lengths]
        return {name: array for name, array in found.items() if array is not None}

    # --- states -----------------------------------------------------------------------------------------------------

    @property
    def directions(self) -> tuple[str, ...]:
        told = self.node.attribute("direction", "forward")
        return ("forward", "reverse") if told == "bidirectional" else (told,)

    def counts_of(self, values: Sequence[np.ndarray], sampler: Sampler) -> np.ndarray:
        return np.array([len(places) for places in self._places(self._fed(values), sampler)])

    def rows_of(self, values: Sequence[np.ndarray], sampler: Sampler) -> np.ndarray:
        fed = self._fed(values)
        places = self._places(fed, sampler)
        samples, steps = np.repeat(np.arange(len(places)), [len(p) for p in places]), np.concatenate(places)
        x = np.asarray(fed[X], np.float32)[steps, samples]
        before = np.asarray(self._states_before(fed), np.float32)[:, steps, samples]
        return np.concatenate([self._of_gates(x, state, d) for d, state in enumerate(before)])

    def _fed(self, values: Sequence[np.ndarray]) -> dict[int, np.ndarray]:
        """Return the operands by number, those that are stored as they are now."""
        known: dict[str, np.ndarray] = {**self._constants, **dict(zip(self.sources, values, strict=True))}
        return {number: known[name] for number, name in enumerate(self.node.inputs) if name}

    def _lengths(self, fed: Mapping[int, np.ndarray]) -> np.ndarray:
        steps, samples = fed[X].shape[:2]
        return np.clip(fed.get(LENGTHS, np.full(samples, steps)), 0, steps)

    def _places(self, fed: Mapping[int, np.ndarray], sampler: Sampler) -> list[np.ndarray]:
        """Return the steps of every sample that are looked at, padding left out."""
        steps, samples = fed[X].shape[:2]
        valid = np.arange(steps) < self._lengths(fed)[:, None]
        if sampler.mask is not None and sampler.mask.shape == valid.shape:
            valid = valid & sampler.mask
        return sampler.unfolded(samples).places(valid)

    def _states_before(self, fed: Mapping[int, np.ndarray]) -> np.ndarray:
        """Return [directions, steps, samples, hidden]: the state that every step goes on from."""
        kinds = {LENGTHS: np.int32}
        feeds = {f"in{number}": np.asarray(array, kinds.get(number, np.float32)) for number, array in fed.items()}
        made = self._alone.run(feeds)["states"]
        first = np.zeros_like(made[0]) if STATE not in fed else fed[STATE]
        lengths, before = self._lengths(fed), []
        for d, direction in enumerate(self.directions):
            if direction == "forward":
                before.append(np.concatenate([first[None, d], made[:-1, d]]))
                continue
            after = np.concatenate([made[1:, d], first[None, d]])
            inside = lengths > 0
            after[lengths[inside] - 1, np.flatnonzero(inside)] = first[d, inside]
            before.append(after)
        return np.stack(before)

    @cached_property
    def _alone(self) -> Session:
        """The layer alone, with all operands as inputs, which gives all states."""
        names = [f"in{number}" if name else "" for number, name in enumerate(self.node.inputs)]
        proto = helper.make_node(self.node.op, names, ["states"])
        proto.attribute.extend(self.node.proto.attribute)
        kinds = [TensorProto.INT32 if number == LENGTHS else TensorProto.FLOAT for number in range(len(names))]
        inputs = [helper.make_tensor_value_info(n, kind, None) for n, kind in zip(names, kinds, strict=True) if n]
        outputs = [helper.make_tensor_value_info("states", TensorProto.FLOAT, None)]
        graph = helper.make_graph([proto], "layer", inputs, outputs)
        opset = helper.make_opsetid("", self.node.version)
        return session(helper.make_model(graph, opset_imports=[opset], ir_version=8))

    # --- gates ------------------------------------------------------------------------------------------------------

    def _of_gates(self, x: np.ndarray, state: np.ndarray, direction: int) -> np.ndarray:
        """Return float32[groups of one direction, rows, d] of inputs and states [rows, ..]."""
        rows = np.concatenate([x, state], axis=1)
        if self.node.op != "GRU":
            return rows[None]
        inputs = x.shape[1]
        if late_reset(self.node):
            alone = [rows * (np.arange(rows.shape[1]) < inputs), rows * (np.arange(rows.shape[1]) >= inputs)]
            return np.stack([rows, rows, *alone]).astype(np.float32)
        group = direction * GATES["GRU"] + RESET
        summed = rows @ self.whole(self.stored.arrays)[group].T + self.offset(self.stored)[group]
        clip = self.node.attribute("clip", np.inf) or np.inf
        reset = 1 / (1 + np.exp(-np.clip(summed, -clip, clip)))
        return np.stack([rows, rows, np.concatenate([x, reset * state], axis=1)]).astype(np.float32)

    def _biases(self, stored: np.ndarray) -> np.ndarray:
        """Return [directions, 2, gates, hidden] of an array that is shaped like the stored bias."""
        return stored.reshape(len(self.directions), 2, GATES[self.node.op], -1)

    def offset(self, stored: Stored) -> np.ndarray:
        if self.own is None:
            return np.zeros(self.shape[:2])
        of_input, of_state = np.moveaxis(self._biases(self.own.read(stored.arrays[self.own.name])), 1, 0)
        summed = of_input + of_state
        if late_reset(self.node):
            summed = np.concatenate([summed[:, :NEW], of_input[:, NEW:], of_state[:, NEW:]], axis=1)
        return np.reshape(summed, self.shape[:2])

    def shifted(self, bias: np.ndarray, change: np.ndarray) -> np.ndarray:
        """Add the change to the bias of the inputs, and that of what a reset multiplies to the bias of the states."""
        assert self.shift is not None
        moved = self.shift.read(bias)
        parts = self._biases(moved)
        of = change.reshape(len(self.directions), -1, parts.shape[3])  # [directions, gates, hidden]
        parts[:, 0] += of[:, : parts.shape[2]]
        if late_reset(self.node):
            parts[:, 1, NEW] += of[:, NEW + 1]
        return self.shift.write(moved, bias)


def late_reset(node: Node) -> bool:
    """Whether a GRU resets what its state was multiplied to."""
    return node.op == "GRU" and bool(node.attribute("linear_before_reset", 0))


def recurrent_layer(node: Node, stored: Stored, facts: Facts) -> Recurrent | None:
    """Return a recurrent layer with weights of its own; None where it has none, or its states cannot be had."""
    of_input, of_state = (stored.encoding(node.input(number)) for number in (W, R))
    if of_input is None or of_state is None or not _shows_its_states(node, stored, facts):
        return None
    blocks = _blocks(node, of_input, of_state, stored)
    mixed = (of_input.grid is None) != (of_state.grid is None)
    if mixed or sum(block.shape[2] for block in blocks) > MAX_INPUTS:
        return None
    directions = 2 if node.attribute("direction", "forward") == "bidirectional" else 1
    per_direction = 1 if node.op != "GRU" else GATES["GRU"] + late_reset(node)
    groups = directions * per_direction
    own, shared = stored.encoding(node.input(B)), stored.encoding(node.input(B), alone=False)
    output = next(name for name in node.outputs if name)
    operands = Operands(node.inputs[X], blocks[0].encoding, output, own, fixed=own is None)
    channels = groups * blocks[0].shape[1]
    return Recurrent(node, operands, groups, -1, channels, blocks, stored, own or shared, shift=own, activation="gates")


def _shows_its_states(node: Node, stored: Stored, facts: Facts) -> bool:
    """Whether the layer alone can be run as it is here, and its gates be told from what it gives."""
    values = [node.input(X), *filter(None, node.outputs)]
    floats = all(facts.dtype(name) == TensorProto.FLOAT for name in values)
    told: list[bytes] = node.attribute("activations") or []
    early = node.op == "GRU" and not late_reset(node)
    plain = not early or all(name.lower() == b"sigmoid" for name in told[::2])
    return floats and plain and not node.attribute("layout", 0) and node.input(X) not in facts.constants


def _blocks(node: Node, of_input: Encoding, of_state: Encoding, stored: Stored) -> tuple[WeightBlock, WeightBlock]:
    """Return the weights of inputs and of states as blocks of one matrix; see ``Recurrent`` for its groups."""
    shapes = [stored.arrays[encoding.name].shape for encoding in (of_input, of_state)]
    inputs = shapes[0][2]
    if node.op != "GRU":
        order = ((0,), (1,), (2,))
        of_states = WeightBlock(of_state, shapes[1], order, start=inputs, along=2)
        return WeightBlock(of_input, shapes[0], order, along=2), of_states
    sizes = [(s[0], GATES["GRU"], s[1] // GATES["GRU"], s[2]) for s in shapes]
    read: tuple[int, ...] | None = None
    looped, kept = read, ((0, 1), (2,), (3,))
    if late_reset(node):
        starts = range(0, shapes[0][0] * (GATES["GRU"] + 1), GATES["GRU"] + 1)
        read = tuple(start + gate for start in starts for gate in (UPDATE, RESET, NEW))
        looped = tuple(start + gate for start in starts for gate in (UPDATE, RESET, NEW + 1))
    return (
        WeightBlock(of_input, sizes[0], kept, read, along=2),
        WeightBlock(of_state, sizes[1], kept, looped, start=inputs, along=2),
    )
