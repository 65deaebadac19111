"""Wrong invocations end at once, with one message, and leave nothing behind."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from daft_rl import adapt, levels, load_agent, transfer
from daft_rl.cli import compose_settings, run_command
from daft_rl.errors import ConfigError, DaftError
from daft_rl.plan import check_plan
from daft_rl.pretrain import refuse_overrides
from daft_rl.settings import TransferSettings
from tests.invocations import ROOT, Invocation, read_table, write_files

TABLE = read_table()
CHECKS: dict[str, Any] = {"pretrain": {"check": refuse_overrides}}


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("named")
    write_files(folder)
    return folder


def run_here(program: str) -> None:
    """The program in this process, up to where a run would begin."""
    if program == "report":
        importlib.import_module("daft_rl.report.__main__").main()
    else:
        run_command(program, lambda settings: pytest.fail("it would run"), **CHECKS.get(program, {}))


def test_the_table_is_long() -> None:
    assert len(TABLE) >= 150
    assert len({invocation.line for invocation in TABLE}) == len(TABLE)


@pytest.mark.parametrize("invocation", TABLE, ids=lambda invocation: invocation.line)
def test_a_wrong_invocation_is_one_message(
    invocation: Invocation,
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [invocation.program, *invocation.with_files(files)])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(SystemExit) as ended:
        run_here(invocation.program)
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert invocation.message in said.err
    assert "Traceback" not in said.err
    if "usage:" not in said.err:
        assert len(said.err.strip().splitlines()) == 1, said.err
    assert said.out == ""
    assert not list(tmp_path.iterdir())


def test_a_few_as_real_processes_end_within_seconds(files: Path, tmp_path: Path) -> None:
    for line in ("transfer seed=null", "pretrain recipe=Ant-ppoo", "report FILE"):
        invocation = next(invocation for invocation in TABLE if invocation.line == line)
        done = subprocess.run(
            [sys.executable, "-m", f"daft_rl.{invocation.program}", *invocation.with_files(files)],
            cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 2
        assert invocation.message in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert not list(tmp_path.iterdir())


def test_a_late_refusal_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(settings: TransferSettings) -> None:
        settings.output_dir.mkdir(parents=True, exist_ok=True)
        (settings.output_dir / "config.yaml").write_text("")
        raise ConfigError("too late")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["transfer", "output_dir=some/where"])
    with pytest.raises(SystemExit, match="2"):
        run_command("transfer", refuse)
    assert capsys.readouterr().err == "too late\n"
    assert not list(tmp_path.iterdir())


def test_a_run_folder_that_is_named_is_the_only_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["transfer", "output_dir=here"])
    run_command("transfer", lambda settings: None)
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


@pytest.mark.parametrize(
    "call",
    [
        lambda: levels(None),  # type: ignore[arg-type]
        lambda: transfer(lambda: 3, source="Ant-ppo", output_dir="out"),  # type: ignore[arg-type, return-value]
        lambda: transfer(_raising, source="Ant-ppo", output_dir="out"),
        lambda: transfer(shift=5, output_dir="out"),  # type: ignore[arg-type]
        lambda: transfer(source=3, output_dir="out"),  # type: ignore[arg-type]
        lambda: transfer(algo=[], output_dir="out"),  # type: ignore[arg-type]
        lambda: transfer(None, output_dir="out"),  # type: ignore[arg-type]
        lambda: transfer(settings={"algo.settings.gamma": object()}, output_dir="out"),
        lambda: transfer("tests.faulty:Raises-v0", source="Ant-ppo", output_dir="out"),
        lambda: load_agent("Ant-ppo.zip", algo=5),  # type: ignore[arg-type]
        lambda: adapt(3),  # type: ignore[arg-type]
    ],
)
def test_the_python_doors_refuse_in_our_words(
    call: Callable[[], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DaftError):
        call()
    assert not list(tmp_path.iterdir())


def _raising() -> gym.Env:
    raise RuntimeError("init boom")


@pytest.mark.parametrize(("shift", "warned"), [("gravity=-1", 1), ("mass=1e-30", 1), ("gravity=0.5", 0)])
def test_a_shift_that_is_hardly_meant_is_told(shift: str, warned: int) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        check_plan(compose_settings("transfer", ["env=HalfCheetah", f"env.shift.{shift}", "output_dir=out"]))
    assert sum("Is it meant?" in str(warning.message) for warning in told) == warned
