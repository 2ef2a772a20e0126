"""What a report says of the tokens that stay: rows for people, and a sentence."""

from __future__ import annotations

from onnxprune.report.entries import ReportView

TOKEN_TENSORS = ("tensor", "rows", "after", "inputs", "outputs", "status")


def token_rows(report: ReportView) -> list[tuple[str, ...]]:
    """Return a row per stored tensor that was looked at for a slice per token."""
    rows = list[tuple[str, ...]]()
    for row in report.get("vocabulary") or ():
        ends = (", ".join(row["inputs"]), ", ".join(row["outputs"]))
        status = row["reason"] or ("cut, tied" if row["tied"] else row["status"])
        rows.append((row["name"], f"{row['rows_before']:,}", f"{row['rows_after']:,}", *ends, status))
    return rows


def token_sentence(report: ReportView) -> str:
    """Say how many tokens stay, what becomes of others, and where the map is; "" where all stay."""
    found = report.get("vocabulary_map")
    if not found:
        return ""
    other = (
        "others are refused when the model runs"
        if found["stand_in"] is None
        else f"others count as {found['stand_in']}"
    )
    place = f"; which ones is in {found['path']}" if found["path"] else ""
    numbers = "the numbers they have" if found.get("numbers", "original") == "original" else "new numbers"
    if numbers == "new numbers":
        other = "others have none"
    return f"{found['tokens_after']:,} of {found['tokens_before']:,} tokens stay, under {numbers}; {other}{place}"
