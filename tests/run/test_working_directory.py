"""An environment that changes the working directory takes no file of the run with it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import daft_rl
from daft_rl.cli import run_command
from daft_rl.run.names import EVENT_FILES
from daft_rl.settings import TransferSettings
from daft_rl.transfer import run
from tests.conftest import PointMass, build
from tests.test_resume import ON_POLICY_SETTINGS, SETTINGS

LEFT = {
    "best.zip",
    "config.yaml",
    "final.zip",
    "monitor.csv",
    "results.json",
    "run.json",
    "run.lock",
    "start.zip",
}


class Wandering(PointMass):
    """Goes elsewhere when it is made, and at each reset."""

    elsewhere = Path()

    def __init__(self) -> None:
        super().__init__()
        os.chdir(self.elsewhere)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        os.chdir(self.elsewhere)
        return super().reset(seed=seed)


gym.register("Wandering-v0", entry_point=lambda **_: Wandering())


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("here", "elsewhere"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(Wandering, "elsewhere", tmp_path / "elsewhere")
    build("PPO").save("agent.zip")
    return tmp_path / "elsewhere"


@pytest.mark.parametrize("given", ["runs/mine", None])
def test_all_files_of_a_run_are_in_its_folder(given: str | None, elsewhere: Path, tmp_path: Path) -> None:
    result = daft_rl.transfer(
        Wandering, "ft", "agent.zip", settings=SETTINGS | ON_POLICY_SETTINGS, output_dir=given, source_env=Wandering
    )
    assert Path.cwd() == elsewhere
    assert result.folder.is_relative_to(tmp_path / "here" / "runs")
    [events] = result.folder.glob(EVENT_FILES)
    assert {path.name for path in result.folder.iterdir()} == {*LEFT, events.name}
    assert not list(elsewhere.iterdir())
    assert result.source == "agent.zip"


def test_the_command_line_begins_and_ends_where_it_was_started(
    elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It tries the environment before Hydra makes the run folder."""
    tiny = ["num_envs=1", "evaluation.episodes=1", "calibration.steps=4", "method=zero_shot", "progress_bar=false"]
    given = ["env=gymnasium", "env.id=Wandering-v0", "agent=agent.zip", "output_dir=mine", *tiny]
    quiet = ["hydra/job_logging=none", "hydra/hydra_logging=none"]
    folders: list[Path] = []

    def transfer(settings: TransferSettings) -> None:
        folders.append(run(settings).folder)

    monkeypatch.setattr(sys, "argv", ["transfer", *given, *quiet])
    run_command("transfer", transfer)
    assert Path.cwd() == tmp_path / "here"
    assert folders == [tmp_path / "here" / "mine"]
    assert (folders[0] / "results.json").exists()
    assert not list(elsewhere.iterdir())
