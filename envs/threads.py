"""Gymnasium's MuJoCo tasks stepped by threads, result for result equal to ``DummyVecEnv``, and faster.

Threads share out the physics in a compiled loop, for which they need no interpreter. What Gymnasium then does in Python
for one environment after the other is done here once for all of them, with the same operations in the same order: every
number has the same bits.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from daft_rl.envs.cores import usable_cores
from daft_rl.envs.rules import RULES, Rule
from daft_rl.envs.stepping import Crew, Physics
from daft_rl.envs.wrappers import ActionDelay, ObservationShift
from daft_rl.errors import TaskError

__all__ = ["ThreadedMujocoVecEnv"]

WRAPPERS = (TimeLimit, OrderEnforcing, PassiveEnvChecker, ObservationShift, ActionDelay)

# What is replaced. A subclass may change how a task is built and reset; not these.
REPLACED = (
    "step",
    "do_simulation",
    "_step_mujoco_simulation",
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


class ThreadedMujocoVecEnv(DummyVecEnv):
    """Steps Gymnasium's MuJoCo tasks with several threads; equal to ``DummyVecEnv`` in every bit it returns.

    Each environment keeps its own model, data, random streams and wrappers, and resets itself. The models may
    differ. Numbers that Gymnasium's classes take in their constructors (reward weights, healthy ranges, the model's
    time step, the wrappers' noise) are read again after :meth:`reset`, :meth:`get_attr`, :meth:`set_attr` and
    :meth:`env_method`; whatever else is changed in a model counts at the next step.

    What MuJoCo cannot step, as options that it does not know, raises before the first step after a refresh. An error of
    MuJoCo in the middle of a step, as when its memory for contacts runs out, ends the process with MuJoCo's message.

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

    def _refresh(self, earlier: Physics | None = None) -> None:
        """Look up what is not looked up at every step."""
        self._cores: list[Any] = [env.unwrapped for env in self.envs]
        self._rule = self._rule_type(self._cores)
        self._physics = Physics(self._cores, self._rule.before, self._rule.after, earlier)
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
        if self._stale or not self._physics.is_of(self._cores):
            self._refresh(self._physics)
            if not all(order.has_reset for _, order in self._orders):
                raise ResetNeeded("Cannot call env.step() before calling env.reset()")
        expected = (self.num_envs, self._physics.num_controls)
        actions = np.array(actions)  # a copy: threads and delayed actions must not see the caller's later changes
        if actions.shape != expected:
            raise TaskError(f"Action dimension mismatch. Expected {expected}, found {actions.shape}.")
        if self._delays:
            rows = list(actions)
            for i, delay in self._delays:
                delay._queue.append(rows[i])
                rows[i] = delay._queue.popleft()
            actions = np.stack(rows)
        self.actions = actions
        self._crew.start(self._physics.order(np.flatnonzero(~self._paused), actions))

    def step_wait(self) -> VecEnvStepReturn:
        """Finish the step.

        :return: observations, rewards (float32), dones, and a dictionary per environment
        """
        self._crew.finish()
        observations, rewards, terminated, info = self._rule.evaluate(self.actions)
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
