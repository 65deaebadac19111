"""A user's own callbacks and logger beside those of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.logger import KVWriter, Logger, configure
from stable_baselines3.common.vec_env import VecMonitor

import daft_rl
from daft_rl.errors import ConfigError
from tests.conftest import PointMass, build
from tests.run.test_logger import points
from tests.run.test_race import a_race
from tests.test_resume import StoppedError, outcome, stop_at

SETTINGS: dict[str, Any] = {
    **{"num_envs": 2, "progress_bar": False, "calibration.steps": 64, "calibration.held_out": 32},
    **{"evaluation.episodes": 1, "evaluation.episodes_during": 1, "evaluation.every": 100},
    "evaluate_in_background": False,
}
ON_POLICY = {"algo.settings.n_steps": 16, "algo.settings.batch_size": 32}
OFF_POLICY = {"algo.settings.learning_starts": 10, "algo.settings.buffer_size": 500}


class Witness(BaseCallback):
    """Notes what it sees, logs it, and stops at a step."""

    def __init__(self, stop: float = float("inf")) -> None:
        super().__init__()
        self.stop, self.at_start, self.ends = stop, -1, 0
        self.steps: list[int] = []
        self.rollouts: list[int] = []

    def _on_training_start(self) -> None:
        self.at_start = self.num_timesteps

    def _on_rollout_start(self) -> None:
        self.rollouts.append(self.model.num_timesteps)

    def _on_step(self) -> bool:
        self.steps.append(self.num_timesteps)
        self.logger.record("mine/steps", self.num_timesteps)
        return self.num_timesteps < self.stop

    def _on_training_end(self) -> None:
        self.ends += 1


class Kept(KVWriter):
    """Keeps scalars in memory."""

    def __init__(self) -> None:
        self.points: dict[str, list[tuple[int, Any]]] = {}
        self.closed = False

    def write(self, key_values: dict[str, Any], key_excluded: Mapping[str, tuple[str, ...]], step: int = 0) -> None:
        for name, value in key_values.items():
            self.points.setdefault(name, []).append((step, pytest.approx(value, rel=1e-6)))

    def close(self) -> None:
        self.closed = True


def run(folder: Path, source: BaseAlgorithm | None = None, **arguments: Any) -> daft_rl.TransferResult:
    model = source or build("PPO")
    own = ON_POLICY if isinstance(model, PPO) else OFF_POLICY
    further = arguments.pop("settings", {})
    return daft_rl.transfer(
        PointMass,
        "daft",
        source=model,
        output_dir=folder,
        total_timesteps=256,
        settings=SETTINGS | own | further,
        **arguments,
    )


def test_callbacks_and_outputs_see_the_run_and_change_no_result(tmp_path: Path) -> None:
    witness, kept = Witness(), Kept()
    calls: list[BaseAlgorithm] = []

    def note(values: dict[str, Any], _: dict[str, Any]) -> bool:
        calls.append(values["self"])
        return True

    saving = CheckpointCallback(64, str(tmp_path / "saved"))
    run(tmp_path / "plain")
    run(
        tmp_path / "run",
        callback=[witness, saving, note],
        logger=Logger(None, [kept]),
    )
    assert outcome(tmp_path / "run") == outcome(tmp_path / "plain")
    assert witness.steps == list(range(2, 257, 2))
    assert len(calls) == 128
    assert all(model is witness.model for model in calls)
    assert isinstance(witness.training_env, VecMonitor)
    assert witness.ends == 1
    shown = points(tmp_path / "run")  # without what SB3 keeps from TensorBoard
    for path in (tmp_path / "saved").iterdir():
        PPO.load(path, device="cpu")
    assert len(list((tmp_path / "saved").iterdir())) == 2
    assert {name: kept.points[name] for name in shown} == shown
    assert {"mine/steps", "eval/target_return", "train/loss", "rollout/ep_rew_mean"} <= kept.points.keys()
    assert not kept.closed


@pytest.mark.parametrize("name", ["PPO", "SAC"])
def test_a_callback_that_returns_false_ends_learning_and_the_run_goes_on_to_its_end(name: str, tmp_path: Path) -> None:
    result = run(tmp_path, build(name), callback=Witness(stop=100))
    assert result.timesteps == 100
    assert (tmp_path / "results.json").exists()
    assert (tmp_path / "final.zip").exists()
    assert result.curve[-1]["timesteps"] == 100
    assert not (tmp_path / "checkpoints").exists()


def test_a_race_calls_them_where_the_winner_goes_on(tmp_path: Path) -> None:
    witness, kept = Witness(), Kept()
    result = daft_rl.transfer(
        PointMass, a_race("ft_eval", "lp_ft"), source=build("PPO"), output_dir=tmp_path, total_timesteps=256,
        settings=SETTINGS | ON_POLICY | {"checkpoint.every": 50, "checkpoint.share": 1},
        callback=witness, logger=Logger(None, [kept]),
    )  # fmt: skip
    assert result.race is not None
    rung = result.race["rung"]
    assert (witness.at_start, witness.rollouts[0], witness.steps[0]) == (0, rung, rung + 2)
    assert kept.points["race/lp_ft_target_return"][0][0] == rung
    assert min(step for step, _ in kept.points["mine/steps"]) > 2 * rung


def test_a_run_that_goes_on_takes_them_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    often = {"checkpoint.every": 50, "checkpoint.share": 1}
    with monkeypatch.context() as patch:
        stop_at(patch, 170)
        with pytest.raises(StoppedError):
            run(tmp_path, settings=often, callback=Witness())
    witness, model = Witness(), build("PPO")
    daft_rl.transfer(
        PointMass, source=model, resume=tmp_path, callback=witness, logger=configure(str(tmp_path), ["csv"])
    )
    first = witness.rollouts[0]
    assert f"The run goes on from step {first}." in capsys.readouterr().out
    assert 50 <= first <= 160
    assert (witness.at_start, witness.steps) == (0, list(range(first + 2, 257, 2)))
    assert len((tmp_path / "progress.csv").read_text().splitlines()) > 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"callback": "wandb"}, "callback: expected a callback of Stable-Baselines3, or a list of them, got 'wandb'"),
        ({"callback": [Witness(), Witness]}, "callback: expected .* got <class"),
        ({"logger": "csv"}, "logger: expected a Logger of Stable-Baselines3, .* got 'csv'"),
    ],
)
def test_what_is_no_callback_and_no_logger_is_refused(arguments: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        run(tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()
