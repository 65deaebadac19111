"""Where fine-tuning hooks into an SB3 algorithm: one mixin, put under the object's class while a tuner is attached."""

from __future__ import annotations

from functools import cache
from typing import Any, Protocol

import torch
from stable_baselines3.common.base_class import BaseAlgorithm

from daft_rl.finetune.optimizers import GroupedOptimizers
from daft_rl.learner.learner import Learner
from daft_rl.rollout.profile import Profile

__all__ = ["HookedAlgorithm", "hook", "unhook"]


class LearningHooks(Protocol):
    """What a hooked algorithm asks of its tuner."""

    profile: Profile
    optimizers: GroupedOptimizers
    learner: Learner

    def before_update(self, optimizers: list[torch.optim.Optimizer]) -> None:
        """Set rates, frozen groups and BatchNorm modes of the update that begins."""

    def after_update(self) -> None:
        """Learn from what the update that ended has logged."""

    @property
    def acts_before_learning(self) -> bool:
        """Whether the policy acts before ``learning_starts``, in place of random actions."""

    def plain_optimizer_states(self) -> dict[str, dict[str, Any]]:
        """The states of the optimizers by SB3's names, as if each had one parameter group."""


class HookedAlgorithm(BaseAlgorithm):
    """Mixed into the class of an algorithm object. Without a tuner it does what the algorithm does.

    If somebody else derives a class from the object's class meanwhile, that class keeps this mixin.
    """

    tuner: LearningHooks | None = None

    def collect_rollouts(self, *args: Any, **kwargs: Any) -> Any:
        """As the algorithm does, timed. Simulation inside is a phase of its own."""
        if self.tuner is None:
            return super().collect_rollouts(*args, **kwargs)  # type: ignore[misc]
        with self.tuner.profile("inference"):
            return super().collect_rollouts(*args, **kwargs)  # type: ignore[misc]

    def train(self, *args: Any, **kwargs: Any) -> None:
        """As the algorithm does, or by quicker steps that come to the same, timed."""
        if self.tuner is None:
            super().train(*args, **kwargs)  # type: ignore[misc]
            return
        training = self.tuner.learner.training
        with self.tuner.profile("update"):
            if training is None:
                super().train(*args, **kwargs)  # type: ignore[misc]
            else:
                training.train(*args, **kwargs)
        self.tuner.after_update()

    def _update_learning_rate(self, optimizers: list[torch.optim.Optimizer] | torch.optim.Optimizer) -> None:
        if self.tuner is None:
            super()._update_learning_rate(optimizers)
        else:
            self.tuner.before_update(optimizers if isinstance(optimizers, list) else [optimizers])

    def _sample_action(self, learning_starts: int, *args: Any, **kwargs: Any) -> Any:
        """SB3's off-policy algorithms act at random before ``learning_starts``; a source acts by its policy."""
        if self.tuner is not None and self.tuner.acts_before_learning:
            learning_starts = 0
        return super()._sample_action(learning_starts, *args, **kwargs)  # type: ignore[misc]

    def get_parameters(self) -> dict[str, dict[str, Any]]:
        """State dictionaries as SB3 saves them, with one group per optimizer, so that plain ``load`` opens them."""
        own = {} if self.tuner is None else self.tuner.plain_optimizer_states()
        return super().get_parameters() | own

    def set_parameters(self, *args: Any, **kwargs: Any) -> None:
        """As the algorithm does, with states of one group per optimizer, such as :meth:`get_parameters` gives."""
        if self.tuner is None:
            super().set_parameters(*args, **kwargs)
            return
        self.tuner.optimizers.ungroup()
        try:
            super().set_parameters(*args, **kwargs)
        finally:
            self.tuner.optimizers.group()

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "tuner"]


@cache
def _hooked_class(algorithm: type[BaseAlgorithm]) -> type[BaseAlgorithm]:
    names = {"__doc__": algorithm.__doc__, "__module__": algorithm.__module__}
    return type(algorithm.__name__, (HookedAlgorithm, algorithm), names)


def hook(model: BaseAlgorithm, tuner: LearningHooks) -> None:
    """Let ``tuner`` take part in the learning of ``model``.

    :param model: its class becomes a subclass of the same name; its archives stay those of the plain class
    """
    if not isinstance(model, HookedAlgorithm):
        model.__class__ = _hooked_class(type(model))
    model.tuner = tuner  # type: ignore[attr-defined]


def unhook(model: BaseAlgorithm) -> None:
    """Undo :func:`hook`. A class that somebody else gave to the object meanwhile stays, with an idle mixin below it."""
    del model.tuner  # type: ignore[attr-defined]
    plain = type(model).__mro__[type(model).__mro__.index(HookedAlgorithm) + 1]
    if type(model) is _hooked_class(plain):
        model.__class__ = plain
