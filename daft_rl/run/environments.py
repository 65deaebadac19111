"""The batches of environments that a run opens: to learn in, and to play in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from daft_rl.envs.batch.watched import WatchedVecEnv
from daft_rl.envs.domain import Domain
from daft_rl.errors import ConfigError
from daft_rl.run.vec_wrappers import VecWrappers

__all__ = ["Environments"]


class Environments:
    """Opens batches of environments, and closes them all at the end of the run.

    :param vec: how environments run, see :func:`daft_rl.envs.make_vec`. With ``cuda`` only learning steps worlds on a
        device; evaluations play in the task's own simulator, as with ``auto``
    :param device: where worlds are
    :param step_timeout: seconds that a step may take, see :func:`daft_rl.envs.make_vec`
    :param wrappers: around every batch
    """

    def __init__(
        self,
        vec: str,
        device: str = "cuda",
        step_timeout: float | None = None,
        wrappers: VecWrappers | None = None,
    ) -> None:
        self.has_worlds, self.device, self.step_timeout = vec == "cuda", device, step_timeout
        self.vec = "auto" if self.has_worlds else vec
        """How environments run in which the agent plays."""
        self.wrappers = wrappers or VecWrappers(())
        if self.has_worlds and self.wrappers:
            raise ConfigError(
                "vec_wrappers see batches of arrays, and the worlds of vec='cuda' are tensors. Use vec='auto'.",
                arguments=("vec_wrappers", "vec"),
            )
        self._stack = ExitStack()

    def open_for_learning(self, domain: Domain, num_envs: int) -> VecEnv:
        """A batch of environments to learn in: worlds, if there are any."""
        if self.has_worlds:
            return domain.make_vec(num_envs, "cuda", self.device)
        # what a wrapper of others keeps of an episode cannot be saved: such a run goes on with new episodes
        return self.open(domain, num_envs, replayable=not self.wrappers)

    def open(
        self,
        domain: Domain,
        num_envs: int,
        stack: ExitStack | None = None,
        replayable: bool = False,
        model: BaseAlgorithm | None = None,
    ) -> VecEnv:
        """A batch of environments, images channels first.

        :param stack: closes it, in place of the end of the run
        :param replayable: whether its episodes can go on in another process
        :param model: plays there, and may see the batch through wrappers outside of its ``VecNormalize``
        """
        venv = WatchedVecEnv(domain.make_vec(num_envs, self.vec, step_timeout=self.step_timeout, replayable=replayable))
        (stack or self._stack).callback(venv.close)
        wrapped = self.wrappers.wrap_inside(BaseAlgorithm._wrap_env(venv, verbose=0, monitor_wrapper=False))
        return wrapped if model is None else self.wrappers.seen_by(model, wrapped)

    @contextmanager
    def opened(self, domain: Domain, num_envs: int, model: BaseAlgorithm) -> Iterator[VecEnv]:
        """As :meth:`open`, for the duration of a block."""
        with ExitStack() as stack:
            yield self.open(domain, num_envs, stack, model=model)

    def close(self) -> None:
        """Close every batch that is open."""
        self._stack.close()
