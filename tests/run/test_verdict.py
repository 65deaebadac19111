"""Arms are compared in equal episodes: the preferred one wins unless another is clearly ahead."""

from __future__ import annotations

from typing import Any

import pytest

from daft_rl.race import Race
from daft_rl.rollout.returns import Returns
from daft_rl.run.race_result import RaceResult, race_table
from daft_rl.run.verdict import Played, judge, lead, scores


def played(target: list[float], source: list[float] | None = None, cost: float | None = None) -> Played:
    costs = None if cost is None else [cost] * len(target)
    found = {"target": Returns(target, [1] * len(target), costs)}
    return found if source is None else found | {"source": Returns(source, [1] * len(source))}


def rule(**settings: Any) -> Race:
    return Race(arms=("ft_eval", "ft"), **settings)


def test_a_lead_is_a_mean_of_paired_differences_with_its_standard_error() -> None:
    ahead = lead(played([11.0, 102.0, 1003.0]), played([10.0, 100.0, 1000.0]), keep=0.0)
    assert ahead.mean == 2.0  # the episodes differ by far more than the arms
    assert ahead.error == pytest.approx(1 / 3**0.5)
    assert ahead.is_beyond(1)
    assert not ahead.is_beyond(2)  # 3.5 standard errors, but of three episodes


def test_the_same_lead_is_surer_in_more_episodes() -> None:
    few, many = [0.0, 2.0], [0.0, 2.0] * 10
    gains = [lead(played(one), played([-1.0] * len(one)), keep=0.0) for one in (few, many)]
    assert [ahead.mean for ahead in gains] == [2.0, 2.0]
    assert [ahead.is_beyond(2) for ahead in gains] == [False, True]


def test_a_single_episode_tells_nothing() -> None:
    ahead = lead(played([1e9]), played([0.0]), keep=0.0)
    assert not ahead.is_beyond(1e-9)
    assert str(ahead) == "1e+09 in a single episode"


@pytest.mark.parametrize(
    ("margin", "first", "second", "winner"),
    [
        (2.0, [1.0, 2.0, 3.0], [2.0, 3.0, 4.0], "second"),  # the same lead in every episode
        (2.0, [1.0, 2.0, 3.0], [1.0, 1.0, 5.0], "first"),
        (0.0, [1.0, 2.0, 3.0], [1.0, 1.0, 5.0], "second"),
        (0.0, [1.0, 2.0, 3.0], [3.0, 2.0, 1.0], "first"),
        (2.0, [2.0, 3.0, 4.0], [1.0, 2.0, 3.0], "first"),
    ],
)
def test_the_preferred_arm_wins_within_the_margin(
    margin: float, first: list[float], second: list[float], winner: str
) -> None:
    name, why = judge({"first": played(first), "second": played(second)}, rule(margin=margin))
    assert name == winner
    assert "ahead" in why


def test_a_lead_that_few_episodes_leave_unclear_is_told_as_such() -> None:
    """Seven standard errors are more than the margin of three, but not in three episodes."""
    arms = {"first": played([0.0, 0.0, 0.0]), "second": played([3.0, 4.0, 5.0])}
    told = "second is ahead by 4.00 ± 0.58 in 3 episodes, which is not clear: the preferred one wins"
    assert judge(arms, rule(margin=3.0)) == ("first", told)


def test_the_first_arm_within_the_margin_of_the_best_wins_and_not_the_second_best() -> None:
    arms = {"low": played([0.0, 0.0, 0.0]), "near": played([9.0, 11.0, 9.0]), "best": played([9.0, 10.0, 12.0])}
    assert judge(arms, rule())[0] == "near"


def test_keep_counts_the_source() -> None:
    specialist, generalist = played([10.0, 12.0], [0.0, 0.0]), played([9.0, 11.0], [5.0, 5.0])
    assert scores(generalist, 0.25).tolist() == [0.75 * 9 + 0.25 * 5, 0.75 * 11 + 0.25 * 5]
    arms = {"specialist": specialist, "generalist": generalist}
    assert judge(arms, rule())[0] == "specialist"
    assert judge(arms, rule(keep=0.3))[0] == "generalist"


def test_arms_within_the_limit_on_costs_come_first() -> None:
    arms = {"rich": played([9.0, 9.0], cost=30.0), "safe": played([1.0, 1.0], cost=20.0)}
    assert judge(arms, rule())[0] == "rich"
    assert judge(arms, rule(), cost_limit=25.0)[0] == "safe"
    assert judge(arms, rule(), cost_limit=50.0)[0] == "rich"
    name, why = judge(arms, rule(), cost_limit=10.0)
    assert name == "safe"
    assert "lowest" in why


def test_steps_of_the_losers_count_from_the_rung_on() -> None:
    result = RaceResult(rung=100, spent=200, seconds=0, seconds_of_others=0, zero_shot={}, summary={})
    assert [result.axis(step) for step in (0, 100, 101, 500)] == [0, 100, 301, 700]


def test_the_table_shows_the_costs_that_decide() -> None:
    arms: dict[str, Any] = {
        name: {"returns": {"target": played(returns, cost=cost)["target"].as_dict()}}
        for name, returns, cost in (("safe", [1.0, 3.0], 2.0), ("rich", [8.0, 8.0], 30.0))
    } | {"odd": {"left_out": "does not fit"}}
    table = race_table({"rung": 96, "episodes": 2, "winner": "safe", "why": "its cost", "arms": arms})
    assert {column.header: list(column.cells) for column in table.columns} == {
        "arm": ["safe", "rich", "odd"],
        "target": ["2.0 ± 0.7", "8.0 ± 0.0", ""],
        "cost": ["2.0", "30.0", ""],
        "verdict": ["won: its cost", "", "does not fit"],
    }
