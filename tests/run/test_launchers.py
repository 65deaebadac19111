"""A job of a cluster that is stopped or lost goes on in its folder, and ends as one that nobody stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Event

import pytest

from tests.test_resume import assert_equal_runs

pytestmark = pytest.mark.slow

TINY = [
    *("env=HalfCheetah-shifted", "method=ft", "num_envs=2", "total_timesteps=4096", "progress_bar=false"),
    *("algo.settings.n_steps=64", "algo.settings.batch_size=64", "calibration.steps=64", "calibration.held_out=32"),
    *("evaluation.episodes=1", "evaluation.episodes_during=1", "checkpoint.every=128", "checkpoint.share=1"),
]


def start(launcher: str, folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir()
    command = [sys.executable, "-m", "daft_rl.transfer", "-m", f"hydra/launcher={launcher}", *TINY]
    return subprocess.Popen([*command, f"hydra.sweep.dir={folder / 'sweep'}", "hydra.sweep.subdir=job"], cwd=folder)


def owner_of(folder: Path) -> int:
    """The process that runs, or ran last, in a folder."""
    return int((folder / "run.lock").read_text().split()[1])


@pytest.mark.parametrize(
    ("launcher", "plugin", "number"),
    [
        pytest.param("submitit_local", "hydra_submitit_launcher", signal.SIGUSR2, id="Submitit tells it to stop"),
        pytest.param("ray", "hydra_ray_launcher", signal.SIGKILL, id="Ray loses the worker"),
    ],
)
def test_a_job_that_a_cluster_takes_away_goes_on(
    launcher: str, plugin: str, number: signal.Signals, tmp_path: Path
) -> None:
    pytest.importorskip(f"hydra_plugins.{plugin}")
    cut = start(launcher, tmp_path / "cut")
    job = tmp_path / "cut" / "sweep" / "job"
    while not list(job.glob("checkpoints/*.zip")):
        assert cut.poll() is None
        Event().wait(0.02)
    first = owner_of(job)
    os.kill(first, number)
    assert cut.wait() == 0
    assert owner_of(job) != first
    assert start("basic", tmp_path / "whole").wait() == 0
    assert_equal_runs(tmp_path / "whole" / "sweep" / "job", job)
