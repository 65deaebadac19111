"""Comparing the arms of a race: paired differences of equal episodes, with their standard errors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from daft_rl.race import Race
from daft_rl.rollout.returns import Returns, in_few_samples

__all__ = ["Lead", "Played", "judge", "lead", "scores"]

Played = Mapping[str, Returns]
"""Role, ``target`` and maybe ``source``, to returns there. Episode ``k`` has the same seed in all arms."""


@dataclass(frozen=True)
class Lead:
    """By how much one arm is ahead of another."""

    mean: float
    error: float
    """Standard error of the mean over paired episodes."""
    episodes: int

    def is_beyond(self, errors: float) -> bool:
        """Whether the lead is as sure as one of more than this many standard errors in many episodes."""
        return self.mean > in_few_samples(errors, self.episodes) * self.error

    def __str__(self) -> str:
        where = f"in {self.episodes} episodes" if self.episodes > 1 else "in a single episode"
        if not 0 < self.error < math.inf:
            return f"{self.mean:.4g} {where}"
        decimals = max(0, 1 - math.floor(math.log10(self.error)))
        return f"{self.mean:.{decimals}f} ± {self.error:.{decimals}f} {where}"


def scores(played: Played, keep: float) -> NDArray[np.float64]:
    """What an arm scores in each episode: ``(1 - keep)`` times the target's return plus ``keep`` times the source's."""
    target = np.asarray(played["target"].returns, float)
    return target if not keep else (1 - keep) * target + keep * np.asarray(played["source"].returns, float)


def lead(one: Played, other: Played, keep: float) -> Lead:
    """By how much the first is ahead of the second. A single episode tells nothing of its error."""
    gains = scores(one, keep) - scores(other, keep)
    error = gains.std(ddof=1) / math.sqrt(len(gains)) if len(gains) > 1 else math.inf
    return Lead(float(gains.mean()), float(error), len(gains))


def judge(
    arms: Mapping[str, Played], race: Race, cost_limit: float | None = None, what: str = "arm"
) -> tuple[str, str]:
    """The first arm that is not behind the best one by more than the margin.

    Where costs are limited, arms within the limit come before all others; if there are none, the lowest cost wins.

    :param arms: name -> what it played, the preferred one first
    :param race: the rule
    :param cost_limit: largest mean cost of an episode, if there is a limit
    :param what: is compared, as the reason names it
    :return: the winner's name, and why it won
    """
    costs = {name: played["target"].mean_cost for name, played in arms.items()}
    known = {name: cost for name, cost in costs.items() if cost is not None and cost_limit is not None}
    if known and min(known.values()) > (cost_limit or 0.0):
        lowest = min(known, key=lambda name: known[name])
        return lowest, f"its cost of {known[lowest]:.3g} is the lowest; no {what} is within the limit of {cost_limit:g}"
    within = [name for name in arms if cost_limit is None or known.get(name, 0.0) <= cost_limit]
    best = max(within, key=lambda name: scores(arms[name], race.keep).mean())
    for name in within:
        ahead = lead(arms[best], arms[name], race.keep)
        if name == best:
            break
        if not ahead.is_beyond(race.margin):
            return name, f"{best} is ahead by {ahead}, which is not clear: the preferred one wins"
    others = [other for other in within if other != best]
    if not others:
        return best, f"the only {what} within the limit on costs"
    second = max(others, key=lambda name: scores(arms[name], race.keep).mean())
    return best, f"it is ahead of {second} by {lead(arms[best], arms[second], race.keep)}"
