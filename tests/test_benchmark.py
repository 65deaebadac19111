"""A grid of transfers: killed in the middle and started again, it ends with the same table."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from daft_rl.benchmark import cell_folder, run_cell
from daft_rl.cli import compose_config

CHEAP = [
    *("preset=smoke", "total_timesteps=512", "calibration.steps=128", "calibration.held_out=32", "num_envs=2"),
    *("evaluation.episodes=1", "evaluation.elsewhere=[]", "algo.settings.batch_size=128", "progress_bar=false"),
]


def cell(folder: Path, *overrides: str) -> tuple:
    cfg = compose_config("benchmark", [*CHEAP, "env=HalfCheetah-shifted", f"benchmark.folder={folder}", *overrides])
    return cfg, cell_folder(cfg)


def test_equal_settings_have_one_folder(tmp_path: Path) -> None:
    _, first = cell(tmp_path, "method=ft", "seed=1")
    assert first.parts[-3:-1] == ("HalfCheetah-shifted", "ft")
    assert first.name.startswith("seed-1-")
    assert cell(tmp_path, "seed=1", "method=ft", "progress_bar=true", "torch_threads=2")[1] == first
    for other in ("seed=2", "env.shift=gravity-2.0", "algo.settings.learning_rate=1.0e-5", "total_timesteps=1024"):
        assert cell(tmp_path, "method=ft", "seed=1", other)[1] != first


def test_a_finished_cell_is_not_run_again(tmp_path: Path) -> None:
    cfg, folder = cell(tmp_path, "method=zero_shot")
    assert run_cell(cfg)["status"] == "finished"
    written = (folder / "results.json").stat().st_mtime_ns
    cfg, _ = cell(tmp_path, "method=zero_shot")
    assert run_cell(cfg)["status"] == "finished"
    assert (folder / "results.json").stat().st_mtime_ns == written


@pytest.mark.parametrize("task", ["HalfCheetah-shifted", "SafetyPointGoal-shifted"])
def test_zero_shot_returns_are_played_once_for_all_cells(tmp_path: Path, task: str) -> None:
    """And what follows is bit for bit what it would be."""

    def results(name: str, method: str) -> dict:
        cfg, folder = cell(tmp_path / name, f"method={method}", f"env={task}", "env.shift={gear: 0.9}", "vec=auto")
        assert run_cell(cfg)["status"] == "finished"
        return {k: v for k, v in json.loads((folder / "results.json").read_text()).items() if "seconds" not in k} | {
            "phases": None
        }

    alone = results("alone", "ft")
    results("shared", "zero_shot")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "shared/zero_shot").iterdir()}
    assert len(kept) == 2  # target and source
    assert results("shared", "ft") == alone
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "shared/zero_shot").iterdir()} == kept
    cfg, _ = cell(tmp_path / "shared", "method=zero_shot", f"env={task}", "env.shift={gear: 0.8}", "seed=7")
    run_cell(cfg)
    assert len(list((tmp_path / "shared/zero_shot").iterdir())) == 3  # another target, the same source


def test_a_failed_cell_is_told_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg, folder = cell(tmp_path, "method=zero_shot", "env.shift={mass: -1}")
    assert "shift.mass" in run_cell(cfg)["error"]
    assert json.loads((folder / "cell.json").read_text())["status"] == "failed"
    monkeypatch.setattr("daft_rl.benchmark.run", lambda cfg, played: None)
    cfg, _ = cell(tmp_path, "method=zero_shot", "env.shift={mass: -1}")
    assert run_cell(cfg)["status"] == "finished"


def test_killed_and_started_again(tmp_path: Path) -> None:
    grid = ["method=zero_shot,ft", "seed=0,1", "hydra.launcher.n_jobs=1"]

    def start(name: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "daft_rl.benchmark", *CHEAP, *grid, f"benchmark.folder={tmp_path / name}"],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def finish(process: subprocess.Popen) -> str:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
        return output

    def table(name: str) -> dict:
        found = {}
        for path in (tmp_path / name).rglob("results.json"):
            data = json.loads(path.read_text())
            found[data["method"], data["seed"]] = [data[key] for key in ("zero_shot", "final", "curve")]
        return found

    finish(start("whole"))
    killed = start("broken")
    assert killed.stdout is not None
    for line in killed.stdout:
        if line.startswith("finished"):
            break
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    left = table("broken")
    assert 1 <= len(left) < 4
    finish(start("broken"))
    assert table("broken") == table("whole")
    assert set(table("whole")) == {(method, seed) for method in ("zero_shot", "ft") for seed in (0, 1)}
