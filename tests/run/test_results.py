"""``TransferResult`` is the one writer and the one reader of ``results.json``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from daft_rl.rollout.returns import Returns
from daft_rl.run.results import TransferResult


def make_result(folder: Path) -> TransferResult:
    returns = {"target": Returns([1.0, 2.5], [10, 20], [0.0, 3.0]), "source": Returns([4.0], [30])}
    return TransferResult(
        task="Ant-shifted",
        source="agents/Ant-ppo/agent.zip",
        method="daft",
        algo="ppo",
        seed=3,
        timesteps=1000,
        wall_seconds=12.5,
        seconds_by_activity={"update": 3.25},
        seconds_in_background=1.5,
        shift={"gravity": 0.5},
        zero_shot=returns,
        final=returns,
        realigned={"moved": 0, "inputs": 27, "before": 1.0, "after": 1.0},
        curve=[{"timesteps": 0, "target": 1.75}],
        distortion={"net.1": {"cosine": 0.5}},
        distortion_on_source={},
        settings_fingerprint="0123",
        method_fingerprint="4567",
        machine={"cores": 2},
        folder=folder,
    )


def test_a_saved_result_is_loaded_again(tmp_path: Path) -> None:
    result = make_result(tmp_path)
    result.save()
    assert TransferResult.load(tmp_path / "results.json") == result


def test_the_file_keeps_the_names_of_daft_rl_0_1(tmp_path: Path) -> None:
    make_result(tmp_path).save()
    data = json.loads((tmp_path / "results.json").read_text())
    assert {"phases", "seconds_beside", "compared", "method_digest"} <= data.keys()
    assert data["final"]["target"]["mean_cost"] == 1.5
    assert "folder" not in data


def test_files_of_older_versions_are_loaded(tmp_path: Path) -> None:
    result = make_result(tmp_path)
    data: dict[str, Any] = result.as_dict() | {"key_of_a_later_version": 1}
    for key in ("source", "seconds_beside", "compared", "method_digest", "machine", "realigned"):
        del data[key]
    data["final"] = {"target": {"mean": 7.0, "std": 2.0}}
    old = TransferResult.from_dict(data, tmp_path)
    assert (old.source, old.seconds_in_background, old.machine) == ("", 0.0, {})
    assert old.settings_fingerprint is old.method_fingerprint is old.realigned is None
    assert (old.final["target"].mean, old.final["target"].std) == (7.0, 2.0)
    assert old.zero_shot == result.zero_shot


def test_the_printed_table_has_returns_costs_and_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_result(tmp_path).print()
    printed = capsys.readouterr().out
    assert "cost" in printed
    assert "0 of 27 inputs realigned" in printed
    assert "1000 target steps in 12 s (update 3; meanwhile, in another process, evaluation 2)" in printed


@pytest.mark.parametrize(
    ("before", "after", "worse"),
    [
        ([500.0] * 10, [19.0, 21.0] * 5, True),
        ([500.0] * 10, [500.0] * 10, False),
        ([100.0, 200.0] * 5, [100.0, 190.0] * 5, False),
        ([100.0, 200.0] * 5, [100.0, 300.0] * 5, False),
        ([500.0], [19.0], False),  # a single episode tells nothing of its error
    ],
)
def test_a_policy_that_became_worse_is_named(
    before: list[float], after: list[float], worse: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    curve = [{"timesteps": 0, "target": 480.0}, {"timesteps": 500, "target": 490.0}, {"timesteps": 900, "target": 20.0}]
    result = replace(
        make_result(tmp_path),
        zero_shot={"target": Returns(before, [1] * len(before))},
        final={"target": Returns(after, [1] * len(after))},
        curve=curve,
    )
    result.print()
    printed = capsys.readouterr().out
    assert result.as_dict()["worse_than_zero_shot"] == result.worse_than_zero_shot == worse
    assert ("best.zip is the policy of step 500, which returned 490.0" in printed) == worse


def test_what_learning_cost_on_the_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    curve = [{"timesteps": 0, "target": 10.0}, {"timesteps": 100, "target": 0.0}, {"timesteps": 400, "target": 20.0}]
    result = replace(make_result(tmp_path), curve=curve)
    assert result.on_the_way == {"mean": (500 + 3000) / 400, "lowest": 0.0, "timesteps": 100}
    assert result.as_dict()["on_the_way"] == result.on_the_way
    result.print()
    assert "the target returned 8.8 in the mean, at least 0.0 (step 100)" in capsys.readouterr().out
    assert make_result(tmp_path).on_the_way is None
