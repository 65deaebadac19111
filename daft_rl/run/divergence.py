"""Learning that leaves the finite numbers is stopped where it does, and the last good policy is kept."""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stable_baselines3.common.callbacks import BaseCallback

from daft_rl.archives import save_agent
from daft_rl.errors import DivergenceError
from daft_rl.run.snapshot import Snapshot, not_finite

__all__ = ["DivergenceWatch", "refused_distribution"]

REFUSALS = (ArithmeticError, RuntimeError, ValueError)
"""What PyTorch's distributions raise for NaN. A signal that comes while one is drawn from raises something else."""

EVERY = 2048
"""Steps between checks of all weights. Losses are looked at after every update."""

MANY = 32
"""With thousands of worlds, the least number of steps of all of them between these checks."""

LOSSES = ("loss", "objective")
"""Parts of the names under which algorithms log what they minimise or maximise. Others may be NaN on purpose, such as
the explained variance of constant returns."""


class DivergenceWatch(BaseCallback):
    """Ends learning with an error when a loss, a weight or a statistic of ``VecNormalize`` is NaN or infinite.

    :param path: archive for the last policy that was good, written if learning is ended
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._good: Snapshot | None = None
        self._next = 0

    def _on_training_start(self) -> None:
        self._next = self.num_timesteps
        self._check()

    def _on_rollout_start(self) -> None:
        """Every algorithm has just updated, or learnt nothing yet."""
        self._check()

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self._next = self.num_timesteps
        self._check()

    def _check(self) -> None:
        losses = self._bad_losses()
        if not losses and self.num_timesteps < self._next:
            return
        self._next = self.num_timesteps + max(EVERY, MANY * self.model.n_envs)
        problem = not_finite(self.model) or next(iter(losses), None)
        if problem is not None:
            raise self._error(problem)
        self._good = Snapshot(self.model)

    def _bad_losses(self) -> list[str]:
        """The losses of the last update that are NaN or infinite."""
        return [
            f"The {name} is {value}"
            for name, value in self.logger.name_to_value.items()
            if not math.isfinite(value) and any(part in name for part in LOSSES)
        ]

    def _error(self, problem: str) -> DivergenceError:
        return DivergenceError(
            f"{problem} after {self.num_timesteps} steps: learning has diverged. Take a lower learning_rate, or look "
            "at the scale of rewards and observations.",
            arguments=("learning_rate",),
        )

    @contextmanager
    def keeping_the_good(self) -> Iterator[None]:
        """Around ``model.learn``: if learning diverges, put the last good policy back and save it.

        :raises DivergenceError: also for whatever an algorithm raises because its weights are not finite any more
        """
        try:
            yield
        except DivergenceError as error:
            self._keep(error)
            raise
        except REFUSALS as error:
            problem = not_finite(self.model) or refused_distribution(error)
            if self._good is None or problem is None:
                raise
            named = self._error(problem)
            self._keep(named, spoilt=True)
            raise named from error

    def _keep(self, error: DivergenceError, spoilt: bool = False) -> None:
        """Save the policy as it is, or, if it is spoilt, as it last was good."""
        if self._good is None:  # diverged before it began
            return
        kept = self.num_timesteps
        if spoilt or not_finite(self.model) is not None or self._bad_losses():
            self._good.restore()
            kept = self._good.timesteps
        save_agent(self.model, self.path, prefix=f"{self.path.stem}_")
        error.args = (f"{error} The policy of step {kept} is in {self.path.name}.",)


def refused_distribution(error: BaseException) -> str | None:
    """What PyTorch's distributions said, if they have raised: a standard deviation may be 0, which is finite."""
    frames = traceback.extract_tb(error.__traceback__)
    drawing = any("torch/distributions" in Path(frame.filename).as_posix() for frame in frames)
    if not drawing or not isinstance(error, REFUSALS):
        return None
    reason, _, _ = str(error).partition("\n")
    return f"PyTorch refuses the policy's distribution of actions ({reason[:200]})"
