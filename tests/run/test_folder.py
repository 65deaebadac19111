"""A run's folder: nobody else's, nothing of another run, and nothing at all if the run was refused."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3 import PPO

import daft_rl
from daft_rl.errors import ConfigError, DaftError, DaftWarning
from daft_rl.resume import read_run
from daft_rl.run import lock
from daft_rl.run.folder import RunFolder
from daft_rl.run.identity import Identity
from daft_rl.run.lock import FolderLock
from daft_rl.run.names import EVENT_FILES
from daft_rl.run.results import machine
from daft_rl.settings import TransferSettings
from tests.conftest import PointMass, build


def settings(folder: Path | None, **changes: Any) -> TransferSettings:
    values = {"method": "ft", "env": {"name": "Ant"}, "output_dir": None if folder is None else str(folder)}
    return TransferSettings.from_dict(values | changes)


def open_and_release(folder: Path | None, **changes: Any) -> RunFolder:
    opened = RunFolder(settings(folder, **changes), Identity())
    opened.release()
    return opened


def test_runs_of_one_second_have_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda _: "NOW")
    paths = [str(open_and_release(None, seed=3).path.relative_to(tmp_path)) for _ in range(3)]
    assert paths == [f"runs/Ant/ft/seed-3/NOW{suffix}" for suffix in ("", "_2", "_3")]


def test_a_new_folder_is_named_by_shift_and_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    opened = open_and_release(None, env={"name": "my:Env-v0", "shift": "gravity-2.0"}, agent={"path": "a/../b c.zip"})
    assert opened.path.name.endswith("_gravity-2.0_b-c")
    assert opened.path.relative_to(tmp_path).parts[:2] == ("runs", "my-Env-v0")


def test_a_finished_run_is_kept_unless_it_may_go(tmp_path: Path) -> None:
    open_and_release(tmp_path)
    for name in ("results.json", "best.zip", "vecnormalize.pkl", "mine.txt"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ConfigError, match=r"holds a finished run \(results.json\)"):
        open_and_release(tmp_path)
    assert not open_and_release(tmp_path, overwrite=True).goes_on
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "mine.txt", "run.json", "run.lock"]


def test_an_unfinished_run_goes_on_with_the_same_settings_only(tmp_path: Path) -> None:
    assert not open_and_release(tmp_path).goes_on
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / f"{1:012d}.zip").touch()
    assert open_and_release(tmp_path).goes_on
    assert open_and_release(tmp_path, progress_bar=False, checkpoint={"keep": 3}).goes_on
    with pytest.raises(ConfigError, match=r"unfinished run with another seed, evaluation\.every"):
        open_and_release(tmp_path, seed=4, evaluation={"every": 7})
    with pytest.raises(
        ConfigError, match=rf"another method \(ft\)\. To go on with it, pass resume='{tmp_path}'\. Or name"
    ):
        open_and_release(tmp_path, method="auto")
    with pytest.raises(ConfigError, match=r"another agent\. Name"):
        RunFolder(settings(tmp_path), Identity(agent_fingerprint=("other",)))
    assert (tmp_path / "checkpoints" / f"{1:012d}.zip").exists()
    assert not open_and_release(tmp_path, seed=4, overwrite=True).goes_on
    assert not (tmp_path / "checkpoints").exists()


def test_a_run_that_left_no_checkpoint_gives_way(tmp_path: Path) -> None:
    open_and_release(tmp_path)
    (tmp_path / "best.zip").touch()
    assert not open_and_release(tmp_path, seed=4).goes_on
    assert not (tmp_path / "best.zip").exists()


FOREIGN = (
    "checkpoints/model.pt",
    "checkpoints/5.zip",
    "README.md",
    "agent.zip",
    "config.yaml",
)


@pytest.mark.parametrize("name", FOREIGN)
def test_files_of_another_program_stay(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("lr: 3")
    with pytest.raises(ConfigError, match="which no run of daft_rl has left"):
        open_and_release(tmp_path)
    assert (tmp_path / name).read_text() == "lr: 3"


def test_deleting_a_run_deletes_nothing_else(tmp_path: Path) -> None:
    open_and_release(tmp_path)
    foreign = [tmp_path / name for name in (*FOREIGN[:2], "events.out.tfevents.1.host.2.0")]
    learning = (f"checkpoints/{1:012d}.zip", "checkpoints/replay/0-1.zip", EVENT_FILES.replace("*", "1.host.2"))
    own = [tmp_path / name for name in (*learning, "final_at_home.zip", "final_at_home_vecnormalize.pkl")]
    for path in (*foreign, *own):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    open_and_release(tmp_path, overwrite=True)
    assert [path.exists() for path in (*foreign, *own)] == [True] * 3 + [False] * 5
    assert not (tmp_path / "checkpoints" / "replay").exists()


def test_a_finished_run_keeps_checkpoints_of_another_program(tmp_path: Path) -> None:
    for name in ("results.json", "checkpoints/model.pt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match="finished run"):
        open_and_release(tmp_path)
    assert (tmp_path / "checkpoints" / "model.pt").exists()


def test_a_run_that_goes_on_with_another_version_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_and_release(tmp_path)
    now = machine()
    changed = now | {"cores": 99, "processor": "new", "versions": now["versions"] | {"mujoco": "0.1"}}
    monkeypatch.setattr("daft_rl.run.identity.machine", lambda: changed)
    with pytest.warns(DaftWarning, match=r"began with another processor, mujoco\. Its results may differ"):
        assert open_and_release(tmp_path).goes_on


def test_edited_settings_do_not_mix_with_a_checkpoint(tmp_path: Path) -> None:
    """The file is what a resumed run takes its settings from."""
    open_and_release(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / f"{1:012d}.zip").touch()
    config = tmp_path / "config.yaml"
    config.write_text(config.read_text().replace("total_timesteps: 200000", "total_timesteps: 300000"))
    edited = read_run(TransferSettings, tmp_path)
    assert edited.total_timesteps == 300_000
    with pytest.raises(ConfigError, match=r"another config\.yaml, which was edited"):
        RunFolder(edited, Identity())


@pytest.mark.parametrize("goes_on", [True, False])
def test_what_a_killed_process_was_writing_is_deleted(goes_on: bool, tmp_path: Path) -> None:
    open_and_release(tmp_path)
    (tmp_path / ".unfinished-x").mkdir()
    (tmp_path / ".unfinished-x" / "final.zip").write_text("half")
    (tmp_path / ".unfinished-results.json.x").write_text("half")
    assert open_and_release(tmp_path, seed=0 if goes_on else 4).goes_on == goes_on
    assert not list(tmp_path.glob(".unfinished-*"))


@pytest.mark.parametrize("agent", ["final.zip", "mine.zip"])
def test_a_run_does_not_overwrite_its_source(agent: str, tmp_path: Path) -> None:
    (tmp_path / agent).touch()
    (tmp_path / "vecnormalize.pkl").touch()
    with pytest.raises(ConfigError, match="would overwrite its"):
        RunFolder(settings(tmp_path, overwrite=True), Identity(agent=tmp_path / agent))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([agent, "vecnormalize.pkl"])


def test_two_runs_of_one_process_cannot_share_a_folder(tmp_path: Path) -> None:
    first = RunFolder(settings(tmp_path), Identity())
    with pytest.raises(ConfigError, match="this process runs there"):
        RunFolder(settings(tmp_path), Identity())
    first.release()
    open_and_release(tmp_path)


def test_a_lock_is_told_and_ends_with_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "PATIENCE", 0.0)
    program = "import sys, pathlib; from daft_rl.run.lock import FolderLock; " \
        "held = FolderLock(pathlib.Path(sys.argv[1])); print(flush=True); sys.stdin.read()"  # fmt: skip
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(ConfigError, match=f"process {other.pid} on .* runs there"):
            FolderLock(tmp_path)
        other.send_signal(signal.SIGKILL)
        other.wait()
    FolderLock(tmp_path).release()


def test_a_refused_run_leaves_nothing(tmp_path: Path) -> None:
    source = build("PPO", n_steps=16)
    further = {"agent.head": ["no_such_layer.*"], "progress_bar": False, "evaluation.episodes": 1, "num_envs": 1}
    with pytest.raises(DaftError, match="no_such_layer"):
        daft_rl.transfer(PointMass, source=source, settings=further, output_dir=tmp_path / "runs" / "one")
    assert list(tmp_path.iterdir()) == []


def test_who_waited_for_a_lock_that_was_deleted_locks_the_new_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is refused deletes its folder. Whoever waited must not hold a file that nobody sees."""
    refused = FolderLock(tmp_path / "")
    monkeypatch.setattr(lock, "_held", set())  # as in another process, to which the system gives no lock yet
    taken: list[bool] = []

    def lockf(*_: Any) -> None:
        if not taken:
            refused.delete()
        taken.append(True)

    monkeypatch.setattr("fcntl.lockf", lockf)
    waiting = FolderLock(tmp_path)
    assert waiting.holds()
    assert len(taken) == 2
    assert (tmp_path / "run.lock").read_text().startswith("process ")
    waiting.release()


def test_a_run_whose_folder_was_replaced_ends(tmp_path: Path) -> None:
    """Otherwise it would write into the folder of the run that has begun there since."""
    folder, moved = tmp_path / "run", tmp_path / "moved"
    first = RunFolder(settings(folder), Identity())
    assert first.missing() is None
    folder.rename(moved)
    assert "was moved or deleted" in str(first.missing())
    first.note_error(RuntimeError("later"))
    assert not folder.exists()
    assert not (moved / "error.json").exists()
    first.release()
    assert open_and_release(moved).goes_on


class Failing(PointMass):
    """Raises in the middle of learning."""

    def step(self, action: Any) -> Any:
        if self.steps > 15:
            raise RuntimeError("the motor is hot")
        return super().step(action)


def test_a_run_that_fails_tells_why(tmp_path: Path) -> None:
    source = PPO("MlpPolicy", PointMass(), n_steps=16, batch_size=16, device="cpu")
    with pytest.raises(Exception, match="the motor is hot"):
        daft_rl.transfer(Failing, "ft", source, output_dir=tmp_path, settings={"progress_bar": False})
    found = json.loads((tmp_path / "error.json").read_text())
    assert "the motor is hot" in found["error"]
    assert "the motor is hot" in (tmp_path / "error.txt").read_text()
