"""The batches of environments that a run opens."""

from __future__ import annotations

from contextlib import ExitStack

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from daft_rl.envs.domain import Domain

__all__ = ["Environments"]


class Environments:
    """Opens batches of environments, and closes them all at the end of the run.

    :param vec: how environments run, see :func:`daft_rl.envs.make_vec`
    """

    def __init__(self, vec: str) -> None:
        self.vec = vec
        self._stack = ExitStack()

    def open(self, domain: Domain, num_envs: int, stack: ExitStack | None = None, replayable: bool = False) -> VecEnv:
        """A batch of environments, images channels first.

        :param stack: closes it, in place of the end of the run
        :param replayable: whether its episodes can go on in another process
        """
        venv = domain.make_vec(num_envs, self.vec, replayable)
        (stack or self._stack).callback(venv.close)
        return BaseAlgorithm._wrap_env(venv, verbose=0, monitor_wrapper=False)

    def close(self) -> None:
        """Close every batch that is open."""
        self._stack.close()
