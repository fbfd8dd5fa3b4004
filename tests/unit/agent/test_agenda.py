"""The agenda: what is due when, more often for a while where a collector wished so, and never otherwise than the schedule says."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe_agent import Every, LogSpaced, Measurement, Memory, Probe, Snapshot, Watch
from probe_agent.agenda import MOST_WISHES, NEVER, Agenda, Answer, Tight
from probe_agent.presets import full
from probe_agent.probes.gradient_noise import GradientNoise
from probe_agent.schedule import Schedule
from probe_wire import Quantity, Tighten


@final
@dataclass(frozen=True)
class Height(Probe):
    name: ClassVar = "height"
    quantities: ClassVar = (Quantity("height", "1", "Height.", "Height"),)

    def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:
        raise NotImplementedError


@final
@dataclass(frozen=True)
class Depth(Probe):
    name: ClassVar = "depth"
    quantities: ClassVar = (Quantity("depth", "1", "Depth.", "Depth"), Quantity("shore", "1", "Shore.", "Shore"))

    def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:
        raise NotImplementedError


HEIGHT, DEPTH = Height(), Depth()


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def agenda(schedule: Schedule, *probes: Probe, earns: bool = True, clock: Clock | None = None) -> Agenda:
    return Agenda([Watch(schedule, probes or (HEIGHT, DEPTH))], 0, earns=earns, clock=clock or Clock())


def until(made: Agenda, last: int) -> dict[int, set[str]]:
    """What is measured at which step from here on, as a monitor does it, up to the last."""
    steps = {}
    while (step := made.next) <= last:
        steps[step] = {probe.name for probe in made.wanted(step)}
        made.hold(made.offered(step))
        made.go_on(step)
    return steps


def scheduled(schedule: Schedule, last: int) -> list[int]:
    steps = [0]
    while (step := schedule.after(steps[-1])) <= last:
        steps.append(step)
    return steps


def test_without_wishes_it_is_the_schedule_and_nothing_is_said() -> None:
    made = agenda(LogSpaced())
    assert list(until(made, 5000)) == scheduled(LogSpaced(), 5000)
    assert list(made.account()) == []
    assert Agenda([], 0).next == NEVER


def test_a_tightened_probe_is_measured_at_equal_parts_of_its_interval_and_alone_there() -> None:
    made = agenda(Every(100))
    until(made, 150)
    made.wishes.append(Tighten("height", until_step=400, times=4))
    found = until(made, 700)
    assert list(found) == [200, 225, 250, 275, 300, 325, 350, 375, 400, 500, 600, 700]
    assert all(names == ({"height", "depth"} if step % 100 == 0 else {"height"}) for step, names in found.items())


def test_any_quantity_of_a_probe_stands_for_the_probe() -> None:
    made = agenda(Every(10))
    made.wishes.append(Tighten("shore", until_step=15, times=2))
    assert until(made, 20) == {0: {"height", "depth"}, 5: {"depth"}, 10: {"height", "depth"}, 15: {"depth"}} | {
        20: {"height", "depth"}
    }


def test_logarithmic_steps_are_tightened_by_the_same_factor_and_those_that_are_dense_stay_as_they_are() -> None:
    made, schedule = agenda(LogSpaced()), LogSpaced()
    until(made, 999)
    made.wishes.append(Tighten("height", until_step=3000, times=4))
    found = list(until(made, 10_000))
    plain = [step for step in scheduled(schedule, 10_000) if step >= found[0]]
    for here, there in pairwise(step for step in plain if step <= 3000):
        gaps = [b - a for a, b in pairwise(step for step in found if here <= step <= there)]
        assert len(gaps) == 4
        assert max(gaps) - min(gaps) <= 1
    assert [step for step in found if step > 3000] == [step for step in plain if step > 3000]
    early = agenda(LogSpaced())
    early.wishes.append(Tighten("height", until_step=8, times=16))
    assert list(until(early, 8)) == list(range(9))


@settings(max_examples=100, deadline=None)
@given(
    st.one_of(st.integers(1, 200).map(Every), st.integers(1, 60).map(lambda n: LogSpaced(per_decade=n))),
    st.integers(2, 16),
    st.integers(0, 3000),
    st.integers(1, 4000),
)
def test_no_scheduled_step_is_ever_lost_and_none_beyond_the_wish_is_added(
    schedule: Schedule, times: int, start: int, end: int
) -> None:
    made = agenda(schedule)
    before = list(until(made, start))
    made.wishes.append(Tighten("height", until_step=end, times=times))
    found = before + list(until(made, 5000))
    plain = scheduled(schedule, 5000)
    assert sorted(set(found)) == found
    assert set(plain) <= set(found)
    assert all(step <= end for step in set(found) - set(plain))
    assert len(found) <= times * len(plain)


def test_a_wish_ends_by_the_clock_though_no_step_has_come_near_its_end() -> None:
    clock = Clock()
    made = agenda(Every(100), clock=clock)
    made.wishes.append(Tighten("height", until_step=10**9, times=2, seconds=60.0))
    assert list(until(made, 250)) == [0, 50, 100, 150, 200, 250]
    clock.now = 61.0
    assert list(until(made, 700)) == [300, 400, 500, 600, 700]
    assert made.tightened == {}


def test_a_probe_rests_for_as_many_steps_as_it_was_tightened() -> None:
    made = agenda(Every(100))
    wish = Tighten("height", until_step=400, times=2)
    made.wishes.append(wish)
    until(made, 400)
    for step in (500, 700, 800):
        made.wishes.append(Tighten("height", until_step=step + 400, times=2))
        until(made, step)
    assert made.answers == {Answer.HONOURED: 2, Answer.RESTING: 2}
    assert made.tightened == {HEIGHT: 2}


@pytest.mark.parametrize(
    ("wish", "answer"),
    [
        (Tighten("weight", 500), Answer.NO_PROBE),
        (Tighten("height", 0), Answer.EXPIRED),
        (Tighten("gradient_noise_scale", 500), Answer.LOOKS_BACK),
    ],
)
def test_a_wish_that_cannot_be_met_is_counted_with_the_reason_and_changes_nothing(
    wish: Tighten, answer: Answer
) -> None:
    made = agenda(Every(10), HEIGHT, GradientNoise())
    made.wishes.append(wish)
    assert list(until(made, 40)) == [0, 10, 20, 30, 40]
    assert [(column.labels["answer"], estimate.value) for _, column, estimate in made.account()] == [(answer.value, 1)]


def test_a_budget_that_earns_nothing_refuses() -> None:
    made = agenda(Every(10), earns=False)
    made.wishes.append(Tighten("height", 500))
    assert list(until(made, 40)) == [0, 10, 20, 30, 40]
    assert made.answers == {Answer.NO_BUDGET: 1}


def test_a_wish_heard_twice_is_honoured_once_also_after_its_end() -> None:
    made = agenda(Every(10))
    made.wishes.extend([Tighten("height", 30, times=2)] * 2)
    until(made, 30)
    made.wishes.append(Tighten("height", 30, times=2))
    assert list(until(made, 60)) == [40, 50, 60]
    assert made.answers == {Answer.HONOURED: 1, Answer.IN_FORCE: 1, Answer.EXPIRED: 1}


def test_a_flood_of_wishes_is_bounded() -> None:
    made = agenda(Every(1000))
    made.wishes.extend(Tighten("height", 10**6, times=16) for _ in range(10 * MOST_WISHES))
    found = list(until(made, 10_000))
    assert sum(made.answers.values()) == MOST_WISHES
    assert len(found) <= 16 * 10 + 1


def test_what_is_put_off_is_looked_at_again_no_earlier_and_not_beyond_the_wish() -> None:
    made = agenda(Every(100))
    made.wishes.append(Tighten("height", until_step=60, times=10))
    made.hold(made.offered(0))
    made.go_on(0)
    assert made.next == 10
    made.put_off(10, 35)
    assert made.next == 45
    made.put_off(45, 35)
    assert made.next == 100, "80 is beyond the wish"


def test_it_says_what_is_tightened_and_that_it_is_over() -> None:
    made = agenda(Every(10))
    made.wishes.append(Tighten("height", 20, times=3, reason="a peak is suspected"))
    assert made.hold(made.offered(0)) == ["height is measured 3 times as often until step 20: a peak is suspected"]
    made.go_on(0)

    def said() -> dict[str, float]:
        return {f"{column.quantity} {column.labels}": estimate.value for _, column, estimate in made.account()}

    honoured = {"tighten_wishes {'answer': 'honoured'}": 1}
    assert said() == {"probe_tightened {'probe': 'height'}": 3} | honoured
    until(made, 20)
    assert said() == {"probe_tightened {'probe': 'height'}": 1} | honoured


def test_a_rank_that_does_not_choose_follows_the_one_that_does_to_the_step() -> None:
    clock = Clock()
    first, other = agenda(LogSpaced(), clock=clock), agenda(LogSpaced())
    other.wishes.append(Tighten("depth", 10**6))  # nobody asked this rank
    first.wishes.append(Tighten("height", 10**6, times=5, seconds=10.0))
    steps = []
    while first.next < 3000:
        step = first.next
        assert other.next == step
        clock.now = step / 100
        agreed: list[Tight] = first.offered(step)
        other.offered(step)
        for each in (first, other):
            each.hold(agreed)
            if step % 7 == 3:
                each.put_off(step, 1 + step % 5)
            else:
                each.go_on(step)
        steps.append(step)
    assert len(steps) > len(scheduled(LogSpaced(), 3000)) + 20
    assert other.answers == {Answer.NOT_LEADING: 1}
    assert {column.quantity for _, column, _ in other.account()} == {"tighten_wishes"}


def test_the_probes_of_which_a_value_depends_on_the_measurement_before_say_so() -> None:
    said = {probe.name for watch in full() for probe in watch.probes if probe.looks_back}
    assert said == {"gradient_noise", "gradient_subspace"}
