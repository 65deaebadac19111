"""A long run makes thousands of evaluations, and keeps none that have ended."""

from __future__ import annotations

import os
import weakref
from pathlib import Path

import pytest
from stable_baselines3.common.vec_env import DummyVecEnv

from daft_rl.errors import DaftWarning
from daft_rl.run.environments import Environments
from daft_rl.run.evaluator import Evaluator
from daft_rl.settings import TransferSettings
from tests.conftest import PointMass, build


def evaluator_in(folder: Path) -> Evaluator:
    settings = TransferSettings.from_dict({"env": {"name": "own"}, "method": "ft", "evaluate_in_background": True})
    venv = DummyVecEnv([PointMass])
    return Evaluator(build("PPO"), settings, Environments("dummy"), {"target": venv}, {}, folder)


def test_an_evaluation_that_has_ended_is_forgotten_but_its_time_is_not(tmp_path: Path) -> None:
    evaluator = evaluator_in(tmp_path)
    call = evaluator.start(os.getpid)
    assert call.result() != os.getpid()
    seconds, ended = call.seconds, weakref.ref(call)
    running = evaluator.start(os.getpid)
    del call
    assert ended() is None
    assert evaluator.background_seconds == seconds
    running.result()
    assert evaluator.background_seconds == seconds + running.seconds


def test_without_memory_for_a_fork_no_copy_of_the_policy_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> int:
        raise OSError("Cannot allocate memory")

    copies: list[weakref.ref[object]] = []

    class Copy:
        def __init__(self, _: object) -> None:
            copies.append(weakref.ref(self))

    monkeypatch.setattr(os, "fork", fail)
    monkeypatch.setattr("daft_rl.run.evaluator.PolicyCopy", Copy)
    with pytest.warns(DaftWarning, match="cannot be forked"):
        call = evaluator_in(tmp_path).start(os.getpid)
    assert call.result() == os.getpid()
    assert [copy() for copy in copies] == [None]
