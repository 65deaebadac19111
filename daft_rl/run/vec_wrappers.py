"""SB3's wrappers of batches, such as ``VecFrameStack``, that settings name: inside or outside of ``VecNormalize``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecMonitor, VecNormalize, VecVideoRecorder

from daft_rl.errors import AgentError, TaskError
from daft_rl.imports import load_object
from daft_rl.settings import NORMALIZE

__all__ = ["Normalized", "VecWrappers", "wrap_outside"]

OURS = {
    VecMonitor: "A run writes monitor.csv itself",
    VecVideoRecorder: "render=True writes videos",
    VecNormalize: f"'{NORMALIZE}' marks the place of the agent's statistics",
}
"""Wrappers that a run has of its own. The first two would write to any path that a file of settings names."""


class Normalized(VecNormalize):
    """Observations as a model's ``VecNormalize`` makes them at any time; rewards as they are. It keeps no statistics.

    :param venv: a batch in which the model plays
    :param model: has the statistics, or none
    """

    def __init__(self, venv: VecEnv, model: BaseAlgorithm) -> None:
        super().__init__(venv, training=False, norm_obs=False, norm_reward=False)
        self.model = model

    def normalize_obs(self, obs: Any) -> Any:
        """See :meth:`VecNormalize.normalize_obs`."""
        normalizer = self.model.get_vec_normalize_env()
        return obs if normalizer is None else normalizer.normalize_obs(obs)


@dataclass(frozen=True)
class _Wrapper:
    """One wrapper, and how it is made."""

    path: str
    cls: type[VecEnvWrapper]
    kwargs: dict[str, Any] = field(default_factory=dict)

    def wrap(self, venv: VecEnv) -> VecEnv:
        """
        :raises TaskError: the wrapper fails
        """
        try:
            return self.cls(venv, **self.kwargs)
        except Exception as error:  # a wrapper may raise anything
            raise TaskError(
                f"vec_wrappers: '{self.path}' cannot wrap the environments with {self.kwargs}: "
                f"{type(error).__name__}: {' '.join(str(error).split())}",
                arguments=("vec_wrappers",),
            ) from error


class VecWrappers:
    """The wrappers that the settings name.

    A settings file may come from a stranger: nothing is called but classes derived from SB3's ``VecEnvWrapper``, and
    none that writes files.

    :param given: ``vec_wrappers`` of the settings
    :raises TaskError: one of them does not exist, is no such class, or is one that a run has of its own
    """

    def __init__(self, given: Sequence[str | Mapping[str, Any]]) -> None:
        place = list(given).index(NORMALIZE) if NORMALIZE in given else len(given)
        self.inside = [_read(entry) for entry in given[:place]]
        """Between the environments and ``VecNormalize``."""
        self.outside = [_read(entry) for entry in given[place + 1 :]]
        """Between ``VecNormalize`` and the agent."""

    def __bool__(self) -> bool:
        return bool(self.inside or self.outside)

    def wrap_inside(self, venv: VecEnv) -> VecEnv:
        """Put the wrappers around raw environments that ``VecNormalize`` sees through."""
        for wrapper in self.inside:
            venv = wrapper.wrap(venv)
        return venv

    def wrap_outside(self, venv: VecEnv) -> VecEnv:
        """Put the wrappers around normalized environments that the agent sees through."""
        for wrapper in self.outside:
            venv = wrapper.wrap(venv)
        return venv

    def seen_by(self, model: BaseAlgorithm, venv: VecEnv) -> VecEnv:
        """The batch ``venv``, of raw observations, as the model sees it. Without outer wrappers that is ``venv``."""
        return self.wrap_outside(Normalized(venv, model)) if self.outside else venv


def wrap_outside(given: Sequence[str | Mapping[str, Any]], kind: type[BaseAlgorithm], venv: VecEnv) -> VecEnv:
    """What an agent learns in: the batch in the wrappers that are outside of ``VecNormalize``.

    :param given: ``vec_wrappers`` of the settings
    :param kind: of the agent
    :param venv: in ``VecNormalize``, if the agent has one
    :raises AgentError: a replay buffer would hold observations of another shape than the policy's
    """
    wrappers = VecWrappers(given)
    if wrappers.outside and issubclass(kind, OffPolicyAlgorithm):
        raise AgentError(
            f"vec_wrappers outside of VecNormalize do not go with {kind.__name__}: SB3's replay buffers hold the "
            "observations before VecNormalize.",
            arguments=("vec_wrappers",),
        )
    return wrappers.wrap_outside(venv)


def _read(entry: str | Mapping[str, Any]) -> _Wrapper:
    path, kwargs = (entry, {}) if isinstance(entry, str) else (entry["path"], dict(entry.get("kwargs") or {}))
    found = load_object(path, TaskError)
    if not (isinstance(found, type) and issubclass(found, VecEnvWrapper)):
        raise TaskError(
            f"vec_wrappers: '{path}' is no wrapper of batches, got {found!r}. Expected a class derived from "
            "stable_baselines3.common.vec_env.VecEnvWrapper.",
            arguments=("vec_wrappers",),
        )
    reason = next((reason for cls, reason in OURS.items() if issubclass(found, cls)), None)
    if reason is not None:
        raise TaskError(f"vec_wrappers: '{path}' has no place here. {reason}.", arguments=("vec_wrappers",))
    return _Wrapper(path, found, kwargs)
