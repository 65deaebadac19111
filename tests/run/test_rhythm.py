"""A source goes on in its own rhythm, for another number of environments too, at its rate or a lower one, and soon."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from sb3_contrib import QRDQN
from stable_baselines3 import DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv

from daft_rl import transfer
from daft_rl.errors import DaftWarning
from daft_rl.run.rhythm import first_update, own_rate, own_rhythm
from tests.archives.helpers import edit
from tests.test_resume import SETTINGS, GoalMass, with_hindsight


def source(kind: type[BaseAlgorithm], num_envs: int = 1, **settings: Any) -> BaseAlgorithm:
    task = "Pendulum-v1" if kind is TD3 else "CartPole-v1"
    model = kind("MlpPolicy", task, device="cpu", **settings)  # type: ignore[arg-type]
    model.n_envs = num_envs
    return model


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize(
    ("trained", "updates", "num_envs", "expected"),
    [
        ((256, 1), 128, 4, (64, 128)),
        ((256, 1), 128, 1, (256, 128)),
        ((4, 8), 1, 16, (2, 1)),
        ((4, 1), 1, 16, (1, 4)),  # 16 steps between updates instead of 4, and 4 updates
        ((4, 1), -1, 16, (1, -1)),
    ],
)
def test_updates_per_step_and_steps_per_phase_are_the_sources(
    trained: tuple[int, int], updates: int, num_envs: int, expected: tuple[int, int], saved: bool, tmp_path: Path
) -> None:
    agent = source(DQN, trained[1], train_freq=trained[0], gradient_steps=updates, exploration_final_eps=0.04)
    agent.save(tmp_path / "agent.zip")
    kept = own_rhythm(tmp_path / "agent.zip" if saved else agent, DQN, {}, num_envs)
    assert kept == {"train_freq": expected[0], "gradient_steps": expected[1], "exploration_initial_eps": 0.04}


def test_settings_win() -> None:
    agent = source(QRDQN, train_freq=256, gradient_steps=128)
    given = {"train_freq": 4, "gradient_steps": 2, "exploration_initial_eps": 0.5}
    assert own_rhythm(agent, QRDQN, given, 4) == {}
    assert own_rhythm(agent, QRDQN, {"exploration_final_eps": 0.2}, 4)["exploration_initial_eps"] == 0.2
    assert own_rhythm(agent, QRDQN, {"train_freq": (1, "episode")}, 1)["gradient_steps"] == -1


@pytest.mark.parametrize(("num_envs", "expected"), [(1, (2, "episode")), (4, 1)])
def test_episodes_of_several_environments_do_not_end_together(num_envs: int, expected: Any) -> None:
    agent = source(TD3, train_freq=(2, "episode"), gradient_steps=-1)
    assert own_rhythm(agent, TD3, {}, num_envs) == {"train_freq": expected, "gradient_steps": -1}


def test_on_policy_algorithms_have_no_rhythm() -> None:
    assert own_rhythm(source(PPO), PPO, {}, 4) == {}


def test_a_transfer_goes_on_as_the_source_learned(tmp_path: Path) -> None:
    agent = source(DQN, train_freq=64, gradient_steps=8, exploration_final_eps=0.03)
    small = {"vec": "dummy", "num_envs": 4, "calibration.steps": 64, "calibration.held_out": 64, "progress_bar": False}
    small |= {"evaluation.episodes": 2, "evaluation.episodes_during": 2, "algo.settings.learning_starts": 64}
    result = transfer(
        lambda: gym.make("CartPole-v1"),
        source=agent,
        method="ft",
        total_timesteps=256,
        output_dir=tmp_path,
        settings=small,
    )
    model = DQN.load(result.folder / "final.zip")
    assert (model.train_freq.frequency, model.gradient_steps) == (16, 8)  # type: ignore[union-attr]
    assert model.exploration_initial_eps == model.exploration_final_eps == 0.03


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize(
    ("trained", "expected"),
    [
        (2e-5, 2e-5),
        (1e-3, 3e-4),
        (LinearSchedule(1e-4, 0.0, 1.0), 1e-4),
        (LinearSchedule(1e-2, 0.0, 1.0), 3e-4),
        (0, 3e-4),
    ],
)
def test_no_policy_learns_faster_than_it_did(trained: Any, expected: float, saved: bool, tmp_path: Path) -> None:
    agent = source(PPO, learning_rate=trained)
    agent.save(tmp_path / "agent.zip")
    found: Path | BaseAlgorithm = tmp_path / "agent.zip" if saved else agent
    assert own_rate(found, PPO, {}, 3e-4) == {"learning_rate": expected}
    assert own_rate(found, PPO, {"learning_rate": 0.1}, 3e-4) == {}
    assert own_rate(found, PPO, {}, None) == {}


def test_a_rate_that_the_archive_does_not_tell_is_the_bound(tmp_path: Path) -> None:
    agent = source(PPO, learning_rate=lambda left: 1e-5 * left**2)
    agent.save(tmp_path / "agent.zip")
    assert own_rate(tmp_path / "agent.zip", PPO, {}, 3e-4) == {"learning_rate": 3e-4}
    assert own_rate(agent, PPO, {}, 3e-4) == {"learning_rate": 1e-5}


@pytest.mark.parametrize(("returned", "expected"), [(np.float32(0.5**16), 0.5**16), (np.nan, 3e-4), ("1e-5", 3e-4)])
def test_a_schedule_may_return_numbers_of_any_library(returned: Any, expected: float) -> None:
    agent = source(PPO)
    agent.learning_rate = lambda _: returned
    assert own_rate(agent, PPO, {}, 3e-4) == {"learning_rate": expected}


@pytest.mark.parametrize(("settings", "expected"), [({}, 2e-5), ({"algo.settings.learning_rate": 1e-3}, 1e-3)])
def test_a_transfer_learns_at_the_rate_of_its_source(settings: dict[str, Any], expected: float, tmp_path: Path) -> None:
    seen: list[float] = []

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            seen.append(self.model.policy.optimizer.param_groups[0]["lr"])
            return True

    small = {
        "num_envs": 2,
        "vec": "dummy",
        "progress_bar": False,
        "algo.settings.n_steps": 8,
        "algo.settings.batch_size": 16,
    }
    transfer(
        "CartPole-v1",
        method={"name": "plain"},
        source=source(PPO, learning_rate=2e-5),
        total_timesteps=32,
        output_dir=tmp_path / "run",
        settings=small | {"evaluation.episodes": 1, "calibration.steps": 16} | settings,
        callback=Watch(),
    )
    assert max(seen) <= expected
    assert max(seen[2:]) > expected / 4


@pytest.mark.parametrize(("total", "expected"), [(1_000_000, 5000), (100_000, 5000), (6000, 300), (5, 0)])
def test_short_runs_begin_to_learn_soon(total: int, expected: int) -> None:
    assert first_update(DQN, {}, total, 5000) == {"learning_starts": expected}
    assert first_update(DQN, {"learning_starts": 7}, total, 5000) == {}
    assert first_update(DQN, {}, total, None) == {}
    assert first_update(PPO, {}, total, 5000) == {}


@pytest.mark.parametrize(("most", "expected"), [(5_000, 10), (4, 4), (None, 100)])
def test_a_transfer_begins_to_learn_soon(most: int | None, expected: int, tmp_path: Path) -> None:
    updates: list[int] = []

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            updates.append(self.model._n_updates)  # type: ignore[attr-defined]
            return True

    small = {"num_envs": 1, "vec": "dummy", "progress_bar": False, "calibration.steps": 16, "evaluation.episodes": 1}
    transfer(
        "Pendulum-v1",
        method={"name": "plain"},
        source=source(TD3, learning_starts=100),
        total_timesteps=200,
        output_dir=tmp_path / "run",
        settings=small | {"algo.most_learning_starts": most},
        callback=Watch(),
    )
    assert updates.index(next(number for number in updates if number)) - 1 == expected


@pytest.mark.parametrize(
    "damage",
    [*({"train_freq": value} for value in (0, -5, True, 10**400)), {"n_envs": 10**400}, {"gradient_steps": 10**400}],
)
def test_numbers_that_no_source_learned_by_are_left_out(damage: dict[str, Any], tmp_path: Path) -> None:
    source(DQN, train_freq=4, gradient_steps=1).save(tmp_path / "agent.zip")
    archive = edit(tmp_path / "agent.zip", lambda data: data.update(damage))
    assert own_rhythm(archive, DQN, {"exploration_initial_eps": 0.1}, 4) in (
        *({}, {"train_freq": 1, "gradient_steps": 1}, {"train_freq": 1, "gradient_steps": -1}),
    )


def test_hindsight_waits_for_an_episode(tmp_path: Path) -> None:
    """A twentieth of the run is shorter than an episode."""
    small = SETTINGS | {"total_timesteps": 120}
    with warnings.catch_warnings():
        warnings.simplefilter("error", DaftWarning)
        transfer(GoalMass, "ft", with_hindsight(), settings=small, output_dir=tmp_path)
    assert SAC.load(tmp_path / "final.zip", env=DummyVecEnv([GoalMass]))._n_updates > 0


def test_hindsight_without_any_episode_says_so(tmp_path: Path) -> None:
    small = SETTINGS | {"total_timesteps": 24}
    with pytest.warns(DaftWarning, match="No episode ended in 24 steps"):
        transfer(GoalMass, "ft", with_hindsight(), settings=small, output_dir=tmp_path)
