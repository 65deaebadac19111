"""Whether a critic learnt rewards as they are, or divided by the scale of returns in a ``VecNormalize``.

A file that was saved for evaluation says ``norm_reward=False``, whatever the critic learnt. The critic itself tells:
its values are the discounted returns of the rewards that it learnt from.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize

__all__ = ["RewardScale", "looks_scaled", "measure_reward_scale", "scale_matters"]

AGREES = 0.5
"""Error, relative to the larger of values and returns, up to which a critic agrees with returns. Public agents have
0.01 to 0.3 on the scale that they learnt with, and 0.9 to 1 on the other one."""
CLEARLY = 2.0
"""Factor between the errors on the two scales from which on the better one is certain."""
MATTERS = 2.0
"""Factor between the two scales from which on they are told apart."""
FEWEST, MOST = 100, 1000
"""Steps that are played. Three times the horizon of the discount lies in between for usual discounts."""


@dataclass(frozen=True)
class RewardScale:
    """How the values of a critic agree with discounted returns, as root mean squares."""

    values: float
    plain: float
    """Returns of the rewards as they are."""
    scaled: float
    """Returns of the rewards as ``VecNormalize`` scales them."""
    plain_error: float
    """Difference of values and plain returns, relative to the larger of them."""
    scaled_error: float

    @property
    def verdict(self) -> Literal["plain", "scaled", "unclear"]:
        """On which scale the critic learnt."""
        errors = {"plain": self.plain_error, "scaled": self.scaled_error}
        best = min(errors, key=lambda name: errors[name])
        if errors[best] > AGREES or max(errors.values()) < CLEARLY * errors[best]:
            return "unclear"
        return "plain" if best == "plain" else "scaled"


def scale_matters(normalizer: VecNormalize) -> bool:
    """Whether rewards would be far from what they are if ``normalizer`` scaled them."""
    std = math.sqrt(float(normalizer.ret_rms.var) + normalizer.epsilon)
    return not 1 / MATTERS < std < MATTERS


def looks_scaled(model: BaseAlgorithm, normalizer: VecNormalize, observations: NDArray[Any]) -> bool:
    """Whether values are rather of the size of returns divided by their scale. No environment is stepped.

    :param normalizer: the agent's, with the moments of the returns of its whole training
    :param observations: of its training, not normalized, shape ``(n, size)``
    """
    same = observations.shape[1:] == normalizer.observation_space.shape == model.observation_space.shape
    if not same or not scale_matters(normalizer):
        return False
    seen: Any = normalizer.normalize_obs(observations.copy())
    actions, _ = model.predict(seen, deterministic=True)
    values = _values(model, seen, actions)
    returns = normalizer.ret_rms
    std = math.sqrt(float(returns.var) + normalizer.epsilon)
    size = math.hypot(float(returns.mean), std)
    return values is not None and size / std / math.sqrt(std) < _size(values) < size / math.sqrt(std)


def measure_reward_scale(model: BaseAlgorithm, venv: VecEnv, seed: int) -> RewardScale | None:
    """Play with the policy, and compare the critic's values with discounted returns.

    Where an episode goes on, a return ends with the critic's value of the last state.

    :param model: an agent with a ``VecNormalize``. It does not change
    :param venv: raw rewards; raw observations, or those that the agent sees, from a ``VecNormalize`` inside
    :param seed: environment ``i`` starts from ``seed + i``
    :return: ``None`` if the policy has no critic that is known
    """
    normalizer, gamma = model.get_vec_normalize_env(), float(model.gamma)  # type: ignore[attr-defined]
    if normalizer is None:
        return None
    steps = min(MOST, max(FEWEST, math.ceil(3 / (1 - gamma)) if gamma < 1 else MOST))
    shape = (steps, venv.num_envs)
    values, rewards, ends, dones = np.zeros(shape), np.zeros(shape), np.zeros(shape), np.zeros(shape, bool)
    venv.seed(seed)
    inside = unwrap_vec_normalize(venv) is not None
    see: Callable[[Any], Any] = (lambda observations: observations) if inside else normalizer.normalize_obs
    seen: Any = see(venv.reset())
    for step in range(steps):
        actions, _ = model.predict(seen, deterministic=False)
        found = _values(model, seen, actions)
        if found is None:
            return None
        values[step] = found
        observations, rewards[step], dones[step], infos = venv.step(actions)
        ends[step] = [_end_value(model, see, info) for info in infos]
        seen = see(observations)
    last = _values(model, seen, model.predict(seen, deterministic=True)[0])
    assert last is not None
    plain = _returns(rewards, dones, ends, last, gamma)
    scale = math.sqrt(float(normalizer.ret_rms.var) + normalizer.epsilon)
    scaled = _returns(
        np.clip(rewards / scale, -normalizer.clip_reward, normalizer.clip_reward), dones, ends, last, gamma
    )
    return RewardScale(_size(values), _size(plain), _size(scaled), _error(values, plain), _error(values, scaled))


def _end_value(model: BaseAlgorithm, see: Callable[[Any], Any], info: dict[str, Any]) -> float:
    """The value of the last state of an episode that was cut off; 0 if it came to its end, or goes on."""
    if not info.get("TimeLimit.truncated") or "terminal_observation" not in info:
        return 0.0
    end = info["terminal_observation"]
    row = {key: part[None] for key, part in end.items()} if isinstance(end, dict) else np.asarray(end)[None]
    seen: Any = see(row)
    values = _values(model, seen, model.predict(seen, deterministic=True)[0])
    return 0.0 if values is None else float(values[0])


def _returns(
    rewards: NDArray[Any], dones: NDArray[Any], ends: NDArray[Any], last: NDArray[Any], gamma: float
) -> NDArray[Any]:
    """Discounted returns from each step on, shape ``(steps, environments)``."""
    returns, following = np.zeros_like(rewards), last
    for step in reversed(range(len(rewards))):
        following = rewards[step] + gamma * np.where(dones[step], ends[step], following)
        returns[step] = following
    return returns


def _size(numbers: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean(np.square(numbers))))


def _error(values: NDArray[Any], returns: NDArray[Any]) -> float:
    return _size(values - returns) / max(_size(values), _size(returns), 1e-12)


@torch.no_grad()
def _values(model: BaseAlgorithm, observations: Any, actions: NDArray[Any]) -> NDArray[Any] | None:
    """The critic's values, shape ``(n,)``; ``None`` for a policy without a critic that is known.

    :param observations: normalized
    :param actions: as the environment takes them
    """
    policy: Any = model.policy
    policy.set_training_mode(False)
    seen = policy.obs_to_tensor(observations)[0]
    if hasattr(policy, "predict_values"):
        values = policy.predict_values(seen)
    elif hasattr(policy, "quantile_net"):
        values = policy.quantile_net(seen).mean(1).amax(1)
    elif hasattr(policy, "q_net"):
        values = policy.q_net(seen).amax(1)
    elif getattr(policy, "critic", None) is not None and isinstance(model.action_space, spaces.Box):
        taken = torch.as_tensor(policy.scale_action(actions), dtype=torch.float32, device=model.device)
        found = policy.critic(seen, taken)
        values = torch.cat(found, 1).mean(1) if isinstance(found, tuple) else found.flatten(1).mean(1)
    else:
        return None
    return values.flatten().cpu().numpy().astype(np.float64)
