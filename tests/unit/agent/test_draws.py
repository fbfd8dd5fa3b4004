import math

import numpy as np
import pytest
from scipy.stats import t

from probe_agent.estimators.draws import mean_of, student
from probe_wire import Outcome


@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 20, 1000])
def test_few_draws_are_widened_as_students_distribution_asks(n: int) -> None:
    assert student(n) == pytest.approx(t.ppf(0.975, n - 1) / 1.959964, rel=0.01)


@pytest.mark.parametrize("n", [2, 3, 4, 8, 50])
def test_ninety_five_of_a_hundred_intervals_hold_the_mean_however_few_draws_there_are(n: int) -> None:
    rng = np.random.default_rng(0)
    estimates = [mean_of(rng.standard_normal(n) + 7) for _ in range(4000)]
    held = np.mean([abs(e.value - 7) < 1.96 * e.stderr for e in estimates])
    assert held == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 4000))


def test_an_error_too_large_for_a_float_is_not_finite() -> None:
    assert mean_of(np.array([1e200, -1e200, 3.0])).outcome is Outcome.NON_FINITE


def test_one_draw_has_no_error() -> None:
    assert math.isnan(mean_of(np.array([1.0])).stderr)
