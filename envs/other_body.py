"""Environments of one body, seen and moved as another: a policy for the target can still play on the source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from daft_rl.envs.names import count_entries
from daft_rl.errors import TaskError

if TYPE_CHECKING:
    from daft_rl.correspondence import Correspondence

__all__ = ["OtherBody", "OtherBodyVecEnv", "SeenAs"]


@dataclass(frozen=True)
class SeenAs:
    """How one body's observations and actions become those of another.

    What the other body alone senses is at rest. What it alone moves has no effect, and what it lacks stays at 0.
    """

    correspondence: Correspondence
    """From the body that is there to the one that is seen."""
    observation_space: spaces.Space[Any]
    """Of the body that is seen."""
    action_space: spaces.Space[Any]
    rest: tuple[float, ...]
    """A value for each of its new entries."""

    @staticmethod
    def check(correspondence: Correspondence, observation: spaces.Space[Any], action: spaces.Space[Any]) -> None:
        """
        :param observation: of the body that is there
        :param action: likewise
        :raises TaskError: the correspondence is of another body than this one
        """
        for what, space in (("observation", observation), ("action", action)):
            count, known = count_entries(space), len(getattr(correspondence, what).source)
            if count != known:
                raise TaskError(
                    f"The correspondence is of {known} entries of the source's {what}, and the source has {count}. "
                    "Pass the source_env in which the agent learnt, or leave it out.",
                    arguments=("correspondence", "source_env"),
                )

    def observation(self, rows: Any, space: spaces.Space[Any]) -> Any:
        """
        :param rows: observations of the body that is there, ``(n, entries)``, or a dictionary of such arrays; or one
            of several states each, ``(n,)``
        :param space: of these
        """
        if isinstance(space, spaces.Discrete):
            return np.array([one or 0 for one in self.correspondence.observation.heirs])[rows]
        flat = np.concatenate([rows[key] for key in space.spaces], axis=1) if isinstance(space, spaces.Dict) else rows
        origin = np.array([-1 if one is None else one for one in self.correspondence.observation.origin])
        seen = flat[:, origin]
        seen[:, origin < 0] = self.rest
        if not isinstance(self.observation_space, spaces.Dict):
            return seen
        parts = self.observation_space.spaces
        edges = np.cumsum([spaces.flatdim(part) for part in parts.values()])[:-1]
        return dict(zip(parts, np.split(seen, edges, axis=1), strict=True))

    def action(self, rows: NDArray[Any]) -> NDArray[Any]:
        """
        :param rows: actions of the body that is seen, ``(n, entries)``, or choices ``(n,)``
        """
        if isinstance(self.action_space, spaces.Discrete):
            return np.array([one or 0 for one in self.correspondence.action.origin])[rows]
        heirs = self.correspondence.action.heirs
        moved = np.zeros((len(rows), len(heirs)), rows.dtype)
        known = [i for i, one in enumerate(heirs) if one is not None]
        moved[:, known] = rows[:, [one for one in heirs if one is not None]]
        return moved


class OtherBodyVecEnv(VecEnvWrapper):
    """A batch of one body, seen and moved as another.

    :param venv: of the body that is there
    :param seen_as: the other one
    """

    def __init__(self, venv: VecEnv, seen_as: SeenAs) -> None:
        seen_as.check(seen_as.correspondence, venv.observation_space, venv.action_space)
        super().__init__(venv, seen_as.observation_space, seen_as.action_space)
        self.seen_as = seen_as

    def reset(self) -> VecEnvObs:
        """See ``VecEnv``."""
        return self._seen(self.venv.reset())

    def step_async(self, actions: NDArray[Any]) -> None:
        """See ``VecEnv``."""
        self.venv.step_async(self.seen_as.action(actions))

    def step_wait(self) -> VecEnvStepReturn:
        """See ``VecEnv``."""
        observations, rewards, dones, infos = self.venv.step_wait()
        for info in infos:
            if "terminal_observation" in info:
                info["terminal_observation"] = _first(self._seen(_batched(info["terminal_observation"])))
        return self._seen(observations), rewards, dones, infos

    def _seen(self, observations: Any) -> Any:
        return self.seen_as.observation(observations, self.venv.observation_space)


class OtherBody(gym.Wrapper[Any, Any, Any, Any]):
    """An environment of one body, seen and moved as another.

    :param env: of the body that is there
    :param seen_as: the other one
    """

    def __init__(self, env: gym.Env, seen_as: SeenAs) -> None:
        seen_as.check(seen_as.correspondence, env.observation_space, env.action_space)
        super().__init__(env)
        self.seen_as = seen_as
        self.observation_space, self.action_space = seen_as.observation_space, seen_as.action_space

    def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        """See :meth:`gymnasium.Env.reset`."""
        observation, info = self.env.reset(**arguments)
        return self._seen(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """See :meth:`gymnasium.Env.step`."""
        observation, *rest = self.env.step(self.seen_as.action(np.asarray(action)[None])[0])
        return self._seen(observation), *rest  # type: ignore[return-value]

    def _seen(self, observation: Any) -> Any:
        return _first(self.seen_as.observation(_batched(observation), self.env.observation_space))


def _batched(observation: Any) -> Any:
    if isinstance(observation, dict):
        return {key: value[None] for key, value in observation.items()}
    return np.asarray(observation)[None]


def _first(rows: Any) -> Any:
    return {key: value[0] for key, value in rows.items()} if isinstance(rows, dict) else rows[0]
