"""A race: arms learn to a rung, and the winner goes on as the run itself. It may be stopped anywhere."""

from __future__ import annotations

import errno
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import daft_rl
from daft_rl.benchmark import run_cell
from daft_rl.checkpoint import CheckpointStore
from daft_rl.cli import compose_settings
from daft_rl.errors import CheckpointError, ConfigError, StorageError
from daft_rl.run import race as racing
from daft_rl.run.checkpoints import Checkpoints
from daft_rl.run.evaluator import Evaluator
from daft_rl.run.names import EVENT_FILES
from daft_rl.run.run import Run
from tests.conftest import PointMass, build
from tests.test_resume import OFF_POLICY_SETTINGS, StoppedError, assert_equal_runs, curves

SETTINGS: dict[str, Any] = {
    **{"total_timesteps": 512, "num_envs": 2, "algo.settings.n_steps": 16, "progress_bar": False},
    **{"calibration.steps": 64, "calibration.held_out": 32, "checkpoint.every": 50, "checkpoint.share": 1},
    **{"evaluation.episodes": 4, "evaluation.episodes_during": 2, "evaluation.every": 120},
    "evaluate_in_background": False,
}
ARMS = ["ft_eval", "lp_ft", "ft"]
RUNG = 96
"""A fifth of 512 steps, in rollouts of 32."""


def a_race(*arms: Any, **rule: Any) -> dict[str, Any]:
    usual = {"episodes": 4, "margin": 0.0, "best_on_the_way": False}  # how a race ends: test_ending.py
    return {"name": "mine", "race": {"arms": arms or ARMS, **usual, **rule}}


def run_race(folder: Path, source: Any = None, method: Any = None, **settings: Any) -> daft_rl.TransferResult:
    return daft_rl.transfer(
        PointMass,
        method or a_race(),
        source or build("PPO"),
        source_env=PointMass,
        output_dir=folder,
        settings=SETTINGS | settings,
    )


def left(result: daft_rl.TransferResult) -> list[str]:
    assert result.race is not None
    return [name for name, arm in result.race["arms"].items() if "left_out" not in arm]


# -- the winner ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["PPO", "SAC"])
def test_the_winner_learns_as_it_would_alone_from_the_steps_that_are_left(name: str, tmp_path: Path) -> None:
    kind = OFF_POLICY_SETTINGS if name == "SAC" else {}
    slow = {"name": "slow", "actor_encoder": {"scale": 0.1}}
    result = run_race(tmp_path / "race", build(name), a_race("ft_eval", slow), **kind)
    assert result.race is not None
    assert left(result) == ["ft_eval", "slow"]
    rung = result.race["rung"]
    winner = {"ft_eval": "ft_eval", "slow": slow}[result.race["winner"]]
    alone = run_race(
        tmp_path / "alone", build(name), winner, total_timesteps=512 - rung, **kind, **{"evaluation.every": 24}
    )
    assert result.final == alone.final
    assert result.distortion == alone.distortion
    returned = {point["timesteps"]: point["target"] for point in alone.curve}
    assert [point["timesteps"] for point in result.curve] == [0, 240, 360, 480]
    assert [point["target"] for point in result.curve[1:]] == [returned[step - rung] for step in (240, 360, 480)]
    assert result.timesteps == 512
    for file in ("monitor.csv", "best.zip", "start.zip"):
        assert (tmp_path / "race" / file).exists()
    lines = [(tmp_path / folder / "monitor.csv").read_text().splitlines()[2:] for folder in ("race", "alone")]
    assert [line.split(",")[0] for line in lines[0]] == [line.split(",")[0] for line in lines[1]]


def test_a_race_may_come_on_top_of_the_steps(tmp_path: Path) -> None:
    result = run_race(tmp_path, method=a_race("ft_eval", "lp_ft", within=False))
    assert result.timesteps == 512 + RUNG


def test_arms_that_learn_from_whole_episodes_count_all_of_their_steps(tmp_path: Path) -> None:
    kind = OFF_POLICY_SETTINGS | {"algo.settings.train_freq": [1, "episode"], "algo.settings.learning_starts": 10}
    slow = {"name": "slow", "actor_encoder": {"scale": 0.1}}
    result = run_race(tmp_path, build("TD3"), a_race("ft_eval", slow), num_envs=1, total_timesteps=150, **kind)
    assert result.race is not None
    assert (result.race["rung"], [arm["steps"] for arm in result.race["arms"].values()]) == (30, [40, 40])
    assert result.timesteps == 40 + 120


def test_what_was_tried_stands_in_results_and_tensorboard_and_nothing_heavy_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run_race(tmp_path, method=a_race(*ARMS, keep=0.5))
    told = json.loads((tmp_path / "results.json").read_text())["race"]
    assert told == result.race
    winner = told["arms"][told["winner"]]
    assert len(winner["returns"]["target"]["returns"]) == len(winner["returns"]["source"]["returns"]) == 4
    assert winner["score"] == max(arm["score"] for arm in told["arms"].values() if "score" in arm)
    shown = curves(tmp_path)
    assert shown["race/ft_eval_target_return"] == [
        (RUNG, pytest.approx(told["arms"]["ft_eval"]["returns"]["target"]["mean"]))
    ]
    assert max(step for step, _ in shown["rollout/ep_rew_mean"]) == 512
    assert capsys.readouterr().out == ""  # nobody looks, and nothing was stopped
    result.print()
    printed = capsys.readouterr().out
    assert f"race to step {RUNG}, 4 episodes" in printed
    assert "won:" in printed
    loser = next(name for name in left(result) if name != told["winner"])
    [events] = (tmp_path / "race" / loser).glob(EVENT_FILES)
    assert {path.name for path in (tmp_path / "race" / loser).iterdir()} == {
        *("config.yaml", "run.json", "run.lock", "monitor.csv", events.name),
    }
    assert {path.name for path in (tmp_path / "race").iterdir()} == {loser, "race.json"}


@pytest.mark.parametrize(
    ("arms", "expected"),
    [
        (ARMS, [None, 4, 4, 4, None]),  # the source, the start of ft, two arms at the rung, the end
        (["ft_eval", "daft"], [None, None]),  # one is left
    ],
)
def test_zero_shot_episodes_are_played_once(
    arms: list[str], expected: list[int | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plays: list[int | None] = []
    play = Evaluator.play

    def counted(self: Evaluator, domains: Any = None, episodes: int | None = None) -> Any:
        plays.append(episodes)
        return play(self, domains, episodes)

    monkeypatch.setattr(Evaluator, "play", counted)
    run_race(tmp_path, method=a_race(*arms), total_timesteps=160)
    assert plays == expected


def test_no_agent_but_those_that_race_now_stays_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replay buffers have gigabytes."""
    made: list[Any] = []
    alive: list[int] = []
    learn = Run.learn

    def counted(self: Run, until: int | None = None) -> None:
        alive.append(sum(model() is not None for model in made))
        made.append(weakref.ref(self.model))
        learn(self, until)

    monkeypatch.setattr(Run, "learn", counted)
    run_race(tmp_path, method=a_race("ft_eval", "lp_ft"), total_timesteps=160)
    assert alive == [0, 0, 0]


# -- stopping and going on ----------------------------------------------------------------------------------


def in_step(folder: str, step: int) -> Callable[[pytest.MonkeyPatch], None]:
    """Stop in the middle of a rollout of the run in a folder of this name."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        def raise_there(self: Checkpoints) -> bool:
            if self.run.folder.name == folder and self.model.num_timesteps >= step:
                raise StoppedError
            return True

        monkeypatch.setattr(Checkpoints, "_on_step", raise_there)

    return patch


def in_call(owner: Any, name: str, calls: int = 1) -> Callable[[pytest.MonkeyPatch], None]:
    """Stop instead of the n-th call of a function."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        function, count = getattr(owner, name), [0]

        def raise_there(*args: Any, **kwargs: Any) -> Any:
            count[0] += 1
            if count[0] == calls:
                raise StoppedError
            return function(*args, **kwargs)

        monkeypatch.setattr(owner, name, raise_there)

    return patch


def in_move(number: int) -> Callable[[pytest.MonkeyPatch], None]:
    """Stop before the n-th file of the winner is moved."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        replace, moved = Path.replace, []

        def raise_there(self: Path, target: Path) -> Path:
            if self.parent.parent.name == "race" and not self.name.startswith("."):
                moved.append(self)
                if len(moved) == number:
                    raise StoppedError
            return replace(self, target)

        monkeypatch.setattr(Path, "replace", raise_there)

    return patch


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    run_race(folder)
    return folder


@pytest.mark.parametrize(
    "stop",
    [
        pytest.param(in_call(racing, "refresh"), id="while it looks", marks=pytest.mark.slow),
        pytest.param(in_step("ft_eval", 20), id="in the first arm, before a checkpoint", marks=pytest.mark.slow),
        pytest.param(in_step("lp_ft", 80), id="in the second arm, after a checkpoint"),
        pytest.param(in_call(Evaluator, "play", 3), id="at the rung, before it is measured", marks=pytest.mark.slow),
        pytest.param(in_call(racing._Race, "_learn_one", 2), id="between two arms", marks=pytest.mark.slow),
        pytest.param(in_call(racing, "judge"), id="before the decision", marks=pytest.mark.slow),
        pytest.param(in_call(racing.RaceFolder, "promote"), id="after the decision"),
        pytest.param(in_move(2), id="while files move"),
        pytest.param(in_step("run", 110), id="in the winner, before another checkpoint"),
        pytest.param(in_step("run", 290), id="in the winner, later", marks=pytest.mark.slow),
    ],
)
def test_a_race_that_was_stopped_ends_as_one_that_was_not(
    stop: Callable[[pytest.MonkeyPatch], None], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop(patch)
        with pytest.raises(StoppedError):
            run_race(folder)
    daft_rl.transfer(resume=folder, env=PointMass, source_env=PointMass, source=build("PPO"))
    assert_equal_runs(folder, whole)
    assert curves(folder) == curves(whole)
    assert not (folder / "checkpoints").exists()


def test_another_race_in_the_folder_is_refused_and_overwriting_leaves_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        in_step("lp_ft", 20)(patch)
        with pytest.raises(StoppedError):
            run_race(tmp_path)
    with pytest.raises(ConfigError, match=f"is an arm of a race, which goes on as a whole: name {tmp_path}"):
        daft_rl.transfer(resume=tmp_path / "race" / "lp_ft", env=PointMass, source_env=PointMass, source=build("PPO"))
    with pytest.raises(ConfigError, match=r"unfinished run with another method\.race"):
        run_race(tmp_path, method=a_race("ft_eval"))
    found = (tmp_path / "race" / "race.json").read_text()
    for damaged in (found[:50], found.replace("lp_ft", "lp")):
        (tmp_path / "race" / "race.json").write_text(damaged)
        with pytest.raises(CheckpointError, match=r"race\.json is damaged.*overwrite=True"):
            run_race(tmp_path)
    run_race(tmp_path, method=a_race("ft_eval"), overwrite=True)
    assert [path.name for path in (tmp_path / "race").iterdir()] == ["race.json"]


def test_a_folder_named_race_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "race").mkdir()
    (tmp_path / "race" / "laps.csv").touch()
    with pytest.raises(ConfigError, match="holds race, which no run of daft_rl has left"):
        run_race(tmp_path)
    assert (tmp_path / "race" / "laps.csv").exists()


def test_a_full_disk_is_told_with_the_folder_that_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(CheckpointStore, "write", full)
    with pytest.raises(StorageError, match=f"pass resume='{tmp_path}'"):
        run_race(tmp_path, method=a_race("ft_eval", "lp_ft"), total_timesteps=160, **{"checkpoint.every": None})


# -- where races run ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_grid_holds_races(tmp_path: Path) -> None:
    overrides = [
        *("env=HalfCheetah-shifted", "preset=smoke", "method=auto", "method.race.arms=[ft_eval,lp_ft]"),
        *("method.race.episodes=2", "total_timesteps=512", "num_envs=2", "algo.settings.n_steps=32"),
        *("calibration={steps: 64, held_out: 16}", "vec=threads", f"benchmark.folder={tmp_path}"),
        *("evaluation={episodes: 1, episodes_during: 1, every: 256, elsewhere: []}",),
    ]
    settings = compose_settings("benchmark", overrides)
    cell = run_cell(settings)
    assert cell["status"] == "finished", cell
    (results,) = tmp_path.rglob("results.json")
    told = json.loads(results.read_text())
    assert (told["method"], told["timesteps"], told["race"]["rung"]) == ("auto", 512, 64)
    assert run_cell(settings) == cell
