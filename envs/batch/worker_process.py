"""The program of a worker process, which steps some environments of a ``WorkerVecEnv``.

This module imports neither PyTorch nor SB3, so that a worker starts fast and stays small. The worker sends one reply to
each request. When the connection closes, also because the other end died, it closes its environments and exits.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

__all__ = ["GRACE_SECONDS", "ObservationLayout", "class_name", "dump", "run_worker"]

GRACE_SECONDS = 5.0
"""Time for a worker to finish its step and close its environments."""

ObservationLayout = tuple[list[Any], dict[Any, tuple[int, ...]], dict[Any, np.dtype[Any]]]
"""Keys, shapes and dtypes of an observation, as SB3's ``obs_space_info`` returns them."""


class MissingAttributeError(AttributeError):
    """An environment has no attribute of that name."""


def dump(message: Any) -> bytes:
    """Pickle by reference if possible, otherwise by value (for classes of a script or a function)."""
    try:
        return pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception:  # pickle raises what it likes; cloudpickle raises a clear error
        return cloudpickle.dumps(message)


def class_name(cls: type) -> str:
    """A name to compare classes across processes. Importing the class in a worker could import PyTorch."""
    return f"{cls.__module__}.{cls.__qualname__}"


def get_attribute(env: gym.Env, name: str) -> Any:
    """Get an attribute of an environment or of its wrappers."""
    try:
        return env.get_wrapper_attr(name)
    except AttributeError as error:
        raise MissingAttributeError(str(error)) from error


def has_attribute(env: gym.Env, name: str) -> bool:
    """Whether :func:`get_attribute` finds the attribute."""
    try:
        get_attribute(env, name)
    except MissingAttributeError:
        return False
    return True


def is_wrapped(env: gym.Env, wrapper: str) -> bool:
    """SB3's ``is_wrapped``, by the wrapper's name."""
    while isinstance(env, gym.Wrapper):
        if wrapper in map(class_name, type(env).__mro__):
            return True
        env = env.env
    return False


def reset_env(env: gym.Env, seed: int | None, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Start an episode. Without options, ``reset`` need not accept them."""
    return env.reset(seed=seed, **({"options": options} if options else {}))


OPERATIONS: dict[str, Callable[..., Any]] = {
    "get_attr": get_attribute,
    "set_attr": setattr,
    "has_attr": has_attribute,
    "is_wrapped": is_wrapped,
    "call": lambda env, name, args, kwargs: get_attribute(env, name)(*args, **kwargs),
    "render": lambda env: env.render(),
}


def make_env(make_one: Callable[[], Any]) -> gym.Env:
    """Make an environment. Wrap one of the old ``gym`` library as SB3 does."""
    env = make_one()
    if isinstance(env, gym.Env):
        return env
    from stable_baselines3.common.vec_env.patch_gym import _patch_env  # imports PyTorch

    return _patch_env(env)


class WorkerEnvs:
    """The environments of one worker. ``current`` is the index of the one at work, for error messages."""

    def __init__(self) -> None:
        self.envs: list[gym.Env] = []
        self.buffers: dict[Any, NDArray[Any]] = {}
        self.current: int | None = None

    def make(self, env_fns: Sequence[Callable[[], Any]]) -> tuple[Any, Any, Any]:
        """Make the environments.

        :param env_fns: functions that each make one environment
        :return: observation space, action space and metadata of the first one
        """
        for i, make_one in enumerate(env_fns):
            self.current = i
            env = make_env(make_one)
            if any(env.unwrapped is other.unwrapped for other in self.envs):
                raise ValueError("env_fns returned the same environment twice; each call must make a new one.")
            self.envs.append(env)
        return self.envs[0].observation_space, self.envs[0].action_space, self.envs[0].metadata

    def allocate(self, layout: ObservationLayout) -> None:
        """Allocate arrays for observations, with the dtypes of ``DummyVecEnv``."""
        keys, shapes, dtypes = layout
        self.buffers = {key: np.zeros((len(self.envs), *shapes[key]), dtype=dtypes[key]) for key in keys}

    def _save(self, i: int, observation: Any) -> None:
        for key, buffer in self.buffers.items():
            buffer[i] = observation if key is None else observation[key]

    def reset(self, seeds: Sequence[int | None], options: Sequence[dict[str, Any]]) -> tuple[Any, list[dict[str, Any]]]:
        """Start an episode in every environment.

        :return: observations, and an info for each environment
        """
        infos = []
        for i, env in enumerate(self.envs):
            self.current = i
            observation, info = reset_env(env, seeds[i], options[i])
            self._save(i, observation)
            infos.append(info)
        return self.buffers, infos

    def step(self, actions: NDArray[Any]) -> tuple[Any, ...]:
        """Step every environment. Reset those whose episodes end.

        :return: observations, rewards, dones, infos, and the infos of resets by environment
        """
        rewards, dones = np.zeros(len(self.envs), dtype=np.float32), np.zeros(len(self.envs), dtype=bool)
        infos, reset_infos = [], {}
        for i, env in enumerate(self.envs):
            self.current = i
            observation, rewards[i], terminated, truncated, info = env.step(actions[i])  # type: ignore[call-overload]
            dones[i] = terminated or truncated
            info["TimeLimit.truncated"] = truncated and not terminated
            if dones[i]:
                info["terminal_observation"] = observation
                observation, reset_infos[i] = env.reset()
            self._save(i, observation)
            infos.append(info)
        return self.buffers, rewards, dones, infos, reset_infos

    def each(self, operation: str, indices: Sequence[int], *arguments: Any) -> list[Any]:
        """Apply one of :data:`OPERATIONS` to some of the environments, in the given order."""
        results = []
        for i in indices:
            self.current = i
            results.append(OPERATIONS[operation](self.envs[i], *arguments))
        return results

    def answer(self, request: bytes) -> bytes:
        """Execute one request.

        :return: the pickled reply: ``("done", result)``, ``("missing", message)`` for an attribute that does not
            exist, or ``("failed", environment or None, error, traceback)``
        """
        self.current = None
        try:
            command, arguments = pickle.loads(request)
            return dump(("done", getattr(self, command)(*arguments)))
        except MissingAttributeError as error:
            return dump(("missing", str(error)))
        except BaseException as error:  # SystemExit too, which the parent reports
            summary = traceback.format_exception_only(type(error), error)[-1].strip()
            return dump(("failed", self.current, summary, traceback.format_exc()))

    def close(self) -> None:
        """Close every environment."""
        for env in self.envs:
            env.close()


def exit_after_hang_up(descriptor: int) -> None:
    """End this process after the other end closed the connection, even if the main thread is busy or stuck."""
    poller = select.poll()
    poller.register(descriptor, 0)  # a closed connection is reported in any case
    poller.poll()
    threading.Event().wait(GRACE_SECONDS)
    os._exit(1)


def run_worker(descriptor: int) -> None:
    """Answer requests until the other end closes the connection.

    :param descriptor: file descriptor of this end of the connection
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal: the parent handles it
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # likewise of a job, which then writes a checkpoint
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    del sys.argv[1:]
    connection = Connection(descriptor)
    threading.Thread(target=exit_after_hang_up, args=(descriptor,), daemon=True).start()
    envs = WorkerEnvs()
    try:
        while True:
            connection.send_bytes(envs.answer(connection.recv_bytes()))
    except (EOFError, ConnectionError):
        envs.close()
