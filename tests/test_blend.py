"""``daft_rl.blend``: plays between the source and the fine-tuned policy of a run, and writes one policy of the path."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import yaml
from gymnasium.wrappers import TimeAwareObservation, TimeLimit
from stable_baselines3 import PPO

import daft_rl
from daft_rl.archives import load_agent
from daft_rl.blend import Blend, main
from daft_rl.errors import ConfigError
from daft_rl.rollout.returns import Returns
from tests.conftest import PointMass, build, parse
from tests.envs.test_domain import OFF_POLICY, ON_POLICY, TINY
from tests.test_resume import ON_POLICY_SETTINGS, SETTINGS


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    settings = SETTINGS | ON_POLICY_SETTINGS | {"total_timesteps": 256}
    daft_rl.transfer(PointMass, "daft", build("PPO"), settings=settings, output_dir=folder, source_env=PointMass)
    return folder


def weights(path: Path) -> dict[str, Any]:
    return {name: tensor.tolist() for name, tensor in load_agent(path).policy.state_dict().items()}


def test_the_final_policy_is_one_end(run: Path) -> None:
    result = daft_rl.blend(run, 1.0, env=PointMass, source_env=PointMass)
    final = json.loads((run / "results.json").read_text())["final"]
    assert result.returns[1.0]["target"].returns == final["target"]["returns"]
    assert result.returns[0.0]["target"].returns != final["target"]["returns"]
    assert weights(run / "blend.zip") == weights(run / "final.zip")
    assert PPO.load(run / "blend.zip").num_timesteps > 0  # plain SB3 reads it


def test_a_point_between_is_written_and_shown(run: Path) -> None:
    result = daft_rl.blend(run, 0.3, alphas=[0.0, 1.0], episodes=3, env=PointMass, source_env=PointMass)
    assert list(result.returns) == [0.0, 0.3, 1.0]
    assert len(result.returns[0.3]["source"].returns) == 3
    shown = json.loads((run / "blend.json").read_text())
    assert (shown["alpha"], [point["alpha"] for point in shown["points"]]) == (0.3, [0.0, 0.3, 1.0])
    assert (run / "blend.png").read_bytes().startswith(b"\x89PNG")
    name = "action_net.weight"
    start, middle, final = (
        load_agent(run / f"{one}.zip").policy.state_dict()[name] for one in ("start", "blend", "final")
    )
    assert middle.allclose(start + 0.3 * (final - start))


def test_a_loss_is_measured_from_the_start(run: Path) -> None:
    settings: dict[str, Any] = {"env": PointMass, "source_env": PointMass, "episodes": 1, "alphas": [0.5]}
    assert list(daft_rl.blend(run, "target", most_loss=0.1, **settings).returns) == [0.0, 0.5]


def points(**by_role: list[float]) -> dict[float, dict[str, Returns]]:
    alphas = [index / 4 for index in range(5)]
    return {a: {role: Returns([v[i]] * 2, [1, 1]) for role, v in by_role.items()} for i, a in enumerate(alphas)}


@pytest.mark.parametrize(
    ("take", "most_loss", "expected"),
    [("target", None, 1.0), ("sum", None, 0.75), ("target", 0.1, 0.5), ("sum", 0.0, 0.0), ("target", 1.0, 1.0)],
)
def test_the_policy_that_is_asked_for_is_taken(
    take: str, most_loss: float | None, expected: float, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = points(target=[10, 20, 40, 60, 65], source=[100, 98, 95, 85, 70])
    play = daft_rl.blend._play  # type: ignore[attr-defined]
    monkeypatch.setattr("daft_rl.blend._play", lambda *args: (play(*args)[0], played))
    settings: dict[str, Any] = {"env": PointMass, "source_env": PointMass, "episodes": 1, "alphas": [1.0]}
    assert daft_rl.blend(run, take, most_loss=most_loss, **settings).alpha == expected


def test_a_gap_in_the_path_is_found() -> None:
    result = Blend(points(target=[1, 2, 0, 3, 4], source=[9, 8, 7, 6, 5]), 0.0, Path())
    assert (result.broken("target"), result.broken("source")) == ([0.5], [])


def test_a_hair_is_no_gap() -> None:
    """Policies that play alike in all episodes differ beyond their noise by any difference at all."""
    result = Blend(points(target=[100, 100, 96, 101, 102], source=[100, 100, 94, 101, 102]), 0.0, Path())
    assert (result.broken("target"), result.broken("source")) == ([], [0.5])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"take": "best"}, "take='best'"),
        ({"take": 1.5}, "from 0"),
        ({"alphas": []}, "from 0"),
        ({"most_loss": 2}, "most_loss=2"),
        ({"source_env": None}, "source_env"),
        ({"env": None, "source_env": None}, "pass it: env"),
        ({"env": None}, "source_env goes with env"),
        ({"take": None}, "take=None"),
        ({"take": True}, "take=True"),
        ({"alphas": 0.5}, "alphas=0.5"),
        ({"alphas": ["0.5"]}, "expected a list of numbers"),
        ({"most_loss": "0.1"}, "most_loss='0.1'"),
        ({"take": 1, "most_loss": 0.1}, "most_loss=0.1"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any], message: str, run: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        daft_rl.blend(run, **{"env": PointMass, "source_env": PointMass} | given)


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_played(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("daft_rl.blend.TemporaryDirectory", refuse)
    with pytest.raises(ConfigError, match="Copy the folder"):
        daft_rl.blend(run, env=PointMass, source_env=PointMass)


def test_code_of_a_run_is_executed_only_by_ones_own_word(run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["agent"]["trust"] = True
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ConfigError, match="executes code"):
        daft_rl.blend(folder, env=PointMass, source_env=PointMass)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("has_batchnorm", [False, True])  # whose means, which entries without a sensor are at, move
def test_an_agent_for_another_body_plays_on_its_source_too(has_batchnorm: bool, tmp_path: Path) -> None:
    plain = PPO("MlpPolicy", PointMass(), n_steps=64, device="cpu")
    (build("PPO") if has_batchnorm else plain).save(tmp_path / "agent.zip")
    run = tmp_path / "run"
    settings = parse([*TINY, *ON_POLICY]) | {"agent.correspondence": "positions", "evaluation.episodes": 1}
    environments: Any = {"env": lambda: TimeAwareObservation(TimeLimit(PointMass(), 10)), "source_env": PointMass}
    daft_rl.transfer(
        method="ft",
        source=tmp_path / "agent.zip",
        total_timesteps=512,
        output_dir=run,
        settings=settings,
        **environments,
    )
    played = daft_rl.blend(run, alphas=[0.0, 1.0], **environments).returns
    final = json.loads((run / "results.json").read_text())["final"]
    assert played[1.0].keys() == final.keys() == {"target", "source"}
    for role, returns in final.items():
        assert played[1.0][role].returns == returns["returns"]


class Ordered(PointMass):
    """Tells names in the order that it is asked for."""

    action_names = ("u", "v")

    def __init__(self, names: str = "abc") -> None:
        super().__init__()
        self.observation_names = tuple(names)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_agent_that_sb3_has_read_plays_on_its_source_as_in_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gym, "registry", dict(gym.registry))
    gym.register("Ordered-v0", lambda **kwargs: Ordered(**kwargs), max_episode_steps=20)
    PPO("MlpPolicy", PointMass(), n_steps=64, device="cpu").save(tmp_path / "agent.zip")
    settings = parse([*TINY, *ON_POLICY, "agent.trust=true", "evaluation.episodes=1", "env.kwargs={names: cba}"])
    result = daft_rl.transfer(
        "Ordered-v0", "ft", tmp_path / "agent.zip", total_timesteps=64, output_dir=tmp_path / "run", settings=settings
    )
    played = daft_rl.blend(tmp_path / "run", 1.0, alphas=[], trust=True).returns
    assert played[1.0]["source"].returns == result.final["source"].returns


def test_batch_renormalization_computes_as_in_the_run(tmp_path: Path) -> None:
    settings = parse([*TINY, *OFF_POLICY]) | {"evaluation.episodes": 2}
    result = daft_rl.transfer(
        PointMass, "daft", source=build("CrossQ"), total_timesteps=40, output_dir=tmp_path, settings=settings
    )
    played = daft_rl.blend(tmp_path, 1.0, alphas=[], env=PointMass).returns
    assert played[1.0]["target"].returns == result.final["target"].returns


def test_a_folder_without_a_finished_transfer_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path)])
    assert (stop.value.code, capsys.readouterr().err.count("\n")) == (2, 1)


@pytest.mark.usefixtures("short_episodes")
def test_the_command_line_plays_a_task_of_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"num_envs": 2, "calibration.steps": 100, "calibration.held_out": 50, "progress_bar": False}
    settings |= {"evaluation.episodes": 2, "evaluation.episodes_during": 1, "algo.settings.n_steps": 64}
    daft_rl.transfer("HalfCheetah-shifted", "daft", total_timesteps=256, output_dir=tmp_path, settings=settings)
    main([str(tmp_path), "--take", "0.5", "--alphas", "0", "1"])
    printed = capsys.readouterr().out
    assert "0.5 *" in printed
    assert (tmp_path / "blend.zip").is_file()
    script = [sys.executable, "-m", "daft_rl.blend", str(tmp_path / "nothing")]
    assert subprocess.run(script, capture_output=True, check=False).returncode == 2
