"""When the agent measures, and what it may cost."""

from itertools import pairwise

import pytest

from probe_agent import Budget, Every, LogSpaced


def steps_of(schedule: Every | LogSpaced, until: int) -> list[int]:
    steps, at = [], 0
    while (at := schedule.after(at)) <= until:
        steps.append(at)
    return steps


def test_every_is_due_at_its_multiples() -> None:
    assert steps_of(Every(5), 20) == [5, 10, 15, 20]


def test_log_spaced_is_dense_early_and_gives_each_decade_its_share() -> None:
    steps = steps_of(LogSpaced(per_decade=10, at_most_apart=10**9), 10_000)
    assert steps[:4] == [1, 2, 3, 4]
    assert 8 <= sum(100 < s <= 1000 for s in steps) <= 11
    assert 8 <= sum(1000 < s <= 10_000 for s in steps) <= 11


def test_log_spaced_never_leaves_a_longer_gap_than_told() -> None:
    steps = steps_of(LogSpaced(per_decade=10, at_most_apart=50), 2000)
    assert max(b - a for a, b in pairwise(steps)) == 50


def test_a_schedule_moves_on_from_any_step() -> None:
    assert all(LogSpaced().after(step) > step for step in (0, 1, 7, 999, 123_456_789))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Every(0), r"Every\(steps=0\); need at least 1"),
        (lambda: LogSpaced(per_decade=0), "need both at least 1"),
        (lambda: Budget(share=-0.1), r"share=-0.1.*0.02 is 2 %"),
        (lambda: Budget(allowance=-1), "allowance of 0 or more seconds"),
    ],
)
def test_a_senseless_setting_is_refused_in_words(make: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()  # type: ignore[operator]


def test_within_the_allowance_everything_is_affordable() -> None:
    assert Budget(share=0.01, allowance=10).steps_to_wait(spent=8, expected=1, training=0, steps=0) == 0


def test_beyond_the_allowance_measuring_waits_until_training_has_paid_for_it() -> None:
    # 100 steps took 50 s; 1 % of them is 0.5 s; 2 s are missing beyond it: 1.5 s / (0.005 s a step) = 300 steps.
    wait = Budget(share=0.01, allowance=10).steps_to_wait(spent=11, expected=1, training=50, steps=100)
    assert wait == 300
    after = Budget(share=0.01, allowance=10).steps_to_wait(spent=11, expected=1, training=50 + 150, steps=400)
    assert after == 0


def test_a_share_of_nothing_still_looks_again() -> None:
    assert Budget(share=0, allowance=0).steps_to_wait(spent=1, expected=1, training=5, steps=10) == 1000
