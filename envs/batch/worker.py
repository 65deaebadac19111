"""The life of a worker process: a share of the environments of a :class:`~daft_rl.envs.batch.workers.WorkerVecEnv`.

This module imports neither PyTorch nor SB3, so that a worker starts fast and stays small. One request comes, one
reply goes. When the connection closes, which the death of the other end does too, the worker closes its
environments and ends.
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

__all__ = ["GRACE", "Layout", "class_name", "dump", "main"]

GRACE = 5.0
"""Seconds that a worker has for ending its step and closing its environments."""

Layout = tuple[list[Any], dict[Any, tuple[int, ...]], dict[Any, np.dtype]]
"""Keys, shapes and dtypes of an observation, as SB3's ``obs_space_info`` gives them."""


class MissingError(AttributeError):
    """An environment has no attribute of that name."""


def dump(message: Any) -> bytes:
    """Pickle a reply: by reference where that is possible, else by value (what a script or a function defines)."""
    try:
        return pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception:  # pickle raises what it likes; if cloudpickle cannot either, it says why
        return cloudpickle.dumps(message)


def class_name(cls: type) -> str:
    """How a class is compared between processes: to import it here might import PyTorch."""
    return f"{cls.__module__}.{cls.__qualname__}"


def look_up(env: gym.Env, name: str) -> Any:
    """An attribute of an environment or of its wrappers."""
    try:
        return env.get_wrapper_attr(name)
    except AttributeError as error:
        raise MissingError(str(error)) from error


def has_attr(env: gym.Env, name: str) -> bool:
    """Whether :func:`look_up` finds something."""
    try:
        look_up(env, name)
    except MissingError:
        return False
    return True


def is_wrapped(env: gym.Env, wrapper: str) -> bool:
    """SB3's ``is_wrapped``, by the wrapper's name."""
    while isinstance(env, gym.Wrapper):
        if wrapper in map(class_name, type(env).__mro__):
            return True
        env = env.env
    return False


def reset(env: gym.Env, seed: int | None, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Start an episode; an environment whose ``reset`` takes no options may do without."""
    return env.reset(seed=seed, **({"options": options} if options else {}))


OPERATIONS: dict[str, Callable[..., Any]] = {
    "get_attr": look_up,
    "set_attr": setattr,
    "has_attr": has_attr,
    "is_wrapped": is_wrapped,
    "call": lambda env, name, args, kwargs: look_up(env, name)(*args, **kwargs),
    "render": lambda env: env.render(),
}


def construct(make_one: Callable[[], Any]) -> gym.Env:
    """Make an environment; one of the old ``gym`` library is wrapped as SB3 does."""
    env = make_one()
    if isinstance(env, gym.Env):
        return env
    from stable_baselines3.common.vec_env.patch_gym import _patch_env  # imports PyTorch

    return _patch_env(env)


class Share:
    """The environments of one worker. ``current`` says which of them is at work, for error messages."""

    def __init__(self) -> None:
        self.envs: list[gym.Env] = []
        self.buffers: dict[Any, np.ndarray] = {}
        self.current: int | None = None

    def make(self, env_fns: Sequence[Callable[[], Any]]) -> tuple[Any, Any, Any]:
        """Make the environments.

        :param env_fns: functions that each make one
        :return: observation space, action space and metadata of the first one
        """
        for i, make_one in enumerate(env_fns):
            self.current = i
            env = construct(make_one)
            if any(env.unwrapped is other.unwrapped for other in self.envs):
                raise ValueError("env_fns returned the same environment twice; each call must make a new one.")
            self.envs.append(env)
        return self.envs[0].observation_space, self.envs[0].action_space, self.envs[0].metadata

    def lay_out(self, layout: Layout) -> None:
        """Make room for observations, cast as ``DummyVecEnv`` casts them."""
        keys, shapes, dtypes = layout
        self.buffers = {key: np.zeros((len(self.envs), *shapes[key]), dtype=dtypes[key]) for key in keys}

    def _save(self, i: int, observation: Any) -> None:
        for key, buffer in self.buffers.items():
            buffer[i] = observation if key is None else observation[key]

    def reset(self, seeds: Sequence[int | None], options: Sequence[dict[str, Any]]) -> tuple[Any, list[dict[str, Any]]]:
        """Start an episode in every environment.

        :return: observations and what the resets told
        """
        infos = []
        for i, env in enumerate(self.envs):
            self.current = i
            observation, info = reset(env, seeds[i], options[i])
            self._save(i, observation)
            infos.append(info)
        return self.buffers, infos

    def step(self, actions: np.ndarray) -> tuple[Any, ...]:
        """Step every environment; one whose episode ends is reset.

        :return: observations, rewards, dones, infos, and what resets told, by environment
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
        """Do one of :data:`OPERATIONS` with some of the environments, in the order given."""
        results = []
        for i in indices:
            self.current = i
            results.append(OPERATIONS[operation](self.envs[i], *arguments))
        return results

    def answer(self, request: bytes) -> bytes:
        """Obey one request.

        :return: the pickled reply: ``("done", result)``, ``("missing", message)`` for an attribute that does not
            exist, or ``("failed", environment or None, error, traceback)``
        """
        self.current = None
        try:
            command, arguments = pickle.loads(request)
            return dump(("done", getattr(self, command)(*arguments)))
        except MissingError as error:
            return dump(("missing", str(error)))
        except BaseException as error:  # SystemExit too: the parent reports it
            summary = traceback.format_exception_only(type(error), error)[-1].strip()
            return dump(("failed", self.current, summary, traceback.format_exc()))

    def close(self) -> None:
        """Close every environment."""
        for env in self.envs:
            env.close()


def leave_with_parent(descriptor: int) -> None:
    """End this process when the other end hangs up and the main thread is too busy or stuck to notice."""
    watch = select.poll()
    watch.register(descriptor, 0)  # hanging up is always reported
    watch.poll()
    threading.Event().wait(GRACE)
    os._exit(1)


def main(descriptor: int) -> None:
    """Serve until the other end hangs up.

    :param descriptor: this end of the connection
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal; the parent decides
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    del sys.argv[1:]
    connection = Connection(descriptor)
    threading.Thread(target=leave_with_parent, args=(descriptor,), daemon=True).start()
    share = Share()
    try:
        while True:
            connection.send_bytes(share.answer(connection.recv_bytes()))
    except (EOFError, ConnectionError):
        share.close()
