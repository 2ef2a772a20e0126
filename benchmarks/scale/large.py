"""What a large decoder takes to be inspected and pruned, against copying its files, and whether the result writes text.

python benchmarks/scale/large.py FOLDER [--skip inspect,prune,write] [-- OPTION ...]

FOLDER: with model.onnx and its data, as decoder.py draws it; files beside it are written and removed again. Copies are made twice, the second
one is told: by then the file is in the system's memory, as it is for the runs after it. Memory is sampled every 20 ms: what is anonymous, and all
that is resident, pages of files included. OPTION: of `onnxprune prune`, in place of --criterion l2 --ratio 0.3.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

SAMPLED = 0.02  # seconds
TOKENS = 8


def watched(command: list[str]) -> dict[str, float]:
    """Run a command and return its seconds, CPU seconds and most memory, in MB; exit with its message where it fails."""
    start, most = time.perf_counter(), {"RssAnon": 0, "VmRSS": 0}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        try:
            found = dict(line.split(":", 1) for line in status.read_text().splitlines())
        except OSError:
            break
        most = {key: max(value, int(found.get(key, "0 kB").split()[0])) for key, value in most.items()}
        time.sleep(SAMPLED)
    message = process.communicate()[1]
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}\n{message}")
    names = {"RssAnon": "anonymous MB", "VmRSS": "resident MB"}
    return {"seconds": time.perf_counter() - start} | {names[key]: value / 1024 for key, value in most.items()}


def copied(folder: Path) -> float:
    """Return the seconds that a copy of the data takes, the second time."""
    target = folder / "copy.data"
    for _ in range(2):
        start = time.perf_counter()
        shutil.copyfile(folder / "model.onnx.data", target)
        seconds = time.perf_counter() - start
        target.unlink()
    return seconds


def written(model: Path, prompt: tuple[int, ...] = (1, 2, 3, 4), tokens: int = TOKENS) -> list[int]:
    """Return the tokens that a decoder writes, the likeliest each time, fed one at a time behind the prompt with its cache."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    pasts = [value for value in session.get_inputs() if value.name.startswith("past")]
    cache = {v.name: np.zeros((1, v.shape[1], 0, v.shape[3]), np.float16) for v in pasts}
    given, found = np.array([prompt]), list(prompt)
    for _ in range(tokens):
        feeds = {"input_ids": given, "attention_mask": np.ones((1, len(found)), np.int64), **cache}
        logits, *present = session.run(None, feeds)
        if not np.isfinite(logits).all():
            raise SystemExit(f"{model}: logits are not finite")
        found.append(int(logits[0, -1].argmax()))
        given, cache = np.array([[found[-1]]]), dict(zip(cache, present, strict=True))
    return found[len(prompt) :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--skip", default="")
    parser.add_argument("options", nargs="*")
    given = parser.parse_args()
    model, small = given.folder / "model.onnx", given.folder / "small.onnx"
    tool, options = [sys.executable, "-m", "onnxprune"], given.options or ["--criterion", "l2", "--ratio", "0.3"]
    told: dict[str, object] = {"copy": {"seconds": copied(given.folder)}}
    if "inspect" not in given.skip:
        told["inspect"] = watched([*tool, "inspect", str(model)])
    if "prune" not in given.skip:
        report = given.folder / "report.json"
        told["prune"] = watched([*tool, str(model), str(small), *options, "--force", "--json", str(report)])
        found = json.loads(report.read_text())
        told["result"] = {
            "bytes": found["after"]["bytes"] / found["before"]["bytes"],
            "exact": found["surgery"]["exact"], "error": found["surgery"]["max_relative_error"], "stages": found["seconds"],
        }  # fmt: skip
        if "write" not in given.skip:
            told["written"] = written(small)
        for file in (report, *given.folder.glob("small.onnx*")):
            file.unlink()
    print(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
