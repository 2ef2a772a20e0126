"""Large models are gone through segment by segment, each loaded once; a run that was killed goes on behind what it had done."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from onnx import numpy_helper
from support.decoders import Form, decoder, token_rows
from support.networks import network
from support.oracles import analysed

import onnxprune
from onnxprune.criteria import combine, parse_criterion, score
from onnxprune.data import Dataset, input_specs, open_dataset
from onnxprune.data.observe import observe
from onnxprune.evidence import Cache, Evidence, Need, gather
from onnxprune.evidence.journal import Journal
from onnxprune.evidence.stream import ValueObserver
from onnxprune.means import Means
from onnxprune.model import segmented
from onnxprune.model.facts import Facts, gather_facts
from onnxprune.model.graph import Graph
from onnxprune.model.read import load
from onnxprune.repair.fit import NodeFit

FORM = Form()
NEEDS = [Need(kind, name, 1) for name in ("b", "c", "d", "x") for kind in ("gram", "moments")]


class Killed(BaseException):
    """Stands for a signal that ends a run."""


def killed_at(number: int, work: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``work``, which ends the run instead of its ``number``-th call; what was called is counted in its ``calls``."""

    def instead(*given: Any, **named: Any) -> Any:
        instead.calls += 1  # type: ignore[attr-defined]
        if instead.calls == number:  # type: ignore[attr-defined]
            raise Killed
        return work(*given, **named)

    instead.calls = 0  # type: ignore[attr-defined]
    return instead


@pytest.fixture
def in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmented, "WHOLE", 1)
    monkeypatch.setattr(segmented, "HELD", 200)


@pytest.fixture
def convolutions() -> tuple[Facts, Dataset]:
    text = "a = Relu(x); b = Conv(a, %6x3x1x1); c = Conv(b, %6x6x1x1); d = Add(c, b); y = Conv(d, %2x6x1x1)"
    model = load(network(text, "float[n,3,4,4] x", "float[n,2,4,4] y"))
    rows = np.random.default_rng(0).standard_normal((700, 3, 4, 4)).astype(np.float32)
    return gather_facts(model, Graph(model.structure)), open_dataset(rows, input_specs(model.proto))


def arrays_of(evidence: Evidence) -> dict[str, bytes]:
    return {
        f"{need} {name}": array.tobytes()
        for need, found in evidence.statistics.items()
        for name, array in found.arrays().items()
    }


def test_evidence_of_segments_is_that_of_all_of_them_for_every_batch(
    in_pieces: None, convolutions: tuple[Facts, Dataset]
) -> None:
    facts, data = convolutions
    found = gather(facts, data, NEEDS)
    stream = ValueObserver.of(facts.model.identity, facts, data, NEEDS, Means(), 64)
    one_after_the_other = observe(stream.look, data, [stream], stream.means)[0].evidence
    assert found.samples == 700
    assert arrays_of(found) == arrays_of(one_after_the_other)


def test_a_segment_is_loaded_once_for_all_batches(
    in_pieces: None, convolutions: tuple[Facts, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = killed_at(0, segmented.taken_out)
    facts, data = convolutions
    monkeypatch.setattr(segmented, "taken_out", loaded)
    gather(facts, data, NEEDS, Means(batch=50))
    assert loaded.calls == 2  # segments, not batches


def test_evidence_goes_on_behind_the_segments_that_were_seen(
    in_pieces: None, convolutions: tuple[Facts, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts, data = convolutions
    want = arrays_of(gather(facts, data, NEEDS))
    monkeypatch.setattr(Cache, "keep", killed_at(2, Cache.keep))
    with pytest.raises(Killed):
        gather(facts, data, NEEDS, cache=Cache(tmp_path))
    there = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert 0 < len(there) < len(NEEDS)
    assert arrays_of(gather(facts, data, NEEDS, cache=Cache(tmp_path))) == want
    assert {path: path.read_bytes() for path in there} == there and len(list(tmp_path.iterdir())) == len(NEEDS)


def pruned(folder: Path, model: Any, **more: Any) -> bytes:
    rows = folder / "rows.npz"
    np.savez(rows, input_ids=token_rows(FORM, 24))
    options = {"criterion": "obs", "repair": "least-squares", "ratio": 0.3, "latency": False, **more}
    onnxprune.prune(model, calibration=rows, output=folder / "small.onnx", force=True, **options)
    return (folder / "small.onnx").read_bytes()


class Ended(NamedTuple):
    """A run that was killed, and the same run that went on: its result, and how often it did what the whole one did so often."""

    want: bytes
    got: bytes
    whole: int
    rest: Callable[..., Any]


def killed_and_begun_anew(
    owner: Any, name: str, before_the_end: int, run: Callable[..., bytes], cache: Path, patch: pytest.MonkeyPatch
) -> Ended:
    """Kill a run ``before_the_end`` calls before the last of ``owner.name``, and begin it anew with the same folder."""
    work = getattr(owner, name)
    whole = killed_at(0, work)
    patch.setattr(owner, name, whole)
    want = run()
    patch.setattr(owner, name, killed_at(whole.calls - before_the_end, work))
    with pytest.raises(Killed):
        run(cache=cache)
    rest = killed_at(0, work)
    patch.setattr(owner, name, rest)
    return Ended(want, run(cache=cache), whole.calls, rest)


@pytest.mark.parametrize(("pieces", "dtype"), [(False, np.float16), (True, np.float32)])
def test_a_repair_goes_on_behind_the_nodes_that_were_solved(
    pieces: bool, dtype: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if pieces:
        monkeypatch.setattr(segmented, "WHOLE", 1)
    run = partial(pruned, tmp_path, decoder(Form(dtype=dtype)))
    found = killed_and_begun_anew(NodeFit, "solved", 1, run, tmp_path / "cache", monkeypatch)
    assert found.got == found.want
    assert found.rest.calls == 2 < found.whole


@pytest.mark.parametrize("pieces", [False, True])
def test_a_choice_goes_on_behind_the_groups_that_were_scored(
    pieces: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if pieces:
        monkeypatch.setattr(segmented, "WHOLE", 1)
    run, cache = partial(pruned, tmp_path, decoder(FORM)), tmp_path / "cache"
    found = killed_and_begun_anew(combine, "_combined", 0, run, cache, monkeypatch)
    assert found.got == found.want
    assert found.rest.calls == 1 < found.whole
    assert run(cache=cache, ratio=0.4) == run(ratio=0.4)
    assert found.rest.calls == 1 + found.whole  # another ratio takes the same scores, and the run without a folder none


def test_what_was_to_be_told_of_scores_is_told_again(tmp_path: Path) -> None:
    model = decoder(FORM)
    header = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 2)
    weight = numpy_helper.to_array(header).copy()
    weight[0, 0] = np.inf
    header.CopyFrom(numpy_helper.from_array(weight, header.name))
    analysis, criterion = analysed(model), parse_criterion("l2")
    journal = Journal.of(tmp_path, ["these scores"])
    first, again = (score(analysis, criterion, journal=journal) for _ in range(2))
    assert first.warnings == again.warnings and first.warnings


def test_a_damaged_journal_is_not_believed(tmp_path: Path) -> None:
    model, cache = decoder(FORM), tmp_path / "cache"
    want = pruned(tmp_path, model, cache=cache)
    first = sorted(cache.glob("*.0.npz"))
    assert len(first) > 1  # of the scores, and of a repair
    for damage in (b"PK nothing", first[0].read_bytes()[:-100], first[-1].read_bytes()):
        first[0].write_bytes(damage)
        assert pruned(tmp_path, model, cache=cache) == want
    content = first[0].read_bytes()
    first[-1].write_bytes(content)
    assert pruned(tmp_path, model, cache=cache) == want


def test_another_repair_is_not_taken_for_this_one(tmp_path: Path) -> None:
    model, cache = decoder(FORM), tmp_path / "cache"
    for more in ({"seed": 1}, {"ratio": 0.5}):
        assert pruned(tmp_path, model, cache=cache, **more) == pruned(tmp_path, model, **more)
