"""A grid of transfers: killed in the middle and started again, it ends with the same table."""

from __future__ import annotations

import fcntl
import json
import shutil
import signal
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import yaml

from daft_rl.archives import find_agent
from daft_rl.benchmark import cell_folder, run_cell
from daft_rl.cli import compose_settings
from daft_rl.envs.domain import read_domains
from daft_rl.envs.registry import CONFIGS
from daft_rl.method import find_method
from daft_rl.report import statistics
from daft_rl.report.content import build_report
from daft_rl.run.fingerprints import fingerprint_method
from daft_rl.settings import TransferSettings

pytestmark = pytest.mark.usefixtures("short_episodes")
CHEAP = [
    *("preset=smoke", "total_timesteps=512", "calibration.steps=128", "calibration.held_out=32", "num_envs=2"),
    *("evaluation.episodes=1", "evaluation.elsewhere=[]", "algo.settings.batch_size=128", "progress_bar=false"),
]


def cell(folder: Path, *overrides: str) -> tuple[TransferSettings, Path]:
    given = (*CHEAP, "env=HalfCheetah-shifted", f"benchmark.folder={folder}", *overrides)
    last = {override.partition("=")[0]: override for override in given}
    settings = compose_settings("benchmark", list(last.values()))
    return settings, cell_folder(settings)


def test_equal_settings_have_one_folder(tmp_path: Path) -> None:
    _, first = cell(tmp_path, "method=ft", "seed=1")
    assert first.parts[-3:-1] == ("HalfCheetah-shifted", "ft")
    assert first.name.startswith("seed-1-")
    assert cell(tmp_path, "seed=1", "method=ft", "progress_bar=true", "torch_threads=2")[1] == first
    for other in ("seed=2", "env.shift=gravity-2.0", "algo.settings.learning_rate=1.0e-5", "total_timesteps=1024"):
        assert cell(tmp_path, "method=ft", "seed=1", other)[1] != first


def test_a_cell_that_went_on_by_itself_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before its note was written, or finished by ``transfer resume=CELL``."""
    settings, folder = cell(tmp_path, "method=zero_shot")

    def finish_and_stop(settings: TransferSettings, zero_shot_cache: Path) -> None:
        (folder / "results.json").write_text("{}")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("daft_rl.benchmark.run", finish_and_stop)
        with pytest.raises(KeyboardInterrupt):
            run_cell(settings)
    assert run_cell(settings)["status"] == "finished"
    assert (folder / "results.json").read_text() == "{}"


def test_a_cell_goes_on_after_its_agent_was_gone_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has learnt is not deleted."""
    overwritten = []

    def stop(settings: TransferSettings, zero_shot_cache: Path) -> None:
        overwritten.append(settings.overwrite)
        raise OSError("stopped")

    monkeypatch.setattr("daft_rl.benchmark.run", stop)
    archive = Path(shutil.copy(find_agent("HalfCheetah", "ppo"), tmp_path / "agent.zip"))
    settings, _ = cell(tmp_path, "method=ft", f"agent.path={archive}")
    for move in (None, (archive, tmp_path / "away"), (tmp_path / "away", archive)):
        if move is not None:
            move[0].rename(move[1])
        assert run_cell(settings)["status"] == "failed"
    assert overwritten == [True, False]


def test_a_finished_cell_is_not_run_again(tmp_path: Path) -> None:
    settings, folder = cell(tmp_path, "method=zero_shot")
    assert run_cell(settings)["status"] == "finished"
    written = (folder / "results.json").stat().st_mtime_ns
    settings, _ = cell(tmp_path, "method=zero_shot")
    assert run_cell(settings)["status"] == "finished"
    assert (folder / "results.json").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    "task", ["HalfCheetah-shifted", pytest.param("SafetyPointGoal-shifted", marks=pytest.mark.slow)]
)
def test_zero_shot_returns_are_played_once_for_all_cells(tmp_path: Path, task: str) -> None:
    """And what follows is bit for bit what it would be."""
    vec = "vec=auto" if task.startswith("HalfCheetah") else "vec=dummy"  # workers take seconds to start

    def results(name: str, method: str) -> dict[str, Any]:
        settings, folder = cell(tmp_path / name, f"method={method}", f"env={task}", "env.shift={gear: 0.9}", vec)
        assert run_cell(settings)["status"] == "finished"
        return {k: v for k, v in json.loads((folder / "results.json").read_text()).items() if "seconds" not in k} | {
            "phases": None
        }

    alone = results("alone", "ft")
    results("shared", "zero_shot")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "shared/zero_shot").glob("*.json")}
    assert len(kept) == 2  # target and source
    assert results("shared", "ft") == alone
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "shared/zero_shot").glob("*.json")} == kept
    settings, _ = cell(tmp_path / "shared", "method=zero_shot", f"env={task}", "env.shift={gear: 0.8}", "seed=7", vec)
    run_cell(settings)
    assert len(list((tmp_path / "shared/zero_shot").glob("*.json"))) == 3  # another target, the same source


def test_a_cell_runs_again_when_what_its_settings_name_has_changed(tmp_path: Path) -> None:
    archive = tmp_path / "agent.zip"
    shutil.copy(find_agent("HalfCheetah", "ppo"), archive)
    overrides = ("method=zero_shot", f"agent.path={archive}")

    def played() -> int:
        settings, folder = cell(tmp_path / "grid", *overrides)
        assert run_cell(settings)["status"] == "finished"
        return (folder / "results.json").stat().st_mtime_ns

    first = played()
    assert played() == first
    with zipfile.ZipFile(archive, "a") as opened:
        opened.comment = b"trained longer"
    assert played() != first


def test_a_cell_runs_again_when_its_file_of_names_says_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[Path] = []
    monkeypatch.setattr("daft_rl.benchmark.run", lambda settings, zero_shot_cache: runs.append(settings.output_dir))
    names = tmp_path / "names.yaml"
    settings, _ = cell(tmp_path / "grid", "method=zero_shot", f"agent.correspondence={names}")
    for said in ("action: {bthigh: zero}", "action: {bthigh: zero}", "action: {bshin: zero}"):
        names.write_text(said)
        assert run_cell(settings)["status"] == "finished"
    assert len(runs) == 2


def test_two_processes_do_not_run_one_cell_at_once(tmp_path: Path) -> None:
    settings, folder = cell(tmp_path, "method=zero_shot")
    folder.mkdir(parents=True)
    done = Event()

    def run() -> None:
        run_cell(settings)
        done.set()

    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        other = Thread(target=run)
        other.start()
        assert not done.wait(1.0)
        assert not (folder / "config.yaml").exists()
    other.join()
    assert json.loads((folder / "cell.json").read_text())["status"] == "finished"


def test_the_peak_of_memory_is_each_cells_own(tmp_path: Path) -> None:
    wasted = bytearray(2 << 30)
    del wasted
    assert 100 < run_cell(cell(tmp_path, "method=zero_shot")[0])["peak_memory_mb"] < 2000


def test_a_damaged_file_of_zero_shot_returns_is_played_again(tmp_path: Path) -> None:
    (tmp_path / "zero_shot").mkdir()
    (tmp_path / "zero_shot" / ".unfinished-x.json.y").touch()
    run_cell(cell(tmp_path, "method=zero_shot")[0])
    assert not list((tmp_path / "zero_shot").glob(".unfinished-*"))
    kept = sorted((tmp_path / "zero_shot").glob("*.json"))
    whole = [path.read_text() for path in kept]
    kept[0].write_text(whole[0][: len(whole[0]) // 2])
    assert run_cell(cell(tmp_path, "method=zero_shot", "seed=1")[0])["status"] == "finished"
    assert [path.read_text() for path in kept] == whole


def test_what_was_measured_stays_when_its_agent_is_gone(tmp_path: Path) -> None:
    archive = Path(shutil.copy(find_agent("HalfCheetah", "ppo"), tmp_path / "agent.zip"))
    overrides = ("method=zero_shot", f"agent.path={archive}")
    first = run_cell(cell(tmp_path, *overrides)[0])
    settings, folder = cell(tmp_path, *overrides)
    archive.unlink()
    assert run_cell(settings) == first == json.loads((folder / "cell.json").read_text())


@pytest.mark.usefixtures("groups_composed_once")
@pytest.mark.parametrize("preset", ["smoke", "mujoco", pytest.param("full", marks=pytest.mark.slow)])
def test_every_cell_of_a_preset_can_be_composed(preset: str, tmp_path: Path) -> None:
    """One task with every value of each axis, and the others with all shifts: only these depend on the task."""
    params = yaml.safe_load((CONFIGS / "preset" / f"{preset}.yaml").read_text())["hydra"]["sweeper"]["params"]
    axes = {axis: str(values).split(",") for axis, values in params.items()}
    folders = set()
    for number, env in enumerate(axes.pop("env")):
        for axis, values in axes.items():
            for value in values[:2] if axis == "seed" or (number and axis != "env.shift") else values:
                first = [f"env.shift={shift}" for shift in axes.get("env.shift", ())[:1] if axis != "env.shift"]
                overrides = [f"preset={preset}", f"env={env}", f"{axis}={value}", f"benchmark.folder={tmp_path}"]
                settings = compose_settings("benchmark", [*overrides, *first])
                read_domains(vars(settings.env), settings.evaluation.elsewhere)
                folders.add(cell_folder(settings))
    assert len(folders) >= len(axes["method"])


def test_a_failed_cell_is_told_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, folder = cell(tmp_path, "method=zero_shot", "env.shift={mass: -1}")
    assert "shift.mass" in run_cell(settings)["error"]
    assert json.loads((folder / "cell.json").read_text())["status"] == "failed"
    with monkeypatch.context() as patch:
        patch.setattr("daft_rl.benchmark.run", lambda settings, zero_shot_cache: 1 / 0)
        assert "ZeroDivisionError" in run_cell(cell(tmp_path, "method=zero_shot")[0])["traceback"]
    assert run_cell(cell(tmp_path, "method=zero_shot")[0])["status"] == "finished"


@pytest.mark.slow
def test_one_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "daft_rl.benchmark", *CHEAP, "method=zero_shot", "seed=-1,0,1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert len(list((tmp_path / "runs" / "benchmark" / "smoke").rglob("cell.json"))) == 3, "where no folder is given"
    assert "2 finished, 1 failed" in done.stdout
    assert "ConfigError: seed" in done.stdout.splitlines()[-1]
    assert "Done   3 out of   3" in done.stderr, "how far the grid is"
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_killed_and_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = ["method=zero_shot,ft", "seed=0,1", "evaluation.every=256", "hydra.launcher.n_jobs=1"]

    def start(name: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "daft_rl.benchmark", *CHEAP, *grid, f"benchmark.folder={tmp_path / name}"],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def finish(process: subprocess.Popen[str]) -> str:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
        return output

    def written(name: str) -> list[Path]:
        """Of finished cells; the one that was killed may have results without the note that it is finished."""
        paths = sorted((tmp_path / name).rglob("results.json"))
        return [p for p in paths if json.loads(p.with_name("cell.json").read_text())["status"] == "finished"]

    def table(name: str) -> dict[tuple[str, int], list[Any]]:
        found = {}
        for path in written(name):
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
    kept = {path: path.stat().st_mtime_ns for path in written("broken")}
    output = finish(start("broken"))
    assert "4 finished, 0 failed" in output
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "what was finished has not run again"
    assert table("broken") == table("whole")
    assert set(table("whole")) == {(method, seed) for method in ("zero_shot", "ft") for seed in (0, 1)}

    monkeypatch.setattr(statistics, "REPETITIONS", 100)
    references = json.loads((Path(__file__).parent.parent / "benchmarks" / "references.json").read_text())
    pages = [build_report([tmp_path / name], references) for name in ("whole", "broken")]
    assert pages[0].summary == pages[1].summary
    assert pages[0].shape == "1 target x 2 methods x 2 seeds"
    row = next(row for row in pages[0].targets[0].rows if row["method"] == "ft")
    assert all(row[name] for name in ("target", "area", "source", "actor cosine", "critic cosine", "BN drift", "MB"))
    assert "sample efficiency" in pages[0].figures


def test_results_from_before_a_setting_was_added_are_of_the_same_method() -> None:
    """Committed results have this fingerprint of ``daft``. New runs can only be reported with them if it stays."""
    method = find_method("daft").resolve("eval", "each_rollout", "cosine")
    assert fingerprint_method(method) == "97b7ca2ab2cb8a2d"
    assert fingerprint_method(replace(method, realign=1.5)) != "97b7ca2ab2cb8a2d"
