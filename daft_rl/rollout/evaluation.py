"""Playing episodes: returns of a policy, and the states it visits."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from daft_rl.errors import TaskError
from daft_rl.rollout.returns import Returns

__all__ = ["Returns", "evaluate", "evaluate_all", "visit"]

LONGEST = 100_000
"""Steps after which an episode that is evaluated is taken to have no end."""


def _normalize(normalizer: VecNormalize | None, observations: Any) -> Any:
    return observations if normalizer is None else normalizer.normalize_obs(observations)


class _Stage:
    """One batch of environments, and what its episodes have come to so far."""

    def __init__(self, venv: VecEnv, episodes: int, seed: int) -> None:
        self.venv, self.episodes, self.seed = venv, episodes, seed
        self.pause = getattr(venv, "pause", None)  # episodes that are over need no physics, where a batch can tell
        self.returns, self.lengths = np.zeros(episodes), np.zeros(episodes, dtype=int)
        self.costs = np.full(episodes, np.nan)
        self._begin(0)

    def _begin(self, first: int) -> None:
        """The next episodes, as many as there are environments; none is left when ``first`` is their number."""
        self.rows = np.arange(first, min(first + self.venv.num_envs, self.episodes))  # of environment 0, 1, ...
        self.over = np.arange(self.venv.num_envs) >= len(self.rows)
        if len(self.rows):
            self.venv.seed(self.seed + first)
            self.observations = self.venv.reset()
        elif self.pause is not None:
            self.pause(np.zeros_like(self.over))

    def start(self, actions: np.ndarray) -> None:
        """Begin a step."""
        if self.pause is not None:
            self.pause(self.over)
        self.venv.step_async(actions)

    def finish(self) -> None:
        """Finish it, and count it."""
        self.observations, rewards, dones, infos = self.venv.step_wait()
        going = np.flatnonzero(~self.over)
        self.returns[self.rows[going]] += rewards[going]
        self.lengths[self.rows[going]] += 1
        if self.lengths.max() > LONGEST:
            raise TaskError(
                f"An episode has not ended after {LONGEST} steps: put gymnasium.wrappers.TimeLimit around the "
                "environment, or register it with max_episode_steps."
            )
        for i in going[dones[going].astype(bool)]:
            self.costs[self.rows[i]] = infos[i].get("episode_cost", np.nan)
            self.over[i] = True
        if self.over.all():
            self._begin(int(self.rows[-1]) + 1)

    def result(self) -> Returns:
        costs = None if np.isnan(self.costs).any() else self.costs.tolist()
        return Returns(self.returns.tolist(), self.lengths.tolist(), costs)


def _join(observations: list[Any]) -> Any:
    if isinstance(observations[0], dict):
        return {key: np.concatenate([one[key] for one in observations]) for key in observations[0]}
    return np.concatenate(observations)


def evaluate(model: BaseAlgorithm, venv: VecEnv, episodes: int, seed: int) -> Returns:
    """Play whole episodes with the deterministic policy.

    Episode ``k`` starts from ``seed + k``, however many environments play: none is left out, so that short episodes
    are not counted more often than long ones. Nothing of the model changes, no random number of its is used.

    :param model: its ``VecNormalize``, if it has one, normalizes observations and is not updated
    :param venv: an environment of raw observations and rewards
    :param episodes: how many
    :param seed: of the first episode
    """
    return evaluate_all(model, {"only": venv}, episodes, seed)["only"]


def evaluate_all(model: BaseAlgorithm, venvs: Mapping[str, VecEnv], episodes: int, seed: int) -> dict[str, Returns]:
    """:func:`evaluate` in several batches of environments side by side, for which the policy is asked once per step.

    :param venvs: name -> batch
    :param episodes: how many in each
    :param seed: of the first episode in each
    :return: name -> returns
    """
    normalizer = model.get_vec_normalize_env()
    stages = {name: _Stage(venv, episodes, seed) for name, venv in venvs.items()}
    while playing := [stage for stage in stages.values() if len(stage.rows)]:
        observations = _normalize(normalizer, _join([stage.observations for stage in playing]))
        actions, _ = model.predict(observations, deterministic=True)
        bounds = np.cumsum([stage.venv.num_envs for stage in playing])[:-1]
        for stage, part in zip(playing, np.split(actions, bounds), strict=True):
            stage.start(part)
        for stage in playing:
            stage.finish()
    return {name: stage.result() for name, stage in stages.items()}


class _Explorer:
    """Acts as in training, where SB3's ``predict`` does not: with the noise of TD3 and DDPG, and fresh noise of gSDE.

    :param model: any SB3 algorithm object
    :param num_envs: how many environments it acts in
    """

    def __init__(self, model: Any, num_envs: int) -> None:
        self.model, self.num_envs = model, num_envs
        noise = getattr(model, "action_noise", None)
        noise = getattr(noise, "base_noise", noise)  # of a batch of another size
        self.noises = [] if noise is None else [copy.deepcopy(noise) for _ in range(num_envs)]
        for own in self.noises:
            own.reset()
        self.redraw: int | None = None
        if getattr(model, "use_sde", False):  # one matrix per environment, as long as SB3 keeps one
            rollout = model.n_steps if isinstance(model, OnPolicyAlgorithm) else model.train_freq.frequency
            self.redraw = model.sde_sample_freq if model.sde_sample_freq > 0 else rollout

    def act(self, observations: Any, step: int) -> np.ndarray:
        if self.redraw is not None and step % self.redraw == 0:
            self.model.policy.reset_noise(self.num_envs)
        actions, _ = self.model.predict(observations, deterministic=False)
        if not self.noises:
            return actions
        scaled = self.model.policy.scale_action(actions) + np.stack([noise() for noise in self.noises])
        return self.model.policy.unscale_action(np.clip(scaled, -1.0, 1.0))


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
    explorer = _Explorer(model, venv.num_envs)
    for step in range(-(-steps // venv.num_envs)):
        actions = explorer.act(observations, step)
        seen.append(
            {k: v.copy() for k, v in observations.items()} if isinstance(observations, dict) else observations.copy()
        )
        scale = off_policy and isinstance(model.action_space, spaces.Box)
        taken.append(model.policy.scale_action(actions) if scale else actions.copy())
        observations = _normalize(normalizer, venv.step(actions)[0])
    return _join(seen), np.concatenate(taken)
