"""What a narrower residual stream is worth in time, and what the forms that its norm may take cost.

python benchmarks/streams.py forms [--width 384 ...] [--rows 128]
python benchmarks/streams.py encoder [--norm layer|rms] [--order pre|post] [--aim 0.6] [--tokens 128] [-- OPTION=VALUE ...]

encoder: an encoder of 12 layers (width 384, 12 heads, 1536 neurons, weights drawn) pruned to a share of its MACs by weight norms, every
layer alike; CPU time of one thread, pruned over original, against the MACs, and beside it the same of a network drawn with the widths
that are nearest to the pruned one's. OPTION: of onnxprune.prune, in Python's words.

forms: a chain of norms of each spelling, alone and behind a residual addition, by the CPU time of one thread; what ONNX Runtime made of
them is printed beside it. Microseconds per norm are those of a chain of 32 less a chain of 8, over 24, the 10th percentile.
"""

from __future__ import annotations

import argparse
import ast
import collections
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from onnxprune.measure.latency import interleave, time

EPSILON = 1e-6
LONG, SHORT = 32, 8
MICROSOFT = "com.microsoft"


@dataclass
class Drawing:
    """A graph as it is built: nodes and weights of one width, every value named by its number."""

    opset: int
    width: int
    seed: int = 0
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)

    def op(self, kind: str, *inputs: str, outputs: int = 1, at: int = 0, domain: str = "", **attributes: object) -> str:
        """Add a node and return the name of its output number ``at``."""
        names = [f"v{len(self.nodes)}_{i}" if i in (0, at) else "" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, domain=domain, **attributes))
        return names[at]

    def both(self, kind: str, *inputs: str, last: int, **attributes: object) -> tuple[str, str]:
        """Add a node and return the names of its first and its ``last`` output."""
        end = self.op(kind, *inputs, outputs=last + 1, at=last, **attributes)
        return self.nodes[-1].output[0], end

    def stored(self, value: object, dtype: type = np.float32) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def drawn(self, *shape: int) -> str:
        """Add a weight near one."""
        rng = np.random.default_rng((self.seed, len(self.weights)))
        return self.stored(1 + 0.1 * rng.standard_normal(shape))

    def dense(self, x: str, fan: int, out: int) -> str:
        """Add a product with a drawn matrix float32[fan, out] that keeps the scale, and a bias."""
        rng = np.random.default_rng((self.seed, len(self.weights)))
        matrix = self.stored(rng.standard_normal((fan, out)) / np.sqrt(fan))
        return self.op("Add", self.op("MatMul", x, matrix), self.stored(0.1 * rng.standard_normal(out)))

    def save(self, path: Path, end: str, rows: int, out: int | None = None) -> Path:
        """Write the model: ``x`` float32[1, rows, width] in, ``end`` out, as wide (None) or ``out`` wide."""
        widths = {"x": self.width, end: out or self.width}
        spec = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, rows, w]) for n, w in widths.items()]
        graph = helper.make_graph(self.nodes, "norms", spec[:1], spec[1:], self.weights)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid(MICROSOFT, 1)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
        return path


Form = Callable[[Drawing, str], str]
"""Adds one norm of a value and returns its output."""


def mean(g: Drawing, x: str) -> str:
    """Return the mean over the last axis, as the opset says it."""
    if g.opset < 18:
        return g.op("ReduceMean", x, axes=[-1], keepdims=1)
    return g.op("ReduceMean", x, g.stored([-1], np.int64), keepdims=1)


def spelled(square: str, inverse: str, gain: str, bias: bool = False) -> Form:
    """Return an RMS norm of plain operators: how the square, the inverse of the root, and the gain are written."""

    def form(g: Drawing, x: str) -> str:
        squared = g.op("Pow", x, g.stored(2.0)) if square == "Pow" else g.op("Mul", x, x)
        root = g.op("Sqrt", g.op("Add", mean(g, squared), g.stored(EPSILON)))
        if inverse == "Div":
            normed = g.op("Div", x, root)
        elif inverse == "1/":
            normed = g.op("Mul", x, g.op("Div", g.stored(1.0), root))
        else:
            normed = g.op("Mul", x, g.op("Reciprocal", root))
        weight = g.drawn(g.width)
        y = g.op("Mul", *((normed, weight) if gain == "right" else (weight, normed)))
        return g.op("Add", y, g.drawn(g.width)) if bias else y

    return form


def scaled(g: Drawing, x: str) -> str:
    """The spelled form with the mean scaled by a Mul, as after a cut."""
    squared = g.op("Pow", x, g.stored(2.0))
    root = g.op("Sqrt", g.op("Add", g.op("Mul", mean(g, squared), g.stored(0.6)), g.stored(EPSILON)))
    return g.op("Mul", g.op("Div", x, root), g.drawn(g.width))


def spelled_layer(g: Drawing, x: str) -> str:
    """A layer norm of plain operators."""
    centred = g.op("Sub", x, mean(g, x))
    root = g.op("Sqrt", g.op("Add", mean(g, g.op("Pow", centred, g.stored(2.0))), g.stored(EPSILON)))
    return g.op("Add", g.op("Mul", g.op("Div", centred, root), g.drawn(g.width)), g.drawn(g.width))


def exact_layer(g: Drawing, x: str) -> str:
    """A layer norm whose mean and variance are those of a wider stream, most of which is zero: n/N = 0.6."""
    kept = g.stored(0.6)
    middle = g.op("Mul", mean(g, x), kept)
    square = g.op("Mul", mean(g, g.op("Mul", x, x)), kept)
    variance = g.op("Sub", square, g.op("Mul", middle, middle))
    root = g.op("Sqrt", g.op("Add", variance, g.stored(EPSILON)))
    return g.op("Add", g.op("Mul", g.op("Div", g.op("Sub", x, middle), root), g.drawn(g.width)), g.drawn(g.width))


def single(kind: str, *, bias: bool, own: bool = False, domain: str = "") -> Form:
    """Return a norm that is one operator, its bias inside (``own``) or as an Add behind it."""

    def form(g: Drawing, x: str) -> str:
        extra = [g.drawn(g.width)] if bias and own else []
        y = g.op(kind, x, g.drawn(g.width), *extra, domain=domain, axis=-1, epsilon=EPSILON)
        return g.op("Add", y, g.drawn(g.width)) if bias and not own else y

    return form


FORMS: dict[str, tuple[int, Form]] = {
    "LayerNormalization, gain and bias": (17, single("LayerNormalization", bias=True, own=True)),
    "LayerNormalization, gain": (17, single("LayerNormalization", bias=False)),
    "LayerNormalization spelled out": (17, spelled_layer),
    "layer norm with scaled mean and variance": (17, exact_layer),
    "SimplifiedLayerNormalization": (17, single("SimplifiedLayerNormalization", bias=False)),
    "SimplifiedLayerNormalization + Add": (17, single("SimplifiedLayerNormalization", bias=True)),
    "RMSNormalization": (23, single("RMSNormalization", bias=False)),
    "RMSNormalization + Add": (23, single("RMSNormalization", bias=True)),
    **{
        f"spelled: {square}, {inverse}, gain {gain}{', bias' if bias else ''}": (
            17,
            spelled(square, inverse, gain, bias),
        )
        for square in ("Pow", "Mul")
        for inverse in ("Div", "1/", "Reciprocal")
        for gain in ("right", "left")
        for bias in (False, True)
        if not bias or (square, inverse, gain) == ("Pow", "Div", "right")
    },
    "spelled: Pow, Div, mean scaled by a Mul": (17, scaled),
}
OPSETS = (11, 13, 17, 18, 20, 21, 22, 23)
"""In which the spelled form is looked at."""


def chain(path: Path, form: Form, opset: int, width: int, rows: int, count: int, residual: bool) -> Path:
    """Write ``count`` norms, each of the last one's output, or of the sum of that and the stream so far."""
    g = Drawing(opset, width)
    x = y = "x"
    for _ in range(count):
        if residual:
            x = g.op("Add", x, y)
            y = form(g, x)
        else:
            y = form(g, y)
    return g.save(path, y, rows)


def skipped(path: Path, kind: str, width: int, rows: int, count: int) -> Path:
    """Write ``count`` residual additions with their norm in one operator of com.microsoft."""
    g = Drawing(17, width)
    x = y = "x"
    for _ in range(count):
        gains = [g.drawn(width)] * (1 if "Simplified" in kind else 2)
        y, x = g.both(kind, x, y, *gains, last=3, domain=MICROSOFT, epsilon=EPSILON)
    return g.save(path, y, rows)


def opened(path: Path) -> tuple[onnxruntime.InferenceSession, str]:
    """Return a session of one thread, and which operators ONNX Runtime made of the file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.optimized_model_filepath = str(path.with_suffix(".optimised.onnx"))
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    kinds = collections.Counter(n.op_type for n in onnx.load(options.optimized_model_filepath).graph.node)
    return session, ", ".join(f"{count} {kind}" for kind, count in kinds.items())


def per_norm(write: Callable[[Path, int], Path], rows: int, width: int) -> tuple[float, str]:
    """Return the microseconds of one norm, and the operators of the longer chain."""
    feed = {"x": np.random.default_rng(0).standard_normal((1, rows, width)).astype(np.float32)}
    with tempfile.TemporaryDirectory() as place:
        (long, kinds), (short, _) = (opened(write(Path(place) / f"{n}.onnx", n)) for n in (LONG, SHORT))
        runs = [lambda s=s: s.run(None, feed) for s in (long, short)]
        times = interleave(runs, rounds=60, max_seconds=4, warmup_seconds=0.1, clock=time.thread_time_ns)
    slow, fast = (float(np.percentile(t, 10)) for t in times)
    return (slow - fast) / (LONG - SHORT) / 1000, kinds


def forms(widths: list[int], rows: int) -> None:
    """Print the microseconds of every form at every width, and what became of the spelled form in every opset."""
    print(f"ONNX Runtime {onnxruntime.__version__}, float32 [1, {rows}, width], one thread, µs per norm")
    print(
        f"| form | opset | {' | '.join(f'alone, {w}' for w in widths)} | {' | '.join(f'with Add, {w}' for w in widths)} | became |"
    )
    print("|---" * (3 + 2 * len(widths)) + "|")
    rows_of: dict[str, tuple[str, list[Callable[[Path, int], Path] | None]]] = {}
    for name, (opset, form) in FORMS.items():
        writes = [
            (lambda p, n, f=form, o=opset, w=w, r=residual: chain(p, f, o, w, rows, n, r))
            for residual in (False, True)
            for w in widths
        ]
        rows_of[name] = (str(opset), writes)
    for kind in ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"):
        rows_of[f"com.microsoft.{kind}"] = (
            "17",
            [None] * len(widths) + [(lambda p, n, k=kind, w=w: skipped(p, k, w, rows, n)) for w in widths],
        )
    for name, (opset, writes) in rows_of.items():
        cells, became = [], ""
        for place, write in enumerate(writes):
            try:
                cost, became = per_norm(write, rows, widths[place % len(widths)]) if write else (None, became)
                cells.append("" if cost is None else f"{cost:.1f}")
            except Exception as error:
                cells.append("fails")
                became = str(error).splitlines()[0][:120]
        print(f"| {name} | {opset} | {' | '.join(cells)} | {became} |", flush=True)
    print("\n| spelled: Pow, Div, gain right; opset | became |\n|---|---|")
    for opset in OPSETS:
        with tempfile.TemporaryDirectory() as place:
            path = chain(Path(place) / "m.onnx", spelled("Pow", "Div", "right"), opset, widths[0], rows, 2, False)
            print(f"| {opset} | {opened(path)[1]} |")


@dataclass(frozen=True)
class Size:
    """Widths of an encoder: its stream, heads and neurons of each layer."""

    stream: int = 384
    heads: int = 12
    neurons: int = 1536
    layers: int = 12
    tokens: int = 128


HEAD, GIVEN, CLASSES = 32, 384, 64
"""Width of a head, and of what comes in and goes out, which stay."""
NORMS: dict[str, Form] = {"layer": FORMS["LayerNormalization, gain and bias"][1], "rms": spelled("Pow", "1/", "left")}


def attention(g: Drawing, x: str, size: Size) -> str:
    inner = size.heads * HEAD
    apart = g.stored([1, size.tokens, size.heads, HEAD], np.int64)
    query, key, value = (
        g.op("Transpose", g.op("Reshape", g.dense(x, size.stream, inner), apart), perm=perm)
        for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
    )
    scores = g.op("Mul", g.op("MatMul", query, key), g.stored(HEAD**-0.5))
    mixed = g.op("MatMul", g.op("Softmax", scores, axis=-1), value)
    together = g.op("Reshape", g.op("Transpose", mixed, perm=[0, 2, 1, 3]), g.stored([1, size.tokens, inner], np.int64))
    return g.dense(together, inner, size.stream)


def neurons(g: Drawing, x: str, size: Size) -> str:
    inner = g.dense(x, size.stream, size.neurons)
    erf = g.op("Add", g.op("Erf", g.op("Div", inner, g.stored(2**0.5))), g.stored(1.0))
    return g.dense(g.op("Mul", g.op("Mul", inner, erf), g.stored(0.5)), size.neurons, size.stream)


def encoder(path: Path, size: Size, norm: str, order: str) -> Path:
    """Write an encoder whose norms stand before (``pre``) or behind (``post``) the residual addition."""
    g = Drawing(17, size.stream)
    normed = NORMS[norm]
    x = g.dense("x", GIVEN, size.stream)
    for part in (attention, neurons) * size.layers:
        if order == "pre":
            x = g.op("Add", x, part(g, normed(g, x), size))
        else:
            x = normed(g, g.op("Add", x, part(g, x, size)))
    end = g.dense(normed(g, x) if order == "pre" else x, size.stream, CLASSES)
    g.width = GIVEN
    return g.save(path, end, size.tokens, CLASSES)


def widths(model: onnx.ModelProto, size: Size) -> Size:
    """Return the mean widths of a pruned encoder, in whole heads, by the shapes of its matrices."""
    shapes = [tuple(w.dims) for w in model.graph.initializer if len(w.dims) == 2]
    layers = [shapes[1 + 6 * i : 7 + 6 * i] for i in range(size.layers)]
    heads = np.mean([layer[2][1] for layer in layers]) / HEAD
    return replace(
        size, stream=shapes[-1][0], heads=round(heads), neurons=round(np.mean([layer[4][1] for layer in layers]))
    )


def timed(size: Size, norm: str, order: str, aim: float, repeats: int, options: dict[str, Any]) -> None:
    """Print one row: what was cut, the ratios of MACs and of CPU time, and those of a network drawn at these widths."""
    import onnxprune
    from onnxprune.api import bench, inspect

    with tempfile.TemporaryDirectory() as place:
        path, small, drawn = (Path(place) / f"{name}.onnx" for name in ("encoder", "small", "drawn"))
        encoder(path, size, norm, order)
        settings = {"criterion": "l2", "scope": "layer", "latency": False, **options}
        report = onnxprune.prune(path, output=small, target=f"macs={aim}x", **settings).report
        found = widths(onnx.load(small), size)
        encoder(drawn, found, norm, order)
        macs = [report["after"]["macs"], inspect(drawn)["before"]["macs"]]
        kinds = {kind: n for kind, n in collections.Counter(x.op_type for x in onnx.load(small).graph.node).items()}
        print(f"{norm}, {order}: {found}; {kinds}")
        for name, other, count in (("pruned", small, macs[0]), ("drawn at the mean widths", drawn, macs[1])):
            share = count / report["before"]["macs"]
            ratios = [bench(path, other, seconds=20.0)["latency"] for _ in range(repeats)]
            told = [r["ratio"] or float("nan") for r in ratios]
            middle = float(np.median(told))
            print(
                f"| {norm} | {order} | {name} | {share:.3f} | {', '.join(f'{r:.3f}' for r in told)} | {middle / share:.3f} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="what", required=True)
    table = parts.add_parser("forms")
    table.add_argument("--width", type=int, nargs="+", default=[384, 256])
    table.add_argument("--rows", type=int, default=128)
    whole = parts.add_parser("encoder")
    whole.add_argument("--norm", choices=list(NORMS), nargs="+", default=list(NORMS))
    whole.add_argument("--order", choices=["pre", "post"], nargs="+", default=["pre", "post"])
    whole.add_argument("--aim", type=float, default=0.6)
    whole.add_argument("--repeats", type=int, default=3)
    whole.add_argument("--tokens", type=int, default=128)
    given = sys.argv[1:]
    cut = given.index("--") if "--" in given else len(given)
    chosen = parser.parse_args(given[:cut])
    if chosen.what == "forms":
        forms(chosen.width, chosen.rows)
        return
    options = {name: ast.literal_eval(value) for name, value in (text.split("=", 1) for text in given[cut + 1 :])}
    print(
        "| norm | order | network | MACs | CPU time, pruned over original | time over MACs |\n|---|---|---|---|---|---|"
    )
    for norm in chosen.norm:
        for order in chosen.order:
            timed(Size(tokens=chosen.tokens), norm, order, chosen.aim, chosen.repeats, options)


if __name__ == "__main__":
    main()
