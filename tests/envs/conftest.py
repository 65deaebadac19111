"""Batches and environments that are closed after tests."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from daft_rl.envs.batch.threads import ThreadedMujocoVecEnv
from daft_rl.envs.batch.workers import WorkerVecEnv
from daft_rl.envs.robosuite import RobosuiteShift
from daft_rl.envs.robosuite.environment import RobosuiteEnv
from tests.envs.processes import worker_processes


@pytest.fixture
def engines() -> Any:
    """Makes a ``DummyVecEnv`` and an equal ``ThreadedMujocoVecEnv``, and resets both."""
    made: list[VecEnv] = []

    def build(*fns: Callable[[], gym.Env]) -> tuple[DummyVecEnv, ThreadedMujocoVecEnv]:
        both = DummyVecEnv(list(fns)), ThreadedMujocoVecEnv(list(fns), num_threads=2)
        made.extend(both)
        for venv in both:
            venv.seed(0)
            venv.reset()
        return both

    yield build
    for venv in made:
        venv.close()


@pytest.fixture
def no_process_stays() -> Iterator[None]:
    """Checks that a test leaves no worker behind."""
    before = set(worker_processes())
    yield
    gc.collect()
    assert set(worker_processes()) <= before


@pytest.fixture
def build() -> Iterator[Callable[..., WorkerVecEnv]]:
    """Makes batches in workers, and closes them after the test."""
    made: list[WorkerVecEnv] = []

    def build(*args: Any) -> WorkerVecEnv:
        made.append(WorkerVecEnv(*args))
        return made[-1]

    yield build
    for venv in made:
        venv.close()


@pytest.fixture(scope="module")
def plain() -> Iterator[dict[str, RobosuiteEnv]]:
    """One unshifted instance of each task for all tests, since a reset with a seed forgets everything."""
    envs = {base: RobosuiteEnv(base, RobosuiteShift()) for base in ("Door", "Wipe")}
    yield envs
    for env in envs.values():
        env.close()
