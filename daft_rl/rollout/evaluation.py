"""Playing episodes: the returns of a policy, and the states it visits."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import TrainFrequencyUnit
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize

from daft_rl.rollout.episodes import EpisodeBatch, start_episodes
from daft_rl.rollout.returns import Returns

__all__ = ["Returns", "evaluate", "evaluate_all", "visit"]

SHORTEST_VISIT = 256
"""Steps for which worlds are visited at least."""


def _normalize(normalizer: VecNormalize | None, observations: Any) -> Any:
    return observations if normalizer is None else normalizer.normalize_obs(observations)


def _join(observations: list[Any]) -> Any:
    if isinstance(observations[0], dict):
        return {key: np.concatenate([one[key] for one in observations]) for key in observations[0]}
    return np.concatenate(observations)


def evaluate(model: BaseAlgorithm, venv: VecEnv, episodes: int, seed: int) -> Returns:
    """Play whole episodes with the deterministic policy.

    Episode ``k`` starts from ``seed + k``, however many environments play. Every episode counts, so that short episodes
    do not count more often than long ones. The model does not change, and none of its random numbers are drawn.

    As in SB3's ``evaluate_policy``, an episode and its return are those of a ``Monitor`` where one lies inside of the
    environments: whole games and the task's own reward, below wrappers that end an episode with each life or clip
    rewards (SB3 issues #181 and #2145). In batches of this process and in our workers each episode begins with a reset
    of the task itself.

    :param model: its ``VecNormalize``, if it has one, normalizes observations and is not updated
    :param venv: an environment of raw observations and rewards
    :param episodes: how many
    :param seed: of the first episode
    """
    return evaluate_all(model, {"only": venv}, episodes, seed)["only"]


def evaluate_all(
    model: BaseAlgorithm,
    venvs: Mapping[str, VecEnv],
    episodes: int,
    seed: int,
    before_step: Callable[[], None] = lambda: None,
) -> dict[str, Returns]:
    """:func:`evaluate` in several batches of environments side by side, with one call of the policy per step.

    :param venvs: name -> batch
    :param episodes: how many in each
    :param seed: of the first episode in each
    :param before_step: is called before each step, and may raise to give up
    :return: name -> returns
    """
    normalizer = None if any(map(unwrap_vec_normalize, venvs.values())) else model.get_vec_normalize_env()
    batches = {name: EpisodeBatch(venv, episodes, seed) for name, venv in venvs.items()}
    while playing := [batch for batch in batches.values() if len(batch.rows)]:
        before_step()
        observations = _normalize(normalizer, _join([batch.observations for batch in playing]))
        actions, _ = model.predict(observations, deterministic=True)
        bounds = np.cumsum([batch.venv.num_envs for batch in playing])[:-1]
        for batch, part in zip(playing, np.split(actions, bounds), strict=True):
            batch.start(part)
        for batch in playing:
            batch.finish()
    return {name: batch.result() for name, batch in batches.items()}


def _share(venv: VecEnv, steps: int) -> tuple[int, int]:
    """How long environments are visited, and how many of them show their state at each step.

    All of them do, but thousands of worlds would only show the beginnings of episodes.
    """
    length = -(-steps // venv.num_envs)
    if not hasattr(venv.unwrapped, "worlds") or length >= SHORTEST_VISIT:
        return length, venv.num_envs
    return SHORTEST_VISIT, -(-steps // SHORTEST_VISIT)


class _Explorer:
    """Acts as in training: with the action noise of TD3 and DDPG, and with fresh noise of gSDE, unlike ``predict``.

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
        self.redraw = _steps_of_gsde(model) if getattr(model, "use_sde", False) else None

    def act(self, observations: Any, step: int, starts: bool) -> NDArray[Any]:
        """Actions in all environments.

        :param step: number of the step in this visit
        :param starts: whether an episode of the first environment starts with it
        """
        if starts if self.redraw == 0 else self.redraw is not None and step % self.redraw == 0:
            self.model.policy.reset_noise(self.num_envs)  # one matrix per environment
        actions, _ = self.model.predict(observations, deterministic=False)
        if not self.noises:
            return actions
        scaled = self.model.policy.scale_action(actions) + np.stack([noise() for noise in self.noises])
        return self.model.policy.unscale_action(np.clip(scaled, -1.0, 1.0))


def _steps_of_gsde(model: Any) -> int:
    """How many steps SB3 keeps a noise of gSDE for; 0 is an episode."""
    if model.sde_sample_freq > 0:
        return model.sde_sample_freq  # type: ignore[no-any-return]
    if isinstance(model, OnPolicyAlgorithm):
        return model.n_steps
    return 0 if model.train_freq.unit is TrainFrequencyUnit.EPISODE else model.train_freq.frequency


def visit(model: BaseAlgorithm, venv: VecEnv, steps: int, seed: int | None) -> tuple[Any, NDArray[Any]]:
    """States that the policy visits, exploring as it does in training, and its actions there.

    :param venv: an environment of raw observations, or one with the model's ``VecNormalize`` inside
    :param steps: how many states at least; rounded up to a multiple of ``venv.num_envs``, or of the length of the visit
        where each step shows the states of other worlds
    :param seed: environment ``i`` starts from ``seed + i``; ``None`` does not seed the environments
    :return: normalized observations, array ``(n, *shape)`` or a dictionary of such arrays, and actions
        ``(n, *action_shape)``, scaled as in a replay buffer
    """
    normalizer = model.get_vec_normalize_env() if unwrap_vec_normalize(venv) is None else None
    off_policy = hasattr(model, "replay_buffer_class")
    observations = _normalize(normalizer, venv.reset() if seed is None else start_episodes(venv, seed))
    seen: list[Any] = []
    taken: list[NDArray[Any]] = []
    explorer = _Explorer(model, venv.num_envs)
    length, shown = _share(venv, steps)
    starts = True
    for step in range(length):
        actions = explorer.act(observations, step, starts)
        rows = (np.arange(shown) + step * shown) % venv.num_envs
        seen.append(
            {k: v[rows] for k, v in observations.items()} if isinstance(observations, dict) else observations[rows]
        )
        scale = off_policy and isinstance(model.action_space, spaces.Box)
        taken.append((model.policy.scale_action(actions) if scale else actions)[rows])
        following, _, dones, _ = venv.step(actions)
        observations, starts = _normalize(normalizer, following), bool(dones[0])
    return _join(seen), np.concatenate(taken)
