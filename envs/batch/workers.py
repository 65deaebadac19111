"""Environments in worker processes, result for result equal to ``DummyVecEnv``: for simulators slower than Python.

There are as many workers as cores, each with a share of the environments that it steps one after the other; SB3's
``SubprocVecEnv`` has a process per environment. A worker is a fresh interpreter and not a child of
``multiprocessing``, which would import the main script once more: here a script needs no
``if __name__ == "__main__"``, no helper process stays behind, and no PyTorch is loaded.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from multiprocessing.connection import Pipe
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn
from stable_baselines3.common.vec_env.util import dict_to_obs, obs_space_info

from daft_rl.envs.batch.worker import GRACE, class_name
from daft_rl.envs.cores import usable_cores
from daft_rl.errors import TaskError, WorkerError

__all__ = ["WorkerVecEnv"]

# Cores are shared out among workers already. Libraries read these once, when NumPy is imported.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

# The path first: what the parent can import, the worker can, wherever it was started.
BOOT = "import sys; sys.path[:] = sys.argv[2:]; from daft_rl.envs.batch.worker import main; main(int(sys.argv[1]))"


@contextmanager
def interrupts_later() -> Iterator[None]:
    """Hold Ctrl-C back: a process is not lost between its start and its entry in a list, and inherits the mask, so
    that it is deaf from its first instruction on."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def start_process(descriptor: int) -> subprocess.Popen:
    """Start a worker.

    :param descriptor: its end of the connection
    """
    return subprocess.Popen(
        [sys.executable, "-c", BOOT, str(descriptor), *(entry for entry in sys.path if isinstance(entry, str))],
        pass_fds=[descriptor],
        stdin=subprocess.DEVNULL,
        env={**os.environ, **ONE_THREAD},
    )


class Worker:
    """The parent's view of a worker process.

    :param rows: the environments it holds
    """

    def __init__(self, rows: range) -> None:
        self.rows = rows
        self.connection, theirs = Pipe()
        with theirs:  # once the worker alone has its end, its death is an end of file here
            self.process = start_process(theirs.fileno())

    def send(self, request: bytes) -> None:
        """Send a request.

        :raises WorkerError: the process is dead
        """
        try:
            self.connection.send_bytes(request)
        except ConnectionError:
            raise self.obituary() from None

    def receive(self) -> Any:
        """Wait for the reply.

        :return: the result; an ``AttributeError``, not raised, where an environment lacks an attribute
        :raises WorkerError: the process is dead, or an environment raised
        """
        try:
            reply = self.connection.recv_bytes()
        except (EOFError, ConnectionError):
            raise self.obituary() from None
        status, *rest = pickle.loads(reply)
        if status == "failed":
            current, summary, trace = rest
            who = f"The worker of {self.name()}" if current is None else f"Environment {self.rows[current]}"
            raise WorkerError(f"{who} failed: {summary}\nIn process {self.process.pid}:\n{trace.rstrip()}")
        return AttributeError(rest[0]) if status == "missing" else rest[0]

    def name(self) -> str:
        """The environments it holds, in words."""
        first, last = self.rows[0], self.rows[-1]
        return f"environment {first}" if first == last else f"environments {first} to {last}"

    def obituary(self) -> WorkerError:
        """What is known about the end of the process."""
        try:
            code = self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            return WorkerError(f"The worker of {self.name()} closed its connection (process {self.process.pid}).")
        how, hint = f"ended with exit code {code}", ""
        if code < 0:
            names = {number.value: number.name for number in signal.Signals}
            how = f"was killed by {names.get(-code, f'signal {-code}')}"
        if code == -signal.SIGKILL:
            hint = " The system does that when memory runs out: use fewer environments or workers."
        return WorkerError(f"The worker of {self.name()} {how} (process {self.process.pid}).{hint}")


def end(workers: Sequence[Worker], owner: int) -> None:
    """Hang up, which ends the workers, and kill what is then not gone in time.

    :param owner: the process that started them; a fork of it has no business here
    """
    if os.getpid() != owner:
        return
    for worker in workers:
        worker.connection.close()
    deadline = time.monotonic() + GRACE
    try:
        for worker in workers:
            with suppress(subprocess.TimeoutExpired):
                worker.process.wait(max(0.0, deadline - time.monotonic()))
    finally:  # also when Ctrl-C was pressed again
        for worker in workers:
            worker.process.kill()
            worker.process.wait()


def shares(num_envs: int, workers: int | None) -> list[range]:
    """Share out environments, each worker a contiguous range.

    :raises TaskError: an impossible number of workers
    """
    if workers is None:
        workers = usable_cores()
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise TaskError(f"workers: expected a whole number >= 1, got {workers!r}.")
    if num_envs < 1:
        raise TaskError("WorkerVecEnv needs at least one environment.")
    workers = min(workers, num_envs)
    bounds = [i * num_envs // workers for i in range(workers + 1)]
    return [range(*pair) for pair in pairwise(bounds)]


class WorkerVecEnv(VecEnv):
    """Steps environments in worker processes; equal to ``DummyVecEnv`` in every bit it returns.

    What :meth:`get_attr` returns is a copy. After a :class:`WorkerError` or an interrupt the batch is closed, with
    all its processes. The main script is not imported by the workers: ``gym.register`` calls that it makes have to
    be made in the functions given here too, or in a module that they import.

    :param env_fns: functions that each make one environment; pickled with cloudpickle
    :param workers: how many processes; ``None`` is one per core, and never more than environments
    :raises WorkerError: an environment could not be made; the message holds the worker's traceback
    :raises TaskError: an impossible number of workers or environments
    """

    def __init__(self, env_fns: Sequence[Callable[[], gym.Env]], workers: int | None = None) -> None:
        rows = shares(len(env_fns), workers)
        requests = [cloudpickle.dumps(("make", ([env_fns[i] for i in share],))) for share in rows]
        self._workers: list[Worker] = []
        self._finalizer = weakref.finalize(self, end, self._workers, os.getpid())  # on exit, too
        self._stepping = False
        self._replies: list[Any] | None = None
        with self._intact():
            for share in rows:
                with interrupts_later():
                    self._workers.append(Worker(share))
            self._home = [(worker, i) for worker in self._workers for i in range(len(worker.rows))]
            observation_space, action_space, metadata = self._exchange(self._workers, requests)[0]
            super().__init__(len(env_fns), observation_space, action_space)
            self.metadata = metadata
            self._keys, *_ = layout = obs_space_info(observation_space)
            self._ask_all("lay_out", [(layout,)] * len(rows))

    @property
    def closed(self) -> bool:
        """Whether the processes have ended."""
        return not self._finalizer.alive

    @contextmanager
    def _intact(self) -> Iterator[None]:
        """Close everything when a conversation with the workers breaks off: nobody could tell where it was."""
        if self.closed:
            raise WorkerError("This WorkerVecEnv is closed: make a new one.")
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _exchange(self, workers: Iterable[Worker], requests: Iterable[bytes]) -> list[Any]:
        """Send every worker its request, then wait for the replies."""
        with self._intact():
            asked = list(workers)
            for worker, request in zip(asked, requests, strict=True):
                worker.send(request)
            return [worker.receive() for worker in asked]

    def _ask_all(self, command: str, arguments: Iterable[tuple[Any, ...]]) -> list[Any]:
        """Give all workers a command, each with its own arguments; not pickled by reference to the main script."""
        self._finish_step()
        return self._exchange(self._workers, [cloudpickle.dumps((command, args)) for args in arguments])

    def _ask_each(self, operation: str, indices: VecEnvIndices, *arguments: Any) -> list[Any]:
        """Do something with some environments.

        :param operation: one of :data:`daft_rl.envs.batch.worker.OPERATIONS`
        :return: a result for each index
        :raises AttributeError: an environment lacks the attribute
        """
        self._finish_step()
        homes = [self._home[i] for i in self._get_indices(indices)]
        asked: dict[Worker, list[int]] = {}
        for worker, i in homes:
            asked.setdefault(worker, []).append(i)
        requests = [cloudpickle.dumps(("each", (operation, local, *arguments))) for local in asked.values()]
        replies = self._exchange(asked, requests)
        for reply in replies:
            if isinstance(reply, AttributeError):
                raise reply
        results = {worker: iter(reply) for worker, reply in zip(asked, replies, strict=True)}
        return [next(results[worker]) for worker, _ in homes]

    def _finish_step(self) -> None:
        """Wait for the step that runs, if one does."""
        if self._stepping:
            with self._intact():
                self._replies = [worker.receive() for worker in self._workers]
                self._stepping = False

    def _gather(self, parts: Sequence[dict[Any, np.ndarray]]) -> VecEnvObs:
        """Observations of all workers, in new memory."""
        return dict_to_obs(
            self.observation_space, OrderedDict((k, np.concatenate([part[k] for part in parts])) for k in self._keys)
        )

    def reset(self) -> VecEnvObs:
        """Start an episode in every environment; seeds and options given before are used up."""
        rows = [slice(worker.rows.start, worker.rows.stop) for worker in self._workers]
        replies = self._ask_all("reset", [(self._seeds[share], self._options[share]) for share in rows])
        self._replies = None
        self.reset_infos = [info for _, infos in replies for info in infos]
        self._reset_seeds()
        self._reset_options()
        return self._gather([observations for observations, _ in replies])

    def step_async(self, actions: np.ndarray) -> None:
        """Let the workers begin a step.

        :param actions: shape ``(num_envs, *action_space.shape)``
        """
        self._finish_step()
        if len(actions) != self.num_envs:
            raise TaskError(f"Expected {self.num_envs} actions, one for each environment, got {len(actions)}.")
        with self._intact():
            for worker in self._workers:
                share = actions[worker.rows.start : worker.rows.stop]
                worker.send(pickle.dumps(("step", (share,)), protocol=pickle.HIGHEST_PROTOCOL))
            self._stepping = True

    def step_wait(self) -> VecEnvStepReturn:
        """Finish the step.

        :return: observations, rewards (float32), dones, and a dictionary per environment
        :raises WorkerError: a worker died, or an environment raised
        """
        self._finish_step()
        if self._replies is None:
            raise WorkerError("step_wait() without step_async().")
        replies, self._replies = self._replies, None
        observations, rewards, dones, infos, reset_infos = zip(*replies, strict=True)
        for worker, told in zip(self._workers, reset_infos, strict=True):
            for i, info in told.items():
                self.reset_infos[worker.rows[i]] = info
        return (
            self._gather(observations),
            np.concatenate(rewards),
            np.concatenate(dones),
            [info for part in infos for info in part],
        )

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """See ``VecEnv``; copies."""
        return self._ask_each("get_attr", indices, attr_name)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """See ``VecEnv``."""
        self._ask_each("set_attr", indices, attr_name, value)

    def has_attr(self, attr_name: str) -> bool:
        """See ``VecEnv``; the attribute itself need not be picklable."""
        return all(self._ask_each("has_attr", None, attr_name))

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """See ``VecEnv``."""
        return self._ask_each("call", indices, method_name, args, kwargs)

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """See ``VecEnv``."""
        return self._ask_each("is_wrapped", indices, class_name(wrapper_class))

    def get_images(self) -> Sequence[np.ndarray | None]:
        """An image of every environment, as its ``render`` makes it."""
        if self.render_mode != "rgb_array":
            warnings.warn(f"The render mode is {self.render_mode}, but images need 'rgb_array'.", stacklevel=2)
            return [None] * self.num_envs
        return self._ask_each("render", None)

    def close(self) -> None:
        """Close the environments and end the processes; the second time, nothing happens."""
        self._finalizer()
