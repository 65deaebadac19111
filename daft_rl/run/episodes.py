"""The episodes that are under way while a model learns: another process plays them again up to where they were."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecTransposeImage, unwrap_vec_wrapper

from daft_rl.envs.replay import Replayable
from daft_rl.errors import DaftWarning

__all__ = ["RunningEpisodes"]

NEW_SEEDS = 10**6
"""Far from the seeds of runs and of evaluations."""


class RunningEpisodes:
    """The state of a batch of environments.

    A batch that has a ``state_dict`` of its own is asked for it. Others play their episodes again. If that does not
    lead to the same rewards, and to the observations that the policy saw last, something else than seeds and actions
    decides what happens: all environments start new episodes, with a warning.

    :param model: what learns there
    :param training: the batch, opened with ``replayable=True``
    """

    def __init__(self, model: BaseAlgorithm, training: VecEnv) -> None:
        self.model: Any = model
        self.training = training
        self.batch: Any = training.unwrapped
        self.keeps_state = hasattr(type(self.batch), "state_dict")

    def state_dict(self) -> dict[str, Any]:
        """What the episodes need to go on."""
        normalizer = self.model.get_vec_normalize_env()
        seen = self.model._last_obs if normalizer is None else normalizer.get_original_obs()
        if self.keeps_state:
            return {"seen": seen, "batch": self.batch.state_dict()}
        if not all(self.training.env_is_wrapped(Replayable)):
            return {"seen": seen}
        return {"seen": seen, "episodes": dict(enumerate(self.training.env_method("episode")))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        problem = "its state cannot be saved"
        if self.keeps_state and "batch" in state:
            self.batch.load_state_dict(state["batch"])
            problem = ""
        elif "episodes" in state:
            problem = self._replay(state["episodes"], state["seen"])
        normalizer = self.model.get_vec_normalize_env()
        if not problem:
            if normalizer is not None:
                normalizer.old_obs = state["seen"]
            return
        message = (
            f"The environments start new episodes: {problem}. What follows is as good, but not the same bit for bit."
        )
        warnings.warn(DaftWarning(message), stacklevel=2)
        self.training.seed(NEW_SEEDS + self.model.num_timesteps)  # or they would begin as the first ones did
        self.model._last_obs = self.model.env.reset()
        self.model._last_episode_starts = np.ones(self.model.n_envs, dtype=bool)
        if normalizer is not None:
            self.model._last_original_obs = normalizer.get_original_obs()

    def _replay(self, episodes: dict[int, Any], seen: Any) -> str:
        """Play the episodes again.

        :return: what went wrong, if anything did
        """
        played = self.training.env_method("replay", episodes)
        problem = next((problem for _, problem in played if problem), "")
        if problem:
            return f"played again, {problem}"
        observations = _stack([observation for observation, _ in played])
        transpose = unwrap_vec_wrapper(self.training, VecTransposeImage)
        if transpose is not None:
            observations = transpose.transpose_observations(observations)  # type: ignore[attr-defined]
        return "" if _equal(observations, seen) else "played again, an episode went another way"


def _stack(observations: list[Any]) -> Any:
    if isinstance(observations[0], dict):
        return {key: np.stack([one[key] for one in observations]) for key in observations[0]}
    return np.stack(observations)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(other, dict):
        return all(np.array_equal(one[key], other[key]) for key in other)
    return np.array_equal(one, other)
