"""What takes the place of SB3's ``train``: the same updates in fewer operations, logged under the same names."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import explained_variance
from torch import Tensor

from daft_rl.learner.clipped_objective import ClippedObjective, Coefficients
from daft_rl.learner.descent import backward
from daft_rl.learner.gaussian import QuickGaussian
from daft_rl.learner.gradient_steps import STEPS, gradient_step
from daft_rl.learner.in_place import relus_in_place

__all__ = ["Training", "find_training"]


class Training(ABC):
    """Updates of one model.

    :param model: an SB3 algorithm object
    """

    def __init__(self, model: BaseAlgorithm) -> None:
        self.model: Any = model

    @abstractmethod
    def train(self, *args: Any, **kwargs: Any) -> None:
        """What SB3's ``train`` does, with its arguments."""

    def _log(self, logged: dict[str, list[Any]]) -> None:
        """Means, in SB3's log."""
        for name, values in logged.items():
            self.model.logger.record(f"train/{name}", float(np.mean([float(value) for value in values])))


class StepsOnReplay(Training):
    """Gradient steps of SAC, TD3, DDPG, TQC and CrossQ."""

    def __init__(self, model: BaseAlgorithm) -> None:
        super().__init__(model)
        self._step = gradient_step(model, shortcuts=True)

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        model, step = self.model, self._step
        model.policy.set_training_mode(True)
        model._update_learning_rate(step.optimizers())
        losses: dict[str, list[Tensor]] = {}
        with relus_in_place(model.policy):
            for index in range(gradient_steps):
                model._n_updates += 1
                batch = model.replay_buffer.sample(batch_size, env=model._vec_normalize_env)
                for name, value in step(batch, step.delayed(index)).items():
                    losses.setdefault(name, []).append(value)
        model.logger.record("train/n_updates", model._n_updates, exclude="tensorboard")
        self._log(losses)


class ClippedUpdates(Training):
    """PPO's epochs for a diagonal Gaussian policy."""

    LOGGED = ("policy_gradient_loss", "value_loss", "entropy_loss", "approx_kl", "clip_fraction")

    def train(self) -> None:
        model = self.model
        model.policy.set_training_mode(True)
        model._update_learning_rate(model.policy.optimizer)
        progress = model._current_progress_remaining
        clip_range_vf = None if model.clip_range_vf is None else model.clip_range_vf(progress)
        by = Coefficients(model.clip_range(progress), clip_range_vf, model.ent_coef, model.vf_coef)
        rows: list[list[float]] = []
        for epoch in range(model.n_epochs):
            first, stopped = len(rows), False
            for batch in model.rollout_buffer.get(model.batch_size):
                loss, logged = self._loss(batch, by)
                rows.append(logged.tolist())
                if math.isnan(rows[-1][0]):
                    model.policy.evaluate_actions(batch.observations, batch.actions)  # refuses actions that are NaN
                stopped = model.target_kl is not None and rows[-1][3] > 1.5 * model.target_kl
                if stopped:
                    break
                self._descend(loss)
            model._n_updates += 1
            if stopped:
                self._tell(epoch, rows[-1][3])
                break
        self._record(rows, rows[first:], loss.item(), by)

    def _loss(self, batch: Any, by: Coefficients) -> tuple[Tensor, Tensor]:
        """See :class:`ClippedObjective`."""
        policy, advantages = self.model.policy, batch.advantages
        features, extractor = policy.extract_features(batch.observations), policy.mlp_extractor
        if policy.share_features_extractor:
            to_actor, to_critic = extractor(features)
        else:
            to_actor, to_critic = extractor.forward_actor(features[0]), extractor.forward_critic(features[1])
        mean = policy.action_net(to_actor)
        values = policy.value_net(to_critic).flatten()
        if self.model.normalize_advantage and len(advantages) > 1:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        return ClippedObjective.apply(mean, policy.log_std, values, batch, advantages, by)

    def _descend(self, loss: Tensor) -> None:
        optimizer, limit = self.model.policy.optimizer, self.model.max_grad_norm
        backward(optimizer, loss)
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if gradients:
            norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))))
            factor = limit / (norm + 1e-6)
            if not factor >= 1:  # also if it is NaN
                torch._foreach_mul_(gradients, factor)
        optimizer.step()

    def _tell(self, epoch: int, divergence: float) -> None:
        if self.model.verbose >= 1:
            print(f"Early stopping at step {epoch} due to reaching max kl: {divergence:.2f}")

    def _record(self, rows: list[list[float]], last_epoch: list[list[float]], loss: float, by: Coefficients) -> None:
        """Log as SB3 does: the divergence is that of the last epoch."""
        model, buffer = self.model, self.model.rollout_buffer
        logged: dict[str, list[Any]] = dict(zip(self.LOGGED, map(list, zip(*rows, strict=True)), strict=True))
        self._log(logged | {"approx_kl": [row[3] for row in last_epoch], "loss": [loss]})
        explained = explained_variance(buffer.values.flatten(), buffer.returns.flatten())
        model.logger.record("train/explained_variance", explained)
        model.logger.record("train/std", model.policy.log_std.detach().exp().mean().item())
        model.logger.record("train/n_updates", model._n_updates, exclude="tensorboard")
        model.logger.record("train/clip_range", by.clip_range)
        if by.clip_range_vf is not None:
            model.logger.record("train/clip_range_vf", by.clip_range_vf)


def find_training(model: Any) -> Training | None:
    """What can stand in for the ``train`` of this model, if anything can. A user's own ``train`` stays."""
    owner = next(cls for cls in type(model).__mro__ if "train" in vars(cls))
    if owner in STEPS:
        return StepsOnReplay(model)
    if owner is not PPO:
        return None
    policy, cls = model.policy, type(model.policy)
    methods = ("evaluate_actions", "_get_action_dist_from_latent", "extract_features")
    ordinary = all(getattr(cls, name) is getattr(ActorCriticPolicy, name) for name in methods)
    ordinary = ordinary and vars(policy).keys().isdisjoint(methods)
    gaussian = type(policy.action_dist) in (DiagGaussianDistribution, QuickGaussian)
    # SB3 clips gradients by the norm of all of the policy's, also of those that no optimizer sets back to zero
    optimized = {id(parameter) for group in policy.optimizer.param_groups for parameter in group["params"]}
    whole = optimized.issuperset(id(parameter) for parameter in policy.parameters() if parameter.requires_grad)
    return ClippedUpdates(model) if ordinary and gaussian and whole else None
