"""A full disk stops a run with one message; nothing is half-written, and the run goes on when there is space."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import daft_rl
from daft_rl.errors import StorageError
from daft_rl.files import refused_by_disk
from daft_rl.run.checkpoints import Checkpoints
from tests.conftest import PointMass, build
from tests.test_resume import ON_POLICY_SETTINGS, SETTINGS, STOP, assert_equal_runs, curves


def allow(size: int) -> None:
    """Let files of this process grow to so many bytes. To whoever writes, more is as a full disk is."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.fixture(autouse=True)
def _no_limit_afterwards() -> Iterator[None]:
    yield
    allow(resource.RLIM_INFINITY)


def fill(self: Checkpoints) -> bool:
    if self.model.num_timesteps >= STOP:
        allow(1)
    return True


@pytest.mark.filterwarnings("ignore:No checkpoint:daft_rl.errors.DaftWarning")
def test_a_run_goes_on_when_there_is_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments: dict[str, Any] = {
        "env": PointMass,
        "method": "daft",
        "source": build("PPO"),
        "settings": SETTINGS | ON_POLICY_SETTINGS,
    }
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    daft_rl.transfer(**arguments, output_dir=whole)
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "_on_step", fill)
        with pytest.raises(StorageError, match=r"cut: \[Errno 27\].*Make space.*resume='.*cut'"):
            daft_rl.transfer(**arguments, output_dir=cut)
        allow(resource.RLIM_INFINITY)
    assert not list(cut.rglob(".unfinished-*"))
    assert not (cut / "results.json").exists()
    daft_rl.transfer(env=PointMass, source=arguments["source"], resume=cut)
    assert_equal_runs(whole, cut)
    assert curves(whole) == curves(cut)


def test_without_space_from_the_start_nothing_is_left(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {
        "env": PointMass,
        "method": "daft",
        "source": build("PPO"),
        "settings": SETTINGS | ON_POLICY_SETTINGS,
    }
    allow(10)
    with pytest.raises(daft_rl.DaftError, match=r"nothing can be written there: \[Errno 27\]"):
        daft_rl.transfer(**arguments, output_dir=tmp_path / "run")
    allow(resource.RLIM_INFINITY)
    assert not (tmp_path / "run").exists()


def test_other_errors_are_not_taken_for_those_of_a_disk() -> None:
    full = OSError(28, "No space left on device")
    assert refused_by_disk(full) is full
    wrapped = RuntimeError("torch.save failed")
    wrapped.__cause__ = full
    assert refused_by_disk(wrapped) is full
    assert refused_by_disk(FileNotFoundError(2, "No such file")) is None
    assert refused_by_disk(None) is None
