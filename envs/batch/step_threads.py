"""Threads that share the physics of a step."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from typing import Any

from numpy.typing import NDArray

from daft_rl.envs.batch.contract import environment_error

__all__ = ["StepThreads"]

Job = tuple[int, Any, NDArray[Any]]
"""The index of a MuJoCo environment, the environment, and its action."""
Results = SimpleQueue[BaseException | None]

JOIN_SECONDS = 5.0
"""Time for a thread to finish its step."""


def step_physics(job: Job) -> BaseException | None:
    """Step one environment and return its error, if any. Even an interrupt has to wait for the other threads."""
    index, env, action = job
    try:
        env._step_mujoco_simulation(action, env.frame_skip)
    except Exception as error:
        named = environment_error(index, "step", error)
        named.__cause__ = error
        return named
    except BaseException as error:
        return error
    return None


def run_thread(orders: SimpleQueue[tuple[Iterator[Job], Results] | None]) -> None:
    """Step environments until ``None`` arrives."""
    while (order := orders.get()) is not None:
        jobs, results = order
        for job in jobs:
            results.put(step_physics(job))


class StepThreads:
    """Threads that share the physics of a step. The thread that calls :meth:`finish` works as one of them.

    Each free thread takes the next environment, since threads can share an iterator over a list. A thread that comes
    late finds nothing left and nobody waits for it, which matters if other work keeps cores busy. A fork of the process
    has no threads, so it starts new ones.

    :param size: number of threads, the caller's among them
    """

    def __init__(self, size: int) -> None:
        self._results: Results = SimpleQueue()
        self._jobs: Iterator[Job] = iter(())
        self._pending = 0
        self._start_threads(size)

    def _start_threads(self, size: int) -> None:
        self._process = os.getpid()
        self._orders: SimpleQueue[tuple[Iterator[Job], Results] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=run_thread, args=(self._orders,), name=f"mujoco-{i}", daemon=True)
            for i in range(1, size)
        ]
        for thread in self._threads:
            thread.start()

    def start(self, jobs: Iterable[Job]) -> None:
        """Begin to step environments, and return at once."""
        self.finish()
        if self._process != os.getpid():
            self._start_threads(len(self._threads) + 1)
        batch = list(jobs)
        self._jobs, self._pending, self._results = iter(batch), len(batch), SimpleQueue()
        for _ in self._threads:
            self._orders.put((self._jobs, self._results))

    def finish(self) -> None:
        """Take part, and return when every environment has stepped.

        :raises BaseException: the first error of a step
        """
        pending, self._pending = self._pending, 0
        results = [step_physics(job) for job in self._jobs]
        results += [self._results.get() for _ in range(pending - len(results))]
        for error in filter(None, results):
            raise error

    def request_exit(self) -> None:
        """Tell the threads to end, and return at once."""
        for _ in self._threads:
            self._orders.put(None)

    def close(self) -> None:
        """End the threads. The caller then makes later steps alone. A thread that hangs ends with the process."""
        self.request_exit()
        for thread in self._threads:
            thread.join(JOIN_SECONDS)
        self._threads = []
