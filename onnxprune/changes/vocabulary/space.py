"""Tokens as a kind of change (``--vocabulary``): rows of tables go, and of heads what scores them; what stays gives what it gave."""

from __future__ import annotations

import base64
import copy
import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from onnx import helper

from onnxprune.allocate import Costs, Target
from onnxprune.changes.analysing import facts_of
from onnxprune.changes.change import Change, Space, Totals
from onnxprune.changes.context import Context, first_rows
from onnxprune.changes.vocabulary.find import TokenTensor, known_outputs, token_tensors
from onnxprune.changes.vocabulary.surgery import TokenMap, narrowed, of_staying
from onnxprune.data import Dataset
from onnxprune.errors import DataError, ModelError, PlanError, UsageError
from onnxprune.model.model import Model
from onnxprune.proof.check import Prover, SurgeryCheck
from onnxprune.proof.inputs import random_feeds
from onnxprune.report.entries import Report
from onnxprune.settings import ORIGINAL_NUMBERS, TOKEN_NUMBERS

MOST_TOKENS_LISTED = 5
DRAWN = 2
"""Rows on which a file that takes new numbers is compared."""


class Vocabulary(Space[TokenTensor]):
    """The stored tensors that have a slice per token."""

    kind, name, noun, verb, changed = "vocabulary", "vocabulary", "tensor", "cuts", "cut"
    aims: ClassVar[tuple[str, ...]] = ()
    trains: ClassVar[bool] = False
    tokens: TokenMap | None = None
    """What stays, once that is decided."""
    after: Totals | None = None
    """What the result costs, once that is known."""

    def __init__(self, context: Context):
        super().__init__(context)
        self.tensors: list[TokenTensor] = context.once("vocabulary", lambda: token_tensors(context.facts))

    def parts(self) -> Sequence[TokenTensor]:
        return [tensor for tensor in self.tensors if not tensor.reason]

    @property
    def inputs(self) -> tuple[str, ...]:
        """The inputs that take numbers of tokens."""
        return tuple(dict.fromkeys(name for part in self.parts() for name in part.inputs))

    def choose(self, aim: Target) -> Change[TokenTensor]:
        """Keep the tokens that the file names, the special ones, and those of the calibration rows.

        Raises ModelError for a model without a table of tokens, UsageError for tokens that it does not have.
        """
        given, calibration = self.context.data.tokens, self.context.data.calibration
        if given is None:
            raise UsageError("vocabulary is read from a file; give one that names the tokens that stay")
        size = self._size()
        if given.ids[-1] >= size:
            raise UsageError(
                f"vocabulary names token {given.ids[-1]}, the model's tables have {size} rows; give numbers below that"
                f"{'' if given.size is None else ', or the tokenizer that belongs to the model (--tokenizer)'}"
            )
        real = calibration if calibration is not None and not calibration.synthetic else None
        shown = given.ids[:0] if real is None else np.flatnonzero(self._counts(real, size))
        special = given.special[given.special < size]
        further = np.setdiff1d(shown, np.union1d(given.ids, special))
        if further.size:
            listed = ", ".join(map(str, further[:MOST_TOKENS_LISTED]))
            self.context.notes.warn(
                f"the calibration rows hold {further.size} tokens that vocabulary does not name (such as {listed}); they stay too"
            )
        ids = np.unique(np.concatenate([given.ids, special, shown]))
        known = given.unknown is not None and given.unknown < size
        stand_in = int(given.unknown if known and given.unknown is not None else (special if special.size else ids)[0])
        numbers = self.context.settings.token_numbers
        if numbers != ORIGINAL_NUMBERS and not self.inputs:
            raise ModelError(
                "no table of the model loses rows, so that it takes the numbers it took; leave token_numbers out"
            )
        chosen = self._with(TokenMap(ids, size, stand_in, known, numbers))
        named = {"named": len(given.ids), "special": len(special), "calibration": len(further)}
        return chosen._told(Change(chosen, self.open), {"from": given.found} | named)

    def _size(self) -> int:
        """Return the tokens of the model's tables; raises ModelError where none can be cut."""
        if self.parts():
            return self.parts()[0].tokens
        told = "; ".join(f"{tensor.name}: {tensor.reason}" for tensor in self.tensors[:3])
        raise ModelError(
            f"vocabulary needs a stored table that an input's numbers look up, which this model does not have ({told or 'no Gather of one'}); "
            "export it with its embedding as a plain Gather, or leave vocabulary out"
        )

    def _with(self, tokens: TokenMap) -> Vocabulary:
        own = copy.copy(self)
        own.tokens = tokens
        return own

    @property
    def map(self) -> TokenMap:
        assert self.tokens is not None, "decided by choose or read"
        return self.tokens

    def _counts(self, dataset: Dataset, size: int) -> np.ndarray:
        """Return int64[size]: how often each token is in the rows; raises DataError for what is none."""
        found = np.zeros(size, np.int64)
        for feed in dataset.batches():
            for name in self.inputs:
                values = np.asarray(feed[name], np.int64).reshape(-1)
                values = np.where(values < 0, values + size, values)
                if values.size and not 0 <= values.min() <= values.max() < size:
                    raise DataError(
                        f"{dataset.origin}: {name} holds numbers of tokens that the model's {size} do not have"
                    )
                found += np.bincount(values, minlength=size)
        return found

    def _told(self, change: Change[TokenTensor], more: Report) -> Change[TokenTensor]:
        """Say what stays, and what rows to measure on hold that goes."""
        tokens, evaluation = self.map, self.context.data.evaluation
        entry: Report = {
            "tokens_before": tokens.tokens,
            "tokens_after": len(tokens.ids),
            "ids_sha256": digest(tokens.ids),
        }
        gone: Report | None = None
        if evaluation is not None:
            counts = self._counts(evaluation, tokens.tokens)
            gone = {"of": int(counts.sum()), "unknown": int(counts[tokens.new < 0].sum())}
            if gone["unknown"]:
                self.context.notes.warn(
                    f"{gone['unknown']} of the {gone['of']} tokens of the evaluation rows are not in the vocabulary that stays "
                    f"and count as token {tokens.stand_in}; name them in vocabulary, or give other rows"
                )
        outputs = sorted(known_outputs(change.parts))
        self._warn_of_ends(change, outputs)
        told = {
            "numbers": tokens.numbers,
            "stand_in": tokens.stand_in if tokens.unknown else None,
            "outputs": outputs,
            "evaluation": gone,
            "path": None,
        }
        self.context.notes.entries["vocabulary_map"] = entry | more | told
        return change

    def _warn_of_ends(self, change: Change[TokenTensor], outputs: Sequence[str]) -> None:
        """Say what the result takes and gives that the original did not."""
        tokens = self.map
        apart = {part.inputs for part in change.parts if part.inputs}
        if len(apart) > 1:
            listed = ", ".join(sorted({name for names in apart for name in names}))
            self.context.notes.warn(
                f"the tables that {listed} look up are as long, and are taken to be of one vocabulary"
            )
        if outputs:
            self.context.notes.warn(
                f"{', '.join(outputs)} of the result has a position for each of the {len(tokens.ids)} tokens that stay alone, in "
                "ascending order; the map beside the file (new_to_old) says which"
            )
        if tokens.numbers != ORIGINAL_NUMBERS:
            self.context.notes.warn(
                f"{', '.join(self.inputs)} of the result takes new numbers of tokens; the map beside the file (old_to_new) gives them"
            )

    # --- carried out ------------------------------------------------------------------------------------------------

    def made(self, change: Change[TokenTensor]) -> Model:
        return narrowed(self.context.facts, change.parts, self.map)

    def silent(self, change: Change[TokenTensor]) -> Model:
        """Return the original with the scores of the tokens that stay alone."""
        return of_staying(self.context.facts.model, known_outputs(change.parts), self.map)

    def checked(self, change: Change[TokenTensor], small: Model) -> SurgeryCheck:
        """On rows of tokens that stay, drawn and real ones, the result has to give what the original gives."""
        context, reference = self.context, self.silent(change)
        facts = facts_of(reference, context.settings)
        rows = [self._staying(row) for row in first_rows(context.data.measured)]
        integers = dict(context.survey.integers) if context.survey else {}
        seed, threads = context.settings.seed, context.settings.threads
        prover = Prover(facts, seed=seed, threads=threads, rows=rows, integers=integers, allowed=self._allowed())
        return prover.compare(facts.model, small, None)

    def feeds(self) -> list[dict[str, np.ndarray]]:
        """Return drawn and real rows of tokens that stay."""
        facts, seed = self.context.facts, self.context.settings.seed
        drawn = [random_feeds(facts, seed + n, integers=self._allowed()) for n in range(DRAWN)]
        return [*drawn, *map(self._staying, first_rows(self.context.data.measured))]

    def _allowed(self) -> dict[str, np.ndarray]:
        """Return the numbers that stay, in the type of each input that takes some."""
        kinds = {name: helper.tensor_dtype_to_np_dtype(self.context.facts.dtype(name)) for name in self.inputs}
        return {name: self.map.ids.astype(kind) for name, kind in kinds.items()}

    def _staying(self, row: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return real inputs in which the stand-in is where a token went."""
        tokens = self.map
        return {
            name: np.where(tokens.new[value] < 0, tokens.stand_in, value).astype(value.dtype)
            if name in self.inputs
            else value
            for name, value in row.items()
        }

    def reference(self, change: Change[TokenTensor]) -> Model:
        """Return what the rest of a run compares with: the original with the outputs that the result has."""
        return replace(self.silent(change), path=self.context.original.path)

    def prunable(self) -> dict[str, float]:
        return Costs(self.context.analysis).prunable()

    def totals(self, change: Change[TokenTensor] | None = None, small: Model | None = None) -> Totals:
        found = super().totals(change, small)
        return found if change is None or self.after is None else {**self.after, "bytes": found["bytes"]}

    def probes(self) -> Iterator[tuple[str, int, dict[int, Change[TokenTensor]]]]:
        """Yield nothing: what goes is not chosen by what it does."""
        return iter(())

    # --- plans ------------------------------------------------------------------------------------------------------

    def record(self, change: Change[TokenTensor]) -> Mapping[str, Any]:
        tokens = self.map
        bits = base64.b64encode(zlib.compress(np.packbits(tokens.new >= 0).tobytes(), 9)).decode()
        return {
            "vocabulary": [part.name for part in change.parts],
            "tokens": {
                "of": tokens.tokens, "count": len(tokens.ids), "sha256": digest(tokens.ids), "bits": bits,
                "stand_in": tokens.stand_in, "unknown": tokens.unknown,
                "numbers": tokens.numbers,
            },
        }  # fmt: skip

    def read(self, record: Mapping[str, Any]) -> Change[TokenTensor]:
        names = record.get("vocabulary", ())
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise PlanError("the plan's vocabulary is a list of names of tensors; make the plan again")
        chosen = self._with(recorded_tokens(record.get("tokens", {}), self._size()))
        return chosen._told(Space.read(chosen, record), {"from": "plan"})

    def entries(self, change: Change[TokenTensor] | None = None) -> Report:
        taken = set(map(id, change.parts)) if change is not None else set()
        return {"vocabulary": [self._row(tensor, id(tensor) in taken) for tensor in self.tensors]}

    def _row(self, tensor: TokenTensor, taken: bool) -> Report:
        row = self.standing(tensor, taken)
        status = "kept" if tensor.reason else row["status"]
        return row | {
            "status": status,
            "reason": row["reason"] or tensor.reason or None,
            "rows_before": tensor.tokens,
            "rows_after": len(self.map.ids) if taken else tensor.tokens,
            "inputs": list(tensor.inputs),
            "outputs": list(tensor.outputs),
            "tied": bool(tensor.lookups and tensor.outputs),
        }


def digest(ids: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(ids, "<i8").tobytes()).hexdigest()


def recorded_tokens(found: Any, size: int) -> TokenMap:
    """Read the tokens that a plan keeps; raises PlanError for what is damaged or of another model."""
    kinds = {"of": int, "count": int, "sha256": str, "bits": str, "stand_in": int, "unknown": bool}
    if not isinstance(found, Mapping) or any(type(found.get(key)) is not kind for key, kind in kinds.items()):
        raise PlanError(f"the plan's tokens need the entries {', '.join(kinds)}; make the plan again")
    if found["of"] != size:
        raise PlanError(
            f"the plan is of {found['of']} tokens, the model has {size}; apply it to the model it was made for"
        )
    try:
        packed = base64.b64decode(found["bits"].encode(), validate=True)
        content = zlib.decompressobj().decompress(packed, (size + 7) // 8 + 1)
    except (ValueError, zlib.error) as error:
        raise PlanError(f"the plan's tokens cannot be read ({error}); make the plan again") from error
    bits = np.unpackbits(np.frombuffer(content, np.uint8))
    ids = np.flatnonzero(bits[:size]).astype(np.int64)
    whole = len(content) == (size + 7) // 8 and not bits[size:].any() and len(ids) == found["count"]
    if not whole or digest(ids) != found["sha256"] or found["stand_in"] not in ids:
        raise PlanError("the plan's tokens are not those that its digest is of; make the plan again")
    numbers = found.get("numbers", ORIGINAL_NUMBERS)
    if numbers not in TOKEN_NUMBERS:
        raise PlanError(
            f"the plan's tokens have no numbers {numbers!r} (known: {', '.join(TOKEN_NUMBERS)}); make the plan again"
        )
    return TokenMap(ids, size, found["stand_in"], found["unknown"], numbers)
