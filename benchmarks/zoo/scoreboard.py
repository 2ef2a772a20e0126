"""Prune every model of a folder by half, one process each, and print the scoreboard.

python benchmarks/zoo/scoreboard.py FOLDER [--results FILE] [--only PATTERN] [--timeout SECONDS] [--memory GIB]

Results are lines of JSON beside the models; a model that has one is skipped, so that an interrupted run is resumed by
running it again. `--again PATTERN` measures anew; `--markdown` prints the summary as a document and runs nothing.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

Row = dict[str, Any]
BAR = 0.9  # of all MACs: what should be prunable
CHILD = Path(__file__).with_name("measure_one.py")
LINE = "{:34} {:13} {:>7} {:>7} {:>7} {:>7} {:>6} {:>5} {:>7} {:>6}  {}"
HEAD = (
    "model",
    "kind",
    "pr.MAC",
    "pr.par",
    "-MAC",
    "-par",
    "exact",
    "lossy",
    "seconds",
    "MiB",
    "main reason of what stays",
)
TITLES = (
    "models",
    "pruned exactly",
    "prunable MACs, median",
    "minimum",
    "of inner layers",
    "MACs removed",
    "parameters removed",
)


def families(folder: Path) -> dict[str, str]:
    """Map name -> family, from the manifest that the exporters write."""
    manifest = folder / "manifest.jsonl"
    lines = manifest.read_text().splitlines() if manifest.exists() else []
    return {row["name"]: row["family"] for row in map(json.loads, lines)}


def revision() -> str:
    """Return the commit that is measured, with a plus where files have changed since ("" outside a checkout)."""
    command = ["git", "-C", str(CHILD.parent), "describe", "--always", "--exclude=*", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def measure(path: Path, timeout: float, memory: int) -> Row:
    """Run one model in a process of its own with at most ``memory`` bytes; a failure is its last line."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))

    command = [sys.executable, str(CHILD), str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, preexec_fn=limit)
    except subprocess.TimeoutExpired:
        return {"failure": f"took longer than {timeout:.0f} s"}
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    lines = done.stderr.replace(str(path), path.name).strip().splitlines()
    return {"failure": lines[-1][:400] if lines else f"ended by signal {-done.returncode}"}


def read(results: Path) -> dict[str, Row]:
    """Return name -> row; a later line replaces an earlier one."""
    lines = results.read_text().splitlines() if results.exists() else []
    return {row["name"]: row for row in map(json.loads, lines)}


def run(folder: Path, results: Path, options: argparse.Namespace) -> None:
    """Measure what has no result yet, printing a line for each model."""
    family, known, commit = families(folder), read(results), revision()
    print(LINE.format(*HEAD))
    for path in sorted(folder.glob("*.onnx")):
        name = path.name.removesuffix(".onnx")
        again = options.again and fnmatch(name, options.again)
        if not fnmatch(name, options.only) or (name in known and not again):
            continue
        row = {"name": name, "family": family.get(name, name), "revision": commit}
        row |= measure(path, options.timeout, int(options.memory * 2**30))
        with open(results, "a") as stream:
            stream.write(json.dumps(row) + "\n")
        print(line(row), flush=True)


def line(row: Row) -> str:
    if "failure" in row:
        return f"{row['name']:34} {row['failure']}"
    shares = [f"{row[k]:.3f}" for k in ("prunable_macs", "prunable_parameters", "removed_macs", "removed_parameters")]
    exact = "yes" if row["exact"] else "no"
    return LINE.format(
        row["name"], row["kind"], *shares, exact, row["lossy"], row["seconds"], row["peak_mib"], row["reason"]
    )


def summary(rows: Iterable[Row]) -> tuple[str, ...]:
    """One line of the summary: the columns of TITLES over the rows of one kind or family."""
    every = list(rows)
    good = [row for row in every if "failure" not in row]
    exact = sum(row["exact"] for row in good)
    if not good:
        return (str(len(every)), "0", *["-"] * 5)
    macs = [row["prunable_macs"] for row in good]
    medians = [statistics.median(row[key] for row in good) for key in ("inner", "removed_macs", "removed_parameters")]
    values = [statistics.median(macs), min(macs), *medians]
    return (str(len(every)), f"{exact} ({exact / len(every):.1%})", *(f"{value:.1%}" for value in values))


def table(rows: Iterable[Row], key: str) -> str:
    """Markdown table with one line per value of ``key`` and, where there are several, a last one for all."""
    every = sorted(rows, key=lambda row: row["name"])
    parts = defaultdict(list)
    for row in every:
        parts[row.get(key, "failed")].append(row)
    lines = [("", *TITLES), ["---"] * (len(TITLES) + 1)]
    lines += [(name, *summary(parts[name])) for name in sorted(parts)]
    lines += [("all", *summary(every))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def exceptions(rows: Iterable[Row]) -> str:
    """Markdown list of the models that failed, were not cut exactly or stay below the bar, with the main reason."""
    found = []
    for row in sorted(rows, key=lambda row: row["name"]):
        if "failure" in row:
            found.append(f"- `{row['name']}`: {row['failure']}")
            continue
        if row["prunable_macs"] < BAR or not row["exact"]:
            inexact = ", statistics changed" * bool(row["lossy"]) + ", groups kept by the proof" * bool(
                row["frozen_by_check"]
            )
            found.append(f"- `{row['name']}` ({row['kind']}), {row['prunable_macs']:.1%}{inexact}: {row['reason']}")
    return "\n".join(found)


def document(rows: list[Row]) -> str:
    seconds = sorted(row["analysis_cpu_seconds"] for row in rows if "failure" not in row)
    commits = sorted({row.get("revision", "") for row in rows})
    parts = [
        f"{len(rows)} models, measured at {', '.join(commits)}.",
        "## By what carries the model",
        table(rows, "kind"),
        f"CPU seconds of the analysis: median {statistics.median(seconds):.1f}, largest {seconds[-1]:.1f}.",
        "## By family",
        table(rows, "family"),
        f"## Below {BAR:.0%} of the MACs, not exact, or failed",
        exceptions(rows),
    ]
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description="Prune every model of a folder by half and print the scoreboard.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--results", type=Path, help="lines of JSON (default: scoreboard.jsonl in the folder)")
    parser.add_argument("--only", default="*", help="glob on the name")
    parser.add_argument("--again", default="", help="glob on the name: measure these anew")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds per model")
    parser.add_argument("--memory", type=float, default=12.0, help="GiB of address space per model")
    parser.add_argument("--markdown", action="store_true", help="print the summary of what was measured, run nothing")
    options = parser.parse_args()
    results = options.results or options.folder / "scoreboard.jsonl"
    if not options.markdown:
        run(options.folder, results, options)
    print(document(list(read(results).values())))


if __name__ == "__main__":
    main()
