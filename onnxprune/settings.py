"""Everything that decides a result, in one value: what the command line, the Python API and the report share."""

from __future__ import annotations

import dataclasses
import numbers
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from math import inf
from typing import Any

import numpy as np

from onnxprune.allocate import (
    SCOPES,
    SELECTIONS,
    THRESHOLDS,
    Options,
    Schedule,
    Target,
    parse_expected,
    parse_ratio,
    parse_schedule,
    parse_target,
    profile_name,
    width_step,
)
from onnxprune.choices import (
    AUTO,
    FROZEN,
    GATE_WEIGHTS,
    MOVING,
    ORIGINAL_NUMBERS,
    PLAIN_STORAGE,
    PRODUCT_FORMS,
    QUANTISATIONS,
    REPAIRS,
    REWOUND,
    REWOUND_WEIGHTS,
    STORAGE_NAMES,
    TOKEN_NUMBERS,
    of_preset,
)
from onnxprune.criteria import Criterion, parse_criterion
from onnxprune.errors import UsageError
from onnxprune.evidence.attacks import Attack, parse_attack
from onnxprune.means import Means
from onnxprune.measure.tasks.task import Asked, parse_task
from onnxprune.recover import Recipe, parse_length
from onnxprune.registry import Registry, near_names
from onnxprune.spread import check_spread, spread_by

DEFAULT_RATIO = 0.5
DEFAULT_ATTACK = "pgd:8/255"
ANALYSED = (
    "granularity",
    "input_shape",
    "row_shape",
    "input_value",
    "lossless",
    "rotate",
    "structured",
    "sparsity",
    "embeddings",
    "permute",
    "allow_lossy",
    "cut_cache",
    "matmul_as",
    "storage",
    "quantize",
    "keep_float",
    "dynamic",
)  # what the groups of a model depend on
REPEATED = ("repair", "seed")  # what the weights of a replayed plan depend on beside, where the same data is given
MOST_THREADS = 1024
"""More than any machine has cores; each costs memory and time from the first run on."""


@dataclass(frozen=True)
class Granularity:
    """What a name of ``granularity`` stands for.

    ``space``: module:class of what may change. Of units: ``prefers`` a factor of a product axis; ``lossy``: kinds of lossy
    nodes that may be cut.
    """

    space: str = "onnxprune.changes.units.steps:SteppedUnits"
    prefers: str | None = None
    lossy: frozenset[str] = frozenset()


GRANULARITIES: Registry[Granularity] = Registry("granularity")
GRANULARITIES.add("heads", Granularity(prefers="outer"))
GRANULARITIES.add("width", Granularity(prefers="inner"))
GRANULARITIES.add("groups", Granularity(prefers="groups"))
GRANULARITIES.add("paired", Granularity())  # channels of convolution groups by rank of saliency
GRANULARITIES.add("stream", Granularity(lossy=frozenset({"statistics", "neighbours"})))
GRANULARITIES.add("block", Granularity("onnxprune.changes.branches.space:Branches"))
GRANULARITIES.add("eigen", Granularity("onnxprune.changes.ranks.space:Directions"))
GRANULARITIES.add("experts", Granularity("onnxprune.changes.experts.space:Experts"))
LOW_RANK = "rank"
GRANULARITIES.add(LOW_RANK, Granularity("onnxprune.changes.ranks.lowrank:LowRank"))
GRANULARITIES.add("lossless", Granularity("onnxprune.changes.lossless.space:Lossless"))
UNITS = Granularity().space
ROTATION = "onnxprune.changes.rotation.space:Rotation"
"""The kind of change that ``rotate`` puts before all others."""
VOCABULARY = "onnxprune.changes.vocabulary.space:Vocabulary"
"""The kind of change that ``vocabulary`` makes first, for all that follows is compared on the tokens that stay."""
ZEROS = "onnxprune.changes.zeros.space:Zeros"
"""The kind of change that ``sparsity`` puts behind all others."""
PERMUTING = "onnxprune.changes.permuting.space:Permuting"
"""The kind of change that ``permute`` puts before the zeros."""
REWRITING = "onnxprune.changes.products.space:Rewriting"
"""The kind of change that ``matmul_as`` puts behind all that change weights."""
STORING = "onnxprune.changes.storage.space:Storing"
"""The kind of change that ``storage`` puts behind all others."""
GATING = "onnxprune.changes.dynamic.space:Gating"
"""The kind of change that ``dynamic`` puts behind all that prune: the result runs first, the original where a sample needs it."""
QUANTISING = "onnxprune.changes.quantising.space:Quantising"
"""The kind of change that ``quantize`` puts behind all others."""
BESIDE = frozenset({ROTATION, PERMUTING, REWRITING, GATING, STORING, QUANTISING})
"""Kinds that go with every other one and take any settings."""
BY_SIZE, BY_ERROR = ("erdos-renyi", "erdos-renyi-kernel"), "error"
OF_WEIGHTS = (*BY_SIZE, BY_ERROR)
"""Scopes of single weights, which say how many of each layer go."""
NEIGHBOURS = re.compile(r"\d+:\d+")
"""A ``sparsity`` that counts weights beside each other."""
DENSITY = "density"
"""The kind of gates that keep to no budget while they are trained."""
UNTRAINED: Mapping[str, Any] = {
    "criterion": f"gates:{DENSITY}",
    "repair": "none",
    "recover_loss": "labels",
    "rotate": False,
}
"""What ``untrained`` stands for: outputs of drawn weights teach nothing, and nothing of them is to be brought back."""
GATE_ROWS = 32
"""Of a step of gates, which are few: more steps are worth more than rows."""


def space_of(path: str) -> Any:
    """Return the class that a row of the table names."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


@dataclass(frozen=True)
class Settings:
    """What to remove, where, with which data and seed, and the budgets that the result must keep.

    ``ratio``: share of units that go; ``target``: what may remain, such as ``macs=50%``; neither means ratio 0.5.
    ``max_divergence``: the smallest model within it instead (KL of class scores, squared error over variance of other outputs).
    ``criterion``: ``auto`` is l2 without calibration data; with data, units and widths are chosen on the repaired model,
    which ``search`` seconds more may improve, each proposal after ``search_recover`` steps of training. ``repair``: auto, none, least-squares, batchnorm or bias; isometry needs no data.
    ``gate_training``: how long a criterion of learned gates trains, steps or a time such as 5m; ``gate_weights``: frozen, or moving:
    the weights are trained beside the gates, and those that stay are written with what they have become.
    ``schedule``: name[:steps], the way to the target; ``may_return``: every step chooses among all units again.
    ``round_to``: auto, a number or the name of a target; ``lossless``: remove only what carries nothing, with widths as
    ``round_to`` says where it is not auto.
    ``rotate``: residual streams between norms are turned to their principal directions before they are cut (random ones without data),
    and the width of heads where that is cut; None: where data decides, and judges that to be better.
    ``vocabulary``: file of the tokens that stay: numbers (.npy, .npz, .txt), tokens or a text made of them; without ratio, target and
    max_divergence nothing else goes. ``token_numbers``: the result takes the original's numbers of tokens, or new ones, which the caller
    looks up in the map beside it.
    ``sparsity``: which single weights become zero after all else: a share such as 0.7, N:M such as 2:4, 0.7,block=1x16, or an .npz file of
    masks. ``embeddings``: entries of tables that are looked up too, the smallest. ``structured``: whether units go as well (None: where a ratio, a target or a kind is given, or no sparsity); False without
    ``sparsity``: as many weights as ``ratio`` says.
    ``permute``: channels change their order, and nothing that is computed, so that N:M keeps more (None: where ``sparsity`` is N:M).
    ``matmul_as``: products with stored weights become gemm or conv (of one position), which TensorRT takes 2:4 in; ratio 0 removes nothing before.
    ``storage``: how tensors are stored in the end: plain, fp16, codebook[:16|:256], packed[:16|:256] or auto; ratio 0 removes nothing before.
    ``quantize``: weights become 8-bit integers in the end, by ONNX Runtime's quantiser: int8 with values too, by ranges of calibration data,
    or dynamic, with values as they come; ratio 0 removes nothing before. Gates judge the quantised model.
    ``keep_float``: patterns of nodes that stay float then.
    ``dynamic``: what a sample may take on average, macs=75% or latency=80%: the pruned model runs for every sample, and the original beyond
    it for those that a gate, taught on calibration data, lets through.
    ``allow_lossy``: channels that a window over their neighbours reads may go too, though that changes what the window sees.
    ``cut_cache``: heads of keys and values may go with their share of a decoder's cache, so that its inputs and outputs become narrower.
    ``granularity``: heads, width or groups, beside it paired and stream; block, rank, eigen, experts, lossless: other kinds of change. Several share
    the target, one after the other: as much as ``share`` says of a kind (of what is saved), else as data judges. ``input_shape``: input -> sizes for free dimensions.
    ``row_shape``: sizes that costs are counted at where the file leaves some open, though they stay open; taken from data where there
    is any. ``input_value``: input -> what it is fed where no data says so.
    ``output_weight``: (output or channels of it such as y[4:84], how much more it counts), for those who know better.
    ``task``: what the model is for, such as ctc or detection:confidence=0.3; auto: as its outputs tell; none: not judged.
    ``allow_unproven``: a result is good enough that agrees wherever it was seen, though not everything was.
    The gates ``max_drop``, ``min_agreement``, ``min_cosine`` and ``max_latency_ratio`` are shares of 1, ``max_size`` is in bytes.
    ``memory_limit``: bytes that the process may take (None: 2 GB; recovery: half of the machine's where that is less).
    ``attack``: how rows are changed by the model's own input gradients, such as pgd:8/255,norm=l2,steps=20: for ``validate``, for criterion vulnerability ("": pgd:8/255),
    and for criteria of gradients, which are taken at the rows as changed.
    ``rewind_as``: what remains of the weights to rewind to: weights, or their signs times one number per layer.
    ``spread``: where passes over data, points, proposals and probes are worked on beside this process: processes:N of this machine, or
    the workers of a scheduler, dask://host:port; it changes no bit of the result, and no record of it has it.
    """

    ratio: float | None = None
    target: str | None = None
    max_divergence: float | None = None
    criterion: str = "auto"
    roles: str = "both"
    selection: str = "independent"
    scope: str = "auto"
    threshold: str = "class-blind"
    granularity: tuple[str, ...] = ("heads",)
    share: tuple[tuple[str, float], ...] = ()
    lossless: bool = False
    rotate: bool | None = None
    vocabulary: str = ""
    token_numbers: str = ORIGINAL_NUMBERS
    structured: bool | None = None
    sparsity: str = ""
    embeddings: bool = False
    permute: bool | None = None
    matmul_as: str = ""
    storage: str = PLAIN_STORAGE
    quantize: str = ""
    keep_float: tuple[str, ...] = ()
    dynamic: str = ""
    allow_lossy: bool = False
    cut_cache: bool = False
    max_layer_ratio: float = 1.0
    layer_ratio: tuple[tuple[str, float], ...] = ()
    round_to: str | int = "auto"
    min_width: int = 1
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    repair: str = "auto"
    schedule: str = "one-shot"
    may_return: bool = False
    recover: str | int = 0
    recover_loss: str = "auto"
    learning_rate: float | None = None
    augment: tuple[str, ...] = ("auto",)
    search: float = 0.0
    search_recover: int = 0
    gate_training: str | int = 500
    gate_weights: str = FROZEN
    output_weight: tuple[tuple[str, float], ...] = ()
    task: str = AUTO
    samples: int | None = None
    batch: int | None = None
    input_shape: tuple[tuple[str, tuple[int, ...]], ...] = ()
    row_shape: tuple[tuple[str, tuple[int, ...]], ...] = ()
    input_value: tuple[tuple[str, tuple[float, ...]], ...] = ()
    max_drop: float | None = None
    min_agreement: float | None = None
    min_cosine: float | None = None
    max_latency_ratio: float | None = None
    max_size: int | None = None
    allow_unproven: bool = False
    strict: bool = False
    latency: bool = True
    seed: int = 0
    threads: int = 1
    memory_limit: int | None = None
    spread: str = ""
    attack: str = ""
    rewind_as: str = REWOUND_WEIGHTS

    def __post_init__(self) -> None:
        """Refuse what makes no sense before any work is done; raises UsageError."""
        if sum(aim is not None for aim in (self.ratio, self.target, self.max_divergence)) > 1:
            raise UsageError("give one of ratio, target and max_divergence")
        if self.max_divergence is not None and not (0 < self.max_divergence < inf and self.reconstructs):
            raise UsageError(
                "max_divergence is a number above 0 and goes with criterion auto and repair auto or least-squares alone"
            )
        self._refuse_unknown_names()
        if len({"heads", "width", "groups"} & set(self.granularity)) > 1:
            raise UsageError("granularity is one of heads, width and groups; paired and stream can be added")
        self._refuse_what_no_kind_takes()
        self._refuse_beside_steps()
        self._refuse_beside_all_tokens()
        self._refuse_beside_greedy()
        self._refuse_beside_rotation()
        self._refuse_beside_sparsity()
        self._refuse_beside_quantisation()
        self._refuse_beside_gate()
        if self.pairs and self.recover_loss == "blocks":
            raise UsageError("recover_loss blocks compares channels by their place, which granularity paired changes")
        for name in ("seed", "threads", "samples", "batch", "memory_limit"):
            value = getattr(self, name)
            if value is not None and value < (name != "seed"):
                raise UsageError(f"{name} {value}: give a whole number of at least {int(name != 'seed')}")
        if self.threads > MOST_THREADS:
            raise UsageError(
                f"threads {self.threads}: give at most {MOST_THREADS}; this machine has {os.cpu_count()} cores"
            )
        self._refuse_search_recover()
        self._refuse_without_gates()
        check_spread(self.spread)
        self._refuse_attack()
        for read in ("aim", "options", "training", "scorer", "purpose"):
            getattr(self, read)  # each refuses what it cannot read

    def _refuse_beside_all_tokens(self) -> None:
        """Tokens have new numbers where some go."""
        if self.token_numbers != ORIGINAL_NUMBERS and not self.vocabulary:
            raise UsageError(
                f"token_numbers {self.token_numbers} is of tokens that stay when others go; name them with vocabulary, or leave token_numbers out"
            )

    def _refuse_unknown_names(self) -> None:
        """Refuse names that stand for nothing, with those that are near."""
        for registry, names in (
            (THRESHOLDS, [self.threshold]),
            (SELECTIONS, [self.selection]),
            (GRANULARITIES, self.granularity),
        ):
            for name in names:
                registry[name]
        for what, known in (
            ("repair", REPAIRS), ("storage", STORAGE_NAMES), ("quantize", QUANTISATIONS), ("matmul_as", PRODUCT_FORMS),
            ("token_numbers", TOKEN_NUMBERS), ("rewind_as", REWOUND), ("gate_weights", GATE_WEIGHTS),
            ("scope", (AUTO, *SCOPES, *OF_WEIGHTS)),
        ):  # fmt: skip
            if (name := getattr(self, what)) not in known:
                hint = near_names(name, list(known)) or f"; known: {', '.join(filter(None, known))}"
                raise UsageError(f"unknown {what} {name!r}{hint}")

    def _refuse_what_no_kind_takes(self) -> None:
        """Refuse what does not go with any kind of change of the run, each of which says what it takes."""
        self._refuse_without_experts()
        if self.lossless and any(GRANULARITIES[name].space != UNITS for name in self.granularity):
            several = ",".join(("lossless", *self.granularity))
            raise UsageError(
                f"lossless takes units out; leave granularity {self.granularity[0]} out, or give --granularity {several}"
            )
        beside = BESIDE | {ZEROS} if self.narrows else BESIDE
        kinds = [space_of(path) for path in self.spaces if path not in beside]
        called = "lossless" if self.lossless else f"granularity {', '.join(self.granularity)}"
        called = called if self.narrows else f"sparsity {self.pattern}"
        for name in dict.fromkeys(name for kind in kinds for name in kind.takes):
            if all(getattr(self, name) not in kind.takes.get(name, (getattr(self, name),)) for kind in kinds):
                raise UsageError(f"{name} {getattr(self, name)} does not go with {called}; leave it out")
        if self.mixes and (self.ratio is not None or self.max_divergence is not None):
            wrong = "ratio" if self.ratio is not None else "max_divergence"
            raise UsageError(f"{wrong} is of one kind of change; with {called} give a target, such as macs=50%")
        for kind in kinds:
            if kind.aims and self.aim.kind not in kind.aims:
                able = ", ".join(known for known in kind.aims if known != "ratio")
                raise UsageError(f"target {self.aim.kind} does not go with {called}; give {able}")

    def _refuse_without_experts(self) -> None:
        """Units have no routers."""
        if self.scorer.needs == ("routing",) and "experts" not in self.granularity:
            raise UsageError(
                f"criterion {self.scorer.name} counts what routers give to experts; add granularity experts, or name another"
            )

    def _refuse_beside_sparsity(self) -> None:
        """One number says how many weights go, and only patterns of neighbours mind the order of channels."""
        if not self.narrows and self.sparsity and self.ratio is not None:
            raise UsageError(
                f"ratio {self.ratio:g} and sparsity {self.sparsity} both say how many weights go; leave one of them out"
            )
        if not (self.narrows or self.lossless or self.vocabulary) and self.target is not None:
            if self.sparsity:
                raise UsageError(
                    f"target and sparsity {self.sparsity} both say how many weights go; leave one of them out"
                )
            if self.aim.kind != "params":
                raise UsageError(
                    f"target {self.target} is not of single weights, which save nothing but their number; give params=30%, or leave it out"
                )
        if self.scope in OF_WEIGHTS and self.narrows:
            raise UsageError(f"scope {self.scope} shares single weights out; give --unstructured, or leave scope out")
        if self.embeddings and ZEROS not in self.spaces:
            raise UsageError(
                "embeddings are tables whose entries become zero; give --sparsity 0.5, or leave embeddings out"
            )
        if self.permute and not NEIGHBOURS.fullmatch(self.sparsity.strip()):
            raise UsageError("permute goes with N of every M weights; give --sparsity 2:4, or leave permute out")
        if self.permute and self.recover_loss == "blocks":
            raise UsageError(
                "recover_loss blocks compares channels by their place, which permute changes; leave one of them out"
            )

    def _refuse_beside_quantisation(self) -> None:
        """What is stored as integers cannot be packed as floats."""
        if self.keep_float and not self.quantize:
            raise UsageError(
                "keep_float names nodes that are not quantised; add quantize int8 or dynamic, or leave keep_float out"
            )
        if self.quantize and self.storage != PLAIN_STORAGE:
            raise UsageError(
                f"storage {self.storage} packs float weights, and quantize {self.quantize} makes integers of them; leave one of them out"
            )

    def _refuse_beside_gate(self) -> None:
        """A gate needs two models of different cost, and nothing that rewrites them behind it."""
        if not self.dynamic:
            return
        self.expected  # noqa: B018  refuses what it cannot read
        if not self.aimed:
            raise UsageError(
                "dynamic runs a pruned model first, and nothing is pruned; give a ratio or a target, or leave dynamic out"
            )
        for name, given in (("quantize", self.quantize), ("matmul_as", self.matmul_as)):
            if given:
                raise UsageError(
                    f"{name} {given} does not go with dynamic, which keeps the original's nodes; leave one of them out"
                )

    def _refuse_attack(self) -> None:
        """Refuse what cannot be read."""
        if self.attack:
            parse_attack(self.attack)

    @property
    def attacking(self) -> Attack:
        """How rows are attacked for a criterion that asks for it."""
        return parse_attack(self.attack or DEFAULT_ATTACK)

    def _refuse_search_recover(self) -> None:
        if self.search_recover < 0:
            raise UsageError(f"search_recover {self.search_recover}: give a number of steps, such as 50")
        if self.search_recover and not self.reconstructs:
            raise UsageError("search_recover trains what the search proposes; leave criterion and repair at auto")

    def _refuse_without_gates(self) -> None:
        """Weights that moved are what is written, unless a repair solves for others."""
        parse_length(self.gate_training)
        if self.gate_weights == FROZEN:
            return
        if not self.scorer.learned:
            raise UsageError(
                "gate_weights moving is of trained gates; add criterion gates:l0, or leave gate_weights out"
            )
        if self.repair != AUTO:
            raise UsageError(
                f"gate_weights moving gives the weights that repair {self.repair} would solve for; leave one of them out"
            )

    def _refuse_beside_rotation(self) -> None:
        """Channels of a rotated stream are directions of the original's."""
        if self.rotate and self.lossless:
            raise UsageError(
                "rotate makes channels of directions, none of which carries nothing; leave rotate or lossless out"
            )
        if self.rotate and self.recover_loss == "blocks":
            raise UsageError(
                "recover_loss blocks compares channels by their place, which rotate changes; leave one of them out"
            )

    def _refuse_beside_greedy(self) -> None:
        """Weights that count no more can be left out of a score of weights alone."""
        if self.selection != "independent" and (self.criterion == AUTO or self.scorer.needs):
            raise UsageError(
                f"selection {self.selection} scores weights again and again; name a criterion that looks at weights "
                "alone, such as l1"
            )

    def _refuse_beside_steps(self) -> None:
        """A target is shared out over the steps: what is found by measuring, or all at once, cannot be."""
        if self.steps.steps == 1:
            if self.may_return:
                raise UsageError("may_return goes with a schedule of several steps, e.g. schedule linear:4")
            return
        for name, given in (
            ("max_divergence", self.max_divergence is not None), ("target latency", self.aim.kind == "latency")
        ):  # fmt: skip
            if given:
                raise UsageError(f"{name} does not go with schedule {self.schedule}; leave one of them out")

    @property
    def spaces(self) -> tuple[str, ...]:
        """The kinds of change of the run, module:class each, in order."""
        last = (ZEROS,) if self.sparsity or not self.narrows else ()
        last = (PERMUTING, *last) if self.permutes else last
        last = (*last, REWRITING) if self.matmul_as else last
        last = (*last, GATING) if self.dynamic else last
        last = (*last, STORING) if self.storage != PLAIN_STORAGE else last
        last = (*last, QUANTISING) if self.quantize else last
        if self.lossless:
            return (GRANULARITIES["lossless"].space, *last)
        if self.converts_alone or self.vocabulary_alone or not self.narrows:
            return last
        own = dict.fromkeys(GRANULARITIES[name].space for name in self.granularity)
        return (*((ROTATION,) if self.rotate else ()), *own, *last)

    @property
    def converts_alone(self) -> bool:
        """Whether nothing is removed and the model is written or stored in another form, or quantised."""
        return self.ratio == 0 and (self.storage != PLAIN_STORAGE or bool(self.quantize or self.matmul_as))

    @property
    def vocabulary_alone(self) -> bool:
        """Whether tokens go, and nothing else."""
        asked = self.target is not None or self.max_divergence is not None or self.ratio not in (None, 0)
        return bool(self.vocabulary) and not (asked or self.lossless or self.rotate or self.granularity != ("heads",))

    @property
    def permutes(self) -> bool:
        """Whether channels change their order before weights become zero in a pattern that counts neighbours."""
        return (
            bool(NEIGHBOURS.fullmatch(self.sparsity.strip()))
            and self.permute is not False
            and self.recover_loss != "blocks"
        )

    @property
    def narrows(self) -> bool:
        """Whether units or other parts go, and not single weights alone."""
        if self.structured is not None:
            return self.structured
        aims = (self.ratio, self.target, self.max_divergence)
        return not self.sparsity or self.lossless or self.granularity != ("heads",) or any(a is not None for a in aims)

    def through(self, spread: str) -> Settings:
        """Return the same, with work shared out in another way."""
        return replace(self, spread=spread)

    def settled(self) -> Settings:
        """Return the settings that say by themselves whether units go, for a plan that leaves the aim out."""
        return replace(self, structured=self.narrows) if self.sparsity else self

    @property
    def pattern(self) -> str:
        """Which weights become zero: as ``sparsity`` says, else as many as the ratio."""
        return self.sparsity or f"{DEFAULT_RATIO if self.ratio is None else self.ratio:g}"

    @property
    def steps(self) -> Schedule:
        """The way to the target."""
        return parse_schedule(self.schedule)

    @property
    def aimed(self) -> tuple[str, ...]:
        """The kinds of change of the run that a target can be given for."""
        return tuple(path for path in self.spaces if space_of(path).aims)

    @property
    def mixes(self) -> bool:
        """Whether several kinds of change share one target."""
        return len(self.aimed) > 1

    @property
    def aim(self) -> Target:
        if self.target is not None:
            return parse_target(self.target)
        if self.ratio is None and self.mixes:
            return Target("macs", 1 - DEFAULT_RATIO)
        if self.converts_alone or self.vocabulary_alone:
            return Target("ratio", 0.0)
        return parse_ratio(DEFAULT_RATIO if self.ratio is None else self.ratio)

    @property
    def expected(self) -> Target:
        """What a sample may take on average where ``dynamic`` decides how much is run for it."""
        return parse_expected(self.dynamic)

    @property
    def scorer(self) -> Criterion:
        """The criterion of units; ``auto`` is l2 wherever no calibration data decides."""
        return parse_criterion("l2" if self.criterion == AUTO or not self.narrows else self.criterion, self.roles)

    @property
    def reconstructs(self) -> bool:
        """Whether calibration data, where there is any, chooses units and widths on the repaired model."""
        return self.criterion == AUTO and self.repair in (AUTO, "least-squares")

    @property
    def searches(self) -> bool:
        """Whether calibration data, where there is any, searches for widths on the repaired model: to stay there, or for gates to go on from."""
        return self.reconstructs or self.goes_on

    @property
    def training(self) -> Recipe:
        """How weights are trained wherever that is asked for; a single step long where no length is given."""
        return Recipe(
            **(parse_length(self.recover) if self.recover not in (0, "0") else {"steps": 1}),
            loss=self.recover_loss,
            learning_rate=self.learning_rate,
            augment=self.augment,
            batch=self.batch,
            seed=self.seed,
        )

    @property
    def moves(self) -> bool:
        """Whether weights are trained beside gates."""
        return self.gate_weights == MOVING

    @property
    def mends(self) -> bool:
        """Whether gates are trained with the repair in view that follows them."""
        return not self.moves and self.repair in (AUTO, "least-squares")

    @property
    def goes_on(self) -> bool:
        """Whether gates begin where calibration data would end without them: not where nothing solves for weights, or rows are attacked."""
        return self.scorer.learned not in ("", DENSITY) and (self.moves or self.mends) and not self.attack

    @property
    def gate_recipe(self) -> Recipe:
        """How gates are trained: as weights are, for as long as ``gate_training`` says."""
        length: dict[str, Any] = {"steps": 0, "seconds": 0.0} | parse_length(self.gate_training)
        return replace(self.training, batch=self.batch or GATE_ROWS, **length)

    @property
    def purpose(self) -> Asked:
        """What the model is for, as far as the user says."""
        return parse_task(self.task)

    @property
    def recipe(self) -> Recipe | None:
        """How to recover by gradient steps; None where that was not asked for."""
        return None if self.recover in (0, "0") else self.training

    @property
    def means(self) -> Means:
        """With what the work is done; whoever runs it adds a mask, and whom to tell."""
        return Means(self.threads, self.seed, self.batch, memory=self.memory_limit, spread=spread_by(self.spread))

    @property
    def options(self) -> Options:
        return Options(
            scope=self.scorer.scope if self.scope in (AUTO, *OF_WEIGHTS) else self.scope,
            threshold=self.threshold,
            round_to=width_step(self.round_to),
            minimum=self.min_width,
            max_layer_ratio=self.max_layer_ratio,
            layer_ratios=tuple(self.layer_ratio),
            include=tuple(self.include),
            exclude=tuple(self.exclude),
        )

    @property
    def prefer(self) -> str:
        """The factor of a product axis to cut where both free equally much: outer (heads), inner (width) or whole groups."""
        return next(filter(None, (GRANULARITIES[name].prefers for name in self.granularity)), "outer")

    @property
    def pairs(self) -> bool:
        """Whether the channels of convolution groups are paired by rank of their saliency instead of their index."""
        return "paired" in self.granularity

    @property
    def allowed(self) -> frozenset[str]:
        """Kinds of lossy nodes whose axes may be cut."""
        extra = frozenset({"neighbours"} if self.allow_lossy else ())
        return extra.union(*(GRANULARITIES[name].lossy for name in self.granularity))

    def to_json(self) -> dict[str, Any]:
        """Return every setting that decides a result, ``ratio`` and ``round_to`` as they were resolved, with the seed."""
        values = {name: _plain(value) for name, value in dataclasses.asdict(self).items() if name != "spread"}
        resolved = {
            "criterion": AUTO if self.criterion == AUTO else str(self.scorer),
            "round_to": width_step(self.round_to),
            "round_to_profile": profile_name(self.round_to),
        }
        return (
            values
            | resolved
            | ({"ratio": self.aim.value} if self.target is None and self.max_divergence is None else {})
        )


def make_settings(values: Mapping[str, Any]) -> Settings:
    """Build settings from names and values; raises UsageError with near names for one that does not exist."""
    known = [field.name for field in dataclasses.fields(Settings)]
    values = _of_short_names(values)
    for name in values:
        if name not in known:
            hint = near_names(name, known) or f"; known: {', '.join(known)}"
            raise UsageError(f"unknown setting {name!r}{hint}")
    kinds = {field.name: str(field.type) for field in dataclasses.fields(Settings)}
    found = {
        name: _read(name, share_of(value) if name in SHARES else value, kinds[name]) for name, value in values.items()
    }
    return Settings(**found)


def _of_short_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with ``low_rank`` as the kind of change that it stands for, and names of kinds one by one.

    Beside widths where these are asked for (``structured``, or a kind by its name), else alone. ``untrained``: what ``UNTRAINED`` says
    where nothing else is given. ``preset``: as ``PRESETS`` says, likewise.
    """
    found = dict(values)
    preset = _read("preset", found.pop("preset", None), "str | None")
    if preset is not None:
        found |= of_preset(preset, found)
    if _read("untrained", found.pop("untrained", None), "bool | None"):
        found |= {name: value for name, value in UNTRAINED.items() if found.get(name) in (None, AUTO)}
    low_rank = _read("low_rank", found.pop("low_rank", None), "bool | None")
    named = found.get("granularity") is not None
    if named:  # block,heads is as good as two names
        texts = _read("granularity", found["granularity"], "tuple[str, ...]")
        found["granularity"] = tuple(dict.fromkeys(name.strip() for text in texts for name in text.split(",")))
    if low_rank:
        if found.get("structured") is False:
            raise UsageError(
                "low_rank writes layers as thinner ones, unstructured leaves all shapes; leave one of them out"
            )
        own = found["granularity"] if named else ("heads",) if found.get("structured") else ()
        found["granularity"] = tuple(dict.fromkeys((*own, LOW_RANK)))
    return found


SHARES = frozenset({
    "ratio", "max_layer_ratio", "layer_ratio", "share", "max_drop", "min_agreement", "min_cosine", "max_latency_ratio",
})  # fmt: skip
"""Fields whose numbers may be given as percentages."""


def share_of(value: Any) -> Any:
    """Return a value in which percentages are numbers: ``"50%"`` is 0.5, also as a value of a mapping, of pairs or of a list.

    What is none stays as it is.
    """
    if isinstance(value, str):
        found = re.fullmatch(r"\s*([-+]?(?:\d+\.?\d*|\.\d+))\s*%\s*", value)
        return float(found[1]) / 100 if found else value
    if isinstance(value, Mapping):
        return {key: share_of(item) for key, item in value.items()}
    return type(value)(map(share_of, value)) if type(value) in (list, tuple) else value


def _read(name: str, value: Any, kind: str) -> Any:
    """Return a value as a field of this type holds it; raises UsageError where it is of another."""
    optional = kind.endswith(" | None")
    if value is None and optional:
        return None
    read, what = KINDS[kind.removesuffix(" | None")]
    try:
        return read(value)
    except (TypeError, ValueError):
        kind_of = f"{value!r} of type {type(value).__name__}"
        raise UsageError(f"{name} takes {what}{', or None' if optional else ''}, not {kind_of}") from None


def _flag(value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise TypeError
    return bool(value)


def _whole(value: Any) -> int:
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    number = _number(value)
    if not number.is_integer():
        raise ValueError
    return int(number)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return str(value)


def _text_or_whole(value: Any) -> str | int:
    return value if isinstance(value, str) else _whole(value)


def _sequence(value: Any, read: Callable[[Any], Any]) -> tuple[Any, ...]:
    if not isinstance(value, Iterable):
        raise TypeError
    return tuple(map(read, value))


def _texts(value: Any) -> tuple[str, ...]:
    """One string is one entry."""
    return (value,) if isinstance(value, str) else _sequence(value, _text)


def _pairs(read: Callable[[Any], Any]) -> Callable[[Any], tuple[tuple[str, Any], ...]]:
    """Names with a value each, of a mapping or of pairs."""

    def pairs(value: Any) -> tuple[tuple[str, Any], ...]:
        entries = value.items() if isinstance(value, Mapping) else value
        return _sequence(entries, lambda entry: (_text(entry[0]), read(entry[1])) if len(entry) == 2 else read(()))

    return pairs


def _numbers(value: Any) -> tuple[Any, ...]:
    """One number or flag, or a list of them, as they are."""
    values = np.asarray(value)
    if values.dtype.kind not in "fiub" or not values.size or not np.isfinite(values).all():
        raise TypeError
    return tuple(values.reshape(-1).tolist())


def _wholes(value: Any) -> tuple[int, ...]:
    return _sequence(value, _whole)


KINDS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "bool": (_flag, "True or False"),
    "int": (_whole, "a whole number"),
    "float": (_number, "a number"),
    "str": (_text, "text"),
    "str | int": (_text_or_whole, "text or a whole number"),
    "tuple[str, ...]": (_texts, "texts, or a single one"),
    "tuple[tuple[str, float], ...]": (_pairs(_number), "names with a number each, such as {'conv1*': 0.2}"),
    "tuple[tuple[str, tuple[int, ...]], ...]": (
        _pairs(_wholes),
        "names with sizes each, such as {'x': (1, 3, 64, 64)}",
    ),
    "tuple[tuple[str, tuple[float, ...]], ...]": (
        _pairs(_numbers),
        "names with a value each, such as {'sr': 16000}",
    ),
}
"""Type of a field -> how a value given for it is read (raises TypeError, ValueError), and what to call it."""


def analysis_settings(recorded: Mapping[str, Any]) -> Settings:
    """Return settings with what a plan's record says about how the model was analysed."""
    return make_settings({name: recorded[name] for name in ANALYSED if name in recorded})


def repeated_settings(recorded: Mapping[str, Any], calibrated: bool) -> dict[str, Any]:
    """Return what a plan's record says of how weights were repaired; ``calibrated``: whether there is data for that.

    Without, a plan of repairs by data tells what stays, and nothing is repaired.
    """
    known = make_settings({name: recorded[name] for name in REPEATED if name in recorded})
    found = {name: getattr(known, name) for name in REPEATED}
    return found if calibrated or known.repair in ("none", "isometry") else found | {"repair": AUTO}


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
