"""What an algorithm collected last: the newest steps of a replay buffer, also where it has begun anew."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from daft_rl.finetune.adapt import Adaptation
from daft_rl.method import Method
from daft_rl.rollout.buffers import recent_transitions
from tests.conftest import PointMass, build


def filled(size: int, steps: int, normalized: bool = False) -> SAC:
    """A SAC agent whose buffer holds, in two environments, step numbers."""
    venv = DummyVecEnv([PointMass] * 2)
    model = SAC("MlpPolicy", VecNormalize(venv) if normalized else venv, buffer_size=2 * size, device="cpu")
    for step in range(steps):
        row = np.full((2, 3), float(step), np.float32)
        model.replay_buffer.add(row, row + 1, row[:, :2] / 1000, np.zeros(2), np.zeros(2), [{}, {}])  # type: ignore[union-attr]
    return model


@pytest.mark.parametrize(("size", "steps"), [(50, 20), (50, 50), (50, 53), (50, 120)])
def test_the_newest_steps_of_a_replay_buffer(size: int, steps: int) -> None:
    observations, actions = recent_transitions(filled(size, steps), 20)
    np.testing.assert_array_equal(observations[:, 0], np.repeat(np.arange(steps - 10, steps), 2))
    np.testing.assert_allclose(actions[:, 0] * 1000, observations[:, 0], rtol=1e-6)
    everything, _ = recent_transitions(filled(size, steps), 10_000)
    assert len(everything) == 2 * min(size, steps)


def test_replay_buffers_hold_raw_observations_and_policies_get_normalized_ones() -> None:
    model = filled(50, 20, normalized=True)
    normalizer: Any = model.get_vec_normalize_env()
    assert normalizer is not None
    normalizer.obs_rms.mean, normalizer.obs_rms.var = np.full(3, 10.0), np.full(3, 4.0)
    observations, _ = recent_transitions(model, 4)
    np.testing.assert_allclose(observations[:, 0], [4.0, 4.0, 4.5, 4.5], rtol=1e-4)


class Rollouts(BaseCallback):
    """What was collected, between collecting and learning, and the statistics after a callback before this one."""

    def __init__(self, layers: dict[str, Any]) -> None:
        super().__init__()
        self.layers = layers
        self.seen: list[tuple[NDArray[Any], dict[str, NDArray[Any]]]] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        means = {name: layer.running_mean.numpy().copy() for name, layer in self.layers.items()}
        self.seen.append((recent_transitions(self.model, 5)[0].copy(), means))


def test_conversion_after_each_rollout_follows_that_rollout() -> None:
    """The first layer gets the statistics of the whole rollout that was just collected; the function stays."""
    model = build("PPO", learning_rate=0.0)
    adaptation = Adaptation(model, Method(name="mine", conversion="each_rollout"), 64)
    probe = np.random.default_rng(0).normal(0.0, 2.0, (50, 3)).astype(np.float32)
    chosen = model.predict(probe, deterministic=True)[0]
    rollouts = Rollouts(adaptation.tuner.anatomy.batchnorm_modules())
    model.learn(192, callback=[adaptation, rollouts])
    assert len(rollouts.seen) == 3
    for observations, means in rollouts.seen:
        assert observations.shape == (64, 3)
        np.testing.assert_allclose(next(iter(means.values())), observations.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.predict(probe, deterministic=True)[0], chosen, atol=1e-3)


def test_statistics_that_need_not_preserve_a_function_are_averaged_over_rollouts() -> None:
    model = build("PPO", learning_rate=0.0)
    method = Method(name="mine", conversion="each_rollout", preserve_function=False)
    adaptation = Adaptation(model, method, 64)
    rollouts = Rollouts(adaptation.tuner.anatomy.batchnorm_modules())
    model.learn(192, callback=[adaptation, rollouts])
    for count, ((_, before), (observations, after)) in enumerate(pairwise(rollouts.seen), 3):
        first = next(iter(before))  # the mean before learning was the first share, the first rollout the second
        mixed = before[first] + (observations.mean(0) - before[first]) / count
        np.testing.assert_allclose(after[first], mixed, rtol=1e-4, atol=1e-5)
