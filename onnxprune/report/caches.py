"""What a report says of a decoder's cache that became narrower: what clients feed now, and what their configuration has to say."""

from __future__ import annotations

from collections.abc import Mapping

from onnxprune.model.decoding import HEADS, decoding_of
from onnxprune.model.graph import Graph
from onnxprune.model.model import Model
from onnxprune.report.entries import Report, ReportView

CACHES = ("cache", "becomes", "heads", "after", "shape now")


def cache_entries(before: Model, after: Model) -> list[Report]:
    """Return a row per cache: input and output, heads and shapes before and after (null: a size that the file leaves open)."""
    shapes = [_shapes(model) for model in (before, after)]
    rows = []
    for state in decoding_of(Graph(after.structure)).caches:
        one, two = (of.get(state.past, []) for of in shapes)
        rows.append(
            {
                "input": state.past,
                "output": state.present,
                "heads_before": one[HEADS] if one else None,
                "heads_after": two[HEADS],
                "shape_before": one,
                "shape_after": two,
            }
        )
    return rows


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
    left = sorted({row["heads_after"] for row in report["cache"]})
    heads = report.get("attention_heads") or []
    what = f"clients feed a narrower cache now: {len(rows)} of {len(report['cache'])} inputs have fewer heads"
    if len(left) == 1:
        queries = f", num_attention_heads {heads[0]}" if len(heads) == 1 else ""
        return f"{what}; all layers are alike, so that genai_config.json takes them: num_key_value_heads {left[0]}{queries}"
    return (
        f"{what}, {left[0]} to {left[-1]} by layer, which ONNX Runtime reads from the file and genai_config.json, with one number for all, "
        "cannot say: --scope layer takes as many of every layer"
    )


def _told(heads: int | None) -> str:
    return "?" if heads is None else str(heads)


def _shape(shape: list[int | None]) -> str:
    return " x ".join("?" if size is None else str(size) for size in shape)
