"""The options that commands share, in the groups and the order in which help lists them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from onnxprune.choices import AUTO, CHOICES
from onnxprune.cli.paths import REQUESTED
from onnxprune.cli.typed import CONFIGURED
from onnxprune.cli.values import (
    ALIGNMENT,
    AUGMENTATIONS,
    NAMED_SHAPE,
    NAMED_VALUE,
    NUMBERS,
    OUTPUT_WEIGHT,
    PATTERN_SHARE,
    RATIO,
    SECONDS,
    SHARE,
    SIZE,
    File,
    Word,
)
from onnxprune.errors import UsageError
from onnxprune.registry import near_names
from onnxprune.report.visible import visible

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

FILE = File(dir_okay=True)
WRITTEN = File(allow_dash=True)


def _keep(name: str) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Remember an option's value for the application, which reports failures."""

    def callback(ctx: click.Context, _: click.Parameter, value: Any) -> Any:
        ctx.meta[name] = value
        return value

    return callback


def _document(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    """Remember where a document goes; refuse, before any work, what could not be written, or would replace something else."""
    if value is None or ctx.resilient_parsing:
        return
    kind, chosen = str(param.name), ctx.meta.setdefault(REQUESTED, {})
    if value == "-" and "-" in chosen.values():
        raise click.BadParameter("only one document can go to stdout", ctx, param)
    if not Path(value).parent.is_dir():
        raise click.BadParameter(f"folder {Path(value).parent} does not exist; create it first", ctx, param)
    from onnxprune.model import paths
    from onnxprune.report.documents import require

    require(kind)
    if value != "-":
        paths.check_document(value, kind, paths.WRITTEN[kind])
    chosen[kind] = value


class Negative(click.Option):
    """A flag that turns something off; so does its variable: ``ONNXPRUNE_NO_LATENCY=1``."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        value = super().resolve_envvar_value(ctx)
        return None if value is None or not click.BOOL.convert(value, self, ctx) else "false"


class _Visible(logging.Formatter):
    """Log lines whose names of nodes and files are shown as text."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def _messages(name: str, level: int) -> Callable[[click.Context, click.Parameter, bool], bool]:
    """Remember ``--verbose`` or ``--quiet``, and let that much of the log through."""

    def callback(ctx: click.Context, _: click.Parameter, value: bool) -> bool:
        ctx.meta[name] = value
        if value or not logging.root.handlers:
            logging.basicConfig(level=level if value else logging.WARNING, force=True)
            for handler in logging.root.handlers:
                handler.setFormatter(_Visible("%(message)s"))
        return value

    return callback


def _read_config(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    """Take defaults from a TOML file, whose keys are option names; a key that is none is refused with near names."""
    ctx.meta["config"] = value
    if value is None or ctx.resilient_parsing:
        return
    from onnxprune.cli.config import converted, toml

    known = {o.lstrip("-").replace("-", "_"): p for p in ctx.command.params for o in p.opts if o.startswith("--")}
    found, raw = {}, {}
    try:
        for key, item in toml(Path(value)).items():
            name = key.replace("-", "_")
            if name not in known or known[name] is param:
                raise UsageError(f"{value}: there is no option {key!r}{near_names(key, list(known))}")
            found[str(known[name].name)] = converted(known[name], item, f"{value}, {key}")
            raw[str(known[name].name)] = item
    except UsageError as error:
        raise click.BadParameter(str(error), ctx, param) from None
    ctx.default_map, ctx.meta[CONFIGURED] = found, raw


KINDS = (
    click.option(
        "--granularity",
        type=Word(CHOICES["granularity"].names, listed=True),
        metavar="NAME[,NAME]",
        multiple=True,
        help="heads (default), width of heads, or whole groups. Beside it 'paired': the least channels of every "
        "convolution group go together, wherever they stand; 'stream': also cuts axes whose statistics that changes. "
        "Or 'block': whole residual branches; 'rank': see --low-rank; 'eigen': the same in each layer's eigenbasis; 'experts': whole experts of mixtures; 'lossless'. "
        "Several kinds, such as block,heads, share one target.",
    ),
    click.option(
        "--share",
        type=PATTERN_SHARE,
        metavar="NAME=SHARE",
        multiple=True,
        help="How much of what is saved one of several kinds saves, e.g. block=20%. Default: as data judges (--calib).",
    ),
)
CRITERION = (
    click.option(
        "--criterion",
        type=Word((AUTO, *CHOICES["criterion"].names)),
        metavar="NAME[:REDUCTION[:NORMALISER]]",
        help="How units are scored; 'onnxprune criteria' lists them. Default: l2; with --calib, what repairs best.",
    ),
)
ATTACK = (
    click.option(
        "--attack",
        type=Word(("fgsm:8/255", "pgd:8/255")),
        metavar="METHOD:SIZE[,OPTION=VALUE]",
        help="How rows are changed a little by the model's own gradients, for validate and for --criterion vulnerability (default there pgd:8/255): fgsm or "
        "pgd, and a share of the range of the values, such as pgd:8/255,norm=l2,steps=20,range=-1:1. The range follows from --mean, --std and --scale, "
        "or from data of 0 to 1, -1 to 1 or 0 to 255.",
    ),
)
LOSSY = (
    click.option(
        "--allow-lossy",
        is_flag=True,
        default=None,
        help="Also cut channels next to which a node looks (response norms, convolutions over channels): what it sees of "
        "the others changes.",
    ),
    click.option(
        "--cut-cache",
        is_flag=True,
        default=None,
        help="Let heads of keys and values go with their share of a decoder's cache: those inputs and outputs become narrower, and "
        "clients feed what the report says.",
    ),
)
STATS = (
    click.option(
        "--stats",
        type=FILE,
        help="What the criterion gathers from --calib, in a file that 'onnxprune stats' wrote: these passes over the data are left out.",
    ),
)
PRESET = (
    click.option(
        "--preset",
        type=Word(CHOICES["preset"].names),
        metavar="NAME",
        help="fast, balanced or best: sets of options for what is not given otherwise (CPU time at half of the MACs of a small network: 3, 5 and 30 s; "
        "docs/cli.md); "
        "a run says at its start what to expect. Default: none.",
    ),
)
WHAT = (
    *PRESET,
    click.option(
        "--structured/--unstructured",
        default=None,
        help="Remove whole units (the default), or make single weights zero instead, as many as --ratio says: all shapes stay.",
    ),
    click.option(
        "--sparsity",
        metavar="SHARE|N:M|FILE",
        help="Make single weights zero: a share (0.7), N of every M that stay along the contraction (2:4), a share of blocks "
        "(0.7,block=1x16), or masks from an .npz file. With --structured, --ratio or --target after the units went.",
    ),
    click.option(
        "--embeddings/--no-embeddings",
        default=None,
        help="Make entries of embedding tables zero too, the smallest (default: they stay).",
    ),
    click.option(
        "--permute/--no-permute",
        default=None,
        help="First bring channels into an order in which N of every M weights keep more, which changes no output (default: with "
        "--sparsity N:M, without --masks).",
    ),
    click.option("--ratio", type=RATIO, help="Share of the prunable units to remove, e.g. 0.5 (the default) or 50%."),
    click.option(
        "--target",
        type=Word(("macs=50%", "params=50%", "size=50%", "latency=50%")),
        metavar="KIND=VALUE",
        help="What may remain instead: macs=50%, macs=2M, params=0.5x, size=8MB, latency=0.6x.",
    ),
    click.option(
        "--max-divergence",
        type=float,
        metavar="D",
        help="The smallest model instead whose outputs diverge by at most D on held-out rows of --calib.",
    ),
    *CRITERION,
    *ATTACK,
    click.option(
        "--roles",
        type=Word(CHOICES["roles"].names),
        metavar="ROLES",
        help="Which weights of a unit count: both (default), reads or writes.",
    ),
    click.option(
        "--selection",
        type=Word(CHOICES["selection"].names),
        metavar="NAME",
        help="independent (default); greedy: weights that meet units already gone do not count (weight criteria).",
    ),
    click.option(
        "--scope",
        type=Word(CHOICES["scope"].names),
        metavar="SCOPE",
        help="What shares the ratio: layer (default without data), global (with) or isomorphic; single weights: layer (default), global, "
        "error (with --calib), erdos-renyi or erdos-renyi-kernel.",
    ),
    click.option(
        "--threshold",
        type=Word(CHOICES["threshold"].names),
        metavar="NAME",
        help="class-blind (default), class-uniform or class-distribution.",
    ),
    *KINDS,
    click.option(
        "--low-rank",
        is_flag=True,
        default=None,
        help="Write layers as two or three thinner ones that give nearly the same on --calib data: all widths between layers stay. "
        "With --structured (or --granularity) units go as well, under one --target.",
    ),
    click.option(
        "--lossless",
        is_flag=True,
        default=None,
        help="Remove only what carries nothing: units nobody reads, constants, duplicates; instead of a ratio.",
    ),
    click.option(
        "--rotate/--no-rotate",
        default=None,
        help="First turn residual streams between norms, and with --granularity width the width of heads, to principal directions of "
        "--calib data, which changes no output: the directions that say least go then (default: with --calib, where that is judged better).",
    ),
    click.option(
        "--vocabulary",
        type=FILE,
        help="The tokens that stay of a language model: numbers (.npy, .npz, or one per line), tokens, or a text made of them (.txt, with "
        "--tokenizer). Rows of embeddings and of heads go, and nothing else without a ratio or target.",
    ),
    click.option(
        "--token-numbers",
        type=Word(CHOICES["token_numbers"].names),
        metavar="original|new",
        help="The numbers of tokens that the result takes: the original's (default), or new ones in ascending order, which the caller looks up in the "
        "map that is written beside it.",
    ),
    click.option(
        "--matmul-as",
        type=Word(CHOICES["matmul_as"].names),
        metavar="gemm|conv",
        help="Write products with stored weights as Gemm, or as convolutions of one position, which TensorRT takes 2:4 in and some "
        "accelerators compute alone; nothing that is computed changes (--ratio 0 removes nothing before).",
    ),
    click.option(
        "--storage",
        type=Word(CHOICES["storage"].names),
        metavar="FORM",
        help="How tensors are stored in the end, decoded by standard operators when the file is loaded: auto (the smallest that is "
        "exact but for rounding to fp16), fp16, packed (zeros left out), codebook (256 values per tensor) or :16, packed:16. "
        "Default plain; --ratio 0 removes nothing before.",
    ),
    click.option(
        "--quantize",
        type=Word(CHOICES["quantize"].names),
        metavar="int8|dynamic",
        help="In the end make weights 8-bit integers by ONNX Runtime's quantiser, by the recipe that loses least on rows held out: int8, "
        "values too, by their ranges on --calib; or dynamic, values as they come (--ratio 0 removes nothing before).",
    ),
    click.option(
        "--keep-float",
        metavar="PATTERN",
        multiple=True,
        help="What --quantize leaves float: a glob on names, op:Type or re:REGEX. Repeatable.",
    ),
    click.option(
        "--dynamic",
        type=Word(("macs=75%", "latency=80%")),
        metavar="macs=SHARE|latency=SHARE",
        help="What a sample may take on average: the pruned model runs for every sample, and the original beyond it only for those that a "
        "gate, taught on --calib, lets through, e.g. macs=75%. --target or --ratio says what the first takes.",
    ),
    *LOSSY,
    click.option(
        "--max-layer-ratio", type=SHARE, help="The largest share that may go from any one group. Default 100%."
    ),
    click.option(
        "--layer-ratio",
        type=PATTERN_SHARE,
        multiple=True,
        help="A share of its own for what matches, e.g. 'conv1*=0.2'. Repeatable.",
    ),
    click.option(
        "--round-to",
        type=ALIGNMENT,
        help="Widths are multiples of N, of what a target computes in (qnn-htp, tensorrt-int8, ...: docs/targets.md), "
        "or (auto, the default) of this CPU's blocks.",
    ),
    click.option("--min-width", type=int, help="Units that every group keeps at least. Default 1."),
)
WHERE = (
    click.option(
        "--include",
        metavar="PATTERN",
        multiple=True,
        help="Cut only what matches: a glob on node or tensor names, re:REGEX, or op:Type. Repeatable.",
    ),
    click.option("--exclude", metavar="PATTERN", multiple=True, help="Never cut what matches. Repeatable."),
)
SHAPES = (
    click.option(
        "--input-shape",
        type=NAMED_SHAPE,
        multiple=True,
        help="Sizes of an input with free dimensions, e.g. 'image:1,3,224,224'. Repeatable.",
    ),
    click.option(
        "--input-value",
        type=NAMED_VALUE,
        multiple=True,
        help="What an input is fed where no data says so: a number, true or false, or several, e.g. 'sr:16000'. Repeatable.",
    ),
)
CALIBRATION = (
    click.option(
        "--calib",
        type=FILE,
        help="Data that may decide: .npy, .npz, a folder of them, test_data_set_* folders, images, .wav, .txt, or a .py file.",
    ),
    click.option(
        "--cache",
        type=FILE,
        help="Folder that keeps what --calib showed and what a repair has solved: for the next run, and for one that was killed.",
    ),
    click.option(
        "--eval", "evaluation", type=FILE, help="Data to measure the result on, never chosen by. Default: --calib."
    ),
)
REPAIR = (
    click.option(
        "--repair",
        type=Word(CHOICES["repair"].names),
        metavar="METHOD",
        help="Surviving weights, from --calib: auto (default), least-squares, batchnorm, bias or none; without: isometry.",
    ),
    click.option(
        "--search", type=SECONDS, help="Time to search for better widths on --calib, e.g. 60s or 2m. Default 0."
    ),
    click.option(
        "--search-recover",
        type=int,
        metavar="STEPS",
        help="Train every proposal of the search so long before it is judged. Default 0.",
    ),
    click.option(
        "--untrained",
        is_flag=True,
        default=None,
        help="The model's weights are as drawn: gates are trained on the labels of --calib, nothing is repaired, and --recover trains on labels.",
    ),
    click.option(
        "--gate-training",
        metavar="STEPS|TIME",
        help="How long --criterion gates trains gates, e.g. 1000 or 5m. Default 500 steps.",
    ),
    click.option(
        "--gate-weights",
        type=Word(CHOICES["gate_weights"].names),
        metavar="frozen|moving",
        help="Whether weights are trained beside gates; those that stay are written as they have become. Default frozen.",
    ),
    click.option(
        "--schedule",
        type=Word(CHOICES["schedule"].names),
        metavar="NAME[:STEPS]",
        help="Go to the target in steps, repaired and recovered each: linear, cubic or geometric. Default one-shot.",
    ),
    click.option(
        "--may-return", is_flag=True, default=None, help="Each step of --schedule chooses among all units anew."
    ),
    click.option(
        "--rewind", type=FILE, help="The same network as first or early trained: its weights are what remains."
    ),
    click.option(
        "--rewind-as",
        type=Word(CHOICES["rewind_as"].names),
        metavar="weights|signs",
        help="What remains of --rewind: its weights (the default), or their signs times one number per layer.",
    ),
    click.option(
        "--recover",
        metavar="STEPS|TIME",
        help="Then train the weights towards the original's outputs on --calib: 200 steps, or e.g. 90s, 5m. Default 0.",
    ),
    click.option(
        "--recover-loss",
        type=Word(CHOICES["recover_loss"].names),
        metavar="NAME",
        help="auto (default: distillation, with labels in --calib the task loss too), distill, mse, labels, or blocks: "
        "block after block, so many STEPS for each.",
    ),
    click.option("--learning-rate", type=float, help="The largest of the training; it falls to zero. Default 0.001."),
    click.option(
        "--augment",
        type=AUGMENTATIONS,
        help="Images in training: flip, shift or flip,shift, none, or auto (default): what still looks real to the model.",
    ),
    click.option(
        "--memory",
        "memory_limit",
        type=SIZE,
        help="What the run may take, e.g. 2GB (default of --recover; half of the machine's where it has less): rows at once and what is loaded at once follow it.",
    ),
    click.option(
        "--checkpoint", type=FILE, help="Keeps the state of --recover; a run that was killed goes on from it."
    ),
)
IMAGES = (
    click.option(
        "--layout",
        type=Word(("NCHW", "NHWC")),
        metavar="LAYOUT",
        help="Images: NCHW or NHWC. Default: read off the model.",
    ),
    click.option(
        "--mean", type=NUMBERS, help="Images: subtracted after scaling, one number or one per channel. Default 0."
    ),
    click.option("--std", type=NUMBERS, help="Images: divided by, one number or one per channel. Default 1."),
    click.option("--scale", type=float, help="Images: pixels are multiplied by this. Default 1/255 for float inputs."),
    click.option(
        "--channel-order",
        type=Word(("RGB", "BGR")),
        metavar="ORDER",
        help="Images: RGB (default) or BGR, as the model takes them.",
    ),
    click.option(
        "--fit",
        type=Word(("crop", "letterbox", "stretch")),
        metavar="NAME",
        help="Images: crop (default: the centre), letterbox (all of it, with a border) or stretch, to the model's size.",
    ),
    click.option(
        "--resize",
        type=int,
        help="Images: the shorter side in pixels before the centre is cut out, e.g. 256. Default: the model's size.",
    ),
    click.option("--fill", type=int, help="Images: grey of a letterbox's border, 0 to 255. Default 114."),
)
AUDIO = (
    click.option(
        "--audio-rate", type=int, help="Recordings (.wav): samples per second that the model takes, e.g. 16000."
    ),
    click.option(
        "--audio-window", type=int, help="Recordings: samples of a row. Default: the model's size, else the recording."
    ),
    click.option("--audio-hop", type=int, help="Recordings: samples from one window to the next. Default: a window."),
    click.option(
        "--audio-scale",
        type=float,
        help="Recordings: samples in [-1, 1] are multiplied by this. Default 1 for float inputs.",
    ),
)
TEXT = (
    click.option("--tokenizer", type=FILE, help="Text (.txt, a row per line): the model's tokenizer.json."),
    click.option(
        "--text-length", type=int, help="Text: tokens of a row. Default: the model's, else the longest line's."
    ),
)
JUDGE = (
    click.option(
        "--output-weight",
        type=OUTPUT_WEIGHT,
        multiple=True,
        help="How much more an output, or channels of it, count wherever models are compared, e.g. 'boxes=2' or "
        "'y[4:84]=3'; by default all outputs alike, and all kinds of channels in one. Repeatable.",
    ),
    click.option(
        "--task",
        type=Word(CHOICES["task"].names),
        metavar="KIND[:OPTION=VALUE,...]",
        help="What the model is for, judged against the original where there are no labels: classes, ctc, detection, "
        "segmentation, embedding, multilabel, sequence, regression, or none; e.g. detection:confidence=0.25,iou=0.5. "
        "Default: as the outputs tell.",
    ),
)
DATA = (
    click.option(
        "--labels", type=FILE, help="Labels of the data measured on: .npy, .npz or .txt. Default: those in its file."
    ),
    click.option("--samples", type=int, help="Use so many random rows of --calib (of --data). Default: all."),
    click.option(
        "--batch",
        type=int,
        help="Rows that go through the model at once, where it leaves that open. Default: as memory allows.",
    ),
    *IMAGES,
    *AUDIO,
    *TEXT,
    *JUDGE,
)
QUALITY_GATES = (
    click.option("--max-drop", type=SHARE, help="Gate: the task metric may drop by so much, e.g. 1% (one point)."),
    click.option("--min-agreement", type=SHARE, help="Gate: share of samples that keep their class."),
    click.option("--min-cosine", type=SHARE, help="Gate: mean cosine of the outputs to the original's."),
    click.option("--max-latency-ratio", type=SHARE, help="Gate: latency after over before, e.g. 0.6."),
    click.option("--max-size", type=SIZE, help="Gate: bytes of the result, e.g. 8MB."),
    click.option("--strict", is_flag=True, default=None, help="A gate that noise leaves undecided fails (exit 5)."),
)
BASELINE = (
    click.option("--baseline", type=FILE, help="Gate: the JSON report of an earlier run; nothing may be worse."),
    click.option("--tolerance", type=SHARE, help="By how much --baseline may be exceeded. Default 2%."),
)
RUN = (
    click.option(
        "--config",
        type=FILE,
        is_eager=True,
        expose_value=False,
        callback=_read_config,
        help="TOML file of option = value. Options win over ONNXPRUNE_* variables, these over the file.",
    ),
    click.option("--seed", type=int, help="Seed of everything random. Default 0."),
    click.option("--threads", type=int, help="Threads of ONNX Runtime. Default 1."),
    click.option(
        "--spread",
        metavar="processes:N|dask://HOST:PORT",
        help="Share out passes over data, points, probes and proposals to N processes, or to the workers of a Dask scheduler; the result "
        "stays the same (docs/scale.md).",
    ),
)
RESULT = (
    click.option("-o", "--output", type=FILE, help="The same as OUT. Default: MODEL.pruned.onnx beside the input."),
    click.option(
        "--no-latency",
        "latency",
        cls=Negative,
        is_flag=True,
        flag_value=False,
        default=None,
        help="Measure no latency.",
    ),
    click.option(
        "--allow-unproven",
        is_flag=True,
        default=None,
        help="Write a result that agrees with the original wherever it was seen, though not everything was.",
    ),
    click.option("--dry-run", is_flag=True, help="Do everything but write the model."),
    click.option("--plan", "plan_path", type=FILE, help="Write the plan, to be reviewed, or replayed with 'apply'."),
    click.option(
        "--masks",
        "masks_path",
        type=FILE,
        help="Write which weights may differ from zero (--sparsity), as .npz, for a trainer.",
    ),
    click.option("--force", is_flag=True, help="Replace what exists; 'apply' then takes models with another digest."),
)
OUTPUT = tuple(
    click.option(
        f"--{kind}",
        type=WRITTEN,
        metavar="FILE",
        expose_value=False,
        callback=_document,
        help=f"Write the report as {title} (-: to stdout).",
    )
    for kind, title in (
        ("json", "JSON"),
        ("markdown", "Markdown"),
        ("junit", "JUnit XML"),
        ("html", "one HTML file"),
        ("model-explorer", "node data of Model Explorer: the share kept"),
        ("model-explorer-macs", "node data of Model Explorer: MACs left"),
    )
)
MESSAGES = (
    click.option(
        "-v",
        "--verbose",
        is_flag=True,
        expose_value=False,
        callback=_messages("verbose", logging.INFO),
        help="Say more on stderr: stages with their times, what was decided, tracebacks.",
    ),
    click.option(
        "-q",
        "--quiet",
        is_flag=True,
        expose_value=False,
        callback=_messages("quiet", logging.ERROR),
        help="Print errors only.",
    ),
    click.option("--no-color", is_flag=True, expose_value=False, callback=_keep("no_color"), help="Plain text."),
)


def options(*groups: tuple[Decorator, ...]) -> Decorator:
    """Decorate a command with groups of options, listed in help in this order."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed([option for group in groups for option in group]):
            function = option(function)
        return function

    return decorate


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were set, so that all defaults live in one place."""
    return {name: value for name, value in values.items() if value is not None and value != ()}


def take_reading(values: dict[str, Any]) -> dict[str, Any]:
    """Take out of ``values`` how pictures, recordings and text are read; only what was said."""
    kinds = {
        kind: given({own: values.pop(name, None) for name, own in names.items()}) for kind, names in READING.items()
    }
    found = {kind: own for kind, own in kinds.items() if own}
    if not found:
        return {}
    from onnxprune.data import AudioOptions, ImageOptions, TextOptions

    if "text" in found and "tokenizer" not in found["text"]:
        raise UsageError("--text-length goes with text; say --tokenizer too")
    classes: dict[str, Any] = {"images": ImageOptions, "audio": AudioOptions, "text": TextOptions}
    return {kind: classes[kind](**own) for kind, own in found.items()}


READING = {
    "images": {n: n for n in ("layout", "mean", "std", "scale", "channel_order", "fit", "resize", "fill")},
    "audio": {f"audio_{n}": n for n in ("rate", "window", "hop", "scale")},
    "text": {"tokenizer": "tokenizer", "text_length": "length"},
}
"""Kind of files -> option -> field of the options of that kind."""
