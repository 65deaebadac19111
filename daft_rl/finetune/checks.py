"""Checks that a method can be applied to an algorithm, before anything changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit

from daft_rl.agents.algorithms import find_algorithm
from daft_rl.errors import MethodError
from daft_rl.method import Method

__all__ = ["check_adaptive_kl", "check_gradients", "check_minibatch", "check_rhythm"]


def check_minibatch(algorithm: BaseAlgorithm, method: Method) -> None:
    """
    :raises MethodError: training-mode BatchNorm would get a minibatch of one sample, which it cannot normalize
    """
    model: Any = algorithm
    samples = getattr(model, "n_steps", 0) * model.n_envs
    batch = getattr(model, "batch_size", samples) or samples
    if method.bn_mode == "train" and hasattr(model, "rollout_buffer") and 1 in (batch, samples % batch):
        raise MethodError(
            f"A rollout of {samples} samples in minibatches of {batch} leaves one of a single sample, which "
            "training-mode BatchNorm cannot normalize: choose another batch_size, n_steps or num_envs."
        )


def check_rhythm(algorithm: BaseAlgorithm) -> None:
    """
    :raises MethodError: the algorithm would learn after whole episodes of several environments, which SB3 refuses
    """
    frequency = getattr(algorithm, "train_freq", None)
    if isinstance(frequency, TrainFreq) and frequency.unit is TrainFrequencyUnit.EPISODE and algorithm.n_envs > 1:
        raise MethodError(
            f"This {type(algorithm).__name__} learns after every {frequency.frequency} episodes, and episodes of "
            f"{algorithm.n_envs} environments do not end together: use num_envs=1, or train_freq=1 to count steps.",
            arguments=("num_envs", "train_freq"),
        )


def check_adaptive_kl(model: BaseAlgorithm, adaptive_kl: float | None) -> None:
    """
    :raises MethodError: learning rates would follow a KL divergence that the algorithm does not measure
    """
    if adaptive_kl is not None and not isinstance(model, PPO):
        raise MethodError(
            f"adaptive_kl={adaptive_kl:g} is for PPO, whose updates measure a KL divergence; this is "
            f"{type(model).__name__}. Use adaptive_kl=None.",
            arguments=("adaptive_kl",),
        )


def check_gradients(model: BaseAlgorithm, method: Method, groups: Sequence[str], factors: Mapping[str, float]) -> None:
    """
    :param groups: names of the model's parameter groups
    :param factors: factor on each group's learning rate beside the method's own
    :raises MethodError: nothing that a loss depends on would learn, and SB3's updates fail then
    """
    if not method.learns:
        return
    if find_algorithm(model).line_search:
        _check_line_search(model, method, factors)
    on_policy = isinstance(model, OnPolicyAlgorithm)
    needed = [name for name in groups if on_policy or name.startswith("critic")]
    if all(method.groups[name].frozen(0.0) for name in needed):
        raise MethodError(
            f"Method '{method.name}' freezes {', '.join(needed)} at the start, and "
            f"{type(model).__name__} cannot update without one of them: let one learn from the start."
        )


def _check_line_search(model: BaseAlgorithm, method: Method, factors: Mapping[str, float]) -> None:
    """A line search moves the whole actor, and knows no learning rates."""
    name = type(model).__name__
    if method.l2_sp:
        raise MethodError(f"l2_sp cannot be applied to {name}: its actor moves by a line search, not by gradients.")
    groups = method.groups
    if {factors["actor_encoder"], factors["actor_head"]} != {1.0}:
        raise MethodError(
            f"actor_scale={factors['actor_head']:g} has no effect on {name}: a line search moves its actor."
        )
    scales = {groups[part].scale * factors[part] for part in ("actor_encoder", "actor_head")}
    rises = groups["actor_encoder"].rise_until or groups["actor_head"].rise_until
    if scales != {1.0} or rises or any(group.frozen_until or group.scale == 0.0 for group in groups.values()):
        raise MethodError(
            f"Method '{method.name}' cannot be applied to {name}, which moves the whole actor by a line search, not by "
            "learning rates: use one that treats encoder and head alike and freezes none (daft)."
        )
