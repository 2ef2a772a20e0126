"""Ten clients and more: recorded, pruned, and judged with the pruned file in the original's place. See README.md.

python run.py WORK [CLIENT...] [--target macs=70%] [--recover 2m] [--stages install,record,prune,judge]
python run.py WORK --table
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime as ort

HERE = Path(__file__).parent
NOT_CLIENTS = {"run", "common", "material", "photos"}
CLIENTS = sorted(path.stem for path in HERE.glob("*.py") if path.stem not in NOT_CLIENTS)
STAGES = ("install", "record", "prune", "judge")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def client_of(name: str) -> ModuleType:
    """Return a client's module; it imports its package only while it works."""
    sys.path.insert(0, str(HERE))
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measured(command: list[str], log: Path, **env: str) -> dict[str, Any]:
    """Run a command and return its exit code, CPU seconds and peak resident bytes."""
    with log.open("w") as stream:
        child = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, env={**os.environ, **ONE_THREAD, **env}
        )
        _, status, used = os.wait4(child.pid, 0)
    return {
        "exit_code": os.waitstatus_to_exitcode(status),
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_bytes": used.ru_maxrss * 1024,
    }


class Trial:
    """One client in a working folder; ``found`` is what was measured, kept as JSON."""

    def __init__(self, work: Path, name: str, target: str = "", recover: str = "", samples: int = 512):
        self.name, self.client, self.target, self.recover = name, client_of(name), target, recover
        self.samples = samples
        self.folder = work / name
        self.folder.mkdir(parents=True, exist_ok=True)
        package = self.client.PACKAGES[0].partition("==")[0]
        self.python = work / "environments" / package / "bin" / "python"
        self.inputs = work / "material" / self.client.INPUTS
        self.results = self.folder / f"results{'-recovered' if recover else ''}.json"
        self.found = json.loads(self.results.read_text()) if self.results.exists() else {}

    @property
    def model(self) -> Path:
        (site,) = self.python.parents[1].glob("lib/python*/site-packages")
        return site / self.client.MODEL

    def install(self) -> None:
        if self.python.exists():
            return
        subprocess.run([sys.executable, "-m", "venv", self.python.parents[1]], check=True)
        alone = getattr(self.client, "NO_DEPENDENCIES", ())
        pip = [str(self.python), "-m", "pip", "install", "-q"]
        for packages in ([p for p in self.client.PACKAGES if p not in alone], ["--no-deps", *alone] if alone else []):
            if packages:
                subprocess.run([*pip, *packages], check=True)

    def record(self) -> None:
        """Let the client work on its calibration inputs while it is recorded."""
        place = self.folder / "calib"
        command = [
            str(self.python),
            str(HERE / f"{self.name}.py"),
            str(self.inputs / "calib"),
            str(self.folder / "calib.json"),
        ]
        record = [sys.executable, "-m", "onnxprune", "record", "-o", str(place), "--force", "--", *command]
        self.found["record"] = measured(record, self.folder / "record.log")
        if self.found["record"]["exit_code"]:
            raise SystemExit(f"{self.name}: recording failed, see {self.folder / 'record.log'}")
        original = self.folder / "original.onnx"
        shutil.copy(self.model, original)

    def prune(self) -> None:
        for old in (self.pruned, self.folder / "report.json"):
            old.unlink(missing_ok=True)
        command = [
            sys.executable,
            "-m",
            "onnxprune",
            str(self.folder / "original.onnx"),
            str(self.pruned),
            "--target",
            self.target,
        ]
        command += ["--calib", str(self.recorded), "--no-latency", "--json", str(self.folder / "report.json")]
        command += ["--samples", str(self.samples)]
        command += [*getattr(self.client, "OPTIONS", ()), *(["--recover", self.recover] if self.recover else [])]
        self.found["prune"] = measured(command, self.folder / "prune.log")
        report = json.loads((self.folder / "report.json").read_text()) if (self.folder / "report.json").exists() else {}
        self.found["prune"] |= {"error": report.get("error")}
        if "after" in report and self.pruned.exists():
            self.found["macs"] = report["after"]["macs"] / report["before"]["macs"]
            self.found["bytes"] = self.pruned.stat().st_size / (self.folder / "original.onnx").stat().st_size

    @property
    def pruned(self) -> Path:
        return self.folder / f"pruned{'-recovered' if self.recover else ''}.onnx"

    @property
    def recorded(self) -> Path:
        """Return the folder of this client's model among those that were recorded."""
        listed = json.loads((self.folder / "calib" / "recording.json").read_text())["models"]
        (model,) = (m for m in listed if Path(m["path"] or "").name == self.model.name and m["folder"])
        self.found["samples"] = min(model["kept"], self.samples)
        return self.folder / "calib" / model["folder"]

    def judge(self) -> None:
        """Put each file in the client's place, let it work on inputs that nobody saw, and compare."""
        for name in ("before", "after", "figure"):
            self.found.pop(name, None)
        if not self.pruned.exists():
            return
        place = self.inputs / "eval" / "truth.json"
        labels = json.loads(place.read_text()) if place.exists() else None
        wanted, found = (self._worked(which) for which in (self.folder / "original.onnx", self.pruned))
        self.found["figure"] = self.client.FIGURE
        self.found["before"] = self.client.score(wanted, wanted, labels)
        self.found["after"] = self.client.score(wanted, found, labels) if found is not None else None
        self.found["latency"] = self._latency()

    def _worked(self, model: Path) -> Any:
        """Return what the client found with a model in its place; None where it failed."""
        out, kept = self.folder / f"{model.stem}.json", self.folder / "original.onnx"
        out.unlink(missing_ok=True)
        shutil.copy(model, self.model)
        try:
            command = [str(self.python), str(HERE / f"{self.name}.py"), str(self.inputs / "eval"), str(out)]
            done = measured(command, self.folder / f"{model.stem}.log")
        finally:
            shutil.copy(kept, self.model)
        return json.loads(out.read_text()) if done["exit_code"] == 0 else None

    def _latency(self, runs: int = 15) -> float:
        """Return the thread CPU time of the pruned model over the original's on one recorded sample, one thread."""
        sessions = [_session(self.folder / "original.onnx"), _session(self.pruned)]
        path = sorted(self.recorded.glob("*.npz"))[0]
        with np.load(path) as rows:
            feed = {v.name: rows[v.name][:1] for v in sessions[0].get_inputs()}
        feed = {
            v.name: np.asarray(feed[v.name][0]) if len(v.shape) < feed[v.name].ndim else feed[v.name]
            for v in sessions[0].get_inputs()
        }
        times: tuple[list[float], list[float]] = ([], [])
        for turn in range(runs + 2):
            for which in ((0, 1), (1, 0))[turn % 2]:
                start = time.thread_time()
                sessions[which].run(None, feed)
                if turn > 1:
                    times[which].append(time.thread_time() - start)
        return float(np.percentile(times[1], 20) / np.percentile(times[0], 20))

    def save(self) -> None:
        self.results.write_text(json.dumps(self.found, indent=1))


def _session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def table(work: Path) -> None:
    """Print a line of Markdown per client."""
    print("| client | figure | samples | before | after | MACs | bytes | latency | CPU s | peak MB |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in CLIENTS:
        trial = Trial(work, name)
        f, run = trial.found, trial.found.get("prune")
        if not run:
            continue
        known = f.get("after") is not None
        figures = (
            [f"{f[k]:.3f}" for k in ("before", "after")] if known else ["", f"none: {run['error'] or 'see prune.log'}"]
        )
        shares = [f"{f[k]:.0%}" if known else "" for k in ("macs", "bytes", "latency")]
        cost = [f"{run['cpu_seconds']:.0f}", f"{run['peak_bytes'] / 1e6:.0f}"]
        package = trial.client.PACKAGES[0].replace("==", " ")
        print(
            "|",
            " | ".join(
                [
                    f"{package}, {Path(trial.client.MODEL).name}",
                    trial.client.FIGURE,
                    str(f.get("samples", "")),
                    *figures,
                    *shares,
                    *cost,
                ]
            ),
            "|",
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("clients", nargs="*", metavar="CLIENT", help=f"of {', '.join(CLIENTS)}")
    parser.add_argument("--target", default="macs=70%")
    parser.add_argument("--recover", default="")
    parser.add_argument("--samples", type=int, default=512, help="of those that were recorded, to prune by")
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--table", action="store_true")
    args = parser.parse_intermixed_args()
    if args.table:
        table(args.work)
        return
    for name in args.clients or CLIENTS:
        trial = Trial(args.work, name, args.target, args.recover, args.samples)
        for stage in args.stages.split(","):
            getattr(trial, stage)()
            trial.save()
        print(name, json.dumps(trial.found), flush=True)


if __name__ == "__main__":
    main()
