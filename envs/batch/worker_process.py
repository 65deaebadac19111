"""The program of a worker process, which steps some environments of a ``WorkerVecEnv``.

This module imports neither PyTorch nor SB3, so that a worker starts fast and stays small. The worker sends one reply to
each request. When the connection closes, also because the other end died, it closes its environments and exits.
"""

from __future__ import annotations

import mmap
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

from daft_rl.envs.batch.contract import ENVIRONMENT_ERRORS, describe_failure, store_observation
from daft_rl.envs.whole_episodes import TASK_GOES_ON, reset_task, watch_task

__all__ = ["GRACE_SECONDS", "NOBODY", "ObservationLayout", "class_name", "dump", "run_worker"]

GRACE_SECONDS = 5.0
"""Time for a worker to finish its step and close its environments."""

NOBODY = -1
"""What a worker notes while none of its environments is at work."""

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
    """Start an episode, with a seed that of the task. Without options, ``reset`` need not accept them."""
    given = {"options": options} if options else {}
    return env.reset(seed=seed, **given) if seed is None else reset_task(env, seed=seed, **given)


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
    """The environments of one worker.

    :param note: an array of one number, into which the index of the environment at work is written. It may lie in
        memory that the parent sees, for the case that this process hangs or dies
    """

    def __init__(self, note: NDArray[np.int32]) -> None:
        self.envs: list[gym.Env] = []
        self.buffers: dict[Any, NDArray[Any]] = {}
        self._note = note

    def make(self, env_fns: Sequence[Callable[[], Any]]) -> tuple[Any, Any, Any]:
        """Make the environments.

        :param env_fns: functions that each make one environment
        :return: observation space, action space and metadata of the first one
        """
        for i, make_one in enumerate(env_fns):
            self._note[0] = i
            env = make_env(make_one)
            if any(env.unwrapped is other.unwrapped for other in self.envs):
                raise ValueError("env_fns returned the same environment twice; each call must make a new one.")
            self.envs.append(env)
        return self.envs[0].observation_space, self.envs[0].action_space, self.envs[0].metadata

    def allocate(self, layout: ObservationLayout) -> None:
        """Allocate arrays for observations, with the dtypes of ``DummyVecEnv``."""
        keys, shapes, dtypes = layout
        self.buffers = {key: np.zeros((len(self.envs), *shapes[key]), dtype=dtypes[key]) for key in keys}

    def reset(self, seeds: Sequence[int | None], options: Sequence[dict[str, Any]]) -> tuple[Any, list[dict[str, Any]]]:
        """Start an episode in every environment.

        :return: observations, and an info for each environment
        """
        infos = []
        for i, env in enumerate(self.envs):
            self._note[0] = i
            observation, info = reset_env(env, seeds[i], options[i])
            store_observation(self.buffers, i, observation)
            infos.append(info)
        return self.buffers, infos

    def step(self, actions: NDArray[Any]) -> tuple[Any, ...]:
        """Step every environment. Reset those whose episodes end.

        :return: observations, rewards, dones, infos, and the infos of resets by environment
        """
        rewards, dones = np.zeros(len(self.envs), dtype=np.float32), np.zeros(len(self.envs), dtype=bool)
        infos, reset_infos = [], {}
        for i, env in enumerate(self.envs):
            self._note[0] = i
            observation, rewards[i], terminated, truncated, info = env.step(actions[i])  # type: ignore[call-overload]
            dones[i] = terminated or truncated
            info["TimeLimit.truncated"] = truncated and not terminated
            if dones[i]:
                info["terminal_observation"] = observation
                with watch_task(env) as watch:
                    observation, reset_infos[i] = env.reset()
                if not watch.was_reset:
                    info[TASK_GOES_ON] = True
            store_observation(self.buffers, i, observation)
            infos.append(info)
        return self.buffers, rewards, dones, infos, reset_infos

    def each(self, operation: str, indices: Sequence[int], *arguments: Any) -> list[Any]:
        """Apply one of :data:`OPERATIONS` to some of the environments, in the given order."""
        results = []
        for i in indices:
            self._note[0] = i
            results.append(OPERATIONS[operation](self.envs[i], *arguments))
        return results

    def answer(self, request: bytes) -> bytes:
        """Execute one request.

        :return: the pickled reply: ``("done", result)``, ``("missing", message)`` for an attribute that does not
            exist, or ``("failed", environment or NOBODY, what it did, traceback)``
        """
        command, arguments = "request", ()
        self._note[0] = NOBODY
        try:
            command, arguments = pickle.loads(request)
            result = getattr(self, command)(*arguments)
            self._note[0] = NOBODY
            return dump(("done", result))
        except MissingAttributeError as error:
            return dump(("missing", str(error)))
        except BaseException as error:  # SystemExit too, which the parent reports
            summary = describe_failure(_method_name(command, *arguments), error)
            return dump(("failed", int(self._note[0]), summary, traceback.format_exc()))
        finally:
            self._note[0] = NOBODY

    def close(self) -> None:
        """Close every environment. Nobody listens any more: what goes wrong is told in one line."""
        for i, env in enumerate(self.envs):
            try:
                env.close()
            except ENVIRONMENT_ERRORS as error:
                print(f"Warning: environment {i} of a worker {describe_failure('close', error)}", file=sys.stderr)


def _method_name(command: str, *arguments: Any) -> str:
    """What an environment was asked for, in words of Gymnasium."""
    if command == "each":
        operation, _, *rest = arguments
        return rest[0] if operation == "call" else operation
    return "__init__" if command == "make" else command


def exit_after_hang_up(descriptor: int) -> None:
    """End this process after the other end closed the connection, even if the main thread is busy or stuck."""
    poller = select.poll()
    poller.register(descriptor, 0)  # a closed connection is reported in any case
    poller.poll()
    threading.Event().wait(GRACE_SECONDS)
    os._exit(1)


def run_worker(descriptor: int, note: int) -> None:
    """Answer requests until the other end closes the connection.

    :param descriptor: file descriptor of this end of the connection
    :param note: file descriptor of the memory for the index of the environment at work
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal: the parent handles it
    # likewise of a job, which then saves its state, or a closed terminal
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    del sys.argv[1:]
    connection = Connection(descriptor)
    threading.Thread(target=exit_after_hang_up, args=(descriptor,), daemon=True).start()
    envs = WorkerEnvs(np.frombuffer(mmap.mmap(note, 4), np.int32))
    os.close(note)  # the mapping has one of its own
    try:
        while True:
            connection.send_bytes(envs.answer(connection.recv_bytes()))
    except (EOFError, ConnectionError):
        envs.close()
