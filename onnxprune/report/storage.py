"""What a report says of how tensors are stored: rows for people, and sentences."""

from __future__ import annotations

from collections import Counter

from onnxprune.report.entries import ReportView

TENSORS = ("tensor", "form", "bytes", "after", "zeros", "largest error")
SIZES = ("packed file", "before", "after")


def tensor_rows(report: ReportView) -> list[tuple[str, ...]]:
    """Return a row per stored tensor that was looked at, the largest first."""
    rows = sorted(report.get("storage") or (), key=lambda row: -row["bytes_before"])
    return [
        (
            *(row["name"], row["form"], f"{row['bytes_before']:,}", f"{row['bytes_after']:,}", f"{row['zeros']:.1%}"),
            row["reason"] or ("exact" if row["exact"] else f"{row['error']:.1e}"),
        )
        for row in rows
    ]


def packing_rows(report: ReportView) -> list[tuple[str, ...]]:
    """Return what the file takes before and after its tensors were packed."""
    found = report.get("packing")
    if not found:
        return []
    rows: list[tuple[str, ...]] = [
        (title, f"{found[key]['before']:,}", f"{found[key]['after']:,}")
        for key, title in (("bytes", "bytes"), ("zipped_bytes", "bytes, zipped"))
    ]
    rows.append(("bytes, least by the entropy of the numbers", "", f"{found['entropy_bytes']:,}"))
    for key, title, spec in (("load_seconds", "seconds to load", ".3f"), ("divergence", "divergence, held out", ".3g")):
        if found[key] is not None:
            rows.append((title, *(format(found[key][when], spec) for when in ("before", "after"))))
    return rows


def packing_sentence(report: ReportView) -> str:
    """Say which forms tensors have and what rounding them took; "" where storage was left as it was."""
    found = report.get("packing")
    if not found:
        return ""
    forms = Counter(row["form"] for row in report.get("storage") or ())
    told = ", ".join(f"{count} {form}" for form, count in forms.most_common())
    error = found["largest_error"]
    lost = f"rounded by at most {error:.1e} of a tensor's largest number" if error else "no number was rounded"
    return (
        f"storage {found['storage']}: {told or 'no tensor'}; {lost}; decoded when the file is loaded, so that memory and time of a "
        "run are those of plain weights; onnxprune expand gives these back"
    )
