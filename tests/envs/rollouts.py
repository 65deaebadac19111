"""What environments do with random actions."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from numpy.typing import NDArray


def rollout(env: gym.Env, steps: int = 50, seed: int = 3) -> NDArray[Any]:
    """Observations and rewards of random actions from a seed."""
    rng = np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    rows = [np.append(observation, 0.0)]
    for _ in range(steps):
        action = rng.uniform(env.action_space.low, env.action_space.high).astype(np.float32)  # type: ignore[attr-defined]
        observation, reward, terminated, truncated, _ = env.step(action)
        rows.append(np.append(observation, float(reward)))
        if terminated or truncated:
            env.reset()
    return np.array(rows)


def model_of(env: gym.Env) -> mujoco.MjModel:
    return env.unwrapped.model  # type: ignore[attr-defined]
