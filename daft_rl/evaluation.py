"""Playing episodes: returns of a policy, and the states it visits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

__all__ = ["Returns", "evaluate", "visit"]


@dataclass(frozen=True)
class Returns:
    """Undiscounted returns of whole episodes, in the task's own reward."""

    returns: list[float]
    lengths: list[int]
    costs: list[float] | None = None
    """Undiscounted cost of each episode, where the task has a cost."""

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    @property
    def std(self) -> float:
        """Standard deviation over episodes."""
        return float(np.std(self.returns))

    @property
    def mean_cost(self) -> float | None:
        """Mean cost of an episode."""
        return None if self.costs is None else float(np.mean(self.costs))

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as in ``results.json``."""
        data = {"mean": self.mean, "std": self.std, "returns": self.returns, "lengths": self.lengths}
        return data if self.costs is None else data | {"mean_cost": self.mean_cost, "costs": self.costs}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Returns:
        """What :meth:`as_dict` gave."""
        return cls(data["returns"], data["lengths"], data.get("costs"))


def _normalize(normalizer: VecNormalize | None, observations: Any) -> Any:
    return observations if normalizer is None else normalizer.normalize_obs(observations)


def evaluate(model: BaseAlgorithm, venv: VecEnv, episodes: int, seed: int) -> Returns:
    """Play whole episodes with the deterministic policy.

    Episode ``k`` starts from ``seed + k``, however many environments play: none is left out, so that short episodes
    are not counted more often than long ones. Nothing of the model changes, no random number of its is used.

    :param model: its ``VecNormalize``, if it has one, normalizes observations and is not updated
    :param venv: an environment of raw observations and rewards
    :param episodes: how many
    :param seed: of the first episode
    """
    normalizer = model.get_vec_normalize_env()
    returns, lengths, costs = np.zeros(episodes), np.zeros(episodes, dtype=int), np.full(episodes, np.nan)
    for first in range(0, episodes, venv.num_envs):
        venv.seed(seed + first)
        observations = venv.reset()
        playing = np.arange(first, min(first + venv.num_envs, episodes))  # episode of environment 0, 1, ...
        over = np.zeros(len(playing), dtype=bool)
        while not over.all():
            actions, _ = model.predict(_normalize(normalizer, observations), deterministic=True)
            observations, rewards, dones, infos = venv.step(actions)
            returns[playing] += np.where(over, 0.0, rewards[: len(playing)])
            lengths[playing] += ~over
            for i in np.flatnonzero(dones[: len(playing)] & ~over):
                costs[playing[i]] = infos[i].get("episode_cost", np.nan)
            over |= dones[: len(playing)].astype(bool)
    return Returns(returns.tolist(), lengths.tolist(), None if np.isnan(costs).any() else costs.tolist())


def _explore(model: BaseAlgorithm, observations: Any) -> np.ndarray:
    """Actions as in training: SB3's ``predict`` leaves out the noise that TD3 and DDPG act with."""
    actions, _ = model.predict(observations, deterministic=False)
    noise = getattr(model, "action_noise", None)
    noise = getattr(noise, "base_noise", noise)  # of a batch of another size
    if noise is None:
        return actions
    scaled = model.policy.scale_action(actions) + np.stack([noise() for _ in actions])
    return model.policy.unscale_action(np.clip(scaled, -1.0, 1.0))


def visit(model: BaseAlgorithm, venv: VecEnv, steps: int, seed: int) -> tuple[Any, np.ndarray]:
    """States that the policy visits, exploring as it does in training, and its actions there.

    :param venv: an environment of raw observations
    :param steps: how many states at least; rounded up to a multiple of ``venv.num_envs``
    :param seed: environment ``i`` starts from ``seed + i``
    :return: normalized observations, array ``(n, *shape)`` or a dictionary of such arrays, and actions
        ``(n, *action_shape)``, scaled as in a replay buffer
    """
    normalizer = model.get_vec_normalize_env()
    off_policy = hasattr(model, "replay_buffer_class")
    venv.seed(seed)
    observations = _normalize(normalizer, venv.reset())
    seen: list[Any] = []
    taken: list[np.ndarray] = []
    for _ in range(-(-steps // venv.num_envs)):
        actions = _explore(model, observations)
        seen.append(
            {k: v.copy() for k, v in observations.items()} if isinstance(observations, dict) else observations.copy()
        )
        scale = off_policy and isinstance(model.action_space, spaces.Box)
        taken.append(model.policy.scale_action(actions) if scale else actions.copy())
        observations = _normalize(normalizer, venv.step(actions)[0])
    if isinstance(seen[0], dict):
        return {key: np.concatenate([obs[key] for obs in seen]) for key in seen[0]}, np.concatenate(taken)
    return np.concatenate(seen), np.concatenate(taken)
