"""Products in another operator as a kind of change (``--matmul-as``), behind all that change weights: nothing that is computed changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from onnxprune.allocate import Costs, Target
from onnxprune.changes.analysing import facts_of
from onnxprune.changes.change import Change, Space, selected
from onnxprune.changes.context import Context
from onnxprune.changes.products.find import StoredProduct, stored_products
from onnxprune.changes.products.surgery import written_as
from onnxprune.coupling.prepare import restore
from onnxprune.errors import PlanError
from onnxprune.model.facts import Facts
from onnxprune.model.model import Model
from onnxprune.proof.check import SurgeryCheck
from onnxprune.report.entries import Report


class Rewriting(Space[StoredProduct]):
    """The products with stored weights, by node."""

    kind, name, noun, verb, changed = "rewrite", "rewritten", "product", "rewrites", "rewritten"
    aims: ClassVar[tuple[str, ...]] = ()
    loses: ClassVar[bool] = False
    passes: ClassVar[Mapping[str, float] | None] = {}
    saves: ClassVar[bool] = False
    trains: ClassVar[bool] = False

    def __init__(self, context: Context):
        super().__init__(context)
        self.form = context.settings.matmul_as
        self.facts: Facts = context.once("plain", self._as_written)
        self.products: tuple[StoredProduct, ...] = context.once(
            "products", lambda: tuple(stored_products(self.facts, self.form))
        )

    def _as_written(self) -> Facts:
        """Return the facts of the model as it would be written: what was copied to be cut for itself is stored once."""
        model = self.context.facts.model
        return facts_of(restore(model, replace(model, sparse=())), self.context.settings)

    def parts(self) -> Sequence[StoredProduct]:
        return [product for product in self.products if not product.reason]

    def choose(self, aim: Target) -> Change[StoredProduct]:
        """Take every product that can be written so and that the settings do not leave out; say where there is none."""
        chosen = selected({product: (product.node,) for product in self.open}, self.context, "product", all_match=False)
        if not chosen:
            reasons = dict.fromkeys(f"{product.name}: {product.reason}" for product in self.products if product.reason)
            told = "; ".join(list(reasons)[:3]) or "it multiplies by no stored matrix"
            self.context.notes.warn(f"no MatMul of this model is written as {self.form} ({told})")
        return Change(self, tuple(chosen))

    def silent(self, change: Change[StoredProduct]) -> Model:
        """Return the model as it is, which the result has to equal."""
        return self.facts.model

    def made(self, change: Change[StoredProduct]) -> Model:
        return written_as(self.facts, change.parts, self.form)

    def checked(self, change: Change[StoredProduct], small: Model) -> SurgeryCheck:
        return self.context.prover.compare(self.silent(change), small, None)

    def prunable(self) -> dict[str, float]:
        return Costs(self.context.analysis).prunable()

    def record(self, change: Change[StoredProduct]) -> Mapping[str, Any]:
        return {**super().record(change), "form": [self.form]}

    def read(self, record: Mapping[str, Any]) -> Change[StoredProduct]:
        """Return the change that a plan records; raises PlanError where it is of another form or does not fit the model."""
        form = next(iter(record.get("form", ())), None)
        if form != self.form:
            raise PlanError(f"the plan writes products as {form!r}, and its settings (matmul_as) as {self.form!r}")
        return super().read(record)

    def entries(self, change: Change[StoredProduct] | None = None) -> Report:
        """Describe every product: what it is written as, or why it stays."""
        taken = set(map(id, change.parts)) if change is not None else set()
        return {self.name: [self._row(product, id(product) in taken) for product in self.products]}

    def _row(self, product: StoredProduct, taken: bool) -> Report:
        row = self.standing(product, taken)
        return row | {"reason": row["reason"] or product.reason or None}
