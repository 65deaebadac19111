"""Wrong invocations end at once, with one message, and leave nothing behind."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from daft_rl import adapt, levels, load_agent, transfer
from daft_rl.archives import find_agent
from daft_rl.cli import compose_settings, run_command
from daft_rl.errors import ConfigError, DaftError
from daft_rl.plan import check_plan
from daft_rl.pretrain import refuse_overrides
from daft_rl.run.lock import FolderLock
from daft_rl.settings import TransferSettings
from tests.faulty import Draws
from tests.invocations import ROOT, Invocation, groups_composed_once, read_table, write_files

TABLE = read_table()
QUIET = ("hydra/job_logging=none", "hydra/hydra_logging=none")
"""Logging is set up once per process: again, absl's handler would close the stream that pytest captures."""
CHECKS: dict[str, Any] = {"pretrain": {"check": refuse_overrides}}


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    with groups_composed_once():
        yield


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
        assert settings.output_dir is not None
        settings.output_dir.mkdir(parents=True, exist_ok=True)
        (settings.output_dir / "config.yaml").write_text("")
        raise ConfigError("too late")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["transfer", "output_dir=some/where", *QUIET])
    with pytest.raises(SystemExit, match="2"):
        run_command("transfer", refuse)
    assert capsys.readouterr().err == "too late\n"
    assert not list(tmp_path.iterdir())


def test_a_late_refusal_leaves_the_folder_of_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def begin_elsewhere(settings: TransferSettings) -> None:
        """Another process makes the same folder between the checks and the start, and begins to run."""
        assert settings.output_dir is not None
        settings.output_dir.mkdir(parents=True, exist_ok=True)
        other = FolderLock(settings.output_dir)
        try:
            FolderLock(settings.output_dir)
        finally:
            other.release()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["transfer", "output_dir=some/where", *QUIET])
    with pytest.raises(SystemExit, match="2"):
        run_command("transfer", begin_elsewhere)
    assert (tmp_path / "some" / "where" / "run.lock").exists()


def test_a_run_folder_that_is_named_is_the_only_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["transfer", "output_dir=here", *QUIET])
    run_command("transfer", lambda settings: None)
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


@pytest.mark.parametrize(
    "call",
    [
        lambda: levels(None),  # type: ignore[arg-type]
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


ACCEPTED = [
    "transfer algo.settings.learning_rate=1.5",
    "transfer algo.settings.batch_size=1 +algo.settings.normalize_advantage=false",
    "transfer env=HalfCheetah-shifted algo=crossq algo.settings.gradient_steps=-1",
    "transfer env=HalfCheetah-shifted algo=crossq algo.settings.gradient_steps=0",
    "transfer env=gymnasium env.id=Pendulum-v1 env.wrappers=['tests.faulty:as_it_is'] agent=AGENT algo=ppo",
    "transfer ~env.shift.friction ~algo.settings.n_steps",
    "transfer vec=cuda device=cpu num_envs=2 algo.adaptive_kl=0.02",
    "transfer vec=cuda device=cpu ~cuda",
    "transfer vec=cuda device=cpu cuda=none algo.adaptive_kl=0.02",
    "transfer cuda=ppo",
    "pretrain vec=cuda device=cpu",
    "pretrain env=HalfCheetah recipe=HalfCheetah-ppo-cuda recipe.adaptive_kl=0.02",
]
"""What somebody may mean."""


@pytest.mark.parametrize("line", ACCEPTED)
def test_what_somebody_may_mean_is_accepted(line: str) -> None:
    if "vec=cuda" in line:
        pytest.importorskip("mujoco_warp")
    program, *arguments = line.replace("AGENT", str(find_agent("Ant", "ppo"))).split()
    check_plan(compose_settings(program, [*arguments, "output_dir=out"]))


def test_a_configuration_of_ones_own_extends_the_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my").mkdir()
    (tmp_path / "my" / "run.yaml").write_text("# @package _global_\nseed: 3\nevaluation: {episodes: 2}\n")
    seeds: list[int] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["transfer", "--config-dir", str(tmp_path), "+my=run", "output_dir=out", *QUIET])
    run_command("transfer", lambda settings: seeds.append(settings.seed))
    assert seeds == [3]


def test_an_environment_that_is_tried_leaves_random_numbers_alone() -> None:
    agent = find_agent("Ant", "ppo")
    settings = compose_settings(
        "transfer", ["env=gymnasium", "env.id=tests.faulty:Draws-v0", f"agent={agent}", "algo=ppo", "output_dir=out"]
    )
    np.random.seed(1)
    before = np.random.get_state()[1].tolist()  # type: ignore[union-attr, index]
    check_plan(settings)
    assert np.random.get_state()[1].tolist() == before  # type: ignore[union-attr, index]
    assert Draws.open == 0


@pytest.mark.parametrize(
    ("shift", "warned"),
    [
        *[("gravity=-1", 1), ("mass=1e-30", 1), ("gravity=0.5", 0)],
        *[("gravity={low: -1, high: 1}", 1), ("gravity={low: 0.5, high: 2}", 0)],
    ],
)
def test_a_shift_that_is_hardly_meant_is_told(shift: str, warned: int) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        check_plan(compose_settings("transfer", ["env=HalfCheetah", f"env.shift.{shift}", "output_dir=out"]))
    assert sum("Is it meant?" in str(warning.message) for warning in told) == warned
