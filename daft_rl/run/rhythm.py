"""When and how fast a policy learns where the settings do not say: mostly as its source did."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from daft_rl.archives.container import read_attributes
from daft_rl.archives.hyperparameters import read_hyperparameters
from daft_rl.errors import DaftWarning
from daft_rl.validation import LARGEST

__all__ = ["FirstEpisode", "first_update", "own_rate", "own_rhythm"]

FIELDS = ("n_envs", "train_freq", "gradient_steps", "exploration_final_eps", "learning_rate")

SHARE_BEFORE_UPDATES = 0.05
"""Of a run's steps: 5000 of 100 000."""


def own_rhythm(
    source: Path | BaseAlgorithm, kind: type[BaseAlgorithm], given: Mapping[str, Any], num_envs: int
) -> dict[str, Any]:
    """Settings of the source that are counted in its own environments, for another number of environments.

    As many environment steps as before lie between two phases of updates, and a phase has as many updates: with target
    networks that are copied in between, both decide whether the values of a trained policy hold. A source that learned
    after each episode learns after each step, since episodes of several environments do not end together; it made as
    many updates as steps, and so it does now. Exploration starts at the chance of a random action with which it ended.

    :param source: an archive, or an agent
    :param kind: the class of its algorithm
    :param given: arguments of the constructor that the settings say
    :param num_envs: how many environments step together now
    :return: arguments of the constructor that ``given`` leaves out; empty for on-policy algorithms
    :raises AgentError: the archive cannot be read
    """
    if not issubclass(kind, OffPolicyAlgorithm):
        return {}
    own = _read(source, kind)
    kept: dict[str, Any] = {}
    if "train_freq" not in given:
        kept = {} if own.get("train_freq") is None else _updates(own, num_envs)
    elif _unit(given["train_freq"]) == "episode":
        kept = {"gradient_steps": -1}  # to SB3, as many as the episodes had steps
    if "exploration_initial_eps" not in given and own.get("exploration_final_eps") is not None:
        kept["exploration_initial_eps"] = given.get("exploration_final_eps", own["exploration_final_eps"])
    return {name: value for name, value in kept.items() if name not in given}


def own_rate(
    source: Path | BaseAlgorithm, kind: type[BaseAlgorithm], given: Mapping[str, Any], most: float | None
) -> dict[str, float]:
    """The learning rate at which the source learned, or began to, if that is lower than a bound.

    rl-zoo's PPO on HalfCheetah learned at 2e-5, and loses a quarter of its return at home at 3e-4
    (``benchmarks/README.md``).

    :param source: an archive, or an agent
    :param kind: the class of its algorithm
    :param given: arguments of the constructor that the settings say
    :param most: the bound; ``None`` leaves the source's schedule to the algorithm
    :return: ``learning_rate``, unless ``given`` has one. The bound, if the source does not tell its rate
    :raises AgentError: the archive cannot be read
    """
    if most is None or "learning_rate" in given:
        return {}
    own = _read(source, kind).get("learning_rate")
    start = _number(own(1.0) if callable(own) else own)
    return {"learning_rate": min(start, most) if start is not None and start > 0 else most}


def first_update(
    kind: type[BaseAlgorithm], given: Mapping[str, Any], total_timesteps: int, most: int | None
) -> dict[str, int]:
    """Steps before the first update: a share of the run, so that short runs learn too.

    :param kind: the class of the algorithm
    :param given: arguments of the constructor that the settings say
    :param total_timesteps: of the run
    :param most: the bound; ``None`` leaves the source's number as it is
    :return: ``learning_starts``, unless ``given`` has it or the algorithm has no replay buffer
    """
    if most is None or "learning_starts" in given or not issubclass(kind, OffPolicyAlgorithm):
        return {}
    return {"learning_starts": min(most, round(SHARE_BEFORE_UPDATES * total_timesteps))}


class FirstEpisode(BaseCallback):
    """Lets an agent with a ``HerReplayBuffer`` wait with updates until an episode has ended.

    The buffer has nothing to sample before, and raises. How long an episode is nobody knows in advance.
    """

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        if self._waits():
            self.model.learning_starts = max(self.model.learning_starts, self.num_timesteps)  # type: ignore[attr-defined]

    def _on_training_end(self) -> None:
        if self._waits():
            message = (
                f"No episode ended in {self.num_timesteps} steps, and hindsight experience replay learns from whole "
                "ones: the policy is as before. Take more steps, or fewer num_envs."
            )
            warnings.warn(DaftWarning(message), stacklevel=2)

    def _waits(self) -> bool:
        buffer = getattr(self.model, "replay_buffer", None)
        return isinstance(buffer, HerReplayBuffer) and not (buffer.ep_length > 0).any()


def _number(value: Any) -> float | None:
    """A number of any library, if it is one and finite."""
    if isinstance(value, str):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _read(source: Path | BaseAlgorithm, kind: type[BaseAlgorithm]) -> dict[str, Any]:
    if isinstance(source, BaseAlgorithm):
        return {name: getattr(source, name, None) for name in FIELDS}
    attributes = read_attributes(source)
    return {"n_envs": attributes.get("n_envs"), **read_hyperparameters(attributes, kind)[0]}


def _updates(own: Mapping[str, Any], num_envs: int) -> dict[str, Any]:
    frequency, updates, environments = own["train_freq"], own.get("gradient_steps"), own.get("n_envs")
    calls = frequency[0] if isinstance(frequency, tuple) else frequency
    if _unit(frequency) == "episode":
        return {"train_freq": (calls, "episode") if num_envs == 1 else 1, "gradient_steps": -1}
    if not 0 < calls <= LARGEST:
        return {}
    before = calls * (environments if isinstance(environments, int) and 0 < environments <= LARGEST else 1)
    now = max(1, round(before / num_envs))
    if not isinstance(updates, int) or updates < 0:
        return {"train_freq": now, "gradient_steps": -1}
    return {"train_freq": now, "gradient_steps": max(1, round(updates * now * num_envs / before))}


def _unit(frequency: Any) -> str:
    unit = frequency[1] if isinstance(frequency, tuple) else "step"
    return str(getattr(unit, "value", unit))
