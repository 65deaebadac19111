"""Environments in worker processes: equal to ``DummyVecEnv`` in every bit, for simulators slower than Python.

There are as many workers as cores, and each steps its share of the environments one after the other. SB3's
``SubprocVecEnv`` starts one process per environment. A worker is a fresh interpreter and not a child of
``multiprocessing``, which would import the main script again: a script needs no ``if __name__ == "__main__"``, no
helper process stays behind, and workers do not load PyTorch.
"""

from __future__ import annotations

import os
import pickle
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn
from stable_baselines3.common.vec_env.util import dict_to_obs, obs_space_info

from daft_rl.envs.batch.worker_handle import DeadWorkerError, WorkerHandle, hold_interrupts, stop_workers
from daft_rl.envs.batch.worker_process import class_name
from daft_rl.envs.cores import usable_cores
from daft_rl.errors import DaftWarning, TaskError, WorkerError

__all__ = ["INTERRUPTED", "WorkerVecEnv"]


INTERRUPTED = "interrupted"
"""Key in the ``info`` of an episode that broke off because its worker died."""


def _other_seed(seed: int | None) -> int | None:
    """A seed for the environments that are made again, so that they do not repeat what was seen."""
    return None if seed is None else int(np.random.SeedSequence((seed, 1)).generate_state(1)[0])


def split_environments(num_envs: int, workers: int | None) -> list[range]:
    """Split environments into contiguous ranges, one for each worker.

    :raises TaskError: the number of workers or of environments is impossible
    """
    if workers is None:
        workers = usable_cores()
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise TaskError(f"workers: expected a whole number >= 1, got {workers!r}.")
    if num_envs < 1:
        raise TaskError("env_fns: expected at least one function that makes an environment, got none.")
    workers = min(workers, num_envs)
    bounds = [i * num_envs // workers for i in range(workers + 1)]
    return [range(*pair) for pair in pairwise(bounds)]


class WorkerVecEnv(VecEnv):
    """Steps environments in worker processes. Results equal those of ``DummyVecEnv`` in every bit.

    :meth:`get_attr` returns copies. A :class:`~daft_rl.errors.WorkerError` or an interrupt closes the batch and ends
    its processes. Workers do not import the main script: make its calls of ``gym.register`` in ``env_fns`` too, or in a
    module that they import.

    A worker whose process dies is started again once, with a warning. The step in which that is noticed ends its
    environments' episodes as truncated; each ``info`` has :data:`INTERRUPTED`. The new environments have none of the
    attributes that were set from outside.

    :param env_fns: functions that each make one environment; pickled with cloudpickle
    :param workers: number of processes; ``None`` is one per core. There are never more than environments
    :param step_timeout: seconds that a worker may take for a step or a reset of its environments; ``None`` is no limit
    :raises WorkerError: an environment could not be made; its cause is the worker's traceback
    :raises TaskError: the number of workers or of environments is impossible
    """

    def __init__(
        self,
        env_fns: Sequence[Callable[[], gym.Env]],
        workers: int | None = None,
        step_timeout: float | None = None,
    ) -> None:
        ranges = split_environments(len(env_fns), workers)
        requests = [cloudpickle.dumps(("make", ([env_fns[i] for i in rows],))) for rows in ranges]
        self._workers: list[WorkerHandle] = []
        self._finalizer = weakref.finalize(self, stop_workers, self._workers, os.getpid())  # also runs at exit
        self._stepping = False
        self._replies: list[Any] | None = None
        self.step_timeout = step_timeout
        self._set_up: dict[WorkerHandle, list[bytes]] = {}  # what makes its environments
        self._last: dict[WorkerHandle, tuple[Any, Any]] = {}  # observations and infos that it sent last
        self._fresh: dict[WorkerHandle, tuple[Any, Any]] = {}  # those of a reset after a restart, not yet given out
        with self._close_on_failure():
            for rows in ranges:
                with hold_interrupts():
                    self._workers.append(WorkerHandle(rows))
            self._location = [(worker, i) for worker in self._workers for i in range(len(worker.rows))]
            observation_space, action_space, metadata = self._exchange(self._workers, requests)[0]
            super().__init__(len(env_fns), observation_space, action_space)
            self.metadata = metadata
            self._keys, *_ = layout = obs_space_info(observation_space)
            self._request_all("allocate", [(layout,)] * len(ranges))
            allocate = cloudpickle.dumps(("allocate", (layout,)))
            pairs = zip(self._workers, requests, strict=True)
            self._set_up = {worker: [request, allocate] for worker, request in pairs}

    @property
    def closed(self) -> bool:
        """Whether the processes have ended."""
        return not self._finalizer.alive

    @contextmanager
    def _close_on_failure(self) -> Iterator[None]:
        """Close the batch if an exchange with the workers breaks off, since its state is then unknown."""
        if self.closed:
            raise WorkerError("This WorkerVecEnv is closed: make a new one.")
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _exchange(
        self, workers: Iterable[WorkerHandle], requests: Iterable[bytes], timeout: float | None = None
    ) -> list[Any]:
        """Send each worker its request, then wait for the replies."""
        with self._close_on_failure():
            pairs = list(zip(workers, requests, strict=True))
            for worker, request in pairs:
                self._send(worker, request)
            return [self._receive(worker, request, timeout) for worker, request in pairs]

    def _send(self, worker: WorkerHandle, request: bytes) -> None:
        try:
            worker.send(request)
        except DeadWorkerError as death:
            self._revive(worker, death)
            worker.send(request)

    def _receive(self, worker: WorkerHandle, request: bytes, timeout: float | None) -> Any:
        try:
            return worker.receive(timeout)
        except DeadWorkerError as death:
            self._revive(worker, death)
            worker.send(request)
            return worker.receive(timeout)

    def _revive(self, worker: WorkerHandle, death: DeadWorkerError) -> None:
        """Start a dead worker again, once, and make its environments anew."""
        if worker.restarted or worker not in self._set_up:
            raise death
        worker.restart()
        for request in self._set_up[worker]:
            worker.send(request)
            worker.receive()
        if worker in self._last:
            seeds = [_other_seed(self._given_seeds[row]) for row in worker.rows]
            worker.send(pickle.dumps(("reset", (seeds, [{}] * len(seeds)))))
            self._fresh[worker] = worker.receive(self.step_timeout)
        message = f"{death} Its environments were made again and begin new episodes. A second time is an error."
        warnings.warn(DaftWarning(message), stacklevel=2)

    def _request_all(
        self, command: str, arguments: Iterable[tuple[Any, ...]], timeout: float | None = None
    ) -> list[Any]:
        """Send all workers a command, each with its own arguments. Classes of the main script are pickled by value."""
        self._finish_step()
        return self._exchange(self._workers, [cloudpickle.dumps((command, args)) for args in arguments], timeout)

    def _apply(self, operation: str, indices: VecEnvIndices, *arguments: Any) -> list[Any]:
        """Apply an operation to some environments.

        :param operation: one of :data:`daft_rl.envs.batch.worker_process.OPERATIONS`
        :return: a result for each index
        :raises AttributeError: an environment lacks the attribute
        """
        self._finish_step()
        locations = [self._location[i] for i in self._get_indices(indices)]
        by_worker: dict[WorkerHandle, list[int]] = {}
        for worker, i in locations:
            by_worker.setdefault(worker, []).append(i)
        requests = [cloudpickle.dumps(("each", (operation, local, *arguments))) for local in by_worker.values()]
        replies = self._exchange(by_worker, requests)
        for reply in replies:
            if isinstance(reply, AttributeError):
                raise reply
        results = {worker: iter(reply) for worker, reply in zip(by_worker, replies, strict=True)}
        return [next(results[worker]) for worker, _ in locations]

    def _finish_step(self) -> None:
        """Wait for the running step, if there is one."""
        if self._stepping:
            with self._close_on_failure():
                self._replies = [self._step_reply(worker) for worker in self._workers]
                self._stepping = False

    def _step_reply(self, worker: WorkerHandle) -> tuple[Any, ...]:
        """Wait for what a worker answers to a step."""
        if worker not in self._fresh:
            try:
                return worker.receive(self.step_timeout)
            except DeadWorkerError as death:
                self._revive(worker, death)
        return self._interrupted(worker)

    def _interrupted(self, worker: WorkerHandle) -> tuple[Any, ...]:
        """What a step returns for a worker that was started again: every episode breaks off where it was."""
        observations, reset_infos = self._fresh.pop(worker)
        before, last_infos = self._last[worker]
        infos = []
        for i, info in enumerate(last_infos):
            last = dict_to_obs(self.observation_space, OrderedDict((k, before[k][i]) for k in self._keys))
            infos.append(info | {"TimeLimit.truncated": True, "terminal_observation": last, INTERRUPTED: True})
        size = len(worker.rows)
        rewards, dones = np.zeros(size, dtype=np.float32), np.ones(size, dtype=bool)
        return observations, rewards, dones, infos, dict(enumerate(reset_infos))

    def _gather(self, parts: Sequence[dict[Any, NDArray[Any]]]) -> VecEnvObs:
        """Join the observations of all workers, in new memory."""
        return dict_to_obs(
            self.observation_space, OrderedDict((k, np.concatenate([part[k] for part in parts])) for k in self._keys)
        )

    def reset(self) -> VecEnvObs:
        """Start an episode in every environment. Seeds and options that were set hold for this reset only."""
        rows = [slice(worker.rows.start, worker.rows.stop) for worker in self._workers]
        self._given_seeds = list(self._seeds)
        requests = [(self._seeds[part], self._options[part]) for part in rows]
        replies = self._request_all("reset", requests, self.step_timeout)
        self._replies = None
        self._fresh.clear()
        for worker, (observations, infos) in zip(self._workers, replies, strict=True):
            self._last[worker] = observations, [{}] * len(infos)
        self.reset_infos = [info for _, infos in replies for info in infos]
        self._reset_seeds()
        self._reset_options()
        return self._gather([observations for observations, _ in replies])

    def step_async(self, actions: NDArray[Any]) -> None:
        """Begin a step.

        :param actions: shape ``(num_envs, *action_space.shape)``
        """
        self._finish_step()
        if len(actions) != self.num_envs:
            raise TaskError(f"actions: expected {self.num_envs}, one for each environment, got {len(actions)}.")
        with self._close_on_failure():
            for worker in self._workers:
                part = actions[worker.rows.start : worker.rows.stop]
                self._send_step(worker, pickle.dumps(("step", (part,)), protocol=pickle.HIGHEST_PROTOCOL))
            self._stepping = True

    def _send_step(self, worker: WorkerHandle, request: bytes) -> None:
        """Send a step, unless the worker was started again: the actions were for episodes that are lost."""
        if worker in self._fresh:
            return
        try:
            worker.send(request)
        except DeadWorkerError as death:
            self._revive(worker, death)

    def step_wait(self) -> VecEnvStepReturn:
        """Finish the step.

        :return: observations, rewards (float32), dones, and a dictionary per environment
        :raises WorkerError: a worker died, or an environment raised
        """
        self._finish_step()
        if self._replies is None:
            raise WorkerError("step_wait() was called without step_async().")
        replies, self._replies = self._replies, None
        observations, rewards, dones, infos, reset_infos = zip(*replies, strict=True)
        for worker, reply, infos_by_env in zip(self._workers, replies, reset_infos, strict=True):
            self._last[worker] = reply[0], reply[3]
            for i, info in infos_by_env.items():
                self.reset_infos[worker.rows[i]] = info
        return (
            self._gather(observations),
            np.concatenate(rewards),
            np.concatenate(dones),
            [info for part in infos for info in part],
        )

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """See ``VecEnv``. The results are copies."""
        return self._apply("get_attr", indices, attr_name)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """See ``VecEnv``."""
        self._apply("set_attr", indices, attr_name, value)

    def has_attr(self, attr_name: str) -> bool:
        """See ``VecEnv``. The attribute itself need not be picklable."""
        return all(self._apply("has_attr", None, attr_name))

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """See ``VecEnv``."""
        return self._apply("call", indices, method_name, args, kwargs)

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """See ``VecEnv``."""
        return self._apply("is_wrapped", indices, class_name(wrapper_class))

    def get_images(self) -> Sequence[NDArray[Any] | None]:
        """An image of every environment, as its ``render`` makes it."""
        if self.render_mode != "rgb_array":
            warnings.warn(f"render_mode={self.render_mode!r}: images need 'rgb_array'.", stacklevel=2)
            return [None] * self.num_envs
        return self._apply("render", None)

    def close(self) -> None:
        """Close the environments and end the processes. A second call does nothing."""
        self._finalizer()
