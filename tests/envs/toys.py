"""A fast environment that can fail, and exact comparisons of nested data."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from daft_rl.errors import TaskError

# Pickled as if a script had defined them: workers then do not import this module, and with it PyTorch.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


Factory = Callable[[], gym.Env]


SPACES: dict[str, spaces.Space[Any]] = {
    "box": spaces.Box(-3.0, 3.0, (4,), np.float64),
    "image": spaces.Box(0, 255, (3, 5, 1), np.uint8),
    "discrete": spaces.Discrete(7, start=2),
    "dict": spaces.Dict({"z": spaces.Box(-1, 1, (2, 3)), "a": spaces.Discrete(3), "flags": spaces.MultiBinary(4)}),
    "tuple": spaces.Tuple((spaces.Box(-1, 1, (2,), np.float64), spaces.Discrete(5))),
}


class Toy(gym.Env[Any, Any]):
    """Returns random numbers that depend on seed and actions. ``fault`` says where and how it fails."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 7}

    def __init__(self, space: str = "box", discrete: bool = False, fault: str = "", render: bool = False) -> None:
        if fault == "constructor":
            raise TaskError("Unknown task 'Toi'. Did you mean 'Toy'?")
        self.observation_space = SPACES[space]
        self.action_space = spaces.Discrete(3) if discrete else spaces.Box(-1.0, 1.0, (2,))
        self.fault, self.render_mode = fault, "rgb_array" if render else None
        self.lock = threading.Lock()  # cannot be pickled

    def _observe(self) -> Any:
        self.observation_space.seed(int(self.np_random.integers(1 << 30)))
        return self.observation_space.sample()

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if self.fault == "reset":
            raise ValueError("no reset today")
        return self._observe(), {"seed": seed, "options": options, "drawn": self.np_random.random()}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.fail()
        terminated, truncated = self.np_random.random(2) < 0.15
        reward = float(np.sum(action)) + self.np_random.normal()
        info = {"action": action, "nested": {"x": [self.np_random.random(3)]}, "scalar": np.float32(reward)}
        return self._observe(), reward, bool(terminated), bool(truncated), info

    def fail(self, how: str | None = None) -> None:
        how = how or self.fault
        if how == "step":
            raise ZeroDivisionError("no step today")
        if how == "SIGKILL":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "exit":
            sys.exit(5)
        if how == "_exit":
            os._exit(3)
        if how == "stuck":
            threading.Event().wait()

    def render(self) -> Any:
        return np.full((4, 6, 3), self.np_random.integers(256), np.uint8)

    def process(self) -> dict[str, Any]:
        """Facts about the process."""
        return {
            "pid": os.getpid(),
            "threads": len(os.listdir("/proc/self/task")),  # noqa: PTH208
            "blas": [os.environ[f"{name}_NUM_THREADS"] for name in ("OMP", "OPENBLAS", "MKL")],
            "torch": "torch" in sys.modules,
        }


def toy(*args: Any, **kwargs: Any) -> Factory:
    return lambda: TimeLimit(Toy(*args, **kwargs), 9)


def bits(value: Any) -> Any:
    """Types, dtypes, shapes and bytes of nested data."""
    if isinstance(value, dict):
        return type(value), [(key, bits(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [bits(item) for item in value]
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape, value.tobytes()
    return type(value), pickle.dumps(value)


def actions_for(venv: VecEnv, seed: int) -> NDArray[Any]:
    rng = np.random.default_rng(seed)
    if isinstance(venv.action_space, spaces.Discrete):
        return rng.integers(0, 3, venv.num_envs)
    return rng.uniform(-1, 1, (venv.num_envs, 2)).astype(np.float32)
