"""A batch that stops a run at the first number that is NaN or infinite, and says where it was."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from daft_rl.errors import DivergenceError, FaultyEnvironmentError

__all__ = ["WatchedVecEnv"]

MOST_ENTRIES = 5
"""Entries of an observation that a message names."""


class WatchedVecEnv(VecEnvWrapper):
    """Adds seed, episode and step to what goes wrong in an environment, and refuses NaN and infinite numbers.

    :param venv: a batch of environments, raw observations and rewards
    """

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self._seeds_given: list[int | None] = [None] * venv.num_envs
        self._clock = 0
        self._started = np.zeros(venv.num_envs, dtype=np.int64)  # when the episode began, by the clock
        self._episodes = np.ones(venv.num_envs, dtype=np.int64)

    def seed(self, seed: int | None = None) -> Any:
        """Environment ``i`` starts its next episode from ``seed + i``."""
        given = self.venv.seed(seed)
        self._seeds_given = list(given)
        self._episodes[:] = 0  # the next reset starts the first one
        return given

    def reset(self) -> VecEnvObs:
        """Start new episodes in all environments.

        :raises DivergenceError: an observation is not finite
        :raises FaultyEnvironmentError: an environment raised, or returned what it should not
        """
        self._started[:] = self._clock
        self._episodes += 1
        try:
            observations = self.venv.reset()
        except FaultyEnvironmentError as error:
            self._add_place(error)
            raise
        self._refuse_not_finite(_parts(observations))
        return observations

    def step_async(self, actions: Any) -> None:
        """Begin a step in all environments."""
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Finish the step.

        :raises DivergenceError: an observation, a reward or a cost is not finite
        :raises FaultyEnvironmentError: an environment raised, or returned what it should not
        """
        self._clock += 1
        try:
            observations, rewards, dones, infos = self.venv.step_wait()
        except FaultyEnvironmentError as error:
            self._add_place(error)
            raise
        if not (_finite(rewards) and all(map(_finite, _arrays(observations)))):
            self._refuse_not_finite(_parts(observations) | {"reward": rewards})
        if "cost" in infos[0]:  # whoever uses costs needs them of all environments
            self._refuse_not_finite({"cost": _costs(infos)})
        if dones.any():
            self._refuse_objects(dones, infos)
            self._started[dones] = self._clock
            self._episodes[dones] += 1
        return observations, rewards, dones, infos

    def _refuse_not_finite(self, parts: Mapping[str, NDArray[Any]]) -> None:
        """
        :param parts: name -> array with a row for each environment
        :raises DivergenceError: a number is NaN or infinite
        """
        for name, part in parts.items():
            if _finite(part):
                continue
            rows = np.isfinite(part.reshape(len(part), -1))
            if rows.all():
                continue  # finite numbers whose squares are not
            i = int(np.flatnonzero(~rows.all(axis=1))[0])
            value = part.reshape(len(part), -1)[i][~rows[i]][0]
            raise DivergenceError(
                f"Environment {i}: the {name} is {value}{_entries(rows[i])}. {self._place(i)} Such a number would "
                "spoil the policy: mend the environment, or make the shift smaller."
            )

    def _refuse_objects(self, dones: NDArray[Any], infos: list[dict[str, Any]]) -> None:
        """The last observation of an episode comes as the environment returned it. PyTorch reads no objects.

        :raises FaultyEnvironmentError: it is an array of objects
        """
        for i in np.flatnonzero(dones):
            for part in _arrays(infos[i].get("terminal_observation")):
                if isinstance(part, np.ndarray) and part.dtype == object:
                    error = FaultyEnvironmentError(
                        f"Environment {i} returned an observation of Python objects, not of numbers.", index=int(i)
                    )
                    self._add_place(error)
                    raise error

    def _add_place(self, error: FaultyEnvironmentError) -> None:
        if error.index is not None:
            error.args = (f"{error} {self._place(error.index)}",)

    def _place(self, i: int) -> str:
        """When it happened, in a sentence."""
        seed, step, episode = self._seeds_given[i], self._clock - self._started[i], self._episodes[i]
        when = f"at step {step}" if step else "at the start"
        since = "without a seed" if seed is None else f"since seed {seed}"
        return f"It was {when} of episode {episode} {since}."


def _finite(array: NDArray[Any]) -> bool:
    """Whether all numbers are finite. ``False`` may also mean that they are huge: look again."""
    return array.dtype.kind != "f" or math.isfinite(np.vdot(array, array))


def _entries(finite: NDArray[Any]) -> str:
    """Where numbers are not finite, for a message.

    :param finite: whether each entry is, shape ``(entries,)``
    """
    if len(finite) == 1:
        return ""
    bad = np.flatnonzero(~finite)
    shown = ", ".join(map(str, bad[:MOST_ENTRIES])) + (", ..." if len(bad) > MOST_ENTRIES else "")
    return f" ({'entry' if len(bad) == 1 else 'entries'} {shown} of {len(finite)})"


def _arrays(observations: Any) -> Iterator[NDArray[Any]]:
    if isinstance(observations, dict):
        return iter(observations.values())
    return iter(observations if isinstance(observations, tuple) else (observations,))


def _parts(observations: Any) -> dict[str, NDArray[Any]]:
    """The arrays of an observation by what a message calls them."""
    if isinstance(observations, dict):
        return {f"observation['{key}']": array for key, array in observations.items()}
    if isinstance(observations, tuple):
        return {f"observation[{i}]": array for i, array in enumerate(observations)}
    return {"observation": observations}


def _costs(infos: list[dict[str, Any]]) -> NDArray[Any]:
    """The costs that are numbers; 0 in place of others, which nobody counts."""
    costs = [np.asarray(info.get("cost", 0.0)) for info in infos]
    return np.array([cost.item() if cost.size == 1 and cost.dtype.kind in "biuf" else 0.0 for cost in costs])
