"""Few samples call for more standard errors: quantiles of Student's t, or a little more."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from daft_rl.rollout.returns import Returns, in_few_samples


@pytest.mark.parametrize("errors", [0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("samples", [2, 3, 4, 5, 8, 20, 100])
def test_it_is_near_student_t_and_not_clearly_below(errors: float, samples: int) -> None:
    exact = stats.t.isf(stats.norm.sf(errors), samples - 1)
    found = in_few_samples(errors, samples)
    assert found > 0.98 * exact
    assert samples < 4 or found < 1.1 * exact


def test_nothing_is_known_from_one_sample() -> None:
    assert in_few_samples(2.0, 1) == math.inf


def test_no_error_stays_none_and_a_large_number_is_no_overflow() -> None:
    assert in_few_samples(0.0, 5) == 0.0
    assert math.isfinite(in_few_samples(1e3, 3))
    assert math.isfinite(in_few_samples(1e200, 3))  # a margin that nobody can be ahead by


def returns(*given: float) -> Returns:
    return Returns(list(given), [1] * len(given))


def test_two_episodes_have_to_differ_by_more_than_twenty() -> None:
    few, many = (4.0, 6.0), (4.0, 6.0) * 10
    assert returns(*many).is_below(returns(*(one + 2 for one in many)))
    assert not returns(*few).is_below(returns(*(one + 2 for one in few)))
    assert returns(*few).is_below(returns(*(one + 200 for one in few)))
