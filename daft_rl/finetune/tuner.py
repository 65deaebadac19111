"""Fine-tuning by a method's settings: parameter groups, schedules, BatchNorm modes, conversion.

SB3 stays in charge of learning. A tuner hooks in at ``_update_learning_rate``, which every SB3 algorithm calls at the
start of an update, right after it put the policy in training mode.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import update_learning_rate
from torch import nn

from daft_rl.agents.algorithms import find_algorithm
from daft_rl.batchnorm import Statistics, mix_statistics
from daft_rl.errors import DaftWarning, MethodError
from daft_rl.finetune.adaptive_rate import AdaptiveRate
from daft_rl.finetune.checks import check_adaptive_kl, check_gradients, check_minibatch, check_rhythm
from daft_rl.finetune.hooks import HookedAlgorithm, hook, unhook
from daft_rl.finetune.optimizers import GroupedOptimizers
from daft_rl.learner.learner import Learner
from daft_rl.method import Method
from daft_rl.policy.anatomy import Anatomy
from daft_rl.rollout.buffers import rollout_minibatch
from daft_rl.rollout.profile import Profile
from daft_rl.validation import Positive, checked

__all__ = ["Tuner", "check_method", "resolve_method"]


@checked(MethodError)
class ActorScale:
    """A factor on learning rates, checked."""

    actor_scale: Positive


class Tuner:
    """Makes one algorithm object learn by one method.

    While it is attached, the object's class is a subclass that hooks in (:mod:`daft_rl.finetune.hooks`), and each
    optimizer has one parameter group per part of the agent. Its archives stay those of the plain class.

    :param model: any SB3 algorithm object with a supported policy. Its optimizers start afresh, since the source's
        moments belong to another loss
    :param method: the settings
    :param head: see :class:`~daft_rl.policy.anatomy.Anatomy`
    :param critic: likewise
    :param profile: where the time of rollouts and updates is counted
    :param actor_scale: factor on the learning rates of the actor's groups beside the method's own, unless the method
        starts them from random weights; ``None`` is the algorithm's
    :param adaptive_kl: KL divergence of an update of PPO at which learning rates are kept, see
        :class:`~daft_rl.finetune.adaptive_rate.AdaptiveRate`; ``None`` leaves them to the schedules alone
    :param kernels: how updates are computed on a CPU, see :class:`~daft_rl.learner.learner.Learner`
    :raises MethodError: the settings cannot be applied to this agent
    :raises AgentError: an unsupported policy
    """

    def __init__(
        self,
        model: BaseAlgorithm,
        method: Method,
        head: Sequence[str] | None = None,
        critic: Sequence[str] | None = None,
        profile: Profile | None = None,
        actor_scale: float | None = None,
        adaptive_kl: float | None = None,
        kernels: str = "auto",
    ) -> None:
        _refuse_second_tuner(model)
        self.model = model
        self.method = resolve_method(model, method)
        self.profile = profile or Profile()
        self.anatomy = Anatomy(model.policy, head, critic)
        self.factors = _rate_factors(self.method, model, actor_scale)
        """Factor on each group's learning rate beside the method's own."""
        check_minibatch(model, self.method)
        check_adaptive_kl(model, adaptive_kl)
        self.adaptive_rate = None if adaptive_kl is None else AdaptiveRate(adaptive_kl)
        check_gradients(model, self.method, list(self.anatomy.groups), self.factors)
        self._initialize_groups()
        self.rates = dict.fromkeys(self.anatomy.groups, 0.0)
        """Learning rate of each group at the last update."""
        self.frozen = {name for name, group in self.method.groups.items() if group.frozen(0.0)}
        """The groups that are frozen at present."""
        self._batchnorm = {
            name: (module, self.anatomy.group_of(name + "."))
            for name, module in self.anatomy.batchnorm_modules().items()
        }
        self._fixed: set[nn.Parameter] = set()
        """Parameters that were frozen before :meth:`attach`, which stay so."""
        self._pinned: set[nn.Module] = set()
        self._hooks: list[Any] = []
        before_step = self._pull_to_start if self.method.l2_sp else None
        self.learner = Learner(model, kernels)
        self.optimizers = GroupedOptimizers(model, self.anatomy, before_step, quick=self.learner.works)
        self._start: dict[nn.Parameter, torch.Tensor] = {}
        if self.method.l2_sp:
            self._start = {p: p.detach().clone() for p in self.optimizers.parameters}
        self.start_timesteps = sys.maxsize
        """The model's steps when learning began; schedules count from here."""
        self.needs_callback = False
        """Whether :func:`daft_rl.adapt` made this tuner and its callback has not come yet."""
        self.attached = False
        self.optimizers.forget()
        self.attach()

    def attach(self) -> None:
        """Hook in; after :meth:`detach`, go on with the moments that the optimizers have."""
        if self.attached:
            return
        _refuse_second_tuner(self.model)
        self._fixed = {parameter for parameter in self._parameters() if not parameter.requires_grad}
        self._hooks = [module.register_forward_pre_hook(self._pin) for module in self._called_modules()]
        self.optimizers.group()
        self.learner.attach()
        hook(self.model, self)
        self.attached = True

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.anatomy.groups.values() for parameter in group.values()]

    def _called_modules(self) -> list[nn.Module]:
        """What to hook in at so that BatchNorm's modes are right: the ``Sequential`` around a layer, or the layer."""
        layers = {name: module for name, (module, _) in self._batchnorm.items()}
        parents = {name: self.model.policy.get_submodule(name.rpartition(".")[0]) for name in layers}
        return list(dict.fromkeys(p if isinstance(p, nn.Sequential) else layers[name] for name, p in parents.items()))

    def detach(self) -> None:
        """Make the model an ordinary one: no hooks, parameters as trainable as they were, one-group optimizers."""
        if not self.attached:
            return
        for handle in self._hooks:
            handle.remove()
        for parameter in self._parameters():
            parameter.requires_grad_(parameter not in self._fixed)
        self.optimizers.ungroup()
        unhook(self.model)
        self.learner.detach()
        self.attached = False

    # -- set-up ---------------------------------------------------------------------------------------

    @torch.no_grad()
    def _initialize_groups(self) -> None:
        """Start heads at zero and groups from random weights, where the method says so."""
        settings = self.method.groups
        if any(group.init == "random" for group in settings.values()):
            self._copy_random_weights()
        for name, head in self.anatomy.heads().items():
            if settings[self.anatomy.group_of(name + ".")].init == "zero":
                for parameter in head.parameters():
                    parameter.zero_()
        if self.method.from_scratch:
            self._initialize_entropy_coefficient()
        if self.method.initializes:
            self.anatomy.synchronize_targets()

    def _copy_random_weights(self) -> None:
        """Give the groups that start at random the weights of a fresh policy."""
        model: Any = self.model
        kwargs = model.policy_kwargs  # of off-policy algorithms it has use_sde, where there is one
        if isinstance(model, OnPolicyAlgorithm):
            kwargs = {"use_sde": model.use_sde, **kwargs}
        fresh = model.policy_class(model.observation_space, model.action_space, model.lr_schedule, **kwargs)
        values = {**dict(fresh.named_parameters()), **dict(fresh.named_buffers())}
        own = {**dict(model.policy.named_parameters()), **dict(model.policy.named_buffers())}
        for name, tensor in own.items():
            if self.anatomy.is_target(name):
                continue
            if self.method.groups[self.anatomy.group_of(name)].init == "random":
                tensor.copy_(values[name])

    def _initialize_entropy_coefficient(self) -> None:
        """Start it where a fresh agent's starts, if it is learnt: ``auto`` is 1, ``auto_0.1`` is 0.1."""
        model: Any = self.model
        if getattr(model, "ent_coef_optimizer", None) is not None:
            _, _, start = str(model.ent_coef).partition("_")
            model.log_ent_coef.fill_(math.log(float(start or 1.0)))
            model.ent_coef_optimizer.state.clear()

    # -- during learning ------------------------------------------------------------------------------

    @property
    def acts_before_learning(self) -> bool:
        """Whether the policy acts before ``learning_starts``, in place of random actions."""
        return self.method.actor_head.init != "random"

    def before_update(self, optimizers: list[torch.optim.Optimizer]) -> None:
        """Set each group's learning rate, freeze what is frozen, and fix BatchNorm modes.

        :param optimizers: those SB3 is about to use. One that is not the policy's is the entropy coefficient's
        """
        self._warn_without_callback()
        base = self._base_rate() * (1.0 if self.adaptive_rate is None else self.adaptive_rate.factor)
        progress, settings = self._progress(), self.method.groups
        self.rates = {name: base * (self.factors[name] * group.rate(progress)) for name, group in settings.items()}
        self.frozen = {name for name, group in settings.items() if group.frozen(progress)}
        self._freeze_and_log()
        self.optimizers.watch()
        for optimizer in optimizers:
            self._set_rates(optimizer, base)
        self._pinned = {
            module
            for module, group in self._batchnorm.values()
            if self.method.bn_mode == "eval" or group in self.frozen
        }
        if isinstance(self.model, OnPolicyAlgorithm):
            self.model.logger.record("train/first_minibatch_kl", self.first_minibatch_kl())

    def _base_rate(self) -> float:
        """The algorithm's learning rate."""
        return self.model.lr_schedule(self.model._current_progress_remaining)

    def after_update(self) -> None:
        """Adapt the learning rate to how far the update moved the policy."""
        divergence = self.model.logger.name_to_value.get("train/approx_kl")
        if self.adaptive_rate is None or divergence is None:
            return
        progress = self._progress()
        learning = [
            group
            for name, group in self.method.groups.items()
            if name.startswith("actor") and not group.frozen(progress)
        ]
        slowed = max((group.rate(progress) / group.scale for group in learning), default=0.0)
        if slowed:
            self.adaptive_rate.adjust(float(divergence), self._base_rate(), slowed)

    def _progress(self) -> float:
        """Fraction of the adaptation that is done. Steps of the source's own training do not count."""
        start, model = self.start_timesteps, self.model
        if start in (0, sys.maxsize):
            return 1.0 - model._current_progress_remaining
        return min(1.0, (model.num_timesteps - start) / max(1, model._total_timesteps - start))

    def _warn_without_callback(self) -> None:
        if self.needs_callback:
            self.needs_callback = False
            message = (
                "model.learn runs without the adaptation: pass it as a callback, model.learn(..., callback=adaptation)."
            )
            warnings.warn(DaftWarning(message), stacklevel=2)

    def _freeze_and_log(self) -> None:
        for name, parameters in self.anatomy.groups.items():
            for parameter in parameters.values():
                parameter.requires_grad_(name not in self.frozen and parameter not in self._fixed)
            if parameters:
                self.model.logger.record(f"learning_rate/{name}", self.rates[name])

    def _set_rates(self, optimizer: torch.optim.Optimizer, base: float) -> None:
        """Give each group its rate. The entropy coefficient's optimizer has no such groups and keeps the base rate.

        It rests while the whole actor is frozen, since nothing can change the entropy then.
        """
        actor = {name for name, parameters in self.anatomy.groups.items() if parameters and name.startswith("actor")}
        for group in optimizer.param_groups:
            if "name" in group:
                group["lr"] = self.rates[group["name"]]
            else:
                update_learning_rate(optimizer, 0.0 if actor <= self.frozen else base)

    @torch.no_grad()
    def first_minibatch_kl(self) -> float:
        """Approximate KL divergence between the policy that collected the rollout and the policy as the update
        sees it, before any gradient step. It is 0 unless BatchNorm behaves differently in the two.
        """
        policy: Any = self.model.policy
        observations, actions, collected = rollout_minibatch(self.model)
        before = {name: value.clone() for name, value in policy.named_buffers()}
        _, log_prob, _ = policy.evaluate_actions(observations, actions)
        for name, value in policy.named_buffers():
            value.copy_(before[name])  # a training-mode pass moves running statistics
        log_ratio = log_prob - collected
        return float((log_ratio.exp() - 1 - log_ratio).mean())

    def _pin(self, module: nn.Module, _: Any) -> None:
        """Keep layers in evaluation mode, whatever mode the algorithm puts them in (CrossQ switches often)."""
        for layer in (module, *module.children()):
            if layer.training and layer in self._pinned:
                layer.eval()

    def _pull_to_start(self, optimizer: torch.optim.Optimizer) -> None:
        """Add the gradient of the L2-SP penalty."""
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.add_(parameter.detach() - self._start[parameter], alpha=self.method.l2_sp)

    def convert(self, observations: Any, actions: Any, preserve_function: bool | None = None) -> dict[str, Statistics]:
        """Convert every BatchNorm layer to the statistics of this data.

        :param observations: array ``(n, ...)`` or dictionary of arrays, as the policy gets them
        :param actions: array ``(n, *action_shape)``, scaled as in a replay buffer; ``None`` takes the actor's
        :param preserve_function: ``None`` is the method's
        :return: what was measured, by layer name
        """
        preserve = self.method.preserve_function if preserve_function is None else preserve_function
        measured = self.anatomy.measure(self.anatomy.batches(observations, actions))
        self.anatomy.apply(measured, preserve)
        self._start = {parameter: parameter.detach().clone() for parameter in self._start}
        return measured

    def reconvert(self, observations: Any, actions: Any, weight: float) -> None:
        """Convert again during learning, but only layers whose group is learning: frozen means frozen.

        :param observations: as in :meth:`convert`
        :param actions: as in :meth:`convert`
        :param weight: share of this data in the new statistics where the function is not preserved
        """
        measured = self.anatomy.measure(self.anatomy.batches(observations, actions))
        learning = {name for name, (_, group) in self._batchnorm.items() if group not in self.frozen}
        statistics: dict[str, Any] = {name: value for name, value in measured.items() if name in learning}
        if not self.method.preserve_function:
            statistics = mix_statistics(self.anatomy.policy, statistics, weight)
        self.anatomy.apply(statistics, self.method.preserve_function)

    # -- saving ---------------------------------------------------------------------------------------

    def plain_optimizer_states(self) -> dict[str, dict[str, Any]]:
        """The states of the optimizers by SB3's names, as if each had one parameter group in SB3's order."""
        return self.optimizers.plain_states()

    def state_dict(self) -> dict[str, Any]:
        """What the tuner needs to go on, beside the policy: moments of the optimizers, frozen groups, L2-SP's start."""
        names = {parameter: name for name, parameter in self.anatomy.policy.named_parameters()}
        return {
            "moments": self.optimizers.state_dict(),
            "frozen": sorted(self.frozen),
            "start": {names[parameter]: start for parameter, start in self._start.items()},
            "rate": None if self.adaptive_rate is None else self.adaptive_rate.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self.optimizers.load_state_dict(state["moments"])
        if self.adaptive_rate is not None:
            self.adaptive_rate.load_state_dict(state["rate"])
        self.frozen = set(state["frozen"])
        parameters = dict(self.anatomy.policy.named_parameters())
        self._start = {parameters[name]: start.clone() for name, start in state["start"].items()}


def check_method(
    model: BaseAlgorithm,
    method: Method,
    actor_scale: float | None = None,
    head: Sequence[str] | None = None,
    critic: Sequence[str] | None = None,
) -> None:
    """Whether a :class:`Tuner` can be made, with the same arguments. The model does not change.

    :raises MethodError: the settings cannot be applied to this agent
    :raises AgentError: an unsupported policy
    """
    _refuse_second_tuner(model)
    resolved = resolve_method(model, method)
    check_minibatch(model, resolved)
    if resolved.learns:
        check_rhythm(model)
    groups = list(Anatomy(model.policy, head, critic).groups)
    check_gradients(model, resolved, groups, _rate_factors(resolved, model, actor_scale))


def resolve_method(model: BaseAlgorithm, method: Method) -> Method:
    """The method with ``auto`` replaced by what the model's algorithm needs."""
    algorithm = find_algorithm(model)
    return method.resolve(algorithm.bn_mode, algorithm.scratch_conversion, algorithm.decay)


def _rate_factors(method: Method, model: BaseAlgorithm, actor_scale: float | None) -> dict[str, float]:
    chosen = find_algorithm(model).actor_scale if actor_scale is None else actor_scale
    scale = ActorScale(actor_scale=chosen).actor_scale
    return {
        name: scale if name.startswith("actor") and group.init != "random" else 1.0
        for name, group in method.groups.items()
    }


def _refuse_second_tuner(model: BaseAlgorithm) -> None:
    if isinstance(model, HookedAlgorithm) and model.tuner is not None:
        raise MethodError(f"This {type(model).__name__} is being adapted already: detach() that adaptation first.")
