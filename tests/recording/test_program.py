"""``onnxprune record -- PROGRAM``: programs of every kind are recorded and notice nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from onnxprune.cli import main
from onnxprune.recording.start.sitecustomize import VARIABLE

ROOT = Path(__file__).parents[2]
HEAD = """
import os, sys
import numpy as np
import onnxruntime as ort

def feed(first, count):
    session = ort.InferenceSession("net.onnx")
    for number in range(first, first + count):
        session.run(None, {"x": np.full((1, 3), number, np.float32)})
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (tmp_path / "net.onnx").write_bytes(proto.SerializeToString())
    return tmp_path


def started(*program: str, options: tuple[str, ...] = ()) -> list[str]:
    """Return a command that records a program, whose environment finds this package."""
    return [sys.executable, "-m", "onnxprune", "record", *options, "--", *program]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def record(
    folder: Path, script: str, *arguments: str, options: tuple[str, ...] = (), **more: str
) -> subprocess.CompletedProcess[str]:
    (folder / "app.py").write_text(script)
    command = started(sys.executable, "app.py", *arguments, options=options)
    return subprocess.run(command, cwd=folder, env=environment(**more), capture_output=True, text=True, timeout=120)


def recorded(folder: Path, name: str = "calib") -> list[int]:
    with np.load(folder / name / "net" / "inputs.npz") as found:
        return sorted(found["x"][:, 0].astype(int))


def test_a_program_notices_nothing(folder: Path) -> None:
    (folder / "sitecustomize.py").write_text("print('own sitecustomize')\n")
    script = f"""
import sys
print("numpy" in sys.modules, sorted(p for p in sys.path if "recording" in p), sys.argv[1:], sys.stdin.read())
{HEAD}
feed(0, 5)
print(type(ort.InferenceSession.run).__name__, ort.InferenceSession.run.__name__)
raise SystemExit(7)
"""
    (folder / "app.py").write_text(script)
    paths = os.pathsep.join([str(folder), str(ROOT)])
    plain, seen = (
        subprocess.run(
            command, cwd=folder, env=environment(PYTHONPATH=paths), input="typed", capture_output=True, text=True
        )
        for command in ([sys.executable, "app.py", "-o", "x"], started(sys.executable, "app.py", "-o", "x"))
    )
    assert plain.returncode == seen.returncode == 7
    assert "own sitecustomize\nFalse [] ['-o', 'x'] typed" in plain.stdout
    assert seen.stdout.split("own sitecustomize\n", 2)[-1] == plain.stdout.split("own sitecustomize\n")[-1]
    assert plain.stderr == ""
    assert "calib/net: 5 of 5 samples in 5 calls of net" in seen.stderr.replace(os.sep, "/")
    assert recorded(folder) == [0, 1, 2, 3, 4]


def test_processes_of_every_kind_add_to_one_recording(folder: Path) -> None:
    (folder / "package").mkdir()
    (folder / "package" / "__main__.py").write_text(f"{HEAD}\nfeed(100, 3)\nos._exit(0)")
    script = f"""{HEAD}
import multiprocessing, subprocess
if __name__ == "__main__":
    subprocess.run([sys.executable, "-m", "package"], check=True)
    for number, method in enumerate(multiprocessing.get_all_start_methods()):
        process = multiprocessing.get_context(method).Process(target=feed, args=(10 * number, 4))
        process.start()
        process.join()
    feed(200, 2)
    os.kill(os.getpid(), 9)
"""
    done = record(folder, script, options=("-o", "calib"))
    assert done.returncode == 128 + 9
    wanted = [10 * number + k for number in range(3) for k in range(4)]
    assert recorded(folder) == [*wanted, 100, 101, 102, 200, 201]
    facts = json.loads((folder / "calib" / "net" / "model.json").read_text())
    assert (facts["calls"], facts["sessions"], facts["path"]) == (17, 5, str(folder / "net.onnx"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_program_and_what_was_recorded_stays(folder: Path, number: int) -> None:
    script = f"""{HEAD}
import signal, time
def end(*_):
    print("ended in peace")
    raise SystemExit(5)
signal.signal({int(number)}, end)
feed(0, 4)
open("ready", "w").close()
time.sleep(60)
"""
    (folder / "app.py").write_text(script)
    running = subprocess.Popen(
        started(sys.executable, "app.py"), cwd=folder, env=environment(), stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    while not (folder / "ready").exists():
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(number)
    assert running.communicate(timeout=60)[0] == "ended in peace\n"
    assert running.returncode == 5
    assert recorded(folder) == [0, 1, 2, 3]
    assert not list(folder.glob(".*")), "nothing is left beside it"


def test_what_was_recorded_prunes_the_model_that_was_recorded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = ROOT / "models" / "digits_cnn.onnx"
    script = f"""
import numpy as np, onnxruntime as ort
session, x = ort.InferenceSession({str(net)!r}), np.load({str(ROOT / "models" / "digits_calib.npz")!r})
session.run(None, {{"image": x["image"].astype(np.float32)[:64]}})
"""
    assert record(folder, script, options=("--samples", "32", "--seed", "1", "-q")).stderr == ""
    monkeypatch.chdir(folder)
    for data in ("calib/digits_cnn", "calib"):
        command = [str(net), "--calib", data, "--criterion", "l2", "--repair", "none", "--no-latency", "--dry-run"]
        assert CliRunner().invoke(main, command).exit_code == 0


def test_a_program_without_a_session_ends_with_a_message(folder: Path) -> None:
    done = record(folder, "print('no model here')")
    assert (done.returncode, done.stdout) == (3, "no model here\n")
    assert done.stderr.startswith("error: nothing was recorded: the program opened no session")
    failed = record(folder, "raise SystemExit(9)")
    assert failed.returncode == 9
    assert failed.stderr == "warning: the program ended with 9 and ran no session\n"
    assert sorted(path.name for path in folder.iterdir()) == ["app.py", "net.onnx"]


@pytest.mark.parametrize(
    ("options", "program", "words"),
    [
        ((), ("no-such-program",), "'no-such-program' cannot be started: No such file or directory; give the program"),
        (("--samples", "0"), (sys.executable, "-V"), "give at least one of each"),
        (("-o", "full"), (sys.executable, "-V"), "full holds something else (notes)"),
        ((), (), "PROGRAM [ARGUMENT]... is missing"),
    ],
)
def test_what_cannot_be_recorded_is_refused_first(
    folder: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], program: tuple[str, ...], words: str
) -> None:
    (folder / "full").mkdir()
    (folder / "full" / "notes").touch()
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(main, ["record", *options, "--", *program])
    assert (done.exit_code, done.stdout) == (2, "")
    assert words in done.stderr
    assert not list(folder.glob(".*"))


def test_a_recorder_that_cannot_start_says_so_and_the_program_runs(folder: Path) -> None:
    """As where the folder of the recording is gone, or the settings are not to be read."""
    start = ROOT / "onnxprune" / "recording" / "start"
    for settings in ("{", json.dumps({"folder": "gone", "samples": 1, "size": 1})):
        env = environment(PYTHONPATH=str(start), **{VARIABLE: settings})
        (folder / "app.py").write_text(f"{HEAD}\nfeed(0, 1)\nprint('ran')")
        done = subprocess.run([sys.executable, "app.py"], cwd=folder, env=env, capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, "ran\n", "")
