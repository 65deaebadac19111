"""Where the time of a run goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

__all__ = ["Profile", "TimedVecEnv"]


class Profile:
    """Seconds by phase. A phase inside another one is subtracted from it, so that phases add up to the whole."""

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
        """Count the time spent inside as ``phase``."""
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

    def state_dict(self) -> dict[str, float]:
        """Seconds until now, by phase."""
        return self.as_dict()

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on counting from the seconds of :meth:`state_dict`."""
        self._switch()
        self.seconds = dict(state)


class TimedVecEnv(VecEnvWrapper):
    """Counts its steps and resets as the phase ``simulation``.

    :param venv: any batch of environments
    :param profile: where the time is counted
    """

    def __init__(self, venv: VecEnv, profile: Profile) -> None:
        super().__init__(venv)
        self.profile = profile

    def reset(self) -> VecEnvObs:
        """Start new episodes in all environments."""
        with self.profile("simulation"):
            return self.venv.reset()

    def step_async(self, actions: Any) -> None:
        """Begin a step in all environments."""
        with self.profile("simulation"):
            self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Finish the step."""
        with self.profile("simulation"):
            return self.venv.step_wait()
