"""Phases add up to the whole, whatever is inside what."""

from __future__ import annotations

import pytest

from daft_rl.rollout import profile
from daft_rl.rollout.profile import Profile


class Clock:
    """Says what it is told."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(profile, "time", clock)
    return clock


def test_what_is_inside_is_taken_out(clock: Clock) -> None:
    measured = Profile()
    clock.now = 1
    with measured("inference"):
        clock.now = 3
        with measured("simulation"):
            clock.now = 10
        clock.now = 11
    clock.now = 15
    assert measured.as_dict() == {"simulation": 7, "other": 5, "inference": 3}


def test_an_error_ends_a_phase(clock: Clock) -> None:
    measured = Profile()

    def fail() -> None:
        with measured("update"):
            clock.now = 2
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    clock.now = 3
    assert measured.as_dict() == {"update": 2, "other": 1}
