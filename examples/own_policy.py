"""Your own environment and your own policy class, from a plain SB3 agent to a transferred one.

    python examples/own_policy.py

The same from the command line, once ``runs/own_policy/source.zip`` is there::

    PYTHONPATH=examples python -m daft_rl.transfer env=gymnasium env.id=own_policy:Glider-v0 env.kwargs.wind=0.5 \\
        agent=runs/own_policy/source.zip agent.policy=own_policy:TrunkPolicy \\
        "agent.head=['action_net.*','log_std','value_net.*']" "agent.critic=['value_net.*','mlp_extractor.judge.*']"
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
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

import daft_rl


class Glider(gym.Env):
    """Hold a height of zero. The wind, which the source knows nothing of, blows downwards."""

    def __init__(self, wind: float = 0.0) -> None:
        self.wind = wind
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,))
        self.action_space = spaces.Box(-1.0, 1.0, (1,))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self.height, self.speed = self.np_random.uniform(-1.0, 1.0), 0.0
        return self._observe(), {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        self.speed = 0.9 * self.speed + 0.1 * (float(np.clip(action[0], -1, 1)) - self.wind)
        self.height += 0.1 * self.speed
        return self._observe(), -abs(self.height), False, False, {}

    def _observe(self) -> NDArray[np.float32]:
        return np.array([self.height, self.speed], np.float32)


if "Glider-v0" not in gym.registry:  # the command line imports this file by its name, beside the running script
    gym.register("Glider-v0", entry_point=lambda **kwargs: Glider(**kwargs), max_episode_steps=100)


class Trunk(nn.Module):
    """One trunk for actor and critic, and a layer of the critic's own: no layout that SB3 knows."""

    latent_dim_pi, latent_dim_vf = 32, 16

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(inputs, 32), nn.ReLU())
        self.judge = nn.Sequential(nn.Linear(32, 16), nn.ReLU())

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features: Tensor) -> Tensor:
        return self.trunk(features)

    def forward_critic(self, features: Tensor) -> Tensor:
        return self.judge(self.trunk(features))


class TrunkPolicy(ActorCriticPolicy):
    """SB3's policy with that network in the middle."""

    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor = Trunk(self.features_dim)  # type: ignore[assignment]


HEADS = {"head": ["action_net.*", "log_std", "value_net.*"], "critic": ["value_net.*", "mlp_extractor.judge.*"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40_000, help="of the source's training, and of the transfer")
    parser.add_argument("--folder", type=Path, default=Path("runs/own_policy"))
    arguments = parser.parse_args()

    source = PPO(TrunkPolicy, "Glider-v0", n_steps=1024, gamma=0.95, seed=0, device="cpu")
    source.learn(arguments.steps)
    source.save(arguments.folder / "source.zip")

    result = daft_rl.transfer(
        "gymnasium",
        source=arguments.folder / "source.zip",
        total_timesteps=arguments.steps,
        output_dir=arguments.folder / "transfer",
        settings={
            "overwrite": True,
            "env.id": "own_policy:Glider-v0",
            "env.kwargs.wind": 0.5,
            "agent.policy": "own_policy:TrunkPolicy",
            **{f"agent.{key}": patterns for key, patterns in HEADS.items()},
        },
    )
    result.print()


if __name__ == "__main__":
    main()
