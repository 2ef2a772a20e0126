"""What the Python functions take by name: the fields of ``Settings``, data, files, and what each function has of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, TypedDict

import onnx_graphsurgeon as gs
from onnx import ModelProto

from onnxprune.choices import of_preset
from onnxprune.data import AudioOptions, ImageOptions, TextOptions
from onnxprune.model.model import Model
from onnxprune.progress import Listener, Progress
from onnxprune.settings import Settings, make_settings, share_of

Source: TypeAlias = str | os.PathLike[str] | ModelProto | gs.Graph | Model
PathLike: TypeAlias = str | os.PathLike[str]
Earlier: TypeAlias = PathLike | Mapping[str, Any]


class SettingOptions(TypedDict, total=False):
    """The fields of ``Settings``, which says what they mean; texts and names may be given alone, pairs as a mapping."""

    ratio: float | None
    target: str | None
    max_divergence: float | None
    criterion: str
    roles: str
    selection: str
    scope: str
    threshold: str
    granularity: str | Sequence[str]
    share: Mapping[str, float] | Sequence[tuple[str, float]]
    lossless: bool
    rotate: bool | None
    vocabulary: str
    token_numbers: str
    structured: bool | None
    sparsity: str
    embeddings: bool
    permute: bool | None
    matmul_as: str
    storage: str
    quantize: str
    keep_float: str | Sequence[str]
    dynamic: str
    allow_lossy: bool
    cut_cache: bool
    max_layer_ratio: float
    layer_ratio: Mapping[str, float] | Sequence[tuple[str, float]]
    round_to: str | int
    min_width: int
    include: str | Sequence[str]
    exclude: str | Sequence[str]
    repair: str
    schedule: str
    may_return: bool
    recover: str | int
    recover_loss: str
    learning_rate: float | None
    augment: str | Sequence[str]
    search: float
    search_recover: int
    gate_training: str | int
    gate_weights: str
    output_weight: Mapping[str, float] | Sequence[tuple[str, float]]
    task: str
    samples: int | None
    batch: int | None
    input_shape: Mapping[str, Sequence[int]] | Sequence[tuple[str, Sequence[int]]]
    row_shape: Mapping[str, Sequence[int]] | Sequence[tuple[str, Sequence[int]]]
    input_value: Mapping[str, float | Sequence[float]] | Sequence[tuple[str, float | Sequence[float]]]
    max_drop: float | None
    min_agreement: float | None
    min_cosine: float | None
    max_latency_ratio: float | None
    max_size: int | None
    allow_unproven: bool
    strict: bool
    latency: bool
    seed: int
    threads: int
    memory_limit: int | None
    spread: str
    attack: str
    rewind_as: str


class AskedOptions(SettingOptions, total=False):
    """``low_rank``: short for the granularity rank, beside the others where ``structured`` or a name is given.

    ``untrained``: the weights are as drawn; short for gates trained on the labels, and no repair. ``preset``: fast, balanced or best:
    options for what is not given otherwise (``onnxprune.choices.PRESETS``).
    """

    preset: str
    low_rank: bool
    untrained: bool


class RunOptions(AskedOptions, total=False):
    """``progress`` is told what begins, a ``Progress`` also what share of the run is over."""

    progress: Progress | Listener | None


class CheckOptions(RunOptions, total=False):
    """What a model may have at most, and the share of its MACs that can be pruned at least; bytes are ``max_size``."""

    max_params: int | None
    max_macs: int | None
    min_prunable: float | None


class FileOptions(RunOptions, total=False):
    """How files of data are read: ``images``, ``audio`` (.wav), ``text`` (.txt, with a tokenizer)."""

    images: ImageOptions | None
    audio: AudioOptions | None
    text: TextOptions | None


class InspectOptions(FileOptions, total=False):
    """``calibration``: data whose sizes the costs are counted at, where the file leaves them open."""

    calibration: Any


class DataOptions(FileOptions, total=False):
    """``calibration`` and ``evaluation``: arrays, dicts of arrays, paths, iterables, whatever ``--calib`` takes.

    ``labels`` are the evaluation data's, or without such the calibration data's. ``images``: how folders of them are read.
    ``cache``: folder that keeps what criteria gather from calibration data, and what a repair has solved: a run that was killed goes on from it.
    """

    cache: PathLike | None
    calibration: Any
    evaluation: Any
    labels: Any


class ApplyOptions(DataOptions, total=False):
    """``output``: where the model is written (None: nowhere); ``force`` replaces what is there.

    ``checkpoint``: file that keeps the state of ``recover``, to go on from.
    """

    output: PathLike | None
    force: bool
    checkpoint: PathLike | None


class PruneOptions(ApplyOptions, total=False):
    """``rewind``: the same network with its initial or early weights, which are what remains (and what ``recover`` trains).
    ``baseline``: an earlier report that nothing may be worse than by more than ``tolerance``, as one more gate.
    ``stats``: a file with what the criterion gathers from the calibration data, which ``stats`` wrote.
    """

    stats: PathLike | None
    rewind: Source | None
    baseline: Earlier | None
    tolerance: float


class CheckpointOptions(TypedDict, total=False):
    """``masks``: file that ``prune`` wrote beside a plan of zeros. ``untold``: refuse, copy or drop tensors that may have to be cut and are
    not told. ``force``: replace the output, and slice by a plan of another file of the same shapes.
    """

    masks: PathLike | None
    untold: str
    force: bool
    progress: Progress | Listener | None


class ValidateOptions(FileOptions, total=False):
    """``metric``: ``script.py:function``, one number per sample. ``calibration``: data that decided, which should share no row.

    ``layers``: also compare every inner tensor that both models have. ``baseline``, ``tolerance``: as of ``prune``.
    """

    labels: Any
    metric: str | None
    calibration: Any
    layers: bool
    baseline: Earlier | None
    tolerance: float


class BenchOptions(RunOptions, total=False):
    """``pairs``: timed runs of each model; ``seconds``: after which none begins. ``strict``: inconclusive is an error.

    ``providers``: execution providers of ONNX Runtime, the first that can runs a node. ``memory``: also measure the resident
    memory of a fresh process per model.
    """

    pairs: int
    seconds: float
    strict: bool
    providers: Sequence[str] | None
    memory: bool


class SweepOptions(DataOptions, total=False):
    """``ratios``, ``criteria``, ``repairs``: every combination is a point. ``folder`` keeps one JSON file per point."""

    ratios: Sequence[float]
    criteria: Sequence[str]
    repairs: Sequence[str]
    folder: PathLike | None


class StatisticsOptions(FileOptions, total=False):
    """``labels`` of the data. ``shard``: which part of the rows, such as 2/7 (None: all)."""

    labels: Any
    shard: str | None


class CurveOptions(FileOptions, total=False):
    """Nothing of its own."""


class Given(dict[str, Any]):
    """Options beside the settings; what was not given is None."""

    def __missing__(self, name: str) -> None:
        return None


SHARES_BESIDE = frozenset({"tolerance", "min_prunable", "ratios"})
"""Options beside the settings whose numbers may be given as percentages."""


def parted(options: Mapping[str, object], kind: Any, **defaults: Any) -> tuple[Given, Settings]:
    """Return what a function has of its own, one of the classes above, and the settings.

    Raises UsageError for a name or a value that is none.
    """
    own = kind.__annotations__.keys() - AskedOptions.__annotations__.keys()
    given = {
        name: share_of(value) if name in SHARES_BESIDE else value for name, value in options.items() if name in own
    }
    settings = {name: value for name, value in options.items() if name not in own}
    preset = settings.get("preset")
    if isinstance(preset, str) and given.get("calibration") is not None and given.get("rewind") is None:
        settings |= of_preset(preset, settings, fits=True)
    return Given(defaults | given), make_settings(settings)
