"""Statistics that were saved for evaluation: transfers with ``agent.norm_reward=auto`` and ``false``.

    python -m benchmarks.reward_scale --out results/reward_scale.jsonl

A PPO agent learns Pendulum inside of a ``VecNormalize``, whose file says ``norm_reward=False``, as SB3's documentation
sets it for evaluations. Its critic has learnt scaled rewards nevertheless. The target has a gravity of 14 in place
of 10.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gymnasium as gym
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from daft_rl import transfer

SEEDS = (0, 1, 2)
make = partial(gym.make, "Pendulum-v1")


def train(folder: Path) -> Path:
    """An agent, and its statistics as an evaluation saves them."""
    venv = VecNormalize(DummyVecEnv([make] * 4), gamma=0.9)
    PPO("MlpPolicy", venv, n_steps=256, gamma=0.9, learning_rate=1e-3, seed=0, device="cpu").learn(30_000).save(
        folder / "agent.zip"
    )
    venv.training = venv.norm_reward = False
    venv.save(str(folder / "vecnormalize.pkl"))
    return folder / "agent.zip"


def adapt(agent: Path, choice: str | bool, seed: int, steps: int) -> dict[str, Any]:
    """One transfer."""
    result = transfer(
        partial(make, g=14.0),
        "daft",
        source=agent,
        source_env=make,
        total_timesteps=steps,
        seed=seed,
        output_dir=agent.parent / f"{choice}-{seed}",
        settings={
            **{"agent.norm_reward": choice, "num_envs": 4, "vec": "dummy", "progress_bar": False},
            **{"evaluation.every": steps // 2, "algo.settings.n_steps": 256},
        },
    )
    assert result.statistics is not None
    returns = {when: getattr(result, when)["target"].mean for when in ("zero_shot", "final")}
    curve = [point["target"] for point in result.curve]
    scaled = result.statistics["norm_reward"]
    return {"norm_reward": choice, "seed": seed, "steps": steps, "scaled": scaled, **returns, "curve": curve}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=6_000)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    with TemporaryDirectory() as folder, given.out.open("w") as out:
        agent = train(Path(folder))
        for seed in SEEDS:
            for choice in ("auto", False):
                line = json.dumps(adapt(agent, choice, seed, given.steps))
                print(line)
                out.write(line + "\n")
                out.flush()


if __name__ == "__main__":
    main()
