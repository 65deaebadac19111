"""The rules of Gymnasium's MuJoCo tasks (v5), applied to a batch of environments at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daft_rl.envs.mujoco.rules import TaskRules
from daft_rl.errors import TaskError

__all__ = ["BatchedTask"]


class ArrayTable:
    """Arrays of every environment, copied into the rows of one table by one call.

    :param views: for each environment, the same arrays of its model or data. ``mj_resetData`` keeps them valid
    :raises TaskError: the arrays' sizes differ between environments
    """

    def __init__(self, views: Iterable[Sequence[NDArray[Any]]]) -> None:
        rows = list(views)
        if len({tuple(view.size for view in row) for row in rows}) != 1:
            raise TaskError("Environments of one batch need models of the same size: bodies, joints, actuators.")
        self._views = [view.reshape(-1) for row in rows for view in row]
        edges = np.cumsum([0] + [view.size for view in rows[0]])
        whole = np.empty((len(rows), edges[-1]))
        self._columns = [whole[:, start:stop] for start, stop in pairwise(edges)]
        self._flat = whole.reshape(-1)

    def read(self) -> list[NDArray[Any]]:
        """The arrays, each of shape ``(num_envs, size)``. The next call overwrites them."""
        np.concatenate(self._views, out=self._flat)
        return self._columns


StepResults = tuple[NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]


class BatchedTask:
    """Reads the state of all environments, and computes what a step returns.

    :param rules: of the environments' class
    :param envs: environments of one class
    """

    def __init__(self, rules: type[TaskRules], envs: Sequence[Any]) -> None:
        arguments = [rules.read_arguments(env) for env in envs]
        self.rules = rules(arguments)

        def views(env: Any, main_body: int) -> list[NDArray[Any]]:
            return rules.position_views(lambda name: getattr(env.data, name, getattr(env.model, name, None)), main_body)

        self._positions = ArrayTable(views(env, each.main_body) for env, each in zip(envs, arguments, strict=True))
        self._state = ArrayTable([getattr(env.data, name) for name in rules.fields] for env in envs)

    def position(self) -> NDArray[Any]:
        """The position whose change is the velocity: x, or x and y, shape ``(num_envs, 1 or 2)``."""
        return self.rules.position(*self._positions.read()).copy()

    def finish_step(self, action: NDArray[Any], before: NDArray[Any]) -> StepResults:
        """Compute what a step returns, after the physics.

        :param action: what the simulator was given, shape ``(num_envs, action size)``
        :param before: :meth:`position` before the physics
        :return: observations, rewards, terminations, and ``info`` as name -> one value for each environment
        """
        velocity = (self.position() - before) / self.rules.dt
        fields = dict(zip(self.rules.fields, self._state.read(), strict=True))
        state = SimpleNamespace(**fields, action=action, velocity=velocity)
        result = self.rules.outcome(state)
        info = self.rules.info(state) | {f"reward_{name}": values for name, values in result.terms.items()}
        return result.observation, result.reward, result.terminated, info
