"""Arms of a race fall away for cheap signs before they learn, or because they cannot learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

import daft_rl
from daft_rl.agents import BatchNormExtractor
from daft_rl.errors import ConfigError, MethodError, TaskError
from daft_rl.method import find_method
from daft_rl.run import race as racing
from daft_rl.run.signs import Signs, start_problems
from tests.conftest import PointMass, build
from tests.run.test_race import SETTINGS, a_race, left, run_race
from tests.run.test_verdict import played
from tests.test_resume import OFF_POLICY_SETTINGS, GoalMass, curves, with_hindsight


def why_left_out(result: daft_rl.TransferResult, name: str) -> str:
    assert result.race is not None
    return str(result.race["arms"][name]["left_out"])


def test_arms_that_do_the_same_on_this_agent_are_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = PPO("MlpPolicy", PointMass(), n_steps=32, batch_size=32, seed=1, device="cpu")
    with monkeypatch.context() as patch:
        patch.setattr(racing._Race, "_start", None)  # nothing is loaded to find out that an arm does not fit
        result = run_race(tmp_path / "race", plain, "auto")
    assert capsys.readouterr() == ("", "")  # nobody looks: progress_bar=False
    assert left(result) == ["ft_eval"]
    assert why_left_out(result, "ft") == why_left_out(result, "daft") == "does the same as ft_eval here"
    assert "nothing normalizes" in why_left_out(result, "daft_realign")
    assert result.race is not None
    assert (result.race["rung"], result.race["why"]) == (0, "the only arm left")
    alone = run_race(tmp_path / "alone", plain, "ft_eval")
    assert (result.final, result.curve) == (alone.final, alone.curve)
    assert "race" not in {tag.partition("/")[0] for tag in curves(tmp_path / "race")}


@pytest.mark.parametrize("idle", [{"keep_source": False}, {"preserve_function": False}])
def test_fields_without_effect_make_no_other_method(idle: dict[str, Any]) -> None:
    signs = Signs(32, 0, True, False, frozenset(), can_stop=True, misfits={})
    plain = find_method("ft_eval")
    other = find_method(plain.as_dict() | {"name": "other"} | idle)
    assert signs.same({"ft_eval": plain, "other": other}) == {"other": "ft_eval"}
    acting = {"name": "acting", "conversion": "once", "realign": 1.5}
    assert not signs.same({"one": find_method(acting), "other": find_method(acting | idle)})


def test_a_race_says_nothing_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = {"total_timesteps": 32}  # each time that the source is loaded this is told
    run_race(tmp_path, method=find_method("auto"), progress_bar=True, **few)
    told = capsys.readouterr().err.splitlines()
    assert sum("is one rollout" in line for line in told) == 1
    assert told[0] == "To PointMass by auto, which chooses from ft_eval, daft, daft_realign, ft. Loading PPO."
    assert {"race: playing the policy that ft would start from.", "race: ft_eval wins: the only arm left"} < {*told}


def test_conversion_is_no_difference_with_running_statistics_but_is_one_with_batch_statistics(tmp_path: Path) -> None:
    result = run_race(tmp_path, method=a_race("ft_eval", "daft", "daft_conversion_only"))
    assert left(result) == ["ft_eval", "daft_conversion_only"]


def test_crossq_races_with_batch_statistics_only(tmp_path: Path) -> None:
    result = run_race(tmp_path / "one", build("CrossQ"), a_race("ft_eval", "daft"), **OFF_POLICY_SETTINGS)
    assert left(result) == ["daft"]
    assert why_left_out(result, "ft_eval") == "crossq needs batch statistics in updates"
    few = OFF_POLICY_SETTINGS | {"total_timesteps": 64}
    none_is_clear = run_race(tmp_path / "none", build("CrossQ"), a_race("ft", "ft_eval"), **few)
    assert left(none_is_clear) == ["ft"]


OFFSET = np.array([0, 50, 0], np.float32)


class Offset(PointMass):
    """A sensor far from where it was. Each step costs something."""

    def reset(self, **kwargs: Any) -> Any:
        observation, info = super().reset(**kwargs)
        return observation + OFFSET, info

    def step(self, action: Any) -> Any:
        observation, *rest, info = super().step(action)
        return observation + OFFSET, *rest, info | {"cost": 1.0}


@pytest.fixture(scope="module")
def skilled() -> PPO:
    """Knows a little, and depends on its inputs."""
    venv = VecNormalize(DummyVecEnv([PointMass] * 4), gamma=0.9)
    return PPO("MlpPolicy", venv, n_steps=64, gamma=0.9, seed=1, device="cpu", learning_rate=3e-3).learn(8192)


@pytest.mark.parametrize(("env", "helps"), [(PointMass, False), (Offset, True)])
def test_realignment_is_taken_where_the_policy_starts_clearly_better_for_it(
    env: Any, helps: bool, skilled: PPO, tmp_path: Path
) -> None:
    settings = SETTINGS | {"num_envs": 8, "calibration.steps": 800, "evaluation.episodes": 8}

    def run(method: Any, folder: str, **more: Any) -> daft_rl.TransferResult:
        given: dict[str, Any] = {"source_env": PointMass, "output_dir": tmp_path / folder, "settings": settings | more}
        return daft_rl.transfer(env, method, skilled, **given)

    result = run(a_race("ft_eval", "daft_realign"), "race")
    winner, other = ("daft_realign", "ft_eval") if helps else ("ft_eval", "daft_realign")
    assert left(result) == [winner]
    assert why_left_out(result, other).startswith(
        "starts clearly below daft_realign: -"
        if helps
        else "realignment moves no input, so that it does the same as ft_eval here"
    )
    assert result.final == run(winner, "alone").final
    if helps:
        assert result.realigned is not None
        folder = tmp_path / "race"
        assert daft_rl.blend(folder, env=env, source_env=PointMass, alphas=[0.0, 1.0]).returns[1.0] == result.final
        limited = run(a_race("ft_eval", "daft_realign"), "limited", **{"env.cost_limit": 5, "total_timesteps": 1024})
        assert left(limited) == ["ft_eval", "daft_realign"]  # what returns more may cost more


def test_an_arm_of_which_nobody_has_seen_the_start_is_not_said_to_start_below_another(
    skilled: PPO, tmp_path: Path
) -> None:
    """Statistics that are replaced make another policy than the source's, whose returns say nothing about it."""
    settings = SETTINGS | {"num_envs": 8, "calibration.steps": 800, "evaluation.episodes": 8, "evaluation.every": 600}
    arms = a_race("adabn", "lp", "daft_realign")
    result = daft_rl.transfer(Offset, arms, skilled, output_dir=tmp_path, settings=settings)
    assert left(result) == ["adabn", "daft_realign"]
    assert why_left_out(result, "lp").startswith("starts clearly below daft_realign: -")


def test_what_starts_clearly_below_another_falls_away() -> None:
    source = played([10.0, 11.0, 12.0])
    starts = {
        "better": played([30.0, 31.0, 33.0]),
        "best": played([40.0, 41.0, 42.0]),
        "worse": played([5.0, 6.0, 6.0]),
        "unclear": played([10.0, 11.0, 50.0]),
    }
    assert start_problems(source, starts, ["same"], keep=0.0) == {
        "worse": "does not start clearly above the source: -5.33 ± 0.33 in 3 episodes",
        "unclear": "does not start clearly above the source: 13 ± 13 in 3 episodes",
        "same": "starts clearly below better: -20.33 ± 0.33 in 3 episodes",
        "better": "starts clearly below best: -9.67 ± 0.33 in 3 episodes",
    }
    limited = start_problems(source, starts, ["same"], keep=0.0, cost_limit=25.0)
    assert limited.keys() == {"worse", "unclear"}  # what returns more may cost more
    unclear = {"unclear": starts["unclear"]}
    assert start_problems(source, unclear, ["same"], keep=0.0).keys() == {"unclear"}


def test_an_arm_whose_realignment_moves_nothing_races_for_what_else_it_is(skilled: PPO, tmp_path: Path) -> None:
    slow = find_method("daft_realign").as_dict() | {"name": "slow", "actor_head": {"scale": 0.1}}
    result = run_race(tmp_path, skilled, a_race("ft_eval", slow), **{"calibration.steps": 800, "num_envs": 8})
    assert left(result) == ["ft_eval", "slow"]


def test_the_last_arm_stays_whatever_its_sign(tmp_path: Path, skilled: PPO) -> None:
    result = run_race(tmp_path, skilled, a_race("daft_realign"))
    assert left(result) == ["daft_realign"]


def test_arms_that_diverge_or_do_not_fit_fall_away(tmp_path: Path) -> None:
    wild = {"name": "wild", "actor_head": {"scale": 1e30}}
    result = run_race(tmp_path / "one", method=a_race(wild, "ft_eval", "lp_ft"))
    assert "wild" not in left(result)
    assert "diverged" in why_left_out(result, "wild") or "PyTorch refuses" in why_left_out(result, "wild")
    assert result.timesteps == 512
    if "last_good.zip" in why_left_out(result, "wild"):
        assert (tmp_path / "one" / "race" / "wild" / "last_good.zip").exists()
    plain = PPO("MlpPolicy", PointMass(), n_steps=32, batch_size=32, seed=1, device="cpu")
    with pytest.raises(MethodError, match=r"no arm that can go on.*daft_realign: .*nothing normalizes"):
        run_race(tmp_path / "other", plain, a_race("daft_realign"))
    assert not (tmp_path / "other").exists()


def test_an_arm_that_cannot_learn_costs_no_steps(tmp_path: Path) -> None:
    frozen = {name: {"frozen_until": 0.1} for name in ("actor_encoder", "actor_head", "critic_encoder", "critic_head")}
    result = run_race(tmp_path, method=a_race("ft_eval", {"name": "frozen", **frozen}), total_timesteps=128)
    assert "freezes actor_encoder" in why_left_out(result, "frozen")
    assert (result.timesteps, result.race and result.race["rung"]) == (128, 0)


def test_an_arm_for_which_the_policy_has_no_place_falls_away(tmp_path: Path) -> None:
    """A linear policy, into which BatchNorm cannot be inserted."""
    venv = VecNormalize(DummyVecEnv([PointMass]))
    linear: dict[str, Any] = {"net_arch": []}
    source = PPO("MlpPolicy", venv, n_steps=32, batch_size=32, policy_kwargs=linear, device="cpu").learn(64)
    result = run_race(tmp_path, source, "auto", total_timesteps=128)
    assert left(result) == ["ft_eval"]
    assert "no place for BatchNorm" in why_left_out(result, "daft_realign")


class Bare(BatchNormExtractor):
    """BatchNorm without scale and shift, which cannot be converted."""

    def __init__(self, space: Any) -> None:
        super().__init__(space, hidden=())
        self.net = nn.Sequential(nn.BatchNorm1d(3, affine=False), nn.Linear(3, 3))


def test_an_arm_that_cannot_convert_falls_away(tmp_path: Path) -> None:
    bare: dict[str, Any] = {"features_extractor_class": Bare, "net_arch": []}
    source = PPO("MlpPolicy", PointMass(), n_steps=64, batch_size=32, policy_kwargs=bare, device="cpu")
    result = run_race(tmp_path, source, a_race("ft_eval", "daft_realign"), total_timesteps=64)
    assert left(result) == ["ft_eval"]
    assert "affine=False" in why_left_out(result, "daft_realign")


def test_an_arm_whose_start_the_environment_does_not_bear_falls_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise TaskError("An episode has not ended.")

    monkeypatch.setattr(racing, "refresh", refuse)
    result = run_race(tmp_path, method=a_race("ft_eval", "ft"), total_timesteps=64)
    assert (left(result), why_left_out(result, "ft")) == (["ft_eval"], "An episode has not ended.")


def test_an_agent_that_no_checkpoint_can_keep_does_not_race(tmp_path: Path) -> None:
    settings = {**SETTINGS, **OFF_POLICY_SETTINGS, "total_timesteps": 200, "checkpoint.every": None}
    source = with_hindsight(copy_info_dict=True)
    result = daft_rl.transfer(GoalMass, a_race("ft_eval", "lp_ft"), source, settings=settings, output_dir=tmp_path)
    assert left(result) == ["ft_eval"]
    assert why_left_out(result, "lp_ft") == "no checkpoint can keep what this agent needs to go on after a race"


def test_keep_needs_a_source(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"keep=0\.3 counts the return on the source"):
        daft_rl.transfer(PointMass, a_race(keep=0.3), build("PPO"), output_dir=tmp_path, settings=SETTINGS)
