"""A race of methods is data: which methods take part, how far they learn before they are compared, and by what."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, StrictInt

from daft_rl.errors import MethodError
from daft_rl.validation import LARGEST, PLAIN, Flag, Fraction, NonNegative, Positive, checked

__all__ = ["Race"]


@checked(MethodError, "race")
class Race:
    """Several methods learn up to a rung, from the same start and seed. The best goes on (:mod:`daft_rl.run.race`)."""

    arms: tuple[Any, ...]
    """The methods: names of shipped ones, or fields of a method. The order is that of preference."""
    rung: Positive = 0.2
    """Steps that each arm learns from before they are compared; below 1, a fraction of ``total_timesteps``."""
    episodes: Annotated[StrictInt, Field(ge=2, le=LARGEST), PLAIN] = 20
    """Episodes in which they are compared, the same for all arms. No learning step is counted for them."""
    margin: NonNegative = 2.0
    """Standard errors of the paired difference by which an arm has to be ahead of those before it in the list, in many
    episodes; few episodes call for more."""
    keep: Fraction = 0.0
    """What the source counts: the score of an arm is ``(1 - keep)`` times its return on the target plus ``keep`` times
    that on the source."""
    within: Flag = True
    """Whether all arms together learn from ``total_timesteps``; if not, the winner does, and the others come on top."""
    best_on_the_way: Flag = True
    """Whether the run ends with its best policy on the way (``best.zip``, the one before learning among them) if the
    last one is behind it by more than the margin, in as many episodes again. Evaluations are then at most a quarter of
    the run apart, whatever ``evaluation.every`` says."""

    def rung_steps(self, total_timesteps: int) -> int:
        """The rung in steps.

        :param total_timesteps: of the run
        """
        return max(1, round(self.rung * total_timesteps if self.rung < 1 else self.rung))

    def steps_of_winner(self, total_timesteps: int, arms: int, rung: float) -> float:
        """The steps that the winner learns from in the end.

        :param total_timesteps: of the run
        :param arms: how many of them learn
        :param rung: steps of each arm before the comparison
        """
        return total_timesteps - (arms - 1) * rung if self.within else total_timesteps

    def is_too_long(self, total_timesteps: int, arms: int) -> bool:
        """Whether the winner would learn nothing after the rung.

        :param total_timesteps: of the run
        :param arms: how many of them learn
        """
        rung = self.rung * total_timesteps if self.rung < 1 else self.rung
        return self.steps_of_winner(total_timesteps, arms, rung) <= rung
