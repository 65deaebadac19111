"""A small task with one fault: what environments of all kinds of authors do wrong."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
from gymnasium import spaces

# workers get this class by value: they need not import the package of the tests
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def _raise(error: BaseException) -> Any:
    raise error


RAISED: dict[str, Callable[[], BaseException]] = {
    "RuntimeError": lambda: RuntimeError("boom"),
    "KeyError": lambda: KeyError("thing"),
    "AssertionError": lambda: AssertionError(),
    "SystemExit": lambda: SystemExit(3),
    "MemoryError": lambda: MemoryError(),
    "StopIteration": lambda: StopIteration(),
    "RecursionError": lambda: RecursionError("too deep"),
    "lines": lambda: ValueError("first line\nsecond line " + "x" * 5000),
    "UnicodeError": lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    "OSError": lambda: OSError(28, "No space left on device"),
}
"""Name of what is raised -> how it is made."""

STEPS: dict[str, Callable[[Any, float, dict[str, Any]], Any]] = {
    "None": lambda o, r, i: None,
    "four values": lambda o, r, i: (o, r, False, i),
    "six values": lambda o, r, i: (o, r, False, False, i, 0),
    "a number": lambda o, r, i: 1.0,
    "observation None": lambda o, r, i: (None, r, False, False, i),
    "observation text": lambda o, r, i: ("abc", r, False, False, i),
    "observation number": lambda o, r, i: (np.float32(0.5), r, False, False, i),
    "observation longer": lambda o, r, i: (np.append(o, o), r, False, False, i),
    "observation shorter": lambda o, r, i: (o[:-1], r, False, False, i),
    "observation one": lambda o, r, i: (o[:1], r, False, False, i),
    "observation column": lambda o, r, i: (o[:, None], r, False, False, i),
    "observation ragged": lambda o, r, i: ([[1.0], [1.0, 2.0]], r, False, False, i),
    "observation complex": lambda o, r, i: (["1", "a", "b"], r, False, False, i),
    "observation dictionary": lambda o, r, i: ({"a": o}, r, False, False, i),
    "reward text": lambda o, r, i: (o, "much", False, False, i),
    "reward two": lambda o, r, i: (o, np.array([r, r]), False, False, i),
    "reward dictionary": lambda o, r, i: (o, {"r": r}, False, False, i),
    "terminated two": lambda o, r, i: (o, r, np.array([False, False]), False, i),
    "truncated two": lambda o, r, i: (o, r, False, np.array([True, False]), i),
    "info None": lambda o, r, i: (o, r, False, False, None),
    "info list": lambda o, r, i: (o, r, False, False, []),
    "info lock": lambda o, r, i: (o, r, False, False, {"lock": threading.Lock()}),
}
"""What ``step`` returns that it should not."""

NOT_FINITE: dict[str, Callable[[Any, float, dict[str, Any]], Any]] = {
    "observation nan": lambda o, r, i: (o * np.float32("nan"), r, False, False, i),
    "observation inf": lambda o, r, i: (np.full_like(o, np.inf), r, False, False, i),
    "observation one nan": lambda o, r, i: (np.where([1, 0, 0], np.float32("nan"), o), r, False, False, i),
    "reward nan": lambda o, r, i: (o, float("nan"), False, False, i),
    "reward inf": lambda o, r, i: (o, float("-inf"), False, False, i),
    "reward None": lambda o, r, i: (o, None, False, False, i),
    "reward overflow": lambda o, r, i: (o, 1e300, False, False, i),
    "cost nan": lambda o, r, i: (o, r, False, False, i | {"cost": float("nan")}),
    "cost inf": lambda o, r, i: (o, r, False, False, i | {"cost": np.array([np.inf])}),
}
"""Numbers that would spoil a policy."""

ODD: dict[str, Callable[[Any, float, dict[str, Any]], Any]] = {
    "observation float64": lambda o, r, i: (o.astype(np.float64), r, False, False, i),
    "observation list": lambda o, r, i: (o.tolist(), r, False, False, i),
    "observation row": lambda o, r, i: (o[None], r, False, False, i),
    "observation objects": lambda o, r, i: (o.astype(object), r, False, False, i),
    "observation huge": lambda o, r, i: (o * np.float32(1e30), r, False, False, i),
    "reward int": lambda o, r, i: (o, int(r), False, False, i),
    "reward NumPy": lambda o, r, i: (o, np.float64(r), False, False, i),
    "terminated NumPy": lambda o, r, i: (o, r, np.bool_(False), np.bool_(False), i),
    "terminated 0": lambda o, r, i: (o, r, 0, 0, i),
    "cost": lambda o, r, i: (o, r, False, False, i | {"cost": 1.0}),
    "cost text": lambda o, r, i: (o, r, False, False, i | {"cost": "1"}),
    "cost Boolean": lambda o, r, i: (o, r, False, False, i | {"cost": True}),
    "info large": lambda o, r, i: (o, r, False, False, i | {"x": np.zeros(10_000)}),
    "info episode": lambda o, r, i: (o, r, False, False, i | {"episode": {"r": 0, "l": 1, "t": 0}}),
}
"""What works, although it is not what Gymnasium asks for."""

RESETS: dict[str, Callable[[Any], Any]] = {
    "no tuple": lambda o: o,
    "None": lambda o: None,
    "three values": lambda o: (o, {}, 0),
    "observation None": lambda o: (None, {}),
    "observation longer": lambda o: (np.append(o, o), {}),
    "observation nan": lambda o: (o * np.float32("nan"), {}),
}
"""What ``reset`` returns that it should not."""

ENDS = {"exit": lambda: os._exit(7), "abort": os.abort, "hang": lambda: time.sleep(10**6)}
"""How a process can stop to answer."""


class Faulty(gym.Env):
    """Push a point to the origin, with a fault.

    :param fault: ``WHERE: WHAT``, such as ``step raises: KeyError``, ``step returns: None`` or ``close raises: lines``
    :param at: step of the environment's life from which on steps are faulty
    """

    observation_space = spaces.Box(-np.inf, np.inf, (3,))
    action_space = spaces.Box(-1.0, 1.0, (1,))

    def __init__(self, fault: str = "none: none", at: int = 5) -> None:
        self.where, self.what = fault.split(": ")
        self.at, self.life, self.state = at, 0, np.zeros(3, np.float32)
        self._fail("init")

    def _fail(self, method: str) -> None:
        if self.where == f"{method} raises":
            raise RAISED[self.what]()
        if self.where == f"{method} ends":
            ENDS[self.what]()

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._fail("reset")
        self.state = self.np_random.normal(size=3).astype(np.float32)
        return RESETS[self.what](self.state) if self.where == "reset returns" else (self.state.copy(), {})

    def step(self, action: Any) -> Any:
        self.life += 1
        self.state = (0.9 * self.state + 0.1 * np.sum(action)).astype(np.float32)
        info: dict[str, Any] = {"cost": 0.0}
        observation, reward = self.state.copy(), -float(np.abs(self.state).sum())
        if self.life < self.at:
            return observation, reward, False, False, info
        self._fail("step")
        table = {"step returns": STEPS, "step gives": NOT_FINITE, "step has": ODD}.get(self.where)
        return (
            (observation, reward, False, False, info) if table is None else table[self.what](observation, reward, info)
        )

    def close(self) -> None:
        self._fail("close")


class Unseeded(Faulty):
    """Its reset takes nothing, as before there was Gymnasium."""

    def reset(self) -> Any:  # type: ignore[override]
        return super().reset()


def faults() -> list[str]:
    """All of them, but those that end the process."""
    found = [f"{method} raises: {what}" for method in ("init", "reset", "step", "close") for what in RAISED]
    found += [f"step returns: {what}" for what in STEPS] + [f"step gives: {what}" for what in NOT_FINITE]
    return found + [f"reset returns: {what}" for what in RESETS] + [f"step has: {what}" for what in ODD]
