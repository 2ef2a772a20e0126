"""Export the zoo: public architectures with seeded random weights, written as ONNX files into a folder."""

import argparse
import fnmatch
import json
import multiprocessing
import os
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))

from row import Row, parse_input  # noqa: E402
from table import ROWS  # noqa: E402


def _export_torchscript(model: Any, arguments: tuple[Any, ...], path: Path, row: Row) -> None:
    import torch

    specs = [parse_input(text) for text in row.inputs]
    mode = torch.onnx.TrainingMode.EVAL if row.fold else torch.onnx.TrainingMode.PRESERVE
    torch.onnx.export(
        model,
        arguments,
        path,
        dynamo=False,
        opset_version=row.opset,
        training=mode,
        input_names=[spec.name for spec in specs],
        dynamic_axes={spec.name: spec.free for spec in specs if spec.free},
    )


def _export_dynamo(model: Any, arguments: tuple[Any, ...], path: Path, row: Row) -> None:
    import torch

    specs = [parse_input(text) for text in row.inputs]
    shapes = tuple(dict.fromkeys(spec.free, torch.export.Dim.DYNAMIC) for spec in specs)
    variadic = type(model).__name__ == "Positional"
    torch.onnx.export(
        model,
        arguments,
        path,
        dynamo=True,
        opset_version=row.opset,
        optimize=row.fold,
        input_names=[spec.name for spec in specs],
        dynamic_shapes=((shapes,) if variadic else shapes) if any(shapes) else None,
        external_data=False,
        verbose=False,
    )


EXPORTERS = {"torchscript": _export_torchscript, "dynamo": _export_dynamo}


def _difference(path: Path, row: Row, arguments: tuple[Any, ...], expected: Any) -> tuple[float, float]:
    """Largest magnitude of torch's outputs, and the largest difference of ONNX Runtime's as a share of it."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    known = {parse_input(text).name: value.numpy() for text, value in zip(row.inputs, arguments, strict=True)}
    feeds = {spec.name: known[spec.name] for spec in session.get_inputs()}
    wanted = [value.double().numpy() for value in ([expected] if hasattr(expected, "numpy") else expected)]
    got = [np.asarray(value, np.float64) for value in session.run(None, feeds)]
    magnitude = max(float(np.abs(value).max()) for value in wanted)
    gap = max(float(np.abs(have - want).max()) for have, want in zip(got, wanted, strict=True))
    return magnitude, gap / max(magnitude, 1e-12)


def _export(row: Row, folder: Path, sender: Any) -> None:
    """Build, export and run one model in this process, and send what is known about it."""
    warnings.filterwarnings("ignore")
    with open(os.devnull, "w") as silence:
        os.dup2(silence.fileno(), sys.stdout.fileno())
        os.dup2(silence.fileno(), sys.stderr.fileno())
    try:
        import exporting
        import torch

        model, arguments = exporting.build(row)
        partial = folder / f"{row.name}.partial"
        with torch.no_grad():
            expected = model(*arguments)
            EXPORTERS[row.exporter](model, arguments, partial, row)
        parameters = sum(value.numel() for value in model.parameters())
        magnitude, difference = _difference(partial, row, arguments, expected)
        partial.rename(folder / f"{row.name}.onnx")
        sender.send({"parameters": parameters, "magnitude": magnitude, "difference": difference})
    except Exception as error:
        sender.send({"error": f"{type(error).__name__}: {error}"[:600]})


def run(row: Row, folder: Path, timeout: float) -> dict[str, Any]:
    """Export one row in a process of its own, ended after `timeout` seconds, and return its line of the manifest."""
    started = time.perf_counter()
    context = multiprocessing.get_context("forkserver")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_export, args=(row, folder, sender))
    process.start()
    sender.close()
    try:
        outcome = receiver.recv() if receiver.poll(timeout) else {"error": f"no result after {timeout:.0f} s"}
    except EOFError:
        outcome = {"error": "the process ended without a result"}
    process.join(5 if "error" not in outcome else 0)
    process.kill()
    process.join()
    (folder / f"{row.name}.partial").unlink(missing_ok=True)
    line = {"name": row.name, "family": row.family, "source": row.source, "exporter": row.exporter, "opset": row.opset}
    return {**line, "file": f"{row.name}.onnx", "seconds": round(time.perf_counter() - started, 1), **outcome}


def main() -> int:
    """Export the rows that match and are not there yet; return 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="where the files and manifest.jsonl are written")
    parser.add_argument("--only", metavar="PATTERN", default="*", help="glob on the name or the family")
    parser.add_argument("--list", action="store_true", help="print the table and stop")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds per model")
    options = parser.parse_args()
    rows = [row for row in ROWS if any(fnmatch.fnmatch(text, options.only) for text in (row.name, row.family))]
    if options.list:
        for row in rows:
            print(f"{row.name:32} {row.family:16} {row.exporter:12} {row.opset:3} {row.source}")
        return 0
    if options.folder is None:
        parser.error("name the folder to write to")
    options.folder.mkdir(parents=True, exist_ok=True)
    os.environ["PYTHONPATH"] = str(FOLDER)
    multiprocessing.get_context("forkserver").set_forkserver_preload(["exporting"])
    missing = [row for row in rows if not (options.folder / f"{row.name}.onnx").exists()]
    failures = 0
    with ThreadPoolExecutor(options.jobs) as pool, (options.folder / "manifest.jsonl").open("a") as manifest:
        for line in pool.map(lambda row: run(row, options.folder, options.timeout), missing):
            print(json.dumps(line), file=manifest, flush=True)
            failures += "error" in line
            print(f"{line['name']:32} {line['seconds']:6.1f} s  {line.get('error', 'ok')}", flush=True)
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
