"""A model and its data are replaced at one moment: whatever ends a save, and wherever, the old or the new one is complete."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper
from support.networks import network

from onnxprune.errors import ModelError, OutputError, UsageError
from onnxprune.evidence import Cache, Evidence
from onnxprune.model import datafiles, files, locks, read, regions, write
from onnxprune.model.files import atomic_file
from onnxprune.model.write import save, write_text

ROOT = Path(__file__).parents[2]
CALLS = ("open", "link", "replace", "fsync", "unlink")  # of the operating system, as a save makes them
LARGE = "w1 = %128x3x1x1; p = Conv(x, w1); r = Relu(p); w2 = %128x128x1x1; b2 = %128; y = Conv(r, w2, b2)"
BODY = "w1 = %64x3x1x1; p = Conv(x, w1); r = Relu(p); w2 = %5x64x1x1; y = Conv(r, w2)"


def model(factor: float = 1.0) -> ModelProto:
    """A model with 3 KB of weights, all multiplied by ``factor``."""
    proto = network(BODY)
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), tensor.name))
    return proto


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def count_calls(action: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> int:
    """Return how many system calls an action makes."""
    made = 0

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            nonlocal made
            made += 1
            return call(*arguments, **named)

        return wrapped

    with monkeypatch.context() as patched:
        for name in CALLS:
            patched.setattr(os, name, counted(getattr(os, name)))
        action()
    return made


def failing_at(number: int, monkeypatch: pytest.MonkeyPatch, fail: Callable[[], Any], after: bool = False) -> None:
    """Let the system call of that number fail, before or after it has done its work."""
    made = 0

    def wrapped(call: Callable[..., Any]) -> Callable[..., Any]:
        def once(*arguments: Any, **named: Any) -> Any:
            nonlocal made
            made += 1
            if made == number and not after:
                fail()
            result = call(*arguments, **named)
            if made == number and after:
                fail()
            return result

        return once

    for name in CALLS:
        monkeypatch.setattr(os, name, wrapped(getattr(os, name)))


def in_a_child(action: Callable[[], Any]) -> None:
    """Run something in a process of its own, which ends without any cleaning up."""
    child = os.fork()
    if not child:
        try:
            action()
        finally:
            os._exit(0)
    os.waitpid(child, 0)


@pytest.fixture(params=["without a name", "with a temporary name", "without a name that could be given"])
def writing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """All ways to write: Linux' unnamed files, what other systems and file systems have, and where the two do not meet."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "not permitted")

    if request.param == "without a name that could be given":
        monkeypatch.setattr(files, "_link", refuse)
    if request.param == "with a temporary name":
        monkeypatch.setattr(files, "_unnamed", lambda folder: None)
    return request.param


@pytest.fixture(params=["one file", "external data", "external data that goes to the disk while it is written"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, bool]]:
    """A folder with an old model, and whether its weights are in a file of their own."""
    path, external = tmp_path / "small.onnx", request.param != "one file"
    if "while" in request.param:
        monkeypatch.setattr(regions, "SYNCED", 1)
    save(model(), path, external=external)
    yield path, external


def test_killed_at_every_system_call(
    place: tuple[Path, bool], writing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path, external = place
    old = read.load(path).sha256

    def replace() -> str:
        return save(model(2.0), path, force=True, external=external)

    calls = count_calls(replace, monkeypatch)
    new = read.load(path).sha256
    assert old != new and calls > 5
    whole = names(tmp_path)
    seen = set()
    for number in range(1, calls + 1):
        for after in (False, True):
            save(model(), path, force=True, external=external)

            def killed(number: int = number, after: bool = after) -> None:
                with monkeypatch.context() as patched:
                    failing_at(number, patched, lambda: os._exit(9), after)
                    replace()

            in_a_child(killed)
            seen.add(read.load(path).sha256)
            replace()
            assert names(tmp_path) == whole, "the next save removes what a dead process has left"
    assert seen == {old, new}


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=["full disk", "Ctrl-C"]
)
def test_failing_at_every_system_call(
    place: tuple[Path, bool], writing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: BaseException
) -> None:
    """What fails or is interrupted leaves the old model as it was, or the new one; what fails, no other file."""
    path, external = place
    old, before = read.load(path).sha256, names(tmp_path)

    def replace() -> str:
        return save(model(2.0), path, force=True, external=external)

    calls = count_calls(replace, monkeypatch)
    new, whole = read.load(path).sha256, names(tmp_path)
    ended = 0
    moments = [
        (number, done) for number in range(1, calls + 1) for done in (False, True)[: 2 - isinstance(error, OSError)]
    ]
    for number, done in moments:
        save(model(), path, force=True, external=external)

        def fail() -> None:
            raise error

        with monkeypatch.context() as patched:
            failing_at(number, patched, fail, done)
            try:
                replace()
            except OutputError as problem:
                assert "No space left on device" in str(problem)
                ended += 1
            except KeyboardInterrupt:
                ended += 1
        found = read.load(path).sha256
        assert found in (old, new)
        if isinstance(error, OSError) and found == old:
            assert names(tmp_path) == before
        replace()
        assert names(tmp_path) == whole, "what could not be removed, and was named, goes the next time"
    assert ended


def test_equal_models_give_equal_files_and_names(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for folder in ("a", "b", "a"):
        save(model(), tmp_path / folder / "small.onnx", external=True, force=True)
    one, other = ({p.name: p.read_bytes() for p in (tmp_path / folder).iterdir()} for folder in ("a", "b"))
    assert one == other
    assert len(one) == 2


# --- what is left alone, what goes ----------------------------------------------------------------------------------


def stored(path: Path, location: str, proto: ModelProto | None = None) -> Path:
    onnx.save(proto or model(), path, save_as_external_data=True, location=location, size_threshold=0)
    return path


def test_data_of_the_input_stays(tmp_path: Path) -> None:
    """The input's data is called what earlier versions called the output's."""
    source = stored(tmp_path / "original.onnx", "model.onnx.data")
    loaded = read.load(source)
    for _ in range(2):
        save(loaded, tmp_path / "model.onnx", force=True)
    assert read.load(source).sha256 == loaded.sha256


def test_data_that_another_model_shares_stays(tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    save(model(), path, external=True)
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(path.read_bytes())
    before = read.load(copy).sha256
    save(model(2.0), path, external=True, force=True)
    assert read.load(copy).sha256 == before


def test_a_folder_too_large_to_search_keeps_old_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Arrays, pictures and what begins like no model are not searched."""
    monkeypatch.setattr(datafiles, "SEARCHED", 5000)
    monkeypatch.setattr(datafiles, "LARGE_MODEL", 4000)
    path = tmp_path / "small.onnx"
    save(model(), path, external=True)
    np.save(tmp_path / "rows.npy", np.zeros(10_000))
    (tmp_path / "weights").write_bytes(bytes(10_000))
    save(model(2.0), path, external=True, force=True)
    assert len(names(tmp_path)) == 4
    (tmp_path / "other.onnx").write_bytes(b"\x08" + bytes(10_000))
    save(model(3.0), path, external=True, force=True)
    assert len(names(tmp_path)) == 6
    assert "too large to look for models that need it" in caplog.text


@pytest.mark.parametrize("external", [False, True])
def test_old_data_goes(tmp_path: Path, external: bool) -> None:
    path = tmp_path / "small.onnx"
    save(model(), path, external=True)
    save(model(2.0), path, external=external, force=True)
    assert len(names(tmp_path)) == 1 + external
    stored(path, "small.onnx.data")  # as version 0.1.0 wrote it
    save(model(3.0), path, external=external, force=True)
    assert len(names(tmp_path)) == 1 + external


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data.write_bytes(data.read_bytes() + b"mine"),
        lambda data: os.link(data, data.with_name("link.bin")),
        lambda data: data.replace(data.with_name("other")) and data.symlink_to("other"),
    ],
    ids=["changed", "linked", "a link"],
)
def test_data_in_doubt_stays_and_is_named(
    tmp_path: Path, damage: Callable[[Path], Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A file that nothing names any more, as a killed run leaves it."""
    path = tmp_path / "small.onnx"
    save(model(), path, external=True)
    (data,) = tmp_path.glob("*.data")
    path.unlink()
    damage(data)
    before = data.read_bytes()
    save(model(2.0), path, external=True)
    assert data.read_bytes() == before
    assert data.name in caplog.text


def test_temporaries_of_the_dead_go_those_of_the_living_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_unnamed", lambda folder: None)
    path = tmp_path / "small.onnx"
    foreign = [
        tmp_path / ".small.onnx.backup12",
        tmp_path / ".small.onnx.swp",
        tmp_path / ".other.onnx.0a1b2c3d.partial",
    ]
    for one in foreign:
        one.write_bytes(b"mine")
    in_a_child(lambda: (files.Pending(path), os._exit(9)))
    with files.Pending(path) as living:
        assert len(names(tmp_path)) == len(foreign) + 2
        save(model(), path)
        assert len(names(tmp_path)) == len(foreign) + 2  # the living one, and the model
        living.stream.write(b"late")
        living.publish()
    assert path.read_bytes() == b"late"
    assert names(tmp_path) == sorted(one.name for one in (*foreign, path))


def test_a_cache_is_swept_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_unnamed", lambda folder: None)
    in_a_child(lambda: (files.Pending(tmp_path / "a.npz"), files.Pending(tmp_path / "b.npz"), os._exit(9)))
    assert len(names(tmp_path)) == 2
    Cache(tmp_path).keep({}, Evidence("0"))
    assert names(tmp_path) == []


def test_two_saves_at_once(tmp_path: Path) -> None:
    """Whoever comes last has the name; neither takes the other's data away."""
    path = tmp_path / "small.onnx"
    threads = [
        threading.Thread(target=lambda f=factor: save(model(f), path, external=True, force=True))
        for factor in (1.0, 2.0, 1.0, 3.0)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    save(model(), path, external=True, force=True)
    read.load(path)
    assert len(names(tmp_path)) == 2


def test_data_that_is_in_use_stays_and_what_is_gone_is_not_relied_on(tmp_path: Path) -> None:
    """Two saves of one content: the second relies on the first's data file, unless a third removes it just then."""
    path = tmp_path / "file"
    path.write_bytes(b"x")
    with locks.held(path) as there, locks.alone(path) as free:
        assert (there, free) == (True, False)
    with locks.alone(path) as free:
        assert free
        seen: list[bool] = []

        def rely() -> None:
            with locks.held(path) as there:
                seen.append(there)

        second = threading.Thread(target=rely)
        second.start()
        time.sleep(0.1)  # by now it waits; where it does not yet, it finds nothing later
        os.unlink(path)
    second.join()
    assert seen == [False]
    with locks.held(path) as there:
        assert not there


def test_a_model_that_is_replaced_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "small.onnx"
    save(model(), path, external=True)
    parse = read._parse

    def slow(data: bytes, place: Path) -> ModelProto:
        monkeypatch.setattr(read, "_parse", parse)
        save(model(2.0), path, external=True, force=True)
        return parse(data, place)

    monkeypatch.setattr(read, "_parse", slow)
    assert read.load(path).sha256 == read.load(path).sha256


def test_no_room_is_found_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LARGE", 100)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 50}))
    for external in (False, True):
        with pytest.raises(OutputError, match=r"No space left on device .* bytes are needed, 50 are free"):
            save(model(), tmp_path / "small.onnx", external=external)
    assert names(tmp_path) == []


@pytest.mark.parametrize("length", [240, 255])
@pytest.mark.parametrize("external", [False, True])
def test_names_as_long_as_they_may_be(tmp_path: Path, writing: str, length: int, external: bool) -> None:
    path = tmp_path / ("é" * 20 + "n" * (length - 45) + ".onnx")
    for factor in (1.0, 2.0):
        save(model(factor), path, external=external, force=True)
    read.load(path)
    assert len(names(tmp_path)) == 1 + external


@pytest.mark.parametrize(("name", "word"), [("n" * 300, "too long"), ("a\0b", "null")])
def test_names_that_cannot_be(tmp_path: Path, name: str, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        save(model(), tmp_path / name)
    with pytest.raises(ModelError, match=word):
        read.load(tmp_path / name)
    with pytest.raises(OutputError, match=word):
        write_text("x", tmp_path / name)


# --- devices and FIFOs ----------------------------------------------------------------------------------------------


def special(folder: Path, kind: str) -> Path:
    path = folder / kind
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        import socket

        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(str(path))
    elif kind == "link":
        path.symlink_to("/dev/null")
    else:
        return Path(f"/dev/{kind}")
    return path


def test_a_model_is_not_written_where_the_system_keeps_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also not where stdout, which /dev/stdout is a link to, is a regular file."""

    def never(*_: object) -> None:
        raise AssertionError("a file was begun")

    monkeypatch.setattr(write, "Pending", never)
    with (tmp_path / "stdout").open("wb") as opened:
        (tmp_path / "link").symlink_to(f"/proc/self/fd/{opened.fileno()}")
        for path in (tmp_path / "link", Path(f"/dev/fd/{opened.fileno()}")):
            with pytest.raises(UsageError, match="an open file of a process"):
                save(model(), path, force=True)
        for folder in ("/dev", "/dev/fd", "/proc"):
            with pytest.raises(OutputError, match="for devices and processes"):
                save(model(), Path(folder, "no-such-device"), force=True)
            with pytest.raises(OutputError, match="for devices and processes"):
                write_text("text", Path(folder, "no-such-device"))


KINDS = ["null", "zero", "fifo", "socket", "link"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_goes_to_regular_files_only(tmp_path: Path, kind: str) -> None:
    path = special(tmp_path, kind)
    before = os.lstat(path)
    with pytest.raises(UsageError, match="a model is written to a regular file"):
        save(model(), path, force=True)
    assert stat.S_IFMT(os.lstat(path).st_mode) == stat.S_IFMT(before.st_mode)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_read_from_regular_files_only(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ModelError, match="not a regular file"):
        read.load(special(tmp_path, kind))
    with pytest.raises(ModelError, match="not a regular file"):
        read.read_text(special(tmp_path, kind) if kind in ("null", "zero") else tmp_path / kind, error=ModelError)


@pytest.mark.parametrize("kind", ["null", "link"])
def test_documents_are_written_into_devices(tmp_path: Path, kind: str) -> None:
    path = special(tmp_path, kind)
    before = os.lstat(path)
    write_text("text", path)
    assert os.path.samestat(os.lstat(path), before)
    assert stat.S_ISCHR(os.stat(path).st_mode)


def test_documents_are_written_into_a_fifo(tmp_path: Path) -> None:
    path = special(tmp_path, "fifo")
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append(path.read_text()))
    reader.start()
    write_text("text", path)
    reader.join()
    assert found == ["text"]
    assert path.is_fifo()


def test_a_fifo_that_nobody_reads_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PATIENCE", 0.1)
    with pytest.raises(OutputError, match="nobody reads"):
        write_text("text", special(tmp_path, "fifo"))


def test_an_open_file_of_the_process_is_written_into(tmp_path: Path) -> None:
    """/dev/stdout is a link to one; what is redirected there stays what it is, with what was in it."""
    place = tmp_path / "stdout"
    with place.open("ab") as opened:
        opened.write(b"before ")
        opened.flush()
        before = os.stat(place)
        (tmp_path / "link").symlink_to(f"/proc/self/fd/{opened.fileno()}")
        write_text("one ", tmp_path / "link")
        write_text("two", f"/dev/fd/{opened.fileno()}")
    assert os.path.samestat(os.stat(place), before)
    assert (tmp_path / "link").is_symlink()
    assert place.read_text() == "before one two"


def test_a_failed_document_leaves_the_old_one(tmp_path: Path, writing: str) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(path) as stream:
        stream.write(b"half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert names(tmp_path) == ["report.json"]


def test_bytes_of_the_files_are_foretold(tmp_path: Path) -> None:
    proto = model()
    proto.graph.initializer[0].raw_data = proto.graph.initializer[0].raw_data * 1
    path = tmp_path / "small.onnx"
    save(proto, path)
    loaded = read.load(stored(tmp_path / "a.onnx", "a.bin"))
    save(loaded, tmp_path / "b.onnx")
    total = sum(p.stat().st_size for p in tmp_path.glob("b.onnx*"))
    assert write.stored_bytes(loaded, tmp_path / "b.onnx") == total


# --- a whole process ------------------------------------------------------------------------------------------------

ENDED = """
import os, resource, signal, sys
end, made, sync = sys.argv[1], 0, os.fsync
signal.signal(signal.SIGINT, signal.default_int_handler)  # which whoever runs tests in the background has turned off

def ending(handle):
    global made
    made += 1
    sync(handle)
    if end == f"{made} SIGTERM" or end == f"{made} SIGINT":
        os.kill(os.getpid(), getattr(signal, end.split()[1]))

os.fsync = ending
from onnxprune.cli import main
if end.endswith("bytes"):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(end.split()[0]),) * 2)
main([*sys.argv[2:], "-q", "--no-latency", "--force"])
"""
ENDS = {
    "1 SIGTERM": (143, "terminated"),
    "3 SIGTERM": (143, "terminated"),
    "1 SIGINT": (130, "interrupted"),
    "100 bytes": (3, "File too large"),
    "20000 bytes": (3, "File too large"),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_run_that_is_ended_while_it_writes(tmp_path: Path, end: str) -> None:
    """By a signal when something has come to the disk for the n-th time, or because a file may not become larger."""
    code, word = ENDS[end]
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "small.onnx"
    save(model(2.0), path, external=True)
    before = read.load(path).sha256
    source = stored(tmp_path / "in" / "net.onnx", "net.bin", proto=network(LARGE))
    done = subprocess.run(
        [sys.executable, "-c", ENDED, end, str(source), "-o", str(path)],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert word in done.stderr
    loaded = read.load(path)
    assert loaded.sha256 == before
    assert set(path.parent.iterdir()) == {path, *loaded.data}
