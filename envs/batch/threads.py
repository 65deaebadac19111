"""Gymnasium's MuJoCo tasks stepped by threads, result for result equal to ``DummyVecEnv``, and faster.

MuJoCo releases the interpreter's lock while it steps. So threads share out the physics, and what Gymnasium then
does in Python for one environment after the other is done here once for all of them, with the same operations in
the same order: every number has the same bits.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import zip_longest
from queue import SimpleQueue
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from daft_rl.envs.cores import usable_cores
from daft_rl.envs.mujoco.batched import RULES, Rule
from daft_rl.envs.wrappers import ActionDelay, ObservationShift
from daft_rl.errors import TaskError

__all__ = ["ThreadedMujocoVecEnv"]

WRAPPERS = (TimeLimit, OrderEnforcing, PassiveEnvChecker, ObservationShift, ActionDelay)

# What the rules replace. A subclass may change how a task is built and reset, and how its physics steps; not these.
REPLACED = (
    "step",
    "do_simulation",
    "state_vector",
    "_get_obs",
    "_get_rew",
    "control_cost",
    "contact_cost",
    "contact_forces",
    "healthy_reward",
    "is_healthy",
)


def layers(env: gym.Env) -> list[Any]:
    """The wrappers of an environment, outermost first."""
    found: list[Any] = []
    while isinstance(env, gym.Wrapper):
        found.append(env)
        env = env.env
    return found


def find_rule(env: gym.Env) -> type[Rule]:
    """The rule of an environment's task.

    :raises TaskError: the task, a wrapper or the render mode is one that threads cannot serve
    """
    core: Any = env.unwrapped
    base = next((cls for cls in type(core).__mro__ if cls in RULES), None)
    strange = [type(wrapper).__name__ for wrapper in layers(env) if type(wrapper) not in WRAPPERS]
    problem = ""
    if base is None:
        problem = f"'{type(core).__name__}' is none of their tasks"
    elif changed := [name for name in REPLACED if getattr(type(core), name, 0) is not getattr(base, name, 0)]:
        problem = f"'{type(core).__name__}' redefines {', '.join(changed)} of {base.__name__}"
    elif strange:
        problem = f"the wrapper {', '.join(strange)} is none of theirs (for episode statistics use SB3's VecMonitor)"
    elif core.render_mode == "human":
        problem = "render_mode='human' is shown by the step that they replace (use 'rgb_array')"
    if problem or base is None:
        raise TaskError(
            f"Threads cannot step {env}: {problem}. What they know: Gymnasium's v5 tasks "
            f"{', '.join(cls.__name__ for cls in RULES)} in the wrappers "
            f"{', '.join(wrapper.__name__ for wrapper in WRAPPERS)}. Use vec='dummy' for the rest."
        )
    return RULES[base]


class BatchShift:
    """:class:`ObservationShift` for those rows of a batch whose environments have it.

    :param rows: row -> its wrapper; all of them with noise, or all without
    """

    def __init__(self, rows: dict[int, ObservationShift]) -> None:
        self.rows, shifts = list(rows), list(rows.values())
        self.scale = np.array([[shift.scale] for shift in shifts])
        self.offset = np.array([shift.offset for shift in shifts])
        self.sigma = np.array([[shift.noise] for shift in shifts])
        self.noisy = bool(self.sigma.any())
        self.noise = np.empty_like(self.offset)
        self.cores = [shift.unwrapped for shift in shifts]

    def __call__(self, observation: np.ndarray) -> None:
        """Shift, in place.

        :param observation: shape ``(num_envs, observation size)``
        """
        shifted = observation[self.rows] * self.scale + self.offset
        if self.noisy:
            for core, noise in zip(self.cores, self.noise, strict=True):
                core.np_random.standard_normal(out=noise)
            shifted += self.sigma * self.noise
        observation[self.rows] = shifted


def batch_shifts(stacks: Sequence[list[Any]]) -> list[BatchShift]:
    """Group the :class:`ObservationShift` wrappers that can be applied at once.

    :param stacks: the wrappers of each environment, outermost first
    :return: in the order in which they are to be applied, which is from the inside out
    """
    shifts = [[wrapper for wrapper in reversed(stack) if isinstance(wrapper, ObservationShift)] for stack in stacks]
    groups = []
    for level in zip_longest(*shifts):
        rows = {i: shift for i, shift in enumerate(level) if shift is not None}
        for noisy in (False, True):
            group = {i: shift for i, shift in rows.items() if bool(shift.noise) is noisy}
            groups += [BatchShift(group)] if group else []
    return groups


Job = tuple[Any, np.ndarray]


def attempt(job: Job) -> BaseException | None:
    """Step one environment; return what went wrong. An interrupt, too, has to wait for the other threads."""
    env, action = job
    try:
        env._step_mujoco_simulation(action, env.frame_skip)
    except BaseException as error:
        return error
    return None


def serve(inbox: SimpleQueue) -> None:
    """The life of a thread."""
    while (order := inbox.get()) is not None:
        jobs, outbox = order
        for job in jobs:
            outbox.put(attempt(job))


class Crew:
    """Threads that share out the physics of a step. The one that calls :meth:`finish` is one of them.

    Whoever is free takes the next environment: an iterator over a list can be shared between threads. A thread
    that comes too late finds nothing left, and nobody waits for it: that matters when cores are busy otherwise.
    In a fork of the process, which threads do not follow, new ones start.

    :param size: how many threads, the caller's among them
    """

    def __init__(self, size: int) -> None:
        self._outbox: SimpleQueue[BaseException | None] = SimpleQueue()
        self._jobs: Iterator[Job] = iter(())
        self._pending = 0
        self._hire(size)

    def _hire(self, size: int) -> None:
        self._process = os.getpid()
        self._inbox: SimpleQueue[tuple[Iterator[Job], SimpleQueue] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=serve, args=(self._inbox,), name=f"mujoco-{i}", daemon=True) for i in range(1, size)
        ]
        for thread in self._threads:
            thread.start()

    def start(self, jobs: Iterable[Job]) -> None:
        """Begin to step environments; the caller goes on."""
        self.finish()
        if self._process != os.getpid():
            self._hire(len(self._threads) + 1)
        batch = list(jobs)
        self._jobs, self._pending, self._outbox = iter(batch), len(batch), SimpleQueue()
        for _ in self._threads:
            self._inbox.put((self._jobs, self._outbox))

    def finish(self) -> None:
        """Lend a hand, and return once every environment has made its step.

        :raises BaseException: what a thread raised
        """
        pending, self._pending = self._pending, 0
        results = [attempt(job) for job in self._jobs]
        results += [self._outbox.get() for _ in range(pending - len(results))]
        for error in filter(None, results):
            raise error

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


class ThreadedMujocoVecEnv(DummyVecEnv):
    """Steps Gymnasium's MuJoCo tasks with several threads; equal to ``DummyVecEnv`` in every bit it returns.

    Each environment keeps its own model, data, random streams and wrappers, and resets itself. The models may
    differ. Numbers that Gymnasium's classes take in their constructors (reward weights, healthy ranges, the model's
    time step, the wrappers' noise) are read again after :meth:`reset`, :meth:`get_attr`, :meth:`set_attr` and
    :meth:`env_method`; whatever else is changed in a model counts at the next step.

    :param env_fns: functions that each make one environment
    :param num_threads: how many threads step, the caller's among them; ``None`` is one per core
    :raises TaskError: an unsupported task, wrapper or render mode, or environments that do not fit together
    """

    def __init__(self, env_fns: list[Callable[[], gym.Env]], num_threads: int | None = None) -> None:
        if num_threads is None:
            num_threads = usable_cores()
        if isinstance(num_threads, bool) or not isinstance(num_threads, int) or num_threads < 1:
            raise TaskError(f"num_threads: expected a whole number >= 1, got {num_threads!r}.")
        super().__init__(env_fns)
        self._rule_type = find_rule(self.envs[0])
        first: Any = self.envs[0].unwrapped
        for env in self.envs:
            core: Any = env.unwrapped
            if find_rule(env) is not self._rule_type or core.observation_structure != first.observation_structure:
                raise TaskError(f"Environments of one batch must observe the same, {env} and {self.envs[0]} do not.")
        self._refresh()
        self._stale = True
        self._paused = np.zeros(self.num_envs, dtype=bool)
        self._crew = Crew(min(num_threads, self.num_envs))
        self._finalizer = weakref.finalize(self, self._crew.dismiss)

    def _refresh(self) -> None:
        """Look up what is not looked up at every step."""
        self._cores: list[Any] = [env.unwrapped for env in self.envs]
        self._data = [core.data for core in self._cores]
        self._rule = self._rule_type(self._cores)
        stacks = [layers(env) for env in self.envs]

        def find(kind: type[gym.Wrapper]) -> list[tuple[int, Any]]:
            return [(i, wrapper) for i, stack in enumerate(stacks) for wrapper in stack if isinstance(wrapper, kind)]

        self._orders, self._limits, self._delays = find(OrderEnforcing), find(TimeLimit), find(ActionDelay)
        self._shifts = batch_shifts(stacks)
        self._stale = False

    def reset(self) -> VecEnvObs:
        """Start an episode in every environment; seeds and options given before are used up."""
        self._crew.finish()
        self._stale = True
        self._paused[:] = False
        return super().reset()

    def pause(self, rows: np.ndarray) -> None:
        """Leave environments where they are until the next :meth:`reset`; the others go on as if nothing were.

        What a step returns for a paused environment means nothing, but that its episode does not end.

        :param rows: which, shape ``(num_envs,)`` of truth values
        """
        self._paused = rows.copy()

    def step_async(self, actions: np.ndarray) -> None:
        """Let the threads begin a step.

        :param actions: shape ``(num_envs, action size)``
        :raises ResetNeeded: an environment was never reset
        """
        if self._stale or [core.data for core in self._cores] != self._data:
            self._refresh()
            if not all(order.has_reset for _, order in self._orders):
                raise ResetNeeded("Cannot call env.step() before calling env.reset()")
        expected = (self.num_envs, *(self.action_space.shape or ()))
        actions = np.array(actions)  # a copy: threads and delayed actions must not see the caller's later changes
        if actions.shape != expected:
            raise TaskError(f"Action dimension mismatch. Expected {expected}, found {actions.shape}.")
        if self._delays:
            rows = list(actions)
            for i, delay in self._delays:
                delay._queue.append(rows[i])
                rows[i] = delay._queue.popleft()
            actions = np.stack(rows)
        self.actions, self._before = actions, self._rule.position()
        self._crew.start((self._cores[i], actions[i]) for i in np.flatnonzero(~self._paused))

    def step_wait(self) -> VecEnvStepReturn:
        """Finish the step.

        :return: observations, rewards (float32), dones, and a dictionary per environment
        :raises Exception: what the simulator raised in a thread
        """
        self._crew.finish()
        observations, rewards, terminated, info = self._rule.evaluate(self.actions, self._before)
        for shift in self._shifts:
            shift(observations)
        truncated = self._count_steps()
        info["TimeLimit.truncated"] = (truncated & ~terminated).tolist()
        infos = [dict(zip(info, values)) for values in zip(*info.values())]  # noqa: B905 (strict= is slow)
        dones = (terminated | truncated) & ~self._paused
        for i in np.flatnonzero(dones):
            infos[i]["terminal_observation"] = observations[i].copy()
            observations[i], self.reset_infos[i] = self.envs[i].reset()
        return observations, rewards.astype(np.float32), dones, infos

    def _count_steps(self) -> np.ndarray:
        """Count a step in every time limit; say which have run out. The count stays where resets reset it."""
        truncated = np.zeros(self.num_envs, dtype=bool)
        for i, limit in self._limits:
            limit._elapsed_steps += 1
            if limit._elapsed_steps >= limit._max_episode_steps:
                truncated[i] = True
        return truncated

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """See ``VecEnv``. What is handed out may be changed, hence a refresh."""
        self._stale = True
        return super().get_attr(attr_name, indices)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """See ``VecEnv``."""
        self._crew.finish()
        self._stale = True
        super().set_attr(attr_name, value, indices)

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """See ``VecEnv``."""
        self._crew.finish()
        self._stale = True
        return super().env_method(method_name, *args, indices=indices, **kwargs)

    def close(self) -> None:
        """End the threads and close the environments."""
        self._crew.finish()
        self._crew.close()
        super().close()
