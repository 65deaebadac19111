"""A transfer that was stopped goes on, and ends with the same results as one that was not, bit for bit."""

from __future__ import annotations

import csv
import errno
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, PPO, SAC, TD3, HerReplayBuffer
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import daft_rl
from daft_rl.checkpoint import CheckpointStore
from daft_rl.errors import ConfigError, DaftError, DaftWarning
from daft_rl.run.checkpoints import Checkpoints
from tests.conftest import ALGORITHMS, DISCRETE, OFF_POLICY, PointMass, build

STEPS, STOP = 256, 150
"""The end, and a step between the checkpoints, after an evaluation. Buffers are full then."""
SETTINGS: dict[str, Any] = {
    **{"total_timesteps": STEPS, "num_envs": 2, "progress_bar": False, "evaluate_in_background": False},
    **{"calibration.steps": 64, "calibration.held_out": 32, "checkpoint.every": 50, "checkpoint.share": 1},
    **{"evaluation.episodes": 2, "evaluation.episodes_during": 2, "evaluation.every": 60},
}
ON_POLICY_SETTINGS = {"algo.settings.n_steps": 16}
OFF_POLICY_SETTINGS = {
    **{"algo.settings.learning_starts": 32, "algo.settings.buffer_size": 128},
    **{"algo.settings.train_freq": 4, "algo.settings.gradient_steps": 1},
}


class StoppedError(RuntimeError):
    """Stands for a kill."""


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Raise in the middle of a rollout."""

    def raise_at(self: Checkpoints) -> bool:
        if self.model.num_timesteps >= step:
            raise StoppedError
        return True

    monkeypatch.setattr(Checkpoints, "_on_step", raise_at)


def outcome(folder: Path) -> dict[str, Any]:
    """Everything a run leaves behind that is no time."""
    results = json.loads((folder / "results.json").read_text())
    for name in ("wall_seconds", "phases", "seconds_beside"):
        del results[name]
    lines = (folder / "monitor.csv").read_text().splitlines()[1:]
    return {"results": results, "episodes": [row | {"t": ""} for row in csv.DictReader(lines)]}


def assert_equal_runs(one: Path, other: Path) -> None:
    assert outcome(one) == outcome(other)
    weights: list[Any] = [load_from_zip_file(folder / "final.zip")[1]["policy"] for folder in (one, other)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows, without times."""
    events = EventAccumulator(str(folder))
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith("time/")]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


def assert_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any]) -> None:
    """Run without a stop; and with one, and resume. Compare."""
    daft_rl.transfer(**arguments, output_dir=folder / "whole")
    with monkeypatch.context() as patch:
        stop_at(patch, STOP)
        with pytest.raises(StoppedError):
            daft_rl.transfer(**arguments, output_dir=folder / "cut")
    assert list((folder / "cut" / "checkpoints").glob("*.zip"))
    assert "StoppedError" in json.loads((folder / "cut" / "error.json").read_text())["error"]
    objects = {name: arguments[name] for name in ("env", "source", "source_env") if name in arguments}
    result = daft_rl.transfer(resume=folder / "cut", **objects)
    assert result.timesteps >= STEPS
    assert_equal_runs(folder / "whole", folder / "cut")
    assert not (folder / "cut" / "checkpoints").exists()
    assert not (folder / "cut" / "error.json").exists()


SLOW = ("A2C", "DDPG", "QRDQN", "TD3", "TQC", "TRPO")
"""What these have is in PPO, A2C with gSDE, TD3 with noise, DQN and SAC too."""


def discrete() -> PointMass:
    return PointMass(discrete=True)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in sorted(ALGORITHMS)],
)
def test_every_algorithm_goes_on(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = discrete if name in DISCRETE else PointMass
    kind = OFF_POLICY_SETTINGS if name in OFF_POLICY else ON_POLICY_SETTINGS
    arguments: dict[str, Any] = {
        "env": env,
        "method": "daft",
        "source_env": env,
        "source": build(name),
        "settings": SETTINGS | kind,
    }
    assert_goes_on(tmp_path, monkeypatch, arguments)


@pytest.mark.parametrize("every", ["auto", 100])
def test_tensorboard_shows_each_point_once(every: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SETTINGS | ON_POLICY_SETTINGS | {"tensorboard.every": every}
    arguments: dict[str, Any] = {"env": PointMass, "method": "daft", "source": build("PPO"), "settings": settings}
    assert_goes_on(tmp_path, monkeypatch, arguments)
    assert curves(tmp_path / "cut") == curves(tmp_path / "whole")


SMALL = {"net_arch": [16]}
"""Arguments of a policy. SB3 adds to what it gets."""


def with_vecnormalize() -> BaseAlgorithm:
    venv = VecNormalize(DummyVecEnv([PointMass]))
    return PPO("MlpPolicy", venv, n_steps=32, batch_size=32, seed=1, device="cpu", policy_kwargs={**SMALL}).learn(64)


def with_state_dependent_exploration(kind: type[BaseAlgorithm]) -> BaseAlgorithm:
    settings: Any = {"learning_starts": 20} if kind is SAC else {"n_steps": 32}
    return kind("MlpPolicy", PointMass(), use_sde=True, seed=1, device="cpu", policy_kwargs={**SMALL}, **settings)


def with_drifting_noise() -> BaseAlgorithm:
    noise = OrnsteinUhlenbeckActionNoise(np.zeros(2), np.full(2, 0.3))
    return TD3("MlpPolicy", PointMass(), action_noise=noise, seed=1, device="cpu", policy_kwargs={**SMALL})


@pytest.mark.parametrize(
    ("source", "settings"),
    [
        pytest.param(with_vecnormalize, {"agent.normalize": "update"}, id="VecNormalize"),
        pytest.param(lambda: with_state_dependent_exploration(A2C), {}, id="gSDE of A2C"),
        pytest.param(
            *(lambda: with_state_dependent_exploration(SAC), OFF_POLICY_SETTINGS),
            id="gSDE of SAC",
            marks=pytest.mark.slow,
        ),
        pytest.param(with_drifting_noise, OFF_POLICY_SETTINGS, id="Ornstein-Uhlenbeck noise"),
        pytest.param(lambda: build("PPO"), {"evaluate_in_background": True}, id="evaluation in the background"),
    ],
)
def test_whatever_an_agent_remembers_goes_on(
    source: Any, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = {} if "algo.settings.buffer_size" in settings else ON_POLICY_SETTINGS
    further = SETTINGS | kind | settings
    arguments: dict[str, Any] = {
        "env": PointMass,
        "method": "daft",
        "source_env": PointMass,
        "source": source(),
        "settings": further,
    }
    assert_goes_on(tmp_path, monkeypatch, arguments)


@pytest.mark.parametrize(
    "method", ["lp_ft", "scratch", *(pytest.param(name, marks=pytest.mark.slow) for name in ("daft_paper", "l2_sp"))]
)
def test_every_kind_of_method_goes_on(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments: dict[str, Any] = {
        "env": PointMass, "source": build("SAC"), "method": method, "settings": SETTINGS | OFF_POLICY_SETTINGS,
    }  # fmt: skip
    assert_goes_on(tmp_path, monkeypatch, arguments)


@pytest.mark.slow
def test_a_simulator_in_threads_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are tested without learning, in tests/envs/test_replay.py."""
    settings = {"env.shift.action_delay": 2, "evaluation.episodes": 1, "evaluation.episodes_during": 1}
    assert_goes_on(
        tmp_path,
        monkeypatch,
        {"env": "Ant-shifted", "method": "daft", "settings": SETTINGS | ON_POLICY_SETTINGS | settings},
    )


class GoalMass(PointMass):
    """Push the point to a goal that is drawn anew for each episode."""

    def __init__(self) -> None:
        super().__init__()
        goal, self.goal = spaces.Box(-np.inf, np.inf, (1,)), np.zeros(1, np.float32)
        self.observation_space = spaces.Dict(
            {"observation": self.observation_space, "achieved_goal": goal, "desired_goal": goal}
        )

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        observation, info = super().reset(seed=seed)
        self.goal = self.np_random.normal(size=1).astype(np.float32)
        return self._with_goals(observation), info

    def step(self, action: Any) -> Any:
        observation, _, terminated, truncated, info = super().step(action)
        reward = float(self.compute_reward(observation[:1], self.goal, info))
        return self._with_goals(observation), reward, terminated, truncated, info

    def _with_goals(self, observation: Any) -> dict[str, Any]:
        return {"observation": observation, "achieved_goal": observation[:1], "desired_goal": self.goal}

    def compute_reward(self, achieved: Any, desired: Any, info: Any) -> Any:
        return -np.abs(achieved - desired).sum(axis=-1)


def with_hindsight(**kwargs: Any) -> BaseAlgorithm:
    return SAC(
        "MultiInputPolicy",
        GoalMass(),
        replay_buffer_class=HerReplayBuffer,
        replay_buffer_kwargs=kwargs,
        policy_kwargs={**SMALL},
        learning_starts=32,
        seed=1,
        device="cpu",
    )


@pytest.mark.parametrize("archive", [pytest.param(False, marks=pytest.mark.slow), True], ids=["agent", "archive"])
def test_hindsight_experience_replay_goes_on(archive: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The buffer is full at the stop, and an episode goes on over its end."""
    settings = SETTINGS | OFF_POLICY_SETTINGS
    source: Any = with_hindsight()
    if archive:
        source.save(tmp_path / "source.zip")
        source = tmp_path / "source.zip"
    arguments: dict[str, Any] = {"env": GoalMass, "source": source, "method": "ft", "settings": settings}
    assert_goes_on(tmp_path, monkeypatch, arguments)


def test_a_buffer_that_keeps_infos_has_no_checkpoints_and_says_so(tmp_path: Path) -> None:
    settings = SETTINGS | OFF_POLICY_SETTINGS | {"total_timesteps": 80}
    with pytest.warns(DaftWarning, match="No checkpoint at step 56: A HerReplayBuffer cannot be kept"):
        daft_rl.transfer(GoalMass, "ft", with_hindsight(copy_info_dict=True), settings=settings, output_dir=tmp_path)


class Tolled(PointMass):
    """Steps cost something."""

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, info | {"cost": float(abs(reward) > 1)}


def test_a_limit_on_costs_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SETTINGS | ON_POLICY_SETTINGS | {"env.cost_limit": 5}
    assert_goes_on(tmp_path, monkeypatch, {"env": Tolled, "source": build("PPO"), "settings": settings})


class Drifting(PointMass):
    """Has generators of its own, which its episodes share."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        if seed is not None:
            self.rng, self.dice = np.random.default_rng(seed), random.Random(seed)
        return super().reset(seed=seed)

    def step(self, action: Any) -> Any:
        return super().step(action + self.rng.normal() + self.dice.random())


class Moody(PointMass):
    """Draws from NumPy's global generator, as anybody may."""

    def step(self, action: Any) -> Any:
        return super().step(action + np.random.normal())


def test_an_environment_with_generators_of_its_own_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments: dict[str, Any] = {
        "env": Drifting,
        "method": "daft",
        "source": build("PPO"),
        "settings": SETTINGS | ON_POLICY_SETTINGS,
    }
    assert_goes_on(tmp_path, monkeypatch, arguments)


def test_an_environment_that_cannot_be_replayed_starts_new_episodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments: dict[str, Any] = {
        "env": Moody,
        "method": "daft",
        "source": build("PPO"),
        "settings": SETTINGS | ON_POLICY_SETTINGS,
    }
    with monkeypatch.context() as patch:
        stop_at(patch, STOP)
        with pytest.raises(StoppedError):
            daft_rl.transfer(**arguments, output_dir=tmp_path)
    with pytest.warns(DaftWarning, match="start new episodes: played again, an episode gave other rewards"):
        result = daft_rl.transfer(env=Moody, source=arguments["source"], resume=tmp_path)
    assert result.timesteps == STEPS
    assert [point["timesteps"] for point in result.curve] == [0, 60, 120, 180, 240]


def test_a_folder_that_was_moved_is_told_and_goes_on_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, moved = tmp_path / "run", tmp_path / "moved"

    def move(self: Checkpoints) -> bool:
        if self.model.num_timesteps >= STOP and folder.exists():
            folder.rename(moved)
        return True

    arguments: dict[str, Any] = {"env": PointMass, "method": "daft", "source": build("PPO")}
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "_on_step", move)
        with pytest.raises(ConfigError, match="was moved or deleted"):
            daft_rl.transfer(**arguments, settings=SETTINGS | ON_POLICY_SETTINGS, output_dir=folder)
    assert not folder.exists()
    assert daft_rl.transfer(**arguments, resume=moved).timesteps == STEPS


def test_checkpoints_change_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither those that are written, nor those that a full disk refuses."""
    without, with_some, full = (tmp_path / name for name in ("without", "with", "full"))
    settings = SETTINGS | OFF_POLICY_SETTINGS
    source = build("SAC")
    daft_rl.transfer(
        PointMass, "daft", source=source, settings=settings | {"checkpoint.every": None}, output_dir=without
    )
    daft_rl.transfer(PointMass, "daft", source=source, settings=settings, output_dir=with_some)

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(CheckpointStore, "write", refuse)
    with pytest.warns(DaftWarning, match="No checkpoint at step 56: .*No space left"):
        daft_rl.transfer(PointMass, "daft", source=source, settings=settings, output_dir=full)
    assert_equal_runs(without, with_some)
    assert_equal_runs(without, full)


def test_a_damaged_checkpoint_costs_its_steps_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments: dict[str, Any] = {
        "env": PointMass,
        "method": "daft",
        "source": build("PPO"),
        "settings": SETTINGS | ON_POLICY_SETTINGS,
    }
    daft_rl.transfer(**arguments, output_dir=tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_at(patch, STOP)
        with pytest.raises(StoppedError):
            daft_rl.transfer(**arguments, output_dir=tmp_path / "cut")
    newest = max((tmp_path / "cut" / "checkpoints").glob("*.zip"))
    newest.write_bytes(newest.read_bytes()[:-100])
    with pytest.warns(DaftWarning, match=f"skipped: .*{newest.name} is damaged"):
        daft_rl.transfer(**arguments, output_dir=tmp_path / "cut")  # the same command goes on too
    assert_equal_runs(tmp_path / "whole", tmp_path / "cut")


class Other(PointMass):
    """Has the same spaces."""


def test_a_run_goes_on_only_as_what_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another environment or method would be mixed with what was learnt, or not be heeded."""
    source = build("PPO")
    settings = SETTINGS | ON_POLICY_SETTINGS
    with monkeypatch.context() as patch:
        stop_at(patch, STOP)
        with pytest.raises(StoppedError):
            daft_rl.transfer(PointMass, "ft", source, source_env=PointMass, settings=settings, output_dir=tmp_path)
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("run of env='PointMass'", {"env": Other, "source": source}),
        ("run of env='PointMass'", {"env": "HalfCheetah-shifted"}),
        ("pass it again: env=", {}),
        ("run of method='ft'", {"env": PointMass, "source": source, "method": "lp_ft"}),
        ("pass it again, source=", {"env": PointMass}),
        ("another agent", {"env": PointMass, "source": "Ant-ppo"}),
        ("played in target, source, and cannot go on with target", {"env": PointMass, "source": source}),
    ]
    for message, arguments in wrong:
        with pytest.raises(DaftError, match=message):
            daft_rl.transfer(**arguments, resume=tmp_path)
    result = daft_rl.transfer(PointMass, "ft", source, source_env=PointMass, resume=tmp_path)
    assert result.method == "ft"


def test_an_archive_may_lie_elsewhere_when_its_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on another machine."""
    one, other, folder = tmp_path / "one.zip", tmp_path / "other.zip", tmp_path / "run"
    build("PPO").save(one)
    settings = SETTINGS | ON_POLICY_SETTINGS
    with monkeypatch.context() as patch:
        stop_at(patch, STOP)
        with pytest.raises(StoppedError):
            daft_rl.transfer(PointMass, "ft", one, settings=settings, output_dir=folder)
    one.rename(other)
    folder = folder.rename(tmp_path / "moved")
    assert daft_rl.transfer(PointMass, source=other, resume=folder).timesteps == STEPS
