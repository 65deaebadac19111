"""Where the time of a run goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

__all__ = ["Phases", "TimedVecEnv"]


class Phases:
    """Seconds by phase. A phase inside another one is taken out of it, so that they add up to the whole."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._running = ["other"]
        self._since = time.perf_counter()

    def _switch(self) -> None:
        now = time.perf_counter()
        phase = self._running[-1]
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._since
        self._since = now

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """What is done inside belongs to ``phase``."""
        self._switch()
        self._running.append(phase)
        try:
            yield
        finally:
            self._switch()
            self._running.pop()

    def as_dict(self) -> dict[str, float]:
        """Seconds until now, the longest phase first."""
        self._switch()
        return dict(sorted(self.seconds.items(), key=lambda item: -item[1]))


class TimedVecEnv(VecEnvWrapper):
    """Its steps and resets are the phase ``simulation``."""

    def __init__(self, venv: VecEnv, phases: Phases) -> None:
        super().__init__(venv)
        self.phases = phases

    def reset(self) -> VecEnvObs:
        """Start new episodes in all environments."""
        with self.phases("simulation"):
            return self.venv.reset()

    def step_async(self, actions: Any) -> None:
        """Tell the environments what to do."""
        with self.phases("simulation"):
            self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Wait for what came of it."""
        with self.phases("simulation"):
            return self.venv.step_wait()
