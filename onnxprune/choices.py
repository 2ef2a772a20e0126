"""The names that options take, in tables that load nothing else: for help, completion, and mistakes that are found before any work.

What a name means stands elsewhere; ``tests/cli/test_foreseen.py`` holds these tables to that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from onnxprune.errors import UsageError
from onnxprune.registry import near_names

AUTO = "auto"
REPAIRS = (AUTO, "none", "least-squares", "batchnorm", "bias", "isometry")
PLAIN_STORAGE = "plain"
STORAGE_NAMES = (
    *(PLAIN_STORAGE, "fp16", "codebook", "codebook:16", "codebook:256", "packed", "packed:16", "packed:256", AUTO),
)
ORIGINAL_NUMBERS, NEW_NUMBERS_ALONE = TOKEN_NUMBERS = ("original", "new")
"""What ``token_numbers`` may be."""
REWOUND_WEIGHTS, REWOUND_SIGNS = REWOUND = ("weights", "signs")
"""What ``rewind_as`` may be."""
QUANTISATIONS = ("", "int8", "dynamic")
"""What ``quantize`` may be; the first: nothing."""
FROZEN, MOVING = GATE_WEIGHTS = ("frozen", "moving")
"""What ``gate_weights`` may be."""
PRODUCT_FORMS = ("", "gemm", "conv")
"""What ``matmul_as`` may be; the first: as it is."""
SCORES_OF_WEIGHTS = ("bn-scale", "fpgm", "l1", "l2", "lamp", "linf", "magnitude-increase", "movement", "random")
"""Criteria that need no data."""
SCORES_OF_DATA = (
    *("activation-mean", "activation-rms", "activation-variance", "apoz", "eigendamage", "entropy", "fisher", "flap"),
    *(
        "gates",
        "gates:bayes",
        "gates:density",
        "gates:l0",
        "gates:l1",
        "gates:reweighted",
        "grasp",
        "group-fisher",
        "hrank",
        "kl",
        "kron-obd",
        "kron-obs",
        "lasso",
        "loss",
    ),
    *("obd", "obs", "reconstruction", "routing-mass", "snip", "taylor", "taylor-activation", "thinet"),
    *("vulnerability", "wanda"),
)
"""Criteria that look at calibration data."""
SCORES_OF_ZEROS = ("proximal", "ria", "straight-through")
"""Criteria of single weights that no unit is scored by."""
TARGETS = (
    *("artpec-9", "ascend-fp16", "ascend-int8", "ncnn-fp32", "ncnn-int8", "openvino-avx2", "openvino-avx512"),
    *("ort-cpu", "ort-cpu-avx512", "qnn-htp", "tensorrt-fp16", "tensorrt-int8", "tflite-gpu", "ti-npu", "xnnpack-arm"),
)
"""What widths may be rounded for, by name."""


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "fast": {"criterion": "l2", "rotate": False, "samples": 256, "repair": "least-squares"},
    "balanced": {"samples": 1024},
    "best": {"search": 60.0, "recover": "500"},
}
"""What ``preset`` stands for, where nothing else is given; docs/cli.md has what each costs."""


def of_preset(name: str, given: Mapping[str, Any], fits: bool = False) -> dict[str, Any]:
    """Return the options that a preset adds to those that are given, without those that do not go with them.

    ``fits``: whether there is data to fit weights to. Raises UsageError for a name that is none.
    """
    CHOICES["preset"].refuse_unknown(name)
    left = {"criterion"} if given.get("max_divergence") is not None else set()
    if given.get("criterion") not in (None, AUTO) or given.get("repair") not in (None, AUTO, "least-squares"):
        left |= {"search"}
    if not fits or given.get("criterion") is not None:
        left |= {"repair"}
    if _of_others(given):
        left |= {"criterion", "rotate", "search", "repair"}
    if given.get("lossless") or "lossless" in _kinds(given):
        left |= {"recover"}
    return {key: value for key, value in PRESETS[name].items() if given.get(key) is None and key not in left}


def _kinds(given: Mapping[str, Any]) -> set[str]:
    """Return the granularities that are given."""
    found = given.get("granularity") or ()
    return {part.strip() for text in ((found,) if isinstance(found, str) else found) for part in text.split(",")}


def _of_others(given: Mapping[str, Any]) -> bool:
    """Whether other parts than units go, or other scores decide."""
    named = any(given.get(what) for what in ("low_rank", "lossless", "sparsity", "untrained"))
    return named or given.get("structured") is False or not _kinds(given) <= UNIT_KINDS


class Allowed(NamedTuple):
    """What messages call an option's names, all of them, and which names a value of the option consists of."""

    what: str
    names: Sequence[str]
    within: Callable[[str], list[str]] = lambda text: [text]

    def refuse_unknown(self, text: str) -> None:
        """Raise UsageError with near names where a value has a name that stands for nothing."""
        for name in self.within(text):
            if name not in self.names:
                hint = near_names(name, list(self.names)) or f"; known: {', '.join(filter(None, self.names))}"
                raise UsageError(f"unknown {self.what} {name!r}{hint}")


def _before(mark: str) -> Callable[[str], list[str]]:
    return lambda text: [text.partition(mark)[0].strip()]


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def score_named(text: str) -> str:
    """Return the name in NAME[:REDUCTION[:NORMALISER]], which may itself have two parts, or four."""
    parts = [part.strip() for part in text.split(":")]
    if ":".join(parts[:2]) in SCORES_OF_DATA:
        return ":".join(parts[:2])
    return parts[0] if len(parts) <= 3 else text


def _scores(text: str) -> list[str]:
    name = score_named(text)
    return [] if name == AUTO and text == AUTO else [name]


UNIT_KINDS = frozenset({"heads", "width", "groups", "paired", "stream"})
"""Granularities that cut units."""
CHOICES = {
    "preset": Allowed("preset", tuple(PRESETS)),
    "repair": Allowed("repair", REPAIRS),
    "storage": Allowed("storage", STORAGE_NAMES),
    "quantize": Allowed("quantize", QUANTISATIONS),
    "matmul_as": Allowed("matmul_as", PRODUCT_FORMS),
    "token_numbers": Allowed("token_numbers", TOKEN_NUMBERS),
    "rewind_as": Allowed("rewind_as", REWOUND),
    "gate_weights": Allowed("gate_weights", GATE_WEIGHTS),
    "criterion": Allowed("criterion", sorted((*SCORES_OF_WEIGHTS, *SCORES_OF_DATA, *SCORES_OF_ZEROS)), _scores),
    "granularity": Allowed(
        "granularity",
        ("block", "eigen", "experts", "groups", "heads", "lossless", "paired", "rank", "stream", "width"),
        _listed,
    ),
    "scope": Allowed("scope", (AUTO, "global", "isomorphic", "layer", "erdos-renyi", "erdos-renyi-kernel", "error")),
    "selection": Allowed("selection", ("greedy", "independent")),
    "threshold": Allowed("threshold", ("class-blind", "class-distribution", "class-uniform")),
    "roles": Allowed("role", ("both", "reads", "writes")),
    "schedule": Allowed("schedule", ("cubic", "geometric", "linear", "one-shot"), _before(":")),
    "target": Allowed("target", ("latency", "macs", "params", "size"), _before("=")),
    "recover_loss": Allowed("recovery loss", (AUTO, "blocks", "distill", "labels", "mse")),
    "attack": Allowed("attack", ("fgsm", "pgd"), _before(":")),
    "task": Allowed(
        "task",
        (
            *(AUTO, "none", "classes", "ctc", "detection", "segmentation", "embedding", "multilabel", "sequence"),
            *("tokens", "regression"),
        ),
        _before(":"),
    ),
}
"""Option -> its names."""
