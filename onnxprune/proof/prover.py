"""Running a result beside its reference: the original first, then both on inputs of every kind until everything is seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from onnxprune.errors import ModelError
from onnxprune.model.facts import Facts, free_sizes
from onnxprune.model.model import Model
from onnxprune.model.runtime import Session, release_memory, release_shared_memory, session
from onnxprune.progress import silent
from onnxprune.proof.float32 import BRAIN, has_any, in_float32
from onnxprune.proof.inputs import SIZED, Feeds, has_switches, random_feeds
from onnxprune.proof.pieces import KINDS, Pieces, goes_by_segments
from onnxprune.proof.positions import difference
from onnxprune.proof.smaller import smaller_sizes, with_free_inputs
from onnxprune.proof.stand_ins import stand_ins
from onnxprune.proof.trial import NotRun, SideBySide, with_outputs
from onnxprune.proof.verdict import SurgeryCheck
from onnxprune.proof.witnesses import Witnesses

ALWAYS = ("rows", "normal", "again", "wide", "sizes", "cached")  # kinds of inputs for every proof
ENOUGH = {"again": 1 << 12, "wide": 1 << 16}
"""Kind -> numbers in an input from which on it adds nothing to one standard normal draw."""

SWITCHED = ("unit", "image")  # further ones where flags and masks choose between paths
SMALLER = ("rows", "smaller", "smaller sizes")  # where smaller inputs show as much
FURTHER = (*SWITCHED, "negative", "broken")  # and where something has not been seen yet


class Prover:
    """Compares results with references of one original, which is run once for every input.

    ``rows``: real inputs. ``integers``: by input, the whole numbers that occur in real data; ``allowed``: those that all inputs are drawn from.
    """

    def __init__(
        self,
        facts: Facts,
        *,
        seed: int = 0,
        threads: int = 1,
        rows: Sequence[Feeds] = (),
        integers: Mapping[str, np.ndarray] | None = None,
        allowed: Mapping[str, np.ndarray] | None = None,
    ):
        self.facts, self.seed, self.threads, self.allowed = facts, seed, threads, allowed or {}
        self.progress = silent
        self.integers = {**(integers or {}), **self.allowed}
        self.stand_ins = stand_ins(facts)
        self.rows = () if self.stand_ins.fixed_sizes else tuple(rows)
        self.owners = [name for node in facts.graph.top if node.bodies for name in node.outputs if name]
        self._plain = has_any(facts.model.structure, BRAIN)
        self._runs: dict[str, list[tuple[Feeds, dict[str, Any]]]] = {}
        self.refusal = ""
        alike = not self.stand_ins.fixed_sizes and not self.stand_ins.recorded
        self.by_segments = goes_by_segments(facts, self.stand_ins)
        self.smaller = smaller_sizes(facts) if alike and not self.by_segments else ()
        self.kinds = (*ALWAYS, *FURTHER)

    def compare(self, reference: Model, small: Model, witnesses: Witnesses | None) -> SurgeryCheck:
        """Compare until everything is seen or something differs, at last on every kind of input.

        ``witnesses``: inner values that must agree too; None: outputs alone, which then need not move. Raises NothingRunError where
        the original takes no input that there is.
        """
        if self.by_segments:
            return self._compare_by_segments(reference, small, witnesses)
        self._leave_smaller_sizes_that_are_refused()
        trial = SideBySide(self, reference, small, witnesses)
        first = [*(SMALLER if self.smaller else ALWAYS), *(SWITCHED if has_switches(self.facts) else ())]
        further = [kind for kind in FURTHER if kind not in first]
        looks: tuple[Callable[[], None], ...] = (
            lambda: trial.run(self.original(first)),
            lambda: trial.run(self._showing(trial.seen.unseen_outputs, further)),
            lambda: trial.sever("normal"),
            lambda: trial.sever("unit"),
            lambda: trial.run(self.original(further)),
        )
        try:
            for look in looks:
                look()
                if trial.seen.differs or trial.seen.settled:
                    break
        except NotRun as error:
            return SurgeryCheck(False, np.inf, np.inf, 0.0, problem=str(error))
        if not any(self._runs.values()):
            raise self._nothing_run
        return trial.seen.verdict()

    def _compare_by_segments(self, reference: Model, small: Model, witnesses: Witnesses | None) -> SurgeryCheck:
        pieces, ran = Pieces(self, reference, small, witnesses), False
        try:
            for kinds in KINDS:
                ran = pieces.look(kinds) or ran
                if pieces.seen.differs or (ran and pieces.seen.settled):
                    break
        except NotRun as error:
            return SurgeryCheck(False, np.inf, np.inf, 0.0, problem=str(error))
        finally:
            release_shared_memory()
        if not ran:
            raise self._nothing_run
        return pieces.seen.verdict()

    @property
    def _nothing_run(self) -> NothingRunError:
        return NothingRunError(
            f"the original model cannot be run on drawn inputs: {self.refusal}"
            f"{free_sizes(self.facts.graph, self.facts.first) or '. Give real inputs (--calib)'}"
        )

    def _leave_smaller_sizes_that_are_refused(self) -> None:
        """Draw inputs of the sizes that the model is made for where it takes no smaller ones (a sequence that is written out step by step)."""
        if self.smaller and not self.original(SMALLER):
            self.smaller, self.refusal = (), ""
            self._runs.clear()

    def _showing(self, outputs: set[str], kinds: Sequence[str]) -> list[tuple[Feeds, dict[str, Any]]]:
        """Return the runs of the original that give one of the outputs a finite value other than zero."""
        if not outputs:
            return []
        return [
            run
            for run in self.original(kinds)
            if any(difference(run[1][n], run[1][n]).seen for n in outputs & run[1].keys())
        ]

    def original(self, kinds: Sequence[str]) -> list[tuple[Feeds, dict[str, Any]]]:
        """Return the inputs of these kinds that the original takes, each with its outputs and what it drew; run once."""
        fresh = {kind: self.feeds(kind) for kind in kinds if kind not in self._runs}
        if any(fresh.values()):
            opened = self._original
            for kind, feeds in fresh.items():
                self._runs[kind] = []
                for feed in feeds:
                    try:
                        self._runs[kind].append((feed, opened.run(feed)))
                    except ModelError as error:
                        self.refusal = self.refusal or str(error)
            del opened
            release_memory()
        return [run for kind in kinds for run in self._runs.get(kind, ())]

    @property
    def _original(self) -> Session:
        model = self.facts.model
        whole = self.stand_ins.original(with_outputs(model.draft(), self.owners), self.seed)
        try:
            return self.open(model.derived(whole))
        except ModelError as error:
            raise ModelError(f"the original model is refused: {error}") from error

    def open(self, model: Model) -> Session:
        """Open a model without optimisation, as it stands but for the sizes of inputs where smaller ones are given."""
        taking = with_free_inputs(model, self.smaller[0]) if self.smaller else model
        return session(in_float32(taking) if self._plain else taking, threads=self.threads, optimise=False)

    def feeds(self, kind: str) -> list[Feeds]:
        """Draw inputs of a kind."""
        facts, seed = self.facts, self.seed
        if kind == "rows":
            return [dict(row) for row in self.rows]
        if kind in SMALLER:
            other = int(kind == SMALLER[-1])  # the other assignment of free sizes, where there is one
            found = [
                random_feeds(facts, seed + other, sizes, integers=self.integers) for sizes in self.smaller[other:][:1]
            ]
        elif kind in SIZED:
            sizes = None if self.stand_ins.fixed_sizes else SIZED[kind](facts)
            found = [] if sizes is None else [random_feeds(facts, seed, sizes, integers=self.integers)]
        else:
            again = kind == "again"
            real = self.integers if kind in ALWAYS else self.allowed  # further kinds look for paths that no row goes
            found = [random_feeds(facts, seed + again, kind="normal" if again else kind, integers=real)]
            if sum(value.size for value in found[0].values()) > ENOUGH.get(kind, np.inf):
                return []
        return [self._typed(feed | self.stand_ins.drawn(seed)) for feed in found]

    def _typed(self, feed: Feeds) -> Feeds:
        plain = self._plain
        return {n: a.astype(np.float32) if plain and a.dtype.name == "bfloat16" else a for n, a in feed.items()}


class NothingRunError(ModelError):
    """The original takes none of the inputs that were drawn, and there are no others."""
