"""How far a run has come: on a clock that the tests turn themselves, whatever stages and counts it has."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.means import Means
from onnxprune.progress import Progress, heard
from onnxprune.report.course import Course, Stretch
from onnxprune.report.stages import Stages


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def walked(course: Course, clock: Clock, stage: str, seconds: float, steps: int = 10) -> list[float]:
    """Go through a stage that counts itself; return what share of the run was over at each step."""
    found = []
    course.begin(stage)
    for step in range(steps):
        course.count(lambda step=step: step / steps)
        found.append(course.share())
        clock.now += seconds / steps
    course.end()
    return [*found, course.share()]


def test_a_run_that_goes_as_expected_is_told_to_the_second() -> None:
    clock = Clock()
    course = Course(clock)
    course.expect({"one": Stretch(10.0), "two": Stretch(30.0, 3)})
    walked(course, clock, "one", 10.0)
    assert course.left() == pytest.approx(30.0)
    for turn in range(3):
        walked(course, clock, "two", 10.0)
        assert course.left() == pytest.approx(20.0 - 10.0 * turn)
    assert course.share() == 1.0


def test_the_time_left_follows_the_pace_of_the_run() -> None:
    """Everything takes four times as long as was expected: known once the first stage counts itself."""
    clock = Clock()
    course = Course(clock)
    course.expect({"one": Stretch(10.0), "two": Stretch(10.0)})
    course.begin("one")
    clock.now = 20.0
    course.count(lambda: 0.5)
    assert course.left() == pytest.approx(20.0 + 10.0)  # the next one is not known to be slower yet
    clock.now = 40.0
    course.end()
    assert course.left() == pytest.approx(40.0, rel=0.1)


def test_a_stage_that_comes_again_takes_as_long_as_before() -> None:
    clock = Clock()
    course = Course(clock)
    course.expect({"check": Stretch(4.0, 4)})
    walked(course, clock, "check", 7.0)
    assert course.left() == pytest.approx(21.0)


def test_stages_inside_a_stage_are_its_parts() -> None:
    clock = Clock()
    course = Course(clock)
    course.expect({"shares": Stretch(8.0)})
    course.begin("shares")
    course.begin("check")
    clock.now += 4.0
    course.end()
    course.count(lambda: 0.5)
    assert course.left() == pytest.approx(4.0)
    course.end()
    assert course.turns == {"shares": 1}


STRETCHES = st.dictionaries(st.sampled_from("abcd"), st.builds(Stretch, st.floats(0, 100), st.integers(0, 4)))
WALKS = st.lists(st.tuples(st.sampled_from("abcdx"), st.floats(0, 200), st.integers(1, 5)), max_size=8)


@given(ahead=STRETCHES, walks=WALKS, counts=st.lists(st.floats(-1, 2), min_size=1))
def test_what_is_over_never_becomes_less(
    ahead: dict[str, Stretch], walks: list[tuple[str, float, int]], counts: list[float]
) -> None:
    """Whatever was expected, whatever comes, and whatever a stage counts: forwards and backwards, too little and too much."""
    clock = Clock()
    course = Course(clock)
    course.expect(ahead)
    seen = [course.share()]
    for stage, seconds, steps in walks:
        course.begin(stage)
        for step in range(steps):
            count = counts[step % len(counts)]
            course.count(lambda count=count: count)
            clock.now += seconds / steps
            seen.append(course.share())
        course.end()
        seen.append(course.share())
    assert all(0 <= before <= after <= 1 for before, after in pairwise(seen))


def test_nothing_is_known_before_anything_is_expected() -> None:
    course = Course(Clock())
    assert (course.left(), course.share()) == (None, 0.0)


@given(numbers=st.lists(st.tuples(st.integers(0, 4), st.floats(0, 1)), min_size=1, max_size=4))
def test_parts_of_parts_are_parts_of_the_whole(numbers: list[tuple[int, float]]) -> None:
    told: list[float] = []
    progress = Progress(lambda text, share: told.append(share()))
    expected, width = 0.0, 1.0
    for number, _ in numbers:
        progress, expected, width = progress.part(number, 5), expected + width * number / 5, width / 5
    done = numbers[-1][1]
    progress("x", done, 1.0)
    assert told[-1] == pytest.approx(expected + width * done)


def test_any_function_of_a_text_will_do() -> None:
    told: list[str] = []
    Means(progress=told.append).part(1, 3, "second: ").progress("node 2 of 7", 1, 7)
    stages = Stages(told.append).named("step 1 of 2: ")
    with stages("cut"):
        stages.progress("counted", 3, 4)
    heard(None)("nobody")
    assert told == ["second: node 2 of 7", "step 1 of 2: cut", "step 1 of 2: counted"]


def test_stages_tell_how_far_the_run_is() -> None:
    told: list[float] = []
    stages = Stages(Progress(lambda text, share: told.append(share())))
    stages.course.expect({"cut": Stretch(1.0), "check": Stretch(1.0)})
    for name in ("cut", "check"):
        with stages(name):
            stages.part(0, 2).progress("half", 1, 1)
    assert told == sorted(told) and told[-1] > told[0]
