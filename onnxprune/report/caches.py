"""What a report says of a decoder's cache that became narrower: what clients feed now, and what their configuration has to say."""

from __future__ import annotations

from collections.abc import Mapping

from onnxprune.model.decoding import HEADS, decoding_of
from onnxprune.model.graph import Graph
from onnxprune.model.model import Model
from onnxprune.report.entries import Report, ReportView

CACHES = ("cache", "becomes", "heads", "after", "shape now")


def cache_entries(before: Model, after: Model) -> list[Report]:
    """Return a row per cache: input and output, heads and shapes before and after.

    A size that the file leaves open is null, and so is the shape of a cache that went with its layer.
    """
    one, two = (_shapes(model) for model in (before, after))
    return [
        {
            "input": state.past,
            "output": state.present,
            "heads_before": one[state.past][HEADS],
            "heads_after": two[state.past][HEADS] if state.past in two else 0,
            "shape_before": one[state.past],
            "shape_after": two.get(state.past),
        }
        for state in decoding_of(Graph(before.structure)).caches
    ]


def _shapes(model: Model) -> dict[str, list[int | None]]:
    return {
        value.name: [dim.dim_value or None for dim in value.type.tensor_type.shape.dim]
        for value in model.structure.graph.input
    }


def attention_heads(model: Model) -> list[int]:
    """Return the numbers of query heads that attention operators say, each once and in order."""
    found = {
        int(node.attribute("num_heads", 0) or node.attribute("q_num_heads", 0)) for node in Graph(model.structure).nodes
    }
    return sorted(found - {0})


def cache_rows(report: ReportView) -> list[tuple[str, ...]]:
    """Return a row of text per cache."""
    return [
        (row["input"], row["output"], _told(row["heads_before"]), _told(row["heads_after"]), _shape(row["shape_after"]))
        for row in report.get("cache") or ()
    ]


def cache_sentence(report: ReportView) -> str:
    """Say what clients have to feed now; "" where no cache became narrower."""
    rows: list[Mapping] = [row for row in report.get("cache") or () if row["heads_before"] != row["heads_after"]]
    if not rows:
        return ""
    left = sorted({row["heads_after"] for row in report["cache"]} - {0})
    heads = report.get("attention_heads") or []
    gone = sum(row["heads_after"] == 0 for row in rows)
    fewer = f"{len(rows) - gone} of {len(report['cache'])} inputs have fewer heads"
    went = f"{gone} went with their layers"
    what = f"clients feed a narrower cache now: {' and '.join([fewer] * (len(rows) > gone) + [went] * (gone > 0))}"
    if gone:
        return f"{what}; onnxruntime-genai takes none of its layers without, ONNX Runtime itself does"
    if len(left) == 1:
        queries = f", num_attention_heads {heads[0]}" if len(heads) == 1 else ""
        return f"{what}; all layers are alike, so that genai_config.json takes them: num_key_value_heads {left[0]}{queries}"
    return (
        f"{what}, {left[0]} to {left[-1]} by layer, which ONNX Runtime reads from the file and genai_config.json, with one number for all, "
        "cannot say: --scope layer takes as many of every layer"
    )


def _told(heads: int | None) -> str:
    return "?" if heads is None else str(heads)


def _shape(shape: list[int | None] | None) -> str:
    return "gone" if shape is None else " x ".join("?" if size is None else str(size) for size in shape)
