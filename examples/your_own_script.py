"""DAFT in your own script: your environment, your policy, your callbacks and logger, and two lines of daft_rl.

    python examples/your_own_script.py

A PPO agent learns to keep a cart at a place. Then the cart's motor gets weaker and its position sensor is off. The
agent is adapted with :func:`daft_rl.adapt`, in a script that is otherwise plain Stable-Baselines3.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecNormalize

import daft_rl


class Cart(gym.Env[NDArray[np.float32], NDArray[np.float32]]):
    """Push a cart to the origin and keep it there.

    :param motor: factor on the force
    :param sensor_offset: added to the position that is observed (m)
    """

    def __init__(self, motor: float = 1.0, sensor_offset: float = 0.0) -> None:
        self.motor, self.sensor_offset = motor, sensor_offset
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,))
        self.action_space = spaces.Box(-1.0, 1.0, (1,))
        self.position, self.speed, self.steps = 0.0, 0.0, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self.position, self.speed, self.steps = float(self.np_random.uniform(-2.0, 2.0)), 0.0, 0
        return self._observe(), {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        force = self.motor * float(np.clip(action[0], -1.0, 1.0))
        self.speed = 0.95 * self.speed + 0.2 * force
        self.position += 0.2 * self.speed
        self.steps += 1
        return self._observe(), -abs(self.position), False, self.steps >= 100, {}

    def _observe(self) -> NDArray[np.float32]:
        return np.array([self.position + self.sensor_offset, self.speed], np.float32)


def make_target() -> Cart:
    """The shifted environment."""
    return Cart(motor=0.5, sensor_offset=0.3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40_000, help="of the source's training, and of the adaptation")
    parser.add_argument("--folder", type=Path, default=Path("runs/your_own_script"))
    arguments = parser.parse_args()
    folder, steps = arguments.folder, arguments.steps

    # the source: plain Stable-Baselines3
    home = VecNormalize(make_vec_env(Cart, 4, seed=0), norm_reward=False)
    source = PPO("MlpPolicy", home, n_steps=256, batch_size=256, seed=0, device="cpu").learn(steps)
    source.save(folder / "agent.zip")
    home.save(str(folder / "vecnormalize.pkl"))

    # the target, with the statistics that belong to the agent
    def in_target(num_envs: int) -> VecNormalize:
        venv = VecNormalize.load(str(folder / "vecnormalize.pkl"), make_vec_env(make_target, num_envs, seed=1))
        venv.training = False
        return venv

    model = PPO.load(folder / "agent.zip", env=in_target(4), device="cpu")
    model.set_logger(configure(str(folder / "tensorboard"), ["tensorboard"]))
    before, _ = evaluate_policy(model, in_target(1), 20)

    # the two lines: adapt, and learn with the adaptation among your callbacks
    adaptation = daft_rl.adapt(model, method="daft", seed=0)
    evaluation = EvalCallback(in_target(1), eval_freq=500, log_path=str(folder), verbose=0)
    checkpoints = CheckpointCallback(save_freq=500, save_path=str(folder / "checkpoints"))
    model.learn(steps, callback=[adaptation, evaluation, checkpoints])

    model.save(folder / "adapted.zip")
    after, _ = evaluate_policy(model, in_target(1), 20)
    print(f"BatchNorm inserted: {', '.join(adaptation.inserted) or 'none'}")
    print(f"return in the target: {before:.1f} before, {after:.1f} after {steps} steps")


if __name__ == "__main__":
    main()
