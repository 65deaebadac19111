"""Milliseconds per gradient step: SB3's ``train``, ours step by step, and ours as a captured graph.

    python benchmarks/speed/cuda_updates.py --out benchmarks/results/speed_cuda_updates.json

Networks have two layers of 256 units, observations and actions have Ant's size. On a machine without a GPU,
``--device cpu --steps 2 --batch-sizes 16`` tries it out: a graph is then the plain call.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib import TQC, CrossQ
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.logger import Logger

from daft_rl.rollout.device.replay import DeviceReplayBuffer
from daft_rl.rollout.device.updates import Updates

ALGORITHMS: tuple[type[Any], ...] = (SAC, TD3, TQC, CrossQ)
TRANSITIONS = 100_000


class Spaces(gym.Env[Any, Any]):
    """Says how large observations and actions are. It is never stepped."""

    observation_space = spaces.Box(-np.inf, np.inf, (105,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (8,), np.float32)


def fresh_model(algorithm: type[Any], device: str) -> Any:
    """An agent whose replay buffer is full of noise."""
    model = algorithm(
        "MlpPolicy", Spaces(), policy_kwargs={"net_arch": [256, 256]}, buffer_size=TRANSITIONS, seed=0, device=device
    )
    model.set_logger(Logger(None, []))
    rng = np.random.default_rng(0)
    buffer = model.replay_buffer
    for array in (buffer.observations, buffer.next_observations, buffer.actions, buffer.rewards):
        array[...] = rng.uniform(-1.0, 1.0, array.shape)
    buffer.pos, buffer.full = 0, True
    return model


def device_buffer(model: Any) -> DeviceReplayBuffer:
    """A buffer on the device with the same contents."""
    theirs = model.replay_buffer
    buffer = DeviceReplayBuffer(TRANSITIONS, model.observation_space, model.action_space, model.device, TRANSITIONS)
    columns = (theirs.observations, theirs.next_observations, theirs.actions, theirs.rewards, theirs.dones)
    observation, following, action, reward, done = (torch.as_tensor(column[:, 0]) for column in columns)
    buffer.add(observation, following, action, reward, done, torch.zeros_like(done))
    return buffer


def measure_updates(train: Callable[[int], None], steps: int, device: str, rounds: int = 3) -> float:
    """Median milliseconds of a gradient step.

    :param train: takes a number of gradient steps
    """

    def wait() -> None:
        if device != "cpu":
            torch.cuda.synchronize(device)

    train(20)  # compiles, and captures
    times = []
    for _ in range(rounds):
        wait()
        started = time.perf_counter()
        train(steps)
        wait()
        times.append((time.perf_counter() - started) / steps * 1e3)
    return median(times)


def measure_algorithm(algorithm: type[Any], batch_size: int, steps: int, device: str) -> dict[str, Any]:
    """SB3's ``train`` against ours, captured and not."""
    theirs = fresh_model(algorithm, device)
    found: dict[str, Any] = {"algorithm": algorithm.__name__, "batch_size": batch_size}
    found["sb3_ms"] = measure_updates(partial(theirs.train, batch_size=batch_size), steps, device)
    for name, captured in (("steps_ms", False), ("captured_ms", True)):
        model = fresh_model(algorithm, device)
        updates = Updates(model, device_buffer(model).sample, captured)
        found[name] = measure_updates(partial(updates.train, batch_size=batch_size), steps, device)
        losses = updates.mean_losses()
        assert np.isfinite(list(losses.values())).all(), losses
    found |= {key: round(value, 4) for key, value in found.items() if key.endswith("_ms")}
    return found | {"times_faster": round(found["sb3_ms"] / found["captured_ms"], 2)}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=100, help="gradient steps per round")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[256, 4096])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    results = []
    for algorithm in ALGORITHMS:
        for batch_size in arguments.batch_sizes:
            results.append(measure_algorithm(algorithm, batch_size, arguments.steps, arguments.device))
            print(results[-1], flush=True)
    if arguments.out is not None:
        data = {
            "command": " ".join(["python", "benchmarks/speed/cuda_updates.py", *sys.argv[1:]]),
            "device": "cpu" if arguments.device == "cpu" else torch.cuda.get_device_name(arguments.device),
            "torch": torch.__version__,
            "updates": results,
        }
        arguments.out.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
