"""Which engine a run learns with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from daft_rl.cli import compose_settings
from daft_rl.envs.domain import Domain, read_domains
from daft_rl.errors import ConfigError, TaskError
from daft_rl.run.engine import choose_engine
from daft_rl.settings import read_cuda

ANT = read_domains({"name": "Ant-shifted"})["target"]


def settings(*overrides: str, program: str = "transfer") -> Any:
    return compose_settings(program, ["output_dir=somewhere", *overrides])


@pytest.mark.parametrize(
    ("overrides", "gpu", "expected"),
    [
        ([], False, ("auto", "auto")),
        (["num_envs=4096"], False, ("auto", "auto")),
        ([], True, ("auto", "cpu")),
        (["num_envs=4096"], True, ("cuda", "cuda")),
        (["num_envs=4096", "device=cuda:1"], True, ("cuda", "cuda:1")),
        (["num_envs=4096", "device=cpu"], True, ("auto", "cpu")),
        (["num_envs=4096", "vec=threads"], True, ("threads", "cpu")),
        (["device=cuda"], True, ("auto", "cuda")),
        (["vec=cuda"], True, ("cuda", "cuda")),
        (["vec=cuda", "device=cpu"], False, ("cuda", "cpu")),
    ],
)
def test_the_gpu_is_taken_where_it_is_faster_or_asked_for(
    overrides: list[str], gpu: bool, expected: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr("daft_rl.run.engine.find_spec", lambda name: object())
    chosen = choose_engine(settings(*overrides), ANT)
    assert (chosen.vec, chosen.device) == expected


def test_a_choice_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    choose_engine(settings(), ANT)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("num_envs=16: vec=auto device=cpu, since small networks are faster there")


def test_worlds_without_a_gpu_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="finds none here"):
        choose_engine(settings("vec=cuda"), ANT)


def test_worlds_of_an_environment_of_ones_own_are_refused() -> None:
    own = Domain("mine", maker=ANT.make)
    with pytest.raises(TaskError, match="your own"):
        own.make_vec(2, "cuda", "cpu")


def test_worlds_have_a_budget_of_their_own_which_the_user_can_change() -> None:
    plain, many = settings(), settings("vec=cuda")
    assert (plain.num_envs, plain.total_timesteps, plain.algo.settings["n_steps"]) == (16, 200_000, 128)
    assert (many.num_envs, many.total_timesteps, many.algo.settings["n_steps"]) == (4096, 4_000_000, 8)
    assert settings("vec=cuda", "num_envs=8", "algo.settings.n_steps=4").num_envs == 8


def test_python_reads_the_same_budget() -> None:
    budget, many = read_cuda("ppo"), settings("vec=cuda")
    assert (budget["num_envs"], budget["algo"]["adaptive_kl"]) == (many.num_envs, many.algo.adaptive_kl)
    assert read_cuda("unknown") == {}


def test_a_source_has_a_recipe_for_worlds(tmp_path: Path) -> None:
    found = settings("vec=cuda", "env=HalfCheetah", program="pretrain")
    assert (found.recipe.name, found.num_envs, found.recipe.adaptive_kl) == ("HalfCheetah-ppo-cuda", 4096, 0.01)
    assert settings("env=HalfCheetah", program="pretrain").recipe.name == "HalfCheetah-ppo"
