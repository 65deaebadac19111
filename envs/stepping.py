"""MuJoCo stepped by threads that never wait for Python: a compiled loop over the environments of a batch."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import mujoco
import numpy as np
from gymnasium.envs.mujoco.mujoco_env import MujocoEnv
from llvmlite.binding import load_library_permanently
from numba import njit, types
from numba.extending import intrinsic

from daft_rl.errors import TaskError

__all__ = ["Crew", "Order", "Physics", "Table"]

# The one that Python has loaded, not a second one: where it lies elsewhere than in the package, its name finds it.
NAMES = {"darwin": f"libmujoco.{mujoco.__version__}.dylib", "win32": "mujoco.dll"}
LIBRARY = Path(mujoco.__file__).with_name(NAMES.get(sys.platform, f"libmujoco.so.{mujoco.__version__}"))
load_library_permanently(str(LIBRARY) if LIBRARY.exists() else LIBRARY.name)
mj_step = types.ExternalFunction("mj_step", types.void(types.uintp, types.uintp))
mj_rnePostConstraint = types.ExternalFunction("mj_rnePostConstraint", types.void(types.uintp, types.uintp))  # noqa: N816
mju_copy = types.ExternalFunction("mju_copy", types.void(types.uintp, types.uintp, types.intc))


@intrinsic
def add(_: Any, counters: Any, index: Any, amount: Any) -> Any:
    """Add to one of the counters that threads share; what it was before."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, args[0])
        return builder.atomic_rmw("add", builder.gep(array.data, [args[1]]), args[2], "seq_cst")

    return types.int64(counters, types.int64, types.int64), generate


def compiled(signature: str) -> Callable[[Callable], Any]:
    """Compile a function to run without the interpreter, once and for all where there is a folder to keep it in."""

    def compile_now(function: Callable) -> Any:
        try:
            return njit(signature, nogil=True, cache=True)(function)
        except RuntimeError:  # Numba found none that can be written to
            return njit(signature, nogil=True)(function)

    return compile_now


@compiled("void(float64[::1], uint64[::1], int64[::1])")
def gather(row: np.ndarray, sources: np.ndarray, sizes: np.ndarray) -> None:
    """Copy arrays, given by address and size, one after the other into a row."""
    filled = 0
    for source, size in zip(sources, sizes):  # noqa: B905 (Numba knows no strict=)
        mju_copy(row[filled:].ctypes.data, source, size)
        filled += size


@compiled(
    "void(int64[::1], int64[::1], uint64[:, ::1], float64[:, ::1], float64[:, ::1], uint64[:, ::1], int64[::1],"
    " float64[:, ::1], uint64[:, ::1], int64[::1])"
)
def step(
    progress: np.ndarray,
    rows: np.ndarray,
    addresses: np.ndarray,
    actions: np.ndarray,
    before: np.ndarray,
    before_sources: np.ndarray,
    before_sizes: np.ndarray,
    after: np.ndarray,
    after_sources: np.ndarray,
    after_sizes: np.ndarray,
) -> None:
    """What Gymnasium's ``MujocoEnv.do_simulation`` does, for one environment after the other until none is left.

    Several threads may call it at once: whoever is free takes the next environment.

    :param progress: how many environments were taken, and how many have made their step
    :param rows: which are to step
    :param addresses: per environment those of model, data and controls, and the number of physics steps
    """
    while True:
        taken = add(progress, 0, 1)
        if taken >= len(rows):
            return
        i = rows[taken]
        model, data, controls, frame_skip = addresses[i]
        gather(before[i], before_sources[i], before_sizes)
        mju_copy(controls, actions[i].ctypes.data, actions.shape[1])
        for _ in range(frame_skip):
            mj_step(model, data)
        mj_rnePostConstraint(model, data)
        gather(after[i], after_sources[i], after_sizes)
        add(progress, 1, 1)


def check_same(sizes: Sequence[Any]) -> None:
    """
    :raises TaskError: environments differ in the sizes of their arrays
    """
    if any(size != sizes[0] for size in sizes):
        raise TaskError("Environments of one batch need models of the same size: bodies, joints, actuators.")


class Table:
    """A few arrays of every environment, side by side in the rows of one table.

    :param views: per environment the same few arrays of its model or data; ``mj_resetData`` keeps them valid
    """

    def __init__(self, views: Iterable[Sequence[np.ndarray]]) -> None:
        self._views = list(views)  # kept, since their addresses are used
        sizes = [[view.size for view in row] for row in self._views]
        check_same(sizes)
        self.sizes = np.array(sizes[0], dtype=np.int64)
        self.sources = np.array([[view.ctypes.data for view in row] for row in self._views], dtype=np.uint64)
        self.whole = np.array([np.concatenate([view.reshape(-1) for view in row]) for row in self._views])
        """Shape ``(num_envs, sum of sizes)``."""
        self.columns = [self.whole[:, start:stop] for start, stop in pairwise(np.cumsum([0, *self.sizes]))]
        """Each ``(num_envs, size)``."""


CHOICES = ("integrator", "solver", "cone", "jacobian")
"""The options of a model that are one of a few."""


class Physics:
    """Environments as :func:`step` takes them.

    MuJoCo ends the process where it cannot go on, as with options that it does not know; called from Python it raises.
    So every model makes one step there first, with data of its own; and again when its options have changed.

    :param envs: of one class
    :param before: what is to be known of them before a step
    :param after: and after it
    :param earlier: of the same environments
    :raises mujoco.FatalError: a model that MuJoCo cannot step
    """

    def __init__(self, envs: Sequence[MujocoEnv], before: Table, after: Table, earlier: Physics | None = None) -> None:
        self._parts = self.parts(envs)  # kept, since their addresses are used
        self._tables = (before.whole, before.sources, before.sizes, after.whole, after.sources, after.sizes)
        self._choices = [(model, *(getattr(model.opt, name) for name in CHOICES)) for model, _ in self._parts]
        known = [None] * len(envs) if earlier is None else earlier._choices
        for (model, _), now, then in zip(self._parts, self._choices, known, strict=True):
            if now != then:
                mujoco.mj_step(model, mujoco.MjData(model))
        check_same([model.nu for model, _ in self._parts])
        self.num_controls: int = self._parts[0][0].nu
        """How many actions each takes."""
        self._addresses = np.array(
            [
                (model._address, data._address, data.ctrl.ctypes.data, env.frame_skip)
                for (model, data), env in zip(self._parts, envs, strict=True)
            ],
            dtype=np.uint64,
        )

    @staticmethod
    def parts(envs: Sequence[MujocoEnv]) -> list[tuple[mujoco.MjModel, mujoco.MjData]]:
        """The objects that are stepped."""
        return [(env.model, env.data) for env in envs]

    def is_of(self, envs: Sequence[MujocoEnv]) -> bool:
        """Whether the environments have the models and data that they had."""
        return self.parts(envs) == self._parts

    def order(self, rows: np.ndarray, actions: np.ndarray) -> Order:
        """A step to be made.

        :param rows: which environments are to step
        :param actions: shape ``(num_envs, action size)``
        """
        return Order(self, rows, (self._addresses, np.ascontiguousarray(actions, dtype=np.float64), *self._tables))


class Order:
    """One step of some environments, which threads share out.

    :param physics: kept, since the addresses are those of its models and data
    :param rows: which are to step
    :param tables: the other arguments of :func:`step`
    """

    def __init__(self, physics: Physics, rows: np.ndarray, tables: tuple[np.ndarray, ...]) -> None:
        self._physics, self._rows, self._tables = physics, rows, tables
        self._progress = np.zeros(2, dtype=np.int64)

    def work(self) -> None:
        """Step environments until none is left that nobody steps."""
        step(self._progress, self._rows, *self._tables)

    @property
    def is_done(self) -> bool:
        """Whether all have made their step."""
        return self._progress[1] == len(self._rows)


def serve(inbox: SimpleQueue) -> None:
    """The life of a thread."""
    while (job := inbox.get()) is not None:
        order, outbox = job
        order.work()
        outbox.put(None)


class Crew:
    """Threads that share out the physics of a step. The one that calls :meth:`finish` is one of them.

    A thread that comes too late finds nothing left, and nobody waits for it: that matters when cores are busy
    otherwise. In a fork of the process, which threads do not follow, new ones start.

    :param size: how many threads, the caller's among them
    """

    def __init__(self, size: int) -> None:
        self._order: Order | None = None
        self._outbox: SimpleQueue[None] = SimpleQueue()
        self._hire(size)

    def _hire(self, size: int) -> None:
        self._process = os.getpid()
        self._inbox: SimpleQueue[tuple[Order, SimpleQueue] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=serve, args=(self._inbox,), name=f"mujoco-{i}", daemon=True) for i in range(1, size)
        ]
        for thread in self._threads:
            thread.start()

    def start(self, order: Order) -> None:
        """Begin to step environments; the caller goes on."""
        self.finish()
        if self._process != os.getpid():
            self._hire(len(self._threads) + 1)
        self._order, self._outbox = order, SimpleQueue()
        for _ in self._threads:
            self._inbox.put((order, self._outbox))

    def finish(self) -> None:
        """Lend a hand, and return once every environment has made its step. After an interrupt, call it again."""
        if self._order is not None:
            self._order.work()
            while not self._order.is_done:
                self._outbox.get()  # whoever steps an environment will tell when no more are left
            self._order = None

    def dismiss(self) -> None:
        """Let the threads end, without waiting for it."""
        for _ in self._threads:
            self._inbox.put(None)

    def close(self) -> None:
        """End the threads; a later step is made by the caller alone."""
        self.dismiss()
        for thread in self._threads:
            thread.join()
        self._threads = []
