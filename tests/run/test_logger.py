"""TensorBoard's files stay small, however long a run is and however often its algorithm logs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3.common.logger import KVWriter, Logger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import daft_rl
from daft_rl.run.logger import ScalarFile, SparseLogger, interval
from daft_rl.run.race_result import RaceResult
from tests.conftest import PointMass, build
from tests.run.test_background import without_times


def points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def log(logger: SparseLogger, steps: list[int]) -> None:
    for step in steps:
        logger.record("rollout/last", float(step))
        logger.record_mean("rollout/mean", float(step))
        logger.dump(step)


def test_the_first_point_of_each_interval_is_written_as_it_is(tmp_path: Path) -> None:
    logger = SparseLogger(str(tmp_path), [ScalarFile(tmp_path)], 100)
    log(logger, [0, 40, 99, 130, 199, 200, 520, 590])
    logger.close()
    expected = [(step, float(step)) for step in (0, 130, 200, 520)]
    assert points(tmp_path) == {"rollout/last": expected, "rollout/mean": expected}
    assert not logger.name_to_value


class Rows(KVWriter):
    """Keeps every row, empty ones too."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def write(self, key_values: dict[str, Any], key_excluded: Any, step: int = 0) -> None:
        self.rows.append(dict(key_values))


def test_no_format_sees_an_empty_row(tmp_path: Path) -> None:
    """SB3 would write a line of commas, and warn."""
    kept = Rows()
    log(SparseLogger(str(tmp_path), [kept], 100), [0, 40, 99, 130])
    looked_at: dict[str, Any] = {"arms": {"ft": {}, "daft": {"left_out": "does the same as ft here"}}}
    race = RaceResult(rung=0, spent=0, seconds=1, seconds_of_others=1, zero_shot={}, summary=looked_at)
    race.log(Logger(None, [kept]))
    assert [row["rollout/last"] for row in kept.rows] == [0.0, 130.0]


def test_a_logger_that_goes_on_writes_the_same_points(tmp_path: Path) -> None:
    steps = list(range(0, 1000, 70))
    for name, stop in (("whole", len(steps)), ("cut", 7)):
        folder = tmp_path / name
        first = SparseLogger(str(folder), [ScalarFile(folder)], 100)
        log(first, steps[:stop])
        first.close()
        other = SparseLogger(str(folder), [ScalarFile(folder)], 100)
        other.load_state_dict(first.state_dict())
        log(other, steps[stop:])
        other.close()
    assert points(tmp_path / "cut") == points(tmp_path / "whole")


@pytest.mark.parametrize(
    ("every", "total", "expected"),
    [("auto", 200_000, 200), ("auto", 1, 1), ("auto", 1000, 1), ("auto", 1001, 2), (5, 10**6, 5)],
)
def test_the_interval_of_a_run(every: Any, total: int, expected: int) -> None:
    assert interval(every, total) == expected


def test_a_transfer_writes_fewer_points_and_the_same_results(tmp_path: Path) -> None:
    found, written = {}, {}
    for every in (1, 100):
        result = daft_rl.transfer(
            PointMass, "daft", source=build("PPO"), output_dir=tmp_path / str(every), total_timesteps=400,
            settings={
                "num_envs": 2, "progress_bar": False, "calibration.steps": 64, "calibration.held_out": 32,
                "evaluation.episodes": 1, "evaluation.episodes_during": 1, "evaluation.every": 50,
                "algo.settings.n_steps": 8, "algo.settings.batch_size": 16, "tensorboard.every": every,
            },
        )  # fmt: skip
        found[every] = without_times(json.loads((result.folder / "results.json").read_text()))
        written[every] = points(result.folder)
    assert found[1] == found[100]
    fine, coarse = written[1]["rollout/ep_rew_mean"], written[100]["rollout/ep_rew_mean"]
    assert len(fine) >= 20
    assert [step for step, _ in coarse] == [48, 112, 208, 304, 400]
    assert set(coarse) <= set(fine)
    assert written[1]["eval/target_return"] == written[100]["eval/target_return"]
    assert [step for step, _ in written[100]["eval/target_return"]] == list(range(0, 401, 50))


def test_a_scalar_that_is_logged_rarely_is_written(tmp_path: Path) -> None:
    logger = SparseLogger(str(tmp_path), [ScalarFile(tmp_path)], 100)
    for step in range(0, 400, 50):
        if step % 100 == 50:
            logger.record("train/rare", float(step))
        log(logger, [step])
    logger.close()
    assert [step for step, _ in points(tmp_path)["train/rare"]] == [50, 150, 250, 350]
