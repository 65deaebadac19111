"""One gradient step of SAC, TD3, TQC and CrossQ as a function of a minibatch, equal to that of SB3's ``train``.

SB3's ``train`` samples, logs and steps in one loop, reads each loss from the device, and computes gradients that it
throws away. A step here takes a minibatch and returns its losses as tensors, so that it can be captured in a CUDA
graph. Given the same minibatches and random numbers, weights, moments and temperatures are those of SB3: bit for bit,
or up to rounding where a step may take shortcuts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import Any

import torch
from sb3_contrib import TQC, CrossQ
from sb3_contrib.common.utils import quantile_huber_loss
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor
from torch.optim import Optimizer

from daft_rl.errors import AgentError
from daft_rl.learner.descent import constant, copy_statistics, descend, lowest, squared_errors
from daft_rl.learner.squashed_gaussian import act

__all__ = ["STEPS", "GradientStep", "gradient_step", "owner_of_train"]

Losses = dict[str, Tensor]
"""Name in SB3's log, such as ``critic_loss`` -> value, a tensor without dimensions."""


class GradientStep(ABC):
    """One gradient step of a model. Optimizers are looked up each time, since an adaptation replaces them.

    :param model: an SB3 algorithm object
    :param shortcuts: compute actions, the temperature and target networks in fewer operations, which round differently
    """

    def __init__(self, model: BaseAlgorithm, shortcuts: bool = False) -> None:
        self.model: Any = model
        self.shortcuts = shortcuts
        self._parameters: dict[torch.nn.Module, list[Tensor]] = {}

    @abstractmethod
    def __call__(self, batch: ReplayBufferSamples, delayed: bool) -> Losses:
        """Take the step. The policy is in training mode.

        :param batch: a minibatch from a replay buffer
        :param delayed: whether to do what :meth:`delayed` schedules
        """

    @abstractmethod
    def delayed(self, index: int) -> bool:
        """Whether it is the turn of what happens only every so many steps.

        :param index: number of the step within a call of ``train``. The model's ``_n_updates`` counts it already
        """

    def optimizers(self) -> list[Optimizer]:
        """The optimizers that step, in the order in which SB3 sets their learning rates."""
        model = self.model
        found = [model.actor.optimizer, model.critic.optimizer]
        temperature = getattr(model, "ent_coef_optimizer", None)
        return found if temperature is None else [*found, temperature]

    def _bellman(self, batch: ReplayBufferSamples, next_values: Tensor) -> Tensor:
        """The targets of the critics, shape as ``next_values``."""
        discounts = self.model.gamma if batch.discounts is None else batch.discounts
        return batch.rewards + (1 - batch.dones) * discounts * next_values

    def _temperature(self) -> Tensor:
        """The entropy coefficient, shape ``(1,)`` or ``()``."""
        model = self.model
        return model.ent_coef_tensor if model.log_ent_coef is None else torch.exp(model.log_ent_coef.detach())

    def _act(self, observations: Any) -> tuple[Tensor, Tensor]:
        """The actor's actions, shape ``(batch, action size)``, and their log-probabilities, shape ``(batch, 1)``."""
        actor = self.model.actor
        actions, log_prob = act(actor, observations) if self.shortcuts else actor.action_log_prob(observations)
        return actions, log_prob.reshape(-1, 1)

    def _adjust_temperature(self, log_prob: Tensor) -> Losses:
        """Step the entropy coefficient, if it is learnt.

        :param log_prob: of the actor's actions, shape ``(batch, 1)``
        """
        model = self.model
        optimizer, logarithm = model.ent_coef_optimizer, model.log_ent_coef
        if optimizer is None:
            return {}
        if not self.shortcuts:
            loss = -(logarithm * (log_prob + model.target_entropy).detach()).mean()
            descend(optimizer, loss)
            return {"ent_coef_loss": loss.detach()}
        with torch.no_grad():
            slope = -(log_prob.mean() + model.target_entropy)
            loss = (logarithm * slope).reshape(())
        logarithm.grad = slope.reshape(logarithm.shape).to(logarithm.dtype)
        optimizer.step()
        return {"ent_coef_loss": loss}

    def _parameters_of(self, network: torch.nn.Module) -> list[Tensor]:
        """Looked up once, since to walk through the modules takes as long as to move a target network."""
        if network not in self._parameters:
            self._parameters[network] = list(network.parameters())
        return self._parameters[network]

    def _constant(self, network: torch.nn.Module) -> AbstractContextManager[None]:
        """Inside, what the network computes has no gradient for its parameters, but for those that the actor learns."""
        acting = {id(parameter) for group in self.model.actor.optimizer.param_groups for parameter in group["params"]}
        return constant(parameter for parameter in self._parameters_of(network) if id(parameter) not in acting)

    @torch.no_grad()
    def _follow(self, network: torch.nn.Module, target: torch.nn.Module) -> None:
        """Move a target network by the share ``tau`` towards its network."""
        targets, sources, tau = self._parameters_of(target), self._parameters_of(network), self.model.tau
        if self.shortcuts:
            torch._foreach_lerp_(targets, sources, tau)
        else:
            torch._foreach_mul_(targets, 1 - tau)
            torch._foreach_add_(targets, sources, alpha=tau)


class SACStep(GradientStep):
    """SAC's. Target networks follow every ``target_update_interval`` steps."""

    def delayed(self, index: int) -> bool:
        return index % self.model.target_update_interval == 0

    def __call__(self, batch: ReplayBufferSamples, delayed: bool) -> Losses:
        model = self.model
        if model.use_sde:
            model.actor.reset_noise()
        actions, log_prob = self._act(batch.observations)
        temperature = self._temperature()
        losses = {"ent_coef": temperature.reshape(())} | self._adjust_temperature(log_prob)
        with torch.no_grad():
            next_actions, next_log_prob = self._act(batch.next_observations)
            next_values = self._next_values(batch.next_observations, next_actions)
            targets = self._bellman(batch, next_values - temperature * next_log_prob)
        critic_loss = self._critic_loss(model.critic(batch.observations, batch.actions), targets)
        descend(model.critic.optimizer, critic_loss)
        with self._constant(model.critic):
            actor_loss = (temperature * log_prob - self._value(batch.observations, actions)).mean()
        descend(model.actor.optimizer, actor_loss)
        if delayed:
            self._follow(model.critic, model.critic_target)
            copy_statistics(model.batch_norm_stats, model.batch_norm_stats_target)
        return losses | {"critic_loss": critic_loss.detach(), "actor_loss": actor_loss.detach()}

    def _next_values(self, observations: Tensor, actions: Tensor) -> Tensor:
        return lowest(self.model.critic_target(observations, actions))

    def _critic_loss(self, values: Any, targets: Tensor) -> Tensor:
        return 0.5 * squared_errors(values, targets)

    def _value(self, observations: Tensor, actions: Tensor) -> Tensor:
        return lowest(self.model.critic(observations, actions))


class TQCStep(SACStep):
    """TQC's: critics give quantiles, and the highest of the targets' are left out."""

    def _next_values(self, observations: Tensor, actions: Tensor) -> Tensor:
        model = self.model
        kept = model.critic.quantiles_total - model.top_quantiles_to_drop_per_net * model.critic.n_critics
        quantiles, _ = torch.sort(model.critic_target(observations, actions).flatten(1))
        return quantiles[:, :kept]

    def _critic_loss(self, values: Any, targets: Tensor) -> Tensor:
        return quantile_huber_loss(values, targets.unsqueeze(1), sum_over_quantiles=False)

    def _value(self, observations: Tensor, actions: Tensor) -> Tensor:
        return self.model.critic(observations, actions).mean(dim=2).mean(dim=1, keepdim=True)


class TD3Step(GradientStep):
    """TD3's and DDPG's. Actor and target networks move every ``policy_delay`` steps."""

    def delayed(self, index: int) -> bool:
        return self.model._n_updates % self.model.policy_delay == 0

    def __call__(self, batch: ReplayBufferSamples, delayed: bool) -> Losses:
        model = self.model
        with torch.no_grad():
            noise = torch.empty_like(batch.actions).normal_(0, model.target_policy_noise)
            noise = noise.clamp(-model.target_noise_clip, model.target_noise_clip)
            next_actions = (model.actor_target(batch.next_observations) + noise).clamp(-1, 1)
            targets = self._bellman(batch, lowest(model.critic_target(batch.next_observations, next_actions)))
        values = model.critic(batch.observations, batch.actions)
        critic_loss = squared_errors(values, targets)
        descend(model.critic.optimizer, critic_loss)
        losses = {"critic_loss": critic_loss.detach()}
        if not delayed:
            return losses
        actions = model.actor(batch.observations)
        with self._constant(model.critic):
            actor_loss = -model.critic.q1_forward(batch.observations, actions).mean()
        descend(model.actor.optimizer, actor_loss)
        self._follow(model.critic, model.critic_target)
        self._follow(model.actor, model.actor_target)
        copy_statistics(model.critic_batch_norm_stats, model.critic_batch_norm_stats_target)
        copy_statistics(model.actor_batch_norm_stats, model.actor_batch_norm_stats_target)
        return losses | {"actor_loss": actor_loss.detach()}


class CrossQStep(GradientStep):
    """CrossQ's. Actor and temperature move every ``policy_delay`` steps; there are no target networks."""

    def delayed(self, index: int) -> bool:
        return self.model._n_updates % self.model.policy_delay == 0

    def __call__(self, batch: ReplayBufferSamples, delayed: bool) -> Losses:
        model = self.model
        if model.use_sde:
            model.actor.reset_noise()
        temperature = self._temperature()
        losses = {"ent_coef": temperature.reshape(()), "critic_loss": self._step_critic(batch, temperature)}
        return losses | self._step_actor(batch, temperature) if delayed else losses

    def _step_critic(self, batch: ReplayBufferSamples, temperature: Tensor) -> Tensor:
        model = self.model
        with torch.no_grad():
            model.actor.set_bn_training_mode(False)
            next_actions, next_log_prob = self._act(batch.next_observations)
        # one pass, so that statistics are those of the mixture of both batches
        observations = torch.cat([batch.observations, batch.next_observations])
        model.critic.set_bn_training_mode(True)
        values = torch.cat(model.critic(observations, torch.cat([batch.actions, next_actions])), dim=1)
        model.critic.set_bn_training_mode(False)
        current, following = torch.split(values, len(batch.rewards))
        with torch.no_grad():
            next_values = following.detach().min(dim=1, keepdim=True).values
            targets = self._bellman(batch, next_values - temperature * next_log_prob)
        loss = 0.5 * squared_errors(current.T[..., None], targets)
        descend(model.critic.optimizer, loss)
        return loss.detach()

    def _step_actor(self, batch: ReplayBufferSamples, temperature: Tensor) -> Losses:
        model = self.model
        model.actor.set_bn_training_mode(True)
        actions, log_prob = self._act(batch.observations)
        model.actor.set_bn_training_mode(False)
        losses = self._adjust_temperature(log_prob)
        with self._constant(model.critic):
            loss = (temperature * log_prob - lowest(model.critic(batch.observations, actions))).mean()
        descend(model.actor.optimizer, loss)
        return losses | {"actor_loss": loss.detach()}


STEPS: dict[type[OffPolicyAlgorithm], type[GradientStep]] = {
    SAC: SACStep,
    TD3: TD3Step,
    TQC: TQCStep,
    CrossQ: CrossQStep,
}
"""The class whose ``train`` it is -> its step. DDPG has TD3's."""


def gradient_step(model: BaseAlgorithm, shortcuts: bool = False) -> GradientStep:
    """The gradient step of a model.

    :param shortcuts: see :class:`GradientStep`
    :raises AgentError: the model's class learns in a way of its own
    """
    owner = owner_of_train(model)
    if owner not in STEPS:
        raise AgentError(
            f"{owner.__name__} learns by a `train` of its own, which cannot run on the device. What can: "
            f"{', '.join(cls.__name__ for cls in STEPS)}, and their subclasses that keep `train`. Use another vec.",
            arguments=("vec",),
        )
    return STEPS[owner](model, shortcuts)


def owner_of_train(model: BaseAlgorithm) -> type[BaseAlgorithm]:
    """The class whose ``train`` an off-policy algorithm has, below what is mixed in."""
    return next(cls for cls in type(model).__mro__ if issubclass(cls, OffPolicyAlgorithm) and "train" in vars(cls))
