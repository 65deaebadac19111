"""Worlds that a learner steps as tensors, through the wrappers that otherwise see NumPy arrays.

What a wrapper knows is loaded from it before a rollout and stored in it afterwards. In between nothing waits for the
device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecMonitor, VecNormalize
from torch import Tensor
from torch.distributions import Distribution

from daft_rl.rollout.device.wrappers import EpisodeRecords, Normalization, Penalty, TensorWrapper
from daft_rl.rollout.lagrangian import Lagrangian
from daft_rl.rollout.profile import TimedVecEnv

if TYPE_CHECKING:  # worlds need Warp, which is not installed everywhere
    from daft_rl.envs.cuda.worlds import Step, Worlds

__all__ = ["DeviceEnv", "find_device_env", "with_mixin", "without_checks"]

TRANSLATED: dict[type[VecEnvWrapper], type[TensorWrapper] | None] = {
    VecMonitor: EpisodeRecords,
    Lagrangian: Penalty,
    VecNormalize: Normalization,
    TimedVecEnv: None,  # DeviceEnv counts the time
}
"""The wrappers that can be around worlds, and what does the same with tensors."""


class DeviceEnv:
    """Worlds and the wrappers around them, stepped as tensors.

    Call :meth:`load`, then :meth:`step` any number of times, then :meth:`store`.

    :param worlds: what steps
    :param wrappers: around the worlds, innermost first, each of a type in :data:`TRANSLATED`
    """

    observation: Tensor
    """What the policy acts on next, normalized, shape ``(num_worlds, observation size)``."""
    episode_start: Tensor
    """Whether :attr:`observation` is the first of an episode, Booleans, shape ``(num_worlds,)``."""
    original_observation: Tensor
    """:attr:`observation` as it was before ``VecNormalize``."""

    def __init__(self, worlds: Worlds, wrappers: list[VecEnvWrapper]) -> None:
        self.worlds = worlds
        space = worlds.action_space
        self._low, self._high = (torch.as_tensor(bound, device=worlds.device) for bound in (space.low, space.high))
        self._timer = next((wrapper.profile for wrapper in wrappers if isinstance(wrapper, TimedVecEnv)), None)
        translations = ((wrapper, TRANSLATED[type(wrapper)]) for wrapper in wrappers)
        self.wrappers = [kind(wrapper, worlds) for wrapper, kind in translations if kind is not None]
        self.normalization = next((item for item in self.wrappers if isinstance(item, Normalization)), None)

    def load(self, model: BaseAlgorithm) -> None:
        """Go on where ``model`` and the wrappers are."""
        device = self.worlds.device
        self.observation = torch.as_tensor(model._last_obs, dtype=torch.float32, device=device)
        self.episode_start = torch.as_tensor(model._last_episode_starts, dtype=torch.bool, device=device)
        for wrapper in self.wrappers:
            wrapper.load()
        normalization = self.normalization
        self.original_observation = self.observation if normalization is None else normalization.first_observation

    def step(self, action: Tensor) -> Step:
        """Step all worlds, and give what the outermost wrapper gives.

        :param action: within the action space, shape ``(num_worlds, action size)``
        """
        with self._timed():
            step = self.worlds.step(action)
        done = step.done
        for wrapper in self.wrappers:
            step = wrapper.step(step, done)
        self.observation, self.episode_start = step.observation, done
        self.original_observation = self.original(step).observation
        return step

    def clip(self, action: Tensor) -> Tensor:
        """Actions within the action space."""
        return torch.clamp(action, self._low, self._high)

    def unscale(self, action: Tensor) -> Tensor:
        """Actions between -1 and 1, stretched to the action space."""
        return self._low + 0.5 * (action + 1.0) * (self._high - self._low)

    def original(self, step: Step) -> Step:
        """The last step as it was before ``VecNormalize``, which is what replay buffers hold.

        :param step: what :meth:`step` returned
        """
        original = None if self.normalization is None else self.normalization.original
        return step if original is None else original

    def store(self, model: BaseAlgorithm) -> None:
        """Tell ``model`` and the wrappers where the worlds are, and which episodes ended. It waits for the device.

        :raises SimulationError: the simulation lost forces, see :meth:`daft_rl.envs.cuda.worlds.Worlds.check`
        """
        self.worlds.check()
        model._last_obs = self.observation.cpu().numpy()  # type: ignore[assignment]
        model._last_episode_starts = self.episode_start.cpu().numpy()
        if self.normalization is not None:
            model._last_original_obs = self.original_observation.cpu().numpy()  # type: ignore[assignment]
        for wrapper in self.wrappers:
            wrapper.store()
            if isinstance(wrapper, EpisodeRecords) and model.ep_info_buffer is not None:
                model.ep_info_buffer.extend(wrapper.ended)
                successes = [episode["is_success"] for episode in wrapper.ended if "is_success" in episode]
                model.ep_success_buffer.extend(successes)  # type: ignore[union-attr]

    def _timed(self) -> AbstractContextManager[None]:
        """On a GPU this counts the launches; the device may still compute when the policy's turn comes."""
        return nullcontext() if self._timer is None else self._timer("simulation")


def find_device_env(model: BaseAlgorithm) -> DeviceEnv | None:
    """The worlds that a model learns in, if they and all wrappers around them can be stepped as tensors.

    :param model: any SB3 algorithm object
    :return: ``None`` if there are no worlds, they are on another device, or a wrapper speaks NumPy only
    """
    venv: VecEnv | None = model.get_env()
    wrappers: list[VecEnvWrapper] = []
    while isinstance(venv, VecEnvWrapper):
        wrappers.insert(0, venv)
        venv = venv.venv
    worlds: Any = getattr(venv, "worlds", None)
    if worlds is None or worlds.device.type != model.device.type:
        return None
    return DeviceEnv(worlds, wrappers) if all(type(wrapper) in TRANSLATED for wrapper in wrappers) else None


@contextmanager
def without_checks() -> Iterator[None]:
    """Inside, PyTorch's distributions do not check their parameters: reading the answer would wait for the device."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


@cache
def _derived(mixin: type, algorithm: type[BaseAlgorithm]) -> type[BaseAlgorithm]:
    names = {"__doc__": algorithm.__doc__, "__module__": algorithm.__module__}
    return type(algorithm.__name__, (mixin, algorithm), names)


def with_mixin(model: BaseAlgorithm, mixin: type) -> None:
    """Put a mixin under the class of an algorithm object. Its archives stay those of the plain class.

    :param model: its class becomes a subclass of the same name, unless it has the mixin already
    :param mixin: a class without a constructor
    """
    if not isinstance(model, mixin):
        model.__class__ = _derived(mixin, type(model))
