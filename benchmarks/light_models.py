"""Prune the nine architectures of the onnx wheel by half, with random weights: what goes, exactness, time, memory.

python benchmarks/light_models.py [NAME ...]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import onnx
from support import light

ROW = "{:14} {:>9} {:>9} {:>8} {:>8} {:>9} {:>8} {:>8}"
CODE = """
import sys, time
import onnxprune
start = time.perf_counter()
report = onnxprune.prune(sys.argv[1], ratio=0.5, round_to=1, output=sys.argv[2], allow_lossy=True, latency=False).report
before, after = report["before"], report["after"]
print(
    f"{report['prunable']['macs']:.2%}", f"{report['prunable']['parameters']:.2%}",
    f"{after['macs'] / before['macs']:.1%}", f"{after['parameters'] / before['parameters']:.1%}",
    f"{report['surgery']['max_relative_error']:.0e}", f"{time.perf_counter() - start:.1f}",
    f"{report['peak_rss_bytes'] / 2**20:.0f}",
)
"""


def main(names: list[str]) -> None:
    print(ROW.format("model", "prunable", "prunable", "MACs", "params", "surgery", "seconds", "peak"))
    print(ROW.format("", "MACs", "params", "left", "left", "error", "", "MiB"))
    for name in names or light.NAMES:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / f"{name}.onnx", Path(folder) / "small.onnx"
            onnx.save(light.filled(name), source)
            run = [sys.executable, "-c", CODE, str(source), str(target)]
            done = subprocess.run(run, capture_output=True, text=True, check=True)
        print(ROW.format(name, *done.stdout.split()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
